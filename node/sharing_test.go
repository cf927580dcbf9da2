package node

import (
	"slices"
	"testing"

	"offshoot/swarm"
)

// on is a node with a port on each of these segments.
func on(id swarm.NodeID, warm bool, segments ...string) swarm.Node {
	n := swarm.Node{ID: id, Warm: warm, Ports: []swarm.Port{{Name: "unused"}}}
	for _, s := range segments {
		n.Ports = append(n.Ports, swarm.Port{Segment: s})
	}
	return n
}

func TestArtifactsCrossAnUplinkForWhoeverPullsOnly(t *testing.T) {
	t.Parallel()
	far, joint, near := on("far", true, "s1"), on("joint", true, "s1", "s2"), on("near", false, "s2")
	for name, c := range map[string]struct {
		own    swarm.Node
		others []swarm.Node
		pulls  bool
		want   []swarm.NodeID
	}{
		"on duty":                {on("own", false, "s2"), []swarm.Node{far, joint, near}, true, []swarm.NodeID{"joint", "near", "far"}},
		"beside who is on duty":  {on("own", false, "s2"), []swarm.Node{far, joint, near}, false, []swarm.NodeID{"joint", "near"}},
		"alone on its segment":   {on("own", false, "s3"), []swarm.Node{far, joint}, false, []swarm.NodeID{"far", "joint"}},
		"on no segment yet":      {on("own", false), []swarm.Node{far, joint}, false, []swarm.NodeID{"far", "joint"}},
		"nobody else is there":   {on("own", false, "s2"), nil, true, nil},
		"in the middle, no duty": {on("own", false, "s1", "s2"), []swarm.Node{far, near}, false, []swarm.NodeID{"far", "near"}},
	} {
		var got []swarm.NodeID
		for _, n := range exchangers(c.own, c.others, c.pulls) {
			got = append(got, n.ID)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestNeighboursThatFetchAskForDifferentPieces(t *testing.T) {
	t.Parallel()
	all := []swarm.Node{on("a", false, "s1"), on("b", false, "s1"), on("c", true, "s1"), on("d", false, "s2"), on("e", false, "s1")}
	for id, want := range map[swarm.NodeID][2]int{"a": {0, 3}, "b": {1, 3}, "e": {2, 3}, "d": {0, 1}} {
		at := slices.IndexFunc(all, func(n swarm.Node) bool { return n.ID == id })
		i, n := partOf(all[at], slices.Delete(slices.Clone(all), at, at+1))
		if got := [2]int{i, n}; got != want {
			t.Errorf("%s is the %d of %d, want %v", id, i, n, want)
		}
	}
}
