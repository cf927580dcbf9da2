package swarm

import (
	"fmt"
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
	if !o.MAC.valid() || len(o.UUID) > maxWord || len(o.Segment) > maxWord {
		return nil, refuse(ErrInvalid, "machine %q on segment %q", clip(string(o.MAC), maxWord), clip(o.Segment, maxWord))
	}
	m, ok := c.see(c.base, o.MAC, o.UUID, o.Segment)
	if !ok {
		return nil, refuse(ErrFull, "%d machines are known; %s is not written down", maxMachines, o.MAC)
	}
	return m, nil
}

// maxMachines bounds how many machines the swarm knows: on a segment anybody can invent as many as he likes.
const maxMachines = 200_000

// seenGrain is how exactly it is known when a machine was last seen: a boot is many packets.
const seenGrain = 10 * time.Second

// see notes that a machine, which v shows as it is now, showed itself. It says no when an unknown one does not fit in any
// more.
func (c *change) see(v View, mac MAC, uuid, segment string) (Machine, bool) {
	m, known := v.Machine(mac)
	if known && !m.FirstSeen.IsZero() && m.Segment == segment && (uuid == "" || uuid == m.UUID) {
		if c.Time.Sub(m.LastSeen).Abs() >= seenGrain {
			m.LastSeen = c.Time
			c.write("machine", &m) // nobody needs to wake for this
		}
		return m, true
	}
	if !known {
		var err error
		if m, err = c.newMachine(v, mac); err != nil {
			return m, false
		}
	}
	if m.FirstSeen.IsZero() {
		m.FirstSeen = c.Time
		c.event(m.MAC, "seen", "%s showed itself for the first time, on segment %s", m.Name, segment)
		settings, _ := v.Settings()
		if m.State == MachineKnown && settings.AutoApprove && m.Remarks.User == "" {
			c.arm(&m, settings.Profile, "approved by --auto-approve")
		}
	}
	m.UUID = firstOf(uuid, m.UUID)
	m.Segment, m.LastSeen = segment, c.Time
	c.put("machine", &m)
	return m, true
}

// newMachine is a machine that v does not know, with a name of its own; the caller stores it.
func (c *change) newMachine(v View, mac MAC) (Machine, error) {
	if c.number(machineCount) >= maxMachines {
		return Machine{}, refuse(ErrFull, "%d machines are known", maxMachines)
	}
	c.next(machineCount)
	return Machine{MAC: mac, Name: freeName(v, mac), State: MachineKnown}, nil
}

func (c *change) removeMachine(m *Machine) {
	c.remove("machine", m)
	c.numbers[machineCount] = c.number(machineCount) - 1
}

// shortName is made of the last three bytes of the MAC: stable, and what is printed on the machine's label.
func shortName(mac MAC) string { return "node-" + strings.ReplaceAll(string(mac[9:]), ":", "") }

// longName is that of all six: for machines whose makers count alike, and for those that somebody made up.
func longName(mac MAC) string { return "node-" + strings.ReplaceAll(string(mac), ":", "") }

func freeName(v View, mac MAC) string {
	name := shortName(mac)
	if nameTaken(v, name) {
		name = longName(mac)
	}
	for i := 2; nameTaken(v, name); i++ {
		name = fmt.Sprintf("%s-%d", longName(mac), i)
	}
	return name
}

func nameTaken(v View, name string) bool {
	_, taken := get[Machine](v.txn, "machine", "name", name)
	return taken
}

func (c *change) arm(m *Machine, profile, why string) {
	m.State, m.Install, m.Profile = MachineArmed, c.armingOf(m.MAC), profile
	m.Reason, m.Phase, m.Text, m.Percent, m.Life, m.Run = "", "", "", 0, Life{}, Run{}
	if p, ok := c.view().Profile(profile); ok && p.Diskless() {
		m.State, m.Install = MachineNetboot, ""
		c.event(m.MAC, "netboot", "%s boots profile %s from the network from now on, and nothing is written to it (%s)", m.Name, profile, why)
		return
	}
	c.event(m.MAC, "armed", "%s is armed: its next network boot installs profile %s (%s)", m.Name, profile, why)
}

// armingOf names what a machine is armed for. It comes from the command, so that it is the same on every node; and from the MAC,
// because one command can arm several.
func (c *change) armingOf(mac MAC) string {
	return c.ID + "-" + strings.ReplaceAll(string(mac), ":", "")
}

// NameMachine gives a machine its name, before or after it was first seen. The name becomes its host name.
type NameMachine struct {
	MAC  MAC    `json:"mac"`
	Name string `json:"name"`
}

func (o NameMachine) words() string { return fmt.Sprintf("name machine %s %s", o.MAC, o.Name) }

func (o NameMachine) apply(c *change) (any, error) {
	if !o.MAC.valid() {
		return nil, refuse(ErrInvalid, "machine %q", o.MAC)
	}
	if err := checkName("machine", o.Name); err != nil {
		return nil, err
	}
	m, known := c.view().Machine(o.MAC)
	if known && m.Name == o.Name {
		return m, nil
	}
	if nameTaken(c.base, o.Name) {
		return nil, refuse(ErrConflict, "another machine is called %s", o.Name)
	}
	if !known {
		var err error
		if m, err = c.newMachine(c.base, o.MAC); err != nil {
			return nil, err
		}
	}
	m.Name = o.Name
	c.put("machine", &m)
	return m, nil
}

// checkName holds names to host names: RFC 1123, one label.
func checkName(what, name string) error {
	ok := len(name) >= 1 && len(name) <= 63 && name[0] != '-' && name[len(name)-1] != '-'
	for _, r := range name {
		ok = ok && (r >= 'a' && r <= 'z' || r >= '0' && r <= '9' || r == '-')
	}
	if !ok {
		return refuse(ErrInvalid, "%s name %q: want a host name of a-z, 0-9 and '-', at most 63 long", what, clip(name, maxWord))
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
	User    string `json:"user,omitempty"` // who it is reserved for from now on
}

func (o ArmMachine) since() int {
	if o.User != "" {
		return 3
	}
	return 1
}

func (o ArmMachine) words() string {
	text := fmt.Sprintf("arm machine %s", o.MAC)
	if o.Profile != "" {
		text += ", profile " + o.Profile
	}
	if o.Disk != "" {
		text += ", disk " + o.Disk
	}
	if o.Wipe {
		text += ", what is on the disk may be destroyed"
	}
	if o.User != "" {
		text += ", for " + clip(o.User, maxWord)
	}
	return text
}

func (o ArmMachine) apply(c *change) (any, error) {
	if !o.MAC.valid() {
		return nil, refuse(ErrInvalid, "machine %q", o.MAC)
	}
	m, known := c.view().Machine(o.MAC)
	if !known {
		var err error
		if m, err = c.newMachine(c.base, o.MAC); err != nil {
			return nil, err
		}
	}
	settings, _ := c.view().Settings()
	profile := firstOf(o.Profile, m.Profile, settings.Profile)
	p, ok := c.view().Profile(profile)
	if !ok {
		return nil, refuse(ErrNotFound, "profile %q", profile)
	}
	if why := p.Misfit(m); why != "" && m.Arch != "" { // else nobody has seen it yet, or it is decided when it boots
		return nil, refuse(ErrConflict, "%s", why)
	}
	if o.User != "" {
		if !isTag(o.User) {
			return nil, refuse(ErrInvalid, "user %q: %s", clip(o.User, maxWord), tagRule)
		}
		if m.Remarks.User != "" && m.Remarks.User != o.User {
			return nil, refuse(ErrConflict, "%s is reserved for %s; to give it to %s, first: offshoot machine reserve %s --user %s", m.Name, m.Remarks.User, o.User, m.MAC, o.User)
		}
		m.Remarks.User = o.User
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

func (o HoldMachine) words() string { return fmt.Sprintf("hold machine %s: %s", o.MAC, o.Reason) }

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
	m.State, m.Reason, m.Life = MachineHeld, clip(reason, maxText), Life{}
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

// BeginInstall notes that an armed machine runs an installer that has read what it is told to do. The agent says so by fetching
// its config; other installers fetch that late.
type BeginInstall struct {
	MAC MAC `json:"mac"`
}

func (o BeginInstall) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	switch m.State {
	case MachineInstalling:
		return nil, nil
	case MachineArmed:
	default:
		return nil, refuse(ErrNotArmed, "%s is %s", m.Name, m.State)
	}
	m.State, m.LastSeen = MachineInstalling, c.Time
	c.gotOn(&m, "runs the installer")
	c.put("machine", &m)
	c.event(m.MAC, "install", "%s runs the installer of profile %s", m.Name, m.Profile)
	return nil, nil
}

// PhaseInstalled and PhaseFailed end an installation, PhaseReleased and PhaseFailed a release; all other phases are the agent's own words.
const (
	PhaseInstalled = "installed"
	PhaseFailed    = "failed"
	PhaseReleased  = "released" // ends a release
)

func (o ReportInstall) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if m.State == MachineFree && m.Install == o.Install && o.Phase == PhaseReleased {
		return nil, nil // told again, because our answer was lost
	}
	if m.Install != o.Install || m.State != MachineInstalling && m.State != MachineInstalled && m.State != MachineReleasing {
		return nil, refuse(ErrNotArmed, "install %s of %s is over (state %s)", o.Install, o.MAC, m.State)
	}
	if m.State == MachineInstalled {
		if o.Phase == PhaseInstalled {
			return nil, nil // told again, because our answer was lost
		}
		return nil, refuse(ErrConflict, "%s is already installed", o.MAC)
	}
	if o.Phase != m.Phase || o.Phase == PhaseFailed {
		kind := "install"
		if m.State == MachineReleasing {
			kind = "release"
		}
		c.record(o.Phase == PhaseFailed, m.MAC, kind, "%s: %s", o.Phase, o.Text)
	}
	// The same once more is no progress: an agent that hangs says for ever how far it is.
	if o.Phase != m.Phase || o.Percent != m.Percent || o.Text != "" && clip(o.Text, maxText) != m.Text {
		c.gotOn(&m, o.said())
	}
	m.Phase, m.Text, m.Percent, m.LastSeen = clip(o.Phase, maxWord), clip(o.Text, maxText), o.Percent, c.Time
	if o.Inventory != nil {
		m.Inventory, m.UUID = o.Inventory, firstOf(o.UUID, m.UUID)
	}
	switch {
	case o.Phase == PhaseInstalled && m.State == MachineReleasing, o.Phase == PhaseReleased && m.State != MachineReleasing:
		return nil, refuse(ErrConflict, "%s is %s", m.Name, m.State)
	case o.Phase == PhaseInstalled:
		m.State, m.Life, m.Run = MachineInstalled, Life{}, Run{}
	case o.Phase == PhaseReleased:
		m.Phase, m.Text, m.Percent = "", "", 0
		c.free(m, o.Text)
		return nil, nil
	}
	if o.Final {
		c.hold(m, o.Text)
		return nil, nil
	}
	c.put("machine", &m)
	return nil, nil
}

// said is the report in one line.
func (o ReportInstall) said() string {
	if o.Text == "" {
		return fmt.Sprintf("%s %d %%", clip(o.Phase, maxWord), o.Percent)
	}
	return o.Text
}
