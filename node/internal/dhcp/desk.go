package dhcp

import (
	"context"
	"net/netip"
	"sync"
	"time"

	"offshoot/swarm"
)

// desk remembers what is not worth a commit: offers, and how often a machine fetched its boot program. It is lost on a
// restart, and its size is bounded by the pool: each entry stands for an address of it. Safe for concurrent use.
type desk struct {
	mu      sync.Mutex
	offers  map[swarm.MAC]Offer
	addrs   map[netip.Addr]swarm.MAC // the same offers by address
	fetches map[swarm.MAC][]time.Time
	swept   time.Time
}

func newDesk() *desk {
	return &desk{
		offers:  make(map[swarm.MAC]Offer),
		addrs:   make(map[netip.Addr]swarm.MAC),
		fetches: make(map[swarm.MAC][]time.Time),
	}
}

// offer is the pending offer of mac. One without a nonce is a mere reservation, which is nobody's business but reserve's.
func (d *desk) offer(now time.Time, mac swarm.MAC) *Offer {
	d.mu.Lock()
	defer d.mu.Unlock()
	o, ok := d.offers[mac]
	if !ok || o.Nonce == "" || !now.Before(o.Until) {
		return nil
	}
	return &o
}

// offeredToOther tells whether a machine other than mac has been promised addr.
func (d *desk) offeredToOther(now time.Time, addr netip.Addr, mac swarm.MAC) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.otherHas(now, addr, mac)
}

func (d *desk) otherHas(now time.Time, addr netip.Addr, mac swarm.MAC) bool {
	other, ok := d.addrs[addr]
	return ok && other != mac && now.Before(d.offers[other].Until)
}

// reserve keeps an address for mac while it is probed, so that two machines that ask at once get two addresses.
func (d *desk) reserve(now time.Time, mac swarm.MAC, wanted netip.Addr, cfg Config, useOf func(netip.Addr) use) (netip.Addr, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.sweep(now)
	addr, ok := choose(mac, wanted, cfg, func(a netip.Addr) use {
		if d.otherHas(now, a, mac) {
			return taken
		}
		return useOf(a)
	})
	if ok {
		d.set(mac, Offer{Addr: addr, Until: now.Add(offerTime)})
	}
	return addr, ok
}

func (d *desk) keep(mac swarm.MAC, o Offer) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.set(mac, o)
}

func (d *desk) set(mac swarm.MAC, o Offer) {
	d.remove(mac)
	d.offers[mac], d.addrs[o.Addr] = o, mac
}

func (d *desk) drop(mac swarm.MAC) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.remove(mac)
}

func (d *desk) remove(mac swarm.MAC) {
	if old, ok := d.offers[mac]; ok {
		delete(d.offers, mac)
		if d.addrs[old.Addr] == mac {
			delete(d.addrs, old.Addr)
		}
	}
}

// fetchWindow is the time in which chainLoop boot programs are a loop.
const fetchWindow = time.Minute

// fetched notes that mac was sent to fetch its boot program.
func (d *desk) fetched(now time.Time, mac swarm.MAC) {
	d.mu.Lock()
	defer d.mu.Unlock()
	recent := d.recent(now, mac)
	if len(recent) >= chainLoop {
		recent = recent[1:]
	}
	d.fetches[mac] = append(recent, now)
}

// reachedIPXE notes that the boot program of mac works.
func (d *desk) reachedIPXE(mac swarm.MAC) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.fetches, mac)
}

func (d *desk) fetchesOf(now time.Time, mac swarm.MAC) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.recent(now, mac))
}

func (d *desk) recent(now time.Time, mac swarm.MAC) []time.Time {
	var out []time.Time
	for _, t := range d.fetches[mac] {
		if now.Sub(t) < fetchWindow {
			out = append(out, t)
		}
	}
	return out
}

// sweepEvery bounds how much old entries cost: nothing is wrong with them, they are ignored.
const sweepEvery = 10 * time.Second

func (d *desk) sweep(now time.Time) {
	if now.Sub(d.swept) < sweepEvery {
		return
	}
	d.swept = now
	for mac, o := range d.offers {
		if !now.Before(o.Until) {
			d.remove(mac)
		}
	}
	for mac := range d.fetches {
		if len(d.recent(now, mac)) == 0 {
			delete(d.fetches, mac)
		}
	}
}

// turns lets one packet of a machine be handled at a time, in order to give one exchange one nonce.
type turns struct {
	mu   sync.Mutex
	open map[swarm.MAC]*turn
}

type turn struct {
	token chan struct{}
	users int
}

// maxWaiting is how many packets of one machine may wait for the one being handled. A client repeats itself every few
// seconds; more than that are noise, and must not use up the room of other machines.
const maxWaiting = 4

// take waits for the turn of mac. False: too many wait already, or ctx ended.
func (t *turns) take(ctx context.Context, mac swarm.MAC) (done func(), ok bool) {
	t.mu.Lock()
	if t.open == nil {
		t.open = make(map[swarm.MAC]*turn)
	}
	mine := t.open[mac]
	if mine == nil {
		mine = &turn{token: make(chan struct{}, 1)}
		t.open[mac] = mine
	}
	if mine.users > maxWaiting {
		t.mu.Unlock()
		return nil, false
	}
	mine.users++
	t.mu.Unlock()
	leave := func() {
		t.mu.Lock()
		defer t.mu.Unlock()
		if mine.users--; mine.users == 0 {
			delete(t.open, mac)
		}
	}
	select {
	case mine.token <- struct{}{}:
		return func() { <-mine.token; leave() }, true
	case <-ctx.Done():
		leave()
		return nil, false
	}
}
