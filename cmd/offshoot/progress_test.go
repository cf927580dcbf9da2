package main

import (
	"bytes"
	"io"
	"strings"
	"testing"
	"time"

	"offshoot/node/status"
)

func TestFetchesStandInOneLine(t *testing.T) {
	t.Parallel()
	image := status.Fetch{Name: "debian13.raw.zst", Size: 150200000, Done: 61400000, Rate: 11.1e6, Peers: 3}
	for want, all := range map[string][]status.Fetch{
		"fetching  debian13.raw.zst 61.4 MB of 150.2 MB, 40 %, 11.1 MB/s, 3 peers, 8s left": {image},
		"fetching  ab12ab12ab12 0.0 MB of 0.0 MB, 0 %, 0.0 MB/s, looking for peers":         {{Digest: "ab12ab12ab12ab12", Size: 17}},
		"fetching  a b 1.0 MB of 1.0 MB, 100 %, 0.0 MB/s, 1 peer; empty 0.0 MB of 0.0 MB, 100 %, 0.0 MB/s, 1 peer; and 1 more": {
			{Name: "a\nb", Size: 1e6, Done: 1e6, Peers: 1}, {Name: "empty", Peers: 1}, image,
		},
	} {
		if got := fetchesLine(all); got != want {
			t.Errorf("got  %q\nwant %q", got, want)
		}
	}
}

// TestTerminalShowsOneLine: it is drawn over itself, makes room for every other word, and goes when nothing is fetched.
func TestTerminalShowsOneLine(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &progress{out: &out, terminal: true}
	half, line := []status.Fetch{{Name: "image", Size: 100, Done: 50}}, fetchesLine([]status.Fetch{{Name: "image", Size: 100, Done: 50}})
	p.show(noon, nil)
	p.show(noon, half)
	p.show(noon.Add(time.Millisecond), half)
	p.say("machine   m1")
	p.say("machine   m2")
	p.show(noon, half)
	p.show(noon, nil)
	p.show(noon, nil)
	if got, want := out.String(), clearLine+line+clearLine+line+clearLine+"machine   m1\nmachine   m2\n"+clearLine+line+clearLine; got != want {
		t.Errorf("got  %q\nwant %q", got, want)
	}
}

func TestLineFitsTheTerminal(t *testing.T) {
	t.Parallel()
	for columns, want := range map[int]string{0: "fetching  ä", 80: "fetching  ä", 11: "fetching  ", 12: "fetching  ä", 2: "f", 1: "fetching  ä"} {
		p := &progress{columns: func() int { return columns }}
		if got := p.fit("fetching  ä"); got != want {
			t.Errorf("%d columns: %q, want %q", columns, got, want)
		}
	}
}

// TestJournalGetsALineEveryFewSeconds: without a terminal there is nothing to draw over, and no control characters.
func TestJournalGetsALineEveryFewSeconds(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &progress{out: &out}
	p.show(noon, nil)
	if out.Len() > 0 {
		t.Errorf("nothing is fetched, and it says %q", out.String())
	}
	for second := range 12 {
		p.show(noon.Add(time.Duration(second)*time.Second), []status.Fetch{{Name: "image", Size: 100, Done: int64(second)}})
	}
	p.show(noon.Add(time.Minute), nil)
	p.say("ready")
	want := []string{"fetching  image 0.0 MB of 0.0 MB, 0 %", "fetching  image 0.0 MB of 0.0 MB, 5 %", "fetching  image 0.0 MB of 0.0 MB, 10 %", "ready"}
	got := strings.Split(strings.TrimSuffix(out.String(), "\n"), "\n")
	if len(got) != len(want) || strings.ContainsAny(out.String(), "\r\x1b") {
		t.Fatalf("got %q", got)
	}
	for i := range want {
		if !strings.HasPrefix(got[i], want[i]) {
			t.Errorf("line %d is %q, want %q", i, got[i], want[i])
		}
	}
}

func TestStatusShowsWhatIsFetched(t *testing.T) {
	t.Parallel()
	s := status.Status{Time: noon, Artifacts: []status.Artifact{{Name: "kernel"}, {Name: "image", Fetch: &status.Fetch{Name: "image", Size: 2e6, Done: 1e6, Rate: 5e5, Peers: 2}}}}
	got := printed(t, func(w io.Writer) error { return printStatus(w, s) })
	if want := "\nfetching  image 1.0 MB of 2.0 MB, 50 %, 0.5 MB/s, 2 peers, 2s left\n\n"; !strings.Contains(got, want) {
		t.Errorf("got\n%s", got)
	}
}
