package main

import (
	"fmt"
	"io"
	"strings"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// moment is a point in time as people read it, in their zone.
func moment(t time.Time) string {
	if t.IsZero() {
		return "never"
	}
	return t.Local().Format("2006-01-02 15:04:05")
}

func printSegments(w io.Writer, s status.Status) error {
	var rows [][]string
	for _, g := range s.Segments {
		network := g.Network
		if g.Relay != nil {
			network += " via " + g.Relay.Here
		}
		rows = append(rows, []string{g.ID, network, dutyOf(g), fmt.Sprint(g.Term), since(g.Since, s.Time), strings.Join(g.Nodes, ","), fmt.Sprint(g.Leases), strings.Join(g.Pools, ",")})
	}
	return table(w, "SEGMENT NETWORK DUTY TERM FOR NODES LEASES POOLS", rows)
}

func printLeases(w io.Writer, all []status.Lease, now time.Time) error {
	var rows [][]string
	for _, l := range all {
		state, left := l.State, "-"
		if l.Reserved && l.State != status.LeaseReserved {
			state += ",reserved"
		}
		if d := l.Expires.Sub(now); d > 0 {
			left = since(now, l.Expires)
		}
		rows = append(rows, []string{l.Address, l.Segment, l.MAC, l.Name, state, left, l.Class, l.Hostname})
	}
	return table(w, "ADDRESS SEGMENT MAC MACHINE STATE LEFT CLIENT CALLS-ITSELF", rows)
}

func printTickets(w io.Writer, all []status.Ticket) error {
	var rows [][]string
	for _, t := range all {
		rows = append(rows, []string{t.ID, t.Name, t.Machine, t.Segment, t.Address, t.State, moment(t.Expires), t.Node})
	}
	return table(w, "TICKET MACHINE MAC SEGMENT ADDRESS STATE UNTIL NODE", rows)
}

func printOperators(w io.Writer, all []status.Operator) error {
	var rows [][]string
	for _, o := range all {
		state := "good"
		switch {
		case o.Revoked:
			state = "revoked"
		case o.Outdated:
			state = "renew" // the CA that signed it was replaced
		}
		rows = append(rows, []string{o.Name, o.Role, state, moment(o.NotAfter), o.Serial})
	}
	return table(w, "OPERATOR ROLE STATE UNTIL SERIAL", rows)
}

func printAudit(w io.Writer, all []status.AuditEntry) error {
	var rows [][]string
	for _, e := range all {
		what := e.Text
		if e.Refused != "" {
			what += " REFUSED: " + e.Refused
		}
		rows = append(rows, []string{moment(e.Time), e.Node, e.Actor, e.Op, what})
	}
	return table(w, "TIME ASKED WHO DECISION WHAT", rows)
}

func printEviction(w io.Writer, e status.Eviction) error {
	if _, err := fmt.Fprintf(w, "evicting %s (%s) would mean:\n", plain(e.Node.Name), e.Node.ID); err != nil {
		return err
	}
	for _, step := range e.Steps() {
		if _, err := fmt.Fprintln(w, "  - "+plain(step)); err != nil {
			return err
		}
	}
	for _, risk := range e.Risks {
		if _, err := fmt.Fprintln(w, "  RISK, needs --force: "+plain(risk)); err != nil {
			return err
		}
	}
	return nil
}

func printProfiles(w io.Writer, all []status.Profile) error {
	var rows [][]string
	for _, p := range all {
		standard, missing := "", ""
		if p.Default {
			standard = "yes"
		}
		if len(p.Missing) > 0 {
			missing = fmt.Sprintf("%d artifacts missing: offshoot profile lint %s", len(p.Missing), p.Name)
		}
		rows = append(rows, []string{p.Name, p.Driver, p.Release, p.Arch, megabytes(p.Bytes), fmt.Sprint(p.Machines), standard, missing})
	}
	return table(w, "PROFILE DRIVER RELEASE ARCH SIZE MACHINES DEFAULT PROBLEM", rows)
}

// printRendered prints all files one after another, each below its name.
func printRendered(w io.Writer, r status.Rendered) error {
	for _, f := range r.Files {
		if _, err := fmt.Fprintf(w, "==> %s <==\n%s\n", f.Name, f.Text); err != nil {
			return err
		}
	}
	return nil
}

func printMirror(w io.Writer, m status.Mirror) error {
	var rows [][]string
	for _, r := range m.Repos {
		from := r.Upstreams
		if len(r.Above) > 0 {
			from = r.Above
		}
		vouched := "signed"
		if !r.Signed {
			vouched = "unsigned"
		}
		rows = append(rows, []string{r.Name, vouched, megabytes(r.FromDisk), megabytes(r.FromMirrors), megabytes(r.FromUpstreams), fmt.Sprint(r.Pins), swarm.Rate(r.Limit).String(), r.Proxy, strings.Join(from, ",")})
	}
	if err := table(w, "REPO SIGNED FROM-DISK FROM-NODES FROM-UPSTREAM PINS LIMIT PROXY ASKS", rows); err != nil {
		return err
	}
	if len(m.Sets) > 0 {
		if _, err := fmt.Fprintln(w); err != nil {
			return err
		}
		if err := printSets(w, m.Sets); err != nil {
			return err
		}
	}
	for _, problem := range m.Problems {
		if _, err := fmt.Fprintln(w, "problem   "+plain(problem)); err != nil {
			return err
		}
	}
	return nil
}

// printSets shows what installs of each profile fetch, and how much of it the node has.
func printSets(w io.Writer, all []status.WorkingSet) error {
	var rows [][]string
	for _, s := range all {
		rows = append(rows, []string{s.Profile, fmt.Sprint(s.Files), megabytes(s.Bytes), fmt.Sprint(s.Here), s.State, s.Problem})
	}
	return table(w, "PROFILE FILES SIZE HERE WORKING-SET PROBLEM", rows)
}

// megabytes is a size as people read it.
func megabytes(n int64) string { return fmt.Sprintf("%.1f MB", float64(n)/1e6) }
