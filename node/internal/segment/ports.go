package segment

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"offshoot/swarm"
)

// dumpTries bounds how often a netlink dump is repeated that the kernel marks as inconsistent because the table
// changed under it (NLM_F_DUMP_INTR): on a host where containers come and go that happens, and passes.
const dumpTries = 5

func dump[T any](read func() ([]T, error)) (out []T, err error) {
	for range dumpTries {
		if out, err = read(); !errors.Is(err, netlink.ErrDumpInterrupted) {
			return out, err
		}
	}
	return out, err
}

// Ports reads the Ethernet ports of this network namespace, ordered by name: hardware, virtio, veth, tap, bond, VLAN and
// MACVLAN. Loopback, bridges, tunnels, and devices without an Ethernet header or without ARP are not ports.
func Ports() ([]Port, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_ALL) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	var ports []Port
	for _, l := range links {
		p, ok := portOf(l, names)
		if !ok {
			continue
		}
		for _, a := range addrs {
			if prefix, ok := prefixOf(a.IPNet); ok && a.LinkIndex == p.Index && !prefix.Addr().IsLinkLocalUnicast() {
				p.Addrs = append(p.Addrs, prefix)
			}
		}
		p.DefaultRoute = slices.ContainsFunc(routes, func(r netlink.Route) bool { return isDefault(r) && through(r, p.Index) })
		ports = append(ports, p)
	}
	slices.SortFunc(ports, func(a, b Port) int { return strings.Compare(a.Name, b.Name) })
	return ports, nil
}

// PortByName reads one port; ErrNoPort if it is gone.
func PortByName(name string) (Port, error) {
	ports, err := Ports()
	if err != nil {
		return Port{}, err
	}
	for _, p := range ports {
		if p.Name == name {
			return p, nil
		}
	}
	return Port{}, fmt.Errorf("interface %s: %w", name, ErrNoPort)
}

// linked says which of the named ports exist, are up and have carrier. It reads links only, because hello asks each second.
func linked(names []string) ([]Port, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	var ports []Port
	for _, l := range links {
		if p, ok := portOf(l, nil); ok && p.Up && p.Link && slices.Contains(names, p.Name) {
			ports = append(ports, p)
		}
	}
	return ports, nil
}

func portOf(l netlink.Link, names map[int]string) (Port, bool) {
	a := l.Attrs()
	kind, ok := kindOf(l)
	if !ok || a.EncapType != "ether" || len(a.HardwareAddr) != 6 || a.Flags&net.FlagLoopback != 0 || a.RawFlags&unix.IFF_NOARP != 0 {
		return Port{}, false
	}
	p := Port{
		Name: a.Name, Index: a.Index, MAC: swarm.MACOf(a.HardwareAddr), MTU: a.MTU, Kind: kind,
		Up:   a.Flags&net.FlagUp != 0,
		Link: a.RawFlags&unix.IFF_LOWER_UP != 0 && a.RawFlags&unix.IFF_RUNNING != 0,
	}
	if v, ok := l.(*netlink.Vlan); ok {
		p.VLAN = uint16(v.VlanId)
	}
	if a.MasterIndex != 0 {
		p.Master = names[a.MasterIndex]
		if p.Master == "" {
			p.Master = fmt.Sprintf("interface %d", a.MasterIndex)
		}
	}
	return p, true
}

func kindOf(l netlink.Link) (Kind, bool) {
	switch l.Type() {
	case "device":
		// rtnetlink does not tell wireless from wired. /sys may belong to another namespace: then the worst is that a
		// wireless port is offered, which has no carrier unless it is in use.
		if _, err := os.Stat(filepath.Join("/sys/class/net", l.Attrs().Name, "phy80211")); err == nil {
			return KindWireless, true
		}
		return KindDevice, true
	case "veth":
		return KindVeth, true
	case "tun", "tuntap":
		// A tun device has no Ethernet header and fails on EncapType.
		return KindTap, true
	case "bond":
		return KindBond, true
	case "vlan":
		return KindVLAN, true
	case "macvlan":
		return KindMACVLAN, true
	default:
		return "", false
	}
}

// Reached reads every IPv4 network that this host reaches through an interface, the loopback's and our own routes aside.
func Reached() ([]Carried, error) {
	links, err := dump(netlink.LinkList)
	if err != nil {
		return nil, fmt.Errorf("list links: %w", err)
	}
	names := make(map[int]string, len(links))
	for _, l := range links {
		names[l.Attrs().Index] = l.Attrs().Name
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses: %w", err)
	}
	var out []Carried
	for _, a := range addrs {
		if prefix, ok := prefixOf(a.IPNet); ok {
			out = append(out, Carried{Port: names[a.LinkIndex], Prefix: prefix})
		}
	}
	routes, err := dump(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		// The kernel's own routes repeat the addresses; ours lead to the swarm's segments, which the ledger keeps apart.
		if prefix, ok := prefixOf(r.Dst); ok && !isDefault(r) && r.Protocol != unix.RTPROT_KERNEL && r.Protocol != RouteProtocol {
			out = append(out, Carried{Port: names[r.LinkIndex], Prefix: prefix, Route: true})
		}
	}
	return out, nil
}

func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	addr, ok := netip.AddrFromSlice(n.IP)
	ones, bits := n.Mask.Size()
	if !ok || bits == 0 {
		return netip.Prefix{}, false
	}
	return netip.PrefixFrom(addr.Unmap(), ones), true
}

func netOf(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// isDefault says whether a route leads to everything that no other route knows. VPNs set two halves (0.0.0.0/1, 128.0.0.0/1) instead, or
// smaller parts, so that the old default route stays: what is wider than the widest private network (RFC 1918, 10.0.0.0/8) is no network.
func isDefault(r netlink.Route) bool {
	if r.Dst == nil {
		return true
	}
	ones, _ := r.Dst.Mask.Size()
	return ones < 8
}

func through(r netlink.Route, index int) bool {
	return r.LinkIndex == index ||
		slices.ContainsFunc(r.MultiPath, func(h *netlink.NexthopInfo) bool { return h.LinkIndex == index })
}
