package swarm

import (
	"crypto/subtle"
	"net/netip"
	"time"
)

func constantTimeEqual(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// maxLeases bounds the bindings of one command, so that it stays well below maxCommand and does not hold others up.
const maxLeases = 512

// BindLeases binds addresses to machines, before the ACKs that tell them so. Only the holder of duty, in the term in which
// it decided, may: otherwise the whole command is refused. Beyond that each lease stands for itself: the value is a map with
// the refusals, by the lease's place in the list, and there is none if all were bound. A machine whose lease was bound has shown itself, as by
// SeeMachine.
//
// Whether a binding of another machine is over is the holder's to say, who has watched it on a clock that does not jump:
// State only makes sure that it is still the one that the holder saw.
type BindLeases struct {
	Segment string                   `json:"segment"`
	Term    uint64                   `json:"term"`
	Leases  []Lease                  `json:"leases"`         // their Segment may be left empty
	Over    map[netip.Addr]time.Time `json:"over,omitempty"` // the bindings that may be replaced, by address: their end, as it is written down
}

func (o BindLeases) apply(c *change) (any, error) {
	s, err := c.onDutyIn(o.Segment, o.Term)
	if err != nil {
		return nil, err
	}
	if s.Mode == ModeProxy {
		return nil, refuse(ErrConflict, "segment %s is served by proxy: another server gives the addresses there", s.ID)
	}
	if len(o.Leases) > maxLeases {
		return nil, refuse(ErrInvalid, "%d leases in one command, at most %d", len(o.Leases), maxLeases)
	}
	refusals := map[int]string{}
	b := binder{change: c, segment: s, over: o.Over, touched: map[string]bool{}}
	for i, l := range o.Leases {
		if err := b.bind(l); err != nil {
			refusals[i] = err.Error()
		}
	}
	if len(refusals) == 0 {
		return nil, nil
	}
	return refusals, nil
}

// binder writes the leases of one command down.
type binder struct {
	*change
	segment Segment
	over    map[netip.Addr]time.Time
	touched map[string]bool // machines, names, addresses and nonces that this command has changed something about
}

// viewFor is the state before the command, if that still says the truth about all that a lease touches: it is far cheaper to
// read.
func (b *binder) viewFor(l Lease) View {
	for _, key := range []string{string(l.MAC), shortName(l.MAC), l.Addr.String(), l.Nonce} {
		if b.touched[key] {
			return b.view()
		}
	}
	return b.base
}

func (b *binder) touch(l Lease) {
	b.touched[l.Addr.String()] = true
	if l.MAC != "" {
		b.touched[string(l.MAC)], b.touched[shortName(l.MAC)] = true, true
	}
	if l.Nonce != "" {
		b.touched[l.Nonce] = true
	}
}

// bind writes one lease down, or changes nothing.
func (b *binder) bind(l Lease) error {
	s := b.segment
	if l.Segment != s.ID && l.Segment != "" || !l.MAC.valid() || !s.hosts(l.Addr) ||
		len(l.Class) > maxWord || len(l.Nonce) > maxWord || len(l.Hostname) > maxText {
		return refuse(ErrInvalid, "lease of %s to %q on segment %q (%s)", l.Addr, clip(string(l.MAC), maxWord), clip(l.Segment, maxWord), s.Network)
	}
	l.Segment = s.ID
	v := b.viewFor(l)
	before, had := v.LeaseOf(s.ID, l.MAC)
	owned := had && before.Expires.IsZero()
	same := had && before.Addr == l.Addr && before.Nonce == l.Nonce && before.Live(b.Time)
	if err := b.mayHave(v, l, before, owned, same); err != nil {
		return err
	}
	if owned {
		l.Expires, l.Class = time.Time{}, before.Class // an address that a node owns does not start to expire
	}
	if other, ok := v.Lease(s.ID, l.Addr); ok {
		b.touch(other)
	}
	if had && before.Addr != l.Addr {
		b.touch(before)
		b.leave(before)
	}
	b.touch(l)
	if !same || before.Class != l.Class {
		b.event(l.MAC, "address", "%s for its %s on segment %s", l.Addr, l.Class, l.Segment)
	}
	b.put("lease", &l)
	b.see(v, l.MAC, "", s.ID)
	return nil
}

// mayHave refuses a lease. before is the machine's last one; it may own that, and the new one may be the same again.
func (b *binder) mayHave(v View, l, before Lease, owned, same bool) error {
	switch {
	case owned && before.Addr != l.Addr:
		return refuse(ErrConflict, "%s owns %s for good", l.MAC, before.Addr)
	case !owned && l.Expires.IsZero():
		return refuse(ErrInvalid, "a lease of %s without end", l.Addr)
	}
	if r, ok := v.ReservedFor(l.Segment, l.Addr); ok && r.MAC != l.MAC && !owned {
		return refuse(ErrAddressTaken, "%s is reserved for %s", l.Addr, r.MAC)
	}
	if r, ok := v.ReservationOf(l.Segment, l.MAC); ok && r.Addr != l.Addr && !owned {
		return refuse(ErrConflict, "%s is reserved for %s", r.Addr, l.MAC)
	}
	if same {
		return nil
	}
	if other, ok := v.Lease(l.Segment, l.Addr); ok && other.MAC != l.MAC && !b.isOver(other) {
		return refuse(ErrAddressTaken, "%s by %q", l.Addr, other.MAC)
	}
	if t, ok := promised(v, b.Time, l.Segment, l.Addr, l.MAC); ok {
		return refuse(ErrAddressTaken, "%s is promised to %s, which is being installed", l.Addr, t.Machine)
	}
	if other, ok := v.LeaseByNonce(l.Nonce); ok && (other.MAC != l.MAC || other.Segment != l.Segment) {
		return refuse(ErrConflict, "the boot nonce of %s is that of %s", l.MAC, other.MAC)
	}
	return nil
}

// leave ends a binding whose machine has another address from now on. It may have been told otherwise, by an ACK that was
// overtaken: nobody else gets the address before its time.
func (c *change) leave(l Lease) {
	if l.Expires.IsZero() {
		c.remove("lease", &l)
		return
	}
	c.put("lease", &Lease{Segment: l.Segment, Addr: l.Addr, Class: LeaseLeft, Expires: l.Expires})
}

// isOver says whether the holder knew of this very binding that its time is over.
func (b *binder) isOver(l Lease) bool {
	end, ok := b.over[l.Addr]
	return ok && !l.Expires.IsZero() && end.Equal(l.Expires)
}

// promised finds a ticket, open at now, that gives an address to another machine than mac. Installing takes longer than a
// lease may last, and the node that comes out of it owns the address for good.
func promised(v View, now time.Time, segment string, addr netip.Addr, mac MAC) (Ticket, bool) {
	for t := range each[Ticket](v.txn, "ticket", "addr", addrKey(segment, addr)) {
		if t.Machine != mac && t.Open(now) {
			return *t, true
		}
	}
	return Ticket{}, false
}

// onDutyIn is the segment on which the caller holds the duty, if it does so in this term.
func (c *change) onDutyIn(segment string, term uint64) (Segment, error) {
	s, err := c.onDuty(segment)
	if err == nil && s.Duty.Term != term {
		err = refuse(ErrNotHolder, "term %d of segment %s is over", term, s.ID)
	}
	return s, err
}

// ReleaseLease gives an address back.
type ReleaseLease struct {
	Segment string     `json:"segment"`
	Term    uint64     `json:"term"`
	MAC     MAC        `json:"mac"`
	Addr    netip.Addr `json:"addr"`
}

func (o ReleaseLease) apply(c *change) (any, error) {
	if _, err := c.onDutyIn(o.Segment, o.Term); err != nil {
		return nil, err
	}
	l, ok := c.view().Lease(o.Segment, o.Addr)
	if !ok || l.MAC != o.MAC || l.Expires.IsZero() || !l.Live(c.Time) {
		return nil, nil
	}
	// The binding stays, expired: the same machine gets the same address when it comes back.
	l.Expires = c.Time
	c.put("lease", &l)
	c.event(l.MAC, "address", "%s given back", l.Addr)
	return nil, nil
}

// QuarantineAddress keeps an address from being given to anybody until a time: a machine found that it is in use.
type QuarantineAddress struct {
	Segment string     `json:"segment"`
	Term    uint64     `json:"term"`
	Addr    netip.Addr `json:"addr"`
	By      MAC        `json:"by"`
	Until   time.Time  `json:"until"`
}

func (o QuarantineAddress) apply(c *change) (any, error) {
	s, err := c.onDutyIn(o.Segment, o.Term)
	if err != nil {
		return nil, err
	}
	if !s.hosts(o.Addr) || o.Until.IsZero() || o.By != "" && !o.By.valid() {
		return nil, refuse(ErrInvalid, "quarantine of %s in %s by %q until %v", o.Addr, s.Network, clip(string(o.By), maxWord), o.Until)
	}
	if l, ok := c.view().Lease(o.Segment, o.Addr); ok {
		if l.Expires.IsZero() {
			return nil, refuse(ErrConflict, "%s is owned by a node", o.Addr)
		}
		c.remove("lease", &l)
	}
	c.put("lease", &Lease{Segment: o.Segment, Addr: o.Addr, Class: LeaseQuarantined, Expires: o.Until})
	c.alarm(o.By, "quarantine", "address %s on segment %s is in use by somebody else: not given out until %s", o.Addr, s.ID,
		o.Until.UTC().Format(time.RFC3339))
	return nil, nil
}
