// Package gossip tells who is there: which nodes of the swarm are alive, where, and what they say about themselves in
// a few hundred bytes. It is an adaptor over hashicorp/memberlist (SWIM: Das, Gupta, Motivala 2002; with Lifeguard).
//
// It may be wrong for seconds, and says so by design: nothing may be decided on its word alone, that is what the ledger
// is for. It refuses to carry anything but membership, and to talk to anyone without the swarm's key and label:
// everything on its port is AES-256-GCM with the swarm's id as authenticated data.
//
// It may be imported by node. It imports swarm for the names only, and none of ledger, share, identity.
package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"offshoot/swarm"
)

// Errors of gossip; match them with errors.Is.
var (
	// ErrStopped: Run has ended or is about to.
	ErrStopped = errors.New("gossip is stopped")
	// ErrNobody: none of the addresses given answered as a member of this swarm.
	ErrNobody = errors.New("no member of the swarm answers there")
)

const (
	// KeySize is the length of a gossip key in bytes (AES-256).
	KeySize = 32
	// MaxMeta is what a node can say about itself, in bytes: memberlist's 512 less our own session number.
	MaxMeta = memberlist.MetaMaxSize - sessionSize
)

// Timing holds gossip's periods; zero means the default. The defaults are memberlist's for a LAN, made patient enough
// for emulated machines that lose the processor for a second: a node that vanishes is called dead after about 10 s.
type Timing struct {
	Probe     time.Duration // between probes of one other member; 2 s
	Answer    time.Duration // a probe's answer is late after this long; 1 s
	Gossip    time.Duration // between packets of news; 200 ms
	Exchange  time.Duration // between full exchanges of state with one other member; 20 s
	Rejoin    time.Duration // between attempts to reach seeds and lost members; 10 s
	Stream    time.Duration // bound for one connection; 5 s
	LeaveWait time.Duration // how long to spread the news that we leave; 2 s
}

// Options of gossip. Swarm, ID, Bind (or Transport), and Keys are required.
type Options struct {
	Swarm     string         // id of the swarm; nodes of another are refused
	ID        swarm.NodeID   // this node
	Bind      netip.AddrPort // UDP and TCP; port 0 picks one (tests)
	Advertise netip.AddrPort // where others reach us; default Bind, required if that is the unspecified address
	Keys      [][]byte       // KeySize bytes each; the first encrypts, all decrypt
	// Meta returns what this node says about itself, at most MaxMeta bytes; nil for nothing. It is called at the start
	// and after UpdateMeta, from any goroutine, and must not call this package.
	Meta func() []byte
	// Seeds returns host:port addresses to try while members are missing, besides those of members known before; nil
	// for none. Called every Timing.Rejoin from one goroutine.
	Seeds  func() []string
	Timing Timing
	// Transport carries it all instead of sockets on Bind, which need not be given then; Run shuts it down. nil for sockets.
	Transport memberlist.NodeAwareTransport
	Logger    *slog.Logger
}

// Gossip is this node's view of who is there. All methods may be called from any goroutine.
type Gossip struct {
	opt     Options
	log     *slog.Logger
	keysMu  sync.Mutex // makes SetKeys one step among its callers
	keys    *memberlist.Keyring
	table   *table
	session uint64 // names this run of this node
	update  chan struct{}

	queue     *memberlist.TransmitLimitedQueue // this and the next three are set before ready is closed
	list      *memberlist.Memberlist
	address   netip.AddrPort
	transport *transport
	ready     chan struct{}
	stopping  chan struct{}
	running   atomic.Bool

	joinMu sync.Mutex // guards joining.Add against Run's joining.Wait
	joins  sync.WaitGroup
}

// New checks the options. It opens nothing.
func New(opt Options) (*Gossip, error) {
	if err := opt.complete(); err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	keys, err := memberlist.NewKeyring(opt.Keys, opt.Keys[0])
	if err != nil {
		return nil, fmt.Errorf("gossip: %w", err)
	}
	g := &Gossip{
		opt: opt, log: opt.Logger, keys: keys, table: newTable(opt.ID, time.Now),
		session:  rand.Uint64(),
		update:   make(chan struct{}, 1),
		ready:    make(chan struct{}),
		stopping: make(chan struct{}),
	}
	return g, nil
}

func (o *Options) complete() error {
	switch {
	case o.Swarm == "" || len(o.Swarm) > memberlist.LabelMaxSize:
		return fmt.Errorf("swarm id has %d bytes, want 1 to %d", len(o.Swarm), memberlist.LabelMaxSize)
	case o.ID == "" || len(o.ID) > maxID:
		return fmt.Errorf("node id has %d bytes, want 1 to %d", len(o.ID), maxID)
	case !o.Bind.IsValid() && o.Transport == nil:
		return errors.New("no address to bind to given")
	case !o.Advertise.IsValid() && o.Bind.IsValid() && o.Bind.Addr().IsUnspecified():
		return fmt.Errorf("bound to %s, so the address to advertise must be given", o.Bind)
	}
	if err := checkKeys(o.Keys); err != nil {
		return err
	}
	if o.Meta == nil {
		o.Meta = func() []byte { return nil }
	}
	if o.Seeds == nil {
		o.Seeds = func() []string { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	t := &o.Timing
	for _, d := range []struct {
		v  *time.Duration
		to time.Duration
	}{
		{&t.Probe, 2 * time.Second}, {&t.Answer, time.Second}, {&t.Gossip, 200 * time.Millisecond},
		{&t.Exchange, 20 * time.Second}, {&t.Rejoin, 10 * time.Second}, {&t.Stream, 5 * time.Second},
		{&t.LeaveWait, 2 * time.Second},
	} {
		if *d.v == 0 {
			*d.v = d.to
		}
	}
	return nil
}

// config is memberlist's LAN configuration with what the swarm wants otherwise.
func (g *Gossip) config(transport memberlist.Transport) *memberlist.Config {
	c := memberlist.DefaultLANConfig()
	c.Name = string(g.opt.ID)
	c.Label = g.opt.Swarm
	c.Keyring = g.keys
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true // the default, but it matters too much to inherit
	c.Transport = transport
	if b := g.opt.Bind; b.IsValid() {
		c.BindAddr, c.BindPort = b.Addr().String(), int(b.Port())
	}
	if a := g.opt.Advertise; a.IsValid() {
		c.AdvertiseAddr, c.AdvertisePort = a.Addr().String(), int(a.Port())
	}
	t := g.opt.Timing
	c.ProbeInterval, c.ProbeTimeout = t.Probe, t.Answer
	c.GossipInterval, c.PushPullInterval = t.Gossip, t.Exchange
	c.TCPTimeout = t.Stream
	// A node that comes back at another address takes its name over as soon as the old one is dead: it has the key,
	// and who is who is proved by certificates, not here.
	c.DeadNodeReclaimTime = time.Nanosecond
	c.RequireNodeNames = false
	c.Delegate, c.Events = &delegate{g}, g.table
	c.LogOutput = nil
	c.Logger = newMemberlistLogger(g.log)
	return c
}

// Run takes part until ctx is done, then tells the others that this node leaves, for Timing.LeaveWait at most. On
// return sockets and goroutines are released, but for a probe under way, which memberlist ends within a few Timing.Probe.
// Cancelled is nil; an error means that it could not start.
func (g *Gossip) Run(ctx context.Context) error {
	if g.running.Swap(true) {
		return errors.New("run gossip: it ran before; it runs once")
	}
	transport, err := g.open()
	if err != nil {
		close(g.stopping)
		return fmt.Errorf("gossip on %s: %w", g.opt.Bind, err)
	}
	g.queue = &memberlist.TransmitLimitedQueue{NumNodes: g.table.alive, RetransmitMult: retransmit}
	conf := g.config(transport)
	ip, port, err := transport.FinalAdvertiseAddr(conf.AdvertiseAddr, conf.AdvertisePort)
	if err == nil {
		// Remembered, since memberlist writes to its LocalNode without telling when.
		g.address = addressOf(&memberlist.Node{Addr: ip, Port: uint16(port)})
		g.list, err = memberlist.Create(conf)
	}
	if err != nil {
		close(g.stopping)
		return errors.Join(fmt.Errorf("gossip on %s: %w", g.opt.Bind, err), transport.Shutdown())
	}
	g.transport = transport
	close(g.ready)
	var loops sync.WaitGroup
	loops.Go(func() { g.rejoinLoop(ctx) })
	loops.Go(func() { g.metaLoop(ctx) })
	<-ctx.Done()

	g.joinMu.Lock()
	close(g.stopping)
	g.joinMu.Unlock()
	g.queue.QueueBroadcast(farewell{id: g.opt.ID, session: g.session}.broadcast())
	if err := g.list.Leave(g.opt.Timing.LeaveWait); err != nil {
		g.log.Debug("others may not have heard that this node leaves", "error", err)
	}
	transport.cut()
	err = g.list.Shutdown()
	loops.Wait()
	g.joins.Wait()
	g.table.announce()
	if err != nil {
		return fmt.Errorf("stop gossip: %w", err)
	}
	return nil
}

// open makes the transport; what it makes is shut down by whoever got it.
func (g *Gossip) open() (*transport, error) {
	if g.opt.Transport != nil {
		return newTransport(g.opt.Transport, func() {}, g.table.knownAt), nil
	}
	s, hangUp, err := newSockets(g.opt.Bind, newMemberlistLogger(g.log))
	if err != nil {
		return nil, err
	}
	return newTransport(s, hangUp, g.table.knownAt), nil
}

// retransmit is memberlist's RetransmitMult for a LAN.
const retransmit = 4

// Ready is closed when the sockets are open.
func (g *Gossip) Ready() <-chan struct{} { return g.ready }

// Address is where the others reach this node; it waits for Ready, and is invalid if Run could not start.
func (g *Gossip) Address() netip.AddrPort {
	select {
	case <-g.ready:
	case <-g.stopping:
		return netip.AddrPort{}
	}
	return g.address
}

// Join exchanges state with the nodes at addrs (host:port). One that answers is enough. ErrNobody, with the reason of
// each, if none does: unreachable, of another swarm, or with another key (the other side does not say which).
func (g *Gossip) Join(ctx context.Context, addrs []string) error {
	select {
	case <-g.ready:
	case <-g.stopping:
		return fmt.Errorf("join: %w", ErrStopped)
	case <-ctx.Done():
		return fmt.Errorf("join: gossip does not run yet: %w", ctx.Err())
	}
	done := make(chan error, 1)
	g.joinMu.Lock()
	select {
	case <-g.stopping:
		g.joinMu.Unlock()
		return fmt.Errorf("join: %w", ErrStopped)
	default:
	}
	g.joins.Go(func() { // memberlist cannot be interrupted; each address is bounded by Timing.Stream, or by cut
		_, err := g.list.Join(addrs)
		done <- err
	})
	g.joinMu.Unlock()
	select {
	case err := <-done:
		if err != nil {
			return fmt.Errorf("join: %w: %w", ErrNobody, err)
		}
		if len(addrs) == 0 {
			return fmt.Errorf("join: %w: no address given", ErrNobody)
		}
		return nil
	case <-ctx.Done():
		return fmt.Errorf("join: %w", ctx.Err())
	}
}

// rejoinLoop tries to reach those who should be there and are not, so that a swarm that was parted grows together
// again by itself: memberlist forgets the dead and would never ask for them.
func (g *Gossip) rejoinLoop(ctx context.Context) {
	for {
		timer := time.NewTimer(g.opt.Timing.Rejoin/2 + rand.N(g.opt.Timing.Rejoin))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return
		}
		missing := g.table.missing(g.opt.Seeds(), g.Address().String())
		if len(missing) == 0 {
			continue
		}
		rand.Shuffle(len(missing), func(i, j int) { missing[i], missing[j] = missing[j], missing[i] })
		if err := g.Join(ctx, missing[:min(len(missing), rejoinAtOnce)]); err != nil {
			g.log.Debug("missing members are not reached", "error", err)
		}
	}
}

// rejoinAtOnce bounds one round: dead addresses cost a connection timeout each.
const rejoinAtOnce = 3

// Members are all nodes ever heard of in this run, this one included, by id. The dead are kept; the longest gone are
// forgotten first.
func (g *Gossip) Members() []Member { return g.table.list() }

// Member is one of them.
func (g *Gossip) Member(id swarm.NodeID) (Member, bool) { return g.table.get(id) }

// Watch returns a channel that is closed at the next change of Members. Take it, then look.
func (g *Gossip) Watch() <-chan struct{} { return g.table.watch() }

// UpdateMeta lets the others know what Options.Meta returns now. It does not wait.
func (g *Gossip) UpdateMeta() {
	select {
	case g.update <- struct{}{}:
	default: // one is pending, which will see the newest
	}
}

func (g *Gossip) metaLoop(ctx context.Context) {
	for {
		select {
		case <-g.update:
		case <-ctx.Done():
			return
		}
		// The timeout is only for being told that the news went out; it goes out in any case.
		if err := g.list.UpdateNode(g.opt.Timing.Gossip); err != nil {
			g.log.Debug("news about this node are still under way", "error", err)
		}
	}
}
