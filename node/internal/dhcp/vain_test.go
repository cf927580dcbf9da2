package dhcp

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
)

// firmwares are the two ways in which EFI firmware loads its program, with what stands before its name.
var firmwares = map[string]struct {
	mod    mod
	folder string
}{"PXE": {pxe("\x00\x07"), ""}, "HTTP": {httpBoot("\x00\x10"), "http://192.168.42.1:7480/boot/"}}

func TestFirmwareThatLoadsInVainGetsOtherPrograms(t *testing.T) {
	for name, c := range firmwares {
		for loader, want := range map[swarm.Loader][]string{
			swarm.LoaderAuto:   {"snponly.efi", "shimx64.efi", "shimx64.efi", "ipxe.efi", "ipxe.efi"},
			swarm.LoaderIPXE:   {"snponly.efi", "snponly.efi", "snponly.efi", "ipxe.efi", "ipxe.efi"},
			swarm.LoaderSigned: {"shimx64.efi", "shimx64.efi", "shimx64.efi", "shimx64.efi", "shimx64.efi"},
		} {
			t.Run(name+" "+loader.String(), func(t *testing.T) {
				choose := func(b *bench) { b.o.Config.Loader = func(swarm.MAC) swarm.Loader { return loader } }
				withServer(t, choose, func(b *bench) {
					for i, program := range want {
						ack, lease := b.lease(c.mod), 2*time.Minute
						if program == "shimx64.efi" {
							lease = 10 * time.Minute // iPXE's: GRUB asks for none of its own
						}
						if got := ack.BootFileName; got != c.folder+program || ack.IPAddressLeaseTime(0) != lease {
							t.Fatalf("boot program %d is %s for %s, want %s for %s", i+1, got, ack.IPAddressLeaseTime(0), program, lease)
						}
					}
					refused, loop := strings.Contains(b.eventKinds(), string(EventRefused)), strings.Contains(b.eventKinds(), string(EventChainLoop))
					if refused != (loader == swarm.LoaderAuto) || loop != (loader != swarm.LoaderSigned) {
						t.Errorf("events %q", b.eventKinds())
					}
					b.lease(ipxe())
					if got := b.lease(c.mod).BootFileName; got != c.folder+want[0] {
						t.Errorf("after iPXE: %s", got)
					}
				})
			})
		}
	}
}

func TestRefusalIsForgottenInTime(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		b.lease(pxe("\x00\x07"))
		<-time.After(59 * time.Minute)
		if got := b.lease(pxe("\x00\x07")).BootFileName; got != "shimx64.efi" {
			t.Errorf("within the hour: %s", got)
		}
		<-time.After(61 * time.Minute)
		if got := b.lease(pxe("\x00\x07")).BootFileName; got != "snponly.efi" {
			t.Errorf("after it: %s", got)
		}
	})
}

// TestAnswerThatWasLostIsNoProgramLoadedInVain: a machine that asks once more gets the same program, until it is another boot.
func TestAnswerThatWasLostIsNoProgramLoadedInVain(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		offer := b.say(b.packet(discover, pxe("\x00\x07")))
		if offer == nil {
			t.Fatal(b.lastReason())
		}
		q := b.packet(request, pxe("\x00\x07"), chose(server.String()), wants(offer.YourIPAddr.String()))
		for range 3 {
			if ack := b.say(q); ack == nil || ack.BootFileName != "snponly.efi" {
				t.Errorf("asked once more: %v, %s", ack, b.lastReason())
			}
			<-time.After(8 * time.Second)
		}
		if kinds := b.eventKinds(); strings.Contains(kinds, string(EventRefused)) {
			t.Errorf("events %q", kinds)
		}
		<-time.After(2 * time.Minute) // a ROM that numbers all of its exchanges alike
		if got := b.lease(pxe("\x00\x07"), func(p *dhcpv4.DHCPv4) { p.TransactionID = q.TransactionID }).BootFileName; got != "shimx64.efi" {
			t.Errorf("at its next boot: %s", got)
		}
	})
}

func TestInventedMachinesDoNotFillTheMemoryOfPrograms(t *testing.T) {
	d := newDesk()
	for i := range 2 * maxFetchers {
		d.fetched(day, swarm.MACOf(net.HardwareAddr{2, 0, 0, byte(i >> 16), byte(i >> 8), byte(i)}), dhcpv4.TransactionID{})
	}
	last := swarm.MACOf(net.HardwareAddr{2, 0, 0, 0, 0x7f, 0xff})
	if len(d.fetches) > maxFetchers || d.fetchesBefore(day, last, dhcpv4.TransactionID{1}) != 1 {
		t.Errorf("%d machines are remembered, the last one %d times", len(d.fetches), d.fetchesBefore(day, last, dhcpv4.TransactionID{1}))
	}
}
