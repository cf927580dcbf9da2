package node

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"offshoot/handoff"
	"offshoot/node/internal/api"
	"offshoot/node/internal/boot"
	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/install"
	"offshoot/node/internal/peer"
	"offshoot/node/internal/segment"
	"offshoot/node/internal/task"
	"offshoot/node/internal/tenant"
	"offshoot/node/internal/web"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/gossip"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
	"offshoot/swarm/share"
)

type joinFile = install.Join

// services are the parts of a running node, and how they are wired.
type services struct {
	node     *Node
	undo     *segment.Journal
	journal  *journal
	hearing  *hearing
	memory   memory
	identity *identity.Identity
	store    *share.Store
	state    *swarm.State
	taker    *taker
	lodging  *tenant.Tenancy // of an installed node whose address is from the server of others; else nil
	founding *swarm.Found    // to be proposed once the ledger runs
	stocked  struct {        // what the seed was given, to be written down
		profile   swarm.Profile
		artifacts []swarm.Artifact
	}

	*core
	client  *peer.Client
	share   *share.Torrent
	uplink  *share.Uplink
	freight *freight
	ground  *ground
	leaver  *leaver
	repos   *repos
	sets    *sets
	garbage *collector
	boots   *dhcp.Boots
	warm    atomic.Bool
	known   atomic.Pointer[map[netip.Addr]bool]
	ca      atomic.Uint64 // the last step of a replacement of the CA that was taken here: Settings.CAGeneration
	former  []string      // pins of the authorities that were being replaced at that step; keepTrust's own
	stop    context.CancelCauseFunc
}

func (s *services) mark() string { return s.memory.mark() }

// stock prepares the seed's profile.
func (s *services) stock(ctx context.Context, seed Seed) error {
	if seed.Image == "" {
		return nil // resuming with the profile of before
	}
	binary, err := os.Executable()
	if err != nil {
		return err
	}
	dir := filepath.Join(s.node.o.DataDir, "live")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	l := &larder{dir: dir, store: s.store, binary: binary, say: func(line string) { s.node.o.Say("preparing " + line) }}
	s.stocked.profile, s.stocked.artifacts, err = l.stock(ctx, seed)
	return err
}

// stockedDigests are the artifacts of the seed's profile, which the ledger may not know yet.
func (s *services) stockedDigests() (out []string) {
	for _, a := range s.stocked.artifacts {
		out = append(out, a.Digest)
	}
	return out
}

// run wires the services and runs them until ctx ends, one of them fails, or the node has left.
func (s *services) run(ctx context.Context) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	s.stop = stop
	stages, closers, err := s.assemble(ctx)
	if err != nil {
		return err
	}
	defer closers()
	s.node.services.Store(s)
	err = task.Run(ctx, s.node.log, stages...)
	if cause := context.Cause(ctx); cause != nil && !errors.Is(cause, context.Canceled) && !errors.Is(cause, errLeft) {
		err = errors.Join(cause, err)
	}
	return err
}

// errLeft is why the services stop after the node has left.
var errLeft = errors.New("the node has left")

// assemble builds every part. What it returns is in the order of the start: identity's door and the ways to others, then
// the ledger, then what stands on it, then what machines see.
func (s *services) assemble(ctx context.Context) ([][]task.Task, func(), error) {
	log := s.node.log
	home := s.memory.Address.Addr()
	l, err := listen(ctx, netip.AddrPortFrom(home, PeerPort))
	if err != nil {
		return nil, nil, err
	}
	mux := identity.NewMux(l, s.identity, log.With("part", "mux"))
	s.client = peer.NewClient(func(ctx context.Context, addr string) (net.Conn, error) {
		return s.identity.Dial(ctx, identity.ProtoPeer, addr, "")
	})
	s.freight = newFreight(func(peer string) place { return placeOf(s.state.View(), s.memory.Node, peer) })
	s.uplink = share.NewUplink(s.uplinkLimit)
	if s.share, err = s.sharing(mux.Listener(identity.ProtoShare)); err != nil {
		return nil, nil, errors.Join(err, l.Close())
	}
	if err := s.openCore(mux, home); err != nil {
		return nil, nil, errors.Join(err, s.share.Close(), l.Close())
	}
	if err := s.service.authorities.load(); err != nil {
		log.Warn("this node can sign for nobody until the leader brings the CA's key again", "error", err)
	}
	s.repos = &repos{replica: s.replica, dir: s.node.o.DataDir, store: s.store, alive: s.alive, others: s.holders, log: log.With("part", "mirror")}
	s.sets = &sets{
		replica: s.replica, store: s.store, fetch: s.share.Fetch, mirror: s.repos.mirror.Load,
		alone: s.memory.Ephemeral, wake: make(chan struct{}, 1), log: log.With("part", "sets"),
	}
	s.repos.served = s.sets.served
	s.garbage = &collector{
		replica: s.replica, store: s.store, disk: s.store.Room, sets: s.sets, mirror: s.repos.mirror.Load, stocked: s.stockedDigests, log: log.With("part", "store"),
	}
	s.sets.fits = s.garbage.fits
	if err := s.openGround(); err != nil {
		return nil, nil, errors.Join(err, s.share.Close(), l.Close(), s.core.close())
	}
	namesTask := &nameServers{replica: s.replica, resolvConf: "/etc/resolv.conf", log: log.With("part", "names")}
	s.leaver = &leaver{replica: s.replica, alive: s.alive, log: log}
	if s.taker != nil {
		s.taker.replica = s.replica
	}
	peers := peer.NewServer(peer.Handler(s.service, s.caller, s.uplink.Handler(s.share.Handler(), s.asksFromAfar)), 0)
	joiners := peer.NewServer(peer.JoinHandler(s.service.redeem, s.service.admit, identity.MaxRedeemRequest), joinTime)
	socket, operators := api.Handler(&desk{s}, api.Local), api.Handler(&desk{s}, s.operator)
	stages := [][]task.Task{
		{task.Func("operator socket", func(ctx context.Context) error { return api.Serve(ctx, s.node.o.DataDir, socket) })},
		{task.Func("peer port", mux.Run), task.Func("peer api", serve(peers, mux.Listener(identity.ProtoPeer))), task.Func("join door", serve(joiners, mux.Listener(identity.ProtoJoin))),
			task.Func("operators", func(ctx context.Context) error {
				return api.ServeOn(ctx, mux.Listener(identity.ProtoOperate), operators)
			})},
		s.ledgerTasks(),
		s.gossipTasks(),
		append(s.rulingTasks(), task.Func("larder", s.keepWarm), task.Func("certificate", s.keepCertificate), task.Func("memory", s.keepMemory),
			task.Func("sentry", s.keepOut), task.Func("heap", keepHeap), task.Func("mirror", s.repos.Run),
			task.Func("recording", s.sets.record), task.Func("working sets", s.sets.ahead), task.Func("garbage", s.garbage.run)),
		{task.Func("hello", s.ground.hello.Run), s.ground, task.Func("names", namesTask.Run)},
		{s.watch, task.Func("logs of machines", s.hearing.Run)},
		{task.Func("beginning", s.begin), task.Func("progress", s.progress)},
	}
	if s.lodging != nil {
		stages[0] = append(stages[0], task.Func("address", s.lodging.Run))
	}
	if s.node.o.Metrics != "" {
		stages[0] = append(stages[0], task.Func("metrics", s.serveMetrics))
	}
	return stages, func() {
		if err := s.share.Close(); err != nil {
			log.Warn("the exchange of artifacts did not end well", "error", err)
		}
		s.client.Close()
	}, nil
}

// joinTime bounds what a stranger at the join door may take for one request.
const joinTime = 15 * time.Second

// readied is a task of a part that says when it is ready.
type readied struct {
	task.Task
	ready <-chan struct{}
}

// Ready is closed when the part serves.
func (r readied) Ready() <-chan struct{} { return r.ready }

// serve runs an HTTP server on a listener until ctx ends.
func serve(server *http.Server, l net.Listener) func(context.Context) error {
	return func(ctx context.Context) error {
		stop := context.AfterFunc(ctx, func() { _ = server.Close() })
		defer stop()
		if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) && ctx.Err() == nil {
			return err
		}
		return nil
	}
}

// openCore opens the ledger and gossip, and what stands on them, on the sockets and the disk of this machine.
func (s *services) openCore(mux *identity.Mux, home netip.Addr) error {
	keys, err := parseKeys(s.memory.Keys)
	if err != nil {
		return err
	}
	var ring [][]byte
	for _, k := range keys {
		ring = append(ring, k.Reveal())
	}
	log := s.node.log
	p := parts{
		id: s.memory.Node, address: netip.AddrPortFrom(home, PeerPort).String(), dir: s.node.o.DataDir, clock: uptime, now: time.Now, calls: s.client,
		ledger: ledger.Options{
			Dir: filepath.Join(s.node.o.DataDir, "ledger"), Listener: mux.Listener(identity.ProtoRaft),
			Dial: func(ctx context.Context, id swarm.NodeID, addr string) (net.Conn, error) {
				return s.identity.Dial(ctx, identity.ProtoRaft, addr, id)
			},
		},
		gossip: gossip.Options{
			Swarm: s.memory.Swarm, Bind: netip.AddrPortFrom(home, GossipPort), Keys: ring, Seeds: s.gossipSeeds,
		},
		feeders: s.feeders, lease: maxLease, broken: func(err error) { s.stop(fmt.Errorf("this offshoot cannot go on with its swarm: %w", err)) },
		journal: s.journal, log: log,
	}
	o := &outfit{journal: s.journal, mark: s.mark, log: log}
	p.stations = o.stations
	if s.core, err = newCore(p, s.state); err != nil {
		return err
	}
	s.hearing = newHearing(s.replica, log.With("part", "syslog"))
	s.service.book = s.hearing.book
	s.boots = dhcp.NewBoots()
	o.replica, o.boots = s.replica, s.boots
	if s.founding != nil {
		if err := s.replica.ledger.Found(); err != nil {
			return errors.Join(err, s.core.close())
		}
		// From here on this directory is a swarm: the memory makes the next start resume it.
		if err := s.memory.save(s.node.o.DataDir); err != nil {
			return errors.Join(err, s.core.close())
		}
	}
	return nil
}

// feeders are the peer ports of those who were there last.
func (s *services) feeders() []string {
	var out []string
	for _, m := range s.memory.Members {
		out = append(out, netip.AddrPortFrom(m.Addr(), PeerPort).String())
	}
	return out
}

// keepOut ends what refused nodes and operators have open here: a certificate is checked once, when a connection begins.
func (s *services) keepOut(ctx context.Context) error {
	for {
		changed := s.state.Changed()
		view := s.state.View()
		s.known.Store(goodAddresses(view))
		s.cutRefused(view)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

func (s *services) cutRefused(view swarm.View) {
	if n := s.identity.Cut(func(p identity.Peer, serial string) bool { return refusal(view, serial, p) != nil }); n > 0 {
		s.node.log.Warn("connections of nodes or operators that are not in good standing are cut", "connections", n)
	}
}

// goodAddresses are the addresses of nodes in good standing.
func goodAddresses(view swarm.View) *map[netip.Addr]bool {
	out := map[netip.Addr]bool{}
	for _, n := range view.Nodes() {
		if at, err := netip.ParseAddrPort(n.Address); err == nil && n.Eligible() {
			out[at.Addr()] = true
		}
	}
	return &out
}

// isKnown says whether a node in good standing has this address: the peer port is patient with it, no more.
func (s *services) isKnown(addr netip.Addr) bool {
	known := s.known.Load()
	return known != nil && (*known)[addr]
}

// refusal says why a certificate is no longer good.
func refusal(view swarm.View, serial string, p identity.Peer) error {
	why, shown := "", swarm.Certificate{Serial: serial, Key: p.Key, CA: p.CA}
	switch p.Role {
	case identity.RoleOperator:
		why = view.RefusedOperator(p.Operator, shown)
	case identity.RoleInstall:
		why = refusedInstaller(view, p)
	default:
		why = view.Refused(p.Node, shown)
	}
	if why != "" {
		return errors.New(why)
	}
	return nil
}

// gossipSeeds are addresses at which others may be: those of all nodes in the ledger, and before it has arrived those that
// were good last.
func (s *services) gossipSeeds() []string {
	var out []string
	for _, m := range s.memory.Members {
		out = append(out, m.String())
	}
	for _, n := range s.state.View().Nodes() {
		at, err := netip.ParseAddrPort(n.Address)
		if err == nil && !n.Left && n.ID != s.memory.Node {
			out = append(out, netip.AddrPortFrom(at.Addr(), GossipPort).String())
		}
	}
	return out
}

func (s *services) openGround() error {
	box := func() (*identity.Box, error) {
		settings, ok := s.state.View().Settings()
		encoded := settings.GossipKeys
		if !ok {
			encoded = s.memory.Keys
		}
		keys, err := parseKeys(encoded)
		if err != nil {
			return nil, err
		}
		return identity.NewBox("hello", keys...)
	}
	programs, err := boot.Programs()
	if err != nil {
		return err
	}
	s.ground = &ground{
		replica: s.replica, memory: s.memory, undo: s.undo, alive: s.alive, members: s.gossip.Watch, web: s.repos.wrap(s.web(programs).Handler()), warm: s.warm.Load,
		version: s.node.o.Version, keys: s.keys.Load, ca: s.ca.Load, mark: s.mark, log: s.node.log.With("part", "ground"), leaving: s.node.leaving.Load,
		doors: map[netip.Addr]*http.Server{}, closed: map[swarm.MAC]string{},
	}
	if s.node.o.Seed != nil {
		s.ground.probe = s.node.o.Seed.Probe
	}
	hello, err := segment.NewHello(segment.HelloConfig{
		Swarm: s.memory.Swarm, Node: s.memory.Node, Ports: s.ground.spoken, Say: s.ground.say, Log: s.node.log.With("part", "hello"),
		Seal: func(plain []byte) ([]byte, error) {
			b, err := box()
			if err != nil {
				return nil, err
			}
			return b.Seal(plain, nil), nil
		},
		Open: func(sealed []byte) ([]byte, error) {
			b, err := box()
			if err != nil {
				return nil, err
			}
			return b.Open(sealed, nil)
		},
	})
	s.ground.hello = hello
	return err
}

func (s *services) web(programs fs.FS) *web.Server {
	return web.New(web.Options{
		View: s.state.View, Changed: s.state.Changed, Propose: s.replica.propose, OnDuty: func(segment string) bool { return s.watch.onDuty(segment) },
		Programs: &kernelPrograms{FS: programs}, Artifact: openArtifact(s.store), Sent: s.freight.booted,
		Mint: func() (id, hash, secret string) {
			t := identity.NewTicket()
			return t.ID(), t.Hash(), t.Reveal()
		},
		Endpoints:    s.endpoints,
		Exchangers:   s.exchangersOn,
		NeighbourMAC: neighbourMAC, Begun: func(nonce string) (swarm.MAC, bool) { return s.boots.MAC(time.Now(), nonce) },
		Firmware: func(swarm.MAC) boot.Firmware { return boot.Unknown }, // the script finds out by itself
		Trace: func(mac swarm.MAC, what, answer, reason string) {
			s.journal.add(time.Now(), mac, "http", what, answer, reason)
		},
		Now: time.Now, Logger: s.node.log.With("part", "web"),
	})
}

// endpoints are the peer ports at which a machine can redeem its ticket: this node first, then every living one.
func (s *services) endpoints(string, netip.Addr) []string {
	out := []string{netip.AddrPortFrom(s.memory.Address.Addr(), PeerPort).String()}
	for _, n := range s.state.View().Nodes() {
		if n.ID != s.memory.Node && !n.Left && s.alive(n.ID) && len(out) < 8 {
			out = append(out, n.Address)
		}
	}
	return out
}

// caller names the node behind a TLS connection. Whether it is in good standing was asked in the handshake.
func (s *services) caller(cs tls.ConnectionState) (swarm.NodeID, error) {
	p, err := identity.PeerOf(cs)
	return p.Node, err
}

// desk is what operators see of the node.
type desk struct{ s *services }

func (d *desk) picture() *picture {
	return &picture{replica: d.s.replica, version: d.s.node.o.Version, sees: d.s.sees}
}

// Status describes the whole swarm, and what this node has and exchanges, and what is wrong with its mirror.
func (d *desk) Status(ctx context.Context) status.Status {
	s := d.picture().Status(ctx)
	s.Exchange, s.Artifacts = d.s.exchange(), d.Artifacts()
	if missing := d.s.garbage.short.Load(); missing > 0 {
		s.Problems = append(s.Problems, status.Problem{
			What: fmt.Sprintf("the disk of %s is too full by %d MB, and all artifacts that are left on it are needed or pinned", s.Asked, missing/1e6+1),
			Next: "offshoot artifact list; then unpin or remove what can go, give it a larger disk, or raise: offshoot swarm set store",
		})
	}
	for _, problem := range d.s.repos.picture().Problems {
		s.Problems = append(s.Problems, status.Problem{What: "the mirror of " + s.Asked + ": " + problem, Next: "offshoot mirror status"})
	}
	return s
}

// Machine is one machine with its timeline.
func (d *desk) Machine(mac swarm.MAC) (status.Machine, bool) { return d.picture().Machine(mac) }

// leave executes the plan of leaving, and then stops the services.
func (s *services) leave(ctx context.Context) error {
	if err := s.leaver.check(); err != nil {
		return err
	}
	if !s.node.leaving.CompareAndSwap(false, true) {
		return errors.New("this node is leaving already")
	}
	plan := handoff.Leave(s.node.o.DataDir, s.leaver, s.node.log)
	// From its beginning: a node that was cut off while it left came back, and may hold duties again.
	if err := errors.Join(plan.Forget(), plan.Begin(), plan.Execute(ctx)); err != nil {
		s.node.leaving.Store(false)
		return errors.Join(err, plan.Forget())
	}
	if err := plan.Forget(); err != nil {
		return err
	}
	s.stop(errLeft)
	return nil
}
