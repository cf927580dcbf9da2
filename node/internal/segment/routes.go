package segment

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"

	"offshoot/swarm"
)

// Topology is who stands where, as the caller believes it now. Only nodes that may carry traffic belong in Nodes: whoever
// is dead or has left is filtered by the caller, who knows.
type Topology struct {
	// Segments maps a segment's id to its network.
	Segments map[string]netip.Prefix
	// Nodes maps a node to its own address in each segment that it joins.
	Nodes map[swarm.NodeID]map[string]netip.Addr
}

// Route leads to one segment through the next node on the way. Via is an address in a segment that self joins.
type Route struct {
	Dst netip.Prefix
	Via netip.Addr
}

// Routes computes one route from self to each segment that it does not join and that others reach: a breadth-first
// search over the graph of nodes and segments, so the way with the fewest nodes wins; among equals the segment and then
// the node whose id sorts first, so that every call with one topology gives one answer. Unreachable segments are left
// out. Sorted by destination. Addresses outside their segment's network are not believed.
func Routes(self swarm.NodeID, t Topology) []Route {
	first := make(map[string]netip.Addr) // segment -> first hop towards it; the zero Addr for our own
	var queue []string
	for _, seg := range joined(t, self) {
		first[seg] = netip.Addr{}
		queue = append(queue, seg)
	}
	nodes := slices.Sorted(maps.Keys(t.Nodes))
	asked := map[swarm.NodeID]bool{self: true}
	var routes []Route
	for len(queue) > 0 {
		seg := queue[0]
		queue = queue[1:]
		for _, node := range nodes {
			if asked[node] || !stands(t, node, seg) {
				continue
			}
			asked[node] = true
			via := first[seg]
			if !via.IsValid() {
				via = t.Nodes[node][seg]
			}
			for _, next := range joined(t, node) {
				if _, known := first[next]; known {
					continue
				}
				first[next] = via
				queue = append(queue, next)
				routes = append(routes, Route{Dst: t.Segments[next].Masked(), Via: via})
			}
		}
	}
	slices.SortFunc(routes, func(a, b Route) int {
		return cmp.Or(a.Dst.Addr().Compare(b.Dst.Addr()), cmp.Compare(a.Dst.Bits(), b.Dst.Bits()))
	})
	return routes
}

// joined lists the segments in which the node has an address, sorted.
func joined(t Topology, node swarm.NodeID) []string {
	var segs []string
	for seg := range t.Nodes[node] {
		if stands(t, node, seg) {
			segs = append(segs, seg)
		}
	}
	slices.Sort(segs)
	return segs
}

func stands(t Topology, node swarm.NodeID, seg string) bool {
	addr, ok := t.Nodes[node][seg]
	return ok && addr.Is4() && t.Segments[seg].Contains(addr)
}
