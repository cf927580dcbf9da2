package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
)

// fakeLink is a segment in memory: what a test puts into in is received, what the server says comes out of out.
type fakeLink struct {
	in     chan received
	out    chan *dhcpv4.DHCPv4
	closed chan struct{}
	once   sync.Once
}

type received struct {
	raw     []byte
	unicast bool
}

func (l *fakeLink) Receive(buf []byte) (int, bool, error) {
	select {
	case r := <-l.in:
		return copy(buf, r.raw), r.unicast, nil
	case <-l.closed:
		return 0, false, net.ErrClosed
	}
}

func (l *fakeLink) Send(b []byte, _ Destination, _ net.HardwareAddr) error {
	p, err := dhcpv4.FromBytes(b)
	if err != nil {
		return err
	}
	l.out <- p
	return nil
}

func (l *fakeLink) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// bench is a running server inside a synctest bubble.
type bench struct {
	t      *testing.T
	link   *fakeLink
	ledger *memory
	o      Options
	mu     sync.Mutex
	duty   DutyState
	traces []Trace
	events []Event
}

// withServer runs body against a server that holds full duty. change may set options before it starts.
func withServer(t *testing.T, change func(*bench), body func(*bench)) {
	synctest.Test(t, func(t *testing.T) {
		b := &bench{t: t, duty: Full, ledger: newMemory(time.Now)}
		b.link = &fakeLink{in: make(chan received), out: make(chan *dhcpv4.DHCPv4, 2000), closed: make(chan struct{})}
		b.o = Options{
			Config: testConfig(), Ledger: b.ledger,
			Duty:    func() DutyState { b.mu.Lock(); defer b.mu.Unlock(); return b.duty },
			Probe:   func(context.Context, netip.Addr) (net.HardwareAddr, error) { return nil, nil },
			OnTrace: func(tr Trace) { b.mu.Lock(); defer b.mu.Unlock(); b.traces = append(b.traces, tr) },
			OnEvent: func(e Event) { b.mu.Lock(); defer b.mu.Unlock(); b.events = append(b.events, e) },
			Listen:  func(Config) (Link, error) { return b.link, nil },
		}
		if change != nil {
			change(b)
		}
		s, err := New(b.o)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- s.Run(ctx) }()
		body(b)
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v, want nil after cancel", err)
		}
		select {
		case <-b.link.closed:
		default:
			t.Error("Run left its link open")
		}
	})
}

func (b *bench) setDuty(d DutyState) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.duty = d
}

// say sends a packet and waits until everything that it sets off has settled.
func (b *bench) say(p *dhcpv4.DHCPv4) *dhcpv4.DHCPv4 {
	b.t.Helper()
	b.link.in <- received{raw: p.ToBytes()}
	synctest.Wait()
	return b.heard()
}

func (b *bench) heard() *dhcpv4.DHCPv4 {
	select {
	case r := <-b.link.out:
		return r
	default:
		return nil
	}
}

func (b *bench) lastReason() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.traces) == 0 {
		return ""
	}
	return b.traces[len(b.traces)-1].Reason
}

func (b *bench) eventKinds() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var kinds []string
	for _, e := range b.events {
		kinds = append(kinds, string(e.Kind))
	}
	return strings.Join(kinds, " ")
}

func (b *bench) packet(m dhcpv4.MessageType, mods ...mod) *dhcpv4.DHCPv4 {
	p, _ := ask(b.t, m, mods...)
	return p
}

// lease goes through DISCOVER and REQUEST and returns the ACK.
func (b *bench) lease(mods ...mod) *dhcpv4.DHCPv4 {
	b.t.Helper()
	p := b.packet(discover, mods...)
	offer := b.say(p)
	if offer == nil {
		b.t.Fatalf("no offer: %s", b.lastReason())
	}
	q := b.packet(request, append(mods, chose(server.String()), wants(offer.YourIPAddr.String()))...)
	q.TransactionID = p.TransactionID
	ack := b.say(q)
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		b.t.Fatalf("no ACK but %v: %s", ack, b.lastReason())
	}
	return ack
}

func TestLeaseIsCommittedBeforeAck(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		commit := make(chan error)
		b.ledger.onBind = func(context.Context, Binding) error { return <-commit }
		offer := b.say(b.packet(discover))
		if ack := b.say(b.packet(request, chose(server.String()), wants(offer.YourIPAddr.String()))); ack != nil {
			t.Fatalf("%s was sent before the commit", ack.MessageType())
		}
		commit <- nil
		synctest.Wait()
		ack := b.heard()
		if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
			t.Fatalf("after the commit came %v", ack)
		}
		if got, ok := b.ledger.Binding(swarm.MACOf(mac)); !ok || !ack.YourIPAddr.Equal(got.Addr.AsSlice()) {
			t.Errorf("acknowledged %s, committed %+v", ack.YourIPAddr, got)
		}
	})
}

func TestRefusedCommitIsSilence(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		b.ledger.onBind = func(context.Context, Binding) error { return errors.New("no quorum") }
		offer := b.say(b.packet(discover))
		if ack := b.say(b.packet(request, chose(server.String()), wants(offer.YourIPAddr.String()))); ack != nil {
			t.Fatalf("%s although nothing was committed", ack.MessageType())
		}
		if !strings.Contains(b.lastReason(), "no quorum") || b.eventKinds() != string(EventCommit) {
			t.Errorf("reason %q, events %q", b.lastReason(), b.eventKinds())
		}
	})
}

func TestStuckCommitEnds(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		b.ledger.onBind = func(ctx context.Context, _ Binding) error { <-ctx.Done(); return ctx.Err() }
		offer := b.say(b.packet(discover))
		b.say(b.packet(request, chose(server.String()), wants(offer.YourIPAddr.String())))
		<-time.After(commitTime)
		synctest.Wait()
		if b.heard() != nil || !strings.Contains(b.lastReason(), "deadline") {
			t.Errorf("reason %q", b.lastReason())
		}
	})
}

func TestDutyLostBeforeSendingIsSilence(t *testing.T) {
	for _, after := range []DutyState{None, RenewOnly} {
		withServer(t, nil, func(b *bench) {
			offer := b.say(b.packet(discover))
			b.ledger.onBind = func(context.Context, Binding) error { b.setDuty(after); return nil }
			if ack := b.say(b.packet(request, chose(server.String()), wants(offer.YourIPAddr.String()))); ack != nil {
				t.Fatalf("%s after duty had become %d", ack.MessageType(), after)
			}
			if !strings.Contains(b.lastReason(), "lost") {
				t.Errorf("reason %q", b.lastReason())
			}
		})
	}
}

func TestWithoutDutyNothingHappens(t *testing.T) {
	probes := 0
	withServer(t, func(b *bench) {
		b.duty = None
		b.o.Probe = func(context.Context, netip.Addr) (net.HardwareAddr, error) { probes++; return nil, nil }
	}, func(b *bench) {
		if r := b.say(b.packet(discover)); r != nil || probes != 0 {
			t.Errorf("answer %v, %d probes", r, probes)
		}
	})
}

func TestOneAddressPerMachine(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		first := b.lease(pxe("\x00\x07"), opt(61, "\x00firmware"))
		for name, m := range map[string]mod{
			"iPXE": both(ipxe(), opt(61, "\x01ipxe")), "agent": both(), "system": opt(61, "\xffduid"),
		} {
			if got := b.lease(m); !got.YourIPAddr.Equal(first.YourIPAddr) {
				t.Errorf("%s got %s, firmware had %s", name, got.YourIPAddr, first.YourIPAddr)
			}
		}
	})
}

func TestNonceStaysFromFirmwareToAgent(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		nonceNow := func() string {
			l, _ := b.ledger.Binding(swarm.MACOf(mac))
			return l.Nonce
		}
		b.lease(pxe("\x00\x07"))
		boot1 := nonceNow()
		script := b.lease(ipxe()).BootFileName
		b.lease()
		if nonceNow() != boot1 || !strings.Contains(script, boot1) || len(boot1) != 22 {
			t.Errorf("firmware %s, agent %s, script %s", boot1, nonceNow(), script)
		}
		b.lease(pxe("\x00\x07"))
		if nonceNow() == boot1 {
			t.Error("the next boot has the same nonce")
		}
		if script := b.lease(ipxe()).BootFileName; !strings.Contains(script, nonceNow()) {
			t.Errorf("script %s, nonce %s", script, nonceNow())
		}
	})
}

// Retransmitted requests must not move the nonce away from the script address that was acknowledged.
func TestRepeatedRequestsKeepTheNonce(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		p := b.packet(discover, ipxe())
		offer := b.say(p)
		q := b.packet(request, ipxe(), chose(server.String()), wants(offer.YourIPAddr.String()))
		release := make(chan struct{})
		b.ledger.onBind = func(context.Context, Binding) error { <-release; return nil }
		for range 3 {
			b.link.in <- received{raw: q.ToBytes()}
		}
		synctest.Wait()
		close(release)
		synctest.Wait()
		for range 3 {
			if ack := b.heard(); ack == nil || ack.BootFileName != offer.BootFileName {
				t.Fatalf("offered %s, acknowledged %v", offer.BootFileName, ack)
			}
		}
	})
}

func TestTwoAtOnceGetTwoAddresses(t *testing.T) {
	const machines = 200
	withServer(t, func(b *bench) {
		b.o.Probe = func(ctx context.Context, _ netip.Addr) (net.HardwareAddr, error) {
			<-time.After(300 * time.Millisecond)
			return nil, nil
		}
	}, func(b *bench) {
		for i := range machines {
			p := b.packet(discover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 1, byte(i)}))
			b.link.in <- received{raw: p.ToBytes()}
		}
		<-time.After(time.Second)
		synctest.Wait()
		seen := make(map[string]bool)
		for r := b.heard(); r != nil; r = b.heard() {
			if seen[r.YourIPAddr.String()] {
				t.Errorf("%s was offered twice", r.YourIPAddr)
			}
			seen[r.YourIPAddr.String()] = true
		}
		if len(seen) != machines {
			t.Errorf("%d machines were offered an address, want %d", len(seen), machines)
		}
	})
}

func TestAddressInUseIsQuarantinedAndAnotherOffered(t *testing.T) {
	stranger := net.HardwareAddr{2, 0, 0, 0, 0, 9}
	withServer(t, func(b *bench) {
		b.o.Probe = func(_ context.Context, a netip.Addr) (net.HardwareAddr, error) {
			if a == addr17 {
				return stranger, nil
			}
			return nil, nil
		}
		b.o.Config.Pools = []Range{{addr17, addr17.Next()}}
	}, func(b *bench) {
		if ack := b.lease(); !ack.YourIPAddr.Equal(addr17.Next().AsSlice()) {
			t.Errorf("gave %s", ack.YourIPAddr)
		}
		if _, _, ok := b.ledger.Holder(addr17); ok || b.eventKinds() != string(EventConflict) {
			t.Errorf("a probe that nobody asked for changed the ledger: %v; events %q", ok, b.eventKinds())
		}
		other := dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 2})
		if r := b.say(b.packet(discover, other, wants(addr17.String()))); r != nil {
			t.Errorf("offered %s, which a stranger uses", r.YourIPAddr)
		}
		if holder, over, ok := b.ledger.Holder(addr17); !ok || over || holder != "" {
			t.Errorf("asked for and in use, but held by %q", holder)
		}
	})
}

func TestProbeAnsweredByTheMachineItselfIsNoConflict(t *testing.T) {
	withServer(t, func(b *bench) {
		b.o.Probe = func(_ context.Context, a netip.Addr) (net.HardwareAddr, error) {
			if a == addr17 {
				return mac, nil
			}
			return nil, nil
		}
	}, func(b *bench) {
		synctest.Wait() // until the server has found it in use by itself
		if ack := b.lease(wants(addr17.String())); !ack.YourIPAddr.Equal(addr17.AsSlice()) {
			t.Errorf("gave %s, events %q", ack.YourIPAddr, b.eventKinds())
		}
	})
}

func TestExhaustionIsReportedAndEnds(t *testing.T) {
	withServer(t, func(b *bench) {
		b.o.Config.Pools = []Range{{addr17, addr17}}
	}, func(b *bench) {
		b.lease()
		other := dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 2})
		if r := b.say(b.packet(discover, other)); r != nil || b.eventKinds() != string(EventExhausted) {
			t.Fatalf("answer %v, events %q", r, b.eventKinds())
		}
		<-time.After(time.Hour) // the first lease is over
		if r := b.say(b.packet(discover, other)); r == nil {
			t.Errorf("an expired address was not given on: %s", b.lastReason())
		}
	})
}

func TestDeclinedAddressIsNotOfferedAgain(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		ack := b.lease()
		b.say(b.packet(dhcpv4.MessageTypeDecline, chose(server.String()), wants(ack.YourIPAddr.String())))
		if again := b.lease(); again.YourIPAddr.Equal(ack.YourIPAddr) {
			t.Errorf("%s was given again", ack.YourIPAddr)
		}
		if b.eventKinds() != string(EventConflict) {
			t.Errorf("events %q", b.eventKinds())
		}
	})
}

func TestReleasedAddressWaitsForItsMachine(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		ack := b.lease()
		if r := b.say(b.packet(dhcpv4.MessageTypeRelease, chose(server.String()), has(ack.YourIPAddr.String()))); r != nil {
			t.Errorf("RELEASE was answered with %s", r.MessageType())
		}
		if l, _ := b.ledger.Binding(swarm.MACOf(mac)); !l.ExpiredAt(time.Now()) {
			t.Errorf("still bound: %+v", l)
		}
		if again := b.lease(); !again.YourIPAddr.Equal(ack.YourIPAddr) {
			t.Errorf("%s after %s", again.YourIPAddr, ack.YourIPAddr)
		}
	})
}

func TestChoosingAnotherServerFreesTheOffer(t *testing.T) {
	withServer(t, func(b *bench) { b.o.Config.Pools = []Range{{addr17, addr17}} }, func(b *bench) {
		b.say(b.packet(discover))
		b.say(b.packet(request, chose("192.168.42.9"), wants("192.168.42.9")))
		if r := b.say(b.packet(discover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 2}))); r == nil {
			t.Errorf("the only address is still kept: %s", b.lastReason())
		}
	})
}

func TestGarbageIsTracedWithAReason(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		b.link.in <- received{raw: []byte("hello")}
		synctest.Wait()
		if b.heard() != nil || b.lastReason() == "" {
			t.Errorf("reason %q", b.lastReason())
		}
	})
}

func TestOneMachineCannotFillTheServer(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		stuck := make(chan struct{})
		offer := b.say(b.packet(discover))
		b.ledger.onBind = func(context.Context, Binding) error { <-stuck; return nil }
		q := b.packet(request, chose(server.String()), wants(offer.YourIPAddr.String()))
		for range 50 {
			b.link.in <- received{raw: q.ToBytes()}
		}
		synctest.Wait()
		if !strings.Contains(b.lastReason(), "still in work") {
			t.Errorf("reason %q", b.lastReason())
		}
		b.ledger.onBind = nil
		close(stuck)
		synctest.Wait()
	})
}

func TestBadSettingsAreNamed(t *testing.T) {
	for want, change := range map[string]func(*Config){
		"interface":       func(c *Config) { c.Interface = "" },
		"subnet":          func(c *Config) { c.Subnet = netip.MustParsePrefix("fd00::/64") },
		"our address":     func(c *Config) { c.Server = netip.MustParseAddr("10.0.0.1") },
		"pool":            func(c *Config) { c.Pools = append(c.Pools, Range{addr17, netip.MustParseAddr("192.168.42.9")}) },
		"script address":  func(c *Config) { c.ScriptURL = func(n string) string { return fmt.Sprintf("http://%0100d/%s", 1, n) } },
		"program address": func(c *Config) { c.ProgramURL = func(n string) string { return fmt.Sprintf("http://%0120d/%s", 1, n) } },
		"no program":      func(c *Config) { c.ProgramURL = nil },
		"router":          func(c *Config) { c.Router = netip.MustParseAddr("10.0.0.1") },
		"name server":     func(c *Config) { c.DNS = []netip.Addr{netip.MustParseAddr("::1")} },
	} {
		cfg := testConfig()
		change(&cfg)
		if err := cfg.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", want, err)
		}
	}
}
