package swarm

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// MintTicket writes a fresh ticket for an armed machine down, before its secret goes into the machine's install config.
// Earlier tickets of the same install are revoked: one at most is good.
type MintTicket struct {
	ID      string     `json:"id"`
	Hash    string     `json:"hash"`
	MAC     MAC        `json:"mac"`
	Segment string     `json:"segment"`
	Addr    netip.Addr `json:"addr"`
	Expires time.Time  `json:"expires"`
}

func (o MintTicket) apply(c *change) (any, error) {
	// Not only the holder: an installation that began with one node ends with it, wherever the duty has gone since.
	if n, err := c.node(c.By); err != nil || !n.Eligible() {
		return nil, refuse(ErrConflict, "node %s may not mint tickets", c.By)
	}
	if o.ID == "" || o.Hash == "" || len(o.ID) > maxWord || len(o.Hash) > maxWord {
		return nil, refuse(ErrInvalid, "a ticket needs an id and a hash")
	}
	if _, taken := c.view().Ticket(o.ID); taken {
		return nil, refuse(ErrConflict, "there was a ticket %s before", o.ID)
	}
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if m.State != MachineArmed && m.State != MachineInstalling {
		return nil, refuse(ErrNotArmed, "%s is %s", m.Name, m.State)
	}
	if err := c.ownable(o.Segment, o.Addr, o.MAC); err != nil {
		return nil, err
	}
	c.revokeTickets(m.MAC, "its install config was fetched again")
	c.forgetTickets(m.MAC)
	t := &Ticket{ID: o.ID, Hash: o.Hash, Machine: o.MAC, Install: m.Install, Segment: o.Segment, Addr: o.Addr, State: TicketMinted, Expires: o.Expires,
		Minted: c.Time, By: c.By}
	c.put("ticket", t)
	if m.State == MachineArmed {
		m.State = MachineInstalling
	}
	c.gotOn(&m, "fetched its install config")
	m.Life.Step = 0 // its log begins anew
	c.put("machine", &m)
	c.event(m.MAC, "ticket", "ticket %s minted for %s at %s", t.ID, m.Name, o.Addr)
	return *t, nil
}

// ownable refuses an address that cannot become a machine's own for good.
func (c *change) ownable(segment string, addr netip.Addr, mac MAC) error {
	s, err := c.segment(segment)
	if err != nil {
		return err
	}
	if !s.hosts(addr) {
		return refuse(ErrInvalid, "%s is no address for a machine in %s", addr, s.Network)
	}
	if s.Mode == ModeProxy {
		return nil // it does not become its own: it is the other server's
	}
	if other, ok := c.view().Lease(segment, addr); ok && other.MAC != "" && other.MAC != mac && other.Live(c.Time) {
		return refuse(ErrAddressTaken, "%s by %q", addr, other.MAC)
	}
	if own, ok := c.view().LeaseOf(segment, mac); ok && own.Expires.IsZero() && own.Addr != addr {
		return refuse(ErrConflict, "%s owns %s for good", mac, own.Addr)
	}
	if r, ok := c.view().ReservedFor(segment, addr); ok && r.MAC != mac {
		return refuse(ErrAddressTaken, "%s is reserved for %s", addr, r.MAC)
	}
	if t, ok := promised(c.base, c.Time, segment, addr, mac); ok {
		return refuse(ErrAddressTaken, "%s is promised to %s, which is being installed", addr, t.Machine)
	}
	return nil
}

// forgetTickets removes a machine's tickets that came to nothing and are over: an agent in a loop fetches without end.
// Redeemed ones stay, because whoever shows one again is a thief or was robbed.
func (c *change) forgetTickets(mac MAC) {
	for _, t := range c.view().Tickets(mac) {
		if t.State != TicketRedeemed && !c.Time.Before(t.Expires) {
			c.remove("ticket", &t)
		}
	}
}

// RevokeTicket makes a ticket worthless. If its machine is still to be installed, it can fetch another one: to stop that,
// hold the machine.
type RevokeTicket struct {
	ID string `json:"id"`
}

func (o RevokeTicket) words() string { return "revoke ticket " + o.ID }

func (o RevokeTicket) apply(c *change) (any, error) {
	t, ok := c.view().Ticket(o.ID)
	if !ok {
		return nil, refuse(ErrNotFound, "ticket %q", clip(o.ID, maxWord))
	}
	switch t.State {
	case TicketRedeemed:
		return nil, refuse(ErrTicketUsed, "ticket %s made node %s: evict that", t.ID, t.Node)
	case TicketRevoked:
		return nil, nil
	}
	c.revokeTicket(t, "by an operator")
	return nil, nil
}

// FetchTicket records that the install config with the ticket's secret has reached the machine.
type FetchTicket struct {
	ID string `json:"id"`
}

func (o FetchTicket) apply(c *change) (any, error) {
	t, ok := c.view().Ticket(o.ID)
	if !ok {
		return nil, refuse(ErrTicket, "ticket %s", o.ID)
	}
	if t.State == TicketMinted {
		t.State = TicketFetched
		c.put("ticket", &t)
	}
	return nil, nil
}

func (c *change) revokeTickets(mac MAC, why string) {
	for _, t := range c.view().Tickets(mac) {
		if t.State == TicketMinted || t.State == TicketFetched {
			c.revokeTicket(t, why)
		}
	}
}

func (c *change) revokeTicket(t Ticket, why string) {
	t.State = TicketRevoked
	c.put("ticket", &t)
	c.event(t.Machine, "ticket", "ticket %s revoked: %s", t.ID, why)
}

// RedeemTicket turns a ticket into a node, once. The value is the Node. The same key may ask again, because the answer
// can get lost; another key is a thief or the victim of one, and both are stopped.
type RedeemTicket struct {
	ID      string `json:"id"`
	Hash    string `json:"hash"` // SHA-256 of the secret that was shown
	Key     string `json:"key"`  // SHA-256 of the public key that asks
	MACs    []MAC  `json:"macs"` // of the machine that asks
	UUID    string `json:"uuid,omitempty"`
	Node    NodeID `json:"node"` // the id that it shall get
	Serial  string `json:"serial,omitempty"`
	Address string `json:"address"` // host:port of its peer listener

	NotAfter time.Time `json:"not_after,omitzero"` // of the certificate
}

func (o RedeemTicket) apply(c *change) (any, error) {
	if o.Node == "" || o.Key == "" || len(o.Node) > maxWord || len(o.Key) > maxWord || len(o.Serial) > maxWord || len(o.Address) > maxWord {
		return nil, refuse(ErrInvalid, "a redeem needs the node's id and key")
	}
	t, ok := c.view().Ticket(o.ID)
	if !ok || !constantTimeEqual(t.Hash, o.Hash) {
		return nil, refuse(ErrTicket, "ticket %s is unknown, or its secret is wrong", o.ID)
	}
	if t.State == TicketRedeemed {
		if !constantTimeEqual(t.Key, o.Key) {
			return nil, refuse(ErrTicketUsed, "ticket %s of %s", t.ID, t.Machine)
		}
		n, err := c.node(t.Node)
		if err == nil && n.Ended != "" {
			err = refuse(ErrTicketUsed, "the node that ticket %s made has ended: %s", t.ID, n.Ended)
		}
		return n, err
	}
	m, err := c.machine(t.Machine)
	switch {
	case err != nil:
		return nil, err
	case t.State == TicketRevoked:
		return nil, refuse(ErrTicket, "ticket %s was revoked", t.ID)
	case !c.Time.Before(t.Expires):
		return nil, refuse(ErrTicket, "ticket %s expired at %s; arm %s again", t.ID, t.Expires.UTC().Format(time.RFC3339), t.Machine)
	case !containsMAC(o.MACs, t.Machine):
		return nil, refuse(ErrTicket, "ticket %s is for machine %s", t.ID, t.Machine)
	case m.UUID != "" && o.UUID != "" && !strings.EqualFold(m.UUID, o.UUID):
		return nil, refuse(ErrTicket, "ticket %s is for the machine with UUID %s", t.ID, m.UUID)
	}
	if _, exists := c.view().Node(o.Node); exists {
		return nil, refuse(ErrConflict, "there is a node %s", o.Node)
	}
	t.State, t.Node, t.Key = TicketRedeemed, o.Node, o.Key
	// The ticket is promised its address while it is open. A promise that was not kept is no reason for two owners.
	if err := c.ownable(t.Segment, t.Addr, m.MAC); err != nil {
		return nil, err
	}
	c.put("ticket", &t)
	// A reinstalled machine is a new node; the one that it was before has ended.
	if old, ok := c.view().Node(m.Node); ok {
		c.end(old, fmt.Sprintf("its machine was installed again and is node %s", o.Node))
	}
	m.State, m.Node, m.Phase, m.Percent = MachineInstalled, o.Node, PhaseInstalled, 100
	c.put("machine", &m)
	segment, err := c.segment(t.Segment)
	if err != nil {
		return nil, err
	}
	port := Port{MAC: t.Machine, Link: true, Segment: t.Segment, Address: netip.PrefixFrom(t.Addr, segment.Network.Bits())}
	n := &Node{ID: o.Node, Name: m.Name, Machine: m.MAC, Address: o.Address, Serial: o.Serial, NotAfter: o.NotAfter, Key: o.Key,
		Ports: []Port{port}, Joined: c.Time}
	c.put("node", n)
	c.event(m.MAC, "joined", "%s redeemed ticket %s and is node %s", m.Name, t.ID, n.ID)
	if segment.Mode == ModeProxy {
		return *n, nil // its address is the other server's, from which it asks for it
	}
	// From now on the address is the node's own: it must be able to start when nobody gives addresses.
	if l, ok := c.view().LeaseOf(t.Segment, m.MAC); ok && l.Addr != t.Addr {
		c.leave(l)
	}
	c.put("lease", &Lease{Segment: t.Segment, Addr: t.Addr, MAC: m.MAC, Class: "node", Hostname: m.Name})
	return *n, nil
}

// refused raises the alarm when a ticket is shown a second time: one of the two is a thief, so the first one gets neither
// duty nor vote until an operator decides.
func (o RedeemTicket) refused(c *change, why error) {
	t, ok := c.view().Ticket(o.ID)
	if !ok {
		return
	}
	// Told once: a stranger who knows only the id could otherwise fill the diary with it.
	text := clip(fmt.Sprintf("a redeem was refused: %v", why), maxText)
	if last, err := c.base.txn.Last("event", "mac", string(t.Machine)); err != nil || last == nil || last.(*Event).Text != text {
		c.alarm(t.Machine, "ticket", "%s", text)
	}
	if t.State != TicketRedeemed || !constantTimeEqual(t.Hash, o.Hash) || constantTimeEqual(t.Key, o.Key) {
		return
	}
	if n, ok := c.view().Node(t.Node); ok && n.Quarantine == "" && n.Ended == "" {
		n.Quarantine = fmt.Sprintf("its ticket %s was shown a second time, by another key", t.ID)
		c.put("node", &n)
		c.alarm(t.Machine, "quarantine", "%s is in quarantine: %s", n.Name, n.Quarantine)
	}
}

func containsMAC(all []MAC, want MAC) bool {
	for _, m := range all {
		if m == want {
			return true
		}
	}
	return false
}
