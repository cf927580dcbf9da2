package identity

import (
	"container/list"
	"net"
	"net/netip"
	"sync"
	"time"
)

// The limits of the peer port. They keep three things from strangers: the processor (handshakes per second), memory and
// descriptors (connections that stand), and the signer behind the join door. Members are told from strangers by where
// they came from before, and do not share a limit with them.
const (
	// maxStrangers bounds handshakes under way from addresses that never proved to be anyone. Nobody waits when all
	// places are taken: the oldest is hung up on, so that thousands who only hold their place cannot keep others out.
	maxStrangers = 192
	// maxKnown is the same for addresses of members and operators.
	maxKnown = 192
	// A node that reconnects everything at once needs a dozen.
	maxPerStranger, maxPerKnown = 24, 64
	// maxJoining bounds the connections that stand at the join door after their handshake.
	maxJoining, maxPerJoiner = 512, 8
	// maxSources bounds each table of addresses; a full one has about 4 MB.
	maxSources = 16384
)

// The rates. All strangers together may begin newcomers.perSecond handshakes, which with maxStrangers gives each at least
// 375 ms before it can be displaced; 128 joins a second with 512 places give a joiner 4 s. The rates of one address are so
// low that thousands of them, once each has used up its burst, leave most of newcomers to others.
var (
	newcomers     = rate{perSecond: 512, burst: 1024}
	failures      = rate{perSecond: 0.1, burst: 16}  // per address
	knownFailures = rate{perSecond: 5, burst: 64}    // a busy member gives up handshakes as well
	joins         = rate{perSecond: 0.05, burst: 16} // per address
	allJoins      = rate{perSecond: 128, burst: 512}
)

// door decides who may come in; it does no I/O. It is safe for concurrent use.
type door struct {
	now func() time.Time

	mu        sync.Mutex
	strangers pool
	known     pool
	joining   pool
	newcomers bucket
	joins     bucket
	sources   *recent[*source]
	friends   *recent[struct{}]
}

// source is what an address did lately.
type source struct {
	failures bucket
	joins    bucket
	warned   time.Time
}

func newDoor(now func() time.Time) *door {
	return &door{
		now:       now,
		strangers: newPool(maxStrangers, maxPerStranger), known: newPool(maxKnown, maxPerKnown),
		joining: newPool(maxJoining, maxPerJoiner),
		sources: newRecent[*source](maxSources), friends: newRecent[struct{}](maxSources),
	}
}

// begin admits a handshake, or says why not. It calls hangUp if the place is needed for another; leave gives it back.
func (d *door) begin(from string, hangUp func()) (leave func(), refusal string) {
	d.mu.Lock()
	now := d.now()
	friend := d.friends.has(from)
	if s, ok := d.sources.get(from); ok {
		if s.failures.spent(failuresOf(friend), now) {
			d.mu.Unlock()
			return nil, "too many failed handshakes from this address"
		}
		if !friend && s.joins.spent(joins, now) { // most likely it wants to join once more
			d.mu.Unlock()
			return nil, "too many joins from this address"
		}
	}
	p := &d.known
	if !friend {
		p = &d.strangers
		if p.full(from) {
			d.mu.Unlock()
			return nil, "too many handshakes from this address"
		}
		if !d.newcomers.take(newcomers, now) {
			d.mu.Unlock()
			return nil, "too many handshakes from strangers"
		}
	}
	return d.enter(p, from, hangUp)
}

// enter is called with the lock and releases it.
func (d *door) enter(p *pool, from string, hangUp func()) (leave func(), refusal string) {
	if p.full(from) {
		d.mu.Unlock()
		return nil, "too many connections from this address"
	}
	place, displaced := p.enter(from, hangUp)
	d.mu.Unlock()
	if displaced != nil {
		displaced()
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		p.leave(place)
	}, ""
}

// join admits a connection that wants to redeem a ticket, as begin does for a handshake.
func (d *door) join(from string, hangUp func()) (leave func(), refusal string) {
	d.mu.Lock()
	now, s := d.now(), d.source(from)
	spent := s.joins.spent(joins, now)
	s.joins.add(joins, now) // also if it is refused for the sake of others: who floods shall be known by it
	if spent || !d.joins.take(allJoins, now) {
		d.mu.Unlock()
		return nil, "too many joins"
	}
	return d.enter(&d.joining, from, hangUp)
}

// failed notes a handshake that came to nothing. It returns whether to say so loudly: once a minute per address.
func (d *door) failed(from string, revoked bool) (loud bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if revoked {
		d.friends.remove(from)
	}
	now, s := d.now(), d.source(from)
	s.failures.add(failuresOf(d.friends.has(from)), now)
	if now.Sub(s.warned) < time.Minute {
		return false
	}
	s.warned = now
	return true
}

// knows says whether a handshake from this address is a member's or an operator's for the limits.
func (d *door) knows(from string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.friends.has(from)
}

// proved notes that a member or an operator called from, or was called at, this address, or that the swarm says so.
func (d *door) proved(from string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.friends.put(from, struct{}{})
}

func (d *door) source(from string) *source {
	s, ok := d.sources.get(from)
	if !ok {
		s = &source{}
		d.sources.put(from, s)
	}
	return s
}

func failuresOf(friend bool) rate {
	if friend {
		return knownFailures
	}
	return failures
}

// rate is how much may happen: burst at once, perSecond in the long run.
type rate struct{ perSecond, burst float64 }

// bucket counts what happened against a rate; the zero bucket has the whole burst.
type bucket struct {
	used float64
	at   time.Time
}

func (b *bucket) settle(r rate, now time.Time) {
	if passed := now.Sub(b.at).Seconds(); passed > 0 {
		b.used, b.at = max(0, b.used-passed*r.perSecond), now
	}
}

func (b *bucket) spent(r rate, now time.Time) bool {
	b.settle(r, now)
	return b.used+1 > r.burst
}

func (b *bucket) take(r rate, now time.Time) bool {
	if b.spent(r, now) {
		return false
	}
	b.used++
	return true
}

// add takes what is there to take: many failures at once cost no more than the burst.
func (b *bucket) add(r rate, now time.Time) {
	b.settle(r, now)
	b.used = min(b.used+1, r.burst)
}

// pool is a bounded number of places, each source having a few of them at most.
type pool struct {
	most, each int
	order      *list.List // of *place, the oldest first
	count      map[string]int
}

type place struct {
	from   string
	hangUp func()
	elem   *list.Element // nil once left
}

func newPool(most, each int) pool {
	return pool{most: most, each: each, order: list.New(), count: make(map[string]int)}
}

func (p *pool) full(from string) bool { return p.count[from] >= p.each }

func (p *pool) enter(from string, hangUp func()) (pl *place, displaced func()) {
	if p.order.Len() >= p.most {
		oldest := p.order.Front().Value.(*place)
		p.leave(oldest)
		displaced = oldest.hangUp
	}
	pl = &place{from: from, hangUp: hangUp}
	pl.elem = p.order.PushBack(pl)
	p.count[from]++
	return pl, displaced
}

func (p *pool) leave(pl *place) {
	if pl.elem == nil {
		return
	}
	p.order.Remove(pl.elem)
	pl.elem = nil
	if p.count[pl.from]--; p.count[pl.from] <= 0 {
		delete(p.count, pl.from)
	}
}

// recent is a table that forgets what was not asked for the longest.
type recent[V any] struct {
	most  int
	order *list.List // of entry[V], the freshest first
	at    map[string]*list.Element
}

type entry[V any] struct {
	key   string
	value V
}

func newRecent[V any](most int) *recent[V] {
	return &recent[V]{most: most, order: list.New(), at: make(map[string]*list.Element)}
}

func (r *recent[V]) get(key string) (v V, ok bool) {
	e, ok := r.at[key]
	if !ok {
		return v, false
	}
	r.order.MoveToFront(e)
	return e.Value.(entry[V]).value, true
}

func (r *recent[V]) has(key string) bool {
	_, ok := r.get(key)
	return ok
}

func (r *recent[V]) put(key string, v V) {
	r.remove(key)
	r.at[key] = r.order.PushFront(entry[V]{key, v})
	if r.order.Len() > r.most {
		r.remove(r.order.Back().Value.(entry[V]).key)
	}
}

func (r *recent[V]) remove(key string) {
	if e, ok := r.at[key]; ok {
		r.order.Remove(e)
		delete(r.at, key)
	}
}

// sourceOf is what limits count by: an IPv4 address, or the /64 that an IPv6 host can choose freely from. A transport
// that has no such addresses is counted by host name.
func sourceOf(addr net.Addr) string {
	ip := addressOf(addr)
	switch {
	case ip.Is6():
		prefix, _ := ip.Prefix(64) // fits IPv6
		return prefix.String()
	case ip.Is4():
		return ip.String()
	}
	if host, _, err := net.SplitHostPort(addr.String()); err == nil {
		return host
	}
	return addr.String()
}

// addressOf is the zero address if there is none.
func addressOf(addr net.Addr) netip.Addr {
	host, _, err := net.SplitHostPort(addr.String())
	if err != nil {
		return netip.Addr{}
	}
	ip, err := netip.ParseAddr(host)
	if err != nil {
		return netip.Addr{}
	}
	return ip.Unmap().WithZone("")
}
