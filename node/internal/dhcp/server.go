package dhcp

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// Options are what a Server is made of.
type Options struct {
	Config Config
	Ledger Ledger
	Duty   func() DutyState
	// Probe asks the segment who uses an address; nil means nobody. Without one, ARP on the interface is used.
	Probe func(ctx context.Context, addr netip.Addr) (net.HardwareAddr, error)
	// OnTrace gets every packet, OnEvent what belongs on a timeline. Called from many goroutines; must not block. Both may
	// be nil.
	OnTrace func(Trace)
	OnEvent func(Event)
	Log     *slog.Logger // nil: silent
	Now     func() time.Time

	listen func(Config) (link, error) // tests
}

// Server answers DHCP on one interface. Run it once.
type Server struct {
	o     Options
	cfg   Config
	desk  *desk
	turns turns
	ready chan struct{}
}

// New checks the options. Nothing is opened before Run.
func New(o Options) (*Server, error) {
	if err := o.Config.Check(); err != nil {
		return nil, fmt.Errorf("dhcp: %w", err)
	}
	if o.Ledger == nil || o.Duty == nil {
		return nil, errors.New("dhcp: a ledger and a duty function are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.OnTrace == nil {
		o.OnTrace = func(Trace) {}
	}
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	if o.Probe == nil {
		name := o.Config.Interface
		o.Probe = func(ctx context.Context, addr netip.Addr) (net.HardwareAddr, error) { return ARPProbe(ctx, name, addr) }
	}
	if o.listen == nil {
		o.listen = listen
	}
	return &Server{o: o, cfg: o.Config.withDefaults(), desk: newDesk(), ready: make(chan struct{})}, nil
}

func (s *Server) String() string { return "dhcp on " + s.cfg.Interface }

// Ready is closed when the socket is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// maxInFlight bounds the packets in work. Each holds a goroutine for at most probeTime or commitTime; a thousand machines
// that are powered on at once fit in, and what does not fit is asked again by the client.
const maxInFlight = 1024

// commitTime is how long a client waits for an ACK before it repeats the REQUEST: longer waits help nobody.
const commitTime = 5 * time.Second

// Run serves until ctx ends; then it returns nil, with the socket closed and no packet in work.
func (s *Server) Run(ctx context.Context) error {
	l, err := s.o.listen(s.cfg)
	if err != nil {
		return fmt.Errorf("dhcp: %w", err)
	}
	close(s.ready)
	ctx, cancel := context.WithCancel(ctx)
	var work sync.WaitGroup
	defer work.Wait()
	defer cancel()
	// Closing is what ends a blocked read; the reader never closes by itself, so close happens once.
	stop := context.AfterFunc(ctx, func() { _ = l.close() })
	defer func() {
		if stop() {
			_ = l.close()
		}
	}()
	room := make(chan struct{}, maxInFlight)
	for {
		buf := make([]byte, maxPacket)
		n, unicast, err := l.receive(buf)
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("dhcp: receive on %s: %w", s.cfg.Interface, err)
		}
		select {
		case room <- struct{}{}:
		default:
			s.trace(Trace{Time: s.o.Now(), What: "packet", Reason: fmt.Sprintf("%d packets are in work already", maxInFlight)})
			continue
		}
		work.Go(func() {
			defer func() { <-room }()
			s.handle(ctx, l, buf[:n], unicast)
		})
	}
}

// maxPacket is the largest Ethernet payload without jumbo frames: no client sends more.
const maxPacket = 1500

// handle takes one packet all the way.
func (s *Server) handle(ctx context.Context, l link, raw []byte, unicast bool) {
	t := Trace{Time: s.o.Now()}
	defer func() { s.trace(t) }()
	duty := s.o.Duty()
	p, c, err := decode(raw)
	t.MAC = c.MAC
	if err != nil {
		t.What, t.Reason = "packet", err.Error()
		return
	}
	t.What = fmt.Sprintf("%s from %s xid %x", c.Message, c, p.TransactionID[:])
	if duty == None { // before any state is touched
		t.Reason = Decide(t.Time, p, c, View{Duty: None}, s.cfg).Reason
		return
	}
	done, ok := s.turns.take(ctx, c.MAC)
	if !ok {
		t.Reason = "earlier packets of this machine are still in work"
		return
	}
	defer done()
	view := s.view(ctx, t.Time, c, duty, unicast)
	plan := Decide(t.Time, p, c, view, s.cfg)
	t.Reason = plan.Reason
	if plan.Event != "" {
		s.event(t.Time, c.MAC, plan.Event, plan.Reason)
	}
	if err := s.commit(ctx, c.MAC, plan); err != nil {
		t.Reason = err.Error()
		s.desk.drop(c.MAC)
		s.event(t.Time, c.MAC, EventCommit, t.Reason)
		return
	}
	if plan.DropOffer {
		s.desk.drop(c.MAC)
	}
	if plan.Offer != nil {
		s.desk.keep(c.MAC, *plan.Offer)
	}
	if plan.Reply == nil {
		return
	}
	if why := s.mayStillSend(ctx, duty); why != "" {
		t.Reason = why
		return
	}
	if err := l.send(plan.Reply.ToBytes(), plan.To, plan.Reply.ClientHWAddr); err != nil {
		t.Reason = fmt.Sprintf("%s could not be sent: %v", plan.Answer, err)
		return
	}
	t.Answer = plan.Answer
	if c.Class == boot.PXE && plan.Bind != nil {
		s.desk.fetched(t.Time, c.MAC)
	}
}

func decode(raw []byte) (*dhcpv4.DHCPv4, Client, error) {
	p, err := dhcpv4.FromBytes(raw)
	if err != nil {
		return nil, Client{}, fmt.Errorf("not a DHCP packet: %w", err)
	}
	c, err := Classify(p)
	return p, c, err
}

// view gathers what Decide needs, and reserves an address if the answer needs one.
func (s *Server) view(ctx context.Context, now time.Time, c Client, duty DutyState, unicast bool) View {
	v := View{Duty: duty, Unicast: unicast, Offer: s.desk.offer(now, c.MAC), NewNonce: newNonce()}
	if b, ok := s.o.Ledger.Binding(c.MAC); ok && s.cfg.Subnet.Contains(b.Addr) {
		if !b.ExpiredAt(now) || !s.desk.offeredToOther(now, b.Addr, c.MAC) {
			v.Binding = &b
		}
	}
	if c.Class == boot.IPXE {
		s.desk.reachedIPXE(c.MAC)
	}
	v.Fetches = s.desk.fetchesOf(now, c.MAC)
	if needsAddress(c, v, s.cfg) {
		v.Candidate, v.Exhausted, v.Trouble = s.reserve(ctx, now, c)
	}
	return v
}

// maxProbes bounds how many addresses in a row may turn out to be in use before the client is left to ask again.
const maxProbes = 8

// reserve finds an address that nobody uses. The error text goes into the trace.
func (s *Server) reserve(ctx context.Context, now time.Time, c Client) (addr netip.Addr, exhausted bool, trouble string) {
	useOf := func(a netip.Addr) use { return s.useOf(now, c.MAC, a) }
	for range maxProbes {
		addr, ok := s.desk.reserve(now, c.MAC, c.Requested, s.cfg, useOf)
		if !ok {
			return netip.Addr{}, true, fmt.Sprintf("all of %s to %s are given away", s.cfg.First, s.cfg.Last)
		}
		user, err := s.o.Probe(ctx, addr)
		if err != nil {
			s.desk.drop(c.MAC)
			return netip.Addr{}, false, fmt.Sprintf("probe %s: %v", addr, err)
		}
		if user == nil || swarm.MACOf(user) == c.MAC {
			return addr, false, ""
		}
		s.event(now, c.MAC, EventConflict, fmt.Sprintf("%s is used by %s, to whom we have not given it: quarantined", addr, user))
		s.desk.drop(c.MAC)
		if err := s.quarantine(ctx, addr); err != nil {
			return netip.Addr{}, false, err.Error()
		}
	}
	return netip.Addr{}, false, fmt.Sprintf("%d addresses in a row are used by others", maxProbes)
}

func (s *Server) useOf(now time.Time, mac swarm.MAC, addr netip.Addr) use {
	holder, ok := s.o.Ledger.Holder(addr)
	switch {
	case !ok || holder == mac:
		return free
	case holder == "":
		return taken
	}
	b, ok := s.o.Ledger.Binding(holder)
	if ok && b.Addr == addr && !b.ExpiredAt(now) {
		return taken
	}
	return expired
}

// commit makes durable what the plan rests on. Every write is bounded: a client does not wait longer.
func (s *Server) commit(ctx context.Context, mac swarm.MAC, plan Plan) error {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	if plan.Release.IsValid() {
		if err := s.o.Ledger.Release(ctx, mac, plan.Release); err != nil {
			return fmt.Errorf("release %s: %w", plan.Release, err)
		}
	}
	if plan.Quarantine.IsValid() {
		if err := s.quarantine(ctx, plan.Quarantine); err != nil {
			return err
		}
	}
	if plan.Bind != nil {
		if err := s.o.Ledger.Bind(ctx, *plan.Bind); err != nil {
			return fmt.Errorf("bind %s: %w", plan.Bind.Addr, err)
		}
	}
	return nil
}

func (s *Server) quarantine(ctx context.Context, addr netip.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	if err := s.o.Ledger.Quarantine(ctx, addr); err != nil {
		return fmt.Errorf("quarantine %s: %w", addr, err)
	}
	return nil
}

// mayStillSend asks for the duty again: probing and committing take time, in which it may have gone to another node.
func (s *Server) mayStillSend(ctx context.Context, before DutyState) string {
	if ctx.Err() != nil {
		return "we are stopping"
	}
	if s.o.Duty() < before {
		return "duty on the segment was lost while the answer was prepared"
	}
	return ""
}

func (s *Server) trace(t Trace) {
	s.o.Log.Debug("dhcp packet", "mac", t.MAC, "what", t.What, "answer", t.Answer, "reason", t.Reason)
	s.o.OnTrace(t)
}

func (s *Server) event(now time.Time, mac swarm.MAC, kind EventKind, text string) {
	s.o.Log.Warn("dhcp", "kind", kind, "mac", mac, "text", text)
	s.o.OnEvent(Event{Time: now, MAC: mac, Kind: kind, Text: text})
}

// newNonce draws 128 bits: whoever has the nonce of a boot may fetch that machine's install config once.
func newNonce() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}
