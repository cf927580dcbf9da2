package node

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"offshoot/node/internal/boot"
	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/segment"
	"offshoot/node/internal/task"
	"offshoot/node/internal/tftp"
	"offshoot/node/internal/web"
	"offshoot/swarm"
)

// station is one service of a post. open is called again when what it opened has failed.
type station struct {
	name string
	open func() (task.Task, error)
	// answers: it gives addresses away, so it stops before the duty is passed on.
	answers bool
	// guards: it hears other DHCP servers. What answers waits until it does: of two nodes that begin at once each must hear the other's
	// first answer.
	guards bool
	// lingers: what it began it may end after the duty was passed on; its bytes are the same from any node.
	lingers bool
}

// outfit opens the services of a post on the ports of this machine.
type outfit struct {
	*replica
	journal *journal
	boots   *dhcp.Boots   // that were begun beside the servers of others
	mark    func() string // of our own DHCP probes
	log     *slog.Logger
	hub     dhcp.Hub
	seats   seats
}

func (o *outfit) stations(p *post) []station {
	all := []station{
		{name: "dhcp", answers: true, open: func() (task.Task, error) { return o.dhcp(p) }},
		{name: "tftp", lingers: true, open: func() (task.Task, error) { return o.tftp(p) }},
	}
	if p.relayed() {
		return all // nothing of what follows is heard through a relay
	}
	return append(all, []station{
		{name: "guard against foreign DHCP servers", guards: true, open: func() (task.Task, error) { return o.guard(p) }},
		{name: "router advertisements", open: func() (task.Task, error) { return o.noRouter(p) }},
	}...)
}

// guard steps down when somebody else's DHCP server shows up on the segment, and comes back when it has gone: see yield.
func (o *outfit) guard(p *post) (task.Task, error) {
	port, err := portByMAC(p.port.MAC, p.port.VLAN)
	if err != nil {
		return nil, err
	}
	return task.Func("guard", func(ctx context.Context) error {
		watcher := segment.Watcher{
			Prober: segment.Prober{Mine: o.ours, Mark: o.mark(), Log: o.log}, Port: port,
			Changed: func(foreign []segment.Server) { o.meet(ctx, p, foreign) }, Hears: p.hear,
		}
		return watcher.Run(ctx)
	}), nil
}

// meet writes down how the segment is served beside these servers. Where it must not be served, that holds at once: a decision takes
// as long as the disk of a busy node.
func (o *outfit) meet(ctx context.Context, p *post, foreign []segment.Server) {
	op := yield(p.now(), foreign)
	_, blocks := op.(swarm.BlockSegment)
	p.hushed.Store(blocks)
	if op == nil {
		return
	}
	o.log.Info("foreign DHCP servers changed", "segment", p.segment.ID, "servers", len(foreign), "decided", op)
	if err := o.decide(ctx, op); err != nil && ctx.Err() == nil {
		o.log.Warn("segment is not marked", "segment", p.segment.ID, "error", err)
	}
}

// noRouter saves machines that boot their wait for an IPv6 router.
func (o *outfit) noRouter(p *post) (task.Task, error) {
	port, err := portByMAC(p.port.MAC, p.port.VLAN)
	if err != nil {
		return nil, err
	}
	r := &segment.NoRouter{Port: port, Log: o.log}
	return task.Func("no router", r.Run), nil
}

// ours says whether a DHCP server belongs to the swarm.
func (o *outfit) ours(s segment.Server) bool { return isOurs(o.state.View(), s) }

func isOurs(v swarm.View, s segment.Server) bool {
	for _, n := range v.Nodes() {
		for _, p := range n.Ports {
			if p.Address.IsValid() && p.Address.Addr() == s.ID {
				return true
			}
		}
	}
	return false
}

func (o *outfit) dhcp(p *post) (task.Task, error) {
	port, err := portByMAC(p.port.MAC, p.port.VLAN)
	if err != nil {
		return nil, err
	}
	return giving(p, o.replica, dhcp.Options{
		Config: dhcp.Config{Interface: port.Name, Mark: o.mark()},
		OnTrace: func(t dhcp.Trace) {
			if t.MAC != "" {
				o.journal.add(t.Time, t.MAC, "dhcp", t.What, t.Answer, t.Reason)
			}
		},
		OnFirmware: func(mac swarm.MAC, f boot.Firmware) { p.learn(mac, f.Arch()) },
		OnEvent:    func(e dhcp.Event) { p.note(e.MAC, string(e.Kind), e.Text) },
		Listen:     o.hub.Listen,
		Boots:      o.boots,
		Log:        o.log,
	})
}

// giving is the DHCP server of a post with the writer of its bindings. What o leaves out is the same on every machine.
func giving(p *post, r *replica, o dhcp.Options) (task.Task, error) {
	self := p.port.Address.Addr()
	c := &o.Config
	now := p.now()
	// The agent keeps its lease while it writes an image; nobody renews for a machine without an operating system.
	onSegment(c, self, now, r.ages.longest)
	if p.segment.Relayed() { // whoever serves it: its router is another machine
		c.Router = p.segment.Relay.There
	}
	if c.Relayed = p.relayed(); c.Relayed && o.Probe == nil {
		// ARP does not reach it. An address that somebody uses is found by the client that gets it: its DECLINE quarantines it.
		o.Probe = func(context.Context, netip.Addr) (net.HardwareAddr, error) { return nil, nil }
	}
	c.Hostname = func(mac swarm.MAC) string {
		m, _ := r.state.View().Machine(mac)
		return m.Name
	}
	c.Loader = func(mac swarm.MAC) swarm.Loader { return r.state.View().LoaderOf(mac) }
	c.Former = func(addr netip.Addr) bool {
		for _, n := range p.view().Nodes() {
			if other, ok := n.PortFor(p.segment); ok && other.Address.Addr() == addr && addr != self {
				return true
			}
		}
		return false
	}
	if o.Listen == nil {
		o.Listen = dhcp.Listen
	}
	ledger := newLeases(r, p.segment.ID, p.segment.Duty.Term)
	var services atomic.Pointer[dhcp.Services]
	look := func() {
		s := servicesOn(r.state.View(), p.segment.ID, self)
		services.Store(&s)
	}
	look()
	o.Services = func() dhcp.Services { return *services.Load() }
	o.Ledger, o.Duty, o.Now, o.Listen = ledger, p.standing, r.now, p.mail.listen(o.Listen)
	server, err := dhcp.New(o)
	if err != nil {
		return nil, err
	}
	return task.Func("dhcp", func(ctx context.Context) error {
		writing, stop := context.WithCancel(context.WithoutCancel(ctx)) // until the last packet is answered
		var writer sync.WaitGroup
		writer.Go(func() { _ = ledger.Run(writing) }) // it has no error
		writer.Go(func() { r.eachChange(writing, look) })
		defer writer.Wait()
		defer stop()
		return p.serveFrom(ctx, now, r, server)
	}), nil
}

// onSegment is what the server of a segment tells all of its machines.
func onSegment(c *dhcp.Config, self netip.Addr, s swarm.Segment, lease time.Duration) {
	c.Server, c.Subnet, c.Proxy = self, s.Network, s.Mode == swarm.ModeProxy
	if !c.Proxy {
		c.Router, c.Sole = self, true
		for _, pool := range s.Pools() {
			c.Pools = append(c.Pools, dhcp.Range{First: pool.First, Last: pool.Last})
		}
	}
	c.ScriptURL = func(nonce string) string { return web.URL(self, nonce) }
	c.ProgramURL = func(name string) string { return web.ProgramURL(self, name) }
	c.IPXELease, c.Lease = lease, lease
}

// serveFrom runs a DHCP server for as long as the segment's mode and pools are those that it was opened for. What is in work when
// they change is given up: its sender asks again.
func (p *post) serveFrom(ctx context.Context, as swarm.Segment, r *replica, server task.Task) error {
	serving, end := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	defer watching.Wait()
	defer end(nil)
	watching.Go(func() {
		changed := func(swarm.View) bool {
			now := p.now()
			return now.Mode != as.Mode || !slices.Equal(now.Pools(), as.Pools())
		}
		if r.await(serving, "mode or pools change", changed) == nil {
			end(errOutdated)
		}
	})
	if err := server.Run(serving); err != nil || ctx.Err() != nil {
		return err
	}
	return context.Cause(serving)
}

func (o *outfit) tftp(p *post) (task.Task, error) {
	programs, err := boot.Programs()
	if err != nil {
		return nil, err
	}
	port, err := portByMAC(p.port.MAC, p.port.VLAN)
	if err != nil {
		return nil, err
	}
	self := p.port.Address.Addr()
	server, err := tftp.New(tftp.Options{
		Addr: netip.AddrPortFrom(self, 69).String(), Interface: port.Name, MTU: port.MTU, Files: programs,
		More: scripts(self),
		OnTransfer: func(t tftp.Transfer) {
			mac := o.leaseholder(t.Client.Addr())
			answer, reason := fmt.Sprintf("%d bytes", t.Sent), ""
			switch {
			case t.File == "":
				answer, reason = "", "there is no such file"
			case t.Probe:
				answer = "size only"
			case t.Err != nil:
				answer, reason = "", t.Err.Error()
			}
			o.journal.add(t.Time, mac, "tftp", "GET "+t.Name, answer, reason)
		},
		Log: o.log,
	})
	if err != nil {
		return nil, err
	}
	return task.Func("tftp", func(ctx context.Context) error {
		leave, err := o.seats.take(ctx, self)
		if err != nil {
			return err
		}
		defer leave()
		return server.Run(ctx)
	}), nil
}

// scripts are the small files beside the boot programs that are the same for every machine.
func scripts(self netip.Addr) map[string]func() ([]byte, error) {
	fixed := func(text string) func() ([]byte, error) { return func() ([]byte, error) { return []byte(text), nil } }
	out := map[string]func() ([]byte, error){boot.Autoexec: fixed(boot.AutoexecScript(web.ProgramURL(self, "")))}
	for _, name := range boot.EntryNames() {
		out[name] = fixed(boot.EntryConfig(web.GRUBURL(self)))
	}
	return out
}

func (o *outfit) leaseholder(addr netip.Addr) swarm.MAC {
	addr = addr.Unmap()
	view := o.state.View()
	for _, s := range view.Segments() {
		if l, ok := view.Lease(s.ID, addr); ok {
			return l.MAC
		}
	}
	return neighbourMAC(addr) // whose address is from the server of others
}

// neighbourMAC is who the kernel knows behind an address, "" if nobody.
func neighbourMAC(addr netip.Addr) swarm.MAC {
	mac, ok, err := segment.ARPEntry(addr)
	if err != nil || !ok {
		return ""
	}
	return mac
}

// seats let one post at a time serve what is the same for all that have an address in common: those of a segment, and of others that
// a relay passes on to it. The next one waits until it is free. Safe for concurrent use.
type seats struct {
	mu    sync.Mutex
	taken map[netip.Addr]chan struct{}
}

// take waits until the seat of addr is free, or ctx ends.
func (s *seats) take(ctx context.Context, addr netip.Addr) (leave func(), err error) {
	for {
		s.mu.Lock()
		before, taken := s.taken[addr]
		if !taken {
			if s.taken == nil {
				s.taken = map[netip.Addr]chan struct{}{}
			}
			mine := make(chan struct{})
			s.taken[addr] = mine
			s.mu.Unlock()
			return func() {
				s.mu.Lock()
				defer s.mu.Unlock()
				delete(s.taken, addr)
				close(mine)
			}, nil
		}
		s.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}

// noteTime bounds how long a warning is tried to be written down.
const noteTime = 10 * time.Second

// portByMAC finds the port: names can change between two boots. A VLAN's device has the MAC of its port, on which nothing must be
// answered that is meant for the VLAN.
func portByMAC(mac swarm.MAC, vlan uint16) (segment.Port, error) {
	ports, err := segment.Ports()
	if err != nil {
		return segment.Port{}, err
	}
	return portAmong(ports, mac, vlan)
}

func portAmong(ports []segment.Port, mac swarm.MAC, vlan uint16) (segment.Port, error) {
	for _, p := range ports {
		if p.MAC == mac && p.VLAN == vlan && p.Master == "" {
			return p, nil
		}
	}
	if vlan != 0 {
		return segment.Port{}, fmt.Errorf("no device for VLAN %d on the port with MAC %s", vlan, mac)
	}
	return segment.Port{}, fmt.Errorf("no port with MAC %s in this machine", mac)
}
