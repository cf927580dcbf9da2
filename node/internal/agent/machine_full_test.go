//go:build full

package agent

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
	"offshoot/node/internal/live"
)

// TestMachineInstallsItselfAndRestarts boots the kernel of the golden image in a virtual machine with this test's own binary
// as PID 1, once for each kind of disk controller that servers have.
func TestMachineInstallsItselfAndRestarts(t *testing.T) {
	need(t, true, "qemu-system-x86_64")
	golden := os.Getenv("OFFSHOOT_IMAGE")
	if golden == "" {
		t.Fatal("OFFSHOOT_IMAGE names no golden image: run this with make test-metal-full")
	}
	dir := t.TempDir()
	kernel, modules, err := image.ExtractKernel(t.Context(), golden, dir)
	if err != nil {
		t.Fatal(err)
	}
	env, err := live.Build(t.Context(), live.Options{Kernel: kernel, ModulesDir: modules, Binary: "/proc/self/exe", Out: dir})
	if err != nil {
		t.Fatal(err)
	}
	stored := compress(t, testImage(t))
	for bus, device := range map[string][]string{
		"virtio": {"-drive", "if=virtio,%s"},
		"sata":   {"-drive", "if=ide,%s"},
		"nvme":   {"-drive", "if=none,id=d0,%s", "-device", "nvme,drive=d0,serial=N1"},
		"scsi":   {"-drive", "if=none,id=d0,%s", "-device", "virtio-scsi-pci", "-device", "scsi-hd,drive=d0,serial=S1"},
	} {
		t.Run(bus, func(t *testing.T) { installInMachine(t, env, stored, device) })
	}
}

func installInMachine(t *testing.T, env live.Result, stored []byte, device []string) {
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
	device = slices.Clone(device)
	device[1] = fmt.Sprintf(device[1], "file="+disk+",format=raw,cache=unsafe")
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	args := append([]string{
		"-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,-cx16", // with cmpxchg16b, or with two CPUs, Linux 6.12 crashes under QEMU 7.2 (see e2e/lab)
		"-m", "1024", "-display", "none", "-serial", "stdio", "-no-reboot",
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
	checkInstalled(t, disk)
}
