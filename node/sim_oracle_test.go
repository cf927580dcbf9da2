package node

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/anishathalye/porcupine"

	"offshoot/swarm"
)

// oracle sees what no node can: all answers and all clients at once, in true time. It judges the guarantees while a
// simulation runs, and keeps the first violation.
type oracle struct {
	mu       sync.Mutex
	began    time.Time
	wrong    []string
	suspects []string                // addresses and tickets that violations are about
	trail    []sighting              // of addresses and tickets, as clients and machines told it
	terms    map[string]uint64       // by segment: the term of the last answer in full right
	speaker  map[uint64]string       // by term: who answered in it
	using    map[netip.Addr]use      // who uses an address, and until when
	commands map[uint64]applied      // by index of the ledger: what was applied there
	nodes    map[string]swarm.NodeID // by ticket: the node that came of it
	history  *history
	answers  int
	acks     int
}

// applied is a command of the ledger, and who was the first to apply it.
type applied struct {
	command string
	by      swarm.NodeID
	at      time.Duration
}

// sighting is what a client or a machine told of an address or a ticket.
type sighting struct {
	at    time.Duration
	about string
	text  string
}

// use of an address by a client, as the client believes it.
type use struct {
	mac   swarm.MAC
	until time.Time
}

func newOracle() *oracle {
	return &oracle{
		began: time.Now(), history: newHistory(), terms: map[string]uint64{}, speaker: map[uint64]string{}, using: map[netip.Addr]use{},
		commands: map[uint64]applied{}, nodes: map[string]swarm.NodeID{},
	}
}

// now is the time since the oracle began, in which all that a failure prints is told.
func (o *oracle) now() time.Duration { return time.Since(o.began) }

// violation is told under mu. about is the address or the ticket in question, "" if it is about none.
func (o *oracle) violation(about, format string, args ...any) {
	o.wrong = append(o.wrong, line(o.now(), format, args...))
	if about != "" && !slices.Contains(o.suspects, about) {
		o.suspects = append(o.suspects, about)
	}
}

func line(at time.Duration, format string, args ...any) string {
	return fmt.Sprintf("%7.3fs  ", at.Seconds()) + fmt.Sprintf(format, args...)
}

// report is a violation that somebody else has seen.
func (o *oracle) report(format string, args ...any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.violation("", format, args...)
}

// answered is told of every DHCP answer of a node in the full right of its duty. G1: once somebody has answered in a later
// term, nobody does in an earlier one, and nobody shares a term.
func (o *oracle) answered(segment string, term uint64, by string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.answers++
	if last := o.terms[segment]; term < last {
		o.violation("", "G1: %s answered on %s in term %d after term %d had begun to answer", by, segment, term, last)
	}
	o.terms[segment] = max(o.terms[segment], term)
	if other, ok := o.speaker[term]; ok && other != by {
		o.violation("", "G1: %s and %s both answered in term %d", other, by, term)
	}
	o.speaker[term] = by
}

// bound is told by a client that it got an address. G2: nobody else uses it.
func (o *oracle) bound(mac swarm.MAC, addr netip.Addr, until time.Time, from string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.acks++
	if other, ok := o.using[addr]; ok && other.mac != mac && time.Now().Before(other.until) {
		o.violation(addr.String(), "G2: %s was given to %s by %s while %s may use it for another %v", addr, mac, from, other.mac, time.Until(other.until))
	}
	o.using[addr] = use{mac, until}
	o.sight(addr.String(), "bound to %s by %s until %.3fs", mac, from, until.Sub(o.began).Seconds())
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
	before, ok := o.commands[index]
	if ok && before.command != string(command) {
		o.violation("", "G3: %s applied another command at %d than was applied there before", by, index)
	}
	if !ok {
		o.commands[index] = applied{string(command), by, o.now()}
	}
}

// redeemed is told by a machine that a ticket made it a node. G6: one ticket, one node.
func (o *oracle) redeemed(ticket string, node swarm.NodeID) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if before, ok := o.nodes[ticket]; ok && before != node {
		o.violation(ticket, "G6: ticket %s made %s a node, and %s", ticket, before, node)
	}
	o.nodes[ticket] = node
	o.sight(ticket, "redeemed by %s", node)
}

func (o *oracle) violations() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.wrong
}

// judgeHistory asks the other judge, at the end. G2, G6.
func (o *oracle) judgeHistory() {
	if o.history.judge() {
		return
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, ops := range ownership().Partition(o.history.ops) {
		if what := ops[0].Input.(claim).what; !porcupine.CheckOperations(ownership(), ops) {
			o.violation(what, "G2, G6: the history of %s is not linearizable", what)
		}
	}
}

// sight is told under mu.
func (o *oracle) sight(about, format string, args ...any) {
	o.trail = append(o.trail, sighting{o.now(), about, fmt.Sprintf(format, args...)})
}

// trails are all that happened to the addresses and tickets in question: what clients and machines told, and every command of
// the ledger that names them. A violation that hardly comes again has to be understood from its one output.
func (o *oracle) trails() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	var out strings.Builder
	for _, about := range o.suspects {
		var all []sighting
		for _, s := range o.trail {
			if s.about == about {
				all = append(all, s)
			}
		}
		for _, op := range o.history.ops {
			if c := op.Input.(claim); c.what == about && c.verb != take {
				text := c.who + " uses it no longer"
				if c.verb == denied {
					text = "refused to " + c.who
				}
				all = append(all, sighting{time.Duration(op.Return), about, text})
			}
		}
		for index, a := range o.commands {
			if strings.Contains(a.command, `"`+about+`"`) {
				all = append(all, sighting{a.at, about, fmt.Sprintf("ledger %d, first applied by %s: %s", index, a.by, gist(a.command, about))})
			}
		}
		slices.SortStableFunc(all, func(a, b sighting) int { return cmp.Compare(a.at, b.at) })
		fmt.Fprintf(&out, "the trail of %s:\n", about)
		for _, s := range all {
			fmt.Fprintln(&out, line(s.at, "%s", s.text))
		}
	}
	return out.String()
}

// gist is what a command says of an address or a ticket.
func gist(command, about string) string {
	c, err := swarm.DecodeCommand([]byte(command))
	if err != nil {
		return err.Error()
	}
	if b, ok := c.Op.(swarm.BindLeases); ok { // for many machines at once
		b.Leases = slices.DeleteFunc(b.Leases, func(l swarm.Lease) bool { return l.Addr.String() != about })
		maps.DeleteFunc(b.Over, func(a netip.Addr, _ time.Time) bool { return a.String() != about })
		c.Op = b
	}
	args, err := json.Marshal(c.Op)
	if err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%s proposed %T %s", c.By, c.Op, args)
}

func TestViolationShowsTheTrailOfWhatItIsAbout(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		o := newOracle()
		addr, other := netip.MustParseAddr("10.42.0.2"), netip.MustParseAddr("10.42.0.20")
		bind := swarm.BindLeases{Segment: "s1", Term: 3}
		for i, a := range []netip.Addr{addr, other} {
			mac := swarm.MAC(fmt.Sprintf("02:00:00:00:01:0%d", i))
			bind.Leases = append(bind.Leases, swarm.Lease{MAC: mac, Addr: a})
			o.bound(mac, a, time.Now().Add(time.Minute), "n1")
		}
		for i, op := range []swarm.Op{bind, swarm.ReleaseLease{Segment: "s1", MAC: "02:00:00:00:01:01", Addr: other}} {
			data, err := swarm.Command{ID: swarm.NewID(), Time: time.Now(), By: "proposer", Op: op}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			<-time.After(time.Second)
			o.applied("first", uint64(i), data)
			o.applied("second", uint64(i), data)
		}
		<-time.After(time.Second)
		o.bound("02:00:00:00:01:02", addr, time.Now().Add(time.Minute), "n2")
		o.history.ended("02:00:00:00:01:02", addr, time.Now())
		got := strings.Split(strings.TrimSpace(o.trails()), "\n")
		want := []string{
			"the trail of 10.42.0.2:",
			"  0.000s  bound to 02:00:00:00:01:00 by n1 until 60.000s",
			`  1.000s  ledger 0, first applied by first: proposer proposed swarm.BindLeases {"segment":"s1","term":3,"leases":[{"segment":"","addr":"10.42.0.2",`,
			"  3.000s  bound to 02:00:00:00:01:02 by n2 until 63.000s",
			"  3.000s  02:00:00:00:01:02 uses it no longer",
		}
		if len(o.violations()) != 1 || len(got) != len(want) {
			t.Fatalf("%q\n%s", o.violations(), strings.Join(got, "\n"))
		}
		for i, line := range got {
			if !strings.HasPrefix(line, want[i]) || strings.Contains(line, other.String()) {
				t.Errorf("%q, want %q", line, want[i])
			}
		}
	})
}
