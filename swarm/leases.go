package swarm

import (
	"crypto/subtle"
	"net/netip"
	"time"
)

func constantTimeEqual(a, b string) bool {
	return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1
}

// BindLease binds an address to a machine, before the ACK that tells it so. Only the holder of duty, in the term in which
// it decided, may.
type BindLease struct {
	Lease Lease  `json:"lease"`
	Term  uint64 `json:"term"`
}

func (o BindLease) apply(c *change) (any, error) {
	l := o.Lease
	s, err := c.onDuty(l.Segment)
	if err != nil {
		return nil, err
	}
	if s.Duty.Term != o.Term {
		return nil, refuse(ErrNotHolder, "term %d of segment %s is over", o.Term, s.ID)
	}
	if l.MAC.Hardware() == nil || !s.Network.Contains(l.Addr) {
		return nil, refuse(ErrInvalid, "lease of %s to %q on %s", l.Addr, l.MAC, s.Network)
	}
	if other, ok := c.view().Lease(l.Segment, l.Addr); ok && other.MAC != l.MAC && other.Live(c.Time) {
		return nil, refuse(ErrAddressTaken, "%s by %q", l.Addr, other.MAC)
	}
	before, had := c.view().LeaseOf(l.Segment, l.MAC)
	switch {
	case had && before.Expires.IsZero() && before.Addr != l.Addr:
		return nil, refuse(ErrConflict, "%s owns %s for good", l.MAC, before.Addr)
	case had && before.Expires.IsZero():
		l.Expires, l.Class = time.Time{}, before.Class // an address that a node owns does not start to expire
	case had && before.Addr != l.Addr:
		c.remove("lease", &before)
	}
	if !had || before.Class != l.Class || before.Addr != l.Addr || before.Nonce != l.Nonce {
		c.event(l.MAC, "address", "%s for its %s on segment %s", l.Addr, l.Class, l.Segment)
	}
	c.put("lease", &l)
	return nil, nil
}

// ReleaseLease gives an address back.
type ReleaseLease struct {
	Segment string     `json:"segment"`
	MAC     MAC        `json:"mac"`
	Addr    netip.Addr `json:"addr"`
}

func (o ReleaseLease) apply(c *change) (any, error) {
	if _, err := c.onDuty(o.Segment); err != nil {
		return nil, err
	}
	l, ok := c.view().Lease(o.Segment, o.Addr)
	if !ok || l.MAC != o.MAC || l.Expires.IsZero() {
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
	Addr    netip.Addr `json:"addr"`
	By      MAC        `json:"by"`
	Until   time.Time  `json:"until"`
}

func (o QuarantineAddress) apply(c *change) (any, error) {
	s, err := c.onDuty(o.Segment)
	if err != nil {
		return nil, err
	}
	if !s.Network.Contains(o.Addr) {
		return nil, refuse(ErrInvalid, "%s is not in %s", o.Addr, s.Network)
	}
	if l, ok := c.view().Lease(o.Segment, o.Addr); ok {
		if l.Expires.IsZero() {
			return nil, refuse(ErrConflict, "%s is owned by a node", o.Addr)
		}
		c.remove("lease", &l)
	}
	c.put("lease", &Lease{Segment: o.Segment, Addr: o.Addr, Class: "quarantine", Expires: o.Until})
	c.alarm(o.By, "quarantine", "address %s on segment %s is in use by somebody else: not given out until %s", o.Addr, s.ID,
		o.Until.UTC().Format(time.RFC3339))
	return nil, nil
}
