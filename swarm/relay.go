package swarm

import (
	"fmt"
	"net/netip"
	"slices"
)

// Relay is the router that passes the DHCP packets of a segment on, on which no node needs to have a port.
type Relay struct {
	There   netip.Addr `json:"there"`   // its address on the segment: the router of the machines there
	Here    netip.Addr `json:"here"`    // its address on a segment that nodes stand on: how they reach the machines
	Segment string     `json:"segment"` // that segment
}

// Relayed says whether a relay passes the packets of the segment on.
func (s Segment) Relayed() bool { return s.Relay.Segment != "" }

// PortFor is the port that n serves a segment with: its own there, else the one on which the relay finds it.
func (n Node) PortFor(s Segment) (Port, bool) {
	for _, id := range []string{s.ID, s.Relay.Segment} {
		if p, on := n.On(id); id != "" && on && p.Address.IsValid() {
			return p, true
		}
	}
	return Port{}, false
}

// canServe says whether n has what serving a segment takes: a port for it with a link.
func (n Node) canServe(s Segment) bool {
	p, ok := n.PortFor(s)
	return ok && p.Link
}

// serversOf lists the nodes that could serve a segment, as far as their ports tell.
func (v View) serversOf(s Segment) []*Node {
	var all []*Node
	for _, id := range []string{s.ID, s.Relay.Segment} {
		if id == "" {
			continue
		}
		for n := range each[Node](v.txn, "node", "segment", id) {
			if n.canServe(s) && !slices.Contains(all, n) {
				all = append(all, n)
			}
		}
	}
	return all
}

// Bounds of the network of a relayed segment. The larger one bounds what RemoveSegment removes at once.
const (
	largestRelayed  = 20
	smallestRelayed = 30
)

// AddSegment writes down a segment that is reached through a relay. Who serves the relay's own segment begins to serve it. The
// value is the Segment.
type AddSegment struct {
	Network netip.Prefix `json:"network"`
	There   netip.Addr   `json:"there"` // as in Relay
	Here    netip.Addr   `json:"here"`
}

func (o AddSegment) words() string {
	return fmt.Sprintf("add segment %s behind the relay %s, which is %s there", o.Network, o.Here, o.There)
}

func (o AddSegment) apply(c *change) (any, error) {
	if !o.Network.IsValid() || !o.Network.Addr().Is4() || o.Network.Bits() < largestRelayed || o.Network.Bits() > smallestRelayed || o.Network != o.Network.Masked() {
		return nil, refuse(ErrInvalid, "network %s: want one of IPv4 from /%d to /%d, as in 10.9.0.0/24", o.Network, largestRelayed, smallestRelayed)
	}
	s := &Segment{Network: o.Network, Opener: c.By, Opened: c.Time}
	if !s.hosts(o.There) {
		return nil, refuse(ErrInvalid, "relay %s is no address for a machine in %s", o.There, o.Network)
	}
	all := c.view().Segments()
	if i := slices.IndexFunc(all, func(other Segment) bool { return other.Network.Overlaps(o.Network) }); i >= 0 {
		return nil, refuse(ErrConflict, "%s overlaps with segment %s (%s)", o.Network, all[i].ID, all[i].Network)
	}
	via, ok := segmentOf(all, o.Here)
	if !ok || via.Relayed() {
		return nil, refuse(ErrNotFound, "a segment that a node stands on, with the relay's address %s", o.Here)
	}
	if via.Foreign() {
		return nil, refuse(ErrConflict, "segment %s, with the relay's address %s, is the network of others, where nodes have no addresses of their own", via.ID, o.Here)
	}
	if n, ok := c.view().NodeAt(o.Here); ok {
		return nil, refuse(ErrConflict, "%s is node %s: name the relay's own address on segment %s", o.Here, n.Name, via.ID)
	}
	s.ID, s.Relay = c.segmentName(), Relay{There: o.There, Here: o.Here, Segment: via.ID}
	s.Duty = Duty{Holder: via.Duty.Holder, Term: c.next("term"), Since: c.Time}
	c.put("segment", s)
	c.event("", "segment", "segment %s (%s) is behind the relay %s on segment %s", s.ID, s.Network, o.Here, via.ID)
	return *s, nil
}

// RemoveSegment forgets a segment behind a relay, with its leases and reservations. It is refused while a node stands on it or
// a machine there is being installed.
type RemoveSegment struct {
	Segment string `json:"segment"`
}

func (o RemoveSegment) words() string { return "remove segment " + clip(o.Segment, maxWord) }

func (o RemoveSegment) apply(c *change) (any, error) {
	s, err := c.segment(o.Segment)
	if err != nil {
		return nil, err
	}
	if !s.Relayed() {
		return nil, refuse(ErrConflict, "segment %s has been opened by a node: only those behind a relay are added and removed", s.ID)
	}
	for n := range each[Node](c.txn, "node", "segment", s.ID) {
		if !n.Left && n.Ended == "" {
			return nil, refuse(ErrConflict, "node %s stands on segment %s", n.Name, s.ID)
		}
	}
	leases := list[Lease](c.txn, "lease", "id_prefix", leasePrefix(s.ID))
	if i := slices.IndexFunc(leases, func(l Lease) bool { return l.Expires.IsZero() }); i >= 0 {
		return nil, refuse(ErrConflict, "%s on segment %s is node %s's own for good", leases[i].Addr, s.ID, leases[i].Hostname)
	}
	for t := range each[Ticket](c.txn, "ticket", "id") {
		if t.Segment == s.ID && t.Open(c.Time) {
			return nil, refuse(ErrConflict, "machine %s on segment %s is being installed", t.Machine, s.ID)
		}
	}
	for _, l := range leases {
		c.remove("lease", &l)
	}
	for _, r := range list[Reservation](c.txn, "reservation", "id_prefix", leasePrefix(s.ID)) {
		c.remove("reservation", &r)
	}
	c.remove("segment", &s)
	c.event("", "segment", "segment %s (%s) is removed", s.ID, s.Network)
	return nil, nil
}
