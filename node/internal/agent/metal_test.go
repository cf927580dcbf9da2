package agent

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/install"
	"offshoot/node/internal/live"
)

// A real kernel in a real (virtual) machine, with this test's own binary as PID 1. OFFSHOOT_LIVE_ROOT names a root file system
// with a kernel and its modules; OFFSHOOT_METAL_IMAGE=file (raw.zst, optional) is installed in place of the test's image.
func TestMachineInstallsItselfAndRestarts(t *testing.T) {
	root := os.Getenv("OFFSHOOT_LIVE_ROOT")
	if root == "" {
		t.Skip("OFFSHOOT_LIVE_ROOT names no root file system with a kernel")
	}
	need(t, false, "qemu-system-x86_64")
	dirs, err := filepath.Glob(filepath.Join(root, "usr/lib/modules/*"))
	if err != nil || len(dirs) != 1 {
		t.Fatalf("want one module tree in %s: %v %v", root, dirs, err)
	}
	out := os.Getenv("OFFSHOOT_LIVE_CACHE")
	if out == "" {
		out = t.TempDir()
	}
	env, err := live.Build(context.Background(), live.Options{
		Kernel: filepath.Join(root, "boot", "vmlinuz-"+filepath.Base(dirs[0])), ModulesDir: dirs[0], Binary: "/proc/self/exe", Out: out,
	})
	if err != nil {
		t.Fatal(err)
	}
	stored, foreign := []byte(nil), os.Getenv("OFFSHOOT_METAL_IMAGE")
	if foreign != "" {
		if stored, err = os.ReadFile(foreign); err != nil {
			t.Fatal(err)
		}
	} else {
		stored = compress(t, testImage(t))
	}
	n := newNode(t, stored, install.FormatRawZstd, 0)
	// QEMU's user network shows our loopback to the machine as 10.0.2.2.
	_, port, err := net.SplitHostPort(n.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	base := "http://10.0.2.2:" + port
	n.cfg.Image.URL = base + "/image"
	broken := false
	n.image = func(w http.ResponseWriter, r *http.Request) bool {
		if broken {
			return false
		}
		broken = true // the first connection breaks in the middle
		w.Header().Set("Content-Length", fmt.Sprint(len(stored)))
		_, _ = w.Write(stored[:len(stored)/2])
		return true
	}
	disk := blankDisk(t, 4<<30)
	if keep := os.Getenv("OFFSHOOT_METAL_DISK"); keep != "" {
		disk = keep
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	drive := "file=" + disk + ",format=raw,cache=unsafe,if="
	device := []string{"-drive", drive + "virtio"}
	switch os.Getenv("OFFSHOOT_METAL_BUS") {
	case "sata":
		device = []string{"-drive", drive + "ide"}
	case "nvme":
		device = []string{"-drive", drive + "none,id=d0", "-device", "nvme,drive=d0,serial=N1"}
	case "scsi":
		device = []string{"-drive", drive + "none,id=d0", "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d0,serial=S1"}
	}
	args := append([]string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-cx16", // QEMU 7.2 breaks cmpxchg16b with several CPUs: kernels since 6.x crash at random
		"-smp", "2", "-m", "1024", "-display", "none", "-serial", "stdio", "-no-reboot",
		"-kernel", env.KernelPath, "-initrd", env.InitrdPath,
		"-append", "console=ttyS0 quiet panic=1 offshoot.url=" + base + "/b/nonce offshoot.mac=" + testMAC,
		"-netdev", "user,id=n0", "-device", "virtio-net-pci,romfile=,netdev=n0,mac=" + testMAC,
		"-device", "virtio-rng-pci",
	}, device...)
	var serial bytes.Buffer
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64", args...)
	cmd.Stdout, cmd.Stderr = &serial, &serial
	start := time.Now()
	err = cmd.Run()
	t.Logf("%.1f s; serial console:\n%s", time.Since(start).Seconds(), serial.String())
	if err != nil {
		t.Fatal(err)
	}
	if want := "agent inventory disk image configure installed"; n.phases() != want {
		t.Errorf("phases %q, want %q", n.phases(), want)
	}
	if !strings.Contains(serial.String(), "restarting from disk") {
		t.Error("the machine did not restart by itself")
	}
	if foreign == "" {
		checkInstalled(t, disk)
	}
}
