package swarm

import (
	"net/netip"
	"time"
)

// SetMode changes how a segment is served, and lifts what blocked it: by proxy while a server of others is there, with the reason;
// in full again when that has gone. A segment that was founded by proxy stays so: its addresses were never ours. Only the holder
// can.
type SetMode struct {
	Segment string `json:"segment"`
	Mode    Mode   `json:"mode,omitempty"`
	Reason  string `json:"reason,omitempty"`
}

func (o SetMode) apply(c *change) (any, error) {
	s, err := c.onDuty(o.Segment)
	if err != nil {
		return nil, err
	}
	beside := clip(o.Reason, maxText)
	switch {
	case s.Foreign() && o.Mode == ModeProxy:
		beside = ""
	case s.Foreign():
		return nil, refuse(ErrConflict, "segment %s was founded beside the server of others, whose addresses are not ours to give", s.ID)
	case o.Mode != ModeFull && o.Mode != ModeProxy || (o.Mode == ModeProxy) != (o.Reason != ""):
		return nil, refuse(ErrInvalid, "segment %s: mode %q because of %q", s.ID, clip(string(o.Mode), maxWord), clip(o.Reason, maxWord))
	}
	if s.Mode == o.Mode && s.Beside == beside && s.Blocked == "" {
		return nil, nil
	}
	s.Mode, s.Beside, s.Blocked = o.Mode, beside, ""
	c.put("segment", &s)
	if s.Beside != "" {
		c.alarm("", "proxy", "segment %s is served by proxy for now: %s", s.ID, s.Beside)
	} else {
		c.event("", "mode", "segment %s is served (%s)", s.ID, s.Mode)
	}
	return nil, nil
}

// LearnAddress writes down with which address of another server's a machine was seen, in the boot that a nonce names. Whoever was
// seen with it before has it no longer: that server gives it to one at a time. The value is the Lease. Not the holder alone may say
// so: an installation that began with a node ends with it.
type LearnAddress struct {
	Segment string     `json:"segment"`
	MAC     MAC        `json:"mac"`
	Addr    netip.Addr `json:"addr"`
	Nonce   string     `json:"nonce"`
	Until   time.Time  `json:"until"` // after that nobody remembers it
}

func (o LearnAddress) apply(c *change) (any, error) {
	s, err := c.segment(o.Segment)
	if err != nil {
		return nil, err
	}
	n, err := c.node(c.By)
	if _, on := n.On(s.ID); err != nil || !n.Eligible() || !on {
		return nil, refuse(ErrConflict, "node %s cannot see who is on segment %s", c.By, s.ID)
	}
	if s.Mode != ModeProxy {
		return nil, refuse(ErrConflict, "segment %s is served in full: addresses there are given, not learned", s.ID)
	}
	if !o.MAC.valid() || !s.hosts(o.Addr) || o.Nonce == "" || len(o.Nonce) > maxWord || !o.Until.After(c.Time) {
		return nil, refuse(ErrInvalid, "address %s of %q on segment %s (%s)", o.Addr, clip(string(o.MAC), maxWord), s.ID, s.Network)
	}
	v := c.view()
	if other, ok := v.LeaseByNonce(o.Nonce); ok && (other.MAC != o.MAC || other.Segment != s.ID) {
		return nil, refuse(ErrConflict, "the boot nonce of %s is that of %s", o.MAC, other.MAC)
	}
	other, taken := v.Lease(s.ID, o.Addr)
	if taken && other.MAC != o.MAC && other.Class != LeaseForeign && other.Live(c.Time) {
		return nil, refuse(ErrAddressTaken, "%s by %q", o.Addr, other.MAC)
	}
	before, had := v.LeaseOf(s.ID, o.MAC)
	if had && before.Expires.IsZero() && before.Addr != o.Addr {
		return nil, refuse(ErrConflict, "%s owns %s for good", o.MAC, before.Addr)
	}
	l := &Lease{Segment: s.ID, Addr: o.Addr, MAC: o.MAC, Class: LeaseForeign, Nonce: o.Nonce, Expires: o.Until}
	if had && before.Expires.IsZero() {
		l.Class, l.Expires, l.Hostname = before.Class, time.Time{}, before.Hostname
	}
	if taken && other.MAC != o.MAC {
		c.remove("lease", &other)
	}
	switch {
	case had && before.Addr != o.Addr && before.Class == LeaseForeign:
		c.remove("lease", &before)
	case had && before.Addr != o.Addr:
		c.leave(before) // it has that from us, and may use it still
	}
	c.put("lease", l)
	if !had || before.Addr != o.Addr || before.Nonce != o.Nonce {
		c.event(o.MAC, "address", "seen with %s on segment %s, which another server gave to it", o.Addr, s.ID)
	}
	c.see(c.view(), o.MAC, "", s.ID)
	return *l, nil
}
