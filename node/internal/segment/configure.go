package segment

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"offshoot/swarm"
)

const forwardFile = "/proc/sys/net/ipv4/ip_forward"

// Configure gives the port the address (with the length of its network), and brings it up. It refuses a network that this
// host already reaches (ErrNetworkInUse) and changes nothing then. What was as wanted before is not ours and is not
// undone. undo is nil exactly when err is not; when Configure fails, what it had changed is undone already.
func (j *Journal) Configure(port Port, prefix netip.Prefix) (undo func() error, err error) {
	if err := checkHost(prefix); err != nil {
		return nil, err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	nets, err := Reached()
	if err != nil {
		return nil, err
	}
	if err := InUse(nets, port.Name, prefix); err != nil {
		return nil, err
	}
	ids, err := j.raise(port)
	if err != nil {
		return nil, errors.Join(err, j.undo(ids))
	}
	has, err := hasAddr(port.Name, prefix)
	if err != nil {
		return nil, errors.Join(err, j.undo(ids))
	}
	if !has {
		c := change{Op: opAddress, Port: port.Name, MAC: port.MAC, Prefix: prefix}
		id, err := j.do(c, func() error { return addAddr(port.Name, prefix) })
		if ids = append(ids, id); err != nil {
			return nil, errors.Join(err, j.undo(ids))
		}
	}
	return j.undoer(ids), nil
}

// Raise brings the port up, so that its link can be seen.
func (j *Journal) Raise(port Port) (undo func() error, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	ids, err := j.raise(port)
	if err != nil {
		return nil, errors.Join(err, j.undo(ids))
	}
	return j.undoer(ids), nil
}

func (j *Journal) raise(port Port) ([]int, error) {
	link, err := linkByName(port.Name)
	if err != nil {
		return nil, err
	}
	if link.Attrs().Flags&net.FlagUp != 0 {
		return nil, nil
	}
	c := change{Op: opUp, Port: port.Name, MAC: swarm.MACOf(link.Attrs().HardwareAddr)}
	id, err := j.do(c, func() error { return netlink.LinkSetUp(link) })
	return []int{id}, err
}

// EnableForwarding lets this host pass IPv4 packets between its ports.
func (j *Journal) EnableForwarding() (undo func() error, err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	on, err := forwarding()
	if err != nil {
		return nil, err
	}
	if on {
		return func() error { return nil }, nil
	}
	id, err := j.do(change{Op: opForward}, func() error { return setForwarding("1") })
	if err != nil {
		return nil, errors.Join(err, j.undo([]int{id}))
	}
	return j.undoer([]int{id}), nil
}

// SyncRoutes is the function SyncRoutes under RouteProtocol; undoing removes all routes of that protocol.
func (j *Journal) SyncRoutes(routes []Route) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	sync := func() error { return SyncRoutes(routes, RouteProtocol) }
	if len(routes) == 0 || slices.ContainsFunc(j.file.Changes, func(c change) bool { return c.Op == opRoutes }) {
		return sync()
	}
	_, err := j.do(change{Op: opRoutes}, sync)
	return err
}

// KeepAddress gives the port the address and brings it up for good: nothing is written down and nothing is undone. It is
// for the address that an installed node was installed with, which must outlive offshoot, and may be called again.
func KeepAddress(port string, prefix netip.Prefix) error {
	if err := checkHost(prefix); err != nil {
		return err
	}
	link, err := linkByName(port)
	if err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring %s up: %w", port, err)
		}
	}
	has, err := hasAddr(port, prefix)
	if err != nil || has {
		return err
	}
	if err := addAddr(port, prefix); err != nil {
		return fmt.Errorf("address %s on %s: %w", prefix, port, err)
	}
	return nil
}

// LendAddress gives the port an address for a time, after which the kernel takes it back, and brings the port up. Called again it
// prolongs that; no time takes the address back now. Nothing is written down and nothing is undone.
func LendAddress(port string, prefix netip.Prefix, life time.Duration) error {
	if err := checkHost(prefix); err != nil {
		return err
	}
	link, err := linkByName(port)
	if err != nil {
		return err
	}
	if link.Attrs().Flags&net.FlagUp == 0 {
		if err := netlink.LinkSetUp(link); err != nil {
			return fmt.Errorf("bring %s up: %w", port, err)
		}
	}
	addr := &netlink.Addr{IPNet: netOf(prefix)}
	if life < time.Second {
		if err := netlink.AddrDel(link, addr); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			return fmt.Errorf("take %s from %s: %w", prefix, port, err)
		}
		return nil
	}
	addr.ValidLft = int(life / time.Second)
	addr.PreferedLft = addr.ValidLft
	if err := netlink.AddrReplace(link, addr); err != nil {
		return fmt.Errorf("address %s on %s: %w", prefix, port, err)
	}
	return nil
}

// checkHost refuses what cannot be a host's address in a network that can hold a second machine.
func checkHost(prefix netip.Prefix) error {
	if !prefix.IsValid() || !prefix.Addr().Is4() {
		return fmt.Errorf("address %s: want IPv4 with the length of the network, as in 192.168.42.1/24", prefix)
	}
	if prefix.Bits() > 30 || prefix.Bits() < 8 {
		return fmt.Errorf("address %s: a segment's network is between /8 and /30", prefix)
	}
	last := prefix.Masked().Addr().As4()
	for bit := prefix.Bits(); bit < 32; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	if prefix.Addr() == prefix.Masked().Addr() || prefix.Addr() == netip.AddrFrom4(last) {
		return fmt.Errorf("address %s: that is the network's own or its broadcast address, not a host's", prefix)
	}
	return nil
}

// revert undoes one change if it is still as we left it; done is false if it is not.
func revert(c change) (done bool, err error) {
	switch c.Op {
	case opForward:
		on, err := forwarding()
		if err != nil || !on {
			return false, err
		}
		return true, setForwarding("0")
	case opRoutes:
		return true, SyncRoutes(nil, RouteProtocol)
	}
	link, err := linkByName(c.Port)
	if errors.Is(err, ErrNoPort) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if c.MAC != "" && swarm.MACOf(link.Attrs().HardwareAddr) != c.MAC {
		return false, nil // another card has taken the name
	}
	if c.Op == opVLAN {
		if link.Type() != "vlan" {
			return false, nil
		}
		return true, netlink.LinkDel(link)
	}
	if c.Op == opAddress {
		err := netlink.AddrDel(link, &netlink.Addr{IPNet: netOf(c.Prefix)})
		if errors.Is(err, unix.EADDRNOTAVAIL) {
			return false, nil
		}
		return err == nil, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return false, err
	}
	if link.Attrs().Flags&net.FlagUp == 0 || len(addrs) > 0 {
		return false, nil // someone has put the port to use since
	}
	return true, netlink.LinkSetDown(link)
}

func hasAddr(port string, prefix netip.Prefix) (bool, error) {
	link, err := linkByName(port)
	if err != nil {
		return false, err
	}
	addrs, err := dump(func() ([]netlink.Addr, error) { return netlink.AddrList(link, netlink.FAMILY_V4) })
	if err != nil {
		return false, fmt.Errorf("list addresses of %s: %w", port, err)
	}
	return slices.ContainsFunc(addrs, func(a netlink.Addr) bool {
		p, ok := prefixOf(a.IPNet)
		return ok && p == prefix
	}), nil
}

func addAddr(port string, prefix netip.Prefix) error {
	link, err := linkByName(port)
	if err != nil {
		return err
	}
	err = netlink.AddrAdd(link, &netlink.Addr{IPNet: netOf(prefix)})
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	return err
}

func forwarding() (bool, error) {
	b, err := os.ReadFile(forwardFile)
	if err != nil {
		return false, fmt.Errorf("read ip_forward: %w", err)
	}
	return strings.TrimSpace(string(b)) != "0", nil
}

func setForwarding(v string) error {
	if err := os.WriteFile(forwardFile, []byte(v), 0o644); err != nil {
		return fmt.Errorf("set ip_forward: %w", err)
	}
	return nil
}

func addrOf(ip net.IP) (netip.Addr, bool) {
	a, ok := netip.AddrFromSlice(ip)
	return a.Unmap(), ok
}
