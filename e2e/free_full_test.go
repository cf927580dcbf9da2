//go:build metal && full

package e2e

import (
	"testing"

	"offshoot/e2e/lab"
)

// TestMachineThatWasANodeIsReleased does the same through OVMF, and the machine becomes a node and leaves in between.
func TestMachineThatWasANodeIsReleased(t *testing.T) {
	lab.Need(t, lab.MetalUEFI)
	checkFree(t, freeMachine(t, lab.UEFI, true))
}
