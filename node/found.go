package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"time"

	"offshoot/handoff"
	"offshoot/node/internal/image"
	"offshoot/node/internal/live"
	"offshoot/node/internal/segment"
	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/share"
)

// Seed is what `offshoot seed` adds to a node: how to found a swarm, and what its machines get. On a data directory that
// holds a swarm it resumes; the profile is renewed then, the rest stays as it was founded.
type Seed struct {
	Interface  string       // "" chooses the one free port
	Further    []string     // other ports, on each of which a segment is opened
	VLAN       uint16       // 802.1Q on Interface; 0: without a tag
	Network    netip.Prefix // our own address with the length of the network; zero is 192.168.42.1/24
	Range      netip.Prefix // further segments; zero is the first of ranges that this host reaches nothing of
	Image      string       // path of the disk image, "" only when resuming
	Kernel     string       // of the network-boot environment; "" takes those inside the image
	Modules    string
	RootHash   string
	SSHKeys    []string
	Disk       string
	KernelArgs string
	// LeaveBootOrder: installations may leave their disk first in the boot order of the firmware.
	LeaveBootOrder bool
	Voters         int
	AutoApprove    bool
	Expand         bool
	Probe          segment.Schedule // zero: DefaultSchedule
	Mode           string           // ModeAuto, ModeFull or ModeProxy; "" is ModeAuto
}

// Defaults of a seed.
var (
	DefaultNetwork = netip.MustParsePrefix("192.168.42.1/24")
	ranges         = []netip.Prefix{
		netip.MustParsePrefix("10.42.0.0/16"), netip.MustParsePrefix("10.193.0.0/16"), netip.MustParsePrefix("172.29.0.0/16"), netip.MustParsePrefix("192.168.128.0/18"),
	}
)

// DefaultVoters is how many nodes at most vote on the ledger.
const DefaultVoters = 5

// ErrForeignDHCP: somebody else's DHCP server answers on the segment.
var ErrForeignDHCP = errors.New("another DHCP server is on this segment")

// linkTime is how long a port may take to get link after it was brought up.
const linkTime = 10 * time.Second

// network is our own address on the segment.
func (s Seed) network() netip.Prefix {
	if !s.Network.IsValid() {
		return DefaultNetwork
	}
	return s.Network
}

// beginning is the seed with what it need not be told: from its memory, or, where it founds a swarm, by a look at this host.
func (s Seed) beginning(m memory, member bool, say func(string)) (Seed, error) {
	if member {
		s.Range = ranges[0] // nobody asks: it stands in the ledger
		return s.resuming(m)
	}
	reached, err := segment.Reached()
	if err != nil {
		return s, err
	}
	within, why, err := s.within(reached)
	if why != "" {
		say(fmt.Sprintf("range     %s for further segments, since %s", within, why))
	}
	s.Range = within
	return s, err
}

// resuming is the seed that goes on with the swarm of its data directory: on the network that this was founded on.
func (s Seed) resuming(m memory) (Seed, error) {
	if s.Network.IsValid() && s.Network != m.Address && !m.Foreign {
		return s, fmt.Errorf("this swarm was founded on %s, not on %s: leave --network out, or choose another --data-dir", m.Address, s.Network)
	}
	founded := ModeFull
	if m.Foreign {
		founded = ModeProxy
	}
	if s.Mode != "" && s.Mode != ModeAuto && s.Mode != founded {
		return s, fmt.Errorf("this swarm was founded in mode %s, and its first segment stays so: leave --mode out, or choose another --data-dir", founded)
	}
	s.Mode = founded
	if !m.Foreign { // else it is whatever the port has now
		s.Network = m.Address
	}
	return s, nil
}

// within is where further segments are cut from, and why it is not the first choice. Every node gets routes to them, so on this host they
// must hide nothing: no network that it stands on, and no route. Of an operator's own choice a wider route may lie around it, such as
// one to all of a company.
func (s Seed) within(reached []segment.Carried) (within netip.Prefix, why string, err error) {
	told := s.Range.IsValid()
	choices := ranges
	if told {
		choices = []netip.Prefix{s.Range}
	}
	for _, choice := range choices {
		i := slices.IndexFunc(reached, func(c segment.Carried) bool {
			return c.Prefix.Overlaps(choice) && c.Prefix != s.network() && !(told && c.Route && c.Prefix.Bits() < choice.Bits())
		})
		if i < 0 {
			return choice, why, nil
		}
		if why == "" {
			why = fmt.Sprintf("%s overlaps: %s", choice, reached[i])
		}
	}
	return netip.Prefix{}, "", fmt.Errorf("%w: no range for further segments: %s; choose another with --range", segment.ErrNetworkInUse, why)
}

// claim probes the port, decides how to serve there, and takes the address if the port does not have it. The undo journal takes
// that back when the seed stops; what the port had before stays.
func (s Seed) claim(ctx context.Context, undo *segment.Journal, port segment.Port, prober segment.Prober) (stance, error) {
	at, err := s.scout(ctx, port, prober)
	if err == nil {
		_, err = undo.Configure(port, at.address)
	}
	return at, err
}

// scout is claim without taking the address.
func (s Seed) scout(ctx context.Context, port segment.Port, prober segment.Prober) (stance, error) {
	reached, err := segment.Reached()
	if err != nil {
		return stance{}, err
	}
	if s.Mode == ModeFull { // what can be known is said before the wait
		if err := segment.InUse(reached, port.Name, s.network()); err != nil {
			return stance{}, err
		}
	}
	prober.Schedule = s.Probe
	prober.Whole = s.Mode != ModeFull // what a server gives decides
	servers, err := prober.Probe(ctx, port)
	if err != nil {
		return stance{}, err
	}
	if port, err = segment.PortByName(port.Name); err != nil { // with the addresses that it has now
		return stance{}, err
	}
	at, err := s.stand(port, servers)
	if err != nil || slices.Contains(port.Addrs, at.address) {
		return at, err
	}
	return at, segment.InUse(reached, port.Name, at.address)
}

// port chooses the port and sees that it is up and has link.
func (s Seed) port(ctx context.Context, undo *segment.Journal, m memory) (segment.Port, error) {
	var port segment.Port
	ports, err := segment.Ports()
	switch {
	case err != nil:
	case m.Port != "" && s.Interface == "" && m.VLAN != 0:
		port, err = tagged(undo, m.Port, m.VLAN)
	case m.Port != "" && s.Interface == "":
		port, err = portByMAC(m.Port, 0)
	case s.VLAN != 0:
		if port, err = segment.PortByName(s.Interface); err == nil {
			port, err = tagged(undo, port.MAC, s.VLAN)
		}
	default:
		port, err = segment.Choose(ports, s.Interface)
	}
	if err == nil && m.Port != "" && port.VLAN != m.VLAN {
		err = fmt.Errorf("this swarm was founded on VLAN %d (0: without a tag), and %s is VLAN %d: leave --interface and --vlan out, or choose another --data-dir", m.VLAN, port.Name, port.VLAN)
	}
	if err != nil || port.Up {
		return port, err
	}
	return raise(ctx, undo, port)
}

// further finds the other ports that the seed serves. A seed that is told no port at all goes on with those of the last time.
func (s Seed) further(home segment.Port, m memory) ([]swarm.MAC, error) {
	if s.Interface == "" {
		return m.Further, nil
	}
	var macs []swarm.MAC
	for _, name := range s.Further {
		p, err := segment.PortByName(name)
		if err != nil {
			return nil, err
		}
		why := p.Unfit()
		address := slices.IndexFunc(p.Addrs, func(a netip.Prefix) bool { return a.Addr().Is4() })
		switch {
		case why != "":
		case p.MAC == home.MAC || slices.Contains(macs, p.MAC):
			why = "it is named twice"
		case p.VLAN != 0 || home.VLAN != 0:
			why = "a seed serves a VLAN as its only port"
		case p.DefaultRoute:
			why = "it carries the default route"
		case address >= 0:
			why = fmt.Sprintf("it has an address (%s), so that another network is there: take it off (ip addr flush dev %s), or name the port first and alone", p.Addrs[address], name)
		}
		if why != "" {
			return nil, fmt.Errorf("interface %s cannot be a further one: %s", name, why)
		}
		macs = append(macs, p.MAC)
	}
	return macs, nil
}

// tagged is the device of a VLAN, which is made where there is none. The port itself may be in use for something else.
func tagged(undo *segment.Journal, mac swarm.MAC, vlan uint16) (segment.Port, error) {
	on, err := portByMAC(mac, 0)
	if err != nil {
		return on, err
	}
	if why := on.Unfit(); why != "" {
		return on, fmt.Errorf("interface %s cannot carry VLAN %d: %s", on.Name, vlan, why)
	}
	return undo.VLAN(on, vlan)
}

// larder prepares what machines are installed with, and remembers what it learned of an image, so that the second start
// is quick.
type larder struct {
	dir    string // <data-dir>/live
	store  *share.Store
	say    func(string)
	binary string // path of this program
}

// known is what is remembered of an image.
type known struct {
	Format   string `json:"format"`
	DiskSize int64  `json:"disk_size"`
	Kernel   string `json:"kernel"`
	Modules  string `json:"modules"`
}

// stock publishes image, network-boot environment and binary, and returns the profile made of them.
func (l *larder) stock(ctx context.Context, s Seed) (swarm.Profile, []swarm.Artifact, error) {
	p := swarm.Profile{Name: "default", Driver: "image", RootHash: s.RootHash, SSHKeys: s.SSHKeys, Disk: s.Disk, Args: s.KernelArgs, LeaveBootOrder: s.LeaveBootOrder}
	var all []swarm.Artifact
	publish := func(path, name, origin, verified string) (string, error) {
		a, err := l.store.Publish(ctx, path)
		if err != nil {
			return "", err
		}
		all = append(all, swarm.Artifact{Digest: string(a.Digest), Size: a.Size, Name: name, Origin: origin, Verified: verified, InfoHash: a.InfoHash})
		return string(a.Digest), nil
	}
	abs, err := filepath.Abs(s.Image)
	if err != nil {
		return p, nil, err
	}
	if p.Image, err = publish(abs, filepath.Base(abs), abs, "given by the operator"); err != nil {
		return p, nil, err
	}
	k, err := l.learn(ctx, s, abs, p.Image)
	if err != nil {
		return p, nil, err
	}
	p.Format, p.DiskSize = k.Format, k.DiskSize
	env, err := live.Build(ctx, live.Options{Kernel: k.Kernel, ModulesDir: k.Modules, Binary: l.binary, Out: l.dir})
	if err != nil {
		return p, nil, err
	}
	if env.Arch != swarm.DefaultArch {
		p.Arch = env.Arch
	}
	if p.Kernel, err = publish(env.KernelPath, "vmlinuz-"+env.Version, k.Kernel, "from the image"); err != nil {
		return p, nil, err
	}
	if p.Initrd, err = publish(env.InitrdPath, "initrd-"+env.Version, "built here", "built here"); err != nil {
		return p, nil, err
	}
	if p.Binary, err = publish(l.binary, "offshoot", "this program", "built here"); err != nil {
		return p, nil, err
	}
	return p, all, nil
}

// learn inspects an image and takes its kernel out, once per image.
func (l *larder) learn(ctx context.Context, s Seed, path, digest string) (known, error) {
	var k known
	record := filepath.Join(l.dir, digest+".json")
	if data, err := os.ReadFile(record); err == nil && json.Unmarshal(data, &k) == nil && s.Kernel == "" {
		if _, err := os.Stat(k.Kernel); err == nil {
			return k, nil
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return k, fmt.Errorf("read what is known of the image: %w", err)
	}
	l.say("looking into " + filepath.Base(path))
	info, err := image.Inspect(path)
	if err != nil {
		return k, err
	}
	if err := info.Bootable(); err != nil {
		return k, fmt.Errorf("%s: %w", path, err)
	}
	k = known{Format: string(info.Format), DiskSize: info.DiskSize, Kernel: s.Kernel, Modules: s.Modules}
	if s.Kernel != "" {
		return k, nil // the operator's own: looked at every time
	}
	k.Kernel, k.Modules, err = image.ExtractKernel(ctx, path, filepath.Join(l.dir, digest))
	if errors.Is(err, image.ErrNoKernel) || errors.Is(err, image.ErrNoRoot) {
		l.say("the image holds no kernel of its own; machines boot the agent with this host's")
		k.Kernel, k.Modules, err = live.HostKernel()
	}
	if err != nil {
		return k, err
	}
	data, err := json.Marshal(k)
	if err != nil {
		return k, err
	}
	return k, handoff.WriteFile(record, data)
}

// found makes the swarm's identity: the authority, this node's certificate, and its memory.
func (s Seed) found(dir string, id *identity.Identity, port segment.Port, at stance, name string) (memory, swarm.Found, error) {
	address := at.address
	settings := swarm.Settings{
		Swarm: swarm.NewID(), Range: s.Range, Voters: s.Voters, AutoApprove: s.AutoApprove, Expand: s.Expand, Profile: "default",
		GossipKeys: []string{identity.NewGossipKey().Encode()},
	}
	if settings.Voters == 0 {
		settings.Voters = DefaultVoters
	}
	ca, err := identity.NewCA(settings.Swarm, time.Now())
	if err != nil {
		return memory{}, swarm.Found{}, err
	}
	settings.CA, settings.Pin = string(ca.Certificate()), ca.Pin()
	csr, err := id.CSR()
	if err != nil {
		return memory{}, swarm.Found{}, err
	}
	self := swarm.NewNodeID()
	cert, serial, err := ca.IssueNode(csr, self, identity.RoleNode, time.Now())
	if err != nil {
		return memory{}, swarm.Found{}, err
	}
	key, err := identity.KeyOf(csr)
	if err != nil {
		return memory{}, swarm.Found{}, err
	}
	if err := identity.SaveCAs(dir, ca); err != nil {
		return memory{}, swarm.Found{}, err
	}
	if err := id.Enroll(ca.Pin(), cert, ca.Certificate()); err != nil {
		return memory{}, swarm.Found{}, err
	}
	m := memory{Swarm: settings.Swarm, Node: self, Name: name, Ephemeral: true, Port: port.MAC, VLAN: port.VLAN, Address: address, Keys: settings.GossipKeys,
		Foreign: at.mode == swarm.ModeProxy}
	return m, swarm.Found{
		Settings: settings,
		Mode:     at.mode,
		Network:  address.Masked(),
		Node: swarm.Node{
			ID: self, Name: name, Machine: "", Ephemeral: true, Address: netip.AddrPortFrom(address.Addr(), PeerPort).String(), Serial: serial, Key: key,
			Ports: []swarm.Port{{Name: port.Name, MAC: port.MAC, VLAN: port.VLAN, Link: true, Address: address}},
		},
	}, nil
}
