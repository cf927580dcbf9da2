package node

import (
	"fmt"
	"math"
	"net/netip"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"offshoot/swarm"
)

// history is what clients and machines did, as they saw it: porcupine says whether one ledger, asked by one after the other,
// could have answered like that. It is another judge than the oracle: it knows no clock of ours but the order of calls and
// answers, and finds orders that the oracle did not think of.
type history struct {
	mu    sync.Mutex
	began time.Time
	ops   []porcupine.Operation
}

func newHistory() *history { return &history{began: time.Now()} }

// claim is one operation on an address or a ticket: who wants it, and what it does.
type claim struct {
	what  string // the address, or the ticket
	who   string
	verb  verb
	by    int64 // take: when the answer came
	until int64 // take: when the right ends by itself
}

// owner is the state of the model.
type owner struct {
	who   string
	until int64
}

type verb int

const (
	take   verb = iota // who has it from now on; refused if another has
	letGo              // who has it no longer; nothing if another has
	denied             // who was refused for good: another has it
)

func (h *history) at(t time.Time) int64 { return int64(t.Sub(h.began)) }

func (h *history) add(c claim, call, answer time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	c.by = h.at(answer)
	if c.until == 0 {
		c.until = math.MaxInt64
	}
	h.ops = append(h.ops, porcupine.Operation{Input: c, Call: h.at(call), Return: h.at(answer)})
}

// leased is an acknowledged lease: asked for, and answered.
func (h *history) leased(mac swarm.MAC, addr netip.Addr, asked, answered, until time.Time) {
	h.add(claim{what: addr.String(), who: string(mac), verb: take, until: h.at(until)}, asked, answered)
}

// ended is the end of a lease before its time: the machine uses the address no longer.
func (h *history) ended(mac swarm.MAC, addr netip.Addr, at time.Time) {
	h.add(claim{what: addr.String(), who: string(mac), verb: letGo}, at, at)
}

// ownership is the model: everything has one owner at most.
func ownership() porcupine.Model {
	return porcupine.Model{
		Partition: func(ops []porcupine.Operation) [][]porcupine.Operation {
			by := map[string][]porcupine.Operation{}
			for _, op := range ops {
				by[op.Input.(claim).what] = append(by[op.Input.(claim).what], op)
			}
			var out [][]porcupine.Operation
			for _, some := range by {
				out = append(out, some)
			}
			return out
		},
		Init: func() any { return owner{} },
		Step: func(state, input, _ any) (bool, any) {
			o, c := state.(owner), input.(claim)
			switch c.verb {
			case take:
				return o.who == "" || o.who == c.who || o.until <= c.by, owner{c.who, c.until}
			case denied:
				return o.who != "" && o.who != c.who, o
			case letGo:
				if o.who == c.who {
					return true, owner{}
				}
			}
			return true, o
		},
		DescribeOperation: func(input, _ any) string { return fmt.Sprintf("%+v", input) },
	}
}

// judge says whether the history could have come from one ledger.
func (h *history) judge() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return porcupine.CheckOperations(ownership(), h.ops)
}

// TestForgedHistoriesAreFound shows that the judge can find what it is for.
func TestForgedHistoriesAreFound(t *testing.T) {
	t.Parallel()
	addr, a, b := netip.MustParseAddr("10.42.0.20"), swarm.MAC("02:00:00:00:01:01"), swarm.MAC("02:00:00:00:01:02")
	for name, c := range map[string]struct {
		fill func(h *history, at func(int) time.Time)
		ok   bool
	}{
		"one after the other": {func(h *history, at func(int) time.Time) {
			h.leased(a, addr, at(0), at(1), at(9))
			h.ended(a, addr, at(2))
			h.leased(b, addr, at(3), at(4), at(9))
		}, true},
		"after its time": {func(h *history, at func(int) time.Time) {
			h.leased(a, addr, at(0), at(1), at(3))
			h.leased(b, addr, at(3), at(4), at(9))
		}, true},
		"two at once": {func(h *history, at func(int) time.Time) {
			h.leased(a, addr, at(0), at(1), at(9))
			h.leased(b, addr, at(3), at(4), at(9))
			h.ended(a, addr, at(5))
		}, false},
		"a ticket for two": {func(h *history, at func(int) time.Time) {
			h.add(claim{what: "t1", who: "node 1", verb: take}, at(0), at(5))
			h.add(claim{what: "t1", who: "node 2", verb: take}, at(1), at(4))
		}, false},
		"refused, although nobody had it": {func(h *history, at func(int) time.Time) {
			h.add(claim{what: "t1", who: "thief", verb: denied}, at(0), at(1))
			h.add(claim{what: "t1", who: "node 1", verb: take}, at(2), at(3))
		}, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHistory()
			c.fill(h, func(s int) time.Time { return h.began.Add(time.Duration(s) * time.Second) })
			if ok := h.judge(); ok != c.ok {
				t.Errorf("judged %t", ok)
			}
		})
	}
}
