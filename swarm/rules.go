package swarm

import (
	"cmp"
	"slices"
)

// Voters says which nodes should vote on the ledger: an odd number of durable nodes, at most max; without any durable
// node, the seed. Nodes that vote already come first, then the oldest, so that the set changes as little as it can.
// usable tells whether a node is reachable and has caught up.
func Voters(nodes []Node, voting map[NodeID]bool, max int, usable func(NodeID) bool) []NodeID {
	var durable, ephemeral []Node
	for _, n := range nodes {
		switch {
		case !n.Eligible() || !usable(n.ID):
		case n.Ephemeral:
			ephemeral = append(ephemeral, n)
		default:
			durable = append(durable, n)
		}
	}
	if len(durable) == 0 {
		durable = ephemeral[:min(1, len(ephemeral))]
	}
	slices.SortStableFunc(durable, func(a, b Node) int {
		return cmp.Or(-compareBool(voting[a.ID], voting[b.ID]), a.Joined.Compare(b.Joined), cmp.Compare(a.ID, b.ID))
	})
	count := min(len(durable), max)
	if count > 0 && count%2 == 0 {
		count--
	}
	var out []NodeID
	for _, n := range durable[:count] {
		out = append(out, n.ID)
	}
	return out
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case a:
		return 1
	}
	return -1
}

// Liveness is what the leader knows of the nodes' reachability when it assigns duties.
type Liveness struct {
	Alive   func(NodeID) bool    // gossip reaches it
	Expired func(s Segment) bool // the holder has not renewed for longer than the TTL and its margin
}

// Assign says what should happen to the duty on one segment: nothing (nil), an offer to the holder to pass it on, the
// withdrawal of an offer, or a grant once the holder's time is over. The order of choice: warm before cold, durable before
// ephemeral, on the segment before behind a relay, the incumbent, least loaded. A holder that lost its right (it left, or is in quarantine) is not renewed, so
// its time runs out like that of a dead one: granting earlier could make two nodes answer.
func Assign(v View, s Segment, l Liveness) Op {
	if s.Blocked != "" {
		return nil
	}
	if l.Expired(s) {
		others := func(id NodeID) bool { return id != s.Duty.Holder && l.Alive(id) }
		best, found := Heir(v, s, others)
		if !found {
			best, found = Heir(v, s, l.Alive)
		}
		if !found {
			return nil
		}
		return GrantDuty{Segment: s.ID, Term: s.Duty.Term, To: best.ID, Why: "the former holder is gone"}
	}
	if s.Duty.Next != "" {
		if n, ok := v.Node(s.Duty.Next); !ok || !n.Eligible() || !l.Alive(n.ID) {
			return OfferDuty{Segment: s.ID, Term: s.Duty.Term}
		}
		return nil
	}
	holder, _ := v.Node(s.Duty.Holder)
	_, on := holder.On(s.ID)
	if !holder.Ephemeral && (on || !s.Relayed()) {
		return nil
	}
	best, found := Heir(v, s, l.Alive)
	if _, there := best.On(s.ID); found && best.ID != holder.ID && !best.Ephemeral && best.Warm && (there || holder.Ephemeral) {
		return OfferDuty{Segment: s.ID, Term: s.Duty.Term, To: best.ID}
	}
	return nil
}

// Heir is the node that should hold duty on a segment, chosen among those that alive admits and that proved to be on it.
func Heir(v View, s Segment, alive func(NodeID) bool) (Node, bool) {
	var candidates []Node
	load := map[NodeID]int{}
	for other := range each[Segment](v.txn, "segment", "id") {
		if other.ID != s.ID {
			load[other.Duty.Holder]++
		}
	}
	for _, n := range v.serversOf(s) {
		if n.Eligible() && alive(n.ID) {
			candidates = append(candidates, *n)
		}
	}
	if len(candidates) == 0 {
		return Node{}, false
	}
	stands := func(n Node) bool { // on the segment itself: it needs no relay
		_, on := n.On(s.ID)
		return on
	}
	rank := func(a, b Node) int {
		return cmp.Or(
			-compareBool(a.Warm, b.Warm),
			compareBool(a.Ephemeral, b.Ephemeral),
			-compareBool(stands(a), stands(b)),
			-compareBool(a.ID == s.Duty.Holder, b.ID == s.Duty.Holder),
			cmp.Compare(load[a.ID], load[b.ID]),
			a.Joined.Compare(b.Joined),
			cmp.Compare(a.ID, b.ID),
		)
	}
	return slices.MinFunc(candidates, rank), true
}
