package main

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// contender is a DHCP service on a network of its own, and a client on it. All have the same drawing: a bridge, the servers'
// hosts, and one host where the clients run.
type contender struct {
	name    string
	network *lab.Network
	client  *lab.Host
	dir     string
	say     func(format string, args ...any)
}

// Clients of every contender: perfdhcp's own address, from which it asks as a relay does, and how many machines it plays. The
// pool of a segment, 241 addresses, has room for them.
const (
	loadAddress  = "192.168.42.6/24"
	loadMachines = 200
	loadTime     = 4 * time.Second
)

// meeting draws a contender's client.
func meeting(ctx context.Context, w *story.World, name string, n *lab.Network) (*contender, error) {
	h, err := w.Lab.Host("load-"+n.String(), n)
	if err != nil {
		return nil, err
	}
	_, err = h.Run(ctx, "ip", "addr", "add", loadAddress, "dev", n.String())
	return &contender{name: name, network: n, client: h, dir: w.Lab.Dir(), say: w.Say}, err
}

// load is what perfdhcp says about one run.
type load struct {
	asked, sent, done int     // exchanges per second that were asked for; exchanges
	rate              float64 // exchanges per second
}

// lossless tells whether nearly all was answered, and perfdhcp could send as fast as it was told to.
func (l load) lossless() bool {
	return l.sent > 0 && float64(l.done) >= 0.99*float64(l.sent) && l.rate >= 0.95*float64(l.asked)
}

var (
	loadSent     = regexp.MustCompile(`sent packets: (\d+)`)
	loadReceived = regexp.MustCompile(`received packets: (\d+)`)
)

// run has perfdhcp ask at a rate, by broadcast, as machines do.
func (c *contender) run(ctx context.Context, rate int, length time.Duration) (load, error) {
	unix.Sync() // who syncs should not wait for what others have left to be written
	bounded, cancel := context.WithTimeout(ctx, length+30*time.Second)
	defer cancel()
	// -W: what is under way at the end is waited for, 0.5 s.
	args := []string{"-4", "-l", c.network.String(), "-R", fmt.Sprint(loadMachines), "-r", fmt.Sprint(rate), "-p", fmt.Sprint(int(length.Seconds())), "-W", "500000"}
	out, err := c.client.Command(bounded, "perfdhcp", args...).CombinedOutput()
	sent, received := loadSent.FindAllSubmatch(out, -1), loadReceived.FindAllSubmatch(out, -1)
	if len(sent) != 2 || len(received) != 2 { // its exit code tells of lost packets, too
		return load{}, fmt.Errorf("perfdhcp on %s: %w: %s", c.name, err, out)
	}
	l := load{asked: rate}
	l.sent, _ = strconv.Atoi(string(sent[0][1])) // digits, says the pattern
	l.done, _ = strconv.Atoi(string(received[1][1]))
	l.rate = float64(l.done) / length.Seconds()
	return l, nil
}

// most finds the highest rate of 4-way exchanges without loss.
func (c *contender) most(ctx context.Context) (float64, error) {
	if _, err := c.run(ctx, 50, 5*time.Second); err != nil { // every machine has had a lease from now on
		return 0, err
	}
	good, bad, best := 0, 0, 0.0
	try := func(rate int) error {
		l, err := c.run(ctx, rate, loadTime)
		if err == nil && !l.lossless() { // another program may have been in the way
			l, err = c.run(ctx, rate, loadTime)
		}
		if err != nil {
			return err
		}
		c.say("%s at %d/s: %.0f/s, %d of %d answered", c.name, rate, l.rate, l.done, l.sent)
		if l.lossless() {
			good, best = rate, max(best, l.rate)
		} else {
			bad = rate
		}
		return nil
	}
	for rate := 50; bad == 0 && rate < 100_000; rate = rate * 2 {
		if err := try(rate); err != nil {
			return 0, err
		}
	}
	for range 3 {
		if err := try((good + bad) / 2); err != nil {
			return 0, err
		}
	}
	return best, nil
}

// delay is the time from DISCOVER to ACK at a rate, of which 99 of 100 exchanges need at most so much, by a capture.
func (c *contender) delay(ctx context.Context, rate int) (p99 time.Duration, lost int, err error) {
	path := filepath.Join(c.dir, "delay-"+c.network.String()+".pcap")
	capture, err := c.network.Capture(path)
	if err != nil {
		return 0, 0, err
	}
	if _, err := c.run(ctx, rate, 2*loadTime); err != nil {
		return 0, 0, err
	}
	if err := capture.Close(); err != nil {
		return 0, 0, err
	}
	messages, err := lab.ReadDHCP(path)
	if err != nil {
		return 0, 0, err
	}
	took, lost := exchanges(messages)
	if len(took) == 0 {
		return 0, lost, fmt.Errorf("%s: no exchange at all in %s", c.name, path)
	}
	slices.Sort(took)
	return took[len(took)*99/100], lost, os.Remove(path)
}

// exchanges pairs the messages of a capture, and returns how long each exchange took and how many had no end. perfdhcp's
// REQUEST has a transaction of its own, so it is paired with the OFFER that it takes up.
func exchanges(messages []lab.DHCPMessage) (took []time.Duration, lost int) {
	type offered struct {
		mac  string
		addr netip.Addr
	}
	began := map[dhcpv4.TransactionID]time.Time{}
	offers := map[offered][]time.Time{}
	chosen := map[dhcpv4.TransactionID]time.Time{}
	all := 0
	for _, m := range messages {
		switch m.Type {
		case dhcpv4.MessageTypeDiscover:
			if _, again := began[m.XID]; !again {
				began[m.XID] = m.Time
				all++
			}
		case dhcpv4.MessageTypeOffer:
			if at, ok := began[m.XID]; ok && !at.IsZero() {
				began[m.XID] = time.Time{}
				key := offered{m.MAC.String(), m.Your}
				offers[key] = append(offers[key], at)
			}
		case dhcpv4.MessageTypeRequest:
			addr, _ := netip.AddrFromSlice(m.Packet.RequestedIPAddress())
			key := offered{m.MAC.String(), addr.Unmap()}
			if queue := offers[key]; len(queue) > 0 {
				chosen[m.XID], offers[key] = queue[0], queue[1:]
			}
		case dhcpv4.MessageTypeAck:
			if at, ok := chosen[m.XID]; ok {
				delete(chosen, m.XID)
				took = append(took, m.Time.Sub(at))
			}
		}
	}
	return took, all - len(took)
}

// machineOf is the n-th of the machines that our own clients play.
func machineOf(n int) net.HardwareAddr {
	return net.HardwareAddr{0x02, 0xbe, 0, 0, byte(n >> 8), byte(n)}
}
