package swarm

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Unknown is what machines do that nobody has asked for, when they boot from the network.
type Unknown string

// What unknown machines can do. Whatever it is, nothing is written to their disks.
const (
	UnknownFree Unknown = "free" // boot the agent, tell what they are, and wait
	UnknownWait Unknown = "wait" // wait in iPXE
	UnknownOff  Unknown = "off"  // boot the agent, tell what they are, and are switched off, to be woken
)

// UnknownMachines is what machines do that nobody has asked for.
func (s Settings) UnknownMachines() Unknown {
	return Unknown(firstOf(string(s.Unknown), string(UnknownFree)))
}

// SetUnknown changes what machines do that nobody has asked for.
type SetUnknown struct {
	Unknown Unknown `json:"unknown"`
}

func (o SetUnknown) words() string {
	return "set what unknown machines do to " + clip(string(o.Unknown), maxWord)
}

func (o SetUnknown) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok || !slices.Contains([]Unknown{UnknownFree, UnknownWait, UnknownOff}, o.Unknown) {
		return nil, refuse(ErrInvalid, "unknown machines %q: want free, wait or off", clip(string(o.Unknown), maxWord))
	}
	s.Unknown = o.Unknown
	c.put("settings", &s)
	return nil, nil
}

// SetConsoleInstalls says whether who stands before a free machine may have it installed from its console.
type SetConsoleInstalls struct {
	On bool `json:"on"`
}

func (o SetConsoleInstalls) words() string {
	if o.On {
		return "allow installs that are asked for on the console of a free machine"
	}
	return "refuse installs that are asked for on the console of a free machine"
}

func (o SetConsoleInstalls) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok {
		return nil, refuse(ErrNotFound, "the swarm's settings")
	}
	s.ConsoleInstalls = o.On
	c.put("settings", &s)
	return nil, nil
}

// What is kept of machines that nobody asked for is bounded: whoever reaches a segment can invent them.
const (
	maxInventory   = 16 << 10 // bytes; sixty disks have 12 KiB
	maxInventories = 20_000   // machines; who comes later is free without an inventory until it is armed
)

// ReportFree is what an unknown machine tells of itself when it begins to wait in the agent.
type ReportFree struct {
	MAC       MAC    `json:"mac"`
	UUID      string `json:"uuid,omitempty"`
	Text      string `json:"text"` // the inventory in words
	Inventory []byte `json:"inventory,omitempty"`
}

func (o ReportFree) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if m.State != MachineKnown && m.State != MachineFree {
		return nil, refuse(ErrConflict, "%s is %s", m.Name, m.State)
	}
	if len(o.UUID) > maxWord {
		return nil, refuse(ErrInvalid, "the UUID of %s is too long", m.Name)
	}
	if len(o.Inventory) <= maxInventory && c.number(machineCount) <= maxInventories {
		m.Inventory = o.Inventory
	}
	if m.State == MachineKnown {
		c.event(m.MAC, "free", "%s is free and waits, nothing is written to it: %s", m.Name, o.Text)
	}
	m.State, m.UUID, m.LastSeen = MachineFree, firstOf(o.UUID, m.UUID), c.Time
	c.put("machine", &m)
	return nil, nil
}

// Run is what the boot environment is doing to a machine.
type Run struct {
	Boot    string `json:"boot,omitempty"`    // id of the network boot that works on it
	Boots   int    `json:"boots,omitempty"`   // how many have since it was armed
	Disk    string `json:"disk,omitempty"`    // the only disk that a release wipes; "": all that are not removable
	Discard bool   `json:"discard,omitempty"` // a release discards all blocks
}

// maxBoots is how many network boots may work on one arming. What ends three times will end a fourth time.
const maxBoots = 3

// BeginBoot says that a network boot of a machine begins to work on what it is armed for. The value is the state of the machine:
// held, if too many have begun and none has finished.
type BeginBoot struct {
	MAC  MAC    `json:"mac"`
	Boot string `json:"boot"` // names it
}

func (o BeginBoot) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	switch {
	case !m.Wanted():
		return nil, refuse(ErrNotArmed, "%s is %s", m.Name, m.State)
	case o.Boot == "" || len(o.Boot) > maxWord:
		return nil, refuse(ErrInvalid, "a network boot of %s without a name", m.Name)
	case m.Run.Boot == o.Boot:
		return m.State, nil
	case m.Run.Boots >= maxBoots:
		c.hold(m, fmt.Sprintf("%d network boots began to work on it and none finished; the last one came to: %s", maxBoots, firstOf(strings.TrimSpace(m.Phase+" "+m.Text), "nothing")))
		return MachineHeld, nil
	}
	m.Run.Boot, m.Run.Boots = o.Boot, m.Run.Boots+1
	c.put("machine", &m)
	return m.State, nil
}

// Wanted says whether the next network boot of a machine may write to its disks.
func (m Machine) Wanted() bool {
	return m.State == MachineArmed || m.State == MachineInstalling || m.State == MachineReleasing
}

// ReleaseMachine has the next network boot of a machine wipe its disks, once; then it is free. Disks that we did not install
// are left alone unless Wipe says that they may go.
type ReleaseMachine struct {
	MAC     MAC    `json:"mac"`
	Disk    string `json:"disk,omitempty"` // the only one; "": all that are not removable
	Wipe    bool   `json:"wipe,omitempty"`
	Discard bool   `json:"discard,omitempty"` // all blocks, not only what marks a disk as used
}

func (o ReleaseMachine) words() string {
	text := fmt.Sprintf("release machine %s: wipe %s", o.MAC, firstOf(clip(o.Disk, maxWord), "its disks"))
	if o.Discard {
		text += ", discard all blocks"
	}
	if o.Wipe {
		text += ", also what we did not install"
	}
	return text
}

func (o ReleaseMachine) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if len(o.Disk) > maxWord {
		return nil, refuse(ErrInvalid, "disk %q", clip(o.Disk, maxWord))
	}
	if n, ok := c.view().Node(m.Node); ok && !n.Left {
		return nil, refuse(ErrConflict, "%s is node %s, which has to leave first. On it say: offshoot swarm leave; if it is lost, on another node: offshoot swarm evict %s",
			m.Name, n.ID, n.Name)
	} else if ok && n.Ended == "" {
		c.end(n, "its machine is released") // its disk may start once more before it is wiped
	}
	c.revokeTickets(m.MAC, "the machine is released")
	m.State, m.Install, m.Wipe = MachineReleasing, c.armingOf(m.MAC), o.Wipe
	m.Run = Run{Disk: o.Disk, Discard: o.Discard}
	m.Reason, m.Phase, m.Text, m.Percent, m.Life = "", "", "", 0, Life{}
	c.event(m.MAC, "releasing", "%s is released: its next network boot wipes %s (by an operator)", m.Name, firstOf(o.Disk, "its disks"))
	c.put("machine", &m)
	return m, nil
}

// formerLease is how long an address still belongs to a machine that was a node: as long as what a DHCP server told it.
const formerLease = time.Hour

// free is the end of a release.
func (c *change) free(m Machine, text string) {
	for _, s := range c.view().Segments() {
		if l, ok := c.view().LeaseOf(s.ID, m.MAC); ok && l.Expires.IsZero() {
			l.Expires, l.Class = c.Time.Add(formerLease), "agent"
			c.put("lease", &l)
		}
	}
	m.State, m.Node, m.Run, m.Life, m.Wipe, m.Disk = MachineFree, "", Run{}, Life{}, false, ""
	m.Remarks.User = ""
	c.put("machine", &m)
	c.event(m.MAC, "free", "%s is free again: %s", m.Name, text)
}

// RequestInstall is what somebody at the console of a free machine asks for. It arms the machine, if the swarm allows that.
type RequestInstall struct {
	MAC     MAC    `json:"mac"`
	Profile string `json:"profile"`
	Disk    string `json:"disk,omitempty"`
	Wipe    bool   `json:"wipe,omitempty"`
}

func (o RequestInstall) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	settings, _ := c.view().Settings()
	switch p, known := c.view().Profile(o.Profile); {
	case !settings.ConsoleInstalls:
		return nil, refuse(ErrConflict, "installs from the console are switched off; on a node say: offshoot machine assign %s %s", m.MAC, clip(o.Profile, maxWord))
	case m.State != MachineFree:
		return nil, refuse(ErrConflict, "%s is %s", m.Name, m.State)
	case m.Remarks.User != "":
		return nil, refuse(ErrConflict, "%s is reserved for %s", m.Name, m.Remarks.User)
	case !known:
		return nil, refuse(ErrNotFound, "profile %q", clip(o.Profile, maxWord))
	case p.Misfit(m) != "":
		return nil, refuse(ErrConflict, "%s", p.Misfit(m))
	case len(o.Disk) > maxWord:
		return nil, refuse(ErrInvalid, "disk %q", clip(o.Disk, maxWord))
	}
	m.Disk, m.Wipe = o.Disk, o.Wipe
	c.arm(&m, o.Profile, "asked for on its console")
	c.put("machine", &m)
	return nil, nil
}

// Remarks are what operators said of a machine. They outlive its installations.
type Remarks struct {
	User    string            `json:"user,omitempty"` // who it is reserved for
	Labels  map[string]string `json:"labels,omitempty"`
	OwnDisk string            `json:"own_disk,omitempty"` // how it starts its own disk: see OwnDiskMethods; "": as its model wants
}

// zero says whether nothing was said.
func (r Remarks) zero() bool { return r.User == "" && len(r.Labels) == 0 && r.OwnDisk == "" }

// remark changes what is said of a machine, which may not have been seen yet.
func (c *change) remark(mac MAC, say func(*Remarks)) (any, error) {
	if !mac.valid() {
		return nil, refuse(ErrInvalid, "machine %q", mac)
	}
	m, known := c.view().Machine(mac)
	if !known {
		var err error
		if m, err = c.newMachine(c.base, mac); err != nil {
			return nil, err
		}
	}
	say(&m.Remarks)
	c.put("machine", &m)
	return nil, nil
}

// ReserveMachine keeps a machine for a user: it is neither armed by itself nor from its console, and not for another user. An
// empty user lifts that.
type ReserveMachine struct {
	MAC  MAC    `json:"mac"`
	User string `json:"user,omitempty"`
}

func (o ReserveMachine) words() string {
	if o.User == "" {
		return fmt.Sprintf("machine %s is reserved for nobody any more", o.MAC)
	}
	return fmt.Sprintf("reserve machine %s for %s", o.MAC, clip(o.User, maxWord))
}

func (o ReserveMachine) apply(c *change) (any, error) {
	if o.User != "" && !isTag(o.User) {
		return nil, refuse(ErrInvalid, "user %q: %s", clip(o.User, maxWord), tagRule)
	}
	return c.remark(o.MAC, func(r *Remarks) { r.User = o.User })
}

// LabelMachine puts labels on a machine, and takes others off.
type LabelMachine struct {
	MAC  MAC               `json:"mac"`
	Set  map[string]string `json:"set,omitempty"`
	Drop []string          `json:"drop,omitempty"`
}

// maxLabels bounds the labels of one machine.
const maxLabels = 32

func (o LabelMachine) words() string {
	var all []string
	for _, key := range slices.Sorted(maps.Keys(o.Set)) {
		all = append(all, key+"="+o.Set[key])
	}
	for _, key := range o.Drop {
		all = append(all, key+"-")
	}
	return fmt.Sprintf("label machine %s %s", o.MAC, strings.Join(all, " "))
}

func (o LabelMachine) apply(c *change) (any, error) {
	for key, value := range o.Set {
		if !isTag(key) || value != "" && !isTag(value) {
			return nil, refuse(ErrInvalid, "label %q=%q: %s", clip(key, maxWord), clip(value, maxWord), tagRule)
		}
	}
	m, _ := c.view().Machine(o.MAC)
	labels := map[string]string{} // a fresh one: rows that were stored never change
	maps.Copy(labels, m.Remarks.Labels)
	maps.Copy(labels, o.Set)
	for _, key := range o.Drop {
		delete(labels, key)
	}
	if len(labels) > maxLabels {
		return nil, refuse(ErrFull, "%d labels on %s; %d fit", len(labels), o.MAC, maxLabels)
	}
	if len(labels) == 0 {
		labels = nil
	}
	return c.remark(o.MAC, func(r *Remarks) { r.Labels = labels })
}

// OwnDiskMethods are the ways in which a machine can be told to start its own disk.
var OwnDiskMethods = []string{"exit", "sanboot"}

// SetOwnDisk chooses how a machine is told to start its own disk; "" is what its model wants.
type SetOwnDisk struct {
	MAC    MAC    `json:"mac"`
	Method string `json:"method,omitempty"`
}

func (o SetOwnDisk) words() string {
	return fmt.Sprintf("machine %s starts its own disk by: %s", o.MAC, firstOf(clip(o.Method, maxWord), "what its model wants"))
}

func (o SetOwnDisk) apply(c *change) (any, error) {
	if o.Method != "" && !slices.Contains(OwnDiskMethods, o.Method) {
		return nil, refuse(ErrInvalid, "own disk by %q: want one of %s", clip(o.Method, maxWord), strings.Join(OwnDiskMethods, ", "))
	}
	return c.remark(o.MAC, func(r *Remarks) { r.OwnDisk = o.Method })
}

const tagRule = "want 1 to 63 letters, digits and . _ / @ -"

// isTag accepts users, and keys and values of labels: what needs no quotes anywhere.
func isTag(s string) bool {
	ok := len(s) >= 1 && len(s) <= 63 && s[len(s)-1] != '-' // a dash at the end takes a label off
	for _, r := range s {
		ok = ok && (r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._/@-", r))
	}
	return ok
}
