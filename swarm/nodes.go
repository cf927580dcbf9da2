package swarm

import (
	"fmt"
	"net/netip"
	"slices"
	"time"
)

// Found creates the swarm: its settings, its first node, and the segment that this node serves.
type Found struct {
	Settings Settings     `json:"settings"`
	Node     Node         `json:"node"`
	Network  netip.Prefix `json:"network"` // of the first segment; the node's first port is on it
	Profile  *Profile     `json:"profile,omitempty"`
	Mode     Mode         `json:"mode,omitempty"` // of the first segment
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
	s := &Segment{ID: c.segmentName(), Network: o.Network.Masked(), Opener: o.Node.ID, Opened: c.Time, Mode: o.Mode,
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

// ReportNode is what a node says of itself. Only the node itself may propose it. A node that left is back with it; one that
// ended is not.
type ReportNode struct {
	Address  string `json:"address"`
	Version  string `json:"version"`
	Ports    []Port `json:"ports"`
	Warm     bool   `json:"warm"`
	Protocol int    `json:"protocol,omitempty"` // Protocol of its binary
	Keys     uint64 `json:"keys,omitempty"`     // the generation of gossip keys that it has installed
	CA       uint64 `json:"ca,omitempty"`       // the last step of a replacement of the CA that it has taken
}

// since implements newer.
func (o ReportNode) since() int {
	if slices.ContainsFunc(o.Ports, func(p Port) bool { return p.VLAN != 0 }) {
		return 3
	}
	return 1
}

// maxPorts bounds what a node says of its ports; the largest servers have a few dozen.
const maxPorts = 64

func (o ReportNode) apply(c *change) (any, error) {
	n, err := c.node(c.By)
	if err != nil {
		return nil, err
	}
	if n.Ended != "" {
		return nil, refuse(ErrConflict, "node %s has ended: %s", n.ID, n.Ended)
	}
	if len(o.Ports) > maxPorts || len(o.Address) > maxWord || len(o.Version) > maxWord {
		return nil, refuse(ErrInvalid, "the report of node %s is too long", n.ID)
	}
	for _, p := range o.Ports {
		if len(p.Name) > maxWord || len(p.Segment) > maxWord || p.MAC != "" && !p.MAC.valid() {
			return nil, refuse(ErrInvalid, "port %q of node %s", clip(p.Name, maxWord), n.ID)
		}
	}
	if o.Warm && !n.Warm {
		c.event(n.Machine, "warm", "%s holds every artifact that the profiles need", n.Name)
	}
	if n.Address != o.Address && n.Address != "" && slices.ContainsFunc(o.Ports, c.isForeign) {
		c.alarm(n.Machine, "moved", "%s has moved from %s to %s", n.Name, n.Address, o.Address)
	}
	if n.Left {
		c.event(n.Machine, "back", "%s is back", n.Name)
	}
	n.Address, n.Version, n.Ports, n.Warm, n.Left = o.Address, o.Version, c.standing(n.Ports, o.Ports), o.Warm, false
	n.Protocol, n.Keys, n.CA = o.Protocol, o.Keys, o.CA
	c.put("node", &n)
	return nil, nil
}

// standing are the reported ports, each on the segment that it is known to be on: a node that has just started reports from a ledger
// that it has not read to its end, and would open in place of its segment another one.
func (c *change) standing(known, reported []Port) []Port {
	out := slices.Clone(reported)
	for i, p := range out {
		at := slices.IndexFunc(known, func(k Port) bool { return k.MAC == p.MAC && k.VLAN == p.VLAN })
		if p.Segment != "" || at < 0 || known[at].Segment == "" {
			continue
		}
		if _, err := c.segment(known[at].Segment); err == nil {
			out[i].Segment, out[i].Address = known[at].Segment, known[at].Address
		}
	}
	return out
}

// isForeign says whether a port has its address from the server of others.
func (c *change) isForeign(p Port) bool {
	s, err := c.segment(p.Segment)
	return err == nil && s.Foreign()
}

// LeaveNode records that a node left of its own accord. It may come back.
type LeaveNode struct {
	Node NodeID `json:"node"`
}

func (o LeaveNode) words() string { return fmt.Sprintf("node %s leaves", o.Node) }

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

// EvictNode ends a node for good: its certificate is refused from now on, tickets that it minted are worthless, and with a
// key the gossip key is rotated, so that it hears nothing. Its duties are moved by the leader when their time is over, like
// those of a dead one; its address stays its own, because it may still be using it.
type EvictNode struct {
	Node   NodeID `json:"node"`
	Reason string `json:"reason"`
	Key    string `json:"key,omitempty"` // a fresh gossip key, as identity.Key encodes it; "" does not rotate
}

func (o EvictNode) words() string {
	text := fmt.Sprintf("evict node %s: %s", clip(string(o.Node), maxWord), firstOf(o.Reason, "no reason given"))
	if o.Key != "" {
		text += "; rotate the gossip key"
	}
	return text
}

func (o EvictNode) apply(c *change) (any, error) {
	n, err := c.node(o.Node)
	if err != nil {
		return nil, err
	}
	if n.ID == c.By {
		return nil, refuse(ErrConflict, "node %s can not evict itself: ask another node, or let it leave", n.Name)
	}
	if n.Ended == "" {
		c.end(n, firstOf(clip(o.Reason, maxWord), "evicted by an operator"))
		for _, t := range c.view().AllTickets() {
			if t.By == n.ID && (t.State == TicketMinted || t.State == TicketFetched) {
				c.revokeTicket(t, "the node that minted it was evicted")
			}
		}
	}
	if o.Key != "" {
		return nil, c.rotate(o.Key, "node "+n.Name+" was evicted")
	}
	return nil, nil
}

// end takes everything from a node, for good.
func (c *change) end(n Node, why string) {
	n.Left, n.Ended = true, why
	c.put("node", &n)
	c.event(n.Machine, "ended", "node %s (%s) has ended: %s", n.ID, n.Name, why)
}

// TrustNode lifts a quarantine: an operator found out that the node is ours.
type TrustNode struct {
	Node NodeID `json:"node"`
}

func (o TrustNode) words() string { return "trust node " + string(o.Node) }

func (o TrustNode) apply(c *change) (any, error) {
	n, err := c.node(o.Node)
	if err != nil {
		return nil, err
	}
	switch {
	case n.Ended != "":
		return nil, refuse(ErrConflict, "node %s has ended: %s", n.ID, n.Ended)
	case n.Quarantine == "":
		return nil, nil
	case n.ID == c.By:
		return nil, refuse(ErrConflict, "node %s can not vouch for itself: ask another node", n.Name)
	}
	n.Quarantine = ""
	c.put("node", &n)
	c.event(n.Machine, "trusted", "%s is out of quarantine: an operator trusts it", n.Name)
	return nil, nil
}

// NoteCertificate records that the leader signed a member's key again.
type NoteCertificate struct {
	Node     NodeID    `json:"node"`
	Serial   string    `json:"serial"`
	NotAfter time.Time `json:"not_after"`
}

func (o NoteCertificate) apply(c *change) (any, error) {
	n, err := c.node(o.Node)
	if err != nil {
		return nil, err
	}
	if n.Ended != "" {
		return nil, refuse(ErrConflict, "node %s has ended: %s", n.ID, n.Ended)
	}
	if o.Serial == "" || len(o.Serial) > maxWord {
		return nil, refuse(ErrInvalid, "a certificate has a serial number")
	}
	n.Serial, n.NotAfter = o.Serial, o.NotAfter
	c.put("node", &n)
	return nil, nil
}

// SetVoters changes how many nodes at most vote on the ledger.
type SetVoters struct {
	Voters int `json:"voters"`
}

// MaxVoters bounds them: every decision waits for a majority's disks.
const MaxVoters = 9

func (o SetVoters) words() string { return fmt.Sprintf("set the number of voters to %d", o.Voters) }

func (o SetVoters) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok || o.Voters < 1 || o.Voters > MaxVoters || o.Voters%2 == 0 {
		return nil, refuse(ErrInvalid, "%d voters: want an odd number up to %d", o.Voters, MaxVoters)
	}
	s.Voters = o.Voters
	c.put("settings", &s)
	return nil, nil
}

// SetUplinkLimit changes what each node moves to nodes of other segments, and from them, at most; 0 is no limit.
type SetUplinkLimit struct {
	Limit Rate `json:"limit"`
}

// MinUplinkLimit is the least that the limit can be. Below it, tens of peers that share it wait so long for their turn that they
// are given up as silent.
const MinUplinkLimit Rate = 100_000

func (o SetUplinkLimit) words() string { return "set the limit of uplinks to " + o.Limit.String() }

func (o SetUplinkLimit) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if why := o.Limit.check(MinUplinkLimit); !ok || why != "" {
		return nil, refuse(ErrInvalid, "limit of uplinks: %s", why)
	}
	s.UplinkLimit = o.Limit
	c.put("settings", &s)
	return nil, nil
}

// OpenSegment asks for a new segment on a port of the proposer that nobody serves. The value is the Segment.
type OpenSegment struct {
	Port MAC `json:"port"`
	// Beside are networks that the proposer reaches otherwise, or other machines on it: the segment must not hide them. At most maxBeside.
	Beside []netip.Prefix `json:"beside,omitempty"`
}

// maxBeside bounds what a node says of its other networks: all /24 of a range of /16.
const maxBeside = 256

// since implements newer.
func (o OpenSegment) since() int {
	if len(o.Beside) > 0 {
		return 3
	}
	return 1
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
	if len(o.Beside) > maxBeside {
		return nil, refuse(ErrInvalid, "%d networks beside the segment: at most %d", len(o.Beside), maxBeside)
	}
	taken := slices.Clone(o.Beside)
	for _, s := range c.view().Segments() {
		taken = append(taken, s.Network)
	}
	network, ok := FreeNetwork(settings.Range, taken)
	if !ok {
		return nil, refuse(ErrFull, "no /24 left in %s that is no segment and that %s does not reach otherwise", settings.Range, n.Name)
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

// FreeNetwork cuts the first /24 of the range that overlaps nothing of what is taken; false: there is none.
func FreeNetwork(within netip.Prefix, taken []netip.Prefix) (netip.Prefix, bool) {
	if !within.IsValid() || within.Bits() > 24 {
		return netip.Prefix{}, false
	}
	for p := netip.PrefixFrom(within.Masked().Addr(), 24); within.Contains(p.Addr()); p = netip.PrefixFrom(offset(p, 256), 24) {
		if !slices.ContainsFunc(taken, p.Overlaps) {
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
