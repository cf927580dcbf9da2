//go:build wire || metal || full

package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// workDir is kept when the test fails and OFFSHOOT_KEEP names a folder for that.
func workDir(t *testing.T) string {
	t.Helper()
	// Not t.TempDir: with the test's name in it, the path of the operator socket would be too long for a socket.
	dir, err := os.MkdirTemp("", "seed-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	if keep := os.Getenv("OFFSHOOT_KEEP"); keep != "" {
		t.Cleanup(func() {
			if t.Failed() {
				to := filepath.Join(keep, strings.ReplaceAll(t.Name(), "/", "-"))
				_ = os.RemoveAll(to)
				if err := os.MkdirAll(to, 0o755); err != nil {
					t.Log(err)
				}
				keepLogs(t, dir, to)
			}
		})
	}
	return dir
}

// keepLogs copies what tells what happened: logs and captures, not disks.
func keepLogs(t *testing.T, from, to string) {
	t.Helper()
	for _, pattern := range []string{"*.log", "*.pcap", "*/*.log"} {
		files, err := filepath.Glob(filepath.Join(from, pattern))
		if err != nil {
			t.Log(err)
		}
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err == nil {
				name := strings.ReplaceAll(strings.TrimPrefix(f, from+"/"), "/", "-")
				err = os.WriteFile(filepath.Join(to, name), data, 0o644)
			}
			if err != nil {
				t.Log(err)
			}
		}
	}
	t.Logf("logs and captures are kept in %s", to)
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(p), "\n"))
	return len(p), nil
}
