package node

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	"offshoot/node/internal/dhcp"
	"offshoot/swarm"
)

// maxLease is the longest time that an address is given for: nobody uses an address longer than this after its binding
// was last written down, whatever the clocks on the wall say.
const maxLease = time.Hour

// ages knows how old bindings are by this node's own clock: the wall clock of whoever wrote them down, or our own, may have
// jumped. No binding is younger than the moment at which this node saw it being made, perhaps much later than the others: an
// address is given to another machine when that is long enough ago. And none is older than the moment at which this node asked
// for it itself: so long it may be renewed without the others. It is safe for concurrent use.
type ages struct {
	clock   func() time.Duration
	longest time.Duration // a lease

	mu    sync.Mutex
	since time.Duration                // nothing is older than what this node has seen itself
	bound map[netip.Addr]time.Duration // seen being made
	asked map[netip.Addr]time.Duration // asked for by this node itself, and made
}

func newAges(clock func() time.Duration, longest time.Duration) *ages {
	return &ages{clock: clock, longest: longest, since: clock(), bound: map[netip.Addr]time.Duration{}, asked: map[netip.Addr]time.Duration{}}
}

// note begins the watch over bindings that were just written down.
func (a *ages) note(leases []swarm.Lease) {
	a.mu.Lock()
	defer a.mu.Unlock()
	now := a.clock()
	for _, l := range leases {
		a.bound[l.Addr] = now
	}
}

// made notes that this node asked for a binding at this time, and that it was made.
func (a *ages) made(addr netip.Addr, asked time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked[addr] = asked
}

// restart forgets everything: the state was replaced.
func (a *ages) restart() {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.since = a.clock()
	clear(a.bound)
	clear(a.asked)
}

// over says whether a binding of this address can not be in use any more, also by a client whose clock is slower than ours.
func (a *ages) over(addr netip.Addr) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.clock()-max(a.since, a.bound[addr]) >= a.longest+a.longest/clockSkew
}

// clockSkew is the part of a time by which two clocks may be apart at its end: 5 % each way, as for duties.
const clockSkew = 10

// left is how long a binding of this address lasts at least; not positive if that is not known.
func (a *ages) left(addr netip.Addr) time.Duration {
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.asked[addr]
	if !ok {
		return 0
	}
	return at + a.longest - a.clock()
}

// leases is the DHCP server's ledger for one segment in one term.
type leases struct {
	*replica
	segment string
	term    uint64
	waiting chan pending
	pace    pace

	mu   sync.Mutex
	busy map[swarm.MAC]chan struct{} // machines about whom a decision is not written down yet; closed when it is
}

func newLeases(r *replica, segment string, term uint64) *leases {
	return &leases{replica: r, segment: segment, term: term, waiting: make(chan pending, 2*batchMost), busy: map[swarm.MAC]chan struct{}{}}
}

var _ dhcp.Ledger = (*leases)(nil)

// Binding is the last binding of a machine.
func (l *leases) Binding(mac swarm.MAC) (dhcp.Binding, bool) {
	lease, ok := l.state.View().LeaseOf(l.segment, mac)
	return dhcp.Binding{
		MAC: lease.MAC, Addr: lease.Addr, Nonce: lease.Nonce, Expires: lease.Expires, Class: lease.Class, Hostname: lease.Hostname,
		Left: l.ages.left(lease.Addr),
	}, ok
}

// Holder is who an address belongs to, and whether its time is over.
func (l *leases) Holder(addr netip.Addr) (mac swarm.MAC, over, ok bool) {
	lease, ok := l.state.View().Lease(l.segment, addr)
	return lease.MAC, ok && l.isOver(lease), ok
}

// isOver says whether nobody can be using an address by this binding any more. The wall clock is asked only about a
// quarantine, which is nobody's right. The binding must have been read before.
func (l *leases) isOver(lease swarm.Lease) bool {
	if lease.Class == swarm.LeaseQuarantined {
		return !lease.Live(l.now())
	}
	return !lease.Expires.IsZero() && l.ages.over(lease.Addr)
}

// Reserved is the address that an operator gave to a machine.
func (l *leases) Reserved(mac swarm.MAC) (netip.Addr, bool) {
	r, ok := l.state.View().ReservationOf(l.segment, mac)
	return r.Addr, ok
}

// ReservedFor is the machine that an operator gave an address to.
func (l *leases) ReservedFor(addr netip.Addr) (swarm.MAC, bool) {
	r, ok := l.state.View().ReservedFor(l.segment, addr)
	return r.MAC, ok
}

// commit writes bindings down, and returns for each whether it was refused.
func (l *leases) commit(ctx context.Context, all []swarm.Lease) ([]error, error) {
	bind := swarm.BindLeases{Segment: l.segment, Term: l.term, Leases: all}
	view := l.state.View()
	for _, lease := range all {
		if other, ok := view.Lease(l.segment, lease.Addr); ok && other.MAC != lease.MAC && l.isOver(other) {
			if bind.Over == nil {
				bind.Over = map[netip.Addr]time.Time{}
			}
			bind.Over[other.Addr] = other.Expires
		}
	}
	asked := l.ages.clock()
	result, err := l.propose(ctx, bind)
	if err != nil {
		return nil, err
	}
	var refusals map[int]string
	if err := result.Decode(&refusals); err != nil {
		return nil, err
	}
	out := make([]error, len(all))
	for i, lease := range all {
		if text, refused := refusals[i]; refused {
			out[i] = errors.New(text)
		} else {
			l.ages.made(lease.Addr, asked)
		}
	}
	return out, nil
}

// Release ends a binding.
func (l *leases) Release(ctx context.Context, mac swarm.MAC, addr netip.Addr) error {
	return l.submit(ctx, mac, pending{op: swarm.ReleaseLease{Segment: l.segment, Term: l.term, MAC: mac, Addr: addr}})
}

// quarantineTime is how long an address that a machine declined is not given out: RFC 2131 leaves it to the server.
const quarantineTime = 10 * time.Minute

// Quarantine keeps an address from everybody.
func (l *leases) Quarantine(ctx context.Context, addr netip.Addr) error {
	return l.decide(ctx, swarm.QuarantineAddress{Segment: l.segment, Term: l.term, Addr: addr, Until: l.now().Add(quarantineTime)})
}

// batchMost bounds the bindings of one command: about 60 KB, a quarter of what the ledger takes.
const batchMost = 256

// batchWriters is how many writes may be under way: while one syncs, the next gathers, and a lost one does not stop all.
const batchWriters = 2

// commitTime is how long whoever asked for a binding waits: then it asks again.
const commitTime = 5 * time.Second

// pending is a decision that waits to be written down: a binding, or something else about one machine.
type pending struct {
	lease swarm.Lease
	op    swarm.Op   // instead of lease
	done  chan error // one place: the writer never waits for who asked
	over  func()     // the decision is written down, or never will be
}

// Bind commits a binding, together with all others that ask while the ledger writes.
func (l *leases) Bind(ctx context.Context, b dhcp.Binding) error {
	return l.submit(ctx, b.MAC, pending{lease: swarm.Lease{
		Segment: l.segment, MAC: b.MAC, Addr: b.Addr, Class: b.Class, Nonce: b.Nonce, Hostname: b.Hostname, Expires: b.Expires,
	}})
}

// submit gives a decision to a writer. While nobody knows what became of the one before about the same machine, it waits: a
// decision that comes true late, behind a later one, would take back what was acknowledged.
func (l *leases) submit(ctx context.Context, mac swarm.MAC, p pending) error {
	over, err := l.turn(ctx, mac)
	if err != nil {
		return err
	}
	p.done, p.over = make(chan error, 1), over
	select {
	case l.waiting <- p:
	case <-ctx.Done():
		over()
		return fmt.Errorf("the ledger is busy: %w", ctx.Err())
	}
	select {
	case err := <-p.done:
		return err
	case <-ctx.Done():
		return fmt.Errorf("not committed in time: %w", ctx.Err())
	}
}

// turn waits until nothing about a machine is under way.
func (l *leases) turn(ctx context.Context, mac swarm.MAC) (over func(), err error) {
	for {
		l.mu.Lock()
		before, waits := l.busy[mac]
		if !waits {
			mine := make(chan struct{})
			l.busy[mac] = mine
			l.mu.Unlock()
			return func() {
				l.mu.Lock()
				defer l.mu.Unlock()
				delete(l.busy, mac)
				close(mine)
			}, nil
		}
		l.mu.Unlock()
		select {
		case <-before:
		case <-ctx.Done():
			return nil, fmt.Errorf("an earlier decision about this machine is not written down yet: %w", ctx.Err())
		}
	}
}

// Run writes bindings down until ctx ends. A lone one goes at once; whoever comes during a write, or before the next may begin,
// goes with that one, so that one sync of the voters' disks serves them all.
func (l *leases) Run(ctx context.Context) error {
	var writers sync.WaitGroup
	for range batchWriters {
		writers.Go(func() {
			for {
				select {
				case <-ctx.Done():
					return
				case first := <-l.waiting:
					l.pace.wait(ctx)
					l.write(ctx, first)
				}
			}
		})
	}
	writers.Wait()
	return nil
}

// Times between the beginnings of two writes. A command costs as much as several leases: under load it pays to wait for
// company, and the more there was the last time, the more there will be.
const (
	gatherTime = time.Millisecond       // at least
	gatherEach = 250 * time.Microsecond // for each binding of the last write
	gatherMost = 5 * time.Millisecond
)

// pace keeps writes apart: the first one after a while begins at once. It is safe for concurrent use.
type pace struct {
	mu   sync.Mutex
	last time.Time // when the last write began, or begins
	next time.Time
}

// wait returns when the next write may begin, or ctx ends.
func (p *pace) wait(ctx context.Context) {
	p.mu.Lock()
	p.last = time.Now()
	if p.next.After(p.last) {
		p.last = p.next
	}
	p.next = p.last.Add(gatherTime)
	left := time.Until(p.last)
	p.mu.Unlock()
	if left > 0 {
		timer := time.NewTimer(left)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

// wrote says how many bindings went with the write that began last.
func (p *pace) wrote(count int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if next := p.last.Add(min(time.Duration(count)*gatherEach, gatherMost)); next.After(p.next) {
		p.next = next
	}
}

// gather takes the bindings that wait already. next is something else that came behind them.
func (l *leases) gather(first pending) (all []pending, next *pending) {
	all = []pending{first}
	for first.op == nil && len(all) < batchMost {
		select {
		case p := <-l.waiting:
			if p.op != nil {
				return all, &p
			}
			all = append(all, p)
		default:
			return all, nil
		}
	}
	return all, nil
}

// knownBy is how long a decision is tried again until its outcome is known.
const knownBy = time.Hour

// write writes one decision down, with every binding that waits already. It does not give up when whoever asked has: the
// command is tried again until its outcome is known, and comes true once at most.
func (l *leases) write(ctx context.Context, first pending) {
	all, next := l.gather(first)
	l.pace.wrote(len(all))
	bounded, cancel := context.WithTimeout(ctx, knownBy)
	defer cancel()
	refusals, err := make([]error, len(all)), error(nil)
	if first.op != nil {
		err = l.decide(bounded, first.op)
	} else {
		bindings := make([]swarm.Lease, len(all))
		for i, p := range all {
			bindings[i] = p.lease
		}
		refusals, err = l.commit(bounded, bindings)
	}
	for i, p := range all {
		if err == nil {
			p.done <- refusals[i]
		} else {
			p.done <- err
		}
		p.over()
	}
	if next != nil {
		l.write(ctx, *next)
	}
}
