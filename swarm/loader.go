package swarm

import "fmt"

// ParseLoader reads what String writes.
func ParseLoader(text string) (Loader, error) {
	for _, l := range []Loader{LoaderAuto, LoaderIPXE, LoaderSigned} {
		if text == l.String() {
			return l, nil
		}
	}
	return LoaderAuto, fmt.Errorf("boot programs %q: want %s, %s or %s", text, LoaderAuto, LoaderIPXE, LoaderSigned)
}

// String is auto, ipxe or signed.
func (l Loader) String() string {
	if l == LoaderAuto {
		return "auto"
	}
	return string(l)
}

// LoaderOf is what the firmware of a machine gets: its own choice, else the swarm's.
func (v View) LoaderOf(mac MAC) Loader {
	if m, ok := v.Machine(mac); ok && m.Loader != LoaderAuto {
		return m.Loader
	}
	s, _ := v.Settings()
	return s.Loader
}

// SetLoader chooses the boot programs of one machine, which need not have been seen yet, or of all that have no choice of their own.
type SetLoader struct {
	MAC    MAC    `json:"mac,omitempty"` // empty: all others
	Loader Loader `json:"loader,omitempty"`
}

func (o SetLoader) words() string {
	if o.MAC == "" {
		return "set boot programs of the swarm: " + o.Loader.String()
	}
	return fmt.Sprintf("set boot programs of machine %s: %s", o.MAC, o.Loader)
}

func (o SetLoader) apply(c *change) (any, error) {
	if o.Loader != LoaderAuto && o.Loader != LoaderIPXE && o.Loader != LoaderSigned {
		return nil, refuse(ErrInvalid, "boot programs %q: want %s, %s or %s", clip(string(o.Loader), maxWord), LoaderAuto, LoaderIPXE, LoaderSigned)
	}
	if o.MAC == "" {
		s, ok := c.view().Settings()
		if !ok {
			return nil, refuse(ErrInvalid, "no swarm was founded yet")
		}
		s.Loader = o.Loader
		c.put("settings", &s)
		return nil, nil
	}
	if !o.MAC.valid() {
		return nil, refuse(ErrInvalid, "machine %q", clip(string(o.MAC), maxWord))
	}
	m, known := c.view().Machine(o.MAC)
	if !known {
		var err error
		if m, err = c.newMachine(c.base, o.MAC); err != nil {
			return nil, err
		}
	}
	m.Loader = o.Loader
	c.put("machine", &m)
	return nil, nil
}

// LearnLoader notes what a machine was seen to need. What an operator chose for it stands.
type LearnLoader struct {
	MAC    MAC    `json:"mac"`
	Loader Loader `json:"loader"`
}

func (o LearnLoader) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if o.Loader != LoaderSigned {
		return nil, refuse(ErrInvalid, "boot programs %q cannot be seen to be needed", clip(string(o.Loader), maxWord))
	}
	if m.Loader != LoaderAuto {
		return nil, nil
	}
	m.Loader = o.Loader
	c.put("machine", &m)
	c.event(m.MAC, "secure-boot", "%s runs with Secure Boot: from now on it gets Debian's signed shim and GRUB at once", m.Name)
	return nil, nil
}
