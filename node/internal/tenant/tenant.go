// Package tenant keeps the address that the DHCP server of others gives to a port of this machine. It is asked for, renewed, and
// given up when its time is over or the server says so: that server may give it to somebody else then. The kernel is told
// how long it lasts, so that it goes also when this program does not run.
//
// It refuses to serve, to set routes or name servers, and to keep what it has not got. Only node imports it.
package tenant

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
)

// ErrLost: the address is no longer ours to use.
var ErrLost = errors.New("the DHCP server of others has not prolonged this machine's address")

// Tenancy is an address that was given to a port.
type Tenancy struct {
	Address netip.Prefix
	Server  netip.Addr

	port string
	set  func(netip.Prefix, time.Duration) error
	held *nclient4.Lease
	log  *slog.Logger
}

const (
	askTimeout = 3 * time.Second // of one packet
	askTries   = 4
	askPause   = 5 * time.Second // after nobody answered
	soonest    = 10 * time.Second
)

// Take asks until a server gives an address, or ctx ends; best the one that is wanted. set gives it to the port for a time.
func Take(ctx context.Context, port string, want netip.Addr, set func(netip.Prefix, time.Duration) error, log *slog.Logger) (*Tenancy, error) {
	t := &Tenancy{port: port, set: set, log: log}
	for said := false; ; said = true {
		err := t.ask(ctx, func(c *nclient4.Client) (*nclient4.Lease, error) {
			return c.Request(ctx, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(want.AsSlice())))
		})
		if err == nil {
			return t, nil
		}
		if !said && ctx.Err() == nil {
			log.Warn("no DHCP server gives this machine an address; it goes on asking", "port", port, "error", err)
		}
		if wait(ctx, askPause) != nil {
			return nil, fmt.Errorf("ask for an address on %s: %w", port, errors.Join(ctx.Err(), err))
		}
	}
}

// Run renews until ctx ends, or the address is lost.
func (t *Tenancy) Run(ctx context.Context) error {
	for {
		now := time.Now()
		next, over := renewal(now, t.held.CreationTime, t.held.ACK.IPAddressLeaseTime(time.Hour))
		if over {
			return fmt.Errorf("%w: %s of %s", ErrLost, t.Address, t.port)
		}
		if wait(ctx, next) != nil {
			return nil
		}
		before := t.Address
		err := t.ask(ctx, func(c *nclient4.Client) (*nclient4.Lease, error) { return c.Renew(ctx, t.held) })
		var no *nclient4.ErrNak
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.As(err, &no):
			_ = t.set(before, 0) // the kernel drops it within a second, if it can be told
			return fmt.Errorf("%w: %s of %s: %w", ErrLost, before, t.port, err)
		case err != nil:
			t.log.Warn("address is not renewed yet", "port", t.port, "address", t.Address, "error", err)
		case t.Address != before:
			return fmt.Errorf("%w: it gives %s in place of %s of %s", ErrLost, t.Address, before, t.port)
		}
	}
}

// renewal is when to ask for a lease again (RFC 2131, 4.4.5): at half of what is left, and not all the time.
func renewal(now, got time.Time, lease time.Duration) (next time.Duration, over bool) {
	left := got.Add(lease).Sub(now)
	if left <= 0 {
		return 0, true
	}
	return min(max(left/2, soonest), left), false
}

// ask opens the port for one exchange, and takes over what came of it.
func (t *Tenancy) ask(ctx context.Context, exchange func(*nclient4.Client) (*nclient4.Lease, error)) error {
	c, err := nclient4.New(t.port, nclient4.WithTimeout(askTimeout), nclient4.WithRetry(askTries))
	if err != nil {
		return fmt.Errorf("DHCP on %s: %w", t.port, err)
	}
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer func() {
		if stop() {
			_ = c.Close()
		}
	}()
	held, err := exchange(c)
	if err != nil {
		return fmt.Errorf("DHCP on %s: %w", t.port, err)
	}
	address, err := given(held.ACK)
	if err != nil {
		return fmt.Errorf("DHCP on %s: %w", t.port, err)
	}
	lease := held.ACK.IPAddressLeaseTime(time.Hour)
	if err := t.set(address, lease); err != nil {
		return err
	}
	t.held, t.Address = held, address
	t.Server, _ = netip.AddrFromSlice(held.ACK.ServerIdentifier().To4())
	t.log.Info("address from the DHCP server of others", "port", t.port, "address", address, "server", t.Server, "lease", lease)
	return nil
}

// given is the address of an ACK with the length of its network.
func given(ack *dhcpv4.DHCPv4) (netip.Prefix, error) {
	mask := ack.SubnetMask()
	if len(mask) == 0 {
		mask = ack.YourIPAddr.DefaultMask()
	}
	bits, size := mask.Size()
	addr, ok := netip.AddrFromSlice(ack.YourIPAddr.To4())
	if !ok || addr.IsUnspecified() || size != 32 || bits == 0 {
		return netip.Prefix{}, fmt.Errorf("the server gave %s with mask %s", ack.YourIPAddr, mask)
	}
	return netip.PrefixFrom(addr, bits), nil
}

func wait(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
