package segment

import (
	"net"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// generous is what a router of a site offers to everybody.
func generous() []dhcpv4.Modifier {
	return []dhcpv4.Modifier{
		dhcpv4.WithNetmask(net.CIDRMask(24, 32)), dhcpv4.WithRouter(net.IPv4(192, 0, 2, 254)), dhcpv4.WithDNS(net.IPv4(192, 0, 2, 53), net.IPv4(192, 0, 2, 54)),
		dhcpv4.WithLeaseTime(3600), dhcpv4.WithServerIP(net.IPv4(192, 0, 2, 1)),
	}
}

func TestReplyTellsWhatTheServerOffers(t *testing.T) {
	given := Offer{
		Address: netip.MustParseAddr("192.0.2.50"), Network: netip.MustParsePrefix("192.0.2.0/24"), Router: netip.MustParseAddr("192.0.2.254"),
		DNS: []netip.Addr{netip.MustParseAddr("192.0.2.53"), netip.MustParseAddr("192.0.2.54")}, Lease: time.Hour,
	}
	booting := func(b BootOffer) Offer {
		o := given
		o.Boot = b
		return o
	}
	for _, c := range []struct {
		name  string
		frame []byte
		want  Offer
	}{
		{"siaddr alone names no boot server", offer(t, generous()...), given},
		{"a boot file in option 67", offer(t, append(generous(), dhcpv4.WithOption(dhcpv4.OptBootFileName("pxelinux.0")))...), booting(BootOffer{Server: "192.0.2.1", File: "pxelinux.0"})},
		{"a boot file in the header", offer(t, append(generous(), func(d *dhcpv4.DHCPv4) { d.BootFileName = "grub.efi" })...), booting(BootOffer{Server: "192.0.2.1", File: "grub.efi"})},
		{"a boot server by name", offer(t, append(generous(), dhcpv4.WithServerIP(net.IPv4zero), dhcpv4.WithOption(dhcpv4.OptTFTPServerName("boot")))...), booting(BootOffer{Server: "boot"})},
		{"a boot service that is asked on port 4011", offer(t, append(generous(), dhcpv4.WithServerIP(net.IPv4zero), dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient")))...), booting(BootOffer{PXE: true})},
		{"nothing but an address", offer(t), Offer{Address: given.Address}},
	} {
		got, err := decodeReply(c.frame)
		if err != nil || !reflect.DeepEqual(got.Offer, c.want) {
			t.Errorf("%s: got %+v, %v\nwant %+v", c.name, got.Offer, err, c.want)
		}
	}
}

// TestWholeProbeHearsEverythingOut: a server that names its boot program to PXE clients only is heard doing so.
func TestWholeProbeHearsEverythingOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		say, stop := answerer(t, h)
		defer stop()
		time.AfterFunc(time.Second, func() { say(offer(t, generous()...)) })
		time.AfterFunc(3*time.Second, func() {
			say(offer(t, dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 51)), dhcpv4.WithOption(dhcpv4.OptBootFileName("pxelinux.0"))))
		})
		start := time.Now()
		got, err := Prober{Log: quiet(), Whole: true, open: h.open}.Probe(t.Context(), testPort)
		if took := time.Since(start); err != nil || len(got) != 1 || took != 10*time.Second {
			t.Fatalf("got %v, %v after %v", got, err, took)
		}
		if o := got[0].Offer; o.Boot.File != "pxelinux.0" || o.Lease != time.Hour || o.Address != netip.MustParseAddr("192.0.2.50") {
			t.Errorf("offers %+v", o)
		}
	})
}
