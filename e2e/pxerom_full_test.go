//go:build full

package e2e

import (
	"os"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// TestMachineWithAPXEROMIsInstalledAndTakesOver: a card whose ROM does not say that it is iPXE loads undionly.kpxe by TFTP, and that
// drives the card through the ROM's code.
func TestMachineWithAPXEROMIsInstalledAndTakesOver(t *testing.T) {
	lab.Need(t, lab.Metal)
	w := worldOfPXEROMs(t)
	report, m1, err := story.OneMachine(t.Context(), w, lab.BIOS)
	if err != nil {
		t.Fatal(err)
	}
	leaves(t, whyOf(t, report, m1), "DISCOVER from firmware BIOS", "file=undionly.kpxe", "  tftp  ", "DISCOVER from iPXE BIOS", "GET boot.ipxe", "its own disk")
	checkROMIsNoIPXE(t, w, report.Machines["m1"].MAC)
}

func pxeROMBeside(t *testing.T, program string) {
	t.Helper()
	lab.Need(t, lab.Metal, program, "ss")
	installedBeside(t, worldOfPXEROMs(t), program, lab.BIOS, "DISCOVER from firmware BIOS", "OFFER file=undionly.kpxe", "  tftp  ", "DISCOVER from iPXE BIOS", "GET boot.ipxe")
}

// worldOfPXEROMs is a lab whose machines have the ROM of .ci/pxerom, which is built from sources that not everybody has at hand.
func worldOfPXEROMs(t *testing.T) *story.World {
	t.Helper()
	rom := os.Getenv("OFFSHOOT_PXE_ROM")
	if _, err := os.Stat(rom); err != nil {
		t.Skipf("there is no ROM: make one with .ci/pxerom SOURCE build/pxe.rom, where SOURCE is a checkout of iPXE, and name it in OFFSHOOT_PXE_ROM (%v)", err)
	}
	w := metalWorld(t)
	w.ROM = rom
	return w
}

// checkROMIsNoIPXE: the first that a boot asks is the ROM, and it says nothing of iPXE.
func checkROMIsNoIPXE(t *testing.T, w *story.World, mac string) {
	t.Helper()
	messages, err := lab.ReadDHCP(w.Captures["lan0"].Path())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range messages {
		if m.Reply || m.MAC.String() != mac {
			continue
		}
		if m.Packet.Options.Has(dhcpv4.OptionUserClassInformation) || m.Packet.Options.Has(dhcpv4.GenericOptionCode(175)) {
			t.Errorf("its ROM says that it is iPXE: %s", m)
		}
		return
	}
	t.Error("nobody asked")
}
