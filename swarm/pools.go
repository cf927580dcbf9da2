package swarm

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// AddrRange is a run of addresses, both ends included.
type AddrRange struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

// Contains says whether an address lies in the range.
func (r AddrRange) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && r.First.Compare(a) <= 0 && a.Compare(r.Last) <= 0
}

func (r AddrRange) String() string { return r.First.String() + "-" + r.Last.String() }

// Pools are what leases of the segment are taken from, in order: what an operator said, or .10 to .250 of a /24. Below that
// live the nodes that opened it, above is left to people.
func (s Segment) Pools() []AddrRange {
	if len(s.Ranges) > 0 {
		return slices.Clone(s.Ranges)
	}
	size := uint32(1) << (32 - s.Network.Bits())
	if size < 32 {
		return []AddrRange{{offset(s.Network, 2), offset(s.Network, size-2)}}
	}
	return []AddrRange{{offset(s.Network, 10), offset(s.Network, size-6)}}
}

// hosts says whether an address of the segment can be a machine's: the first and the last one are the network's own.
func (s Segment) hosts(a netip.Addr) bool {
	if !a.Is4() || !s.Network.Contains(a) {
		return false
	}
	size := uint32(1) << (32 - s.Network.Bits())
	return size < 4 || a != offset(s.Network, 0) && a != offset(s.Network, size-1)
}

// maxPools bounds the pools of one segment: nobody writes more by hand.
const maxPools = 16

// SetPools changes what the leases of a segment are taken from; none is the default again. Who has an address outside of
// the new pools keeps it until its lease ends. The value is the Segment.
type SetPools struct {
	Segment string      `json:"segment"`
	Pools   []AddrRange `json:"pools"`
}

func (o SetPools) words() string {
	if len(o.Pools) == 0 {
		return fmt.Sprintf("set the pools of segment %s back to the default", o.Segment)
	}
	all := make([]string, 0, maxPools)
	for _, r := range o.Pools[:min(len(o.Pools), maxPools)] {
		all = append(all, r.String())
	}
	return fmt.Sprintf("set the pools of segment %s to %s", o.Segment, strings.Join(all, ", "))
}

func (o SetPools) apply(c *change) (any, error) {
	s, err := c.segment(o.Segment)
	if err != nil {
		return nil, err
	}
	if s.Foreign() {
		return nil, refuse(ErrConflict, "another server gives the addresses of segment %s: set its pools there", s.ID)
	}
	if err := checkPools(s, o.Pools); err != nil {
		return nil, err
	}
	for _, n := range c.view().Nodes() {
		at, own := c.ownAddress(n, s)
		if own && n.Ended == "" && slices.ContainsFunc(o.Pools, func(r AddrRange) bool { return r.Contains(at) }) {
			return nil, refuse(ErrConflict, "%s is node %s's own address: leave it out of the pools", at, n.Name)
		}
	}
	s.Ranges = slices.Clone(o.Pools)
	c.put("segment", &s)
	c.event("", "pools", "leases of segment %s are taken from %v", s.ID, s.Pools())
	return s, nil
}

// ownAddress is the address of a node on a segment that no lease keeps from being given out: an opener's, a seed's.
func (c *change) ownAddress(n Node, s Segment) (netip.Addr, bool) {
	p, on := n.On(s.ID)
	if !on || !p.Address.IsValid() {
		return netip.Addr{}, false
	}
	l, leased := c.view().Lease(s.ID, p.Address.Addr())
	return p.Address.Addr(), !leased || !l.Expires.IsZero()
}

func checkPools(s Segment, pools []AddrRange) error {
	if len(pools) > maxPools {
		return refuse(ErrInvalid, "%d pools, at most %d", len(pools), maxPools)
	}
	for i, r := range pools {
		if !s.hosts(r.First) || !s.hosts(r.Last) || r.Last.Less(r.First) {
			return refuse(ErrInvalid, "%s is not a range of addresses for machines in %s", r, s.Network)
		}
		for _, other := range pools[:i] {
			if other.Contains(r.First) || r.Contains(other.First) {
				return refuse(ErrInvalid, "pools %s and %s overlap", other, r)
			}
		}
	}
	return nil
}

// Reservation keeps an address of a segment for one machine, in use or not.
type Reservation struct {
	Segment string     `json:"segment"`
	Addr    netip.Addr `json:"addr"`
	MAC     MAC        `json:"mac"`
}

// ReserveAddress keeps an address for a machine, on the segment whose network it is in; the machine's earlier reservation
// there is replaced. Whoever has the address now keeps it until its lease ends and is not renewed. The value is the
// Reservation.
type ReserveAddress struct {
	MAC  MAC        `json:"mac"`
	Addr netip.Addr `json:"addr"`
}

func (o ReserveAddress) words() string {
	return fmt.Sprintf("reserve %s for machine %s", o.Addr, o.MAC)
}

func (o ReserveAddress) apply(c *change) (any, error) {
	if !o.MAC.valid() {
		return nil, refuse(ErrInvalid, "machine %q", o.MAC)
	}
	s, ok := segmentOf(c.view().Segments(), o.Addr)
	if !ok {
		return nil, refuse(ErrNotFound, "a segment with address %s for machines", o.Addr)
	}
	if s.Foreign() {
		return nil, refuse(ErrConflict, "another server gives the addresses of segment %s: reserve it there", s.ID)
	}
	if r, ok := c.view().ReservedFor(s.ID, o.Addr); ok && r.MAC != o.MAC {
		return nil, refuse(ErrConflict, "%s is reserved for %s", o.Addr, r.MAC)
	}
	if l, ok := c.view().Lease(s.ID, o.Addr); ok && l.Expires.IsZero() && l.MAC != o.MAC {
		return nil, refuse(ErrAddressTaken, "%s belongs to node %s for good", o.Addr, l.Hostname)
	}
	if l, ok := c.view().LeaseOf(s.ID, o.MAC); ok && l.Expires.IsZero() && l.Addr != o.Addr {
		return nil, refuse(ErrConflict, "%s is a node and owns %s for good", o.MAC, l.Addr)
	}
	if t, ok := promised(c.base, c.Time, s.ID, o.Addr, o.MAC); ok {
		return nil, refuse(ErrAddressTaken, "%s is promised to %s, which is being installed", o.Addr, t.Machine)
	}
	for _, n := range c.view().Nodes() {
		at, own := c.ownAddress(n, s)
		if p, _ := n.On(s.ID); own && at == o.Addr && p.MAC != o.MAC && n.Ended == "" {
			return nil, refuse(ErrAddressTaken, "%s is node %s's own address", at, n.Name)
		}
	}
	if before, ok := c.view().ReservationOf(s.ID, o.MAC); ok && before.Addr != o.Addr {
		c.remove("reservation", &before)
	}
	r := &Reservation{Segment: s.ID, Addr: o.Addr, MAC: o.MAC}
	c.put("reservation", r)
	c.event(o.MAC, "reserved", "%s on segment %s is reserved for it", o.Addr, s.ID)
	return *r, nil
}

func segmentOf(all []Segment, a netip.Addr) (Segment, bool) {
	at := slices.IndexFunc(all, func(s Segment) bool { return s.hosts(a) })
	if at < 0 {
		return Segment{}, false
	}
	return all[at], true
}

// UnreserveAddress takes a reservation back. Both must be named as they were, so that a slip hits nobody else.
type UnreserveAddress struct {
	MAC  MAC        `json:"mac"`
	Addr netip.Addr `json:"addr"`
}

func (o UnreserveAddress) words() string {
	return fmt.Sprintf("take the reservation of %s for machine %s back", o.Addr, o.MAC)
}

func (o UnreserveAddress) apply(c *change) (any, error) {
	for _, s := range c.view().Segments() {
		if r, ok := c.view().ReservedFor(s.ID, o.Addr); ok && r.MAC == o.MAC {
			c.remove("reservation", &r)
			c.event(o.MAC, "reserved", "%s on segment %s is no longer reserved for it", o.Addr, s.ID)
			return nil, nil
		}
	}
	return nil, refuse(ErrNotFound, "a reservation of %s for %s", o.Addr, o.MAC)
}

// maxForget bounds what one ForgetIdle removes of each kind, so that no command holds the others up.
const maxForget = 1000

// ForgetIdle removes what nobody needs any more: leases of a segment that ended before a time, and machines that showed
// themselves there, were last seen before it, were never armed or named, and have no lease. At most 1000 of each; the value
// is a Forgotten. The time is well in the past: a binding keeps its machine's address for it beyond its end.
type ForgetIdle struct {
	Segment string    `json:"segment"`
	Before  time.Time `json:"before"`
}

// Forgotten counts what ForgetIdle removed. If one of them is 1000, there may be more.
type Forgotten struct {
	Leases   int `json:"leases"`
	Machines int `json:"machines"`
}

func (o ForgetIdle) apply(c *change) (any, error) {
	if o.Before.After(c.Time) {
		return nil, refuse(ErrInvalid, "forget what ended before %s, which is in the future", o.Before.UTC().Format(time.RFC3339))
	}
	if _, err := c.segment(o.Segment); err != nil {
		return nil, err
	}
	var leases []*Lease
	for l := range each[Lease](c.txn, "lease", "id_prefix", leasePrefix(o.Segment)) {
		if !l.Expires.IsZero() && l.Expires.Before(o.Before) {
			if leases = append(leases, l); len(leases) == maxForget {
				break
			}
		}
	}
	for _, l := range leases {
		c.remove("lease", l)
	}
	v := c.view() // without those leases
	var machines []*Machine
	for m := range each[Machine](c.txn, "machine", "stranger", o.Segment) {
		if m.LastSeen.Before(o.Before) && !wanted(v, m) {
			if machines = append(machines, m); len(machines) == maxForget {
				break
			}
		}
	}
	for _, m := range machines {
		c.removeMachine(m)
	}
	return Forgotten{len(leases), len(machines)}, nil
}

// wanted says whether somebody would miss a machine that was never armed.
func wanted(v View, m *Machine) bool {
	_, leased := v.LeaseOf(m.Segment, m.MAC)
	_, reserved := v.ReservationOf(m.Segment, m.MAC)
	return leased || reserved || !m.Remarks.zero() || m.Name != shortName(m.MAC) && !strings.HasPrefix(m.Name, longName(m.MAC))
}
