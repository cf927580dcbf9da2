package swarm

import (
	"fmt"
	"net/netip"
	"slices"
)

// Found creates the swarm: its settings, its first node, and the segment that this node serves.
type Found struct {
	Settings Settings     `json:"settings"`
	Node     Node         `json:"node"`
	Network  netip.Prefix `json:"network"` // of the first segment; the node's first port is on it
	Profile  *Profile     `json:"profile,omitempty"`
}

func (o Found) apply(c *change) (any, error) {
	if _, ok := c.view().Settings(); ok {
		return nil, refuse(ErrConflict, "the swarm was founded before")
	}
	if !o.Network.IsValid() || len(o.Node.Ports) == 0 || o.Node.ID == "" {
		return nil, refuse(ErrInvalid, "found: network, node and port are needed")
	}
	o.Settings.Founded = c.Time
	c.put("settings", &o.Settings)
	s := &Segment{ID: c.segmentName(), Network: o.Network.Masked(), Opener: o.Node.ID, Opened: c.Time,
		Duty: Duty{Holder: o.Node.ID, Term: c.next("term"), Since: c.Time}}
	c.put("segment", s)
	o.Node.Joined = c.Time
	o.Node.Ports[0].Segment = s.ID
	c.put("node", &o.Node)
	if o.Profile != nil {
		c.put("profile", o.Profile)
	}
	c.event("", "founded", "%s founded swarm %s and serves segment %s (%s)", o.Node.Name, o.Settings.Swarm, s.ID, s.Network)
	return *s, nil
}

func (c *change) segmentName() string { return fmt.Sprintf("s%d", c.next("segment")) }

// ReportNode is what a node says of itself. Only the node itself may propose it.
type ReportNode struct {
	Address string `json:"address"`
	Version string `json:"version"`
	Ports   []Port `json:"ports"`
	Warm    bool   `json:"warm"`
}

func (o ReportNode) apply(c *change) (any, error) {
	n, err := c.node(c.By)
	if err != nil {
		return nil, err
	}
	if o.Warm && !n.Warm {
		c.event(n.Machine, "warm", "%s holds every artifact that the profiles need", n.Name)
	}
	if n.Left {
		c.event(n.Machine, "back", "%s is back", n.Name)
	}
	n.Address, n.Version, n.Ports, n.Warm, n.Left = o.Address, o.Version, o.Ports, o.Warm, false
	c.put("node", &n)
	return nil, nil
}

// LeaveNode records that a node is gone for good: it left, or an operator says so.
type LeaveNode struct {
	Node NodeID `json:"node"`
}

func (o LeaveNode) apply(c *change) (any, error) {
	n, err := c.node(o.Node)
	if err != nil || n.Left {
		return nil, err
	}
	n.Left = true
	c.put("node", &n)
	c.event(n.Machine, "left", "%s left the swarm", n.Name)
	return nil, nil
}

// SetVoters changes how many nodes at most vote on the ledger.
type SetVoters struct {
	Voters int `json:"voters"`
}

func (o SetVoters) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok || o.Voters < 1 || o.Voters%2 == 0 {
		return nil, refuse(ErrInvalid, "%d voters: want an odd number", o.Voters)
	}
	s.Voters = o.Voters
	c.put("settings", &s)
	return nil, nil
}

// OpenSegment asks for a new segment on a port of the proposer that nobody serves. The value is the Segment.
type OpenSegment struct {
	Port MAC `json:"port"`
}

func (o OpenSegment) apply(c *change) (any, error) {
	n, err := c.node(c.By)
	if err != nil {
		return nil, err
	}
	if !n.Eligible() {
		return nil, refuse(ErrConflict, "node %s may not open segments: left or in quarantine", n.ID)
	}
	at := slices.IndexFunc(n.Ports, func(p Port) bool { return p.MAC == o.Port })
	if at < 0 {
		return nil, refuse(ErrNotFound, "port %s of node %s", o.Port, n.ID)
	}
	if id := n.Ports[at].Segment; id != "" {
		s, err := c.segment(id)
		return s, err
	}
	settings, _ := c.view().Settings()
	network, ok := freeNetwork(settings.Range, c.view().Segments())
	if !ok {
		return nil, refuse(ErrFull, "no /24 left in %s", settings.Range)
	}
	s := &Segment{ID: c.segmentName(), Network: network, Opener: n.ID, Opened: c.Time,
		Duty: Duty{Holder: n.ID, Term: c.next("term"), Since: c.Time}}
	c.put("segment", s)
	n.Ports = slices.Clone(n.Ports)
	n.Ports[at].Segment = s.ID
	n.Ports[at].Address = netip.PrefixFrom(offset(network, 1), network.Bits())
	c.put("node", &n)
	c.event(n.Machine, "segment", "%s opened segment %s (%s) on its port %s", n.Name, s.ID, s.Network, n.Ports[at].Name)
	return *s, nil
}

// freeNetwork cuts the first /24 of the range that overlaps no segment.
func freeNetwork(within netip.Prefix, taken []Segment) (netip.Prefix, bool) {
	if !within.IsValid() || within.Bits() > 24 {
		return netip.Prefix{}, false
	}
	for p := netip.PrefixFrom(within.Masked().Addr(), 24); within.Contains(p.Addr()); p = netip.PrefixFrom(offset(p, 256), 24) {
		if !slices.ContainsFunc(taken, func(s Segment) bool { return s.Network.Overlaps(p) }) {
			return p, true
		}
	}
	return netip.Prefix{}, false
}

// BlockSegment says why nobody may serve a segment; an empty reason lifts it. Only the holder can block.
type BlockSegment struct {
	Segment string `json:"segment"`
	Reason  string `json:"reason"`
}

func (o BlockSegment) apply(c *change) (any, error) {
	s, err := c.onDuty(o.Segment)
	if err != nil || s.Blocked == o.Reason {
		return nil, err
	}
	s.Blocked = o.Reason
	c.put("segment", &s)
	if o.Reason == "" {
		c.event("", "unblocked", "segment %s is served again", s.ID)
	} else {
		c.alarm("", "blocked", "segment %s is not served: %s", s.ID, o.Reason)
	}
	return nil, nil
}

// GrantDuty gives a segment to a node, whoever held it: the leader proposes it once the old holder's time is over. Term is
// the term that it saw; when the duty has moved since, the command is refused.
type GrantDuty struct {
	Segment string `json:"segment"`
	Term    uint64 `json:"term"`
	To      NodeID `json:"to"`
	Why     string `json:"why"`
}

func (o GrantDuty) apply(c *change) (any, error) {
	s, err := c.segment(o.Segment)
	if err != nil {
		return nil, err
	}
	if s.Duty.Term != o.Term {
		return nil, refuse(ErrConflict, "duty on %s is in term %d, not %d", s.ID, s.Duty.Term, o.Term)
	}
	return nil, c.moveDuty(s, o.To, o.Why)
}

func (c *change) moveDuty(s Segment, to NodeID, why string) error {
	n, err := c.node(to)
	if err != nil {
		return err
	}
	if !n.Eligible() {
		return refuse(ErrConflict, "node %s may not hold duty: left or in quarantine", to)
	}
	s.Duty = Duty{Holder: to, Term: c.next("term"), Since: c.Time}
	c.put("segment", &s)
	c.event(n.Machine, "duty", "%s takes duty on segment %s (term %d): %s", n.Name, s.ID, s.Duty.Term, why)
	return nil
}

// OfferDuty asks the holder to pass its duty to another node; the empty To withdraws the offer.
type OfferDuty struct {
	Segment string `json:"segment"`
	Term    uint64 `json:"term"`
	To      NodeID `json:"to"`
}

func (o OfferDuty) apply(c *change) (any, error) {
	s, err := c.segment(o.Segment)
	if err != nil {
		return nil, err
	}
	if s.Duty.Term != o.Term {
		return nil, refuse(ErrConflict, "duty on %s is in term %d, not %d", s.ID, s.Duty.Term, o.Term)
	}
	if o.To != "" {
		n, err := c.node(o.To)
		if err != nil {
			return nil, err
		}
		if !n.Eligible() {
			return nil, refuse(ErrConflict, "node %s may not hold duty", o.To)
		}
	}
	s.Duty.Next = o.To
	c.put("segment", &s)
	return nil, nil
}

// PassDuty is the holder's last word in its term: it has stopped answering, and the node that it was offered to starts.
type PassDuty struct {
	Segment string `json:"segment"`
	Term    uint64 `json:"term"`
}

func (o PassDuty) apply(c *change) (any, error) {
	s, err := c.onDuty(o.Segment)
	if err != nil {
		return nil, err
	}
	if s.Duty.Term != o.Term || s.Duty.Next == "" {
		return nil, refuse(ErrConflict, "duty on %s is in term %d and offered to %q", s.ID, s.Duty.Term, s.Duty.Next)
	}
	from, err := c.node(c.By)
	if err != nil {
		return nil, err
	}
	return nil, c.moveDuty(s, s.Duty.Next, "handed over by "+from.Name)
}
