//go:build metal

package e2e

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestFirstLight is the demo as a test: from bare disks to a swarm, with real firmware, and without its seed at the end.
func TestFirstLight(t *testing.T) {
	lab.Need(t, lab.Metal)
	w := metalWorld(t)
	report, err := story.FirstLight(t.Context(), w)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("\n%s\n%s\n%s", report.Status, report.Phases(), report.Sources())
	checkEnd(t, report)
	checkSources(t, report)
	for name, c := range w.Captures {
		messages, err := lab.ReadDHCP(c.Path())
		if err != nil {
			t.Fatal(err)
		}
		if len(messages) < 8 {
			t.Errorf("%s: the capture holds %d DHCP messages: it proves nothing", name, len(messages))
		}
		for _, double := range lab.DoubleAnswers(messages) {
			t.Errorf("%s: a second answer: %s", name, double)
		}
	}
	checkSecrets(t, w)
}

// checkEnd holds the final picture to what the story promises.
func checkEnd(t *testing.T, r story.Report) {
	t.Helper()
	var durable, gone []string
	for _, n := range r.Final.Nodes {
		if n.Durable && n.State == status.NodeAlive {
			durable = append(durable, n.Name)
		}
		if n.State == status.NodeGone {
			gone = append(gone, n.Name)
		}
	}
	slices.Sort(durable)
	if !slices.Equal(durable, []string{"m1", "m2", "m3"}) || !slices.Equal(gone, []string{"seed"}) {
		t.Errorf("durable and alive %v, gone %v", durable, gone)
	}
	if len(r.Final.Segments) != 2 || len(r.Final.Machines) != 3 || !r.Final.Quorum {
		t.Errorf("%d segments, %d machines, quorum %v", len(r.Final.Segments), len(r.Final.Machines), r.Final.Quorum)
	}
	for _, s := range r.Final.Segments {
		if s.Holder == "" || s.Holder == "seed" {
			t.Errorf("segment %s is held by %q", s.ID, s.Holder)
		}
	}
	// Who gave m2 everything: m1, whose events they are.
	for _, e := range r.Machines["m2"].Timeline {
		if e.Node == "seed" {
			t.Errorf("the seed had a hand in m2: %s %s", e.Kind, e.Text)
		}
	}
}

// checkSources: an image comes to a machine in pieces from its neighbours, and to its store from its own disk.
func checkSources(t *testing.T, r story.Report) {
	t.Helper()
	sources := r.Sources()
	for _, name := range []string{"m1", "m2", "m3"} {
		var line string
		for l := range strings.Lines(sources) {
			if strings.Contains(l, "came to "+name+": ") {
				line = l
			}
		}
		for _, want := range []string{" in pieces, 0 B by HTTP", " to its store from its own disk"} {
			if !strings.Contains(line, want) {
				t.Errorf("%s: the account %q does not say %q", name, line, want)
			}
		}
		if strings.Contains(line, "from nodes of its segment") || strings.Contains(line, "across an uplink") {
			t.Errorf("the image came twice to %s: %s", name, line)
		}
	}
}

// checkSecrets greps what was written down in the open for what must not be there.
func checkSecrets(t *testing.T, w *story.World) {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(w.Lab.Dir(), "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	consoles, err := filepath.Glob(filepath.Join(w.Lab.Dir(), "*", "console.log"))
	if err != nil {
		t.Fatal(err)
	}
	if len(logs) == 0 || len(consoles) != 3 {
		t.Fatalf("logs %v, consoles %v: nothing to look at", logs, consoles)
	}
	for _, path := range append(logs, consoles...) {
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, secret := range []string{"os1.", "PRIVATE KEY"} {
			if i := strings.Index(string(data), secret); i >= 0 && !strings.HasPrefix(string(data)[i:], "os1.<") {
				t.Errorf("%s holds %q", path, secret)
			}
		}
	}
}
