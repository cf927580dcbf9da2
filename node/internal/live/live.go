// Package live builds the network-boot environment: an initramfs that holds this very binary as /init and the drivers that
// a server needs, to go with a distribution's kernel.
//
// It refuses a kernel that does not belong to the module tree, and to put anything into the initramfs that is not from its
// inputs. It runs no foreign program: dependencies and aliases are read out of the modules themselves, so that a tree
// over which depmod never ran is as good as an installed one. node and the commands may import it.
package live

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// format counts the shapes of what Build writes: it is part of every output's name, so that a cache which an older offshoot
// left is not mistaken for ours.
const format = "offshoot live 1"

// Options name what goes in. All are required.
type Options struct {
	Kernel     string // a bzImage, or an Image of arm64 that is not compressed
	ModulesDir string // the tree …/lib/modules/<version> of that kernel
	Binary     string // becomes /init; statically linked
	Out        string // directory for the results; made when missing
}

// Result names what came out.
type Result struct {
	KernelPath string // a copy of Options.Kernel, named by digest
	InitrdPath string // zstd-compressed newc archive, named by the digest of all inputs
	Version    string // release of the kernel
	Arch       string // of kernel and binary, in Debian's word
}

// Build writes kernel and initramfs below o.Out, or finds them there from an earlier call with the same inputs. It may be
// called by several processes at once: results appear by rename.
func Build(ctx context.Context, o Options) (Result, error) {
	version := filepath.Base(filepath.Clean(o.ModulesDir))
	arch, err := checkKernel(o.Kernel, version)
	if err != nil {
		return Result{}, err
	}
	runs, err := checkStatic(o.Binary)
	if err != nil {
		return Result{}, err
	}
	if runs != arch {
		return Result{}, fmt.Errorf("kernel %s is for %s, and program %s for %s: take an offshoot that was built for %s", o.Kernel, arch, o.Binary, runs, arch)
	}
	files, err := listModules(o.ModulesDir)
	if err != nil {
		return Result{}, err
	}
	kernelSum, err := sumFile(o.Kernel)
	if err != nil {
		return Result{}, err
	}
	binarySum, err := sumFile(o.Binary)
	if err != nil {
		return Result{}, err
	}
	all := sha256.New()
	_, _ = fmt.Fprintf(all, "%s\n%s\n%s\n%s\n", format, version, kernelSum, binarySum)
	for _, f := range files {
		_, _ = fmt.Fprintf(all, "%s %d %d\n", f.path, f.size, f.modified)
	}
	res := Result{
		KernelPath: filepath.Join(o.Out, "vmlinuz-"+kernelSum[:16]),
		InitrdPath: filepath.Join(o.Out, "initrd-"+hex.EncodeToString(all.Sum(nil))[:16]),
		Version:    version,
		Arch:       arch,
	}
	if err := os.MkdirAll(o.Out, 0o755); err != nil {
		return Result{}, err
	}
	err = once(res.KernelPath, func(w io.Writer) error { return copyFile(w, o.Kernel) })
	if err != nil {
		return Result{}, fmt.Errorf("keep kernel %s: %w", o.Kernel, err)
	}
	err = once(res.InitrdPath, func(w io.Writer) error { return writeInitrd(ctx, w, o, version, files) })
	if err != nil {
		return Result{}, fmt.Errorf("build initramfs of kernel %s: %w", version, err)
	}
	return res, nil
}

// HostKernel names the running kernel and its module tree.
func HostKernel() (kernel, modules string, err error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return "", "", fmt.Errorf("uname: %w", err)
	}
	return findKernel("/", unix.ByteSliceToString(u.Release[:]))
}

// findKernel looks below root for the files of kernel release version, in the places where distributions put them.
func findKernel(root, version string) (kernel, modules string, err error) {
	for _, p := range []string{"lib/modules", "usr/lib/modules"} {
		dir := filepath.Join(root, p, version)
		if st, err := os.Stat(dir); err == nil && st.IsDir() {
			modules = dir
			break
		}
	}
	for _, p := range []string{"boot/vmlinuz-" + version, "lib/modules/" + version + "/vmlinuz", "usr/lib/modules/" + version + "/vmlinuz"} {
		f := filepath.Join(root, p)
		if st, err := os.Stat(f); err == nil && st.Mode().IsRegular() {
			kernel = f
			break
		}
	}
	switch {
	case kernel == "":
		return "", "", fmt.Errorf("kernel %s has no image in /boot: name one with --live-kernel and --live-modules", version)
	case modules == "":
		return "", "", fmt.Errorf("kernel %s has no /lib/modules/%s: name a kernel with --live-kernel and --live-modules", version, version)
	}
	return kernel, modules, nil
}

// once makes path by write unless it is there. It is complete on the disk before it has its name.
func once(path string, write func(io.Writer) error) (err error) {
	if _, err := os.Stat(path); err == nil {
		return nil
	} else if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if err := write(tmp); err != nil {
		return err
	}
	if err := errors.Join(tmp.Chmod(0o644), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

func sumFile(path string) (string, error) {
	h := sha256.New()
	if err := copyFile(h, path); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func copyFile(w io.Writer, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err = io.Copy(w, f); err != nil {
		return fmt.Errorf("read %s: %w", path, err)
	}
	return nil
}
