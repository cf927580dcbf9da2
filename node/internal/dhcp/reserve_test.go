package dhcp

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
)

var (
	kept  = netip.MustParseAddr("192.168.42.5") // outside of the pool
	other = dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 2})
)

const otherMAC swarm.MAC = "02:00:00:00:00:02"

func TestReservationGoesBeforeEverythingButANodesOwnAddress(t *testing.T) {
	for name, c := range map[string]struct {
		m      dhcpv4.MessageType
		mods   []mod
		change func(*View)
		want   string
	}{
		"a new machine":                     {discover, nil, func(v *View) { v.Candidate = kept }, "OFFER 192.168.42.5"},
		"a machine with another lease":      {discover, nil, func(v *View) { v.Binding, v.Candidate = bound("192.168.42.17", ClassOS, time.Hour), kept }, "OFFER 192.168.42.5"},
		"another lease is renewed":          {request, []mod{has("192.168.42.17")}, func(v *View) { v.Binding = bound("192.168.42.17", ClassOS, time.Hour) }, "NAK"},
		"another lease after a reboot":      {request, []mod{wants("192.168.42.17")}, func(v *View) { v.Binding = bound("192.168.42.17", ClassOS, time.Hour) }, "NAK"},
		"its lease is renewed":              {request, []mod{has("192.168.42.5")}, func(v *View) { v.Binding = bound("192.168.42.5", ClassOS, time.Hour) }, "ACK 192.168.42.5"},
		"it knows its address, we no lease": {request, []mod{wants("192.168.42.5")}, func(v *View) { v.Candidate = kept }, "ACK 192.168.42.5"},
		"it was offered another before":     {request, []mod{chose(server.String()), wants("192.168.42.17")}, func(v *View) { v.Offer = &Offer{Addr: addr17, Nonce: nonce} }, "NAK"},
		"it takes up the offer":             {request, []mod{chose(server.String()), wants("192.168.42.5")}, func(v *View) { v.Offer = &Offer{Addr: kept, Nonce: nonce} }, "ACK 192.168.42.5"},
		"another uses it still":             {discover, nil, func(v *View) { v.Trouble = "in use" }, ""},
		"a node's own address":              {request, []mod{has("192.168.42.17")}, func(v *View) { v.Binding = bound("192.168.42.17", ClassOS, 0) }, "ACK 192.168.42.17"},
		"without quorum the old lease lasts": {request, []mod{has("192.168.42.17")}, func(v *View) {
			v.Duty, v.Unicast, v.Binding = RenewOnly, true, bound("192.168.42.17", ClassOS, time.Hour)
		}, "ACK 192.168.42.17"},
	} {
		v := View{Duty: Full, NewNonce: nonce, Reserved: kept}
		c.change(&v)
		p, client := ask(t, c.m, c.mods...)
		plan := Decide(day, p, client, v, testConfig())
		if plan.Answer != c.want || strings.HasPrefix(c.want, "ACK") && v.Duty == Full && plan.Bind.Addr.String() != c.want[4:] {
			t.Errorf("%s: %q (%s), want %q", name, plan.Answer, plan.Reason, c.want)
		}
	}
}

func TestLeaseOnAnAddressKeptForAnotherMachineIsNotRenewed(t *testing.T) {
	v := View{Duty: Full, NewNonce: nonce, Binding: bound("192.168.42.17", ClassOS, time.Hour), BindingKept: true}
	p, client := ask(t, request, has("192.168.42.17"))
	if plan := Decide(day, p, client, v, testConfig()); plan.Answer != "NAK" || plan.Bind != nil {
		t.Errorf("%q %+v", plan.Answer, plan.Bind)
	}
	v.Binding.Expires = time.Time{}
	if plan := Decide(day, p, client, v, testConfig()); plan.Answer != "ACK 192.168.42.17" {
		t.Errorf("a node's own: %q (%s)", plan.Answer, plan.Reason)
	}
}

func TestReservedAddressIsLeasedOutsideThePoolsToItsMachineOnly(t *testing.T) {
	withServer(t, func(b *bench) {
		b.o.Config.Pools = []Range{{addr17, addr17}}
		b.ledger.reserved[otherMAC] = kept
		b.ledger.reserved["02:00:00:00:00:03"] = addr17 // the whole pool
	}, func(b *bench) {
		if ack := b.lease(other); !ack.YourIPAddr.Equal(kept.AsSlice()) {
			t.Errorf("gave %s", ack.YourIPAddr)
		}
		for _, wish := range []netip.Addr{{}, kept, addr17} {
			p := b.packet(discover)
			if wish.IsValid() {
				p = b.packet(discover, wants(wish.String()))
			}
			if r := b.say(p); r != nil {
				t.Errorf("a stranger who wished %s was offered %s", wish, r.YourIPAddr)
			}
		}
		if ack := b.lease(dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 3})); !ack.YourIPAddr.Equal(addr17.AsSlice()) {
			t.Errorf("gave %s", ack.YourIPAddr)
		}
	})
}

func TestMachineMovesToItsReservationWithTheNextRenewal(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		old := b.lease().YourIPAddr.String()
		b.ledger.reserved[swarm.MACOf(mac)] = kept
		if r := b.say(b.packet(request, has(old))); r == nil || r.MessageType() != dhcpv4.MessageTypeNak {
			t.Errorf("renewal of %s: %v", old, r)
		}
		if ack := b.lease(); !ack.YourIPAddr.Equal(kept.AsSlice()) {
			t.Errorf("gave %s", ack.YourIPAddr)
		}
	})
}

func TestReservationWaitsForTheLeaseOfAnother(t *testing.T) {
	withServer(t, func(b *bench) { b.o.Config.Pools = []Range{{addr17, addr17}} }, func(b *bench) {
		b.lease()
		b.ledger.reserved[otherMAC] = addr17
		if r := b.say(b.packet(discover, other)); r != nil || !strings.Contains(b.lastReason(), "uses it still") {
			t.Errorf("%v (%s)", r, b.lastReason())
		}
		if r := b.say(b.packet(request, has(addr17.String()))); r == nil || r.MessageType() != dhcpv4.MessageTypeNak {
			t.Errorf("the old lease was renewed: %v", r)
		}
		b.say(b.packet(dhcpv4.MessageTypeRelease, chose(server.String()), has(addr17.String())))
		if ack := b.lease(other); !ack.YourIPAddr.Equal(addr17.AsSlice()) {
			t.Errorf("gave %s", ack.YourIPAddr)
		}
	})
}

func TestReservedAddressThatAStrangerUsesIsNotGiven(t *testing.T) {
	withServer(t, func(b *bench) {
		b.ledger.reserved[swarm.MACOf(mac)] = kept
		b.o.Probe = func(_ context.Context, a netip.Addr) (net.HardwareAddr, error) {
			if a == kept {
				return net.HardwareAddr{2, 0, 0, 0, 0, 9}, nil
			}
			return nil, nil
		}
	}, func(b *bench) {
		if r := b.say(b.packet(discover)); r != nil || !strings.Contains(b.eventKinds(), string(EventConflict)) {
			t.Errorf("%v, events %q", r, b.eventKinds())
		}
	})
}

// A link that has no more packets is how a duty is handed over: nothing is asked for any more, everything is answered.
func TestEndOfPacketsEndsTheServerOnceAllAreAnswered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &ending{fakeLink: fakeLink{in: make(chan received, 1), out: make(chan *dhcpv4.DHCPv4, 1), closed: make(chan struct{})}}
		b := &bench{t: t, ledger: newMemory(time.Now)}
		s, err := New(Options{
			Config: testConfig(), Ledger: b.ledger, Duty: func() DutyState { return Full }, Listen: func(Config) (Link, error) { return l, nil },
			Probe: func(context.Context, netip.Addr) (net.HardwareAddr, error) { <-time.After(probeTime); return nil, nil },
		})
		if err != nil {
			t.Fatal(err)
		}
		l.in <- received{raw: b.packet(discover).ToBytes()}
		close(l.in)
		if err := s.Run(t.Context()); err != nil {
			t.Error(err)
		}
		select {
		case <-l.out:
		default:
			t.Error("the last packet got no answer")
		}
	})
}

type ending struct{ fakeLink }

func (l *ending) Receive(buf []byte) (int, bool, error) {
	r, ok := <-l.in
	if !ok {
		return 0, false, io.EOF
	}
	return copy(buf, r.raw), r.unicast, nil
}
