package node

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"offshoot/node/internal/segment"
	"offshoot/node/status"
	"offshoot/swarm"
)

// DetectOptions say where Detect looks, and for what kind of seed.
type DetectOptions struct {
	DataDir    string   // of the seed; what it knows of a swarm is read, and nothing is written
	Interfaces []string // none: every port. One: as a seed that is told this one
	Network    netip.Prefix
	Mode       string // of the seed; "" is ModeAuto
	Probe      segment.Schedule
	Logger     *slog.Logger
}

// Detect looks at the ports of this machine as a seed would, and says what a seed would do there. It sends the seed's probe
// and nothing else. A port that is down is brought up to be looked at, and put back before Detect returns; only a process that
// is killed leaves it up.
func Detect(ctx context.Context, o DetectOptions) (out status.Detection, err error) {
	if err := segment.Rights(); err != nil {
		return out, err
	}
	m, member, err := loadMemory(o.DataDir)
	if err != nil {
		return out, err
	}
	if err := seedable(o.DataDir, m, member); err != nil {
		return out, err
	}
	all, err := segment.Ports()
	if err != nil {
		return out, err
	}
	for _, name := range o.Interfaces {
		if _, err := segment.Choose(all, name); errors.Is(err, segment.ErrNoPort) {
			return out, err
		}
	}
	reached, err := segment.Reached()
	if err != nil {
		return out, err
	}
	out = status.Detection{Ports: []status.DetectedPort{}, Name: hostName()}
	if member {
		out.Name = m.Name
	}
	seed, err := Seed{Network: o.Network, Mode: cmp.Or(o.Mode, ModeAuto)}.beginning(m, member, func(string) {})
	if err != nil {
		return out, err
	}
	footing := footing{seed: seed, reached: reached, home: m.Port}
	out.Network, out.Range, out.Mode = seed.network().String(), seed.Range.String(), seed.Mode
	if len(o.Interfaces) == 1 {
		footing.named = o.Interfaces[0]
	}
	for _, p := range all {
		if p.Busy() == "" {
			footing.free = append(footing.free, p.Name)
		}
	}
	looks, err := o.lookAt(ctx, all, m, seed.network())
	if err != nil {
		return out, err
	}
	out.Interface = footing.named
	for _, l := range looks {
		p := l.describe()
		var at stance
		p.Verdict, at, p.Why = footing.judge(l)
		if at.address.IsValid() {
			p.Mode = at.mode.String()
		}
		if p.Verdict == status.VerdictServes {
			out.Interface, out.Network = p.Name, at.address.String()
		}
		out.Ports = append(out.Ports, p)
	}
	return out, nil
}

// seedable refuses a data directory on which no seed can run.
func seedable(dir string, m memory, member bool) error {
	if member && !m.Ephemeral {
		return fmt.Errorf("%s belongs to an installed node: run `offshoot node`, or choose another --data-dir", dir)
	}
	return nil
}

// lookAt looks at all the ports that were asked for, at the same time.
func (o DetectOptions) lookAt(ctx context.Context, all []segment.Port, m memory, network netip.Prefix) (looks []look, err error) {
	// Not in the data directory: that may belong to a node that runs.
	dir, err := os.MkdirTemp("", "offshoot-detect-")
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	undo, err := segment.OpenJournal(filepath.Join(dir, "undo.json"), o.Logger)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, undo.Undo()) }()
	for _, p := range all {
		if len(o.Interfaces) == 0 || slices.Contains(o.Interfaces, p.Name) {
			looks = append(looks, look{port: p, link: p.Link})
		}
	}
	var working sync.WaitGroup
	for i := range looks {
		l := &looks[i]
		prober := segment.Prober{Schedule: o.Probe, Log: o.Logger, Mark: m.mark(), Mine: m.mine(network, l.port), Whole: true}
		working.Go(func() { l.take(ctx, undo, prober) })
	}
	working.Wait()
	return looks, ctx.Err()
}

// look is what was seen of one port.
type look struct {
	port    segment.Port // before it was touched
	link    bool
	probed  bool
	servers []segment.Server
	err     error // why it could not be looked at
}

func (l *look) take(ctx context.Context, undo *segment.Journal, prober segment.Prober) {
	if l.port.Unfit() != "" || l.port.Up && !l.link {
		return
	}
	p := l.port
	if !p.Up {
		if p, l.err = raise(ctx, undo, p); l.err != nil {
			return
		}
		l.link = true
	}
	l.servers, l.err = prober.Probe(ctx, p)
	l.probed = l.err == nil
}

// raise brings a port up and waits for its link.
func raise(ctx context.Context, undo *segment.Journal, p segment.Port) (segment.Port, error) {
	if _, err := undo.Raise(p); err != nil {
		return p, err
	}
	bounded, cancel := context.WithTimeout(ctx, linkTime)
	defer cancel()
	return segment.AwaitLink(bounded, p.Name)
}

// footing is what a seed would go by beside the port itself.
type footing struct {
	seed    Seed
	named   string // by --interface
	free    []string
	home    swarm.MAC // where the swarm of the data directory stands; empty: there is none
	reached []segment.Carried
}

// judge says what a seed would do with a port, in the order in which it would find out, and how it would serve there.
func (f footing) judge(l look) (status.Verdict, stance, string) {
	p := l.port
	switch why := p.Unfit(); {
	case why != "":
		return status.VerdictRefuses, stance{}, "cannot be used: " + why
	case errors.Is(l.err, segment.ErrNoLink) || l.err == nil && !l.link:
		return status.VerdictRefuses, stance{}, "no link: check the cable and that the other end is switched on"
	case l.err != nil:
		return status.VerdictRefuses, stance{}, l.err.Error()
	}
	at, err := f.seed.stand(p, l.servers)
	if err == nil && !slices.Contains(p.Addrs, at.address) {
		err = segment.InUse(f.reached, p.Name, at.address)
	}
	if err != nil {
		return status.VerdictRefuses, stance{}, err.Error()
	}
	verdict, why := f.choose(p)
	return verdict, at, why + at.why
}

// choose says whether a seed would take a port by itself.
func (f footing) choose(p segment.Port) (status.Verdict, string) {
	switch busy := p.Busy(); {
	case f.named == p.Name:
		return status.VerdictServes, "it is named, and "
	case f.home == p.MAC:
		return status.VerdictServes, "the swarm of the data directory stands on it, and "
	case f.home != "":
		return status.VerdictAsks, "the swarm of the data directory stands on another port; "
	case !p.Up:
		return status.VerdictAsks, "it is down: taken only when named with --interface " + p.Name + "; "
	case busy != "":
		return status.VerdictAsks, "taken only when named with --interface " + p.Name + ": " + busy + "; "
	case len(f.free) > 1:
		return status.VerdictAsks, fmt.Sprintf("%d ports are free: name one with --interface; ", len(f.free))
	}
	return status.VerdictServes, "the only free port, and "
}

func (l look) describe() status.DetectedPort {
	p := l.port
	d := status.DetectedPort{
		Name: p.Name, MAC: string(p.MAC), Kind: string(p.Kind), Up: p.Up, Link: l.link, DefaultRoute: p.DefaultRoute, Free: p.Busy() == "",
		Probed: l.probed, Addresses: []string{}, Servers: []status.DetectedServer{},
	}
	for _, a := range p.Addrs {
		d.Addresses = append(d.Addresses, a.String())
	}
	for _, s := range l.servers {
		d.Servers = append(d.Servers, describe(s))
	}
	return d
}

func describe(s segment.Server) status.DetectedServer {
	o := s.Offer
	d := status.DetectedServer{
		Address: s.ID.String(), MAC: string(s.MAC), BootOnly: s.Proxy, Lease: int(o.Lease / time.Second), DNS: []string{},
		Boots: o.Boot.Named(), BootServer: o.Boot.Server, BootFile: o.Boot.File,
	}
	if o.Address.IsValid() {
		d.Offered = o.Address.String()
	}
	if o.Network.IsValid() {
		d.Network = o.Network.String()
	}
	if o.Router.IsValid() {
		d.Router = o.Router.String()
	}
	for _, a := range o.DNS {
		d.DNS = append(d.DNS, a.String())
	}
	return d
}
