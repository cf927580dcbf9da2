// Package node is one machine of the swarm: it assembles the adaptors (identity, gossip, ledger, share, segments, DHCP,
// TFTP, web), orders their start and stop, and holds the loops between them: the steward, who looks after the swarm while
// this node leads; the watch, which mans the segments that this node holds duty on; the ground, which keeps its ports,
// addresses and routes. What should be is decided by the rules of package swarm; here it is done. Package cmd may import
// it, and nobody else.
package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"offshoot/handoff"
	"offshoot/node/internal/api"
	"offshoot/node/internal/boot"
	"offshoot/node/internal/segment"
	"offshoot/node/internal/tenant"
	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/share"
)

// The ports of a node, beside DHCP (67/udp), TFTP (69/udp) and the web for booting machines (7480/tcp).
const (
	PeerPort   = 7400 // tcp, TLS 1.3: ledger, peer API, redeeming of tickets
	GossipPort = 7401 // tcp and udp, AES-256-GCM
)

// Options say what to run. DataDir and Logger are required.
type Options struct {
	DataDir string
	Seed    *Seed  // found a swarm, or resume the one that was founded here; nil on installed machines
	Name    string // of a seed; "" takes the host name
	Version string
	Metrics string // HOST:PORT where whoever asks gets this node's numbers, over plain HTTP; "" for nowhere
	Logger  *slog.Logger
	// Say is told in plain words what goes on, a line each; nil is silence.
	Say func(line string)
}

// Node is one member of the swarm. Run it once.
type Node struct {
	o        Options
	log      *slog.Logger
	leave    chan struct{} // closed by Leave
	left     chan error    // how it ended
	leaving  atomic.Bool
	services atomic.Pointer[services] // nil until they run
}

// New checks the options; nothing is touched before Run.
func New(o Options) (*Node, error) {
	if o.DataDir == "" || o.Logger == nil {
		return nil, errors.New("node: data directory and logger are required")
	}
	if o.Say == nil {
		o.Say = func(string) {}
	}
	return &Node{o: o, log: o.Logger, leave: make(chan struct{}), left: make(chan error, 1)}, nil
}

// ErrNoSwarm: the data directory holds nothing to run.
var ErrNoSwarm = errors.New("this machine is not part of a swarm")

// ErrNoImage: a swarm cannot be founded without something to install.
var ErrNoImage = errors.New("nothing to install")

// ErrNotStarted: the node holds nothing yet that could be handed over.
var ErrNotStarted = errors.New("the node has not started yet")

// Run is the node's life: it founds, joins or resumes, serves until ctx ends, and has put everything back when it returns.
func (n *Node) Run(ctx context.Context) (err error) {
	if err := segment.Rights(); err != nil {
		return err
	}
	if _, err := boot.Programs(); err != nil {
		return err
	}
	release, err := lock(n.o.DataDir)
	if err != nil {
		return err
	}
	defer release()
	m, member, err := loadMemory(n.o.DataDir)
	if err != nil {
		return err
	}
	undo, err := segment.OpenJournal(filepath.Join(n.o.DataDir, "undo.json"), n.log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo.Undo()) }()
	s := &services{node: n, undo: undo, journal: newJournal(), memory: m, state: swarm.NewState()}
	if s.identity, err = identity.Open(identity.Options{
		Dir: n.o.DataDir, Member: s.isKnown, Refused: func(serial string, p identity.Peer) error { return refusal(s.state.View(), serial, p) },
	}); err != nil {
		return err
	}
	if s.store, err = share.OpenStore(filepath.Join(n.o.DataDir, "artifacts")); err != nil {
		return err
	}
	switch join, invited, err := loadJoin(n.o.DataDir); {
	case err != nil:
		return err
	case n.o.Seed != nil:
		return n.seed(ctx, s, member)
	case invited && join.Ticket != "" || member:
		return n.installed(ctx, s, join, member)
	}
	return fmt.Errorf("%w: %s holds neither a node nor an invitation. Found a swarm with: offshoot seed", ErrNoSwarm, n.o.DataDir)
}

// seed founds a swarm, or goes on with the one that was founded here.
func (n *Node) seed(ctx context.Context, s *services, member bool) error {
	seed := *n.o.Seed
	if err := seedable(n.o.DataDir, s.memory, member); err != nil {
		return err
	}
	if !member && seed.Image == "" {
		return fmt.Errorf("%w: name a disk image with --image, for example one made by: offshoot image build debian:13 -o debian13.raw.zst", ErrNoImage)
	}
	seed, err := seed.beginning(s.memory, member, n.o.Say)
	if err != nil {
		return err
	}
	port, err := seed.port(ctx, s.undo, s.memory)
	if err != nil {
		return err
	}
	further, err := seed.further(port, s.memory)
	if err != nil {
		return err
	}
	// The probe takes ten seconds of listening; the larder is stocked meanwhile.
	var at stance
	probed := make(chan error, 1)
	probing, stop := context.WithCancel(ctx)
	defer stop()
	started := time.Now()
	go func() {
		prober := segment.Prober{Log: n.log, Mark: s.mark(), Mine: s.memory.mine(seed.network(), port)}
		var err error
		at, err = seed.claim(probing, s.undo, port, prober)
		probed <- err
	}()
	if err := s.stock(ctx, seed); err != nil {
		stop()
		return errors.Join(err, ignoreCancelled(<-probed))
	}
	n.log.Info("profile is ready", "took", time.Since(started))
	n.o.Say("probing   for other DHCP servers on " + port.Name)
	if err := <-probed; err != nil {
		return err
	}
	n.log.Info("probed", "mode", at.mode, "why", at.why, "took", time.Since(started))
	n.o.Say(fmt.Sprintf("segment   %s on %s, mode %s: %s", at.address, port.Name, at.mode, at.why))
	for _, name := range seed.Further {
		n.o.Say("further   " + name + " gets a segment of its own, unless somebody serves there")
	}
	s.memory.Address = at.address
	if !member {
		name := n.o.Name
		if name == "" {
			name = hostName()
		}
		m, found, err := seed.found(n.o.DataDir, s.identity, port, at, name)
		if err != nil {
			return err
		}
		found.Profile = &s.stocked.profile
		s.memory, s.founding = m, &found
	}
	s.memory.Further = further
	return s.run(ctx)
}

// ignoreCancelled drops the error of what we ended ourselves.
func ignoreCancelled(err error) error {
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}

func hostName() string {
	name, err := os.Hostname()
	if err != nil || name == "" {
		return "seed"
	}
	return name
}

// installed runs a machine that offshoot installed: it takes the handoff to its end, and then is a node like any other.
func (n *Node) installed(ctx context.Context, s *services, join joinFile, member bool) error {
	if member && s.memory.Foreign || !member && join.Foreign {
		var err error
		if join, err = n.lodge(ctx, s, join, member); err != nil || ctx.Err() != nil {
			return ignoreCancelled(err)
		}
	}
	s.taker = &taker{dir: n.o.DataDir, join: join, identity: s.identity, undo: s.undo, log: n.log}
	take := handoff.Take(n.o.DataDir, s.taker, n.log)
	if !member {
		n.o.Say("joining   swarm " + join.Swarm)
		first := take
		first.Steps = take.Steps[:2]
		if err := first.Execute(ctx); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("join swarm %s: %w", join.Swarm, err)
		}
		m, _, err := loadMemory(n.o.DataDir)
		if err != nil {
			return err
		}
		s.memory = m
	}
	if s.lodging != nil {
		return s.run(ctx)
	}
	port, err := portByMAC(s.memory.Port, s.memory.VLAN)
	if err != nil {
		return fmt.Errorf("this node's home: %w", err)
	}
	if err := segment.KeepAddress(port.Name, s.memory.Address); err != nil {
		return err
	}
	return s.run(ctx)
}

// lodge gets this machine an address where another DHCP server gives them; best the one that it had last.
func (n *Node) lodge(ctx context.Context, s *services, join joinFile, member bool) (joinFile, error) {
	home, want := swarm.MAC(join.MAC), join.Address
	if member {
		home, want = s.memory.Port, s.memory.Address
	}
	port, err := portByMAC(home, 0)
	if err != nil {
		return join, fmt.Errorf("this node's home: %w", err)
	}
	if _, err := s.undo.Raise(port); err != nil {
		return join, err
	}
	n.o.Say("asking    for an address on " + port.Name + ", where another DHCP server gives them")
	set := func(address netip.Prefix, life time.Duration) error {
		return segment.LendAddress(port.Name, address, life)
	}
	if s.lodging, err = tenant.Take(ctx, port.Name, want.Addr(), set, n.log); err != nil {
		return join, err
	}
	join.Address = s.lodging.Address
	if s.memory.Address = join.Address; member {
		if err := s.memory.save(n.o.DataDir); err != nil {
			return join, err
		}
	}
	n.o.Say(fmt.Sprintf("address   %s on %s, from %s", s.lodging.Address, port.Name, s.lodging.Server))
	return join, nil
}

// Leave hands everything over and stops the node. It returns when that is done, or says why it cannot be.
func (n *Node) Leave(ctx context.Context) error {
	s := n.services.Load()
	if s == nil {
		return ErrNotStarted
	}
	return s.leave(ctx)
}

// listen opens a TCP listener on an address of this machine.
func listen(ctx context.Context, at netip.AddrPort) (net.Listener, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		return nil, fmt.Errorf("port %d on %s: %w. Does another program use it?", at.Port(), at.Addr(), err)
	}
	return l, nil
}

// openArtifact reads bytes for machines that boot.
func openArtifact(store *share.Store) func(string) (io.ReadSeekCloser, error) {
	return func(digest string) (io.ReadSeekCloser, error) {
		d, err := share.ParseDigest(digest)
		if err != nil {
			return nil, err
		}
		return store.Open(d)
	}
}

var _ api.Desk = (*desk)(nil)
