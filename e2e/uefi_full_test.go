//go:build full

package e2e

import (
	"log/slog"
	"os"
	"testing"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// TestMachineWithUEFIIsInstalledAndTakesOver boots through OVMF's own PXE, TFTP and snponly.efi.
func TestMachineWithUEFIIsInstalledAndTakesOver(t *testing.T) {
	lab.Need(t, lab.MetalUEFI)
	w, err := story.NewWorld(story.Options{
		Binary: os.Getenv("OFFSHOOT_BIN"), Image: os.Getenv("OFFSHOOT_IMAGE"), Dir: workDir(t), Say: func(line string) { t.Log(line) },
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	if _, _, err := story.OneMachine(t.Context(), w, lab.UEFI); err != nil {
		t.Fatal(err)
	}
}
