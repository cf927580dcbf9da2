package swarm

import (
	"cmp"
	"slices"
)

// MaxMembers is how many nodes take part in raft at most: its leader sends every command to each of them. All others follow
// the one that serves their segment.
const MaxMembers = 24

// spares is how many durable nodes beside the voters are kept ready for a vote.
const spares = 2

// Members says who takes part in raft, the most important first: who should vote or does, spares for the vote, holders of
// duty, and one stand-by for each segment, while there is room. members are the present ones, and whether they vote;
// incumbents stay where several would do. alive should give an incumbent some time to come back.
func Members(v View, members map[NodeID]bool, alive func(NodeID) bool) []NodeID {
	settings, _ := v.Settings()
	nodes := v.Nodes()
	m := roster{chosen: map[NodeID]bool{}}
	usable := map[NodeID]Node{}
	for _, n := range nodes {
		if n.Eligible() && alive(n.ID) {
			usable[n.ID] = n
		}
	}
	voting := map[NodeID]bool{}
	for id, votes := range members {
		voting[id] = votes
	}
	for _, id := range Voters(nodes, voting, settings.Voters, alive) {
		m.add(id)
	}
	for _, n := range nodes { // a voter is demoted before it goes
		if members[n.ID] && n.Eligible() {
			m.add(n.ID)
		}
	}
	incumbentsFirst := func(a, b Node) int {
		_, x := members[a.ID]
		_, y := members[b.ID]
		return cmp.Or(-compareBool(x, y), a.Joined.Compare(b.Joined), cmp.Compare(a.ID, b.ID))
	}
	m.addFirst(spares, incumbentsFirst, usable, func(n Node) bool { return !n.Ephemeral && !m.chosen[n.ID] })

	segments := v.Segments()
	holds := map[NodeID]bool{}
	for _, s := range segments {
		holds[s.Duty.Holder] = true
	}
	m.addFirst(MaxMembers, incumbentsFirst, usable, func(n Node) bool { return holds[n.ID] && !m.chosen[n.ID] })
	m.standBys(v, segments, usable, incumbentsFirst)
	return m.all
}

// roster is the list being made.
type roster struct {
	all    []NodeID
	chosen map[NodeID]bool
}

func (m *roster) add(id NodeID) {
	if !m.chosen[id] && len(m.all) < MaxMembers {
		m.chosen[id] = true
		m.all = append(m.all, id)
	}
}

// addFirst adds the first few of those that fit.
func (m *roster) addFirst(count int, order func(a, b Node) int, from map[NodeID]Node, fits func(Node) bool) {
	var some []Node
	for _, n := range from {
		if fits(n) {
			some = append(some, n)
		}
	}
	slices.SortFunc(some, order)
	for _, n := range some[:min(count, len(some))] {
		m.add(n.ID)
	}
}

// standBys adds one node for each segment that could take its duty over at once, unless one is there already.
func (m *roster) standBys(v View, segments []Segment, usable map[NodeID]Node, order func(a, b Node) int) {
	slices.SortStableFunc(segments, func(a, b Segment) int { return a.Opened.Compare(b.Opened) })
	for _, s := range segments {
		var candidates []Node
		ready := false
		for _, n := range v.serversOf(s) {
			if _, ok := usable[n.ID]; ok && n.ID != s.Duty.Holder {
				candidates = append(candidates, *n)
				ready = ready || m.chosen[n.ID]
			}
		}
		if ready || len(candidates) == 0 {
			continue
		}
		m.add(slices.MinFunc(candidates, func(a, b Node) int {
			return cmp.Or(-compareBool(a.ID == s.Duty.Next, b.ID == s.Duty.Next), -compareBool(a.Warm, b.Warm), order(a, b))
		}).ID)
	}
}
