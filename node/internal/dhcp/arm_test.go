package dhcp

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// TestUBootFindsAllThatItReadsInTheHeader: it takes server and file from the BOOTP header, at their fixed places (RFC 951), and knows
// no options 66 and 67.
func TestUBootFindsAllThatItReadsInTheHeader(t *testing.T) {
	for _, message := range []dhcpv4.MessageType{discover, request} {
		mods := []dhcpv4.Modifier{dhcpv4.WithMessageType(message), dhcpv4.WithHwAddr(mac), opt(60, "U-Boot.armv8"), opt(93, "\x00\x16")}
		if message == request {
			mods = append(mods, chose("192.168.42.1"), wants("192.168.42.17"))
		}
		p, err := dhcpv4.New(mods...)
		if err != nil {
			t.Fatal(err)
		}
		c, err := Classify(p)
		if err != nil {
			t.Fatal(err)
		}
		plan := Decide(day, p, c, View{Duty: Full, Candidate: addr17, NewNonce: nonce}, testConfig())
		if plan.Reply == nil {
			t.Fatalf("%s of %s: silence: %s", message, c, plan.Reason)
		}
		raw := encode(nil, plan.Reply)
		yiaddr, siaddr := netip.AddrFrom4([4]byte(raw[16:20])), netip.AddrFrom4([4]byte(raw[20:24]))
		file, _, _ := strings.Cut(string(raw[108:236]), "\x00")
		if yiaddr != addr17 || siaddr != server || file != "grubaa64.efi" {
			t.Errorf("answer to %s: yiaddr %s, siaddr %s, file %q", message, yiaddr, siaddr, file)
		}
		if lease := plan.Reply.IPAddressLeaseTime(0); lease != 10*time.Minute {
			t.Errorf("answer to %s: an address for %s, on which GRUB has to live", message, lease)
		}
	}
}

// TestFirmwareThatGetsGRUBIsNotCalledInVain: GRUB asks for nothing by DHCP.
func TestFirmwareThatGetsGRUBIsNotCalledInVain(t *testing.T) {
	for name, c := range map[string]struct {
		mod    mod
		loader swarm.Loader
		want   string
	}{
		"PXE":    {pxe("\x00\x0b"), swarm.LoaderAuto, "shimaa64.efi"},
		"HTTP":   {httpBoot("\x00\x13"), swarm.LoaderAuto, "http://192.168.42.1:7480/boot/shimaa64.efi"},
		"GRUB":   {pxe("\x00\x0b"), swarm.LoaderIPXE, "grubaa64.efi"},
		"U-Boot": {opt(93, "\x00\x16"), swarm.LoaderAuto, "grubaa64.efi"},
	} {
		t.Run(name, func(t *testing.T) {
			choose := func(b *bench) { b.o.Config.Loader = func(swarm.MAC) swarm.Loader { return c.loader } }
			withServer(t, choose, func(b *bench) {
				for range 5 {
					if ack := b.lease(c.mod); ack.BootFileName != c.want || ack.IPAddressLeaseTime(0) != 10*time.Minute {
						t.Fatalf("%s for %s, want %s", ack.BootFileName, ack.IPAddressLeaseTime(0), c.want)
					}
				}
				if got := b.eventKinds(); got != "" {
					t.Errorf("events %q", got)
				}
			})
		})
	}
}

// TestFirmwareOfMachinesIsToldOnceTheyAreBound, and not for who only asks, whom anybody can invent.
func TestFirmwareOfMachinesIsToldOnceTheyAreBound(t *testing.T) {
	var told []boot.Firmware
	withServer(t, func(b *bench) { b.o.OnFirmware = func(_ swarm.MAC, f boot.Firmware) { told = append(told, f) } }, func(b *bench) {
		b.say(b.packet(discover, pxe("\x00\x0b")))
		if len(told) != 0 {
			t.Errorf("told of a DISCOVER: %v", told)
		}
		b.lease(pxe("\x00\x0b"))
		b.lease() // its operating system, which says nothing
		b.lease(ipxe())
		if want := []boot.Firmware{boot.EFIarm64, boot.BIOS}; !slices.Equal(told, want) {
			t.Errorf("told %v, want %v", told, want)
		}
	})
}
