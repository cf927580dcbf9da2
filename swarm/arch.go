package swarm

import "fmt"

// DefaultArch is the architecture of profiles and machines that say none.
const DefaultArch = "amd64"

// debianWord is what Debian calls the architectures that other distributions have another word for.
var debianWord = map[string]string{"": DefaultArch, "x86_64": DefaultArch, "aarch64": "arm64"}

// archOf is an architecture in Debian's word.
func archOf(word string) string {
	if own, ok := debianWord[word]; ok {
		return own
	}
	return word
}

// Architecture is what machines the profile is for, in Debian's word.
func (p Profile) Architecture() string { return archOf(p.Arch) }

// Architecture is what the machine is, as its firmware said, in Debian's word.
func (m Machine) Architecture() string { return archOf(m.Arch) }

// Misfit says why a machine cannot run what a profile boots or installs, "" if nothing is known that speaks against it.
func (p Profile) Misfit(m Machine) string {
	if p.Architecture() == m.Architecture() {
		return ""
	}
	return fmt.Sprintf("profile %s is for %s, and the firmware of %s says %s: name another profile (offshoot profile list)", p.Name, p.Architecture(), m.Name, m.Architecture())
}

// LearnArch notes what a machine is, as its firmware said.
type LearnArch struct {
	MAC  MAC    `json:"mac"`
	Arch string `json:"arch"`
}

// Changes says whether that is news.
func (o LearnArch) Changes(m Machine) bool { return o.Arch != "" && m.Architecture() != archOf(o.Arch) }

func (o LearnArch) apply(c *change) (any, error) {
	m, err := c.machine(o.MAC)
	if err != nil {
		return nil, err
	}
	if len(o.Arch) > maxWord {
		return nil, refuse(ErrInvalid, "architecture %q of %s", clip(o.Arch, maxWord), m.Name)
	}
	if !o.Changes(m) {
		return nil, nil
	}
	m.Arch = o.Arch
	c.put("machine", &m)
	c.event(m.MAC, "arch", "the firmware of %s says that it is a machine of %s", m.Name, m.Arch)
	return nil, nil
}
