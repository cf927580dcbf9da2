package node

import (
	"context"
	"log/slog"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/dns"
	"offshoot/swarm"
)

// names are those of the nodes and machines of the swarm, as a client on one segment wants them.
type names struct {
	*replica
	segment string
}

var _ dns.Names = names{}

// Domain is what they end in.
func (n names) Domain() string {
	settings, _ := n.state.View().Settings()
	return settings.NameDomain()
}

// Addresses are those of a node, on all its segments, and of a machine, as long as they are leased to it.
func (n names) Addresses(host string) (addrs []netip.Addr, known bool) {
	return addressesOf(n.state.View(), host, n.segment, n.now())
}

// Host is who has an address.
func (n names) Host(addr netip.Addr) (host string, ours bool) {
	return hostAt(n.state.View(), addr, n.now())
}

// addressesOf puts those on the segment of who asks first.
func addressesOf(view swarm.View, host, segment string, now time.Time) (addrs []netip.Addr, known bool) {
	add := func(on string, a netip.Addr) {
		switch {
		case slices.Contains(addrs, a):
		case on == segment:
			addrs = slices.Insert(addrs, 0, a)
		default:
			addrs = append(addrs, a)
		}
	}
	for _, n := range view.Nodes() {
		if n.Left || n.Ended != "" || labelOf(n) != host {
			continue
		}
		known = true
		for _, p := range n.Ports {
			if p.Address.IsValid() {
				add(p.Segment, p.Address.Addr())
			}
		}
	}
	m, named := view.MachineNamed(host)
	if !named {
		return addrs, known
	}
	for _, s := range view.Segments() {
		if l, ok := view.LeaseOf(s.ID, m.MAC); ok && l.Live(now) {
			add(s.ID, l.Addr)
		}
	}
	return addrs, true
}

// hostAt is the name of who has an address, "" for nobody. The addresses of the swarm's segments are ours.
func hostAt(view swarm.View, addr netip.Addr, now time.Time) (host string, ours bool) {
	for _, s := range view.Segments() {
		if !s.Network.Contains(addr) {
			continue
		}
		if l, ok := view.Lease(s.ID, addr); ok && l.Live(now) {
			if m, known := view.Machine(l.MAC); known {
				return m.Name, true
			}
		}
		ours = true
	}
	if n, ok := view.NodeAt(addr); ok {
		return labelOf(n), true
	}
	return "", ours
}

// labelOf is a node's name as one label: that of a seed is whatever its machine is called.
func labelOf(n swarm.Node) string {
	host, _, _ := strings.Cut(strings.ToLower(n.Name), ".")
	return host
}

// maxNameServers is how many a client is told of: resolvers read three.
const maxNameServers = 3

// servicesOn is what clients of a segment are told of. The holder answers names, and so does every other node that has an
// address there: a client may keep what it was told for an hour, in which its holder may leave.
func servicesOn(view swarm.View, segment string, self netip.Addr) dhcp.Services {
	settings, _ := view.Settings()
	s := dhcp.Services{Domain: settings.NameDomain(), NTP: settings.NTP}
	if settings.DNSOff {
		return s
	}
	s.DNS = []netip.Addr{self}
	for _, n := range view.NodesOn(segment) {
		p, _ := n.On(segment)
		if a := p.Address.Addr(); len(s.DNS) < maxNameServers && n.Eligible() && !n.Ephemeral && p.Address.IsValid() && a != self {
			s.DNS = append(s.DNS, a)
		}
	}
	return s
}

// nameServers answers names on every address that this node has on a segment, on duty or not: the answers of all nodes are the
// same, so nothing has to end before a duty passes.
type nameServers struct {
	*replica
	resolvConf string
	log        *slog.Logger

	mu   sync.Mutex
	read time.Time // when resolvConf was read
	own  []netip.AddrPort
}

// resolverAge is how long what stood in resolv.conf is believed.
const resolverAge = 5 * time.Second

// upstreams are the servers for names that are not ours: those that an operator named, else this node's own. Nodes of the swarm are
// none: they would ask us back.
func (s *nameServers) upstreams() (all []netip.AddrPort) {
	view := s.state.View()
	settings, _ := view.Settings()
	for _, a := range settings.DNS {
		all = append(all, netip.AddrPortFrom(a, dns.Port))
	}
	if len(all) == 0 {
		all = s.resolvers()
	}
	return slices.DeleteFunc(slices.Clone(all), func(a netip.AddrPort) bool {
		_, ours := view.NodeAt(a.Addr())
		return ours
	})
}

func (s *nameServers) resolvers() []netip.AddrPort {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if now.Sub(s.read) < resolverAge && !now.Before(s.read) {
		return s.own
	}
	s.read, s.own = now, nil
	f, err := os.Open(s.resolvConf)
	if err != nil {
		return nil // as good as empty
	}
	defer func() { _ = f.Close() }()
	if s.own, err = dns.Servers(f); err != nil {
		s.log.Debug("resolver's configuration is not understood", "file", s.resolvConf, "error", err)
	}
	return s.own
}

// nameDoor is one address on which names are answered.
type nameDoor struct {
	addr    netip.Addr
	mac     swarm.MAC
	vlan    uint16
	segment string
}

// wanted are the addresses of this node on segments.
func (s *nameServers) wanted() map[nameDoor]bool {
	view, all := s.state.View(), map[nameDoor]bool{}
	settings, _ := view.Settings()
	self, _ := view.Node(s.self())
	for _, p := range self.Ports {
		if seg, ok := view.Segment(p.Segment); ok && p.Address.IsValid() && !settings.DNSOff && !seg.Foreign() { // not on the networks of others
			all[nameDoor{p.Address.Addr(), p.MAC, p.VLAN, p.Segment}] = true
		}
	}
	return all
}

// Run keeps a server on each until ctx ends.
func (s *nameServers) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	doors := map[nameDoor]context.CancelFunc{}
	for {
		changed, wanted := s.state.Changed(), s.wanted()
		for d, shut := range doors {
			if !wanted[d] {
				shut()
				delete(doors, d)
			}
		}
		for d := range wanted {
			if doors[d] == nil {
				open, shut := context.WithCancel(ctx)
				doors[d] = shut
				all.Go(func() { s.keep(open, d) })
			}
		}
		select {
		case <-ctx.Done():
			for _, shut := range doors {
				shut()
			}
			return nil
		case <-changed:
		}
	}
}

// keep answers names on one address, and tries again when that fails: another name server may go away. It is said once.
func (s *nameServers) keep(ctx context.Context, d nameDoor) {
	level := slog.LevelWarn
	for ctx.Err() == nil {
		if err := s.serve(ctx, d); err != nil && ctx.Err() == nil {
			s.log.Log(ctx, level, "names are not answered; it will be tried again", "address", d.addr, "error", err)
			level = slog.LevelDebug
		}
		select {
		case <-ctx.Done():
		case <-time.After(servicePause):
		}
	}
}

func (s *nameServers) serve(ctx context.Context, d nameDoor) error {
	port, err := portByMAC(d.mac, d.vlan)
	if err != nil {
		return err
	}
	server, err := dns.New(dns.Options{
		Addr: netip.AddrPortFrom(d.addr, dns.Port), Interface: port.Name, Serves: func(a netip.Addr) bool { return s.serves(d.segment, a) },
		Names: names{s.replica, d.segment}, Upstreams: s.upstreams, Log: s.log,
	})
	if err != nil {
		return err
	}
	return server.Run(ctx)
}

// serves says whether a client is on the segment, or on one whose relay is there.
func (s *nameServers) serves(segment string, client netip.Addr) bool {
	view := s.state.View()
	seg, ok := view.Segment(segment)
	if !ok {
		return false
	}
	return seg.Network.Contains(client) || slices.ContainsFunc(view.Segments(), func(other swarm.Segment) bool {
		return other.Relay.Segment == segment && other.Network.Contains(client)
	})
}
