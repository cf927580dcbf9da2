package node

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/peer"
	"offshoot/node/internal/task"
	"offshoot/swarm"
	"offshoot/swarm/gossip"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
	"offshoot/swarm/swarmtest"
)

// Ports and times of a simulated swarm. A lease is short, so that its end comes within a schedule.
const (
	simPeer   = 7400
	simGossip = 7401
	simFeed   = 7402
	simLease  = 20 * time.Second
)

// simWorld is a swarm of whole nodes in one process, without an operating system: their ledger, gossip, steward, duties and
// DHCP servers are the real ones; network, disks, clocks and machines are not.
type simWorld struct {
	net    *swarmtest.Network
	lan    *swarmtest.Segment
	oracle *oracle
	nodes  []*simNode
	key    identity.Key
	log    *slog.Logger
	broken func(node string, err error) // a node that cannot go on
	died   func(n *simNode, life int)   // a node that ended by itself
}

// simNode is one of them. run begins a life, end ends it; both are the schedule's.
type simNode struct {
	world *simWorld
	name  string
	id    swarm.NodeID
	host  *swarmtest.Host
	port  swarm.Port // on the segment

	mu    sync.Mutex
	core  *core // of the present life
	lives int   // how many there were
	stop  context.CancelFunc
	ended chan struct{}
}

const simNetwork = "10.42.0.0/24"

func newSimWorld(seed uint64, log *slog.Logger) *simWorld {
	w := &simWorld{net: swarmtest.NewNetwork(seed), oracle: newOracle(), key: identity.NewGossipKey(), log: log}
	w.lan = w.net.Segment("lan", nil)
	return w
}

// add makes a node. The first one founds the swarm.
func (w *simWorld) add(name string) *simNode {
	i := len(w.nodes) + 1
	mac := swarm.MAC(fmt.Sprintf("02:00:00:00:00:%02x", i))
	n := &simNode{
		world: w, name: name, id: swarm.NodeID(fmt.Sprintf("%016x", i)), host: w.net.Host(name),
		port: swarm.Port{
			Name: "eth0", MAC: mac, Link: true, Segment: "s1",
			Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, 0, byte(i)}), 24),
		},
	}
	w.nodes = append(w.nodes, n)
	return n
}

// begin starts a life of a node with what its disk holds.
func (n *simNode) begin(found bool) error {
	w := n.world
	listener, err := n.host.Listen(simPeer)
	if err != nil {
		return err
	}
	transport, err := n.host.Gossip(simGossip)
	if err != nil {
		return err
	}
	feeds, err := n.host.Listen(simFeed)
	if err != nil {
		return err
	}
	log, id := w.log.With("node", n.name), n.id
	ctx, stop := context.WithCancel(context.Background())
	p := parts{
		id: n.id, address: n.host.Address(simPeer), clock: n.host.Clock(), now: n.host.Wall, calls: &simCalls{n.host}, lease: simLease,
		ledger: ledger.Options{
			Listener: listener, Dial: n.dial, Storage: n.host.Disk(), Timing: ledger.Timing{Commit: 200 * time.Millisecond},
			Compaction: ledger.Compaction{Interval: 5 * time.Second, Threshold: 64, Trailing: 32},
		},
		gossip: gossip.Options{
			Swarm: "5eed", Transport: transport, Keys: [][]byte{w.key.Reveal()}, Seeds: w.gossipSeeds,
			Timing: gossip.Timing{Rejoin: 3 * time.Second},
		},
		feeders: w.feeders, log: log, journal: newJournal(),
		broken:  func(err error) { w.broken(n.name, err) },
		applied: func(index uint64, command []byte) { w.oracle.applied(id, index, command) },
	}
	p.stations = n.stations
	c, err := newCore(p, swarm.NewState())
	if err != nil {
		stop()
		return err
	}
	c.steward.entrust = func(context.Context, swarm.Node) error { return nil } // nobody signs here
	n.mu.Lock()
	n.core, n.stop, n.ended = c, stop, make(chan struct{})
	n.lives++
	life := n.lives
	ended := n.ended
	n.mu.Unlock()
	if found {
		if err := c.replica.ledger.Found(); err != nil {
			stop()
			return errors.Join(err, c.close())
		}
	}
	if err := n.host.Handle(simPeer, n.answer); err != nil {
		stop()
		return errors.Join(err, c.close())
	}
	go func() {
		defer close(ended)
		feed := task.Func("feeds", func(ctx context.Context) error { return serveFeeds(ctx, feeds, n.ledger) })
		report := task.Func("report", n.report)
		err := task.Run(ctx, log, []task.Task{feed}, c.ledgerTasks(), c.gossipTasks(), append(c.rulingTasks(), report), []task.Task{c.watch})
		if err != nil && ctx.Err() == nil {
			log.Info("node ended by itself", "error", err)
			w.died(n, life)
		}
	}()
	return nil
}

// end stops a life that has crashed, and waits until its goroutines are gone.
func (n *simNode) end() {
	n.mu.Lock()
	stop, ended := n.stop, n.ended
	n.core = nil
	n.mu.Unlock()
	if stop != nil {
		stop()
		<-ended
	}
}

// nodeID is who runs there now: a machine that is installed anew becomes another node.
func (n *simNode) nodeID() swarm.NodeID {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.id
}

func (n *simNode) running() *core {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.core
}

// ledger is the one that runs, nil if none does.
func (n *simNode) ledger() *ledger.Ledger {
	if c := n.running(); c != nil {
		return c.replica.ledger
	}
	return nil
}

// stations are the services of a post: only DHCP, on a link that the oracle listens to.
func (n *simNode) stations(p *post) []station {
	return []station{{name: "dhcp", answers: true, open: func() (task.Task, error) {
		c := n.running()
		if c == nil {
			return nil, errors.New("the machine is down")
		}
		return giving(p, c.replica, dhcp.Options{
			Config: dhcp.Config{Interface: "eth0"},
			Listen: func(dhcp.Config) (dhcp.Link, error) { return n.link(p) },
			Probe:  func(context.Context, netip.Addr) (net.HardwareAddr, error) { return nil, nil },
		})
	}}}
}

// dial calls a node and hangs up if another one answers, as TLS does.
func (n *simNode) dial(ctx context.Context, id swarm.NodeID, address string) (net.Conn, error) {
	conn, err := n.host.Dial(ctx, address)
	if err != nil {
		return nil, err
	}
	if there := n.world.nodeAt(netip.MustParseAddr(hostOf(address))); there == nil || there.nodeID() != id {
		return nil, errors.Join(fmt.Errorf("not %s answers at %s", id, address), conn.Close())
	}
	return conn, nil
}

// link is a node's card on the segment. The oracle hears what is said in the full right of a duty.
func (n *simNode) link(p *post) (dhcp.Link, error) {
	port := n.world.lan.Join(n.host, string(n.port.MAC), n.port.Address.Addr(), 67)
	return &simLink{Port: port, node: n, post: p}, nil
}

type simLink struct {
	*swarmtest.Port
	node *simNode
	post *post
}

func (l *simLink) Send(b []byte, to dhcp.Destination, client net.HardwareAddr) error {
	if l.post.standing() == dhcp.Full && l.node.host.Running() {
		l.node.world.oracle.answered(l.post.segment.ID, l.post.segment.Duty.Term, l.node.name)
	}
	target := swarmtest.Target{Addr: to.Addr, Port: 68}
	if to.Frame {
		target = swarmtest.Target{MAC: client.String(), Port: 68}
	}
	return l.Port.Send(b, target)
}

// report tells the ledger what a real node would find out about its ports.
func (n *simNode) report(ctx context.Context) error {
	c := n.running()
	if c == nil {
		return nil
	}
	for {
		changed := c.replica.state.Changed()
		self, ok := c.replica.state.View().Node(n.id)
		op := swarm.ReportNode{
			Address: n.host.Address(simPeer), Version: "sim", Ports: []swarm.Port{n.port}, Warm: true, Protocol: swarm.Protocol, Keys: c.keys.Load(),
		}
		if ok && self.Ended == "" && !says(self, op) {
			_ = c.replica.decide(ctx, op) // tried again at the next turn
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-time.After(time.Second):
		}
	}
}

func (w *simWorld) gossipSeeds() []string {
	var out []string
	for _, n := range w.nodes {
		out = append(out, n.host.Address(simGossip))
	}
	return out
}

func (w *simWorld) feeders() []string {
	var out []string
	for _, n := range w.nodes {
		out = append(out, n.host.Address(simPeer))
	}
	return out
}

// nodeAt finds a node by its host's address.
func (w *simWorld) nodeAt(addr netip.Addr) *simNode {
	for _, n := range w.nodes {
		if n.host.Addr() == addr {
			return n
		}
	}
	return nil
}

// The calls of the peer API, as they travel between simulated hosts.
type (
	simPropose struct{ command []byte }
	simPulse   struct{}
	simRenew   struct {
		segment string
		term    uint64
	}
	simRedeem  struct{ op swarm.RedeemTicket }
	simDeliver struct {
		segment string
		term    uint64
		packets [][]byte
	}
)

// answer is the far side of simCalls.
func (n *simNode) answer(ctx context.Context, from netip.Addr, request any) (any, error) {
	c, caller := n.running(), n.world.nodeAt(from)
	if c == nil || caller == nil {
		return nil, errors.New("nobody answers")
	}
	switch r := request.(type) {
	case simPropose:
		return c.service.Propose(ctx, caller.id, r.command)
	case simPulse:
		return c.service.Pulse()
	case simRenew:
		return nil, c.service.RenewDuty(ctx, caller.id, r.segment, r.term)
	case simDeliver:
		return nil, c.service.Deliver(ctx, caller.id, r.segment, r.term, r.packets)
	case simRedeem:
		if !c.replica.ledger.IsLeader() {
			return nil, peer.ErrNotLeader
		}
		result, err := c.replica.propose(ctx, r.op)
		return result, err
	}
	return nil, fmt.Errorf("unknown request %T", request)
}

// simCalls makes them.
type simCalls struct{ host *swarmtest.Host }

var _ calls = (*simCalls)(nil)

func (s *simCalls) bytes(ctx context.Context, addr string, request any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := s.host.Call(ctx, addr, request)
	if err != nil || answer == nil {
		return nil, err
	}
	return answer.([]byte), nil
}

func (s *simCalls) Propose(ctx context.Context, addr string, command []byte) ([]byte, error) {
	return s.bytes(ctx, addr, simPropose{command})
}

func (s *simCalls) Pulse(ctx context.Context, addr string) ([]byte, error) {
	return s.bytes(ctx, addr, simPulse{})
}

func (s *simCalls) RenewDuty(ctx context.Context, addr, segment string, term uint64) error {
	_, err := s.bytes(ctx, addr, simRenew{segment, term})
	return err
}

func (s *simCalls) Deliver(ctx context.Context, addr, segment string, term uint64, packets [][]byte) error {
	_, err := s.bytes(ctx, addr, simDeliver{segment, term, packets})
	return err
}

var errNotSimulated = errors.New("not simulated")

func (s *simCalls) Admit(context.Context, string, []byte) ([]byte, error) {
	return nil, errors.New("no machine installs itself here")
}

func (s *simCalls) Redeem(context.Context, string, []byte) ([]byte, error) {
	return nil, errNotSimulated
}

func (s *simCalls) RenewCertificate(context.Context, string, []byte) ([]byte, error) {
	return nil, errNotSimulated
}

// Authority is a key that simulated nodes do not need.
func (s *simCalls) Authority(context.Context, string, []byte) error { return nil }

// Feed opens a stream that begins with the index after which it goes on.
func (s *simCalls) Feed(ctx context.Context, addr string, after uint64) (io.ReadCloser, error) {
	conn, err := s.host.Dial(ctx, netip.AddrPortFrom(netip.MustParseAddr(hostOf(addr)), simFeed).String())
	if err != nil {
		return nil, err
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, after)); err != nil {
		stop()
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// serveFeeds is what the peer API does when a follower asks to be fed. of is the ledger that runs now, nil if none does.
func serveFeeds(ctx context.Context, l net.Listener, of func() *ledger.Ledger) error {
	var all sync.WaitGroup
	defer all.Wait()
	stop := context.AfterFunc(ctx, func() { _ = l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			<-ctx.Done() // perhaps the host has crashed; then its life ends soon
			return nil
		}
		all.Go(func() {
			cut := context.AfterFunc(ctx, func() { _ = conn.Close() })
			defer cut()
			defer func() { _ = conn.Close() }()
			var after [8]byte
			feeder := of()
			if _, err := io.ReadFull(conn, after[:]); err != nil || feeder == nil {
				return
			}
			_ = feeder.ServeFeed(ctx, binary.BigEndian.Uint64(after[:]), conn, func() {}) // the reader has gone
		})
	}
}

// hostOf is the host of a host:port.
func hostOf(address string) string {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return address
	}
	return host
}

// leader is whoever leads and can prove it, nil if nobody can.
func (w *simWorld) leader() *core {
	for _, n := range w.nodes {
		if c := n.running(); c != nil && c.replica.ledger.IsLeader() && c.replica.ledger.LeaderContact() < officeProof {
			return c
		}
	}
	return nil
}
