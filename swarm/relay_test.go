package swarm

import (
	"net/netip"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func farSegment(network, there, here string) AddSegment {
	return AddSegment{netip.MustParsePrefix(network), netip.MustParseAddr(there), netip.MustParseAddr(here)}
}

func TestSegmentBehindARelayIsOneThatNodesCanReach(t *testing.T) {
	h := founded(t)
	h.must(seedID, ReportNode{Address: "x", Warm: true, Ports: []Port{{MAC: "02:00:00:00:00:01", Link: true, Segment: "s1", Address: netip.MustParsePrefix("192.168.42.1/24")}}})
	for _, bad := range []AddSegment{
		farSegment("10.9.0.7/24", "10.9.0.1", "192.168.42.254"), farSegment("10.0.0.0/8", "10.9.0.1", "192.168.42.254"),
		farSegment("10.9.0.0/31", "10.9.0.1", "192.168.42.254"), farSegment("2001:db8::/64", "10.9.0.1", "192.168.42.254"),
		farSegment("10.9.0.0/24", "10.8.0.1", "192.168.42.254"), farSegment("10.9.0.0/24", "10.9.0.255", "192.168.42.254"), {},
	} {
		h.refused(seedID, bad, ErrInvalid)
	}
	h.refused(seedID, farSegment("192.168.42.128/25", "192.168.42.129", "192.168.42.254"), ErrConflict)
	h.refused(seedID, farSegment("10.9.0.0/24", "10.9.0.1", "172.16.0.1"), ErrNotFound)
	h.refused(seedID, farSegment("10.9.0.0/24", "10.9.0.1", "192.168.42.1"), ErrConflict) // the node itself
	h.must(seedID, farSegment("10.9.0.0/24", "10.9.0.1", "192.168.42.254"))
	h.refused(seedID, farSegment("10.9.1.0/24", "10.9.1.1", "10.9.0.254"), ErrNotFound) // behind two of them
	s, _ := h.s.View().Segment("s2")
	if s.Duty.Holder != seedID || s.Duty.Term != 2 || s.Relay != (Relay{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("192.168.42.254"), "s1"}) {
		t.Errorf("added %+v", s)
	}
	// What nodes open later lies beside.
	h.must(seedID, ReserveAddress{MAC: m1, Addr: netip.MustParseAddr("10.9.0.7")})
	h.must(seedID, BindLeases{Segment: "s2", Term: 2, Leases: []Lease{{MAC: m1, Addr: netip.MustParseAddr("10.9.0.7"), Class: "os", Expires: h.now.Add(time.Hour)}}})
	h.refused(seedID, RemoveSegment{"s1"}, ErrConflict)
	h.refused(seedID, RemoveSegment{"s9"}, ErrNotFound)
	h.must(seedID, RemoveSegment{"s2"})
	v := h.s.View()
	if _, ok := v.Segment("s2"); ok || len(v.Leases()) != 0 || len(v.Reservations()) != 0 {
		t.Errorf("left behind: %+v %+v", v.Leases(), v.Reservations())
	}
}

// TestDutyBehindARelayGoesToWhoStandsThere: until somebody does, whoever the relay finds serves the segment.
func TestDutyBehindARelayGoesToWhoStandsThere(t *testing.T) {
	h := founded(t)
	port := func(segment, address string) []Port {
		return []Port{{MAC: "02:00:00:00:00:01", Link: true, Segment: segment, Address: netip.MustParsePrefix(address)}}
	}
	h.must(seedID, ReportNode{Address: "x", Warm: true, Ports: port("s1", "192.168.42.1/24")})
	h.must(seedID, farSegment("10.9.0.0/24", "10.9.0.1", "192.168.42.254"))
	assign := func(expired bool) Op {
		s, _ := h.s.View().Segment("s2")
		return Assign(h.s.View(), s, Liveness{func(NodeID) bool { return true }, func(Segment) bool { return expired }})
	}
	if op := assign(false); op != nil {
		t.Fatalf("the seed is alone: %+v", op)
	}
	near := h.join(m1, "192.168.42.20")
	h.must(near, ReportNode{Address: "y", Warm: true, Ports: port("s1", "192.168.42.20/24")})
	if diff := cmp.Diff(Op(OfferDuty{Segment: "s2", Term: 2, To: near}), assign(false)); diff != "" {
		t.Fatal("a seed leaves: ", diff)
	}
	h.must(seedID, GrantDuty{Segment: "s2", Term: 2, To: near})
	if op := assign(false); op != nil {
		t.Fatalf("a node that stays keeps it: %+v", op)
	}
	far := h.join(m2, "192.168.42.21")
	s, _ := h.s.View().Segment("s2")
	h.must(far, ReportNode{Address: "z", Ports: port("s2", "10.9.0.21/24")})
	if op := assign(false); op != nil {
		t.Fatalf("it is not warm yet: %+v", op)
	}
	h.must(far, ReportNode{Address: "z", Warm: true, Ports: port("s2", "10.9.0.21/24")})
	if diff := cmp.Diff(Op(OfferDuty{Segment: "s2", Term: s.Duty.Term, To: far}), assign(false)); diff != "" {
		t.Fatal("somebody stands there: ", diff)
	}
	h.must(seedID, GrantDuty{Segment: "s2", Term: s.Duty.Term, To: far})
	if op := assign(false); op != nil {
		t.Fatalf("it keeps it: %+v", op)
	}
	if op, ok := assign(true).(GrantDuty); !ok || op.To != near {
		t.Fatalf("it is gone: %+v", op)
	}
	h.refused(seedID, RemoveSegment{"s2"}, ErrConflict)
}
