package swarm

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestVoters(t *testing.T) {
	nodes := []Node{{ID: "seed", Ephemeral: true, Joined: day}}
	for i := range 6 {
		nodes = append(nodes, Node{ID: NodeID(fmt.Sprint("d", i)), Joined: day.Add(time.Duration(i+1) * time.Hour)})
	}
	all := func(NodeID) bool { return true }
	for _, c := range []struct {
		name   string
		nodes  []Node
		voting map[NodeID]bool
		max    int
		usable func(NodeID) bool
		want   []NodeID
	}{
		{"the seed alone", nodes[:1], nil, 5, all, []NodeID{"seed"}},
		{"the first durable node alone", nodes[:2], map[NodeID]bool{"seed": true}, 5, all, []NodeID{"d0"}},
		{"two durable nodes are one voter", nodes[:3], map[NodeID]bool{"d0": true}, 5, all, []NodeID{"d0"}},
		{"three", nodes[:4], map[NodeID]bool{"d0": true}, 5, all, []NodeID{"d0", "d1", "d2"}},
		{"never more than max", nodes, nil, 3, all, []NodeID{"d0", "d1", "d2"}},
		{"five", nodes, nil, 5, all, []NodeID{"d0", "d1", "d2", "d3", "d4"}},
		{"who votes stays", nodes, map[NodeID]bool{"d5": true, "d3": true, "d4": true}, 3, all, []NodeID{"d3", "d4", "d5"}},
		{"not caught up", nodes[:2], nil, 5, func(id NodeID) bool { return id == "seed" }, []NodeID{"seed"}},
		{"quarantine", []Node{nodes[0], {ID: "q", Quarantine: "thief"}}, nil, 5, all, []NodeID{"seed"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Voters(c.nodes, c.voting, c.max, c.usable)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestAssign(t *testing.T) {
	setup := func(t *testing.T) (*house, NodeID) {
		h := founded(t)
		n := h.join(m1, "192.168.42.20")
		p, _ := func() (Node, bool) { return h.s.View().Node(n) }()
		h.must(n, ReportNode{Address: "x", Ports: p.Ports, Warm: true})
		return h, n
	}
	everyone := func(NodeID) bool { return true }
	never := func(Segment) bool { return false }
	assign := func(h *house, l Liveness) Op {
		s, _ := h.s.View().Segment("s1")
		return Assign(h.s.View(), s, l)
	}
	t.Run("a warm durable node is offered the seed's duty", func(t *testing.T) {
		h, n := setup(t)
		if diff := cmp.Diff(Op(OfferDuty{Segment: "s1", Term: 1, To: n}), assign(h, Liveness{everyone, never})); diff != "" {
			t.Fatal(diff)
		}
	})
	t.Run("a cold one is not", func(t *testing.T) {
		h, n := setup(t)
		node, _ := h.s.View().Node(n)
		h.must(n, ReportNode{Address: "x", Ports: node.Ports, Warm: false})
		if op := assign(h, Liveness{everyone, never}); op != nil {
			t.Fatalf("%+v", op)
		}
	})
	t.Run("an offer to a dead node is withdrawn", func(t *testing.T) {
		h, n := setup(t)
		h.must(seedID, OfferDuty{Segment: "s1", Term: 1, To: n})
		got := assign(h, Liveness{func(id NodeID) bool { return id != n }, never})
		if diff := cmp.Diff(Op(OfferDuty{Segment: "s1", Term: 1}), got); diff != "" {
			t.Fatal(diff)
		}
	})
	t.Run("nothing is granted before the holder's time is over", func(t *testing.T) {
		h, n := setup(t)
		h.must(seedID, OfferDuty{Segment: "s1", Term: 1, To: n})
		if op := assign(h, Liveness{func(id NodeID) bool { return id == n }, never}); op != nil {
			t.Fatalf("%+v", op)
		}
	})
	t.Run("the duty of a vanished holder is granted", func(t *testing.T) {
		h, n := setup(t)
		got, ok := assign(h, Liveness{func(id NodeID) bool { return id == n }, func(Segment) bool { return true }}).(GrantDuty)
		if !ok || got.To != n {
			t.Fatalf("%+v", got)
		}
		h.must(n, got)
		h.refused(n, got, ErrConflict) // its term is over
	})
	t.Run("a blocked segment stays without", func(t *testing.T) {
		h, _ := setup(t)
		h.must(seedID, BlockSegment{Segment: "s1", Reason: "foreign DHCP server"})
		if op := assign(h, Liveness{everyone, func(Segment) bool { return true }}); op != nil {
			t.Fatalf("%+v", op)
		}
	})
}
