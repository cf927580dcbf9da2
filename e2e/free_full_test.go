//go:build metal && full

package e2e

import (
	"testing"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestUnknownMachineWaitsIsAssignedAndReleased boots a machine that nobody asked for. It is switched off when its disk is ready.
func TestUnknownMachineWaitsIsAssignedAndReleased(t *testing.T) {
	lab.Need(t, lab.Metal)
	checkFree(t, freeMachine(t, lab.BIOS, false))
}

func freeMachine(t *testing.T, firmware lab.Firmware, joins bool) status.Machine {
	t.Helper()
	w := metalWorld(t)
	m, err := story.FreeMachine(t.Context(), w, firmware, joins)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// checkFree holds the timeline to the order of what happened.
func checkFree(t *testing.T, m status.Machine) {
	t.Helper()
	if m.State != "free" || m.User != "" || m.Node != "" {
		t.Errorf("the released machine is %+v", m)
	}
	want := []string{"free", "armed", "ticket", "releasing", "release", "free"}
	for _, e := range m.Timeline {
		t.Logf("%s +%5.1fs %s: %s", e.Time.UTC().Format("15:04:05"), e.Time.Sub(m.Timeline[0].Time).Seconds(), e.Kind, e.Text)
		if len(want) > 0 && e.Kind == want[0] {
			want = want[1:]
		}
	}
	if len(want) > 0 {
		t.Errorf("the timeline lacks %v", want)
	}
}

// TestMachineThatWasANodeIsReleased does the same through OVMF, and the machine becomes a node and leaves in between.
func TestMachineThatWasANodeIsReleased(t *testing.T) {
	lab.Need(t, lab.MetalUEFI)
	checkFree(t, freeMachine(t, lab.UEFI, true))
}
