//go:build full

package e2e

import (
	"strings"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// TestMachineThatBootsByHTTPIsInstalledAndTakesOver boots through OVMF's own HTTP client: snponly.efi comes from port 7480, and
// nothing by TFTP.
func TestMachineThatBootsByHTTPIsInstalledAndTakesOver(t *testing.T) {
	lab.Need(t, lab.MetalUEFI)
	w := metalWorld(t)
	report, m1, err := story.OneMachine(t.Context(), w, lab.UEFIHTTP)
	if err != nil {
		t.Fatal(err)
	}
	mac := report.Machines["m1"].MAC
	why := whyOf(t, report, m1)
	leaves(t, why,
		"DISCOVER from HTTP firmware EFI x64", "file=http://192.168.42.1:7480/boot/snponly.efi", "HEAD boot/snponly.efi", "GET boot/snponly.efi",
		"DISCOVER from iPXE EFI x64", "GET boot.ipxe")
	if strings.Contains(why, "  tftp  ") {
		t.Error("the machine asked TFTP")
	}
	checkFirmwareAsksByHTTPOnly(t, w, mac)
}

// checkFirmwareAsksByHTTPOnly: iPXE says PXEClient as well, but also who it is.
func checkFirmwareAsksByHTTPOnly(t *testing.T, w *story.World, mac string) {
	t.Helper()
	messages, err := lab.ReadDHCP(w.Captures["lan0"].Path())
	if err != nil {
		t.Fatal(err)
	}
	asked := 0
	for _, m := range messages {
		vendor := m.Packet.ClassIdentifier()
		switch {
		case m.Reply || m.MAC.String() != mac:
		case strings.HasPrefix(vendor, "HTTPClient"):
			asked++
		case strings.HasPrefix(vendor, "PXEClient") && !m.Packet.Options.Has(dhcpv4.OptionUserClassInformation):
			t.Errorf("its firmware asked for PXE: %s", m)
		}
	}
	if asked < 2 {
		t.Errorf("its firmware asked %d times by HTTP, want at least DISCOVER and REQUEST", asked)
	}
}
