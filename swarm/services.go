package swarm

import (
	"net/netip"
	"slices"
	"strings"
)

// DefaultDomain is what the names of machines end in, unless an operator has said otherwise: .internal is kept for private use.
const DefaultDomain = "offshoot.internal"

// NameDomain is what the names of machines end in.
func (s Settings) NameDomain() string { return firstOf(s.Domain, DefaultDomain) }

// maxServers bounds the servers of one kind that clients are told of, or that are asked in turn: resolvers read three.
const maxServers = 4

// maxDomain leaves room for a host name before it in the 253 bytes of a name.
const maxDomain = 180

// SetDomain changes what the names of machines end in; "" is DefaultDomain.
type SetDomain struct {
	Domain string `json:"domain"`
}

func (o SetDomain) words() string {
	return "set the domain of machines to " + clip(firstOf(o.Domain, DefaultDomain), maxDomain)
}

func (o SetDomain) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok {
		return nil, refuse(ErrInvalid, "there is no swarm yet")
	}
	if len(o.Domain) > maxDomain {
		return nil, refuse(ErrInvalid, "a domain of %d bytes, at most %d", len(o.Domain), maxDomain)
	}
	for label := range strings.SplitSeq(o.Domain, ".") {
		if o.Domain == "" {
			break
		}
		if err := checkName("domain", label); err != nil {
			return nil, err
		}
	}
	s.Domain = o.Domain
	c.put("settings", &s)
	return nil, nil
}

// SetDNS says whom nodes ask for names that are not the swarm's: these servers; without any, those that each node asks for
// itself. Off: no node answers, and clients are told of no name server.
type SetDNS struct {
	Servers []netip.Addr `json:"servers,omitempty"`
	Off     bool         `json:"off,omitempty"`
}

func (o SetDNS) words() string {
	switch {
	case o.Off:
		return "answer no names"
	case len(o.Servers) == 0:
		return "forward names to the servers of each node"
	}
	return "forward names to " + addrWords(o.Servers)
}

func (o SetDNS) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok || o.Off && len(o.Servers) > 0 {
		return nil, refuse(ErrInvalid, "name servers are either off or some")
	}
	if err := checkServers(c.view(), o.Servers); err != nil {
		return nil, err
	}
	s.DNS, s.DNSOff = slices.Clone(o.Servers), o.Off
	c.put("settings", &s)
	return nil, nil
}

// SetNTP changes the time servers that clients are told of.
type SetNTP struct {
	Servers []netip.Addr `json:"servers,omitempty"`
}

func (o SetNTP) words() string { return "set the time servers to " + addrWords(o.Servers) }

func (o SetNTP) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok {
		return nil, refuse(ErrInvalid, "there is no swarm yet")
	}
	if err := checkServers(View{}, o.Servers); err != nil {
		return nil, err
	}
	s.NTP = slices.Clone(o.Servers)
	c.put("settings", &s)
	return nil, nil
}

func addrWords(all []netip.Addr) string {
	if len(all) == 0 {
		return "none"
	}
	var words []string
	for _, a := range all[:min(len(all), maxServers)] {
		words = append(words, a.String())
	}
	return strings.Join(words, ", ")
}

// checkServers refuses what is no server's address. With a view, a node of the swarm is none either: it would ask itself, or
// another one that asks it back.
func checkServers(v View, all []netip.Addr) error {
	if len(all) > maxServers {
		return refuse(ErrInvalid, "%d servers, at most %d", len(all), maxServers)
	}
	for _, a := range all {
		if !a.Is4() || a.IsUnspecified() || a.IsMulticast() || a.IsLoopback() || a == netip.AddrFrom4([4]byte{255, 255, 255, 255}) {
			return refuse(ErrInvalid, "%s is no IPv4 address that every machine could ask", a)
		}
		if n, ok := v.NodeAt(a); ok {
			return refuse(ErrConflict, "%s is node %s of this swarm, which would ask itself: name a server outside", a, n.Name)
		}
	}
	return nil
}

// NodeAt finds the node that has an address. Those that have left or ended have none.
func (v View) NodeAt(a netip.Addr) (Node, bool) {
	if v.txn == nil {
		return Node{}, false
	}
	for n := range each[Node](v.txn, "node", "id") {
		if n.Left || n.Ended != "" {
			continue
		}
		if slices.ContainsFunc(n.Ports, func(p Port) bool { return p.Address.IsValid() && p.Address.Addr() == a }) {
			return *n, true
		}
	}
	return Node{}, false
}

// NodesOn goes through the nodes that have a port on a segment, the oldest first.
func (v View) NodesOn(segment string) []Node {
	all := list[Node](v.txn, "node", "segment", segment)
	slices.SortStableFunc(all, func(a, b Node) int { return a.Joined.Compare(b.Joined) })
	return all
}

// MachineNamed finds a machine by its name.
func (v View) MachineNamed(name string) (Machine, bool) {
	return get[Machine](v.txn, "machine", "name", name)
}
