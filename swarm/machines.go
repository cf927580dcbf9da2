package swarm

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
)

// SeeMachine records that a machine showed itself on a segment. An unknown one is armed if the swarm approves by itself.
type SeeMachine struct {
	MAC     MAC    `json:"mac"`
	UUID    string `json:"uuid,omitempty"`
	Segment string `json:"segment"`
}

func (o SeeMachine) apply(c *change) (any, error) {
	if o.MAC.Hardware() == nil {
		return nil, refuse(ErrInvalid, "machine %q", o.MAC)
	}
	m, known := c.view().Machine(o.MAC)
	if !known {
		m = Machine{MAC: o.MAC, Name: c.freeName(defaultName(o.MAC)), State: MachineKnown}
	}
	if m.FirstSeen.IsZero() {
		m.FirstSeen = c.Time
		c.event(m.MAC, "seen", "%s showed itself for the first time, on segment %s", m.Name, o.Segment)
		settings, _ := c.view().Settings()
		if m.State == MachineKnown && settings.AutoApprove {
			c.arm(&m, settings.Profile, "approved by --auto-approve")
		}
	}
	if o.UUID != "" {
		m.UUID = o.UUID
	}
	m.Segment, m.LastSeen = o.Segment, c.Time
	c.put("machine", &m)
	return m, nil
}

// defaultName is made of the last three bytes of the MAC: stable, short, and what is printed on the machine's label.
func defaultName(mac MAC) string { return "node-" + strings.ReplaceAll(string(mac[9:]), ":", "") }

func (c *change) freeName(want string) string {
	name := want
	for i := 2; c.nameTaken(name); i++ {
		name = fmt.Sprintf("%s-%d", want, i)
	}
	return name
}

func (c *change) nameTaken(name string) bool {
	_, taken := get[Machine](c.txn, "machine", "name", name)
	return taken
}

func (c *change) arm(m *Machine, profile, why string) {
	// The id comes from the command, so that it is the same on every node.
	m.State, m.Install, m.Profile = MachineArmed, c.ID, profile
	m.Reason, m.Phase, m.Text, m.Percent = "", "", "", 0
	c.event(m.MAC, "armed", "%s is armed: its next network boot installs profile %s (%s)", m.Name, profile, why)
}

// NameMachine gives a machine its name, before or after it was first seen. The name becomes its host name.
type NameMachine struct {
	MAC  MAC    `json:"mac"`
	Name string `json:"name"`
}

func (o NameMachine) apply(c *change) (any, error) {
	if o.MAC.Hardware() == nil {
		return nil, refuse(ErrInvalid, "machine %q", o.MAC)
	}
	if err := checkName(o.Name); err != nil {
		return nil, err
	}
	m, known := c.view().Machine(o.MAC)
	if known && m.Name == o.Name {
		return m, nil
	}
	if c.nameTaken(o.Name) {
		return nil, refuse(ErrConflict, "another machine is called %s", o.Name)
	}
	if !known {
		m = Machine{MAC: o.MAC, State: MachineKnown}
	}
	m.Name = o.Name
	c.put("machine", &m)
	return m, nil
}

// checkName holds names to host names: RFC 1123, one label.
func checkName(name string) error {
	ok := len(name) >= 1 && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return refuse(ErrInvalid, "machine name %q: want a host name of a-z, 0-9 and '-', at most 63 long", name)
	}
	return nil
}

// ArmMachine makes the next network boot of a machine an install, once. What is empty stays as it was; Profile falls
// back to the swarm's.
type ArmMachine struct {
	MAC     MAC    `json:"mac"`
	Profile string `json:"profile,omitempty"`
	Disk    string `json:"disk,omitempty"`
	Wipe    bool   `json:"wipe,omitempty"`
}

func (o ArmMachine) apply(c *change) (any, error) {
	if o.MAC.Hardware() == nil {
		return nil, refuse(ErrInvalid, "machine %q", o.MAC)
	}
	m, known := c.view().Machine(o.MAC)
	if !known {
		m = Machine{MAC: o.MAC, Name: c.freeName(defaultName(o.MAC)), State: MachineKnown}
	}
	settings, _ := c.view().Settings()
	profile := firstOf(o.Profile, m.Profile, settings.Profile)
	if _, ok := c.view().Profile(profile); !ok {
		return nil, refuse(ErrNotFound, "profile %q", profile)
	}
	c.revokeTickets(m.MAC, "armed again")
	m.Wipe = o.Wipe
	m.Disk = firstOf(o.Disk, m.Disk)
	c.arm(&m, profile, "by an operator")
	c.put("machine", &m)
	return m, nil
}

func firstOf(all ...string) string {
	for _, s := range all {
		if s != "" {
			return s
		}
	}
	return ""
}

// HoldMachine stops everything that is being done to a machine until an operator arms it again.
type HoldMachine struct {
	MAC    MAC    `json:"mac"`
	Reason string `json:"reason"`
}

func (o HoldMachine) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	c.hold(m, o.Reason)
	return nil, nil
}

func (c *change) hold(m Machine, reason string) {
	c.revokeTickets(m.MAC, reason)
	m.State, m.Reason = MachineHeld, reason
	c.put("machine", &m)
	c.alarm(m.MAC, "held", "%s is held: %s", m.Name, reason)
}

// ReportInstall is a step of an installation, as the installing machine tells it to the node that serves it.
type ReportInstall struct {
	MAC       MAC    `json:"mac"`
	Install   string `json:"install"`
	Phase     string `json:"phase"`
	Text      string `json:"text"`
	Percent   int    `json:"percent"`
	Final     bool   `json:"final"`          // the agent gives up and waits
	UUID      string `json:"uuid,omitempty"` // SMBIOS, with the inventory
	Inventory []byte `json:"inventory,omitempty"`
}

// PhaseInstalled and PhaseFailed end an installation; all other phases are the agent's own words.
const (
	PhaseInstalled = "installed"
	PhaseFailed    = "failed"
)

func (o ReportInstall) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if m.Install != o.Install || m.State != MachineInstalling && m.State != MachineInstalled {
		return nil, refuse(ErrNotArmed, "install %s of %s is over (state %s)", o.Install, o.MAC, m.State)
	}
	if m.State == MachineInstalled {
		if o.Phase == PhaseInstalled {
			return nil, nil // told again, because our answer was lost
		}
		return nil, refuse(ErrConflict, "%s is already installed", o.MAC)
	}
	if o.Phase != m.Phase || o.Phase == PhaseFailed {
		c.record(o.Phase == PhaseFailed, m.MAC, "install", "%s: %s", o.Phase, o.Text)
	}
	m.Phase, m.Text, m.Percent, m.LastSeen = o.Phase, o.Text, o.Percent, c.Time
	if o.Inventory != nil {
		m.Inventory, m.UUID = o.Inventory, firstOf(o.UUID, m.UUID)
	}
	if o.Phase == PhaseInstalled {
		m.State = MachineInstalled
	}
	if o.Final {
		c.hold(m, o.Text)
		return nil, nil
	}
	c.put("machine", &m)
	return nil, nil
}

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
	if o.ID == "" || o.Hash == "" {
		return nil, refuse(ErrInvalid, "a ticket needs an id and a hash")
	}
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if m.State != MachineArmed && m.State != MachineInstalling {
		return nil, refuse(ErrNotArmed, "%s is %s", m.Name, m.State)
	}
	c.revokeTickets(m.MAC, "its install config was fetched again")
	t := &Ticket{ID: o.ID, Hash: o.Hash, Machine: o.MAC, Install: m.Install, Segment: o.Segment, Addr: o.Addr, State: TicketMinted, Expires: o.Expires}
	c.put("ticket", t)
	if m.State == MachineArmed {
		m.State = MachineInstalling
		c.put("machine", &m)
	}
	c.event(m.MAC, "ticket", "ticket %s minted for %s at %s", t.ID, m.Name, o.Addr)
	return *t, nil
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
			t.State = TicketRevoked
			c.put("ticket", &t)
			c.event(mac, "ticket", "ticket %s revoked: %s", t.ID, why)
		}
	}
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
}

func (o RedeemTicket) apply(c *change) (any, error) {
	if o.Node == "" || o.Key == "" {
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
		return c.node(t.Node)
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
	t.State, t.Node, t.Key = TicketRedeemed, o.Node, o.Key
	c.put("ticket", &t)
	// A reinstalled machine is a new node; the one that it was before has ended.
	if old, ok := c.view().Node(m.Node); ok && old.ID != o.Node {
		old.Left = true
		c.put("node", &old)
	}
	m.State, m.Node, m.Phase, m.Percent = MachineInstalled, o.Node, PhaseInstalled, 100
	c.put("machine", &m)
	segment, err := c.segment(t.Segment)
	if err != nil {
		return nil, err
	}
	port := Port{MAC: t.Machine, Link: true, Segment: t.Segment, Address: netip.PrefixFrom(t.Addr, segment.Network.Bits())}
	n := &Node{ID: o.Node, Name: m.Name, Machine: m.MAC, Address: o.Address, Serial: o.Serial, Ports: []Port{port}, Joined: c.Time}
	c.put("node", n)
	// From now on the address is the node's own: it must be able to start when nobody gives addresses.
	if l, ok := c.view().LeaseOf(t.Segment, m.MAC); ok && l.Addr != t.Addr {
		c.remove("lease", &l)
	}
	c.put("lease", &Lease{Segment: t.Segment, Addr: t.Addr, MAC: m.MAC, Class: "node", Hostname: m.Name})
	c.event(m.MAC, "joined", "%s redeemed ticket %s and is node %s", m.Name, t.ID, n.ID)
	return *n, nil
}

// refused raises the alarm when a ticket is shown a second time: one of the two is a thief, so the first one gets neither
// duty nor vote until an operator decides.
func (o RedeemTicket) refused(c *change, why error) {
	t, ok := c.view().Ticket(o.ID)
	if !ok {
		return
	}
	c.alarm(t.Machine, "ticket", "a redeem was refused: %v", why)
	if t.State != TicketRedeemed || !constantTimeEqual(t.Hash, o.Hash) {
		return
	}
	if n, ok := c.view().Node(t.Node); ok && n.Quarantine == "" {
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

// PutProfile stores a profile under its name.
type PutProfile struct {
	Profile Profile `json:"profile"`
	Default bool    `json:"default"` // what unknown machines get from now on
}

func (o PutProfile) apply(c *change) (any, error) {
	if o.Profile.Name == "" {
		return nil, refuse(ErrInvalid, "a profile needs a name")
	}
	c.put("profile", &o.Profile)
	if settings, ok := c.view().Settings(); ok && o.Default {
		settings.Profile = o.Profile.Name
		c.put("settings", &settings)
	}
	return nil, nil
}

// PutArtifact writes down what is known of an artifact.
type PutArtifact struct {
	Artifact Artifact `json:"artifact"`
}

func (o PutArtifact) apply(c *change) (any, error) {
	if o.Artifact.Digest == "" {
		return nil, refuse(ErrInvalid, "an artifact needs a digest")
	}
	c.put("artifact", &o.Artifact)
	return nil, nil
}

// Note writes an event that changes nothing else.
type Note struct {
	MAC  MAC    `json:"mac,omitempty"`
	Kind string `json:"kind"`
	Text string `json:"text"`
	Warn bool   `json:"warn,omitempty"`
}

func (o Note) apply(c *change) (any, error) {
	c.record(o.Warn, o.MAC, o.Kind, "%s", o.Text)
	return nil, nil
}
