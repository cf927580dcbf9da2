package swarmtest_test

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"offshoot/swarm/swarmtest"
)

const (
	simHosts  = 5
	simLength = 45 * time.Second // of faults
	// simCalm is for everything to come together again: raft waits up to 10 s for an answer that does not come, and then
	// up to 10 s before it asks again.
	simCalm    = 90 * time.Second
	simKeys    = 2
	simClients = 4
)

// history is what clients asked and were told, for porcupine.
type history struct {
	mu    sync.Mutex
	start time.Time
	next  int
	ops   []porcupine.Operation
	acked []string // ids of the commands that were acknowledged
}

// client is a name of its own: one that does not know whether its last wish came true begins anew under another.
func (h *history) client() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.next++
	return h.next
}

// note records one request. Of a failed one nobody knows yet whether and when it happens.
func (h *history) note(client int, c command, called time.Time, a answer, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	op := porcupine.Operation{ClientId: client, Input: c, Call: called.Sub(h.start).Nanoseconds(), Return: math.MaxInt64}
	if err == nil {
		op.Output, op.Return = a, time.Since(h.start).Nanoseconds()
		h.acked = append(h.acked, c.ID)
	}
	h.ops = append(h.ops, op)
}

// settled is the history in which it is known what became of failed requests: one that no node carried out never will be,
// now that all have ended; any other had happened when the first node carried it out, with the answer that all remember.
// Left open, a dozen of them would keep porcupine busy for hours.
func (h *history) settled(w *watch, seen map[string]answer) []porcupine.Operation {
	w.mu.Lock()
	defer w.mu.Unlock()
	ops := make([]porcupine.Operation, 0, len(h.ops))
	for _, op := range h.ops {
		c := op.Input.(command)
		if op.Return == math.MaxInt64 {
			a, remembered := seen[c.ID]
			at, happened := w.when[c.ID]
			if !happened || !remembered {
				continue
			}
			op.Output, op.Return = a, max(op.Call, at.Sub(h.start).Nanoseconds())
		}
		ops = append(ops, op)
	}
	return ops
}

// registerModel is what the registers are to do, one at a time.
var registerModel = porcupine.Model{
	Partition: func(all []porcupine.Operation) [][]porcupine.Operation {
		by := make([][]porcupine.Operation, simKeys)
		for _, op := range all {
			key := op.Input.(command).Key
			by[key] = append(by[key], op)
		}
		return by
	},
	Init: func() any { return 0 },
	Step: func(state, input, output any) (bool, any) {
		c := input.(command)
		a := output.(answer)
		switch c.Op {
		case "read":
			return a.Value == state.(int), state
		case "write":
			return true, c.Value
		default:
			swaps := state.(int) == c.Old
			if swaps {
				return a.Done, c.Value
			}
			return !a.Done, state
		}
	},
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// ask keeps one client busy until ctx is done.
func (s *swarmOf) ask(ctx context.Context, h *history, seed uint64, which int) {
	rng := rand.New(rand.NewPCG(seed, uint64(which)))
	client := h.client()
	for k := 0; ctx.Err() == nil; k++ {
		c := command{
			ID: fmt.Sprintf("%d-%d", which, k), Op: []string{"read", "write", "swap"}[rng.IntN(3)], Key: rng.IntN(simKeys),
			Value: which*1000 + k, Old: rng.IntN(simClients)*1000 + max(0, k-rng.IntN(3)),
		}
		if c.Op == "read" {
			c.Value, c.Old = 0, 0
		}
		hosts := s.net.Hosts()
		n := s.node(hosts[rng.IntN(len(hosts))].Name())
		called := time.Now()
		a, err := n.propose(ctx, c, 4*time.Second)
		h.note(client, c, called, a, err)
		if err != nil {
			client = h.client()
		}
		gap := time.NewTimer(time.Duration(rng.IntN(800)) * time.Millisecond)
		select {
		case <-gap.C:
		case <-ctx.Done():
			gap.Stop()
		}
	}
}

func (n *node) propose(ctx context.Context, c command, bound time.Duration) (a answer, err error) {
	ctx, cancel := context.WithTimeout(ctx, bound)
	defer cancel()
	defer context.AfterFunc(n.life, cancel)()
	b, err := json.Marshal(c)
	if err != nil {
		return a, err
	}
	out, err := n.ledger.Propose(ctx, b)
	if err != nil {
		return a, err
	}
	return a, json.Unmarshal(out, &a)
}

// simulate tells one story: a swarm comes together, lives through the faults, and has to come together again.
func simulate(t *testing.T, seed uint64, hosts int, faults []swarmtest.Fault, breakIt func(*swarmOf)) *watch {
	s := &swarmOf{t: t, watch: newWatch(), net: swarmtest.NewNetwork(seed), nodes: map[string]*node{}, lives: map[string]int{},
		starting: make(chan struct{}, 1), over: make(chan struct{})}
	h := &history{start: time.Now()}
	defer s.net.Close()
	for i := range hosts {
		s.start(s.net.Host(fmt.Sprintf("n%d", i+1)), i == 0)
	}
	defer s.end()
	if !s.eventually("the swarm comes together", simCalm, func() error { return s.together(hosts) }) {
		return s.watch
	}
	if breakIt != nil {
		breakIt(s)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var clients sync.WaitGroup
	for i := range simClients {
		clients.Go(func() { s.ask(ctx, h, seed, i+1) })
	}
	clients.Go(func() { s.look(ctx) })
	check := func(swarmtest.Fault) {
		for _, host := range s.net.Hosts() {
			s.watch.leads(s.node(host.Name()))
		}
	}
	if err := s.net.Play(ctx, faults, s, check); err != nil {
		t.Error(err)
	}
	s.eventually("the swarm comes together again", simCalm, func() error { return s.together(hosts) })
	cancel()
	clients.Wait()
	s.eventually("every node catches up", simCalm, s.level)
	s.judge(h)
	return s.watch
}

// look checks the leaders between the faults.
func (s *swarmOf) look(ctx context.Context) {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		for _, host := range s.net.Hosts() {
			s.watch.leads(s.node(host.Name()))
		}
	}
}

// end stops all nodes in order.
func (s *swarmOf) end() {
	close(s.over)
	s.revivals.Wait()
	for _, h := range s.net.Hosts() {
		if n := s.node(h.Name()); n != nil {
			n.cancel()
			<-n.ended
		}
	}
}

// eventually waits for a condition and reports its last error as a violation.
func (s *swarmOf) eventually(what string, within time.Duration, condition func() error) bool {
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	late := time.NewTimer(within)
	defer late.Stop()
	for {
		err := condition()
		if err == nil {
			return true
		}
		select {
		case <-tick.C:
		case <-late.C:
			s.watch.violated("%s: not within %v: %v", what, within, err)
			return false
		}
	}
}

// together: somebody leads, and every node has a vote.
func (s *swarmOf) together(hosts int) error {
	for _, h := range s.net.Hosts() {
		n := s.node(h.Name())
		if !n.ledger.IsLeader() {
			continue
		}
		voters := map[string]bool{}
		for _, m := range n.ledger.Members() {
			if m.Voter {
				voters[string(m.ID)] = true
			}
		}
		if len(voters) != hosts {
			return fmt.Errorf("%s leads %d voters of %d", n.id, len(voters), hosts)
		}
		for _, h := range s.net.Hosts() {
			if id := s.node(h.Name()).id; !voters[id] {
				return fmt.Errorf("%s leads without %s", n.id, id)
			}
		}
		_, err := n.propose(context.Background(), command{ID: "together-" + time.Now().String(), Op: "read"}, 2*time.Second)
		return err
	}
	return fmt.Errorf("nobody leads")
}

// level: every node has applied the same.
func (s *swarmOf) level() error {
	least, most := uint64(math.MaxUint64), uint64(0)
	for _, h := range s.net.Hosts() {
		at := s.node(h.Name()).machine.save().Index
		least, most = min(least, at), max(most, at)
	}
	if least != most {
		return fmt.Errorf("one has applied %d, another %d", least, most)
	}
	return nil
}

// judge looks at the end at what clients were told.
func (s *swarmOf) judge(h *history) {
	h.mu.Lock()
	defer h.mu.Unlock()
	var state saved
	for _, host := range s.net.Hosts() {
		n := s.node(host.Name())
		state = n.machine.save()
		for _, id := range h.acked {
			if _, ok := state.Seen[id]; !ok {
				s.watch.violated("%s lacks %s, which was acknowledged", n.id, id)
			}
		}
	}
	if porcupine.CheckOperationsTimeout(registerModel, h.settled(s.watch, state.Seen), 0) == porcupine.Illegal {
		s.watch.violated("the history of %d operations is not linearizable", len(h.ops))
	}
	if len(h.acked) < 10 {
		s.watch.violated("only %d of %d operations were acknowledged", len(h.acked), len(h.ops))
	}
}

func planOf(hosts int) swarmtest.Plan {
	p := swarmtest.Plan{Length: simLength, MaxWiped: (hosts - 1) / 2}
	for i := range hosts {
		p.Hosts = append(p.Hosts, fmt.Sprintf("n%d", i+1))
	}
	return p
}

func TestRegisterIsLinearizableUnderFaults(t *testing.T) {
	usual := 100
	if testing.Short() {
		usual = 10
	}
	seeds.Run(t, usual, func(t *testing.T, seed uint64) {
		hosts := simHosts
		if seed%3 == 0 {
			hosts = 3
		}
		faults := swarmtest.Schedule(seed, planOf(hosts))
		if broken := simulate(t, seed, hosts, faults, nil).report(); broken != "" {
			t.Errorf("schedule:\n%s\nviolations:\n%s", lines(faults), broken)
		}
	})
}

func lines(faults []swarmtest.Fault) string {
	var b strings.Builder
	for _, f := range faults {
		_, _ = fmt.Fprintf(&b, "  %v\n", f)
	}
	return b.String()
}

// TestInvariantsNoticeDisksThatLie: what was synced is gone after a crash, votes and acknowledged entries among it. If
// the invariants held then, they would hold always.
func TestInvariantsNoticeDisksThatLie(t *testing.T) {
	signs := []string{"another entry", "which was acknowledged", "not linearizable", "lead in term"}
	var mu sync.Mutex
	told, noticed := 0, map[string]int{}
	seeds.Run(t, 10, func(t *testing.T, seed uint64) {
		plan := planOf(3)
		plan.Length, plan.Kinds, plan.MaxWiped = 20*time.Second, []swarmtest.Kind{swarmtest.KindCrash, swarmtest.KindCut}, 0
		w := simulate(t, seed, 3, swarmtest.Schedule(seed, plan), func(s *swarmOf) {
			for _, h := range s.net.Hosts() {
				h.Disk().SetLying()
			}
		})
		mu.Lock()
		defer mu.Unlock()
		told++
		for _, sign := range signs {
			if w.shows(sign) {
				noticed[sign]++
			}
		}
	})
	t.Logf("noticed in %d: %v", told, noticed)
	for _, sign := range signs[:3] { // two leaders in one term need more luck
		if told >= 10 && noticed[sign] == 0 {
			t.Errorf("no run was said to show %q", sign)
		}
	}
}
