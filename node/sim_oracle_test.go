package node

import (
	"fmt"
	"net/netip"
	"sync"
	"time"

	"offshoot/swarm"
)

// oracle sees what no node can: all answers and all clients at once, in true time. It judges the guarantees while a
// simulation runs, and keeps the first violation.
type oracle struct {
	mu       sync.Mutex
	began    time.Time
	wrong    []string
	terms    map[string]uint64       // by segment: the term of the last answer in full right
	speaker  map[uint64]string       // by term: who answered in it
	using    map[netip.Addr]use      // who uses an address, and until when
	commands map[uint64]string       // by index of the ledger: what was applied there
	nodes    map[string]swarm.NodeID // by ticket: the node that came of it
	history  *history
	answers  int
	acks     int
}

// use of an address by a client, as the client believes it.
type use struct {
	mac   swarm.MAC
	until time.Time
}

func newOracle() *oracle {
	return &oracle{
		began: time.Now(), history: newHistory(), terms: map[string]uint64{}, speaker: map[uint64]string{}, using: map[netip.Addr]use{},
		commands: map[uint64]string{}, nodes: map[string]swarm.NodeID{},
	}
}

func (o *oracle) violation(format string, args ...any) {
	o.wrong = append(o.wrong, fmt.Sprintf("%8.3fs  ", time.Since(o.began).Seconds())+fmt.Sprintf(format, args...))
}

// report is a violation that somebody else has seen.
func (o *oracle) report(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.violation(format, args...)
}

// answered is told of every DHCP answer of a node in the full right of its duty. G1: once somebody has answered in a later
// term, nobody does in an earlier one, and nobody shares a term.
func (o *oracle) answered(segment string, term uint64, by string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers++
	if last := o.terms[segment]; term < last {
		o.violation("G1: %s answered on %s in term %d after term %d had begun to answer", by, segment, term, last)
	}
	o.terms[segment] = max(o.terms[segment], term)
	if other, ok := o.speaker[term]; ok && other != by {
		o.violation("G1: %s and %s both answered in term %d", other, by, term)
	}
	o.speaker[term] = by
}

// bound is told by a client that it got an address. G2: nobody else uses it.
func (o *oracle) bound(mac swarm.MAC, addr netip.Addr, until time.Time, from string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.acks++
	if other, ok := o.using[addr]; ok && other.mac != mac && time.Now().Before(other.until) {
		o.violation("G2: %s was given to %s by %s while %s may use it for another %v", addr, mac, from, other.mac, time.Until(other.until))
	}
	o.using[addr] = use{mac, until}
}

// released is told by a client before it gives its address back.
func (o *oracle) released(addr netip.Addr) {
	o.mu.Lock()
	defer o.mu.Unlock()
	delete(o.using, addr)
}

// applied is told by every node what its state machine saw. G3: the same at the same place, everywhere and for ever.
func (o *oracle) applied(by swarm.NodeID, index uint64, command []byte) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if before, ok := o.commands[index]; ok && before != string(command) {
		o.violation("G3: %s applied another command at %d than was applied there before", by, index)
	}
	o.commands[index] = string(command)
}

// redeemed is told by a machine that a ticket made it a node. G6: one ticket, one node.
func (o *oracle) redeemed(ticket string, node swarm.NodeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if before, ok := o.nodes[ticket]; ok && before != node {
		o.violation("G6: ticket %s made %s a node, and %s", ticket, before, node)
	}
	o.nodes[ticket] = node
}

func (o *oracle) violations() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wrong
}
