//go:build full

package e2e

import (
	"strings"
	"testing"

	"offshoot/e2e/story"
)

// whyOf asks the node that m1 has become what was said to it while it booted.
func whyOf(t *testing.T, report story.Report, m1 *story.Shell) string {
	t.Helper()
	why, err := m1.Run(t.Context(), "offshoot machine why "+report.Machines["m1"].MAC)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("machine show:\n%s\nmachine why:\n%s", report.Timelines["m1"], why)
	return why
}

// leaves wants all these traces of a boot, in any order.
func leaves(t *testing.T, why string, traces ...string) {
	t.Helper()
	for _, want := range traces {
		if !strings.Contains(why, want) {
			t.Errorf("the machine did not leave %q", want)
		}
	}
}
