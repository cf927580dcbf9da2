package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"offshoot/node/internal/peer"
	"offshoot/node/internal/task"
	"offshoot/swarm"
	"offshoot/swarm/gossip"
	"offshoot/swarm/ledger"
)

// core is what of a node needs no operating system: its copy of the swarm's state, who is there, what it looks after while
// it leads, and the duties that it holds. A simulation runs many of them in one process, on parts of its own.
type core struct {
	replica  *replica
	gossip   *gossip.Gossip
	renewals *renewals
	service  *service
	steward  *steward
	watch    *watch

	id      swarm.NodeID
	dial    calls
	feeders func() []string
	clock   func() time.Duration
	started time.Duration // by clock
	keys    atomic.Uint64 // generation of the gossip keys that are installed
	log     *slog.Logger
}

// calls are what nodes ask of each other over the peer API; *peer.Client makes them. addr is the host:port of a peer port.
type calls interface {
	Propose(ctx context.Context, addr string, command []byte) ([]byte, error)
	Pulse(ctx context.Context, addr string) ([]byte, error)
	RenewDuty(ctx context.Context, addr, segment string, term uint64) error
	Redeem(ctx context.Context, addr string, request []byte) ([]byte, error)
	Admit(ctx context.Context, addr string, request []byte) ([]byte, error)
	RenewCertificate(ctx context.Context, addr string, csr []byte) ([]byte, error)
	Authority(ctx context.Context, addr string, key []byte) error
	Feed(ctx context.Context, addr string, from uint64) (io.ReadCloser, error)
	Deliver(ctx context.Context, addr, segment string, term uint64, packets [][]byte) error
}

var _ calls = (*peer.Client)(nil)

// parts are what a core stands on.
type parts struct {
	id       swarm.NodeID
	address  string               // host:port of the peer port
	dir      string               // for the authorities' keys
	clock    func() time.Duration // the machine's own, which never jumps
	now      func() time.Time     // the wall clock, which may
	calls    calls
	ledger   ledger.Options // Listener, Dial, and where it is kept
	gossip   gossip.Options // Swarm, Bind, Keys, and who may be there
	feeders  func() []string
	lease    time.Duration // the longest
	stations func(*post) []station
	broken   func(error)
	applied  func(index uint64, command []byte) // told of every command that the state has seen; nil: nobody
	journal  *journal
	log      *slog.Logger
}

func newCore(p parts, state *swarm.State) (*core, error) {
	c := &core{id: p.id, dial: p.calls, feeders: p.feeders, clock: p.clock, started: p.clock(), log: p.log}
	c.replica = &replica{
		state: state, self: func() swarm.NodeID { return p.id }, broken: p.broken, applied: p.applied, now: p.now, ages: newAges(p.clock, p.lease), log: p.log,
	}
	o := p.ledger
	o.ID, o.Address, o.FSM, o.Logger = p.id, p.address, c.replica, p.log.With("part", "ledger")
	o.Peers = ledger.Peers{Forward: c.forward, Pulse: c.pulse}
	o.Check = func(r io.Reader) error { return checkSnapshot(r, state.View()) }
	o.Clock = p.clock
	var err error
	if c.replica.ledger, err = ledger.Open(o); err != nil {
		return nil, err
	}
	g := p.gossip
	g.ID, g.Logger = p.id, p.log.With("part", "gossip")
	if c.gossip, err = gossip.New(g); err != nil {
		return nil, errors.Join(err, c.replica.ledger.Close())
	}
	c.renewals = newRenewals(p.clock)
	c.service = &service{
		replica: c.replica, authorities: &authorities{dir: p.dir}, renewals: c.renewals, client: p.calls, gossip: c.gossipAddresses, journal: p.journal, log: p.log,
	}
	c.watch = &watch{
		replica: c.replica, client: p.calls, service: c.service, clock: p.clock, stations: p.stations, log: p.log, posts: map[uint64]*post{},
	}
	c.service.deliver = c.watch.deliver
	c.steward = &steward{
		replica: c.replica, renewals: c.renewals, clock: p.clock, alive: c.alive, goneFor: c.goneFor, entrust: c.service.entrust, authority: c.service.tendAuthority,
		members: c.gossip.Watch, log: p.log.With("part", "steward"),
	}
	return c, nil
}

// close releases what newCore opened, if it does not come to running.
func (c *core) close() error { return c.replica.ledger.Close() }

// ledgerTasks come first, then what stands on them; between the two others may stand.
func (c *core) ledgerTasks() []task.Task {
	return []task.Task{task.Func("ledger", c.replica.ledger.Run)}
}

func (c *core) gossipTasks() []task.Task {
	return []task.Task{readied{task.Func("gossip", c.gossip.Run), c.gossip.Ready()}}
}

func (c *core) rulingTasks() []task.Task {
	return []task.Task{task.Func("steward", c.steward.Run), task.Func("feed", c.follow), task.Func("keyring", c.keepKeys)}
}

func (c *core) forward(ctx context.Context, addr string, command []byte) ([]byte, error) {
	answer, err := c.dial.Propose(ctx, addr, command)
	if errors.Is(err, peer.ErrNotLeader) {
		err = errors.Join(ledger.ErrNotLeader, err)
	}
	return answer, err
}

func (c *core) pulse(ctx context.Context, addr string) (p ledger.Pulse, err error) {
	data, err := c.dial.Pulse(ctx, addr)
	if err == nil {
		err = unmarshal(data, &p)
	}
	return p, err
}

func (c *core) sees(id swarm.NodeID) sight {
	if id == c.id {
		return seen
	}
	switch m, ok := c.gossip.Member(id); {
	case !ok:
		return unseen
	case m.State == gossip.Alive:
		return seen
	}
	return lost
}

func (c *core) alive(id swarm.NodeID) bool { return c.sees(id) == seen }

// goneFor is how long gossip has not seen a node. One that it has never seen counts from when this node came up.
func (c *core) goneFor(id swarm.NodeID) time.Duration {
	if m, ok := c.gossip.Member(id); ok {
		return time.Since(m.Since)
	}
	return c.clock() - c.started
}

// gossipAddresses are those of the living nodes, this one first: what a new node is told.
func (c *core) gossipAddresses() []netip.AddrPort {
	self, others := netip.AddrPort{}, []netip.AddrPort{}
	for _, m := range c.gossip.Members() {
		switch {
		case m.ID == c.id:
			self = m.Address
		case m.State == gossip.Alive:
			others = append(others, m.Address)
		}
	}
	if !self.IsValid() {
		self = c.gossip.Address()
	}
	return append([]netip.AddrPort{self}, others...)
}

// checkSnapshot says whether a state could take the place of the present one.
func checkSnapshot(r io.Reader, now swarm.View) error {
	other := swarm.NewState()
	if err := other.Restore(r); err != nil {
		return err
	}
	theirs, _ := other.View().Settings()
	ours, ok := now.Settings()
	switch {
	case !ok:
	case ours.Swarm != theirs.Swarm:
		return fmt.Errorf("it is a snapshot of swarm %s, this is swarm %s", theirs.Swarm, ours.Swarm)
	case ours.CAGeneration != theirs.CAGeneration || ours.Pin != theirs.Pin:
		// With it the ledger would trust a CA that no node has a certificate of.
		return fmt.Errorf("it is of another CA (pin %s) than the swarm has now (pin %s): the CA was replaced since, or is being replaced", theirs.Pin, ours.Pin)
	}
	return nil
}

// feedPause is the time between two attempts to be fed.
const feedPause = 500 * time.Millisecond

// feedGood is how long a feed must have lasted for its end to be no fault of who was chosen.
const feedGood = 10 * time.Second

// follow keeps this node's state up to date while it takes no part in raft: another node, best the holder of its segment,
// sends it what was decided.
func (c *core) follow(ctx context.Context) error {
	for round := 0; ; round++ {
		if !c.replica.ledger.Member() {
			began := c.clock()
			if err := c.beFed(ctx, round); err != nil && ctx.Err() == nil {
				c.log.Debug("feed ended", "error", err)
			}
			if c.clock()-began > feedGood {
				round = -1 // the best one first again
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(feedPause):
		}
	}
}

func (c *core) beFed(ctx context.Context, round int) error {
	from := c.feeder(round)
	if from == "" {
		return errors.New("nobody is known who could feed this node")
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	body, err := c.dial.Feed(ctx, from, c.replica.ledger.Applied())
	if err != nil {
		return err
	}
	defer func() { _ = body.Close() }()
	// Raft may want this node as a member meanwhile: then its own log is the better source.
	var joined atomic.Bool
	done := make(chan struct{})
	go func() {
		defer close(done)
		ticker := time.NewTicker(feedPause)
		defer ticker.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-ticker.C:
				if c.replica.ledger.Member() {
					joined.Store(true)
					cancel()
					return
				}
			}
		}
	}()
	err = c.replica.ledger.Follow(ctx, body)
	cancel()
	<-done
	if joined.Load() {
		return nil
	}
	return err
}

// feeder chooses who to be fed by: the holder of this node's segment, then other living nodes, then whoever was there last;
// another one in each round.
func (c *core) feeder(round int) string {
	view := c.replica.state.View()
	self, _ := view.Node(c.id)
	var first, rest []string
	for _, n := range view.Nodes() {
		if n.ID == c.id || !n.Eligible() || !c.alive(n.ID) {
			continue
		}
		holds := false
		for _, s := range view.Segments() {
			_, on := self.On(s.ID)
			holds = holds || on && s.Duty.Holder == n.ID
		}
		if holds {
			first = append(first, n.Address)
		} else {
			rest = append(rest, n.Address)
		}
	}
	all := append(first, rest...)
	if len(all) == 0 {
		all = c.feeders()
	}
	if len(all) == 0 {
		return ""
	}
	return all[round%len(all)]
}

// keepKeys makes gossip use the keys that the ledger says.
func (c *core) keepKeys(ctx context.Context) error {
	for {
		changed := c.replica.state.Changed()
		settings, ok := c.replica.state.View().Settings()
		if ok && (settings.KeyGeneration != c.keys.Load() || c.keys.Load() == 0) {
			if err := c.useKeys(settings); err != nil {
				c.log.Warn("gossip keys are not installed", "generation", settings.KeyGeneration, "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (c *core) useKeys(settings swarm.Settings) error {
	keys, err := parseKeys(settings.GossipKeys)
	if err != nil {
		return err
	}
	var ring [][]byte
	for _, k := range keys {
		ring = append(ring, k.Reveal())
	}
	if err := c.gossip.SetKeys(ring); err != nil {
		return err
	}
	c.keys.Store(settings.KeyGeneration)
	return nil
}
