package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"

	"offshoot/node/status"
	"offshoot/swarm"
)

// plain keeps what machines say of themselves from commanding the terminal, or from looking like lines of ours.
func plain(s string) string {
	return strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, s)
}

// table writes rows of cells, aligned.
func table(w io.Writer, head string, rows [][]string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if _, err := fmt.Fprintln(t, strings.ReplaceAll(head, " ", "\t")); err != nil {
		return err
	}
	for _, row := range rows {
		for i, cell := range row {
			row[i] = cmp.Or(plain(cell), "-")
		}
		if _, err := fmt.Fprintln(t, strings.Join(row, "\t")); err != nil {
			return err
		}
	}
	return t.Flush()
}

func printStatus(w io.Writer, s status.Status) error {
	for _, p := range s.Problems {
		if _, err := fmt.Fprintf(w, "PROBLEM  %s\n   next: %s\n", plain(p.What), plain(p.Next)); err != nil {
			return err
		}
	}
	quorum := "can decide"
	if !s.Quorum {
		quorum = "CANNOT DECIDE (no quorum)"
	}
	if _, err := fmt.Fprintf(w, "swarm %s, led by %s, %s; asked %s, offshoot %s\n", s.Swarm, cmp.Or(s.Leader, "nobody"), quorum, s.Asked, s.Version); err != nil {
		return err
	}
	if s.CA != nil {
		if _, err := fmt.Fprintln(w, caChange(*s.CA)); err != nil {
			return err
		}
	}
	if s.Settings.UplinkLimit != 0 {
		if _, err := fmt.Fprintln(w, limitLine(s.Settings.UplinkLimit)); err != nil {
			return err
		}
	}
	if line := servicesLine(s.Settings); line != "" {
		if _, err := fmt.Fprintln(w, line); err != nil {
			return err
		}
	}
	if s.Settings.StallAfter != 0 {
		if _, err := fmt.Fprintln(w, stallLine(s.Settings.StallAfter)); err != nil {
			return err
		}
	}
	if err := printUnverified(w, s.Artifacts); err != nil {
		return err
	}
	var fetches []status.Fetch
	for _, a := range s.Artifacts {
		if a.Fetch != nil {
			fetches = append(fetches, *a.Fetch)
		}
	}
	if len(fetches) > 0 {
		if _, err := fmt.Fprintln(w, fetchesLine(fetches)); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := printNodes(w, s); err != nil {
		return err
	}
	var rows [][]string
	for _, g := range s.Segments {
		rows = append(rows, []string{g.ID, g.Network, modeOf(g), dutyOf(g), fmt.Sprint(g.Term), since(g.Since, s.Time), strings.Join(g.Nodes, ","), fmt.Sprint(g.Leases)})
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	if err := table(w, "SEGMENT NETWORK MODE DUTY TERM FOR NODES LEASES", rows); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printMachines(w, s)
}

// caChange says how far the replacement of the CA has come.
func caChange(c status.CAChange) string {
	text := fmt.Sprintf("the swarm's CA is being replaced: %d of %d nodes have new certificates", c.Renewed, c.Nodes)
	if c.Know < c.Nodes {
		text += fmt.Sprintf(", %d know the new CA", c.Know)
	}
	if len(c.Missing) > 0 {
		text += "; missing: " + plain(strings.Join(c.Missing, ", "))
	}
	return text
}

// limitLine says how fast nodes of different segments exchange artifacts.
func limitLine(limit int64) string {
	if limit == 0 {
		return "nodes of different segments exchange artifacts as fast as they can"
	}
	return fmt.Sprintf("each node exchanges artifacts with nodes of other segments at %s at most, each way", swarm.Rate(limit))
}

// modeOf says how a segment is served, and whether it was founded so.
func modeOf(g status.Segment) string {
	if g.Beside != "" {
		return g.Mode + " for now"
	}
	return g.Mode
}

// dutyOf says who serves a segment, in one cell.
func dutyOf(g status.Segment) string {
	switch {
	case g.Blocked != "":
		return "BLOCKED"
	case g.Next != "":
		return g.Holder + " → " + g.Next
	}
	return g.Holder
}

func printNodes(w io.Writer, s status.Status) error {
	var rows [][]string
	for _, n := range s.Nodes {
		kind := "durable"
		if !n.Durable {
			kind = "seed"
		}
		warm := "cold"
		if n.Warm {
			warm = "warm"
		}
		rows = append(rows, []string{n.Name, n.State, kind, n.Role, strings.Join(n.Duties, ","), warm, n.Address, since(n.Joined, s.Time)})
	}
	return table(w, "NODE STATE KIND LEDGER DUTY ARTIFACTS ADDRESS AGE", rows)
}

func printMachines(w io.Writer, s status.Status) error {
	var rows [][]string
	for _, m := range s.Machines {
		doing := ""
		switch {
		case m.Reason != "":
			doing = m.Reason
		case m.State == string(swarm.MachineInstalling) && m.Phase == "image":
			doing = fmt.Sprintf("image %d %%", m.Percent)
		case m.State == string(swarm.MachineInstalling), m.State == string(swarm.MachineReleasing):
			doing = cmp.Or(m.Phase, m.Text)
		}
		if m.Stalled {
			doing = strings.TrimSpace("STALLED " + doing)
		}
		if m.User != "" {
			doing = strings.TrimSpace(doing + " for " + m.User)
		}
		rows = append(rows, []string{m.Name, m.MAC, m.State, doing, m.Segment, m.Address, m.Profile})
	}
	return table(w, "MACHINE MAC STATE DOING SEGMENT ADDRESS PROFILE", rows)
}

func printMachine(w io.Writer, m status.Machine) error {
	if err := printMachines(w, status.Status{Machines: []status.Machine{m}}); err != nil {
		return err
	}
	lines := append(remarks(m), hardware(m.Inventory)...)
	if m.Arch != "" {
		lines = append(lines, "processor "+m.Arch+", as its firmware says")
	}
	if m.Boot != "" {
		lines = append(lines, "Boot programs that its firmware gets: "+m.Boot)
	}
	for _, line := range lines {
		if _, err := fmt.Fprintln(w, plain(line)); err != nil {
			return err
		}
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return printTimeline(w, m.Timeline)
}

// remarks are what operators said of a machine, a line each.
func remarks(m status.Machine) (lines []string) {
	for _, key := range slices.Sorted(maps.Keys(m.Labels)) {
		lines = append(lines, "label     "+key+"="+m.Labels[key])
	}
	if m.OwnDisk != "" {
		lines = append(lines, "own disk  by "+m.OwnDisk)
	}
	return lines
}

// hardware is an inventory, a line for each part.
func hardware(is *status.Inventory) (lines []string) {
	if is == nil {
		return nil
	}
	firmware := "BIOS"
	if is.EFI {
		firmware = "UEFI"
	}
	model := cmp.Or(strings.TrimSpace(is.Vendor+" "+is.Product), "machine without SMBIOS")
	lines = append(lines, fmt.Sprintf("hardware  %s, serial %s, %s, %d CPUs, %s memory", model, cmp.Or(is.Serial, "-"), firmware, is.CPUs, megabytes(is.Memory)))
	for _, d := range is.Disks {
		text := strings.Join(strings.Fields(fmt.Sprintf("disk %s %s %s %s", d.Path, megabytes(d.Size), d.Model, d.Serial)), " ")
		if d.Removable {
			text += " (removable)"
		}
		lines = append(lines, "          "+text)
	}
	for _, n := range is.NICs {
		link := "no link"
		if n.Link {
			link = "link"
		}
		lines = append(lines, fmt.Sprintf("          port %s %s %s", n.Name, n.MAC, link))
	}
	return lines
}

// printTimeline shows each event with the time since the first one.
func printTimeline(w io.Writer, events []status.Event) error {
	var rows [][]string
	for _, e := range events {
		mark := ""
		if e.Warn {
			mark = "!"
		}
		rows = append(rows, []string{e.Time.Local().Format(time.TimeOnly), fmt.Sprintf("+%.1fs", e.Time.Sub(events[0].Time).Seconds()), e.Node, mark + e.Kind, e.Text})
	}
	return table(w, "TIME AFTER SEEN-BY EVENT WHAT", rows)
}

func printTraces(w io.Writer, mac swarm.MAC, traces []status.Trace) error {
	if len(traces) == 0 {
		_, err := fmt.Fprintf(w, "No node has heard from %s since it started: check cable, port, boot order, and that the machine boots from this port.\n", mac)
		return err
	}
	var rows [][]string
	for _, t := range traces {
		answer := t.Answer
		switch {
		case answer == "":
			answer = "silence: " + t.Reason
		case t.Reason != "":
			answer += " (" + t.Reason + ")"
		}
		rows = append(rows, []string{t.Time.Local().Format("15:04:05.000"), t.Node, t.Proto, t.What, answer})
	}
	return table(w, "TIME NODE BY WHAT ANSWER", rows)
}
