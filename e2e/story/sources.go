package story

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"offshoot/node/status"
)

// Sources is a table of where each node's bytes of artifacts came from and where they went, in MB, and how the image came to
// each machine.
func (r Report) Sources() string {
	var out bytes.Buffer
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	_, _ = fmt.Fprintln(t, "MB\tdisk\tsegment\tuplink\tupstream\t→ segment\t→ uplink\t→ boot\t→ install\t") // into memory
	for _, name := range slices.Sorted(maps.Keys(r.Nodes)) {
		b := r.Nodes[name].Exchange.Bytes
		row := []string{name}
		for _, n := range []int64{b.Received.Disk, b.Received.Segment, b.Received.Uplink, b.Received.Upstream, b.Sent.Segment, b.Sent.Uplink, b.Sent.Boot, b.Sent.Install} {
			row = append(row, fmt.Sprintf("%.1f", float64(n)/1e6))
		}
		_, _ = fmt.Fprintln(t, strings.Join(row, "\t")+"\t")
	}
	_ = t.Flush()
	out.WriteString("\n")
	for _, name := range slices.Sorted(maps.Keys(r.Nodes)) {
		if line := r.imageOf(name); line != "" {
			_, _ = fmt.Fprintln(&out, line)
		}
	}
	return out.String()
}

// imageOf says how the image came to a machine: to its disk while it was installed, and to its store when it was a node.
func (r Report) imageOf(name string) string {
	all := r.Nodes[name].Artifacts
	at := slices.IndexFunc(all, func(a status.Artifact) bool { return a.Name == r.Image })
	if at < 0 {
		return ""
	}
	var ways []string
	if account := r.account(name); account != "" {
		ways = append(ways, "to its disk "+account)
	}
	got := all[at].Bytes.Received
	for _, way := range []struct {
		n    int64
		from string
	}{
		{got.Disk, "from its own disk"}, {got.Segment, "from nodes of its segment"}, {got.Uplink, "across an uplink"}, {got.Upstream, "from upstream"},
	} {
		if way.n > 0 {
			ways = append(ways, fmt.Sprintf("%.1f MB to its store %s", float64(way.n)/1e6, way.from))
		}
	}
	return fmt.Sprintf("the image (%.1f MB) came to %s: %s", float64(all[at].Size)/1e6, name, cmp.Or(strings.Join(ways, "; "), "not at all"))
}

// account is what a machine's agent said of where its image came from.
func (r Report) account(name string) string {
	for _, e := range r.Machines[name].Timeline {
		if account, ok := strings.CutPrefix(e.Text, "configure: image: "); ok && e.Kind == "install" {
			return account
		}
	}
	return ""
}
