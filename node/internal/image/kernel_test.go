package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// systemDisk is a disk whose root file system holds the given files.
func systemDisk(t *testing.T, files map[string]string) []byte {
	t.Helper()
	need(t, "mkfs.ext4")
	dir := t.TempDir()
	tree, img := filepath.Join(dir, "tree"), filepath.Join(dir, "root")
	for name, text := range files {
		p := filepath.Join(tree, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(text), 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.WriteFile(img, nil, 0o644), os.Truncate(img, 4*mib)); err != nil {
		t.Fatal(err)
	}
	if said, err := exec.Command("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal", "-d", tree, img).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	root, err := os.ReadFile(img)
	if err != nil {
		t.Fatal(err)
	}
	disk := append(append(make([]byte, mib), root...), make([]byte, mib)...)
	partition(disk, []newPartition{{typeRootX64, "root", mib, int64(len(root))}})
	return disk
}

func kernelFiles() map[string]string {
	return map[string]string{
		"etc/hostname":                                 "x\n",
		"boot/vmlinuz-6.1.0-9-amd64":                   "old kernel",
		"boot/vmlinuz-6.1.0-10-amd64":                  string(bytes.Repeat([]byte("new kernel "), 50_000)),
		"usr/lib/modules/6.1.0-9-amd64/modules.dep":    "old",
		"usr/lib/modules/6.1.0-10-amd64/modules.dep":   "new",
		"usr/lib/modules/6.1.0-10-amd64/kernel/a/b.ko": "module",
		"usr/lib/modules/6.1.0-11-amd64/modules.dep":   "a kernel that was removed",
	}
}

func TestNewestKernelWithItsModulesIsTaken(t *testing.T) {
	files := kernelFiles()
	disk := systemDisk(t, files)
	for name, p := range map[string][]byte{"raw": disk, "raw.zst": packZstd(t, disk, false), "qcow2": packQCOW2(t, disk, "-c")} {
		out := t.TempDir()
		kernel, modules, err := ExtractKernel(t.Context(), save(t, name, p), out)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if kernel != filepath.Join(out, "vmlinuz-6.1.0-10-amd64") || modules != filepath.Join(out, "lib/modules/6.1.0-10-amd64") {
			t.Errorf("%s: %s, %s", name, kernel, modules)
		}
		for got, want := range map[string]string{
			kernel: "boot/vmlinuz-6.1.0-10-amd64", modules + "/modules.dep": "usr/lib/modules/6.1.0-10-amd64/modules.dep",
			modules + "/kernel/a/b.ko": "usr/lib/modules/6.1.0-10-amd64/kernel/a/b.ko",
		} {
			if data, err := os.ReadFile(got); err != nil || string(data) != files[want] {
				t.Errorf("%s: %s differs from the image's, %v", name, got, err)
			}
		}
		if list, err := os.ReadDir(out); err != nil || len(list) != 2 {
			t.Errorf("%s: scratch stayed: %v, %v", name, list, err)
		}
	}
}

func TestSameKernelIsFoundThroughAMount(t *testing.T) {
	if os.Geteuid() != 0 {
		skip(t, "needs root for a loop device")
	}
	disk := save(t, "d.raw", systemDisk(t, kernelFiles()))
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	info, err := Inspect(disk)
	if err != nil {
		t.Fatal(err)
	}
	root, err := RootPartition(f, info.DiskSize)
	if err != nil {
		t.Fatal(err)
	}
	scratch := t.TempDir()
	err = withMount(f, root, scratch, func(tr tree) error {
		version, kernel, err := findKernel(tr, f, Info{})
		if version != "6.1.0-10-amd64" || len(kernel) != 550_000 || err != nil {
			t.Errorf("got %s, %d bytes, %v", version, len(kernel), err)
		}
		return copyTree(context.Background(), tr, "usr/lib/modules/"+version, filepath.Join(scratch, "out"))
	})
	if err != nil {
		t.Fatal(err)
	}
	if list, err := os.ReadDir(scratch); err != nil || len(list) != 1 {
		t.Errorf("scratch stayed: %v, %v", list, err)
	}
}

func TestHolesAreZerosAndFragmentsAreInOrder(t *testing.T) {
	want := make([]byte, 600_000) // holes, one of them at the end, and more extents than an inode holds
	for at := 0; at+20_000 < len(want); at += 40_960 {
		copy(want[at:], bytes.Repeat([]byte{byte(at>>12) + 1}, 20_000))
	}
	clear(want[590_000:])
	disk := systemDisk(t, map[string]string{"etc/x/y": string(want), "etc/empty": ""})
	root, err := RootPartition(bytes.NewReader(disk), int64(len(disk)))
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := openExt4(bytes.NewReader(disk), root.Partition)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := fsys.ReadFile("etc/x/y"); err != nil || !bytes.Equal(got, want) {
		t.Errorf("file of %d bytes differs, %v", len(got), err)
	}
	if got, err := fsys.ReadFile("etc/empty"); err != nil || len(got) != 0 {
		t.Errorf("empty file: %q, %v", got, err)
	}
	for _, name := range []string{"etc/none", "etc/x/y/z", "etc"} {
		if _, err := fsys.ReadFile(name); err == nil {
			t.Errorf("%s was read", name)
		}
	}
}

func FuzzExt4(f *testing.F) {
	sb := make([]byte, 64<<10)
	copy(sb[1024:], []byte{100, 0, 0, 0})
	sb[1024+40], sb[1024+56], sb[1024+57], sb[1024+76], sb[1024+89], sb[1024+96] = 100, 0x53, 0xef, 1, 1, 0x42
	sb[2048+8], sb[4096+256+1], sb[4096+256+34] = 4, 0x41, 8
	copy(sb[4096+256+40:], []byte{0x0a, 0xf3, 1, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 8, 0, 0, 0})
	sb[4096+256+5] = 4
	copy(sb[8192:], []byte{2, 0, 0, 0, 0, 4, 1, 2, 'a'})
	f.Add(sb)
	f.Fuzz(func(t *testing.T, p []byte) {
		e, err := openExt4(bytes.NewReader(p), Partition{Size: int64(len(p))})
		if err != nil {
			return
		}
		list, _ := e.ReadDir(".")
		for _, d := range list[:min(len(list), 3)] {
			_, _ = e.ReadFile(d.Name())
			_, _ = e.ReadDir(d.Name() + "/" + d.Name())
		}
	})
}

func TestImageWithoutKernelIsAnError(t *testing.T) {
	disk := systemDisk(t, map[string]string{"etc/hostname": "x"})
	if _, _, err := ExtractKernel(t.Context(), save(t, "d", disk), t.TempDir()); !errors.Is(err, ErrNoKernel) {
		t.Errorf("got %v", err)
	}
}

func TestRootHasEtc(t *testing.T) {
	disk := systemDisk(t, map[string]string{"etc/hostname": "x"})
	root, err := RootPartition(bytes.NewReader(disk), int64(len(disk)))
	if err != nil || root.Number != 1 || root.FS != "ext4" || root.Offset != mib || root.Size != 4*mib {
		t.Errorf("got %+v, %v", root, err)
	}
	disk = systemDisk(t, map[string]string{"data/x": "y"})
	if root, err := RootPartition(bytes.NewReader(disk), int64(len(disk))); !errors.Is(err, ErrNoRoot) {
		t.Errorf("a file system without /etc: %+v, %v", root, err)
	}
	if _, err := RootPartition(bytes.NewReader(make([]byte, mib)), mib); !errors.Is(err, ErrNoRoot) {
		t.Errorf("an empty disk: %v", err)
	}
}
