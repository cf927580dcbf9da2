package node

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/swarmtest"
)

var (
	simSeed  = flag.Uint64("sim.seed", 0, "replay the schedule of this seed only")
	simCount = flag.Uint64("sim.count", 0, "how many schedules (0: the usual number)")
	simFirst = flag.Uint64("sim.first", 1, "the first seed")
	simFor   = flag.Duration("sim.for", 0, "go on for this long instead of counting")
	simLog   = flag.Bool("sim.log", false, "show what the nodes log")
)

// usualSchedules is what the fast tests can afford; `make test` asks for more with -sim.count, `make soak` for hours
// with -sim.for.
const usualSchedules = 6

// TestSwarmKeepsItsGuaranteesUnderFaults runs whole nodes under random schedules of faults, and judges G1, G2, G3, G6, G9
// and G10 as it goes. A seed replays the schedule; raft's own randomness it does not.
func TestSwarmKeepsItsGuaranteesUnderFaults(t *testing.T) {
	if *simSeed != 0 {
		runSchedule(t, *simSeed)
		return
	}
	count := *simCount
	if count == 0 {
		count = usualSchedules
	}
	var (
		mu    sync.Mutex
		next  = *simFirst
		began = time.Now()
		total simTotals
		all   sync.WaitGroup
	)
	for range runtime.GOMAXPROCS(0) {
		all.Go(func() {
			for {
				mu.Lock()
				seed := next
				more := seed < *simFirst+count
				if *simFor > 0 {
					more = time.Since(began) < *simFor
				}
				next++
				mu.Unlock()
				if !more || t.Failed() {
					return
				}
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					figures := runSchedule(t, seed)
					mu.Lock()
					defer mu.Unlock()
					total.add(figures)
				})
			}
		})
	}
	all.Wait()
	t.Logf("%d schedules, %s in %v: %s", total.schedules, total.faultsText(), time.Since(began).Round(time.Second), total)
}

// simTotals are the figures of many schedules.
type simTotals struct {
	schedules, faults, answers, acks, commands, moves int
	virtual                                           time.Duration
}

func (s *simTotals) add(o simTotals) {
	s.schedules++
	s.faults += o.faults
	s.answers += o.answers
	s.acks += o.acks
	s.commands += o.commands
	s.moves += o.moves
	s.virtual += o.virtual
}

func (s simTotals) faultsText() string { return fmt.Sprintf("%d faults", s.faults) }

func (s simTotals) String() string {
	return fmt.Sprintf("%v of virtual time, %d DHCP answers, %d leases acknowledged, %d commands, %d changes of duty",
		s.virtual.Round(time.Minute), s.answers, s.acks, s.commands, s.moves)
}

func runSchedule(t *testing.T, seed uint64) (figures simTotals) {
	t.Helper()
	var log bytes.Buffer
	defer func() { // a failed bubble does not return
		if t.Failed() && *simLog {
			_, _ = os.Stderr.Write(log.Bytes())
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		var handler slog.Handler = slog.DiscardHandler
		if *simLog {
			handler = slog.NewTextHandler(&lockedWriter{w: &log}, &slog.HandlerOptions{Level: slog.LevelDebug})
		}
		r := &simRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x73696d)), over: make(chan struct{}), life: make(chan struct{}, 1), world: newSimWorld(seed, slog.New(handler))}
		figures = r.run()
	})
	return figures
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// simRun is one schedule.
type simRun struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	world  *simWorld
	lives  sync.WaitGroup // machines that are being installed again, or whose node is started again
	life   chan struct{}  // filled while a host or its node begins or ends; who waits for it does not stop the bubble's time
	told   []string
	faults int
	over   chan struct{} // closed when the schedule has ended
}

// Times of a schedule, in virtual time.
const (
	simFaults = 60 * time.Second
	simCalm   = 2 * time.Minute // raft may wait 10 s for an answer, and 10 s before it asks again
)

func (r *simRun) run() simTotals {
	w := r.world
	w.died = r.restart
	w.broken = func(node string, err error) { w.oracle.report("%s cannot go on: %v", node, err) }
	began := time.Now()
	var hosts []string
	for i := range 5 {
		hosts = append(hosts, w.add(fmt.Sprintf("n%d", i+1)).name)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r.foundSwarm(ctx)
	clients := r.startClients(ctx)
	if len(w.oracle.violations()) == 0 {
		// Some schedules leave time to recover between two faults, some do not.
		every := time.Duration(1+r.rng.IntN(8)) * time.Second
		faults := swarmtest.Schedule(r.seed, swarmtest.Plan{Hosts: hosts, Length: simFaults, Every: every, MaxWiped: 1})
		r.faults = len(faults)
		_ = w.net.Play(ctx, faults, r, func(f swarmtest.Fault) { r.told = append(r.told, f.String()) }) // ctx goes on
		r.calm(ctx)
	}
	cancel()
	close(r.over)
	clients.Wait()
	r.lives.Wait()
	for _, n := range w.nodes {
		n.end()
	}
	w.net.Close()
	<-time.After(time.Minute) // memberlist does not wait for its own timers
	if !w.oracle.history.judge() {
		w.oracle.report("G2, G6: the history of leases and tickets is not linearizable")
	}
	if wrong := w.oracle.violations(); len(wrong) > 0 {
		r.t.Errorf("%s\nthe schedule was:\n%s\nreplay it: go test ./node -run TestSwarmKeepsItsGuaranteesUnderFaults -sim.seed=%d",
			strings.Join(wrong, "\n"), strings.Join(r.told, "\n"), r.seed)
	}
	return simTotals{
		faults: r.faults, answers: w.oracle.answers, acks: w.oracle.acks, commands: len(w.oracle.commands), moves: len(w.oracle.speaker),
		virtual: time.Since(began) - time.Minute,
	}
}

// until waits for a condition in virtual time, and makes it a violation if it does not come.
func (r *simRun) until(what string, bound time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(bound); ; {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			r.world.oracle.report("after %v not yet: %s", bound, what)
			return false
		}
		<-time.After(50 * time.Millisecond)
	}
}

// foundSwarm brings up the founder, which is a seed, and four installed nodes, until three of them vote.
func (r *simRun) foundSwarm(ctx context.Context) {
	w := r.world
	for i, n := range w.nodes {
		if err := n.begin(i == 0); err != nil {
			w.oracle.report("%s does not start: %v", n.name, err)
			return
		}
	}
	first := w.nodes[0]
	found := swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed", Voters: 3, Profile: "p", GossipKeys: []string{w.key.Encode()}, AutoApprove: true},
		Node:     swarm.Node{ID: first.id, Name: first.name, Ephemeral: true, Address: first.host.Address(simPeer), Ports: []swarm.Port{first.port}, Warm: true},
		Network:  netip.MustParsePrefix(simNetwork), Profile: &swarm.Profile{Name: "p", Driver: "image"},
	}
	decide := func(op swarm.Op) {
		if err := first.running().replica.decide(ctx, op); err != nil {
			w.oracle.report("%T: %v", op, err)
		}
	}
	decide(found)
	// Ten clients share six addresses, so that addresses change hands.
	decide(swarm.SetPools{Segment: "s1", Pools: []swarm.AddrRange{{First: netip.MustParseAddr("10.42.0.20"), Last: netip.MustParseAddr("10.42.0.22")}, {First: netip.MustParseAddr("10.42.0.30"), Last: netip.MustParseAddr("10.42.0.32")}}})
	for _, n := range w.nodes[1:] {
		r.enlist(ctx, n)
	}
	r.until("three durable nodes vote and one of them holds the duty", time.Minute, func() bool {
		c := w.leader()
		if c == nil {
			return false
		}
		s, _ := c.replica.state.View().Segment("s1")
		return voters(c) == 3 && c.id != first.id && s.Duty.Holder != first.id
	})
}

func voters(c *core) int {
	count := 0
	for _, m := range c.replica.ledger.Members() {
		if m.Voter {
			count++
		}
	}
	return count
}

// enlist makes a machine a node: armed and given a ticket by whoever leads, which it redeems once.
func (r *simRun) enlist(ctx context.Context, n *simNode) {
	w := r.world
	ticket := fmt.Sprintf("ticket-%s-%s", n.name, n.id)
	step := func(op swarm.Op) bool {
		for ctx.Err() == nil {
			if c := w.leader(); c != nil {
				bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
				result, err := c.replica.propose(bounded, op)
				cancel()
				if err == nil {
					if result.Err() != nil {
						w.log.Info("enlisting", "op", fmt.Sprintf("%T", op), "refused", result.Err())
					}
					return result.Err() == nil
				}
			}
			<-time.After(200 * time.Millisecond)
		}
		return false
	}
	step(swarm.SeeMachine{MAC: n.port.MAC, Segment: "s1"})
	step(swarm.ArmMachine{MAC: n.port.MAC, Profile: "p"})
	step(swarm.MintTicket{ID: ticket, Hash: "hash", MAC: n.port.MAC, Segment: "s1", Addr: n.port.Address.Addr(), Expires: n.host.Wall().Add(48 * time.Hour)})
	for ctx.Err() == nil {
		asked := time.Now()
		if node, ok := r.redeem(ctx, n, ticket, n.nodeID()); ok {
			w.oracle.redeemed(ticket, node)
			w.oracle.history.add(claim{what: ticket, who: string(n.nodeID()), verb: take}, asked, time.Now())
			r.steal(ctx, n, ticket)
			return
		}
		<-time.After(300 * time.Millisecond)
	}
}

// redeem asks every node in turn, as a machine does.
func (r *simRun) redeem(ctx context.Context, n *simNode, ticket string, as swarm.NodeID) (swarm.NodeID, bool) {
	op := swarm.RedeemTicket{ID: ticket, Hash: "hash", Key: "key of " + string(as), MACs: []swarm.MAC{n.port.MAC}, Node: as, Address: n.host.Address(simPeer)}
	for _, other := range r.world.nodes {
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		answer, err := n.host.Call(bounded, other.host.Address(simPeer), simRedeem{op})
		cancel()
		if err != nil {
			continue
		}
		result := answer.(swarm.Result)
		var node swarm.Node
		if err := result.Decode(&node); err == nil {
			return node.ID, true
		}
	}
	return "", false
}

// steal shows a redeemed ticket again with another key, under whatever faults there are. The thief must be refused; an
// operator then trusts the node that was put into quarantine for it.
func (r *simRun) steal(ctx context.Context, n *simNode, ticket string) {
	if !strings.HasSuffix(string(n.nodeID()), "w") {
		return // the founding of the swarm is quick
	}
	thief := swarm.NodeID("thief of " + n.name)
	op := swarm.RedeemTicket{ID: ticket, Hash: "hash", Key: "key of a thief", MACs: []swarm.MAC{n.port.MAC}, Node: thief, Address: n.host.Address(simPeer)}
	for _, other := range r.world.nodes {
		asked := time.Now()
		bounded, cancel := context.WithTimeout(ctx, 2*time.Second)
		answer, err := n.host.Call(bounded, other.host.Address(simPeer), simRedeem{op})
		cancel()
		if err != nil {
			continue
		}
		result := answer.(swarm.Result)
		switch {
		case result.Err() == nil:
			r.world.oracle.redeemed(ticket, thief)
		case errors.Is(result.Err(), swarm.ErrTicketUsed):
			r.world.oracle.history.add(claim{what: ticket, who: string(thief), verb: denied}, asked, time.Now())
		}
		break
	}
	for ctx.Err() == nil {
		c := r.world.leader()
		if c == nil {
			<-time.After(200 * time.Millisecond)
			continue
		}
		if node, ok := c.replica.state.View().Node(n.nodeID()); ok && node.Quarantine == "" {
			return
		}
		bounded, cancel := context.WithTimeout(ctx, 3*time.Second)
		_ = c.replica.decide(bounded, swarm.TrustNode{Node: n.nodeID()}) // asked again until it is so
		cancel()
	}
}

var _ swarmtest.Nodes = (*simRun)(nil)

// Crash ends the node that ran on a host, without waiting for it.
func (r *simRun) Crash(h *swarmtest.Host) {
	r.life <- struct{}{}
	defer func() { <-r.life }()
	n := r.world.nodeAt(h.Addr())
	n.mu.Lock()
	defer n.mu.Unlock()
	n.core = nil
	if n.stop != nil {
		n.stop()
	}
}

// Start begins the next life. A machine that lost its disk is installed anew: another node at the same address.
func (r *simRun) Start(h *swarmtest.Host, wiped bool) {
	r.life <- struct{}{}
	defer func() { <-r.life }()
	n := r.world.nodeAt(h.Addr())
	n.end()
	if wiped {
		n.mu.Lock()
		n.id += "w"
		n.mu.Unlock()
	}
	h.Restart()
	if err := n.begin(false); err != nil {
		r.world.oracle.report("%s does not start again: %v", n.name, err)
		return
	}
	if wiped {
		r.lives.Go(func() {
			ctx, cancel := context.WithTimeout(context.Background(), simFaults+simCalm)
			defer cancel()
			r.enlist(ctx, n)
		})
	}
}

// restart does what systemd does for a node that ended by itself, for example because its disk was full at a bad moment.
func (r *simRun) restart(n *simNode, life int) {
	r.lives.Go(func() {
		select {
		case <-time.After(2 * time.Second):
		case <-r.over:
			return
		}
		r.life <- struct{}{}
		defer func() { <-r.life }()
		n.mu.Lock()
		same := n.lives == life && n.core != nil
		n.mu.Unlock()
		if !same {
			return // the whole machine went down meanwhile
		}
		n.host.Crash() // what it held open ends with the process
		n.end()
		n.host.Restart()
		if err := n.begin(false); err != nil {
			r.world.oracle.report("%s does not start again: %v", n.name, err)
		}
	})
}

// calm heals everything and asks for what a healthy swarm owes.
func (r *simRun) calm(ctx context.Context) {
	w := r.world
	w.net.Heal()
	w.net.SetWeather(swarmtest.Fair)
	ok := r.until("somebody leads, and everybody has applied the same", simCalm, func() bool {
		c := w.leader()
		if c == nil {
			return false
		}
		for _, n := range w.nodes {
			if other := n.running(); other == nil || other.replica.ledger.Applied() != c.replica.ledger.Applied() {
				return false
			}
		}
		return true
	})
	if !ok {
		return
	}
	w.oracle.mu.Lock()
	before := w.oracle.acks
	w.oracle.mu.Unlock()
	r.until("clients get addresses again", simCalm, func() bool {
		w.oracle.mu.Lock()
		defer w.oracle.mu.Unlock()
		return w.oracle.acks >= before+5
	})
	r.until("an odd number of durable nodes votes, and one of them leads", simCalm, func() bool {
		c := w.leader()
		if c == nil || voters(c)%2 == 0 {
			return false
		}
		self, _ := c.replica.state.View().Node(c.id)
		return !self.Ephemeral
	})
	r.judgeEnd()
}

// judgeEnd compares what clients were told with what the swarm remembers. G3.
func (r *simRun) judgeEnd() {
	w := r.world
	c := w.leader()
	if c == nil {
		return
	}
	view := c.replica.state.View()
	w.oracle.mu.Lock()
	defer w.oracle.mu.Unlock()
	for addr, u := range w.oracle.using {
		if !time.Now().Before(u.until) {
			continue
		}
		if l, ok := view.Lease("s1", addr); !ok || l.MAC != u.mac {
			w.oracle.violation("G3: %s was acknowledged to %s for another %v, the ledger says %q", addr, u.mac, time.Until(u.until), l.MAC)
		}
	}
}

// startClients runs ten machines that want addresses until ctx ends.
func (r *simRun) startClients(ctx context.Context) *sync.WaitGroup {
	w := r.world
	all := &sync.WaitGroup{}
	for i := range 10 {
		mac := swarm.MAC(fmt.Sprintf("02:00:00:00:01:%02x", i))
		port := w.lan.Join(nil, string(mac), netip.Addr{}, 68)
		c := &simClient{mac: mac, rng: rand.New(rand.NewPCG(r.seed, uint64(i))), oracle: w.oracle, heard: make(chan []byte, 16)}
		c.send = func(b []byte, to netip.Addr) {
			port.SetAddr(c.addr)
			_ = port.Send(b, swarmtest.Target{Addr: to, Port: 67}) // lost, like any packet
		}
		all.Go(func() {
			for {
				buf := make([]byte, 1500)
				n, _, err := port.Receive(buf)
				if err != nil {
					return
				}
				select {
				case c.heard <- buf[:n]:
				default:
				}
			}
		})
		all.Go(func() {
			defer func() { _ = port.Close() }()
			c.run(ctx)
		})
	}
	return all
}
