package image

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// ErrNoKernel means that the image's root file system holds no kernel with its modules.
var ErrNoKernel = errors.New("no kernel with modules found in the image")

// ExtractKernel takes the newest kernel and its modules out of a stored image: kernelPath is outDir/vmlinuz-VERSION, and
// modulesDir is outDir/lib/modules/VERSION, without links. Scratch lies in outDir while it works, sparse, up to the content
// of the disk. An image whose root is xfs or btrfs is mounted read-only through a loop device, which needs root.
//
// Errors: those of Inspect, ErrNoRoot, ErrNoKernel.
func ExtractKernel(ctx context.Context, imagePath, outDir string) (kernelPath, modulesDir string, err error) {
	fail := func(err error) (string, string, error) {
		return "", "", fmt.Errorf("take kernel out of %s: %w", imagePath, err)
	}
	info, err := Inspect(imagePath)
	if err != nil {
		return "", "", err
	}
	if err := os.MkdirAll(outDir, 0o755); err != nil {
		return fail(err)
	}
	disk, err := expand(ctx, imagePath, info, outDir)
	if err != nil {
		return fail(err)
	}
	defer func() { _ = disk.Close() }()
	root, err := RootPartition(disk, info.DiskSize)
	if err != nil {
		return fail(err)
	}
	err = withTree(disk, root, outDir, func(t tree) error {
		version, kernel, err := findKernel(t, disk, info)
		if err != nil {
			return err
		}
		kernelPath = filepath.Join(outDir, "vmlinuz-"+version)
		modulesDir = filepath.Join(outDir, "lib", "modules", version)
		if err := os.WriteFile(kernelPath, kernel, 0o644); err != nil {
			return err
		}
		return copyTree(ctx, t, path.Join(modulesPath(t), version), modulesDir)
	})
	if err != nil {
		return fail(err)
	}
	return kernelPath, modulesDir, nil
}

// expand returns the whole disk as a file: the image itself if it is raw, else a sparse file without a name in dir.
func expand(ctx context.Context, imagePath string, info Info, dir string) (_ *os.File, err error) {
	in, err := os.Open(imagePath)
	if err != nil || info.Format == Raw {
		return in, err
	}
	defer func() { _ = in.Close() }()
	out, err := os.CreateTemp(dir, ".disk.*")
	if err != nil {
		return nil, err
	}
	defer func() {
		err = errors.Join(err, os.Remove(out.Name()))
		if err != nil {
			_ = out.Close()
		}
	}()
	if info.Format == QCOW2 {
		q, err := openQCOW2(in, info.Size)
		if err != nil {
			return nil, err
		}
		if err := out.Truncate(q.size); err != nil {
			return nil, err
		}
		return out, q.replay(untilDone(ctx, in), func(disk int64, data []byte) error {
			_, err := out.WriteAt(data, disk)
			return err
		})
	}
	d, err := newDecoder(info.Format, untilDone(ctx, in))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := copySparse(out, d); err != nil {
		return nil, decodeError(err)
	}
	return out, nil
}

// withTree opens the root file system for the time of use.
func withTree(disk *os.File, root Root, scratch string, use func(tree) error) error {
	if root.FS == "ext4" {
		t, err := openExt4(disk, root.Partition)
		if err != nil {
			return err
		}
		return use(t)
	}
	return withMount(disk, root, scratch, use)
}

// modulesPath follows the merged /usr without following links.
func modulesPath(t tree) string {
	for _, p := range []string{"usr/lib/modules", "lib/modules"} {
		if list, err := t.ReadDir(p); err == nil && len(list) > 0 {
			return p
		}
	}
	return ""
}

// findKernel returns the newest version that has both modules and a kernel, and that kernel. Distributions keep it in /boot,
// beside the modules, or on a partition of its own.
func findKernel(t tree, disk io.ReaderAt, info Info) (version string, kernel []byte, err error) {
	dir := modulesPath(t)
	if dir == "" {
		return "", nil, ErrNoKernel
	}
	list, err := t.ReadDir(dir)
	if err != nil {
		return "", nil, err
	}
	var versions []string
	for _, d := range list {
		if d.IsDir() && d.Name() != "." && d.Name() != ".." && filepath.IsLocal(d.Name()) {
			versions = append(versions, d.Name())
		}
	}
	slices.SortFunc(versions, func(a, b string) int { return compareVersions(b, a) })
	trees := []tree{t}
	for _, p := range info.Partitions {
		if fsType(disk, p.Offset) == "ext4" {
			if boot, err := openExt4(disk, p); err == nil {
				trees = append(trees, boot)
			}
		}
	}
	for _, v := range versions {
		for i, t := range trees {
			places := []string{"vmlinuz-" + v}
			if i == 0 {
				places = []string{"boot/vmlinuz-" + v, path.Join(dir, v, "vmlinuz")}
			}
			for _, p := range places {
				if k, err := t.ReadFile(p); err == nil && len(k) > 0 {
					return v, k, nil
				}
			}
		}
	}
	return "", nil, ErrNoKernel
}

// compareVersions orders as people do: numbers by value, the rest by letters.
func compareVersions(a, b string) int {
	digits := func(s string) int {
		n := 0
		for n < len(s) && s[n] >= '0' && s[n] <= '9' {
			n++
		}
		return n
	}
	for a != "" && b != "" {
		if m, n := digits(a), digits(b); m > 0 && n > 0 {
			x, y := strings.TrimLeft(a[:m], "0"), strings.TrimLeft(b[:n], "0")
			if c := len(x) - len(y); c != 0 {
				return c
			}
			if c := strings.Compare(x, y); c != 0 {
				return c
			}
			a, b = a[m:], b[n:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

// copyTree copies directories and regular files. Links in a module tree lead to headers and sources, which nobody boots with.
func copyTree(ctx context.Context, t tree, from, to string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	list, err := t.ReadDir(from)
	if err != nil {
		return err
	}
	for _, d := range list {
		name := d.Name()
		if name == "." || name == ".." {
			continue
		}
		if name != filepath.Base(name) || !filepath.IsLocal(name) {
			return fmt.Errorf("%s: file name %q", from, name)
		}
		src, dst := path.Join(from, name), filepath.Join(to, name)
		switch {
		case d.IsDir():
			err = copyTree(ctx, t, src, dst)
		case d.Type() == fs.FileMode(0):
			var data []byte
			if data, err = t.ReadFile(src); err == nil {
				err = os.WriteFile(dst, data, 0o644)
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}
