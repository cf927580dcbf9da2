// Package swarmtest is a small world for simulations: a network, disks and clocks in memory, whose faults are chosen by a
// seed. Whole nodes run on it in one process; inside a testing/synctest bubble a minute of their life costs a fraction of a
// second, because nothing here does real I/O and everything that waits, waits on channels and timers.
//
// It refuses to know what runs on it: it carries bytes, keeps what was synced, and breaks things when told. It does not
// stop goroutines either: a paused host goes on computing, but nothing goes in or out, and a crashed host's old life talks
// to nobody and writes on a disk that no longer exists.
//
// For tests only. It imports memberlist and raft, for the interfaces that it stands in for, and none of our packages.
package swarmtest

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"
)

// Errors of this world; match them with errors.Is. Refused and reset connections return syscall.ECONNREFUSED and
// syscall.ECONNRESET, deadlines os.ErrDeadlineExceeded, closed ones net.ErrClosed, as sockets do.
var (
	// ErrCrashed: the host's life in which this was opened is over.
	ErrCrashed = errors.New("simulated host has crashed")
	// ErrClosed: the whole network was closed.
	ErrClosed = errors.New("simulated network is closed")
)

// Weather is what the network does to what it carries.
type Weather struct {
	Delay     time.Duration // least time from host to host
	Jitter    time.Duration // at most this is added; datagrams overtake each other by it
	Loss      float64       // of datagrams and frames; streams lose nothing
	Duplicate float64       // of datagrams and frames
}

// Fair is a good day on a local network.
var Fair = Weather{Delay: 200 * time.Microsecond, Jitter: 300 * time.Microsecond}

// Network connects hosts. All its methods, and those of what it makes, may be called from any goroutine.
type Network struct {
	mu      sync.Mutex // guards everything below and inside of hosts, connections and segments; never held while waiting
	rng     *rand.Rand
	hosts   map[string]*Host
	order   []*Host
	byAddr  map[netip.Addr]*Host
	cuts    map[way]bool
	weather Weather
	changed chan struct{} // closed when a fault begins or ends
	closed  bool
	streams sync.WaitGroup // the goroutines of gossip transports
}

// way is one direction between two hosts.
type way struct{ from, to *Host }

// NewNetwork makes a network without hosts in fair weather. All its choices come from the seed.
func NewNetwork(seed uint64) *Network {
	return &Network{
		rng:     rand.New(rand.NewPCG(seed, 0x6f6666)),
		hosts:   map[string]*Host{},
		byAddr:  map[netip.Addr]*Host{},
		cuts:    map[way]bool{},
		weather: Fair,
		changed: make(chan struct{}),
	}
}

// Close ends everything: reads, dials, calls, transports and listeners return errors, and no goroutine is left.
func (n *Network) Close() {
	n.mu.Lock()
	if n.closed {
		n.mu.Unlock()
		return
	}
	n.closed = true
	for _, h := range n.order {
		h.endLife()
	}
	n.announce()
	n.mu.Unlock()
	n.streams.Wait()
}

// Host returns the host of that name, and makes it if it is new: running, with an empty disk, at an address of its own.
func (n *Network) Host(name string) *Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	if h, ok := n.hosts[name]; ok {
		return h
	}
	i := len(n.order) + 1
	h := &Host{
		net: n, name: name, addr: netip.AddrFrom4([4]byte{10, 99, byte(i >> 8), byte(i)}),
		clock: clock{rate: 1, since: time.Now(), wall: time.Now()},
	}
	h.disk = newDisk(h)
	h.life = newLife(h)
	n.hosts[name], n.byAddr[h.addr] = h, h
	n.order = append(n.order, h)
	return h
}

// Hosts are all hosts in the order in which they were made.
func (n *Network) Hosts() []*Host {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]*Host(nil), n.order...)
}

// SetWeather changes what happens to what is sent from now on.
func (n *Network) SetWeather(w Weather) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.weather = w
}

// Cut lets nothing through from any of one set to any of the other; the opposite direction stays. Streams stall,
// datagrams are lost, also those under way. A host is never cut off from itself.
func (n *Network) Cut(from, to []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, f := range from {
		for _, t := range to {
			if a, b := n.hosts[f], n.hosts[t]; a != nil && b != nil && a != b {
				n.cuts[way{a, b}] = true
			}
		}
	}
	n.announce()
}

// Partition cuts the hosts off from all others, in both directions.
func (n *Network) Partition(names ...string) {
	inside := map[string]bool{}
	for _, name := range names {
		inside[name] = true
	}
	var others []string
	for _, h := range n.Hosts() {
		if !inside[h.name] {
			others = append(others, h.name)
		}
	}
	n.Cut(names, others)
	n.Cut(others, names)
}

// Heal ends every cut. What stalled in streams goes on.
func (n *Network) Heal() {
	n.mu.Lock()
	defer n.mu.Unlock()
	clear(n.cuts)
	n.announce()
}

// announce wakes everyone who waits for the end of a fault. Called with mu held.
func (n *Network) announce() {
	close(n.changed)
	n.changed = make(chan struct{})
}

// blocked tells whether nothing gets from one host to the other now. Called with mu held.
func (n *Network) blocked(from, to *Host) bool { return len(n.cuts) > 0 && n.cuts[way{from, to}] }

// travel is how long the next thing takes between two hosts. Called with mu held.
func (n *Network) travel(from, to *Host) time.Duration {
	if from == to {
		return 0
	}
	d := n.weather.Delay
	if n.weather.Jitter > 0 {
		d += time.Duration(n.rng.Int64N(int64(n.weather.Jitter)))
	}
	return d
}

// copies is how many of a datagram arrive. Called with mu held.
func (n *Network) copies() int {
	w := n.weather
	switch {
	case w.Loss > 0 && n.rng.Float64() < w.Loss:
		return 0
	case w.Duplicate > 0 && n.rng.Float64() < w.Duplicate:
		return 2
	}
	return 1
}

// find returns the host and port of an address, whose host may be a name or an IP address. Called with mu held.
func (n *Network) find(address string) (*Host, uint16, error) {
	host, port, err := split(address)
	if err != nil {
		return nil, 0, err
	}
	if h, ok := n.hosts[host]; ok {
		return h, port, nil
	}
	if ip, err := netip.ParseAddr(host); err == nil {
		if h, ok := n.byAddr[ip.Unmap()]; ok {
			return h, port, nil
		}
	}
	return nil, 0, fmt.Errorf("no host %s in this network", host)
}

// pass waits for a time, unless over or ctx end before.
func pass(ctx context.Context, over <-chan struct{}, d time.Duration) error {
	if d <= 0 {
		return ctx.Err()
	}
	return wait(ctx, over, d)
}

// wait waits for a channel, for a time (none if zero) or for ctx.
func wait(ctx context.Context, ch <-chan struct{}, d time.Duration) error {
	var expired <-chan time.Time
	if d > 0 {
		timer := time.NewTimer(d)
		defer timer.Stop()
		expired = timer.C
	}
	select {
	case <-ch:
	case <-expired:
	case <-ctx.Done():
		return ctx.Err()
	}
	return nil
}
