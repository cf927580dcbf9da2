package main

import (
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// verdict is a line of the table of how machines boot: what was measured, ours, the peer's, how many times as good ours is, and
// whether that is as good as it should be.
type verdict struct{ what, ours, peer, ratio, reach, met string }

func yes(met bool) string {
	if met {
		return "yes"
	}
	return "NO"
}

func printVerdicts(w io.Writer, all []verdict) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	_, _ = fmt.Fprintln(t, "\nfigure\tours\tpeer\tratio\treach\tmet")
	for _, v := range all {
		_, _ = fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\n", v.what, v.ours, v.peer, v.ratio, v.reach, v.met)
	}
	_ = t.Flush() // a terminal that is gone
}

// rounds are what contenders reached in turns: by contender, by round. Ours is the first.
type rounds [][]float64

// against is our middle ratio to a peer, with the rates of that round, and the range.
func (r rounds) against(peer int) (ours, theirs, ratio, least, most float64) {
	order := make([]int, len(r[0]))
	for i := range order {
		order[i] = i
	}
	of := func(i int) float64 { return r[0][i] / r[peer][i] }
	slices.SortFunc(order, func(a, b int) int {
		if of(a) < of(b) {
			return -1
		}
		return 1
	})
	middle := order[len(order)/2]
	return r[0][middle], r[peer][middle], of(middle), of(order[0]), of(order[len(order)-1])
}

// judge makes a line of each peer.
func (r rounds) judge(what, unit string, peers []string, reach float64) (out []verdict) {
	for i, name := range peers {
		ours, theirs, ratio, least, most := r.against(i + 1)
		out = append(out, verdict{
			what, fmt.Sprintf(unit, ours), name + " " + fmt.Sprintf(unit, theirs), fmt.Sprintf("%.2f (%.2f to %.2f)", ratio, least, most),
			fmt.Sprintf(">= %.1f", reach), yes(ratio >= reach),
		})
	}
	return out
}
