//go:build wire

package driver_test

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"offshoot/e2e/lab"
)

// TestCloudInitTakesWhatIsRendered asks cloud-init itself about every user-data that the other tests hold to.
func TestCloudInitTakesWhatIsRendered(t *testing.T) {
	t.Parallel()
	lab.Need(t, "cloud-init")
	goldens, err := filepath.Glob("testdata/*.yaml")
	if err != nil || len(goldens) == 0 {
		t.Fatalf("no goldens: %v", err)
	}
	for _, file := range goldens {
		out, err := exec.CommandContext(t.Context(), "cloud-init", "schema", "--config-file", file).CombinedOutput()
		if err != nil || !strings.Contains(string(out), "Valid") {
			t.Errorf("%s: cloud-init schema: %v\n%s", file, err, out)
		}
	}
}
