package dhcp

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// desk remembers what is not worth a commit: offers, and how often a machine fetched its boot program. It is lost on a
// restart, and its size is bounded by the pool: each entry stands for an address of it. Safe for concurrent use.
type desk struct {
	mu      sync.Mutex
	offers  map[swarm.MAC]Offer
	addrs   map[netip.Addr]swarm.MAC // the same offers by address
	fetches map[swarm.MAC][]fetch
}

// fetch is an exchange in which a machine was sent to fetch its boot program.
type fetch struct {
	at       time.Time
	exchange dhcpv4.TransactionID
}

func newDesk() *desk {
	return &desk{
		offers:  make(map[swarm.MAC]Offer),
		addrs:   make(map[netip.Addr]swarm.MAC),
		fetches: make(map[swarm.MAC][]fetch),
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

// promise keeps an address for mac until its packet is answered, so that two machines that ask at once get two addresses.
// False: another machine has been promised it.
func (d *desk) promise(now time.Time, mac swarm.MAC, addr netip.Addr) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.otherHas(now, addr, mac) {
		return false
	}
	d.set(mac, Offer{Addr: addr, Until: now.Add(offerTime)})
	return true
}

// Offers that nobody requests are taken back when no address is left: a machine that wants its offer asks within seconds,
// one that invents MAC addresses never does.
const (
	patience = 5 * time.Second // firmware collects offers for 4 s before it chooses one
	looks    = 256             // bounds the search
)

// takeBack gives mac the address of an old offer, of those that it looks at the oldest.
func (d *desk) takeBack(now time.Time, mac swarm.MAC) (netip.Addr, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var oldest swarm.MAC
	until := now.Add(offerTime - patience)
	seen := 0
	for other, o := range d.offers {
		if seen++; seen > looks {
			break
		}
		if other != mac && o.Until.Before(until) {
			oldest, until = other, o.Until
		}
	}
	if oldest == "" {
		return netip.Addr{}, false
	}
	addr, ok := d.remove(oldest)
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

// drop forgets the offer of mac, and returns its address if nobody has been promised that now.
func (d *desk) drop(mac swarm.MAC) (netip.Addr, bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.remove(mac)
}

func (d *desk) remove(mac swarm.MAC) (netip.Addr, bool) {
	old, ok := d.offers[mac]
	if !ok {
		return netip.Addr{}, false
	}
	delete(d.offers, mac)
	if d.addrs[old.Addr] != mac {
		return netip.Addr{}, false
	}
	delete(d.addrs, old.Addr)
	return old.Addr, true
}

// fetchWindow is how long a boot program that led to nothing is remembered: firmware with Secure Boot may try only once each
// time when somebody has walked up to the machine and switched it on again.
const fetchWindow = time.Hour

// repeatWindow is how long a client goes on with an exchange: EDK2 waits 4, 8, 16 and 32 s. Later the same number means another one: there
// are ROMs that make it of their MAC.
const repeatWindow = time.Minute

// maxFetchers bounds of how many machines that is: anybody can invent MAC addresses, and a proxy gives none of its own away.
const maxFetchers = 1 << 14

// fetched notes that mac was sent to fetch its boot program. An answer that is sent again, because the first one was lost, is none more.
func (d *desk) fetched(now time.Time, mac swarm.MAC, exchange dhcpv4.TransactionID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	recent := d.before(now, mac, exchange)
	if len(recent) >= boot.InVain {
		recent = recent[1:]
	}
	for other := range d.fetches {
		if len(d.fetches) < maxFetchers {
			break
		}
		delete(d.fetches, other) // whichever: it gets the usual program once more
	}
	d.fetches[mac] = append(recent, fetch{now, exchange})
}

// reachedIPXE notes that the boot program of mac works.
func (d *desk) reachedIPXE(mac swarm.MAC) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.fetches, mac)
}

// fetchesBefore is how often mac was sent for its boot program before this exchange, in vain.
func (d *desk) fetchesBefore(now time.Time, mac swarm.MAC, exchange dhcpv4.TransactionID) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return len(d.before(now, mac, exchange))
}

func (d *desk) before(now time.Time, mac swarm.MAC, exchange dhcpv4.TransactionID) []fetch {
	var out []fetch
	for _, f := range d.fetches[mac] {
		again := f.exchange == exchange && now.Sub(f.at) < repeatWindow
		if now.Sub(f.at) < fetchWindow && !again {
			out = append(out, f)
		}
	}
	return out
}

// sweep forgets what is over, and returns the addresses whose offers are. Nothing is wrong with old entries, they are ignored:
// it only bounds how many there are.
func (d *desk) sweep(now time.Time) (over []netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for mac, o := range d.offers {
		if now.Before(o.Until) {
			continue
		}
		if addr, ok := d.remove(mac); ok {
			over = append(over, addr)
		}
	}
	for mac, all := range d.fetches {
		if now.Sub(all[len(all)-1].at) >= fetchWindow {
			delete(d.fetches, mac)
		}
	}
	return over
}

// turns lets one packet of a machine be handled at a time, in order to give one exchange one nonce. Safe for concurrent use.
type turns struct {
	mu   sync.Mutex
	busy map[swarm.MAC][]chan struct{} // machines of which a packet is in work; those that wait, each for its channel to be closed
}

// maxWaiting is how many packets of one machine may wait for the one being handled. A client repeats itself every few
// seconds; more than that are noise, and must not use up the room of other machines.
const maxWaiting = 4

// take waits for the turn of mac, which done ends. False: too many wait already, or ctx ended.
func (t *turns) take(ctx context.Context, mac swarm.MAC) bool {
	t.mu.Lock()
	if t.busy == nil {
		t.busy = make(map[swarm.MAC][]chan struct{})
	}
	waiting, busy := t.busy[mac]
	if !busy {
		t.busy[mac] = nil
		t.mu.Unlock()
		return true
	}
	if len(waiting) >= maxWaiting {
		t.mu.Unlock()
		return false
	}
	mine := make(chan struct{})
	t.busy[mac] = append(waiting, mine)
	t.mu.Unlock()
	select {
	case <-mine:
		return true
	case <-ctx.Done():
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if i := slices.Index(t.busy[mac], mine); i >= 0 {
		t.busy[mac] = slices.Delete(t.busy[mac], i, i+1)
	} else {
		t.pass(mac) // it has come meanwhile
	}
	return false
}

// done ends a turn of mac.
func (t *turns) done(mac swarm.MAC) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pass(mac)
}

func (t *turns) pass(mac swarm.MAC) {
	waiting := t.busy[mac]
	if len(waiting) == 0 {
		delete(t.busy, mac)
		return
	}
	close(waiting[0])
	t.busy[mac] = waiting[1:]
}
