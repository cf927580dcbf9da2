package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"offshoot/node/internal/api"
	"offshoot/node/internal/driver"
	"offshoot/node/internal/image"
	"offshoot/node/internal/web"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// PutHow says how a profile is put.
type PutHow = api.PutHow

// Nearest is the known word that was probably meant, or "".
func Nearest(word string, all []string) string { return driver.Nearest(word, all) }

// CheckParams says what is wrong with a file of parameters.
func CheckParams(yaml []byte) error { return driver.CheckParams(yaml) }

// Profiles lists what machines can be installed with.
func (d *desk) Profiles() []status.Profile {
	view := d.s.state.View()
	var out []status.Profile
	for _, p := range view.Profiles() {
		out = append(out, profileLine(view, p))
	}
	return out
}

func profileLine(view swarm.View, p swarm.Profile) status.Profile {
	settings, _ := view.Settings()
	line := status.Profile{Name: p.Name, Driver: p.Driver, Release: p.Release, Arch: p.Arch, Default: settings.Profile == p.Name, Missing: []string{}}
	if line.Arch == "" {
		line.Arch = swarm.DefaultArch
	}
	for _, digest := range slices.Compact(slices.Sorted(slices.Values(p.Needs()))) {
		a, ok := view.Artifact(digest)
		if !ok {
			line.Missing = append(line.Missing, digest)
		}
		line.Bytes += a.Size
	}
	for _, m := range view.Machines() {
		if m.Profile == p.Name {
			line.Machines++
		}
	}
	return line
}

// Profile finds one with its document.
func (d *desk) Profile(name string) (status.Profile, bool, error) {
	view := d.s.state.View()
	p, ok := view.Profile(name)
	if !ok {
		return status.Profile{}, false, nil
	}
	doc, err := driver.DocumentOf(p)
	if err != nil {
		return status.Profile{}, true, err
	}
	text, err := doc.YAML()
	line := profileLine(view, p)
	line.Document = string(text)
	return line, true, err
}

// PutProfile checks a document as far as it can be checked without installing with it, and writes it down.
func (d *desk) PutProfile(ctx context.Context, actor, name string, document []byte, how PutHow) error {
	view := d.s.state.View()
	op := swarm.PutProfile{}
	if how.Former != "" {
		former, err := profileOf(view, name, how.Former)
		if err != nil {
			return api.Refused(err)
		}
		op.Instead = &former
	}
	p, err := draft(view, name, document, how)
	if err == nil && p.Image != "" && p.Format == "" && !how.Check {
		err = d.inspect(ctx, &p)
	}
	if err == nil {
		err = p.Check()
	}
	if err != nil {
		return api.Refused(fmt.Errorf("profile %s: %w", name, err))
	}
	if how.Check {
		return nil
	}
	op.Profile = p
	return d.decide(ctx, actor, op)
}

// profileOf finds the profile whose document has this SHA-256.
func profileOf(view swarm.View, name, sum string) (swarm.Profile, error) {
	p, _ := view.Profile(name)
	doc, err := driver.DocumentOf(p)
	if err != nil {
		return p, err
	}
	text, err := doc.YAML()
	if now := sha256.Sum256(text); err == nil && sum != hex.EncodeToString(now[:]) {
		err = fmt.Errorf("profile %s was changed by somebody else since you read it: look at it (offshoot profile show %s) and change it again", name, name)
	}
	return p, err
}

// draft makes a profile of a document. What the document leaves open is the former profile's, or the default one's.
func draft(view swarm.View, name string, document []byte, how PutHow) (swarm.Profile, error) {
	settings, _ := view.Settings()
	base, known := view.Profile(name)
	if known && how.Create {
		return base, fmt.Errorf("there is one of this name: offshoot profile edit %s", name)
	}
	if !known {
		if base, known = view.Profile(settings.Profile); !known {
			return base, errors.New("the swarm has no default profile yet to take the agent from: the seed writes it when it is ready")
		}
	}
	doc, err := driver.ParseDocument(document)
	if err != nil {
		return base, err
	}
	p, err := doc.Profile(name, base)
	if err != nil {
		return p, err
	}
	if !how.Check {
		if err := spellOut(view, &p, doc.Agent != driver.Environment{}); err != nil {
			return p, err
		}
	}
	if err := driver.Check(p); err != nil {
		return p, err
	}
	if findings := driver.Lint(p); len(findings) > 0 {
		return p, errors.New(findings[0].String())
	}
	return p, nil
}

// spellOut completes digests of which only the beginning was written, and refuses those of which nothing is known. ownAgent says that
// those of the agent were written.
func spellOut(view swarm.View, p *swarm.Profile, ownAgent bool) error {
	find := func(what, begin string) (string, error) {
		var found []string
		for _, a := range view.Artifacts() {
			if len(begin) >= 6 && strings.HasPrefix(a.Digest, begin) {
				found = append(found, a.Digest)
			}
		}
		if len(found) != 1 {
			return "", fmt.Errorf("%s: %d artifacts begin with %q: offshoot artifact list", what, len(found), begin)
		}
		return found[0], nil
	}
	var err error
	if p.Image != "" {
		if p.Image, err = find("image", p.Image); err != nil {
			return err
		}
	}
	if ownAgent {
		for _, d := range []struct {
			name   string
			digest *string
		}{{"kernel", &p.Kernel}, {"initrd", &p.Initrd}, {"program", &p.Binary}} {
			if *d.digest, err = find("agent."+d.name, *d.digest); err != nil {
				return err
			}
		}
	}
	p.Installer = maps.Clone(p.Installer)
	for name, begin := range p.Installer {
		if p.Installer[name], err = find("installer."+name, begin); err != nil {
			return err
		}
	}
	return nil
}

// inspect looks into a disk image: what format it has, and whether a machine could boot of it.
func (d *desk) inspect(ctx context.Context, p *swarm.Profile) error {
	digest := share.Digest(p.Image)
	if a, ok := d.s.state.View().Artifact(p.Image); ok && !d.s.share.Has(digest) {
		if err := d.s.fetch(ctx, a, nil); err != nil {
			return fmt.Errorf("image: it is not on this node, and does not come: %w", err)
		}
	}
	path, err := d.s.store.Path(digest)
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	info, err := image.Inspect(path)
	if err == nil {
		err = info.Bootable()
	}
	if err != nil {
		return fmt.Errorf("image: %w", err)
	}
	p.Format, p.DiskSize = string(info.Format), info.DiskSize
	return nil
}

// LintProfile says what an installer would choke on.
func (d *desk) LintProfile(name string) ([]string, bool) {
	view := d.s.state.View()
	p, ok := view.Profile(name)
	if !ok {
		return nil, false
	}
	var out []string
	if err := driver.Check(p); err != nil {
		out = append(out, err.Error())
	}
	for _, f := range driver.Lint(p) {
		out = append(out, f.String())
	}
	for _, digest := range profileLine(view, p).Missing {
		out = append(out, "artifact "+digest+" is not known to the swarm")
	}
	return out, true
}

// Render makes what a machine gets when it next boots from the network, were it armed with this profile.
func (d *desk) Render(mac swarm.MAC, profile string) (status.Rendered, error) {
	view := d.s.state.View()
	settings, _ := view.Settings()
	m, known := view.Machine(mac)
	if !known {
		m = swarm.Machine{MAC: mac, Name: driver.Example.Hostname}
	}
	if profile == "" {
		profile = m.Profile
	}
	if profile == "" {
		profile = settings.Profile
	}
	p, ok := view.Profile(profile)
	if !ok {
		return status.Rendered{}, api.Refused(fmt.Errorf("profile %q does not exist: offshoot profile list", profile))
	}
	at, madeUp := d.place(view, m)
	out := status.Rendered{Profile: p.Name, Driver: p.Driver, MadeUp: madeUp}
	files, err := web.Preview(view, m, p, at)
	if err != nil {
		return out, api.Refused(fmt.Errorf("profile %s: %w", p.Name, err))
	}
	for _, f := range files {
		out.Files = append(out.Files, status.RenderedFile{Name: f.Name, Text: f.Text})
	}
	return out, nil
}

// place is where a machine would meet its node. What is not known before it boots is made up, and said so.
func (d *desk) place(view swarm.View, m swarm.Machine) (at web.Place, madeUp string) {
	example := driver.Example
	lease, bound := view.LeaseOf(m.Segment, m.MAC)
	if !bound || lease.Nonce == "" {
		lease.Nonce, madeUp = "AAAAAAAAAAAAAAAAAAAAAA", "the nonce of its boot"
	}
	if lease.Segment = m.Segment; lease.Segment == "" {
		for _, g := range view.Segments() {
			lease.Segment = g.ID
			break
		}
		madeUp += ", the segment"
	}
	if !lease.Addr.IsValid() {
		lease.Addr = example.Address.Addr()
		madeUp += ", its address"
	}
	at.Lease, at.Self = lease, d.s.memory.Address.Addr()
	if g, ok := view.Segment(lease.Segment); ok {
		if n, ok := view.Node(g.Duty.Holder); ok {
			if port, on := n.On(g.ID); on && port.Address.IsValid() {
				at.Self = port.Address.Addr()
			}
		}
	}
	return at, strings.TrimPrefix(madeUp, ", ")
}
