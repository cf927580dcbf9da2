package node

import (
	"context"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
)

// simClient is a machine with an operating system that asks for an address, renews it, and now and then gives it back: the
// states of RFC 2131, 4.4, with the patience of a test.
type simClient struct {
	mac    swarm.MAC
	rng    *rand.Rand
	oracle *oracle
	send   func(b []byte, to netip.Addr) // invalid: to everybody
	heard  chan []byte

	addr   netip.Addr
	server netip.Addr
	until  time.Time // by true time
	renew  time.Time
	rebind time.Time
}

// askAgain is how long a client waits for an answer.
const askAgain = 700 * time.Millisecond

func (c *simClient) run(ctx context.Context) {
	for ctx.Err() == nil {
		switch {
		case !c.addr.IsValid() || !time.Now().Before(c.until):
			c.addr = netip.Addr{}
			if !c.acquire(ctx) {
				c.pause(ctx, c.within(300*time.Millisecond, time.Second))
			}
		case c.rng.IntN(12) == 0:
			c.giveBack()
			c.pause(ctx, c.within(100*time.Millisecond, 3*time.Second))
		case !time.Now().Before(c.renew):
			c.extend(ctx, time.Now().Before(c.rebind))
		default:
			c.pause(ctx, min(time.Until(c.renew), time.Second))
		}
	}
}

func (c *simClient) within(least, most time.Duration) time.Duration {
	return least + time.Duration(c.rng.Int64N(int64(most-least)))
}

func (c *simClient) pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(max(d, time.Millisecond))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			return
		case <-c.heard: // not asked for
		}
	}
}

// acquire goes through DISCOVER and REQUEST.
func (c *simClient) acquire(ctx context.Context) bool {
	xid := c.xid()
	offer := c.ask(ctx, xid, netip.Addr{}, dhcpv4.MessageTypeDiscover)
	if offer == nil || offer.MessageType() != dhcpv4.MessageTypeOffer {
		return false
	}
	c.pause(ctx, c.within(time.Millisecond, 400*time.Millisecond)) // it looks at other offers
	asked := time.Now()
	ack := c.ask(ctx, xid, netip.Addr{}, dhcpv4.MessageTypeRequest,
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(offer.ServerIdentifier())), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(offer.YourIPAddr)))
	return c.take(ack, asked)
}

// extend renews with the server that gave the lease, or with any that answers.
func (c *simClient) extend(ctx context.Context, renewing bool) {
	to := netip.Addr{}
	if renewing {
		to = c.server
	}
	asked := time.Now()
	answer := c.ask(ctx, c.xid(), to, dhcpv4.MessageTypeRequest, dhcpv4.WithClientIP(c.addr.AsSlice()))
	if answer != nil && answer.MessageType() == dhcpv4.MessageTypeNak {
		c.lose(asked)
		return
	}
	if !c.take(answer, asked) {
		c.pause(ctx, c.within(300*time.Millisecond, time.Second))
	}
}

func (c *simClient) giveBack() {
	c.oracle.released(c.addr)
	p := c.packet(c.xid(), dhcpv4.MessageTypeRelease, dhcpv4.WithClientIP(c.addr.AsSlice()),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(c.server.AsSlice())))
	c.send(p.ToBytes(), c.server)
	c.lose(time.Now())
}

// lose ends a lease: it was given back, refused, or its time is over.
func (c *simClient) lose(at time.Time) {
	if c.addr.IsValid() {
		c.oracle.history.ended(c.mac, c.addr, at)
	}
	c.addr = netip.Addr{}
}

// take makes an ACK the client's own. The lease counts from when it asked (RFC 2131, 4.4.1).
func (c *simClient) take(ack *dhcpv4.DHCPv4, asked time.Time) bool {
	if ack == nil || ack.MessageType() != dhcpv4.MessageTypeAck {
		return false
	}
	addr, _ := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if addr != c.addr {
		c.lose(asked)
	}
	c.addr = addr
	c.oracle.history.leased(c.mac, addr, asked, time.Now(), asked.Add(ack.IPAddressLeaseTime(0)))
	c.server, _ = netip.AddrFromSlice(ack.ServerIdentifier().To4())
	lease := ack.IPAddressLeaseTime(0)
	c.until, c.renew, c.rebind = asked.Add(lease), asked.Add(lease/2), asked.Add(lease*7/8)
	c.oracle.bound(c.mac, c.addr, c.until, c.server.String())
	return true
}

func (c *simClient) xid() (x dhcpv4.TransactionID) {
	for i := range x {
		x[i] = byte(c.rng.Uint32())
	}
	return x
}

func (c *simClient) packet(xid dhcpv4.TransactionID, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	p, err := dhcpv4.New(append([]dhcpv4.Modifier{
		dhcpv4.WithHwAddr(c.mac.Hardware()), dhcpv4.WithTransactionID(xid), dhcpv4.WithMessageType(kind), dhcpv4.WithBroadcast(true),
	}, more...)...)
	if err != nil {
		panic(err) // it only draws a transaction id
	}
	return p
}

// ask sends a packet up to three times and returns the first answer to it.
func (c *simClient) ask(ctx context.Context, xid dhcpv4.TransactionID, to netip.Addr, kind dhcpv4.MessageType, more ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	raw := c.packet(xid, kind, more...).ToBytes()
	for range 3 {
		c.send(raw, to)
		timer := time.NewTimer(askAgain)
		for waiting := true; waiting; {
			select {
			case <-ctx.Done():
				timer.Stop()
				return nil
			case <-timer.C:
				waiting = false
			case b := <-c.heard:
				p, err := dhcpv4.FromBytes(b)
				if err == nil && p.TransactionID == xid && p.OpCode == dhcpv4.OpcodeBootReply && (kind == dhcpv4.MessageTypeDiscover) == (p.MessageType() == dhcpv4.MessageTypeOffer) {
					timer.Stop()
					return p
				}
			}
		}
	}
	return nil
}
