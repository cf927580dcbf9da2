//go:build full

package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// built is the path of a golden image: OFFSHOOT_TEST_IMAGE, or a fresh one.
func built(t *testing.T) string {
	t.Helper()
	if p := os.Getenv("OFFSHOOT_TEST_IMAGE"); p != "" {
		return p
	}
	need(t, "mmdebstrap", "mcopy", "mkfs.vfat", "mkfs.ext4")
	out := filepath.Join(t.TempDir(), "debian13.raw.zst")
	begin := time.Now()
	err := Build(t.Context(), Options{
		Release: "debian:13", Output: out, Kernel: "linux-image-cloud-amd64",
		Progress: func(s string) { t.Logf("%5.1fs %s", time.Since(begin).Seconds(), s) },
	})
	if err != nil {
		t.Fatal(err)
	}
	info, err := Inspect(out)
	t.Logf("built in %s: %+v", time.Since(begin).Round(time.Second), info)
	if err != nil || !info.BIOS || !info.UEFI {
		t.Fatalf("not bootable by both firmwares: %+v, %v", info, err)
	}
	return out
}

// written is the image on a disk of 4 GiB, as the agent would leave it.
func written(t *testing.T, img string) string {
	t.Helper()
	info, err := Inspect(img)
	if err != nil {
		t.Fatal(err)
	}
	disk := filepath.Join(t.TempDir(), "disk.raw")
	target := fileTarget(t, disk, 4<<30)
	f, err := os.Open(img)
	if err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	p, err := Write(t.Context(), target, Source{Format: info.Format, Size: info.Size, SHA256: fileSum(t, img), Stream: f}, WriteOptions{Zeroed: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("written in %s: %+v", time.Since(begin).Round(time.Millisecond), p)
	return disk
}

func TestGoldenImage(t *testing.T) {
	need(t, "qemu-system-x86_64")
	img := built(t)
	t.Run("BIOS", func(t *testing.T) { bootAndGrow(t, written(t, img)) })
	t.Run("UEFI", func(t *testing.T) {
		bootAndGrow(t, written(t, img), ovmf(t, "OVMF_CODE_4M.fd", "OVMF_VARS_4M.fd")...)
	})
	// The variables hold Microsoft's keys, and Secure Boot is on.
	t.Run("Secure Boot", func(t *testing.T) {
		secure := []string{"-machine", "smm=on", "-global", "driver=cfi.pflash01,property=secure,value=on"}
		bootAndGrow(t, written(t, img), append(secure, ovmf(t, "OVMF_CODE_4M.secboot.fd", "OVMF_VARS_4M.ms.fd")...)...)
	})
	t.Run("nothing is in it that machines must not share", func(t *testing.T) { nothingShared(t, img) })
}

// ovmf is QEMU's options for this firmware, with variables of its own.
func ovmf(t *testing.T, code, vars string) []string {
	t.Helper()
	const dir = "/usr/share/OVMF/"
	data, err := os.ReadFile(dir + vars)
	if err != nil {
		skip(t, "OVMF: "+err.Error())
	}
	own := filepath.Join(t.TempDir(), "vars.fd")
	if err := os.WriteFile(own, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return []string{"-drive", "if=pflash,format=raw,unit=0,readonly=on,file=" + dir + code, "-drive", "if=pflash,format=raw,unit=1,file=" + own}
}

// bootAndGrow boots a disk until it asks for a login, and looks at the disk from outside then. Always by emulation: a /dev/kvm
// that opens may still not run a guest.
func bootAndGrow(t *testing.T, disk string, extra ...string) {
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	serial := newWatcher("login:")
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", append([]string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max", "-smp", "2", "-m", "1024", "-display", "none",
		"-monitor", "none", "-serial", "stdio", "-nic", "none", "-device", "virtio-rng-pci", "-drive", "file=" + disk + ",if=virtio,format=raw,cache=unsafe",
	}, extra...)...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = serial, &said
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begin := time.Now()
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	select {
	case <-serial.seen:
		t.Logf("power-on to login prompt: %s", time.Since(begin).Round(time.Second))
		cancel()
		if err := <-ended; err == nil {
			t.Error("QEMU ended by itself")
		}
	case err := <-ended:
		t.Fatalf("QEMU ended before a login prompt: %v\n%s\n%s", err, said.String(), serial.text())
	}
	f, err := os.Open(disk)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	root, err := RootPartition(f, 4<<30)
	if err != nil {
		t.Fatal(err)
	}
	if got := root.Offset + root.Size; got < 4<<30-2*mib {
		t.Errorf("root partition ends at %d and did not grow to the disk", got)
	}
	blocks := make([]byte, 4)
	if err := readFullAt(f, blocks, root.Offset+1024+4); err != nil {
		t.Fatal(err)
	}
	if got := int64(le32(blocks)) * 4096; got < root.Size-8*mib {
		t.Errorf("root file system of %d bytes did not grow to its partition of %d", got, root.Size)
	}
}

// watcher collects a serial console and reports the first appearance of a text.
type watcher struct {
	want string
	buf  bytes.Buffer
	seen chan struct{}
}

func newWatcher(want string) *watcher { return &watcher{want: want, seen: make(chan struct{})} }

func (w *watcher) Write(p []byte) (int, error) {
	before := strings.Contains(w.buf.String(), w.want)
	w.buf.Write(p)
	if !before && strings.Contains(w.buf.String(), w.want) {
		close(w.seen)
	}
	return len(p), nil
}

func (w *watcher) text() string { return w.buf.String() }

func nothingShared(t *testing.T, img string) {
	info, err := Inspect(img)
	if err != nil {
		t.Fatal(err)
	}
	disk, err := expand(t.Context(), img, info, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = disk.Close() }()
	root, err := RootPartition(disk, info.DiskSize)
	if err != nil {
		t.Fatal(err)
	}
	fsys, err := openExt4(disk, root.Partition)
	if err != nil {
		t.Fatal(err)
	}
	if id, err := fsys.ReadFile("etc/machine-id"); err != nil || len(id) != 0 {
		t.Errorf("/etc/machine-id holds %q, %v", id, err)
	}
	list, err := fsys.ReadDir("etc/ssh")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range list {
		if strings.HasPrefix(d.Name(), "ssh_host_") {
			t.Errorf("host key %s is in the image", d.Name())
		}
	}
	shadow, err := fsys.ReadFile("etc/shadow")
	if err != nil || !bytes.Contains(append([]byte("\n"), shadow...), []byte("\nroot:*:")) {
		t.Errorf("root's password is not locked (%v)", err)
	}
	kernel, modules, err := ExtractKernel(t.Context(), img, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(modules, "modules.dep")); err != nil {
		t.Error(err)
	}
	t.Log(kernel, modules)
}

func TestCancelledBuildLeavesNothing(t *testing.T) {
	need(t, "mmdebstrap")
	dir, scratch := t.TempDir(), t.TempDir()
	t.Setenv("TMPDIR", scratch)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { // once it is in the middle of it
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for range tick.C {
			if m, _ := filepath.Glob(filepath.Join(scratch, "*/tree/root/usr/bin/dpkg")); len(m) > 0 || ctx.Err() != nil {
				cancel()
				return
			}
		}
	}()
	err := Build(ctx, Options{Release: "debian:13", Output: filepath.Join(dir, "x.raw.zst")})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("got %v", err)
	}
	for _, d := range []string{dir, scratch} {
		if list, err := os.ReadDir(d); err != nil || len(list) > 0 {
			t.Errorf("%s holds %v, %v", d, list, err)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		t.Fatal(err)
	}
	if slices.ContainsFunc(strings.Split(string(mounts), "\n"), func(l string) bool { return strings.Contains(l, scratch) }) {
		t.Error("a mount stayed")
	}
}
