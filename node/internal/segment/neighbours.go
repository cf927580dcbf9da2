package segment

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"offshoot/swarm"
)

// Neighbour is a node of our swarm that was heard on a port. It may be this node itself, on another of its ports: then
// the two ports share one segment, and only one of them may ever serve it.
type Neighbour struct {
	Port    string // ours, where it was heard
	Node    swarm.NodeID
	MAC     swarm.MAC  // of its port
	Segment string     // which segment it knows this to be; empty: nobody serves it here
	Addr    netip.Addr // its address there, invalid if it has none
	First   time.Time
	Last    time.Time
}

// Stranger is another swarm that was heard on a port. Nothing about it is authenticated: treat it as a reason to hold
// back, not as a fact.
type Stranger struct {
	Port  string
	Swarm string
	MAC   swarm.MAC
	// Served says that the other swarm knows this segment as one of its own.
	Served bool
	First  time.Time
	Last   time.Time
}

const (
	// maxNeighbours bounds the table; more nodes than this on one layer 2 are beyond every other limit of a segment.
	maxNeighbours = 4096
	// maxStrangers bounds what a forger can make us remember.
	maxStrangers = 64
)

// errReplay says that a hello is not newer than the last of its sender.
var errReplay = errors.New("hello is not newer than the last one")

type neighbourKey struct {
	port string
	node swarm.NodeID
	mac  swarm.MAC
}

type strangerKey struct {
	port, swarm string
	mac         swarm.MAC
}

type neighbourEntry struct {
	Neighbour
	seq uint64
}

// table is who was heard lately. Not safe for concurrent use; time is always an argument. Sequence numbers are remembered
// as long as the neighbour is: a recorded frame can be played back once its sender fell silent, which gains an attacker
// on the segment nothing that a DHCP server of his own would not.
type table struct {
	neighbours map[neighbourKey]*neighbourEntry
	strangers  map[strangerKey]*Stranger
}

func newTable() *table {
	return &table{neighbours: make(map[neighbourKey]*neighbourEntry), strangers: make(map[strangerKey]*Stranger)}
}

// hear records an authenticated hello; changed says that a reader of the table would see something new.
func (t *table) hear(port string, h hello, now time.Time) (changed bool, err error) {
	key := neighbourKey{port, h.Node, h.MAC}
	e, known := t.neighbours[key]
	if !known {
		if len(t.neighbours) >= maxNeighbours {
			return false, fmt.Errorf("more than %d neighbours", maxNeighbours)
		}
		t.neighbours[key] = &neighbourEntry{seq: h.Seq, Neighbour: Neighbour{
			Port: port, Node: h.Node, MAC: h.MAC, Segment: h.Segment, Addr: h.Addr, First: now, Last: now,
		}}
		return true, nil
	}
	if h.Seq <= e.seq {
		return false, errReplay
	}
	changed = e.Segment != h.Segment || e.Addr != h.Addr
	e.seq, e.Last, e.Segment, e.Addr = h.Seq, now, h.Segment, h.Addr
	return changed, nil
}

// meet records a hello of another swarm.
func (t *table) meet(port string, g greeting, now time.Time) (changed bool) {
	key := strangerKey{port, g.swarm, g.from}
	s, known := t.strangers[key]
	if !known {
		if len(t.strangers) >= maxStrangers {
			return false
		}
		t.strangers[key] = &Stranger{Port: port, Swarm: g.swarm, MAC: g.from, Served: g.served, First: now, Last: now}
		return true
	}
	changed = s.Served != g.served
	s.Served, s.Last = g.served, now
	return changed
}

// expire forgets who was last heard before the given time.
func (t *table) expire(before time.Time) (changed bool) {
	for key, e := range t.neighbours {
		if e.Last.Before(before) {
			delete(t.neighbours, key)
			changed = true
		}
	}
	for key, s := range t.strangers {
		if s.Last.Before(before) {
			delete(t.strangers, key)
			changed = true
		}
	}
	return changed
}

// drop forgets everyone on a port.
func (t *table) drop(port string) {
	for key := range t.neighbours {
		if key.port == port {
			delete(t.neighbours, key)
		}
	}
	for key := range t.strangers {
		if key.port == port {
			delete(t.strangers, key)
		}
	}
}

// on lists the neighbours on one port, or on all if port is empty, ordered by port, node and MAC.
func (t *table) on(port string) []Neighbour {
	var out []Neighbour
	for key, e := range t.neighbours {
		if port == "" || key.port == port {
			out = append(out, e.Neighbour)
		}
	}
	slices.SortFunc(out, func(a, b Neighbour) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Node, b.Node), cmp.Compare(a.MAC, b.MAC))
	})
	return out
}

// strange lists the strangers on one port, or on all if port is empty, ordered by port, swarm and MAC.
func (t *table) strange(port string) []Stranger {
	var out []Stranger
	for key, s := range t.strangers {
		if port == "" || key.port == port {
			out = append(out, *s)
		}
	}
	slices.SortFunc(out, func(a, b Stranger) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Swarm, b.Swarm), cmp.Compare(a.MAC, b.MAC))
	})
	return out
}
