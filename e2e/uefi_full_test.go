//go:build full

package e2e

import (
	"testing"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// TestMachineWithUEFIIsInstalledAndTakesOver boots through OVMF's own PXE, TFTP and snponly.efi.
func TestMachineWithUEFIIsInstalledAndTakesOver(t *testing.T) {
	lab.Need(t, lab.MetalUEFI)
	w := metalWorld(t)
	if _, _, err := story.OneMachine(t.Context(), w, lab.UEFI); err != nil {
		t.Fatal(err)
	}
}
