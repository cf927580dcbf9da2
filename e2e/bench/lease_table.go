package main

import (
	"fmt"
	"io"
)

// row is a line of the table of figures, which has all of them whatever was measured.
type row int

const (
	rateAlone row = iota
	rateTogether
	delayAlone
	delayTogether
	takeover
	plannedMove
	growth
	statusTime
	restartTime
	rows
)

// table holds what was measured.
type table [rows]figure

func newTable() *table {
	t := &table{
		rateAlone:     {what: "4-way exchanges/s by perfdhcp, one node", want: ">= 1 x the better"},
		rateTogether:  {what: "the same with 3 voters, each lease on their disks", want: ">= 1.5 x Kea's pair"},
		delayAlone:    {what: "p99 DISCOVER to ACK at half of that, one node", want: "not worse"},
		delayTogether: {what: "p99 DISCOVER to ACK at half of that, 3 voters", want: "not worse"},
		takeover:      {what: "holder killed, next client has its lease after", want: "< 5 s, <= half of Kea tuned"},
		plannedMove:   {what: "planned move of duty: packets that clients repeat", want: "0"},
		growth:        {what: "leader of 400 nodes beside one of 100", want: "CPU and bytes/s <= 1.5 x"},
		statusTime:    {what: "status of 1,000 nodes, 10,000 machines", want: "< 100 ms, < 200 MB"},
		restartTime:   {what: "restart with 100,000 leases until it decides", want: "< 3 s"},
	}
	for i := range t {
		t[i].got = "not measured"
	}
	return t
}

func (t *table) set(r row, format string, args ...any) { t[r].got = fmt.Sprintf(format, args...) }

func (t *table) line(r row) string { return t[r].what + ": " + t[r].got }

func (t *table) print(w io.Writer) {
	_, _ = fmt.Fprintln(w)
	for _, f := range t {
		_, _ = fmt.Fprintf(w, "%-50s %-28s %s\n", f.what, "want "+f.want, f.got)
	}
}
