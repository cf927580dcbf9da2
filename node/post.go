package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"offshoot/handoff"
	"offshoot/node/internal/boot"
	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/peer"
	"offshoot/node/internal/segment"
	"offshoot/node/internal/task"
	"offshoot/node/internal/tftp"
	"offshoot/node/internal/web"
	"offshoot/swarm"
)

// watch stands on the duties of this node: it mans a post on every segment whose duty the ledger gives to this node, hands
// it over when it is offered to another, and leaves it when it was given away.
type watch struct {
	*replica
	client  *peer.Client
	service *service
	journal *journal
	mark    func() string // of our own DHCP probes
	log     *slog.Logger

	mu    sync.Mutex
	posts map[uint64]*post // by term
}

func (w *watch) String() string         { return "duties" }
func (w *watch) Ready() <-chan struct{} { return nil }

// post is the duty on one segment in one term.
type post struct {
	segment swarm.Segment
	port    swarm.Port
	fence   *fence
	stop    context.CancelFunc // of everything
	mute    context.CancelFunc // of what answers DHCP
	muted   chan struct{}      // no packet will be answered any more
	gone    chan struct{}      // everything is released
	giving  bool
}

// Run mans posts until ctx ends.
func (w *watch) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	ticker := time.NewTicker(servicePause) // for handovers that failed without a trace in the ledger
	defer ticker.Stop()
	for {
		changed := w.state.Changed()
		w.arrange(ctx, &all)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

// arrange makes the posts what the ledger says.
func (w *watch) arrange(ctx context.Context, all *sync.WaitGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	view := w.state.View()
	self, _ := view.Node(w.self())
	wanted := map[uint64]swarm.Segment{}
	for _, s := range view.Segments() {
		if port, on := self.On(s.ID); s.Duty.Holder == w.self() && on && port.Address.IsValid() {
			wanted[s.Duty.Term] = s
		}
	}
	leaving := map[string]<-chan struct{}{}
	for term, p := range w.posts {
		if _, ok := wanted[term]; !ok {
			p.fence.shut()
			p.stop()
			delete(w.posts, term)
			leaving[p.segment.ID] = p.gone
		}
	}
	for term, s := range wanted {
		p := w.posts[term]
		switch {
		case p == nil:
			port, _ := self.On(s.ID)
			w.open(ctx, all, s, port, leaving[s.ID])
		case s.Duty.Next != "" && !p.giving:
			p.giving = true
			all.Go(func() { w.give(ctx, s) })
		}
	}
}

// open mans a post once the one before on that segment, if any, has let go of its sockets.
func (w *watch) open(ctx context.Context, all *sync.WaitGroup, s swarm.Segment, port swarm.Port, before <-chan struct{}) {
	p := &post{segment: s, port: port, fence: newFence(uptime), muted: make(chan struct{}), gone: make(chan struct{})}
	w.posts[s.Duty.Term] = p
	inner, stop := context.WithCancel(ctx)
	answering, mute := context.WithCancel(inner)
	p.stop, p.mute = stop, mute
	all.Go(func() {
		if before != nil {
			<-before
		}
		w.man(inner, answering, p)
	})
}

// man serves one segment until the duty ends.
func (w *watch) man(ctx, answering context.Context, p *post) {
	defer close(p.gone)
	defer p.stop()
	var loops sync.WaitGroup
	loops.Go(func() { w.renew(ctx, p) })
	loops.Go(func() { w.guard(ctx, p) })
	loops.Go(func() { w.noRouter(ctx, p) })
	loops.Go(func() {
		defer close(p.muted)
		w.keep(answering, p, "dhcp", func() (task.Task, error) { return w.dhcp(p) })
	})
	loops.Go(func() { w.keep(ctx, p, "tftp", func() (task.Task, error) { return w.tftp(p) }) })
	loops.Wait()
}

// servicePause is the time between two attempts to open a service, for example while another program has its port.
const servicePause = 2 * time.Second

// keep runs a service, and opens it again when it fails.
func (w *watch) keep(ctx context.Context, p *post, name string, open func() (task.Task, error)) {
	for ctx.Err() == nil {
		t, err := open()
		if err == nil {
			err = t.Run(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		w.log.Warn("service ended; it will be opened again", "service", name, "segment", p.segment.ID, "port", p.port.Name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(servicePause):
		}
	}
}

// renew keeps the fence open by asking the leader.
func (w *watch) renew(ctx context.Context, p *post) {
	ticker := time.NewTicker(dutyRenew)
	defer ticker.Stop()
	for {
		asked := uptime()
		err := w.askLeader(ctx, p)
		switch {
		case err == nil:
			p.fence.renewed(asked)
		case errors.Is(err, peer.ErrRefused):
			w.log.Info("duty was not renewed", "segment", p.segment.ID, "term", p.segment.Duty.Term, "error", err)
		default:
			w.log.Debug("duty could not be renewed", "segment", p.segment.ID, "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *watch) askLeader(ctx context.Context, p *post) error {
	ctx, cancel := context.WithTimeout(ctx, dutyTTL/2)
	defer cancel()
	if w.ledger.IsLeader() {
		return w.service.RenewDuty(ctx, w.self(), p.segment.ID, p.segment.Duty.Term)
	}
	_, leader, ok := w.ledger.Leader()
	if !ok {
		return errors.New("no leader is known")
	}
	return w.client.RenewDuty(ctx, leader, p.segment.ID, p.segment.Duty.Term)
}

// guard steps down when somebody else's DHCP server shows up on the segment, and comes back when it has gone.
func (w *watch) guard(ctx context.Context, p *post) {
	port, err := portByMAC(p.port.MAC)
	if err != nil {
		w.log.Warn("segment is not watched for foreign DHCP servers", "segment", p.segment.ID, "error", err)
		return
	}
	watcher := segment.Watcher{
		Prober: segment.Prober{Mine: w.ours, Mark: w.mark(), Log: w.log}, Port: port,
		Changed: func(foreign []segment.Server) {
			reason := ""
			if len(foreign) > 0 {
				reason = fmt.Sprintf("another DHCP server answers there: %s", foreign[0])
			}
			w.log.Info("foreign DHCP servers changed", "segment", p.segment.ID, "servers", len(foreign), "first", reason)
			if err := w.decide(ctx, swarm.BlockSegment{Segment: p.segment.ID, Reason: reason}); err != nil && ctx.Err() == nil {
				w.log.Warn("segment is not marked", "segment", p.segment.ID, "error", err)
			}
		},
	}
	if err := watcher.Run(ctx); err != nil && ctx.Err() == nil {
		w.log.Warn("segment is not watched for foreign DHCP servers", "segment", p.segment.ID, "error", err)
	}
}

// noRouter saves machines that boot their wait for an IPv6 router.
func (w *watch) noRouter(ctx context.Context, p *post) {
	port, err := portByMAC(p.port.MAC)
	if err == nil {
		err = (&segment.NoRouter{Port: port, Log: w.log}).Run(ctx)
	}
	if err != nil {
		w.log.Debug("router solicitations are not answered", "segment", p.segment.ID, "error", err)
	}
}

// ours says whether a DHCP server belongs to the swarm.
func (w *watch) ours(s segment.Server) bool { return isOurs(w.state.View(), s) }

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

// standing is what the DHCP server may say now.
func (w *watch) standing(p *post) dhcp.DutyState {
	if s, ok := w.state.View().Segment(p.segment.ID); !ok || s.Blocked != "" {
		return dhcp.None
	}
	switch p.fence.standing() {
	case standingFull:
		return dhcp.Full
	case standingStale:
		return dhcp.RenewOnly
	}
	return dhcp.None
}

func (w *watch) dhcp(p *post) (task.Task, error) {
	first, last := p.segment.Pool()
	self := p.port.Address.Addr()
	port, err := portByMAC(p.port.MAC)
	if err != nil {
		return nil, err
	}
	return dhcp.New(dhcp.Options{
		Config: dhcp.Config{
			Interface: port.Name, Server: self, Subnet: p.segment.Network, First: first, Last: last, Router: self,
			ScriptURL: func(nonce string) string { return web.URL(self, nonce) },
			Hostname: func(mac swarm.MAC) string {
				m, _ := w.state.View().Machine(mac)
				return m.Name
			},
			// The agent keeps its lease while it writes an image; nobody renews for a machine without an operating system.
			IPXELease: time.Hour,
			Sole:      true,
			Mark:      w.mark(),
		},
		Ledger: &leases{w.replica, p.segment.ID, p.segment.Duty.Term},
		Duty:   func() dhcp.DutyState { return w.standing(p) },
		OnTrace: func(t dhcp.Trace) {
			if t.MAC != "" {
				w.journal.add(t.Time, t.MAC, "dhcp", t.What, t.Answer, t.Reason)
			}
			w.log.Debug("dhcp", "mac", t.MAC, "what", t.What, "answer", t.Answer, "reason", t.Reason)
		},
		OnEvent: func(e dhcp.Event) { w.note(e.MAC, string(e.Kind), e.Text) },
		Log:     w.log,
	})
}

// note puts a warning on a timeline without holding up who reports it.
func (w *watch) note(mac swarm.MAC, kind, text string) {
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		if err := w.decide(ctx, swarm.Note{MAC: mac, Kind: kind, Text: text, Warn: true}); err != nil {
			w.log.Warn("warning is not on the timeline", "mac", mac, "kind", kind, "text", text, "error", err)
		}
	}()
}

func (w *watch) tftp(p *post) (task.Task, error) {
	programs, err := boot.Programs()
	if err != nil {
		return nil, err
	}
	port, err := portByMAC(p.port.MAC)
	if err != nil {
		return nil, err
	}
	return tftp.New(tftp.Options{
		Addr: netip.AddrPortFrom(p.port.Address.Addr(), 69).String(), Interface: port.Name, MTU: port.MTU, Files: programs,
		More: map[string]func() ([]byte, error){boot.Autoexec: func() ([]byte, error) { return []byte(boot.AutoexecScript()), nil }},
		OnTransfer: func(t tftp.Transfer) {
			mac := w.leaseholder(p.segment.ID, t.Client.Addr())
			answer, reason := fmt.Sprintf("%d bytes", t.Sent), ""
			switch {
			case t.File == "":
				answer, reason = "", "there is no such file"
			case t.Probe:
				answer = "size only"
			case t.Err != nil:
				answer, reason = "", t.Err.Error()
			}
			w.journal.add(t.Time, mac, "tftp", "GET "+t.Name, answer, reason)
		},
		Log: w.log,
	})
}

func (w *watch) leaseholder(segment string, addr netip.Addr) swarm.MAC {
	l, _ := w.state.View().Lease(segment, addr.Unmap())
	return l.MAC
}

// onDuty says whether this node may hand out boot scripts on a segment now.
func (w *watch) onDuty(segment string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.posts {
		if p.segment.ID == segment {
			return w.standing(p) == dhcp.Full
		}
	}
	return false
}

// give hands a duty over. If that fails, the offer stands or was withdrawn: a fresh post on the same term answers again.
func (w *watch) give(ctx context.Context, s swarm.Segment) {
	w.log.Info("handing duty over", "segment", s.ID, "to", s.Duty.Next)
	if err := handoff.Give(ctx, w, s.ID, s.Duty.Term); err != nil && ctx.Err() == nil {
		w.log.Info("duty was not handed over", "segment", s.ID, "error", err)
		w.abandon(s.Duty.Term)
	}
}

// abandon ends a post, so that arrange mans a new one if the duty is still ours.
func (w *watch) abandon(term uint64) {
	w.mu.Lock()
	p := w.posts[term]
	w.mu.Unlock()
	if p == nil {
		return
	}
	p.fence.shut()
	p.stop()
	<-p.gone // the next one needs its sockets
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.posts, term)
}

func (w *watch) postOn(segment string) *post {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.posts {
		if p.segment.ID == segment {
			return p
		}
	}
	return nil
}

var _ handoff.Giver = (*watch)(nil)

// StopAnswering closes the DHCP server of a segment and waits until no packet is in work.
func (w *watch) StopAnswering(segment string) {
	if p := w.postOn(segment); p != nil {
		p.fence.shut()
		p.mute()
		<-p.muted
	}
}

// Drain has nothing to wait for yet but what TFTP is sending: boot programs, which clients ask for again elsewhere.
func (w *watch) Drain(context.Context, string) {}

// Pass writes the handover down.
func (w *watch) Pass(ctx context.Context, segment string, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return w.decide(ctx, swarm.PassDuty{Segment: segment, Term: term})
}

// portByMAC finds the port: names can change between two boots.
func portByMAC(mac swarm.MAC) (segment.Port, error) {
	ports, err := segment.Ports()
	if err != nil {
		return segment.Port{}, err
	}
	for _, p := range ports {
		if p.MAC == mac && p.Master == "" {
			return p, nil
		}
	}
	return segment.Port{}, fmt.Errorf("no port with MAC %s in this machine", mac)
}

// leases is the DHCP server's ledger for one segment in one term.
type leases struct {
	*replica
	segment string
	term    uint64
}

var _ dhcp.Ledger = (*leases)(nil)

// Binding is the last binding of a machine.
func (l *leases) Binding(mac swarm.MAC) (dhcp.Binding, bool) {
	lease, ok := l.state.View().LeaseOf(l.segment, mac)
	return dhcp.Binding{MAC: lease.MAC, Addr: lease.Addr, Nonce: lease.Nonce, Expires: lease.Expires, Class: lease.Class, Hostname: lease.Hostname}, ok
}

// Holder is who an address belongs to.
func (l *leases) Holder(addr netip.Addr) (swarm.MAC, bool) {
	lease, ok := l.state.View().Lease(l.segment, addr)
	if ok && lease.MAC == "" && !lease.Live(time.Now()) {
		return "", false // its quarantine is over
	}
	return lease.MAC, ok
}

// seenAgain is how often the ledger is told that a known machine showed itself.
const seenAgain = time.Minute

// Bind commits a binding, and with it that the machine was seen.
func (l *leases) Bind(ctx context.Context, b dhcp.Binding) error {
	m, known := l.state.View().Machine(b.MAC)
	if !known || m.FirstSeen.IsZero() || m.Segment != l.segment || time.Since(m.LastSeen) > seenAgain {
		if err := l.decide(ctx, swarm.SeeMachine{MAC: b.MAC, Segment: l.segment}); err != nil {
			return err
		}
	}
	return l.decide(ctx, swarm.BindLease{Term: l.term, Lease: swarm.Lease{
		Segment: l.segment, MAC: b.MAC, Addr: b.Addr, Class: b.Class, Nonce: b.Nonce, Hostname: b.Hostname, Expires: b.Expires,
	}})
}

// Release ends a binding.
func (l *leases) Release(ctx context.Context, mac swarm.MAC, addr netip.Addr) error {
	return l.decide(ctx, swarm.ReleaseLease{Segment: l.segment, MAC: mac, Addr: addr})
}

// quarantineTime is how long an address that a machine declined is not given out: RFC 2131 leaves it to the server.
const quarantineTime = 10 * time.Minute

// Quarantine keeps an address from everybody.
func (l *leases) Quarantine(ctx context.Context, addr netip.Addr) error {
	return l.decide(ctx, swarm.QuarantineAddress{Segment: l.segment, Addr: addr, Until: time.Now().Add(quarantineTime)})
}
