//go:build full

package e2e

import (
	"context"
	"testing"
	"time"

	"offshoot/e2e/lab"
)

// TestFirmwareBehindARelayIsInstalledAndTakesOver: OVMF asks through dnsmasq's relay, loads by TFTP and iPXE by HTTP across the router, and
// the node that it becomes takes the duty for its network.
func TestFirmwareBehindARelayIsInstalledAndTakesOver(t *testing.T) {
	lab.Need(t, lab.MetalUEFI, "dnsmasq")
	ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
	defer cancel()
	w := metalWorld(t)
	router, err := w.Lab.Host("router", w.Lan0, w.Lan1)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"ip", "addr", "add", "192.168.42.254/24", "dev", "lan0"},
		{"ip", "addr", "add", "10.9.0.1/24", "dev", "lan1"},
		{"sysctl", "-qw", "net.ipv4.ip_forward=1"},
	} {
		if out, err := router.Run(ctx, args[0], args[1:]...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	seed, _, err := w.Serving(ctx, "--auto-approve")
	if err != nil {
		t.Fatal(err)
	}
	if out, err := seed.Offshoot(ctx, "segment", "add", "10.9.0.0/24", "--relay", "10.9.0.1", "--via", "192.168.42.254"); err != nil {
		t.Fatal(err, out)
	}
	relay := router.Command(context.WithoutCancel(ctx), "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=",
		"--dhcp-relay=10.9.0.1,192.168.42.1")
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	go func() { _ = relay.Wait() }() // killed with the lab
	m1, err := w.Lab.Machine("m1", lab.MachineSpec{Networks: []*lab.Network{w.Lan1}, Disk: 4 << 30, Firmware: lab.UEFI})
	if err != nil {
		t.Fatal(err)
	}
	mac := m1.MAC(0).String()
	if out, err := seed.Offshoot(ctx, "machine", "name", mac, "m1"); err != nil {
		t.Fatal(err, out)
	}
	if err := m1.Start(ctx); err != nil {
		t.Fatal(err)
	}
	if err := w.Held(ctx, seed, "10.9.0.0/24", "m1"); err != nil {
		t.Fatal(err)
	}
	why, err := seed.Offshoot(ctx, "machine", "why", mac)
	if err != nil {
		t.Fatal(err, why)
	}
	show, err := seed.Offshoot(ctx, "machine", "show", mac)
	t.Logf("machine show:\n%s\n%v\nmachine why:\n%s", show, err, why)
	leaves(t, why, "DISCOVER from firmware EFI x64", "OFFER 10.9.0.", "file=snponly.efi", "  tftp  ", "DISCOVER from iPXE EFI x64", "GET boot.ipxe", "its own disk")
}
