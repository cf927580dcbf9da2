package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"runtime/pprof"
	"slices"
	"sync"
	"testing"
	"time"

	"offshoot/node/internal/task"
	"offshoot/swarm"
	"offshoot/swarm/gossip"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
	"offshoot/swarm/swarmtest"
)

// scaleWhole is how many nodes of a measured swarm are whole, with all that core has: those who are wanted in raft (the voters,
// two spares, and the holder and a stand-by of each segment), who are the first to come. All others are followers, of which there is what they show to
// others: gossip, and a ledger that is fed by the holder of its segment. What they are told they count and throw away, since
// a thousand copies of the state would need 11 GB.
const scaleWhole = 2 * scaleSegments

// A thousand nodes that share two processors answer late, and whoever is taken for dead makes work that is not the leader's. So
// gossip is five times and raft twice as patient as in real nodes. What a leader says in either while nothing happens is little.
// Rejoin is for the beginning only: later nobody is missing.
var (
	scaleGossip = gossip.Timing{Probe: 10 * time.Second, Answer: 5 * time.Second, Stream: 25 * time.Second, Rejoin: 5 * time.Second}
	scaleRaft   = ledger.Timing{Heartbeat: 2 * time.Second, Election: 2 * time.Second, Lease: 2 * time.Second}
)

// scaleSwarm is a swarm in one process, in real time.
type scaleSwarm struct {
	tb     testing.TB
	net    *swarmtest.Network
	key    identity.Key
	nodes  []*scaleNode // the first founds the swarm
	byID   map[swarm.NodeID]*scaleNode
	byHost map[string]*scaleNode // by its address
	stop   context.CancelFunc
	all    sync.WaitGroup
}

type scaleNode struct {
	swarm   *scaleSwarm
	name    string
	id      swarm.NodeID
	host    *swarmtest.Host
	ports   []swarm.Port
	gossip  *gossip.Gossip
	ledger  *ledger.Ledger
	core    *core // nil for a follower
	traffic traffic
}

func newScaleSwarm(tb testing.TB, nodes int) *scaleSwarm {
	w := &scaleSwarm{
		tb: tb, net: swarmtest.NewNetwork(1), key: identity.NewGossipKey(), byID: map[swarm.NodeID]*scaleNode{}, byHost: map[string]*scaleNode{},
	}
	for i := range nodes {
		name := fmt.Sprintf("n%d", i)
		n := &scaleNode{swarm: w, name: name, id: swarm.NodeID(fmt.Sprintf("%016x", i+1)), host: w.net.Host(name), ports: scalePorts(i)}
		w.nodes = append(w.nodes, n)
		w.byID[n.id], w.byHost[n.host.Addr().String()] = n, n
	}
	return w
}

// begin founds the swarm and brings everybody up. The leader holds a segment, or its stand-by does.
func (w *scaleSwarm) begin(duty bool) {
	w.tb.Helper()
	ctx, stop := context.WithCancel(context.Background())
	w.stop = stop
	w.start(ctx, w.nodes[0])
	w.found()
	for _, end := range []int{scaleSegments, scaleWhole} { // holders first: nobody else must be there who could take their duties
		for _, n := range w.nodes[max(1, end-scaleSegments):end] {
			w.start(ctx, n)
		}
		w.until("raft has its members", func() string { return w.membersMissing(end) })
	}
	if !duty {
		w.relieve()
	}
	const batch = 100
	for at := scaleWhole; at < len(w.nodes); at += batch {
		end := min(at+batch, len(w.nodes))
		for _, n := range w.nodes[at:end] {
			w.start(ctx, n)
		}
		w.until("the newcomers are seen", func() string {
			w.introduce(w.nodes[0], w.nodes[at:end])
			if got := w.alive(w.nodes[0]); got != end {
				return fmt.Sprintf("the first node sees %d of %d", got, end)
			}
			return ""
		})
	}
}

// introduce has a node meet those whom it does not see. The news of hundreds who come at the same time do not reach everybody,
// and what is left gets around within minutes: too long for a benchmark.
func (w *scaleSwarm) introduce(n *scaleNode, others []*scaleNode) {
	known := map[swarm.NodeID]bool{}
	for _, m := range n.gossip.Members() {
		known[m.ID] = m.State == gossip.Alive
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, other := range others {
		if !known[other.id] {
			_ = n.gossip.Join(ctx, []string{other.host.Address(simGossip)}) // perhaps it is not up yet
		}
	}
}

// relieve gives the leader's duties to who stands by, before anybody is fed: whoever is stays with the former holder.
func (w *scaleSwarm) relieve() {
	w.tb.Helper()
	w.until("the leader has no duty", func() string {
		leader := w.leader()
		if leader == nil {
			return "nobody leads"
		}
		for i, s := range leader.segments() {
			if s.Duty.Holder == leader.id {
				w.decide(leader.id, swarm.GrantDuty{Segment: s.ID, Term: s.Duty.Term, To: w.nodes[scaleSegments+i].id, Why: "the leader is to have none"})
				return leader.name + " holds " + s.ID
			}
		}
		return w.membersMissing(scaleWhole)
	})
}

// membersMissing says what is missing of three voters and the members of raft, when so many nodes are there. Who stands by for
// the first segment may be among the holders of the others.
func (w *scaleSwarm) membersMissing(nodes int) string {
	leader := w.leader()
	if leader == nil {
		return "nobody leads"
	}
	members, votes := leader.ledger.Members(), 0
	for _, m := range members {
		if m.Voter {
			votes++
		}
	}
	if len(members) < max(scaleSegments, nodes-1) || len(members) > nodes || votes != 3 {
		return fmt.Sprintf("%d members, %d of them vote, want %d and 3", len(members), votes, nodes)
	}
	return ""
}

// end stops everybody.
func (w *scaleSwarm) end() {
	if w.stop != nil {
		w.stop()
	}
	w.all.Wait()
	w.net.Close()
}

// settle waits until everybody sees everybody, and some time more.
func (w *scaleSwarm) settle(longer time.Duration) {
	w.tb.Helper()
	w.until("everybody sees everybody", func() string {
		for _, n := range w.nodes {
			if got := w.alive(n); got != len(w.nodes) {
				w.introduce(n, w.nodes)
				return fmt.Sprintf("%s sees %d of %d", n.name, got, len(w.nodes))
			}
		}
		return ""
	})
	w.wait(longer)
}

// leader is nil while nobody leads.
func (w *scaleSwarm) leader() *scaleNode {
	for _, n := range w.nodes[:scaleWhole] {
		if n.core != nil && n.ledger.IsLeader() {
			return n
		}
	}
	return nil
}

// view is what the first node knows.
func (w *scaleSwarm) view() swarm.View { return w.nodes[0].view() }

func (n *scaleNode) view() swarm.View { return n.core.replica.state.View() }

// segments are all, in the order in which they were opened.
func (n *scaleNode) segments() (all []swarm.Segment) {
	view := n.view()
	for i := range scaleSegments {
		s, _ := view.Segment(fmt.Sprintf("s%d", i+1))
		all = append(all, s)
	}
	return all
}

func (w *scaleSwarm) alive(n *scaleNode) int {
	alive := 0
	for _, m := range n.gossip.Members() {
		if m.State == gossip.Alive {
			alive++
		}
	}
	return alive
}

func (w *scaleSwarm) wait(d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	<-t.C
}

// until waits for a condition that says what is missing.
func (w *scaleSwarm) until(what string, missing func() string) {
	w.tb.Helper()
	for end := time.Now().Add(5 * time.Minute); ; w.wait(100 * time.Millisecond) {
		text := missing()
		if text == "" {
			return
		}
		if time.Now().After(end) {
			w.tb.Fatalf("wait until %s: %s", what, text)
		}
	}
}

// decide writes something down in the name of a node.
func (w *scaleSwarm) decide(by swarm.NodeID, op swarm.Op) {
	w.tb.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	command, err := swarm.Command{ID: swarm.NewID(), Time: time.Now().UTC(), By: by, Op: op}.Encode()
	if err != nil {
		w.tb.Fatalf("%T: %v", op, err)
	}
	at := w.leader() // for it decides some things alone
	if at == nil {
		at = w.nodes[0]
	}
	answer, err := at.ledger.Propose(ctx, command)
	var result swarm.Result
	if err == nil {
		err = unmarshal(answer, &result)
	}
	if err := errors.Join(err, result.Err()); err != nil {
		w.tb.Fatalf("%T: %v", op, err)
	}
}

const nodeLabel = "node"

// wear labels this goroutine, and those that it will start, as this node's.
func (n *scaleNode) wear() {
	pprof.SetGoroutineLabels(pprof.WithLabels(context.Background(), pprof.Labels(nodeLabel, n.name)))
}

// start brings a node up; the first one founds the ledger.
func (w *scaleSwarm) start(ctx context.Context, n *scaleNode) {
	w.tb.Helper()
	defer pprof.SetGoroutineLabels(context.Background())
	n.wear()
	run, err := n.open()
	if err != nil {
		w.tb.Fatalf("%s: %v", n.name, err)
	}
	w.all.Go(func() {
		if err := run(ctx); err != nil && ctx.Err() == nil {
			w.tb.Errorf("%s ended: %v", n.name, err)
		}
	})
}

func (n *scaleNode) open() (run func(context.Context) error, err error) {
	peers, err := n.host.Listen(simPeer)
	if err != nil {
		return nil, err
	}
	transport, err := n.host.Gossip(simGossip)
	if err != nil {
		return nil, err
	}
	log := quiet()
	l := ledger.Options{
		ID: n.id, Address: n.host.Address(simPeer), Listener: peers, Dial: n.dial, Storage: n.host.Disk(), Logger: log,
		Timing: scaleRaft, Compaction: ledger.Compaction{Threshold: 1 << 40, Bytes: 1 << 40}, // none while it is measured
	}
	g := gossip.Options{
		Swarm: "5eed", ID: n.id, Transport: &meteredGossip{transport, n}, Keys: [][]byte{n.swarm.key.Reveal()}, Logger: log,
		Seeds:  func() []string { return []string{n.door().host.Address(simGossip)} },
		Timing: scaleGossip,
	}
	feeds, err := n.host.Listen(simFeed)
	if err != nil {
		return nil, err
	}
	feed := task.Func("feeds", func(ctx context.Context) error {
		return serveFeeds(ctx, feeds, func() *ledger.Ledger { return n.ledger })
	})
	if n.swarm.isFollower(n) {
		return n.openFollower(l, g, feed)
	}
	n.core, err = newCore(parts{
		id: n.id, address: l.Address, clock: uptime, now: time.Now, calls: &scaleCalls{&simCalls{n.host}, n}, lease: maxLease, ledger: l, gossip: g,
		feeders: func() []string { return []string{n.swarm.nodes[1].host.Address(simPeer)} }, stations: func(*post) []station { return nil }, journal: newJournal(), log: log,
		broken: func(err error) { n.swarm.tb.Errorf("%s: %v", n.name, err) },
	}, swarm.NewState())
	if err != nil {
		return nil, err
	}
	c := n.core
	n.gossip, n.ledger = c.gossip, c.replica.ledger
	c.steward.entrust = func(context.Context, swarm.Node) error { return nil } // nobody signs here
	if n == n.swarm.nodes[0] {
		if err := c.replica.ledger.Found(); err != nil {
			return nil, errors.Join(err, c.close())
		}
	}
	if err := n.host.Handle(simPeer, n.answer); err != nil {
		return nil, errors.Join(err, c.close())
	}
	return func(ctx context.Context) error {
		return task.Run(ctx, log, []task.Task{feed}, c.ledgerTasks(), c.gossipTasks(), c.rulingTasks(), []task.Task{c.watch})
	}, nil
}

func (w *scaleSwarm) isFollower(n *scaleNode) bool { return slices.Index(w.nodes, n) >= scaleWhole }

// door is the node through which this one comes in: not always the same, and one that is there already.
func (n *scaleNode) door() *scaleNode {
	i := slices.Index(n.swarm.nodes, n)
	if i < scaleWhole {
		return n.swarm.nodes[0]
	}
	return n.swarm.nodes[i%scaleWhole]
}

// heard is the state of a follower: nothing.
type heard struct{}

var _ ledger.StateMachine = heard{}

func (heard) Apply(uint64, []byte) []byte { return nil }

func (heard) Snapshot() (func(io.Writer) error, error) {
	return nil, errors.New("there is no state here")
}

func (heard) Restore(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// openFollower makes a node that takes no part in raft.
func (n *scaleNode) openFollower(l ledger.Options, g gossip.Options, feed task.Task) (run func(context.Context) error, err error) {
	l.FSM = heard{}
	l.Peers = ledger.Peers{
		Forward: func(context.Context, string, []byte) ([]byte, error) { return nil, errNotSimulated },
		Pulse:   func(context.Context, string) (ledger.Pulse, error) { return ledger.Pulse{}, errNotSimulated },
	}
	if n.ledger, err = ledger.Open(l); err != nil {
		return nil, err
	}
	if n.gossip, err = gossip.New(g); err != nil {
		return nil, errors.Join(err, n.ledger.Close())
	}
	return func(ctx context.Context) error {
		return task.Run(ctx, l.Logger, []task.Task{feed, task.Func("ledger", n.ledger.Run)}, []task.Task{task.Func("gossip", n.gossip.Run), task.Func("feed", n.follow)})
	}, nil
}

// follow is core's follow, for a node that knows by the leader's state who holds its segment.
func (n *scaleNode) follow(ctx context.Context) error {
	for {
		segment, _ := n.swarm.view().Segment(n.ports[0].Segment)
		if holder := n.swarm.byID[segment.Duty.Holder]; holder != nil {
			if body, err := (&scaleCalls{&simCalls{n.host}, n}).Feed(ctx, holder.host.Address(simPeer), n.ledger.Applied()); err == nil {
				_ = n.ledger.Follow(ctx, body) // tried again
				_ = body.Close()
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(feedPause):
		}
	}
}

// dial calls the ledger of a node.
func (n *scaleNode) dial(ctx context.Context, _ swarm.NodeID, address string) (net.Conn, error) {
	conn, err := n.host.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	return n.metered(conn, address, replicating), nil
}

// answer is the far side of scaleCalls. It runs on the caller's goroutine, but is the work of this node.
func (n *scaleNode) answer(ctx context.Context, from netip.Addr, request any) (any, error) {
	caller := n.swarm.byHost[from.String()]
	defer caller.wear()
	n.wear()
	c := n.core
	switch r := request.(type) {
	case simPropose:
		return c.service.Propose(ctx, caller.id, r.command)
	case simPulse:
		return c.service.Pulse()
	case simRenew:
		return nil, c.service.RenewDuty(ctx, caller.id, r.segment, r.term)
	}
	return nil, fmt.Errorf("unknown request %T", request)
}

// scaleCalls are calls that count.
type scaleCalls struct {
	*simCalls
	node *scaleNode
}

func (s *scaleCalls) Propose(ctx context.Context, addr string, command []byte) ([]byte, error) {
	answer, err := s.simCalls.Propose(ctx, addr, command)
	s.node.count(addr, calling, len(command)+len(answer))
	return answer, err
}

func (s *scaleCalls) Pulse(ctx context.Context, addr string) ([]byte, error) {
	answer, err := s.simCalls.Pulse(ctx, addr)
	s.node.count(addr, calling, len(answer))
	return answer, err
}

func (s *scaleCalls) RenewDuty(ctx context.Context, addr, segment string, term uint64) error {
	s.node.count(addr, calling, len(segment)+8)
	return s.simCalls.RenewDuty(ctx, addr, segment, term)
}

func (s *scaleCalls) Feed(ctx context.Context, addr string, after uint64) (io.ReadCloser, error) {
	body, err := s.simCalls.Feed(ctx, addr, after)
	if conn, ok := body.(net.Conn); ok && err == nil {
		return s.node.metered(conn, addr, feeding), nil
	}
	return body, err
}
