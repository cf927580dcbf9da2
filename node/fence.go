package node

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"offshoot/swarm"
)

// How long a duty lasts without a word from the leader. The holder counts from the moment when it asked, the leader from
// the moment when it answered, which is later: so the holder has always stopped before the leader gives the duty away, and
// the margin is for a leader whose own proof of office is as old as officeProof, and for clocks that run at different
// speeds. Emulated and overloaded machines must be able to keep a duty.
const (
	dutyTTL     = 1500 * time.Millisecond
	dutyMargin  = 800 * time.Millisecond
	dutyRenew   = 400 * time.Millisecond
	officeProof = 500 * time.Millisecond
	dutyAlone   = time.Second     // for so long it must have asked in vain: one quick refusal after a pause proves nothing
	dutyStale   = 2 * time.Second // how long the news that no leader answers is news: an attempt takes up to half a TTL, and begins so often
)

// uptime is the machine's own clock: it never jumps, and it goes on while a laptop sleeps, which Go's does not.
func uptime() time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &t); err != nil {
		panic(fmt.Sprintf("read CLOCK_BOOTTIME: %v", err)) // Linux 2.6.39 and later have it
	}
	return time.Duration(t.Nano())
}

// fence guards the right to answer on one segment in one term. It is safe for concurrent use.
type fence struct {
	clock func() time.Duration

	mu     sync.Mutex
	until  time.Duration
	tried  time.Duration // when the last attempt to renew began that failed; 0: none
	since  time.Duration // when the first of these failed attempts began, with no gap between them
	closed bool
}

func newFence(clock func() time.Duration) *fence { return &fence{clock: clock} }

// renewed notes that the leader confirmed the duty, asked for at the given uptime.
func (f *fence) renewed(asked time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.until = max(f.until, asked+dutyTTL)
}

// failed notes that the leader could not be reached, asked at the given uptime. Only a holder that has found that out just now
// may go on with what is harmless: one that wakes from a pause first has to ask whether its duty is still its own.
func (f *fence) failed(asked time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.tried == 0 || asked-f.tried > dutyStale {
		f.since = asked
	}
	f.tried = asked
}

// shut ends the right for good.
func (f *fence) shut() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.closed = true
}

// standing says what the holder may do at this moment.
func (f *fence) standing() standing {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.closed:
		return standingNone
	case f.clock() < f.until:
		return standingFull
	case f.tried > 0 && f.clock()-f.tried < dutyStale && f.clock()-f.since >= dutyAlone:
		return standingStale
	}
	return standingNone
}

// standing is how much a holder may say on its segment.
type standing int

const (
	standingNone  standing = iota // the duty is over, or that is not known
	standingStale                 // nothing heard from the leader: only what is harmless
	standingFull
)

// renewals is the leader's side: when each duty was last confirmed. It is rebuilt by every new leader, who gives every
// holder a full period, because the leader before may have confirmed it at its last moment.
type renewals struct {
	clock func() time.Duration

	mu     sync.Mutex
	office uint64 // the ledger's term in which this node leads and has seen everything decided before
	since  time.Duration
	last   map[uint64]time.Duration // by term, which is unique in the swarm
	given  map[uint64]bool          // terms whose end is being written down
}

func newRenewals(clock func() time.Duration) *renewals {
	return &renewals{clock: clock, since: clock(), last: map[uint64]time.Duration{}, given: map[uint64]bool{}}
}

// confirm notes that the holder of a term is told that it may go on; false means that it may not: its duty is on its way to
// another, or this leader has not seen yet what the one before decided.
func (r *renewals) confirm(term, office uint64) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.office != office || r.given[term] {
		return false
	}
	r.last[term] = r.clock()
	return true
}

// giveAway ends a term whose holder must have stopped: from now on it is not confirmed any more, so that a holder that asks
// while the grant to another is being written down does not go on beside it. False means that it was confirmed since.
func (r *renewals) giveAway(s swarm.Segment) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	over := r.over(s)
	if over {
		r.given[s.Duty.Term] = true
	}
	return over
}

// takeOffice starts a new leadership, in this term of the ledger.
func (r *renewals) takeOffice(term uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.office, r.since = term, r.clock()
	r.last, r.given = map[uint64]time.Duration{}, map[uint64]bool{}
}

// extend gives every holder a full period from now, because this leader could not hear them.
func (r *renewals) extend() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.since = r.clock()
}

// expired says whether the holder of a duty must have stopped by now. A term that was never confirmed here counts from
// when it was first asked about.
func (r *renewals) expired(s swarm.Segment) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.over(s)
}

func (r *renewals) over(s swarm.Segment) bool {
	if s.Duty.Holder == "" {
		return true
	}
	last, ok := r.last[s.Duty.Term]
	if !ok {
		last = r.clock()
		r.last[s.Duty.Term] = last
	}
	return r.clock() >= max(last, r.since)+dutyTTL+dutyMargin
}
