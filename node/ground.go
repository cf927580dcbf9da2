package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"sync"
	"time"

	"offshoot/node/internal/segment"
	"offshoot/node/internal/web"
	"offshoot/swarm"
)

// ground is where the node stands: its ports, what is on them, its addresses and routes. It opens segments on ports that
// nobody serves, and tells the ledger what it sees.
type ground struct {
	*replica
	memory  memory
	undo    *segment.Journal
	hello   *segment.Hello
	alive   func(swarm.NodeID) bool
	members func() <-chan struct{} // closed at the next change of gossip
	web     http.Handler
	warm    func() bool
	version string
	keys    func() uint64 // generation of the gossip keys in use here
	ca      func() uint64 // the last step of a replacement of the CA that was taken here
	probe   segment.Schedule
	mark    func() string
	log     *slog.Logger

	leaving func() bool

	closed map[swarm.MAC]string // ports that will not be opened, and why; Run's own

	mu    sync.Mutex
	said  []swarm.Port // what the hello frames say
	doors map[netip.Addr]*http.Server
	deaf  bool // a door did not open, and that was said
}

// errMoved ends a node whose address was from the server of others: everybody knows it by that, and so do its sockets.
var errMoved = errors.New("this node has lost its address, which another DHCP server gave to it; started again it goes on with the one that it gets then")

func (g *ground) String() string         { return "ground" }
func (g *ground) Ready() <-chan struct{} { return nil }

// groundPause is how often the ports are looked at when nothing is said to have changed.
const groundPause = time.Second

// settle is how long a port must have been silent before it counts as served by nobody: three hello frames of any
// neighbour fit in, and what a switch needs to forward is waited for by the probe.
const settle = 4 * time.Second

// Run keeps the node's footing until ctx ends, then takes back what it changed.
func (g *ground) Run(ctx context.Context) error {
	links, err := segment.WatchLinks(ctx)
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	defer all.Wait()
	defer g.shutDoors()
	ticker := time.NewTicker(groundPause)
	defer ticker.Stop()
	for {
		changed, members := g.state.Changed(), g.members()
		if err := g.look(ctx, &all); errors.Is(err, errMoved) {
			return err
		} else if err != nil && ctx.Err() == nil {
			g.log.Debug("look at the ports ended early", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		case <-links:
		case <-g.hello.Changed():
		case <-changed:
		case <-members:
		}
	}
}

func (g *ground) look(ctx context.Context, all *sync.WaitGroup) error {
	ports, err := g.ports()
	if err != nil {
		return err
	}
	self, ok := g.state.View().Node(g.self())
	if !ok {
		return nil // the ledger has not told us of ourselves yet
	}
	reported := g.survey(ports, self)
	g.announce(reported)
	if err := g.report(ctx, self, reported); err != nil {
		return err
	}
	g.address(reported)
	if err := g.route(); err != nil {
		return err
	}
	g.openDoors(reported, all)
	return g.expand(ctx, ports, reported)
}

// ports lists those that this node may stand on: its home port, and on durable nodes that expand every other one that is
// free. The seed is somebody's laptop: of its other ports those that were named.
func (g *ground) ports() ([]segment.Port, error) {
	all, err := segment.Ports()
	if err != nil {
		return nil, err
	}
	self, _ := g.state.View().Node(g.self())
	settings, _ := g.state.View().Settings()
	var mine []segment.Port
	for _, p := range all {
		switch {
		case p.MAC == g.memory.Port && p.Master == "":
			if p.VLAN != g.memory.VLAN {
				continue // what else is on the same port is not ours
			}
			if g.memory.Foreign && p.Up && !slices.Contains(p.Addrs, g.memory.Address) {
				return nil, fmt.Errorf("%w: %s of %s", errMoved, g.memory.Address, p.Name)
			}
			mine = append(mine, p)
		case p.VLAN != 0: // known by its MAC, it could not be told from its port
		case !slices.Contains(g.memory.Further, p.MAC) && (g.memory.Ephemeral || !settings.Expand) || p.Unfit() != "" || p.DefaultRoute || g.foreignAddress(p, self):
		default:
			if !p.Up {
				if _, err := g.undo.Raise(p); err != nil {
					g.log.Debug("port stays down", "port", p.Name, "error", err)
				}
			}
			mine = append(mine, p)
		}
	}
	return mine, nil
}

// foreignAddress says whether a port carries an address that we did not give it.
func (g *ground) foreignAddress(p segment.Port, self swarm.Node) bool {
	known := slices.IndexFunc(self.Ports, func(q swarm.Port) bool { return q.MAC == p.MAC })
	for _, a := range p.Addrs {
		if a.Addr().Is4() && (known < 0 || self.Ports[known].Address != a) {
			return true
		}
	}
	return false
}

// survey is what the ports are known to be on: what the ledger says, as long as no hello frame contradicts it; else what
// the hello frames say.
func (g *ground) survey(ports []segment.Port, self swarm.Node) []swarm.Port {
	var out []swarm.Port
	for _, p := range ports {
		r := swarm.Port{Name: p.Name, MAC: p.MAC, VLAN: p.VLAN, Link: p.Link}
		if i := slices.IndexFunc(self.Ports, func(q swarm.Port) bool { return q.MAC == p.MAC }); i >= 0 {
			r.Segment, r.Address = self.Ports[i].Segment, self.Ports[i].Address
		}
		if p.MAC == g.memory.Port && g.memory.Foreign {
			r.Address = g.memory.Address
		}
		if r.Segment == "" {
			for _, n := range g.hello.Neighbours(p.Name) {
				if n.Segment != "" {
					r.Segment = n.Segment // without an address of its own the node can route there, but not serve
					break
				}
			}
		}
		out = append(out, r)
	}
	return out
}

// announce changes what the hello frames say.
func (g *ground) announce(ports []swarm.Port) {
	g.mu.Lock()
	changed := !slices.Equal(g.said, ports)
	g.said = ports
	g.mu.Unlock()
	if changed {
		g.hello.Poke()
	}
}

// spoken names the ports that hello frames go out on.
func (g *ground) spoken() []string {
	g.mu.Lock()
	defer g.mu.Unlock()
	var names []string
	for _, p := range g.said {
		names = append(names, p.Name)
	}
	return names
}

// say is what a hello frame says of a port.
func (g *ground) say(port string) (segment string, addr netip.Addr) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range g.said {
		if p.Name == port {
			return p.Segment, p.Address.Addr()
		}
	}
	return "", netip.Addr{}
}

func (g *ground) report(ctx context.Context, self swarm.Node, ports []swarm.Port) error {
	address := netip.AddrPortFrom(g.memory.Address.Addr(), PeerPort).String()
	if g.leaving() {
		return nil
	}
	op := swarm.ReportNode{Address: address, Version: g.version, Ports: ports, Warm: g.warm(), Protocol: swarm.Protocol, Keys: g.keys(), CA: g.ca()}
	if says(self, op) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return g.decide(ctx, op)
}

// says tells whether the ledger knows all that a node would report.
func says(n swarm.Node, op swarm.ReportNode) bool {
	return n.Address == op.Address && n.Version == op.Version && n.Warm == op.Warm && n.Protocol == op.Protocol && n.Keys == op.Keys && n.CA == op.CA &&
		!n.Left && slices.Equal(n.Ports, op.Ports)
}

// address gives the ports the addresses that the ledger knows.
func (g *ground) address(ports []swarm.Port) {
	for _, p := range ports {
		if !p.Address.IsValid() || p.MAC == g.memory.Port && g.memory.Foreign {
			continue // that one comes and goes with its lease
		}
		var err error
		if p.MAC == g.memory.Port && !g.memory.Ephemeral {
			err = segment.KeepAddress(p.Name, p.Address)
		} else if at, lookErr := segment.PortByName(p.Name); lookErr != nil {
			err = lookErr
		} else if !slices.Contains(at.Addrs, p.Address) {
			_, err = g.undo.Configure(at, p.Address)
		}
		if err != nil {
			g.log.Warn("address is not set", "port", p.Name, "address", p.Address, "error", err)
		}
	}
}

// route keeps the ways to the segments that other nodes stand on, and passes packets on if this node stands on several.
func (g *ground) route() error {
	view := g.state.View()
	t := segment.Topology{Segments: map[string]netip.Prefix{}, Nodes: map[swarm.NodeID]map[string]netip.Addr{}}
	for _, s := range view.Segments() {
		t.Segments[s.ID] = s.Network
		if s.Relayed() { // a router that stands on both, as some nodes do
			t.Nodes[swarm.NodeID("relay of "+s.ID)] = map[string]netip.Addr{s.ID: s.Relay.There, s.Relay.Segment: s.Relay.Here}
		}
	}
	for _, n := range view.Nodes() {
		if n.ID != g.self() && (n.Left || !g.alive(n.ID)) {
			continue
		}
		on := map[string]netip.Addr{}
		for _, p := range n.Ports {
			if p.Segment != "" && p.Address.IsValid() && p.Link {
				on[p.Segment] = p.Address.Addr()
			}
		}
		t.Nodes[n.ID] = on
	}
	if len(t.Nodes[g.self()]) > 1 {
		if _, err := g.undo.EnableForwarding(); err != nil {
			return err
		}
	}
	routes := segment.Routes(g.self(), t)
	if len(routes) == 0 && len(t.Nodes) <= 1 {
		return nil // nobody in sight: keep the way to whoever let us in
	}
	return g.undo.SyncRoutes(routes)
}

// openDoors serves the web on every address that this node has on a segment.
func (g *ground) openDoors(ports []swarm.Port, all *sync.WaitGroup) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range ports {
		addr := p.Address.Addr()
		if !p.Address.IsValid() || g.doors[addr] != nil {
			continue
		}
		l, err := net.Listen("tcp", netip.AddrPortFrom(addr, web.Port).String())
		if err != nil {
			if !g.deaf { // each second is too often to say it
				g.log.Warn("web is not open yet; it will be tried again", "address", addr, "error", err)
			}
			g.deaf = true
			continue
		}
		server := &http.Server{Handler: g.web, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10}
		g.doors[addr] = server
		all.Go(func() {
			if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
				g.log.Warn("web ended", "address", addr, "error", err)
			}
			g.mu.Lock()
			defer g.mu.Unlock()
			delete(g.doors, addr)
		})
	}
}

func (g *ground) shutDoors() {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, server := range g.doors {
		_ = server.Close() // machines resume at the node that has taken over
	}
}

// expand opens a segment on every port with link that nobody serves: no neighbour's hello for a while, no foreign DHCP
// server, nobody of ours with a smaller id who is about to do the same.
func (g *ground) expand(ctx context.Context, ports []segment.Port, reported []swarm.Port) error {
	if !g.warm() {
		return nil
	}
	for i, p := range reported {
		if p.Segment != "" || !p.Link || p.MAC == g.memory.Port || g.closed[p.MAC] != "" {
			continue
		}
		since, listening := g.hello.Listening(p.Name)
		rival := slices.ContainsFunc(g.hello.Neighbours(p.Name), func(n segment.Neighbour) bool { return n.Node < g.self() })
		if !listening || time.Since(since) < settle || rival {
			continue
		}
		if err := g.openSegment(ctx, ports[i]); err != nil {
			return err
		}
	}
	return nil
}

func (g *ground) openSegment(ctx context.Context, p segment.Port) error {
	if foreign := g.hello.Strangers(p.Name); len(foreign) > 0 {
		return g.refuse(ctx, p, fmt.Sprintf("swarm %s is on it already", foreign[0].Swarm))
	}
	prober := segment.Prober{Schedule: g.probe, Mark: g.mark(), Log: g.log, Mine: func(s segment.Server) bool { return isOurs(g.state.View(), s) }}
	servers, err := prober.Probe(ctx, p)
	if err != nil {
		return err
	}
	if len(servers) > 0 {
		return g.refuse(ctx, p, fmt.Sprintf("another DHCP server answers there: %s", servers[0]))
	}
	beside, err := g.beside()
	if err != nil {
		return err
	}
	result, err := g.propose(ctx, swarm.OpenSegment{Port: p.MAC, Beside: beside})
	if err != nil {
		return err
	}
	var opened swarm.Segment
	if err := result.Decode(&opened); err != nil {
		return g.refuse(ctx, p, err.Error())
	}
	g.log.Info("segment opened", "segment", opened.ID, "network", opened.Network, "port", p.Name)
	return nil
}

// beside is what this machine reaches of the range that segments are cut from, beside the segments themselves.
func (g *ground) beside() ([]netip.Prefix, error) {
	reached, err := segment.Reached()
	if err != nil {
		return nil, err
	}
	view := g.state.View()
	settings, _ := view.Settings()
	var out []netip.Prefix
	for _, c := range reached {
		network := c.Prefix.Masked()
		ours := slices.ContainsFunc(view.Segments(), func(s swarm.Segment) bool { return s.Network == network })
		if network.Overlaps(settings.Range) && !ours && !slices.Contains(out, network) {
			out = append(out, network)
		}
	}
	return out, nil
}

// refuse leaves a port alone until the node starts again, and says why on the node's timeline.
func (g *ground) refuse(ctx context.Context, p segment.Port, why string) error {
	g.closed[p.MAC] = why
	g.log.Warn("port is left alone", "port", p.Name, "why", why)
	text := fmt.Sprintf("%s leaves its port %s alone: %s", g.memory.Name, p.Name, why)
	return g.decide(ctx, swarm.Note{MAC: g.memory.Port, Kind: "port", Text: text, Warn: true})
}
