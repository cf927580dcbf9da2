package swarm

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
)

// Profile is what to install. Kernel, Initrd, Args and Binary are those of the agent, which every driver can fall back on; what
// an installer of its own boots is in Installer.
type Profile struct {
	Name      string            `json:"name"`
	Driver    string            `json:"driver"` // "image", "debian", …: package driver knows them
	Release   string            `json:"release,omitempty"`
	Arch      string            `json:"arch,omitempty"`   // as the distribution says it; "" is amd64
	Params    json.RawMessage   `json:"params,omitempty"` // canonical JSON: package driver knows them
	Templates map[string]string `json:"templates,omitempty"`
	Installer map[string]string `json:"installer,omitempty"` // digests by name: "kernel", "initrd", …
	Image     string            `json:"image"`               // digest of the disk image
	Format    string            `json:"format"`
	DiskSize  int64             `json:"disk_size,omitempty"` // bytes once written
	Kernel    string            `json:"kernel"`              // digests of the network-boot environment
	Initrd    string            `json:"initrd"`
	Binary    string            `json:"binary"`
	Args      string            `json:"args,omitempty"`      // kernel arguments of the agent
	RootHash  string            `json:"root_hash,omitempty"` // crypt(5) SHA-512
	SSHKeys   []string          `json:"ssh_keys,omitempty"`
	Disk      string            `json:"disk,omitempty"`
	// LeaveBootOrder: an installation may leave the machine's own disk first in the boot order of its firmware.
	LeaveBootOrder bool `json:"leave_boot_order,omitempty"`
}

// DriverDiskless is the driver of machines that are never installed: arming one with such a profile makes it MachineNetboot, for
// good, and never MachineArmed.
const DriverDiskless = "diskless"

// Diskless says whether machines with this profile have their root on the network.
func (p Profile) Diskless() bool { return p.Driver == DriverDiskless }

// Needs lists the digests that a node must hold to install this profile.
func (p Profile) Needs() []string {
	all := []string{p.Kernel, p.Initrd, p.Image, p.Binary}
	for _, name := range slices.Sorted(maps.Keys(p.Installer)) {
		all = append(all, p.Installer[name])
	}
	return slices.DeleteFunc(all, func(digest string) bool { return digest == "" })
}

// Bounds of profiles. Each stands in every snapshot of the ledger, and one command has to carry it.
const (
	maxProfiles  = 200
	maxParams    = 64 << 10 // bytes
	maxTemplates = 96 << 10 // bytes of all templates of one profile
	maxParts     = 16       // templates, and files of an installer
)

// since says which protocol a profile takes. What a node of protocol 1 wrote down must be taken as that node took it.
func (p Profile) since() int {
	if p.Release != "" || p.Arch != "" || p.Params != nil || p.Templates != nil || p.Installer != nil || p.Diskless() || p.LeaveBootOrder {
		return 3
	}
	return 1
}

// Check says what is wrong with a profile, as far as it can be said without knowing its driver; the error matches ErrInvalid.
func (p Profile) Check() error {
	if err := checkName("profile", p.Name); err != nil {
		return err
	}
	size := 0
	for name, text := range p.Templates {
		size += len(name) + len(text)
	}
	switch {
	case p.Driver == "" || len(p.Driver) > maxWord || len(p.Release) > maxWord || len(p.Arch) > maxWord:
		return refuse(ErrInvalid, "profile %s: driver, release and architecture are a word each, and a driver there must be", p.Name)
	case len(p.Params) > maxParams:
		return refuse(ErrInvalid, "profile %s: %d bytes of parameters, at most %d", p.Name, len(p.Params), maxParams)
	case size > maxTemplates || len(p.Templates) > maxParts:
		return refuse(ErrInvalid, "profile %s: %d templates of %d bytes, at most %d of %d", p.Name, len(p.Templates), size, maxParts, maxTemplates)
	case len(p.Installer) > maxParts:
		return refuse(ErrInvalid, "profile %s: the installer has %d files, at most %d", p.Name, len(p.Installer), maxParts)
	}
	var canonical bytes.Buffer
	if p.Params != nil && (json.Compact(&canonical, p.Params) != nil || !bytes.Equal(canonical.Bytes(), p.Params)) {
		return refuse(ErrInvalid, "profile %s: its parameters are no compact JSON", p.Name)
	}
	digests := maps.Clone(p.Installer)
	if digests == nil {
		digests = map[string]string{}
	}
	digests["agent's kernel"], digests["agent's initrd"], digests["program"] = p.Kernel, p.Initrd, p.Binary
	if p.Image != "" {
		digests["image"] = p.Image
	}
	for _, name := range slices.Sorted(maps.Keys(digests)) {
		if !isDigest(digests[name]) {
			return refuse(ErrInvalid, "profile %s: %s %q is no SHA-256", p.Name, clip(name, maxWord), clip(digests[name], maxWord))
		}
	}
	return nil
}

// PutProfile stores a profile under its name.
type PutProfile struct {
	Profile Profile `json:"profile"`
	Default bool    `json:"default"` // what unknown machines get from now on
}

func (o PutProfile) words() string {
	p := o.Profile
	text := fmt.Sprintf("write profile %s down: image %s", clip(p.Name, maxWord), p.Image)
	if p.Image == "" {
		text = fmt.Sprintf("write profile %s down: driver %s, release %s", clip(p.Name, maxWord), clip(p.Driver, maxWord), clip(p.Release, maxWord))
	}
	if o.Default {
		text += ", for all unknown machines"
	}
	return text
}

// since implements newer.
func (o PutProfile) since() int { return o.Profile.since() }

func (o PutProfile) apply(c *change) (any, error) {
	if o.Profile.Name == "" {
		return nil, refuse(ErrInvalid, "a profile needs a name")
	}
	if o.since() > 1 {
		if err := o.Profile.Check(); err != nil {
			return nil, err
		}
		if _, known := c.view().Profile(o.Profile.Name); !known && len(c.view().Profiles()) >= maxProfiles {
			return nil, refuse(ErrFull, "there are %d profiles", maxProfiles)
		}
	}
	if err := c.keepsDisks(o.Profile); err != nil {
		return nil, err
	}
	c.put("profile", &o.Profile)
	if settings, ok := c.view().Settings(); ok && o.Default {
		settings.Profile = o.Profile.Name
		c.put("settings", &settings)
	}
	return nil, nil
}

// keepsDisks refuses to turn a profile that leaves disks alone into one that writes them, while machines boot by it; nor the other way.
func (c *change) keepsDisks(p Profile) error {
	former, known := c.view().Profile(p.Name)
	if !known || former.Diskless() == p.Diskless() {
		return nil
	}
	for _, m := range c.view().Machines() {
		if m.Profile == p.Name && (m.State == MachineNetboot || m.State == MachineArmed || m.State == MachineInstalling) {
			return refuse(ErrConflict, "machine %s is %s with profile %s, whose driver is %s: take another name for the new one", m.Name, m.State, p.Name, former.Driver)
		}
	}
	return nil
}

// DropProfile removes a profile that nobody is to get any more.
type DropProfile struct {
	Name string `json:"name"`
}

func (o DropProfile) words() string { return "remove profile " + clip(o.Name, maxWord) }

func (o DropProfile) apply(c *change) (any, error) {
	p, ok := c.view().Profile(o.Name)
	if !ok {
		return nil, refuse(ErrNotFound, "profile %q", clip(o.Name, maxWord))
	}
	if settings, _ := c.view().Settings(); settings.Profile == p.Name {
		return nil, refuse(ErrConflict, "profile %s is what unknown machines get", p.Name)
	}
	for _, m := range c.view().Machines() {
		if m.Profile == p.Name && (m.State == MachineArmed || m.State == MachineInstalling || m.State == MachineNetboot) {
			return nil, refuse(ErrConflict, "machine %s is %s with profile %s: arm it with another one, or hold it", m.Name, m.State, p.Name)
		}
	}
	c.remove("profile", &p)
	if set, ok := c.view().WorkingSet(p.Name); ok {
		c.remove("set", &set)
	}
	c.event("", "profile", "profile %s is removed", p.Name)
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
	if o.MAC != "" && !o.MAC.valid() {
		return nil, refuse(ErrInvalid, "machine %q", clip(string(o.MAC), maxWord))
	}
	c.record(o.Warn, o.MAC, o.Kind, "%s", o.Text)
	return nil, nil
}
