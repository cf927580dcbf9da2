package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
)

// proxyMachines ask the proxy, each with a MAC of its own, within proxyOver; or all at once.
const (
	proxyMachines = 1000
	proxyOver     = time.Second
)

// proxy measures how soon the seed as a proxy says what to boot, by a capture of the bridge. Beside it there is the server that
// gives the addresses.
func (b *boots) proxy(ctx context.Context) error {
	if err := b.world.SettleSeed(ctx); err != nil {
		return err
	}
	if _, _, err := b.world.Seeded(ctx, b.small, "--mode", "proxy"); err != nil {
		return err
	}
	c, err := meeting(ctx, b.world, "proxy", b.world.Lan0)
	if err != nil {
		return err
	}
	for _, load := range []struct {
		what string
		over time.Duration
	}{{"spread over 1 s", proxyOver}, {"all at once", 0}} {
		var worst, half time.Duration
		var lost int
		var rounds []time.Duration
		for round := range b.rounds {
			took, unanswered, err := b.offers(ctx, c, round, load.over)
			if err != nil {
				return err
			}
			lost += unanswered
			rounds, half = append(rounds, took[len(took)*99/100]), took[len(took)/2]
		}
		slices.Sort(rounds)
		p99 := rounds[len(rounds)/2]
		worst = rounds[len(rounds)-1]
		b.tell(verdict{
			"proxy's OFFER after DISCOVER, p99 of 1,000 machines, " + load.what, fmt.Sprintf("%.1f ms (worst round %.1f, half %.1f; %d unanswered)", ms(p99), ms(worst), ms(half), lost),
			"-", "-", "< 20 ms", yes(p99 < 20*time.Millisecond && lost == 0),
		})
	}
	return nil
}

func ms(d time.Duration) float64 { return float64(d.Microseconds()) / 1e3 }

// offers has every machine send a DISCOVER, and returns how long the answers took, sorted.
func (b *boots) offers(ctx context.Context, c *contender, round int, over time.Duration) (took []time.Duration, lost int, err error) {
	path := filepath.Join(c.dir, fmt.Sprintf("proxy-%d-%d.pcap", over, round))
	capture, err := c.network.Capture(path)
	if err != nil {
		return nil, 0, err
	}
	defer func() { err = errors.Join(err, capture.Close()) }()
	if err := c.discover(ctx, round, over); err != nil {
		return nil, 0, err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	for {
		messages, err := lab.ReadDHCP(path)
		if err != nil {
			return nil, 0, err
		}
		if took, lost = answered(messages); lost == 0 && len(took) == proxyMachines || ctx.Err() != nil && len(took) > 0 {
			slices.Sort(took)
			return took, lost, nil
		}
		select {
		case <-ctx.Done():
			if len(took) == 0 {
				return nil, lost, errors.New("the proxy offers nothing")
			}
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// answered pairs each machine's first DISCOVER with its OFFER. The probes by which servers look for each other are no machines.
func answered(messages []lab.DHCPMessage) (took []time.Duration, lost int) {
	asked := map[dhcpv4.TransactionID]time.Time{}
	for _, m := range messages {
		at, known := asked[m.XID]
		switch {
		case m.Type == dhcpv4.MessageTypeDiscover && !known && bytes.HasPrefix(m.MAC, machineOf(0)[:4]):
			asked[m.XID] = m.Time
		case m.Type == dhcpv4.MessageTypeOffer && known:
			took = append(took, m.Time.Sub(at))
			delete(asked, m.XID)
		}
	}
	return took, len(asked)
}

// discover sends what the firmware of so many machines says first, evenly spread.
func (c *contender) discover(ctx context.Context, round int, over time.Duration) error {
	conn, err := c.port(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = conn.Close() }() // nothing is lost with it
	packets := make([][]byte, proxyMachines)
	for i := range packets {
		d, err := dhcpv4.NewDiscovery(machineOf(i), append([]dhcpv4.Modifier{dhcpv4.WithBroadcast(true),
			dhcpv4.WithTransactionID(dhcpv4.TransactionID{byte(round), byte(over >> 20), byte(i >> 8), byte(i)})}, firmwareDHCP.options...)...)
		if err != nil {
			return err
		}
		packets[i] = d.ToBytes()
	}
	began := time.Now()
	for i, p := range packets {
		if wait := time.Until(began.Add(over * time.Duration(i) / proxyMachines)); wait > 0 {
			select {
			case <-ctx.Done():
				return ctx.Err()
			case <-time.After(wait):
			}
		}
		if _, err := conn.WriteTo(p, &net.UDPAddr{IP: net.IPv4bcast, Port: 67}); err != nil {
			return err
		}
	}
	return nil
}
