package dhcp

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
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
	// Services are those of now, asked for with every packet. Nil: those of Config.
	Services func() Services
	// Probe asks the segment who uses an address; a nil answer means nobody. Called from many goroutines at once. Without
	// one, ARP on the interface is used.
	Probe func(ctx context.Context, addr netip.Addr) (net.HardwareAddr, error)
	// OnFirmware hears what kind of firmware a machine has, whenever one is given an address or begins to boot. Called from many
	// goroutines; must not block. May be nil.
	OnFirmware func(swarm.MAC, boot.Firmware)
	// OnTrace gets every packet, OnEvent what belongs on a timeline. Called from many goroutines; must not block. Both may
	// be nil.
	OnTrace func(Trace)
	OnEvent func(Event)
	Log     *slog.Logger // nil: silent
	Now     func() time.Time

	// Listen opens the link, ListenBoot that of a proxy's second port; nil: the functions of these names, the sockets of this
	// machine.
	Listen     func(Config) (Link, error)
	ListenBoot func(Config) (BootLink, error)
	// Boots are where a proxy notes whose nonce is whose; nil: nobody else wants to know.
	Boots *Boots
}

// Server answers DHCP on one interface. Run it once.
type Server struct {
	o      Options
	cfg    Config
	desk   *desk
	stock  *stock
	turns  turns
	alarm  alarm
	right  right
	traced bool // somebody reads traces
	ready  chan struct{}
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
	if o.OnFirmware == nil {
		o.OnFirmware = func(swarm.MAC, boot.Firmware) {}
	}
	if o.OnEvent == nil {
		o.OnEvent = func(Event) {}
	}
	if o.Listen == nil {
		o.Listen = Listen
	}
	if o.ListenBoot == nil {
		o.ListenBoot = ListenBoot
	}
	if o.Boots == nil {
		o.Boots = NewBoots()
	}
	s := &Server{o: o, cfg: o.Config.withDefaults(), desk: newDesk(), ready: make(chan struct{})}
	s.traced = o.OnTrace != nil || o.Log.Enabled(context.Background(), slog.LevelDebug)
	s.stock = newStock(&s.cfg)
	s.stock.now, s.stock.useOf, s.stock.inUse = o.Now, s.useOf, s.conflict
	s.stock.may = func() bool { return o.Duty() == Full }
	return s, nil
}

func (s *Server) String() string { return "dhcp on " + s.cfg.Interface }

// Ready is closed when the socket is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// commitTime is how long a client waits for an ACK before it repeats the REQUEST: longer waits help nobody.
const commitTime = 5 * time.Second

// Run serves until ctx ends, or the link says that no more packets will come; then it returns nil, with the link closed and no
// packet in work. What is in work when ctx ends is given up, what is in work when the packets end is answered.
func (s *Server) Run(ctx context.Context) (err error) {
	first, boot, err := s.open()
	if err != nil {
		return fmt.Errorf("dhcp: %w", err)
	}
	// Closing is what ends a blocked read.
	closeLinks := sync.OnceFunc(func() { // nothing is lost with it
		_ = first.Close()
		if boot != nil {
			_ = boot.Close()
		}
	})
	defer closeLinks()
	if s.o.Probe == nil {
		arp, err := openARP(s.cfg.Interface)
		if err != nil {
			return fmt.Errorf("dhcp: %w", err)
		}
		defer arp.close()
		s.stock.probe = arp.probe
	} else {
		s.stock.probe = s.o.Probe
	}
	close(s.ready)
	ctx, cancel := context.WithCancel(ctx)
	var helpers sync.WaitGroup
	defer helpers.Wait()
	defer cancel()
	stop := context.AfterFunc(ctx, closeLinks)
	defer stop()
	helpers.Go(func() { s.stock.run(ctx) })
	helpers.Go(func() { s.tidy(ctx) })
	helpers.Go(func() { s.right.watch(ctx, s.o.Duty) })
	err = s.receiveBoth(ctx, first, boot, closeLinks)
	if err == nil || ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("dhcp: receive on %s: %w", s.cfg.Interface, err)
}

// open opens the server's port, and of a proxy that of boot servers.
func (s *Server) open() (Link, BootLink, error) {
	first, err := s.o.Listen(s.cfg)
	if err != nil || !s.cfg.Proxy {
		return first, nil, err
	}
	boot, err := s.o.ListenBoot(s.cfg)
	if err != nil {
		return nil, nil, errors.Join(err, first.Close())
	}
	return first, boot, nil
}

// receiveBoth handles the packets of both links, until one of them ends, which ends the other.
func (s *Server) receiveBoth(ctx context.Context, first Link, boot BootLink, closeLinks func()) error {
	if boot == nil {
		return s.receive(ctx, first, nil)
	}
	ended := make(chan error, 2) // the first of the two counts
	var second sync.WaitGroup
	second.Go(func() {
		defer closeLinks()
		ended <- s.receive(ctx, boot, boot)
	})
	ended <- s.receive(ctx, first, nil)
	closeLinks()
	second.Wait()
	return <-ended
}

// receive handles packets until the link has no more, and waits for those in work. Only the end of packets is no error.
func (s *Server) receive(ctx context.Context, l Link, boot BootLink) error {
	ctx, giveUp := context.WithCancel(ctx)
	defer giveUp()
	var crew crew
	j := new(job)
	for {
		n, unicast, err := l.Receive(j.buf[:])
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = nil
			} else {
				giveUp()
			}
			crew.dismiss()
			return err
		}
		j.raw, j.unicast, j.boot = j.buf[:n], unicast, boot != nil
		if boot != nil {
			j.from = boot.From()
		}
		next, ok := crew.take(j, func(j *job) { s.handle(ctx, l, j) })
		if !ok {
			s.trace(Trace{Time: s.o.Now(), What: "packet", Reason: fmt.Sprintf("%d packets are in work already", maxInFlight)})
		}
		j = next
	}
}

// tidy forgets old offers now and then.
func (s *Server) tidy(ctx context.Context) {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			s.stock.giveBack(s.desk.sweep(s.o.Now())...)
			s.o.Boots.sweep(s.o.Now())
		}
	}
}

const sweepEvery = 10 * time.Second

// handle takes one packet all the way.
func (s *Server) handle(ctx context.Context, l Link, j *job) {
	t := Trace{Time: s.o.Now()}
	defer func() { s.trace(t) }()
	duty := s.o.Duty()
	p := &j.packet
	c, err := decode(j.raw, p)
	t.MAC = c.MAC
	if err != nil {
		t.What, t.Reason = "packet", err.Error()
		return
	}
	if s.traced {
		t.What = c.Message.String() + " from " + c.String() + " xid " + hex.EncodeToString(p.TransactionID[:])
		if j.boot {
			t.What += " to port 4011"
		}
	}
	if duty == None { // before any state is touched
		t.Reason = Decide(t.Time, p, c, View{Duty: None}, s.cfg).Reason
		return
	}
	if !s.turns.take(ctx, c.MAC) {
		t.Reason = "earlier packets of this machine are still in work"
		return
	}
	defer s.turns.done(c.MAC)
	view := s.view(ctx, t.Time, c, duty, j)
	cfg := s.cfg
	if s.o.Services != nil {
		cfg.Services = s.o.Services()
	}
	plan := Decide(t.Time, p, c, view, cfg)
	t.Reason, t.Why = plan.Reason, plan.Why
	if plan.Event != "" {
		s.event(t.Time, c.MAC, plan.Event, plan.Reason)
	}
	if err := s.commit(ctx, c.MAC, plan); err != nil {
		t.Reason = err.Error()
		s.forget(c.MAC)
		s.event(t.Time, c.MAC, EventCommit, t.Reason)
		return
	}
	switch {
	case plan.DropOffer:
		s.forget(c.MAC)
	case plan.Bind != nil && plan.Bind.Class != ClassFirmware:
		s.desk.drop(c.MAC) // from now on the binding says the same; firmware's REQUEST may come twice, with one nonce
	}
	if plan.Offer != nil {
		s.desk.keep(c.MAC, *plan.Offer)
	}
	if plan.NewBoot {
		s.o.Boots.end(c.MAC)
	}
	if plan.Begin != "" {
		s.o.Boots.begin(t.Time, c.MAC, plan.Begin)
	}
	if plan.Reply == nil {
		return
	}
	if why := s.mayStillSend(ctx, duty, t.Time); why != "" {
		t.Reason = why
		return
	}
	if c.Firmware != boot.Unknown && (plan.Bind != nil || plan.Begin != "") { // before it can ask for what it boots
		s.o.OnFirmware(c.MAC, c.Firmware)
	}
	j.reply = encode(j.reply[:0], plan.Reply)
	if err := l.Send(j.reply, plan.To, plan.Reply.ClientHWAddr); err != nil {
		t.Reason = fmt.Sprintf("%s could not be sent: %v", plan.Answer, err)
		return
	}
	t.Answer = plan.Answer
	if plan.Fetches {
		s.desk.fetched(t.Time, c.MAC, c.Exchange)
	}
}

// decode reads raw into p, which points into it afterwards.
func decode(raw []byte, p *dhcpv4.DHCPv4) (Client, error) {
	if err := parse(raw, p); err != nil {
		return Client{}, fmt.Errorf("not a DHCP packet: %w", err)
	}
	return Classify(p)
}

// view gathers what Decide needs, and reserves an address if the answer needs one.
func (s *Server) view(ctx context.Context, now time.Time, c Client, duty DutyState, j *job) View {
	if c.Class == boot.IPXE {
		s.desk.reachedIPXE(c.MAC)
	}
	if s.cfg.Proxy {
		return View{
			Duty: duty, Unicast: j.unicast, BootServer: j.boot, From: j.from, Fetches: s.desk.fetchesBefore(now, c.MAC, c.Exchange), NewNonce: newNonce(), Begun: s.o.Boots.of(now, c.MAC),
		}
	}
	v := View{Duty: duty, Unicast: j.unicast, Offer: s.desk.offer(now, c.MAC), NewNonce: newNonce()}
	if s.cfg.Hostname != nil {
		v.Hostname = s.cfg.Hostname(c.MAC)
	}
	if s.cfg.Loader != nil {
		v.Loader = s.cfg.Loader(c.MAC)
	}
	if a, ok := s.o.Ledger.Reserved(c.MAC); ok && s.cfg.usable(a) {
		v.Reserved = a
	}
	if b, ok := s.o.Ledger.Binding(c.MAC); ok && s.cfg.Subnet.Contains(b.Addr) {
		if !b.ExpiredAt(now) || !s.desk.offeredToOther(now, b.Addr, c.MAC) {
			v.Binding = &b
			v.BindingKept = s.keptForOther(c.MAC, b.Addr)
		}
	}
	if v.Offer != nil && s.keptForOther(c.MAC, v.Offer.Addr) {
		v.Offer = nil
	}
	v.Fetches = s.desk.fetchesBefore(now, c.MAC, c.Exchange)
	if addr, need := needsAddress(c, v, &s.cfg); need {
		v.Candidate, v.Trouble = s.reserve(ctx, now, c, addr, v.Reserved)
		v.Exhausted = v.Trouble == errExhausted.Error()
	}
	return v
}

func (s *Server) keptForOther(mac swarm.MAC, addr netip.Addr) bool {
	other, ok := s.o.Ledger.ReservedFor(addr)
	return ok && other != mac
}

// reserve finds an address that nobody uses. The error text goes into the trace.
func (s *Server) reserve(ctx context.Context, now time.Time, c Client, wanted, reserved netip.Addr) (netip.Addr, string) {
	accept := func(a netip.Addr) bool { return s.useOf(now, c.MAC, a) != taken && s.desk.promise(now, c.MAC, a) }
	if wanted.IsValid() && (wanted == reserved || s.useOf(now, c.MAC, wanted) == free) && accept(wanted) {
		if s.stock.claim(wanted) {
			return wanted, ""
		}
		user, err := s.stock.probe(ctx, wanted)
		if err == nil && (user == nil || swarm.MACOf(user) == c.MAC) {
			return wanted, ""
		}
		s.forget(c.MAC)
		if err == nil {
			s.conflict(wanted, user)
			err = s.quarantine(ctx, wanted)
		}
		if err != nil {
			return netip.Addr{}, err.Error()
		}
	}
	switch {
	case reserved.IsValid():
		return netip.Addr{}, fmt.Sprintf("%s is kept for this machine, but another one uses it still", reserved)
	case c.Message != dhcpv4.MessageTypeDiscover:
		return netip.Addr{}, fmt.Sprintf("%s is given away", wanted)
	}
	addr, err := s.stock.take(ctx, c.MAC, accept)
	if errors.Is(err, errExhausted) {
		if back, ok := s.desk.takeBack(now, c.MAC); ok {
			if s.useOf(now, c.MAC, back) != taken {
				return back, ""
			}
			s.desk.drop(c.MAC) // it was bound meanwhile
		}
	}
	if err != nil {
		return netip.Addr{}, err.Error()
	}
	return addr, ""
}

// conflict reports an address that is used by somebody to whom it was not given.
func (s *Server) conflict(addr netip.Addr, by net.HardwareAddr) {
	s.event(s.o.Now(), swarm.MACOf(by), EventConflict, fmt.Sprintf("%s is used by %s, to whom we have not given it: it is left alone", addr, by))
}

// forget drops the offer of a machine. Its address may be had by others.
func (s *Server) forget(mac swarm.MAC) {
	if addr, ok := s.desk.drop(mac); ok {
		s.stock.giveBack(addr)
	}
}

func (s *Server) useOf(now time.Time, mac swarm.MAC, addr netip.Addr) use {
	if s.keptForOther(mac, addr) || s.desk.offeredToOther(now, addr, mac) {
		return taken
	}
	holder, over, ok := s.o.Ledger.Holder(addr)
	switch {
	case !ok || holder == mac && mac != "":
		return free
	case over:
		return expired
	}
	return taken
}

// commit makes durable what the plan rests on. Every write is bounded: a client does not wait longer.
func (s *Server) commit(ctx context.Context, mac swarm.MAC, plan Plan) error {
	if plan.Bind == nil && !plan.Release.IsValid() && !plan.Quarantine.IsValid() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, commitTime)
	defer cancel()
	defer s.right.whileHeld(cancel)()
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

// promptly is how soon a packet must be answered by a node that may have lost its duty: later its client has asked
// everybody, and whoever holds the duty now answers.
const promptly = time.Second

// mayStillSend asks for the duty again: probing and committing take time, in which it may have gone to another node.
func (s *Server) mayStillSend(ctx context.Context, before DutyState, received time.Time) string {
	if ctx.Err() != nil {
		return "we are stopping"
	}
	if s.o.Duty() < before {
		return "duty on the segment was lost while the answer was prepared"
	}
	if before == RenewOnly && s.o.Now().Sub(received) > promptly {
		return "the packet is old, and this node may have lost its duty"
	}
	return ""
}

func (s *Server) trace(t Trace) {
	if !s.traced {
		return
	}
	s.o.Log.Debug("dhcp packet", "mac", t.MAC, "what", t.What, "answer", t.Answer, "reason", t.Reason)
	if s.o.OnTrace != nil {
		s.o.OnTrace(t)
	}
}

// newNonce draws 128 bits: whoever has the nonce of a boot may fetch that machine's install config once.
func newNonce() string {
	b := make([]byte, 16)
	_, _ = rand.Read(b) // never fails since Go 1.24
	return base64.RawURLEncoding.EncodeToString(b)
}
