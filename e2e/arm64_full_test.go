//go:build full

package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// TestMachineOfArm64BootsTheAgent: its firmware loads shim and GRUB from a seed of amd64, and waits there until a profile for it is
// added; then the agent tells what the machine is, and begins to install it. The image that it is given is one of amd64: nobody has
// made one for it here, so this ends when it is fetched.
func TestMachineOfArm64BootsTheAgent(t *testing.T) {
	lab.Need(t, lab.MetalArm64)
	t.Run("PXE", func(t *testing.T) {
		arm64BootsTheAgent(t, lab.UEFIArm64, "DISCOVER from firmware EFI arm64", "file=shimaa64.efi", "GET shimaa64.efi", "GET grubaa64.efi", "GET grub/open.cfg", "the agent, to wait")
	})
	t.Run("HTTP", func(t *testing.T) {
		arm64BootsTheAgent(t, lab.UEFIArm64HTTP, "DISCOVER from HTTP firmware EFI arm64", "file=http://192.168.42.1:7480/boot/shimaa64.efi", "GET boot/shimaa64.efi",
			"GET boot/grubaa64.efi", "GET grub/open.cfg", "the agent, to wait")
	})
}

// arm64BootsTheAgent wants the traces of the machine in this order.
func arm64BootsTheAgent(t *testing.T, firmware lab.Firmware, traces ...string) {
	t.Helper()
	program, kernel, modules := arm64Parts(t)
	w := metalWorld(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Minute)
	defer cancel()
	seed, err := w.StartSeed(ctx)
	if err != nil {
		t.Fatal(err)
	}
	offshoot := func(args ...string) string {
		t.Helper()
		out, err := seed.Offshoot(ctx, args...)
		if err != nil {
			t.Fatalf("offshoot %s: %v: %s", strings.Join(args, " "), err, out)
		}
		return out
	}
	until := func(what string, want func(status.Status) string) status.Status {
		t.Helper()
		s, err := w.Until(ctx, seed, what, want)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	until("the seed serves lan0", func(s status.Status) string {
		if len(s.Segments) != 1 || s.Segments[0].Holder != "seed" || len(s.Nodes) != 1 || !s.Nodes[0].Warm {
			return "no segment held by a warm seed"
		}
		return ""
	})
	m1, err := w.Lab.Machine("m1", lab.MachineSpec{Networks: []*lab.Network{w.Lan0}, Disk: 4 << 30, Firmware: firmware})
	if err != nil {
		t.Fatal(err)
	}
	mac := m1.MAC(0).String()
	offshoot("machine", "name", mac, "m1")
	w.Say("m1    power on")
	if err := m1.Start(ctx); err != nil {
		t.Fatal(err)
	}
	until("GRUB on m1 was told that there is no agent for it", func(status.Status) string {
		why, err := seed.Offshoot(ctx, "machine", "why", mac)
		if err != nil || !strings.Contains(why, "no profile is for arm64") {
			return "machine why does not say so"
		}
		return ""
	})
	w.Say("m1    waits in GRUB")
	t.Log(offshoot("profile", "add", "arm", "--driver", "image", "--arch", "arm64", "--image", os.Getenv("OFFSHOOT_IMAGE"), "--program", program, "--live-kernel", kernel, "--live-modules", modules))
	t.Log(offshoot("profile", "list"))
	until("m1 is free", func(s status.Status) string {
		if len(s.Machines) != 1 || s.Machines[0].State != "free" {
			return fmt.Sprintf("machines %+v", s.Machines)
		}
		return ""
	})
	t.Logf("machine show:\n%s", offshoot("machine", "show", mac))
	if out, err := seed.Offshoot(ctx, "machine", "arm", mac); err == nil || !strings.Contains(out+err.Error(), "profile default is for amd64") {
		t.Errorf("armed with a profile of amd64: %s, %v", out, err)
	}
	offshoot("machine", "arm", mac, "--profile", "arm")
	until("m1 fetches its image", func(s status.Status) string {
		if m := s.Machines[0]; m.State != "installing" || m.Phase != "image" {
			return m.State + " " + m.Phase
		}
		return ""
	})
	show, why := offshoot("machine", "show", mac), offshoot("machine", "why", mac)
	t.Logf("machine show:\n%s\nmachine why:\n%s", show, why)
	for _, want := range []string{"processor arm64", "hardware  QEMU", "UEFI", "disk /dev/vda", "port "} {
		if !strings.Contains(show, want) {
			t.Errorf("machine show has no %q", want)
		}
	}
	rest := why
	for _, want := range traces {
		_, after, found := strings.Cut(rest, want)
		if !found {
			t.Fatalf("the machine did not leave %q, or not in its turn", want)
		}
		rest = after
	}
}

// arm64Parts are our program, and Debian's kernel with its modules, as make leaves them in OFFSHOOT_ARM64.
func arm64Parts(t *testing.T) (program, kernel, modules string) {
	t.Helper()
	dir := os.Getenv("OFFSHOOT_ARM64")
	if dir == "" {
		t.Fatal("OFFSHOOT_ARM64 names no folder: run this with make test-metal-full")
	}
	kernels, err := filepath.Glob(filepath.Join(dir, "root/boot/vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		t.Fatalf("kernels in %s: %v, %v", dir, kernels, err)
	}
	version := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	return filepath.Join(dir, "offshoot"), kernels[0], filepath.Join(dir, "root/usr/lib/modules", version)
}
