//go:build wire

package tftp

import (
	"bytes"
	"context"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"
)

// need skips a test whose tool is missing; where all tools are promised (CI=true) that is a failure.
func need(t *testing.T, tool string) {
	t.Helper()
	if _, err := exec.LookPath(tool); err == nil {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("%s is not installed", tool)
	}
	t.Skipf("%s is not installed", tool)
}

func TestForeignClientsFetch(t *testing.T) {
	addr, next := start(t, Options{Files: files()})
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		t.Fatal(err)
	}
	for tool, args := range map[string]func(out string) []string{
		"curl": func(out string) []string {
			return []string{"-sS", "--tftp-blksize", "1468", "-o", out, "tftp://" + addr + "/snponly.efi"}
		},
		"tftp": func(out string) []string {
			return []string{"-m", "binary", host, port, "-c", "get", `\snponly.efi`, out}
		},
	} {
		t.Run(tool, func(t *testing.T) {
			need(t, tool)
			out := filepath.Join(t.TempDir(), "got")
			ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
			defer cancel()
			if text, err := exec.CommandContext(ctx, tool, args(out)...).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", tool, err, text)
			}
			got, err := os.ReadFile(out)
			if err != nil || !bytes.Equal(got, program(200_000)) {
				t.Errorf("%s got %d bytes, %v", tool, len(got), err)
			}
			if tr := next(); tr.Err != nil || tr.Sent != 200_000 {
				t.Errorf("%s: reported as %+v", tool, tr)
			}
		})
	}
}
