package live

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
)

func TestKernelOfAnotherReleaseIsRefused(t *testing.T) {
	kernel := filepath.Join(t.TempDir(), "vmlinuz")
	head := make([]byte, 4096)
	copy(head[0x202:], "HdrS")
	head[0x20e], head[0x20f] = 0x00, 0x04
	copy(head[0x600:], "6.1.0-1-amd64 (me) #1\x00")
	if err := os.WriteFile(kernel, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if arch, err := checkKernel(kernel, "6.1.0-1-amd64"); err != nil || arch != "amd64" {
		t.Error(arch, err)
	}
	if _, err := checkKernel(kernel, "6.1.0-2-amd64"); err == nil || !strings.Contains(err.Error(), "is release 6.1.0-1-amd64") {
		t.Errorf("got %v", err)
	}
}

func TestProgramThatNeedsALoaderIsRefused(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("needs /bin/sh")
	}
	if _, err := checkStatic("/bin/sh"); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("got %v", err)
	}
}

func TestTargetsAndTestDriversStayOutside(t *testing.T) {
	for path, want := range map[string]bool{
		"kernel/drivers/net/ethernet/intel/e1000/e1000.ko.xz": true,
		"kernel/drivers/nvme/host/nvme.ko":                    true,
		"kernel/drivers/nvme/target/nvmet.ko":                 false,
		"kernel/drivers/scsi/scsi_debug.ko.xz":                false,
		"kernel/drivers/gpu/drm/i915/i915.ko":                 false,
		"kernel/drivers/net/wireless/ath/ath.ko":              false,
	} {
		if isWanted(path) != want {
			t.Errorf("%s: wanted is %t", path, !want)
		}
	}
}

// TestKernelOfAnotherArchitectureThanTheProgramIsRefused: this test is the program.
func TestKernelOfAnotherArchitectureThanTheProgramIsRefused(t *testing.T) {
	dir := t.TempDir()
	modules, kernel := filepath.Join(dir, "6.1.0-1-arm64"), filepath.Join(dir, "vmlinuz")
	image := make([]byte, 4096, 8192)
	copy(image, "MZ")
	copy(image[0x38:], "ARM\x64")
	image = append(image, "Linux version 6.1.0-1-arm64 (me) #1 SMP\x00"...)
	err := errors.Join(os.WriteFile(kernel, image, 0o600), os.Mkdir(modules, 0o700))
	if err != nil {
		t.Fatal(err)
	}
	if arch, err := checkKernel(kernel, "6.1.0-1-arm64"); err != nil || arch != "arm64" {
		t.Fatal(arch, err)
	}
	if _, err := checkKernel(kernel, "6.1.0-2-arm64"); err == nil || !strings.Contains(err.Error(), "is release 6.1.0-1-arm64") {
		t.Errorf("other modules: %v", err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	switch _, err := Build(t.Context(), Options{Kernel: kernel, ModulesDir: modules, Binary: self, Out: dir}); {
	case runtime.GOARCH == "arm64":
	case err == nil || !strings.Contains(err.Error(), "built for arm64"):
		t.Errorf("got %v", err)
	}
}

func FuzzKernelHeader(f *testing.F) {
	f.Add([]byte("HdrS"))
	f.Add(append(make([]byte, 0x38), "ARM\x64    Linux version "...))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _, _ = kernelRelease(raw) })
}

func FuzzModuleInfo(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		m := module{data: raw}
		_ = m.readInfo()
	})
}
