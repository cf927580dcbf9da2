package story

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"offshoot/node/status"
)

func decode(text string, into any) error {
	if err := json.Unmarshal([]byte(text), into); err != nil {
		return fmt.Errorf("%w in %q", err, text)
	}
	return nil
}

// phase is a stretch of a machine's way: it ends with the first event after the phase before that begins with these words.
type phase struct{ name, kind, text string }

var phases = []phase{
	{"firmware", "address", ""},
	{"boot", "install", "agent"},
	{"agent", "install", "image"},
	{"image", "install", "configure"},
	{"configure", "install", "installed"},
	{"reboot", "joined", ""},
	{"warm", "warm", ""},
	{"duty", "duty", ""},
}

// Phases is a table of how long each machine took from power-on, phase by phase, in seconds, from the timelines.
func (r Report) Phases() string {
	var out bytes.Buffer
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	row := []string{"seconds"}
	for _, p := range phases {
		row = append(row, p.name)
	}
	_, _ = fmt.Fprintln(t, strings.Join(append(row, "all"), "\t")+"\t") // into memory
	var names []string
	for name := range r.Machines {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		row, at := []string{name}, r.PowerOn[name]
		for _, p := range phases {
			end, ok := endOf(r.Machines[name].Timeline, p, at)
			if !ok {
				row = append(row, "-")
				continue
			}
			row = append(row, fmt.Sprintf("%.1f", end.Sub(at).Seconds()))
			at = end
		}
		_, _ = fmt.Fprintln(t, strings.Join(append(row, fmt.Sprintf("%.1f", at.Sub(r.PowerOn[name]).Seconds())), "\t")+"\t")
	}
	_ = t.Flush()
	return out.String()
}

func endOf(timeline []status.Event, p phase, after time.Time) (time.Time, bool) {
	for _, e := range timeline {
		if e.Kind == p.kind && strings.HasPrefix(e.Text, p.text) && !e.Time.Before(after) {
			return e.Time, true
		}
	}
	return time.Time{}, false
}
