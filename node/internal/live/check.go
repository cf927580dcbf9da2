package live

import (
	"bytes"
	"debug/elf"
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// checkKernel compares the release that a kernel says it is with that of its modules: those of another one are refused by the kernel
// one by one, which would be seen only on the machine's console. It returns the kernel's architecture.
func checkKernel(path, version string) (arch string, err error) {
	image, err := os.ReadFile(path)
	if err != nil {
		return "", fmt.Errorf("read kernel: %w", err)
	}
	arch, release, err := kernelRelease(image)
	if err != nil {
		return "", fmt.Errorf("kernel %s: %w", path, err)
	}
	if release != version {
		return "", fmt.Errorf("kernel %s is release %s, its modules are for %s: take both from one package", path, release, version)
	}
	return arch, nil
}

// kernelRelease knows a kernel by its magic number (Documentation/arch/arm64/booting.rst, and bzImageRelease).
func kernelRelease(image []byte) (arch, release string, err error) {
	if len(image) > 64 && string(image[0x38:0x3c]) == "ARM\x64" {
		release, err = imageRelease(image)
		return "arm64", release, err
	}
	release, err = bzImageRelease(image)
	return "amd64", release, err
}

// bzImageRelease reads the release out of a bzImage's header (Documentation/arch/x86/boot.rst, kernel_version).
func bzImageRelease(head []byte) (string, error) {
	if len(head) < 0x210 || string(head[0x202:0x206]) != "HdrS" {
		return "", errors.New("neither a Linux bzImage nor an Image of arm64 (one that is compressed must be unpacked)")
	}
	at := 0x200 + int(head[0x20e]) + int(head[0x20f])<<8
	if at >= len(head) {
		return "", errors.New("header names no release")
	}
	return word(head[at:])
}

// imageRelease looks for the banner that the kernel begins its log with: the header of an Image has no room for a release.
func imageRelease(image []byte) (string, error) {
	_, banner, ok := bytes.Cut(image, []byte("Linux version "))
	if !ok {
		return "", errors.New("nothing in it says its release: is it compressed?")
	}
	return word(banner)
}

func word(b []byte) (string, error) {
	text, _, _ := strings.Cut(unix.ByteSliceToString(b[:min(len(b), 256)]), " ")
	if text == "" || len(text) > 128 {
		return "", errors.New("it names no release")
	}
	return text, nil
}

// machines are the architectures of programs, in Debian's word.
var machines = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// checkStatic refuses a program that needs a loader: the kernel would only say that /init does not exist. It returns the program's
// architecture.
func checkStatic(path string) (arch string, err error) {
	f, err := elf.Open(path)
	if err != nil {
		return "", fmt.Errorf("binary %s: %w", path, err)
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP {
			return "", fmt.Errorf("binary %s is dynamically linked and cannot be /init: build it with CGO_ENABLED=0", path)
		}
	}
	arch, ok := machines[f.Machine]
	if !ok {
		return "", fmt.Errorf("binary %s is for %s: want amd64 or arm64", path, f.Machine)
	}
	return arch, nil
}
