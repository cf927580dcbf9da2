//go:build full

package e2e

import (
	"errors"
	"regexp"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// TestMachinesAreInstalledBesideServersOfOthers: the seed is told no mode and finds a real DHCP server. Firmware, iPXE, agent and
// system get their addresses there, and what to boot from us: OVMF on port 4011, iPXE in a card's ROM by our offer alone.
func TestMachinesAreInstalledBesideServersOfOthers(t *testing.T) {
	t.Run("OVMFBesideDnsmasq", func(t *testing.T) {
		lab.Need(t, lab.MetalUEFI, "dnsmasq", "ss")
		installedBeside(t, metalWorld(t), "dnsmasq", lab.UEFI, "DISCOVER from firmware EFI x64", "OFFER file=snponly.efi", "to port 4011", "ACK file=snponly.efi", "  tftp  ", "DISCOVER from iPXE EFI x64", "GET boot.ipxe")
	})
	t.Run("OVMFByHTTPBesideDnsmasq", func(t *testing.T) {
		lab.Need(t, lab.MetalUEFI, "dnsmasq", "ss")
		installedBeside(t, metalWorld(t), "dnsmasq", lab.UEFIHTTP, "DISCOVER from HTTP firmware EFI x64", "/boot/snponly.efi", "GET boot/snponly.efi", "DISCOVER from iPXE EFI x64", "GET boot.ipxe")
	})
	t.Run("IPXEBesideKea", func(t *testing.T) {
		lab.Need(t, lab.Metal, "kea-dhcp4", "ss")
		installedBeside(t, metalWorld(t), "kea-dhcp4", lab.BIOS, "DISCOVER from iPXE BIOS", "GET boot.ipxe")
	})
	t.Run("PXEROMBesideDnsmasq", func(t *testing.T) { pxeROMBeside(t, "dnsmasq") })
	t.Run("PXEROMBesideKea", func(t *testing.T) { pxeROMBeside(t, "kea-dhcp4") })
}

func installedBeside(t *testing.T, w *story.World, program string, firmware lab.Firmware, left ...string) {
	t.Helper()
	_, err := w.StartForeign(t.Context(), program)
	if err := errors.Join(err, w.SettleSeed(t.Context())); err != nil {
		t.Fatal(err)
	}
	report, m1, err := story.OneMachine(t.Context(), w, firmware)
	if err != nil {
		t.Fatal(err)
	}
	leaves(t, whyOf(t, report, m1), left...)
	addresses, err := m1.Run(t.Context(), "ip -4 -o addr")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("addresses:\n%s", addresses)
	if !regexp.MustCompile(` 192\.168\.42\.2\d\d/24 .* valid_lft \d+sec`).MatchString(addresses) {
		t.Error("the node does not live on a lease of the foreign server")
	}
	all, err := lab.ReadDHCP(w.Captures["lan0"].Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range all {
		if m.Reply && m.ServerID.String() != story.ForeignServer && (m.Your.IsValid() || m.Packet.Options.Has(dhcpv4.OptionIPAddressLeaseTime)) {
			t.Errorf("somebody else than the foreign server gives an address: %s", m)
		}
	}
}
