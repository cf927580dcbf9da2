package swarmtest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"testing"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/gossip"
	"offshoot/swarm/ledger"
	"offshoot/swarm/swarmtest"
)

var seeds = swarmtest.Flags("./swarm/swarmtest")

// command is what the simulated swarm decides: reads go through the log as well.
type command struct {
	ID    string `json:"id"`
	Op    string `json:"op"` // read, write, swap
	Key   int    `json:"key"`
	Old   int    `json:"old,omitempty"` // swap: only if this is the value
	Value int    `json:"value,omitempty"`
}

// answer is what a command returned: the value that was read, or whether the swap was made.
type answer struct {
	Value int  `json:"value"`
	Done  bool `json:"done"`
}

// register is the state machine: a few numbers. It remembers the answer of every command, because one that is proposed
// twice must happen once.
type register struct {
	watch  *watch
	node   string
	mu     sync.Mutex
	values map[int]int
	seen   map[string]answer
	index  uint64
	chain  uint64 // hash of everything applied so far
}

// saved is a register's snapshot.
type saved struct {
	Values map[int]int
	Seen   map[string]answer
	Index  uint64
	Chain  uint64
}

func newRegister(w *watch, node string) *register {
	return &register{watch: w, node: node, values: map[int]int{}, seen: map[string]answer{}}
}

func (r *register) Apply(index uint64, b []byte) []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	if index <= r.index {
		r.watch.violated("%s applies %d after %d", r.node, index, r.index)
	}
	h := fnv.New64a()
	_, _ = fmt.Fprintf(h, "%d %d %s", r.chain, index, b) // a hash never fails
	r.index, r.chain = index, h.Sum64()
	r.watch.applied(r.node, index, r.chain)
	var c command
	if err := json.Unmarshal(b, &c); err != nil {
		r.watch.violated("%s reads entry %d: %v", r.node, index, err)
		return nil
	}
	a, again := r.seen[c.ID]
	if !again {
		r.watch.happened(c.ID)
		switch c.Op {
		case "read":
			a = answer{Value: r.values[c.Key], Done: true}
		case "write":
			r.values[c.Key] = c.Value
			a = answer{Done: true}
		case "swap":
			if a.Done = r.values[c.Key] == c.Old; a.Done {
				r.values[c.Key] = c.Value
			}
		}
		r.seen[c.ID] = a
	}
	out, err := json.Marshal(a)
	if err != nil {
		r.watch.violated("%s answers: %v", r.node, err)
	}
	return out
}

func (r *register) save() saved {
	r.mu.Lock()
	defer r.mu.Unlock()
	s := saved{Values: map[int]int{}, Seen: map[string]answer{}, Index: r.index, Chain: r.chain}
	for k, v := range r.values {
		s.Values[k] = v
	}
	for k, v := range r.seen {
		s.Seen[k] = v
	}
	return s
}

func (r *register) Snapshot() (func(io.Writer) error, error) {
	s := r.save()
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(s) }, nil
}

func (r *register) Restore(in io.Reader) error {
	var s saved
	if err := json.NewDecoder(in).Decode(&s); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.values, r.seen, r.index, r.chain = s.Values, s.Seen, s.Index, s.Chain
	if r.values == nil {
		r.values = map[int]int{}
	}
	if r.seen == nil {
		r.seen = map[string]answer{}
	}
	if s.Index > 0 {
		r.watch.applied(r.node, s.Index, s.Chain)
	}
	return nil
}

// node is ledger and gossip in one life of a host.
type node struct {
	id      string
	host    *swarmtest.Host
	ledger  *ledger.Ledger
	gossip  *gossip.Gossip
	machine *register
	life    context.Context //nolint:containedctx // what clients ask of a node ends with it
	cancel  context.CancelFunc
	ended   chan struct{}
}

const (
	raftPort, gossipPort, peerPort = 7400, 7401, 7402
)

// timing costs little processor time: an idle leader speaks to each member about eight times a second.
var (
	ledgerTiming = ledger.Timing{Heartbeat: time.Second, Election: time.Second, Lease: 500 * time.Millisecond,
		Commit: 250 * time.Millisecond}
	gossipTiming = gossip.Timing{Gossip: 500 * time.Millisecond, Rejoin: 3 * time.Second, Exchange: 10 * time.Second,
		LeaveWait: 200 * time.Millisecond}
)

// swarmOf is all nodes of one simulation. It plays the faults to them.
type swarmOf struct {
	t     *testing.T
	watch *watch
	net   *swarmtest.Network

	starting chan struct{}
	over     chan struct{} // closed at the end
	revivals sync.WaitGroup

	mu    sync.Mutex
	nodes map[string]*node // by host; crashed ones stay until they are started again
	lives map[string]int   // by host, how often it was wiped
}

func (s *swarmOf) node(host string) *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nodes[host]
}

// Crash ends the node of a host that has crashed.
func (s *swarmOf) Crash(h *swarmtest.Host) {
	if n := s.node(h.Name()); n != nil {
		n.cancel()
	}
}

// Start waits for the end of the node before, and starts the next, unless the host was started meanwhile: see revive.
func (s *swarmOf) Start(h *swarmtest.Host, wiped bool) {
	s.starting <- struct{}{} // one at a time; a mutex may not be held for so long in a bubble
	defer func() { <-s.starting }()
	if !h.Crashed() && !wiped {
		return
	}
	h.Crash()
	if n := s.node(h.Name()); n != nil {
		n.cancel()
		<-n.ended
	}
	if wiped {
		h.Disk().Wipe()
		s.lives[h.Name()]++
	}
	h.Restart()
	s.start(h, false)
}

// revive does what systemd does with a node that ended because its disk failed.
func (s *swarmOf) revive(n *node) {
	n.host.Crash()
	n.cancel()
	timer := time.NewTimer(time.Second)
	defer timer.Stop()
	select {
	case <-timer.C:
		s.Start(n.host, false)
	case <-s.over:
	}
}

func (s *swarmOf) start(h *swarmtest.Host, found bool) {
	n, err := s.open(h, found)
	if err != nil {
		s.t.Errorf("start %s: %v", h.Name(), err)
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	n.life, n.cancel = ctx, cancel
	s.mu.Lock()
	s.nodes[h.Name()] = n
	s.mu.Unlock()
	go n.run(ctx, s)
}

func (s *swarmOf) open(h *swarmtest.Host, found bool) (*node, error) {
	id := h.Name()
	if k := s.lives[id]; k > 0 {
		id = fmt.Sprintf("%s.%d", id, k)
	}
	n := &node{id: id, host: h, machine: newRegister(s.watch, id), ended: make(chan struct{})}
	listener, err := h.Listen(raftPort)
	if err != nil {
		return nil, err
	}
	n.ledger, err = ledger.Open(ledger.Options{
		Storage: h.Disk(), ID: swarm.NodeID(id), Address: h.Address(raftPort), Listener: named{listener, id}, Dial: n.dial,
		Peers: ledger.Peers{
			Forward: func(ctx context.Context, at string, command []byte) ([]byte, error) {
				got, err := h.Call(ctx, peerOf(at), forward(command))
				b, _ := got.([]byte)
				return b, err
			},
			Pulse: func(ctx context.Context, at string) (ledger.Pulse, error) {
				got, err := h.Call(ctx, peerOf(at), pulse{of: n.memberAt(at)})
				p, _ := got.(ledger.Pulse)
				return p, err
			},
		},
		FSM: n.machine, Timing: ledgerTiming, Logger: logger(s.t, id),
		// As in earnest more is kept behind a snapshot than can be under way: see the ledger's MaxPending.
		Compaction: ledger.Compaction{Interval: 5 * time.Second, Threshold: 32, Trailing: 64},
	})
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	if found {
		if err := n.ledger.Found(); err != nil {
			return nil, errors.Join(err, n.ledger.Close())
		}
	}
	transport, err := h.Gossip(gossipPort)
	if err != nil {
		return nil, errors.Join(err, n.ledger.Close())
	}
	n.gossip, err = gossip.New(gossip.Options{
		Swarm: "sim", ID: swarm.NodeID(id), Keys: [][]byte{make([]byte, gossip.KeySize)}, Transport: transport,
		Timing: gossipTiming, Logger: logger(s.t, id), Seeds: s.seeds,
	})
	if err != nil {
		return nil, errors.Join(err, n.ledger.Close(), transport.Shutdown())
	}
	return n, h.Handle(peerPort, n.serve)
}

// named stands in for TLS: whoever is called says first who it is.
type named struct {
	net.Listener
	id string
}

func (l named) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	_, _ = c.Write(append([]byte{byte(len(l.id))}, l.id...)) // a broken stream shows at the next use
	return c, nil
}

// memberAt is who should be at an address; "" if the ledger has nobody there.
func (n *node) memberAt(at string) string {
	for _, m := range n.ledger.Members() {
		if m.Address == at {
			return string(m.ID)
		}
	}
	return ""
}

// dial calls a member and hangs up if another node has its address by now.
func (n *node) dial(ctx context.Context, want swarm.NodeID, at string) (net.Conn, error) {
	c, err := n.host.Dial(ctx, at)
	if err != nil {
		return nil, err
	}
	id, err := nameOf(ctx, c)
	if err == nil && string(want) != id {
		err = fmt.Errorf("%s is %s now, not %s", at, id, want)
	}
	if err != nil {
		return nil, errors.Join(err, c.Close())
	}
	return c, nil
}

func nameOf(ctx context.Context, c net.Conn) (string, error) {
	if by, ok := ctx.Deadline(); ok {
		_ = c.SetReadDeadline(by)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	var size [1]byte
	if _, err := io.ReadFull(c, size[:]); err != nil {
		return "", err
	}
	id := make([]byte, size[0])
	if _, err := io.ReadFull(c, id); err != nil {
		return "", err
	}
	return string(id), c.SetReadDeadline(time.Time{})
}

// seeds are the gossip addresses of all hosts.
func (s *swarmOf) seeds() []string {
	hosts := s.net.Hosts()
	at := make([]string, 0, len(hosts))
	for _, h := range hosts {
		at = append(at, h.Address(gossipPort))
	}
	return at
}

type forward []byte

// pulse asks for the pulse of one node: another one at its address must not answer.
type pulse struct{ of string }

// serve is the peer API.
func (n *node) serve(ctx context.Context, _ netip.Addr, request any) (any, error) {
	switch r := request.(type) {
	case forward:
		return n.ledger.Accept(ctx, r)
	case pulse:
		if r.of != "" && r.of != n.id {
			return nil, fmt.Errorf("this is %s, not %s", n.id, r.of)
		}
		return n.ledger.Pulse(), nil
	}
	return nil, fmt.Errorf("request %T is unknown", request)
}

// peerOf is the peer API beside a raft port.
func peerOf(raft string) string {
	host, _, _ := net.SplitHostPort(raft)
	return net.JoinHostPort(host, fmt.Sprint(peerPort))
}

func (n *node) run(ctx context.Context, s *swarmOf) {
	defer close(n.ended)
	w := s.watch
	var parts sync.WaitGroup
	parts.Go(func() {
		if err := n.ledger.Run(ctx); errors.Is(err, ledger.ErrStorage) {
			s.revivals.Go(func() { s.revive(n) })
		} else if err != nil {
			w.violated("ledger of %s ends: %v", n.id, err)
		}
	})
	parts.Go(func() {
		if err := n.gossip.Run(ctx); err != nil {
			w.violated("gossip of %s ends: %v", n.id, err)
		}
	})
	parts.Go(func() { n.rule(ctx) })
	parts.Wait()
}

// rule is what a steward does, in a few lines: the leader takes in whom gossip shows, and gives everyone a vote.
func (n *node) rule(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if !n.ledger.IsLeader() {
			continue
		}
		for _, m := range n.gossip.Members() {
			if m.State == gossip.Alive {
				_ = n.admit(ctx, m) // again at the next tick
			}
		}
	}
}

func (n *node) admit(ctx context.Context, m gossip.Member) error {
	at := netip.AddrPortFrom(m.Address.Addr(), raftPort).String()
	known := false
	for _, member := range n.ledger.Members() {
		if member.Address == at && member.ID != m.ID { // that machine was installed anew
			return n.ledger.Remove(ctx, member.ID)
		}
		if member.ID == m.ID {
			known = true
			if member.Voter {
				return nil
			}
		}
	}
	if !known {
		return n.ledger.AddLearner(ctx, m.ID, at)
	}
	return n.ledger.Promote(ctx, m.ID)
}

func logger(t *testing.T, id string) *slog.Logger {
	if os.Getenv("SWARMTEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", id)
}
