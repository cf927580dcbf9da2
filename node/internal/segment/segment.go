// Package segment is all that offshoot knows about network ports and layer 2: which Ethernet ports there are and which
// one may be used, addresses and routes and how they are undone, the probe for foreign DHCP servers, the hello frames
// by which nodes learn that they share a segment, ARP.
//
// It refuses to decide who holds duty, to answer DHCP, to speak on a port that its caller did not name, and to touch an
// address, link or route that it did not make itself. It speaks IPv4 only. It never changes its network namespace:
// everything happens in that of the calling thread.
//
// Rules (Choose, InUse, Routes, the frame decoders) are pure; the rest are thin loops around the kernel's objects.
// Package node may import it, nobody else; of offshoot it imports swarm.
package segment

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"text/tabwriter"

	"offshoot/swarm"
)

// What callers tell apart. Each is wrapped with the facts; test with errors.Is.
var (
	// ErrNoPort says that the named interface does not exist or is not an Ethernet port.
	ErrNoPort = errors.New("no such Ethernet port")
	// ErrUnfit says that the named port exists and cannot carry a segment, for example as a member of a bridge.
	ErrUnfit = errors.New("port cannot be used")
	// ErrNoLink says that nothing answers at the other end of the cable.
	ErrNoLink = errors.New("no link")
	// ErrNoChoice says that none, or more than one, of the ports is free, and the operator has to name one.
	ErrNoChoice = errors.New("cannot choose a port")
	// ErrNetworkInUse says that this host already reaches an overlapping network.
	ErrNetworkInUse = errors.New("network in use")
	// ErrRights says that the process lacks a capability.
	ErrRights = errors.New("missing rights")
	// ErrFrame says that a received frame is not what its type promises.
	ErrFrame = errors.New("malformed frame")
	// ErrJournal says that the undo journal cannot be understood.
	ErrJournal = errors.New("undo journal unreadable")
)

// Kind is the kernel's word for what stands behind a port.
type Kind string

// The kinds that can carry a segment. KindWireless is listed so that an operator sees why it is not chosen.
const (
	KindDevice   Kind = "device" // hardware, virtio
	KindVeth     Kind = "veth"
	KindTap      Kind = "tap"
	KindBond     Kind = "bond"
	KindVLAN     Kind = "vlan"
	KindMACVLAN  Kind = "macvlan"
	KindWireless Kind = "wireless"
)

// Port is one Ethernet port as it was when it was read. It is a value: nothing in it changes later.
type Port struct {
	Name  string
	Index int
	MAC   swarm.MAC
	MTU   int
	Kind  Kind
	// Up is the administrative state. The kernel knows the link only of ports that are up.
	Up bool
	// Link is carrier: something answers at the other end.
	Link bool
	// VLAN is the 802.1Q id of a VLAN device, which shares the MAC of the port that it is on; 0: what travels without a tag.
	VLAN uint16
	// Master names the bridge or bond that owns this port, or is empty.
	Master string
	// Addrs holds IPv4 addresses and global IPv6 addresses; link-local ones are made by the kernel and say nothing.
	Addrs []netip.Prefix
	// DefaultRoute says that this host reaches the world through this port.
	DefaultRoute bool
}

// Unfit is the reason why the port cannot carry a segment at all, empty if it can.
func (p Port) Unfit() string {
	switch {
	case p.Master != "":
		return "a member of " + p.Master
	case p.Kind == KindWireless:
		return "wireless: an access point does not pass other machines' frames"
	default:
		return ""
	}
}

// Busy is the reason why the port is not taken unless an operator names it, empty if it is free: fit, linked, without
// address and default route.
func (p Port) Busy() string {
	if why := p.Unfit(); why != "" {
		return why
	}
	switch {
	case p.DefaultRoute:
		return "carries the default route"
	case len(p.Addrs) > 0:
		return "has address " + p.Addrs[0].String()
	case !p.Up:
		return "down, so its link cannot be seen (ip link set " + p.Name + " up)"
	case !p.Link:
		return "no link"
	case p.Kind == KindVLAN || p.Kind == KindMACVLAN:
		return "a " + string(p.Kind) + ": taken only when named"
	default:
		return ""
	}
}

// Choose names the port to provision on. A named port must exist (ErrNoPort), be fit (ErrUnfit) and have link
// (ErrNoLink); one that is down is accepted, because its link is known only once it was raised: see Journal.Raise and
// AwaitLink. Without a name it must be the only port that is free (ErrNoChoice); the error then lists all ports and
// why each was not chosen, in several lines.
func Choose(ports []Port, name string) (Port, error) {
	if name != "" {
		return named(ports, name)
	}
	var free []Port
	for _, p := range ports {
		if p.Busy() == "" {
			free = append(free, p)
		}
	}
	switch {
	case len(ports) == 0:
		return Port{}, fmt.Errorf("%w: this machine has no Ethernet port", ErrNoChoice)
	case len(free) == 1:
		return free[0], nil
	case len(free) == 0:
		return Port{}, fmt.Errorf("%w: none is free; name one with --interface\n%s", ErrNoChoice, listing(ports))
	default:
		return Port{}, fmt.Errorf("%w: %d are free; name one with --interface\n%s", ErrNoChoice, len(free), listing(ports))
	}
}

func named(ports []Port, name string) (Port, error) {
	at := slices.IndexFunc(ports, func(p Port) bool { return p.Name == name })
	if at < 0 {
		if len(ports) == 0 {
			return Port{}, fmt.Errorf("interface %s: %w: this machine has none", name, ErrNoPort)
		}
		names := make([]string, len(ports))
		for i, p := range ports {
			names[i] = p.Name
		}
		return Port{}, fmt.Errorf("interface %s: %w; there are: %s", name, ErrNoPort, strings.Join(names, ", "))
	}
	p := ports[at]
	if why := p.Unfit(); why != "" {
		return Port{}, fmt.Errorf("interface %s: %w: %s", name, ErrUnfit, why)
	}
	if p.Up && !p.Link {
		return Port{}, fmt.Errorf("interface %s: %w: check the cable and that the other end is switched on", name, ErrNoLink)
	}
	return p, nil
}

// listing is one indented line for each port: name, address, kind, and why it was not chosen.
func listing(ports []Port) string {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	for _, p := range ports {
		why := p.Busy()
		if why == "" {
			why = "free"
		}
		// Writes into memory cannot fail.
		_, _ = fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", p.Name, p.MAC, p.Kind, why)
	}
	_ = w.Flush()
	return strings.TrimRight(b.String(), "\n")
}

// Carried is a network that this host already reaches, by an address or by a route.
type Carried struct {
	Port   string
	Prefix netip.Prefix
	Route  bool // by a route, not by an address
}

func (c Carried) String() string {
	if c.Route {
		return fmt.Sprintf("%s has a route to %s", c.Port, c.Prefix)
	}
	return fmt.Sprintf("%s carries %s", c.Port, c.Prefix)
}

// InUse refuses a network that overlaps one that this host already reaches through any port: two ports with one network
// make either side unreachable. The very same address on the very same port is no conflict. The error wraps
// ErrNetworkInUse, names what is in the way, and what to do.
func InUse(carried []Carried, port string, want netip.Prefix) error {
	for _, c := range carried {
		if c.Port == port && (c.Prefix == want || c.Route && c.Prefix == want.Masked()) {
			continue
		}
		if c.Prefix.Bits() == 0 || !c.Prefix.Overlaps(want) {
			continue
		}
		return fmt.Errorf("%w: %s overlaps: %s; choose another with --network", ErrNetworkInUse, want.Masked(), c)
	}
	return nil
}
