package swarm

import (
	"net/netip"
	"testing"
)

func TestSegmentsDoNotOverlap(t *testing.T) {
	h := founded(t)
	n := h.join(m1, "192.168.42.20")
	h.must(n, ReportNode{Address: "x", Ports: []Port{{Name: "a", MAC: m1, Segment: "s1"}, {Name: "b", MAC: "02:00:00:00:01:01"}, {Name: "c", MAC: "02:00:00:00:01:02"}}})
	var a, b, again Segment
	_ = h.must(n, OpenSegment{Port: "02:00:00:00:01:01"}).Decode(&a)
	_ = h.must(n, OpenSegment{Port: "02:00:00:00:01:02"}).Decode(&b)
	_ = h.must(n, OpenSegment{Port: "02:00:00:00:01:02"}).Decode(&again)
	if a.Network.String() != "10.42.0.0/24" || b.Network.String() != "10.42.1.0/24" || again.ID != b.ID {
		t.Fatalf("%v %v %v", a.Network, b.Network, again.ID)
	}
	if a.Duty.Holder != n || a.Duty.Term == b.Duty.Term {
		t.Fatalf("duty %+v %+v", a.Duty, b.Duty)
	}
}

// TestSegmentHidesNothingThatItsNodeReaches: a route to it would be narrower than the other one, and win.
func TestSegmentHidesNothingThatItsNodeReaches(t *testing.T) {
	h := founded(t)
	n := h.join(m1, "192.168.42.20")
	h.must(n, ReportNode{Address: "x", Ports: []Port{{Name: "a", MAC: m1, Segment: "s1"}, {Name: "b", MAC: "02:00:00:00:01:01"}, {Name: "c", MAC: "02:00:00:00:01:02"}}})
	nets := func(all ...string) (out []netip.Prefix) {
		for _, p := range all {
			out = append(out, netip.MustParsePrefix(p))
		}
		return out
	}
	var got Segment
	_ = h.must(n, OpenSegment{Port: "02:00:00:00:01:01", Beside: nets("10.42.0.64/28", "10.42.1.0/24", "10.42.2.0/23", "172.17.0.0/16")}).Decode(&got)
	if got.Network.String() != "10.42.4.0/24" {
		t.Errorf("opened %s", got.Network)
	}
	h.refused(n, OpenSegment{Port: "02:00:00:00:01:02", Beside: nets("10.0.0.0/8")}, ErrFull)
	h.refused(n, OpenSegment{Port: "02:00:00:00:01:02", Beside: make([]netip.Prefix, maxBeside+1)}, ErrInvalid)
}

// TestReportOfANodeThatHasJustStartedTakesNoPortOffItsSegment: it may not have read the ledger to its end yet.
func TestReportOfANodeThatHasJustStartedTakesNoPortOffItsSegment(t *testing.T) {
	h := founded(t)
	n := h.join(m1, "192.168.42.20")
	report := ReportNode{Address: "x", Ports: []Port{{Name: "a", MAC: m1, Segment: "s1"}, {Name: "b", MAC: "02:00:00:00:01:01"}}}
	h.must(n, report)
	var before, after Segment
	_ = h.must(n, OpenSegment{Port: "02:00:00:00:01:01"}).Decode(&before)
	h.must(n, report)
	_ = h.must(n, OpenSegment{Port: "02:00:00:00:01:01"}).Decode(&after)
	if p := h.node(n).Ports[1]; after.ID != before.ID || p.Segment != before.ID || !before.Network.Contains(p.Address.Addr()) {
		t.Errorf("the port was on %s, and is on %s with %s", before.ID, after.ID, p.Address)
	}
}
