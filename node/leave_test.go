package node

import (
	"testing"

	"offshoot/swarm"
	"offshoot/swarm/ledger"
)

// TestNobodyLeavesWithTheOnlyVoteWhileOthersLive: the ledger would have no leader any more, and nothing but recover would help.
func TestNobodyLeavesWithTheOnlyVoteWhileOthersLive(t *testing.T) {
	t.Parallel()
	const self, other swarm.NodeID = "a", "b"
	voter := func(ids ...swarm.NodeID) (all []ledger.Member) {
		for _, id := range ids {
			all = append(all, ledger.Member{ID: id, Voter: true})
		}
		return all
	}
	for what, c := range map[string]struct {
		members []ledger.Member
		nodes   []swarm.Node
		dead    bool
		want    bool
	}{
		"alone":                                 {voter(self), []swarm.Node{{ID: self, Left: true}}, false, false},
		"the other one is about to vote":        {voter(self), []swarm.Node{{ID: self, Left: true}, {ID: other, Ephemeral: true}}, false, true},
		"the other one is dead":                 {voter(self), []swarm.Node{{ID: self, Left: true}, {ID: other}}, true, false},
		"the other one has left":                {voter(self), []swarm.Node{{ID: self, Left: true}, {ID: other, Left: true}}, false, false},
		"both vote":                             {voter(self, other), []swarm.Node{{ID: self, Left: true}, {ID: other}}, false, true},
		"both vote, and the other one is dead":  {voter(self, other), []swarm.Node{{ID: self, Left: true}, {ID: other}}, true, true},
		"the other one votes, and this not":     {voter(other), []swarm.Node{{ID: self, Left: true}, {ID: other}}, false, false},
		"the other one votes, this is a member": {append(voter(other), ledger.Member{ID: self}), []swarm.Node{{ID: self, Left: true}, {ID: other}}, false, false},
	} {
		if got := carries(c.members, self, c.nodes, func(swarm.NodeID) bool { return !c.dead }); got != c.want {
			t.Errorf("%s: carries %v, want %v", what, got, c.want)
		}
	}
}
