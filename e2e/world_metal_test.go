//go:build metal || full

package e2e

import (
	"log/slog"
	"os"
	"testing"

	"offshoot/e2e/story"
)

// metalWorld is a lab with the real binary and the golden image in it; it is taken down when the test ends.
func metalWorld(t *testing.T) *story.World {
	t.Helper()
	binary, image := os.Getenv("OFFSHOOT_BIN"), os.Getenv("OFFSHOOT_IMAGE")
	if binary == "" || image == "" {
		t.Fatal("OFFSHOOT_BIN and OFFSHOOT_IMAGE name no files: run this with make test-metal")
	}
	w, err := story.NewWorld(story.Options{
		Binary: binary, Image: image, Dir: workDir(t), Say: func(line string) { t.Log(line) },
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
	return w
}
