package dhcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"offshoot/swarm"
)

// stock is a few addresses of the pools that were free and unused on the wire a short while ago, so that a DISCOVER need not
// wait for a probe. It is filled in the background, by as much as is asked for: whoever finds it empty waits for the probes
// that are under way. It promises nothing to anyone, and writes nothing down: an address that somebody uses unasked is left
// alone for usedTime, so that this very machine may still be given it. Safe for concurrent use.
type stock struct {
	cfg   *Config
	now   func() time.Time
	may   func() bool                                                          // probing is allowed now
	useOf func(now time.Time, mac swarm.MAC, addr netip.Addr) use              // by the ledger and by offers
	probe func(ctx context.Context, addr netip.Addr) (net.HardwareAddr, error) // nil: nobody uses it
	inUse func(addr netip.Addr, by net.HardwareAddr)                           // somebody should know
	wake  chan struct{}

	// Of run alone:
	next int // place in the pools where the next walk begins

	mu      sync.Mutex
	ready   []stocked                // the oldest first
	probing map[netip.Addr]bool      // under way
	onShelf map[netip.Addr]bool      // in ready or in probing
	loose   []netip.Addr             // may be free, to be looked at before walking
	old     []netip.Addr             // other machines', whose time is over: for when nothing is free
	waiting []*waiter                // the longest waiting first
	target  int                      // how many ready addresses are wanted
	least   int                      // fewest that were ready since the last tick
	dry     time.Time                // until then it is known that the pools have no more
	used    map[netip.Addr]time.Time // found in use by others, and when
	row     int                      // addresses in a row that were in use
	pause   time.Time                // until then no probes, because of trouble
	trouble error
}

type stocked struct {
	addr netip.Addr
	at   time.Time // of the probe
}

type waiter struct {
	mac  swarm.MAC
	addr chan netip.Addr // gets one address, or is closed because of fail
	fail error
}

const (
	// leastStock is held while nobody asks: a rack that is powered on begins with it.
	leastStock = 8
	// mostStock bounds the ARP traffic that a flood of DISCOVERs can cause: so many probes in probeTime.
	mostStock = 4096
	// freshTime is how long a probe counts.
	freshTime = time.Minute
	// usedTime is how long nobody is offered an address that was in use.
	usedTime = 10 * time.Minute
	// stockTick is the time between two looks at an idle stock.
	stockTick = 10 * time.Second
	// dryTime is the least time between two fruitless walks over the pools.
	dryTime = time.Second
	// maxProbes in a row that find an address in use are a reason to think before going on: a router that answers for every
	// address would have us quarantine them all.
	maxProbes = 8
)

var (
	errExhausted = errors.New("no address is left in the pools")
	errAllUsed   = fmt.Errorf("more than %d addresses in a row are used by others", maxProbes)
	errNoDuty    = errors.New("duty on the segment was lost")
)

func newStock(cfg *Config) *stock {
	return &stock{
		cfg: cfg, wake: make(chan struct{}, 1), target: leastStock,
		used: make(map[netip.Addr]time.Time), probing: make(map[netip.Addr]bool), onShelf: make(map[netip.Addr]bool),
	}
}

// take hands out an address that accept takes, the freshest first. It waits for probes if none is ready.
func (s *stock) take(ctx context.Context, mac swarm.MAC, accept func(netip.Addr) bool) (netip.Addr, error) {
	for {
		addr, w, err := s.pop(mac, accept)
		if w == nil {
			return addr, err
		}
		select {
		case addr, ok := <-w.addr:
			if ok && accept(addr) {
				return addr, nil
			}
			if !ok {
				return netip.Addr{}, w.fail
			}
		case <-ctx.Done():
			return netip.Addr{}, ctx.Err()
		}
	}
}

// pop takes what is ready, else says why there is none, else joins those that wait.
func (s *stock) pop(mac swarm.MAC, accept func(netip.Addr) bool) (netip.Addr, *waiter, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	s.dropStale(now, freshTime)
	for n := len(s.ready); n > 0; n = len(s.ready) {
		addr := s.ready[n-1].addr
		s.ready = s.ready[:n-1]
		delete(s.onShelf, addr)
		if accept(addr) {
			s.least = min(s.least, len(s.ready))
			if len(s.ready)+len(s.probing) < s.target {
				s.kick()
			}
			return addr, nil, nil
		}
	}
	s.least = 0
	if err := s.hopeless(now); err != nil {
		return netip.Addr{}, nil, err
	}
	w := &waiter{mac: mac, addr: make(chan netip.Addr, 1)}
	s.waiting = append(s.waiting, w)
	s.target = min(max(2*s.target, 2*len(s.waiting)), mostStock)
	s.kick()
	return netip.Addr{}, w, nil
}

// hopeless tells why it makes no sense to wait.
func (s *stock) hopeless(now time.Time) error {
	switch {
	case len(s.probing) > 0:
		return nil
	case now.Before(s.pause):
		return s.trouble
	case now.Before(s.dry) && len(s.loose)+len(s.old) == 0:
		return errExhausted
	}
	return nil
}

// dropStale forgets what was probed so long ago; it may be probed again.
func (s *stock) dropStale(now time.Time, age time.Duration) {
	old := 0
	for old < len(s.ready) && now.Sub(s.ready[old].at) >= age {
		delete(s.onShelf, s.ready[old].addr)
		if len(s.loose) < s.target {
			s.loose = append(s.loose, s.ready[old].addr)
		}
		old++
	}
	s.ready = append(s.ready[:0], s.ready[old:]...)
}

// claim takes one certain address out; probed tells whether it was there, and fresh.
func (s *stock) claim(addr netip.Addr) (probed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for i, r := range s.ready {
		if r.addr == addr {
			s.ready = append(s.ready[:i], s.ready[i+1:]...)
			delete(s.onShelf, addr)
			return s.now().Sub(r.at) < freshTime
		}
	}
	return false
}

// giveBack says that an address may be free again. More than a stockful is left to the next walk.
func (s *stock) giveBack(addrs ...netip.Addr) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range addrs {
		if len(s.loose) < mostStock && s.cfg.inPool(a) {
			s.loose = append(s.loose, a)
		}
	}
}

func (s *stock) kick() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// run fills the stock until ctx ends, and returns when no probe is under way.
func (s *stock) run(ctx context.Context) {
	var probes sync.WaitGroup
	defer probes.Wait()
	tick := time.NewTicker(stockTick)
	defer tick.Stop()
	for {
		for _, addr := range s.pick() {
			probes.Go(func() { s.examine(ctx, addr) })
		}
		select {
		case <-ctx.Done():
			return
		case <-s.wake:
		case <-tick.C:
			s.settle()
		}
	}
}

// settle has what will soon be stale probed again, and wants less when less was asked for.
func (s *stock) settle() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.least > s.target/2 {
		s.target = max(s.target/2, leastStock)
	}
	now := s.now()
	s.dropStale(now, freshTime-stockTick)
	maps.DeleteFunc(s.used, func(_ netip.Addr, at time.Time) bool { return now.Sub(at) >= usedTime })
	s.least = len(s.ready)
}

// pick chooses what is to be probed, and tells those who wait in vain.
func (s *stock) pick() []netip.Addr {
	now, may := s.now(), s.may()
	s.mu.Lock()
	if !may {
		s.fail(errNoDuty)
	}
	want := min(s.target-len(s.ready)+len(s.waiting), mostStock) - len(s.probing)
	if !may || now.Before(s.pause) {
		want = 0
	}
	walk := !now.Before(s.dry)
	var loose []netip.Addr
	if want > 0 {
		loose, s.loose = s.loose, nil
	}
	s.mu.Unlock()

	// Without the lock: it is needed for every packet, and a walk over a large pool takes its time.
	var out, over []netip.Addr
	for i, a := range loose {
		if len(out) == want {
			s.giveBack(loose[i:]...)
			break
		}
		switch s.useOf(now, "", a) {
		case free:
			if s.shelve(a) {
				out = append(out, a)
			}
		case expired:
			over = append(over, a)
		}
	}
	short := want - len(out)
	walk = walk && short > 0
	if walk {
		var found []netip.Addr
		found, over = s.walk(now, short)
		out = append(out, found...)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case walk && len(out) < want: // it went all around
		s.dry, s.old = s.now().Add(dryTime), over
	case !walk && len(s.old) < mostStock:
		s.old = append(s.old, over...)
	}
	if len(s.ready)+len(s.probing) == 0 {
		out = s.reuse(now, want)
	}
	s.despair()
	return out
}

// reuse takes addresses whose time is over: there are no others.
func (s *stock) reuse(now time.Time, want int) (out []netip.Addr) {
	for len(s.old) > 0 && len(out) < want {
		addr := s.old[0]
		s.old = s.old[1:]
		if !s.seen(addr) && s.useOf(now, "", addr) != taken {
			s.onShelf[addr], s.probing[addr] = true, true
			out = append(out, addr)
		}
	}
	return out
}

// despair tells those who wait if they do so in vain.
func (s *stock) despair() {
	if err := s.hopeless(s.now()); err != nil {
		s.fail(err)
	} else if len(s.waiting) > len(s.probing) {
		s.kick()
	}
}

// walk goes around the pools until it has found so many free addresses, once at most. over are addresses on its way whose time
// is over, as many as may ever be wanted.
func (s *stock) walk(now time.Time, want int) (out, over []netip.Addr) {
	size := s.cfg.poolSize()
	for range size {
		addr := s.cfg.nth(s.next)
		s.next = (s.next + 1) % size
		if !s.cfg.usable(addr) {
			continue
		}
		switch s.useOf(now, "", addr) {
		case free:
			if s.shelve(addr) {
				out = append(out, addr)
			}
		case expired:
			if len(over) < mostStock {
				over = append(over, addr)
			}
		}
		if len(out) == want {
			break
		}
	}
	return out, over
}

// seen tells whether there is no reason to probe an address now.
func (s *stock) seen(addr netip.Addr) bool {
	_, used := s.used[addr]
	return used || s.onShelf[addr]
}

// shelve notes that an address is being probed. False: there is no reason to.
func (s *stock) shelve(addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.seen(addr) {
		return false
	}
	s.onShelf[addr], s.probing[addr] = true, true
	return true
}

// examine probes one address, and gives it to whoever waits, or puts it up.
func (s *stock) examine(ctx context.Context, addr netip.Addr) {
	user, err := s.probe(ctx, addr)
	switch {
	case err != nil:
		err = fmt.Errorf("probe %s: %w", addr, err)
	case s.put(addr, user):
		return
	case s.strike(addr):
		s.inUse(addr, user)
	default:
		err = errAllUsed
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.probing, addr)
	delete(s.onShelf, addr)
	if err != nil {
		s.row, s.target, s.trouble, s.pause = 0, leastStock, err, s.now().Add(dryTime)
	}
	s.despair()
}

// strike counts an address in use. False: there were too many in a row to believe that they are.
func (s *stock) strike(addr netip.Addr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	if s.row++; s.row > maxProbes || now.Before(s.pause) {
		return false
	}
	s.used[addr] = now
	return true
}

// put gives an address to the machine that uses it, if that waits, or, if nobody uses it, to the one that waits the longest,
// or keeps it ready. False: it is used by somebody else.
func (s *stock) put(addr netip.Addr, user net.HardwareAddr) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := 0
	if user != nil {
		mac := swarm.MACOf(user)
		if i = slices.IndexFunc(s.waiting, func(w *waiter) bool { return w.mac == mac }); i < 0 {
			return false
		}
	}
	s.row = 0
	delete(s.probing, addr)
	if len(s.waiting) == 0 {
		s.ready = append(s.ready, stocked{addr, s.now()})
		return true
	}
	delete(s.onShelf, addr)
	s.waiting[i].addr <- addr
	s.waiting = slices.Delete(s.waiting, i, i+1)
	s.despair()
	return true
}

// fail tells all who wait that they do so in vain.
func (s *stock) fail(err error) {
	for _, w := range s.waiting {
		w.fail = err
		close(w.addr)
	}
	s.waiting = nil
}
