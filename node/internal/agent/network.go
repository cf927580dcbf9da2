package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"github.com/vishvananda/netlink"
)

const (
	nicPoll     = 100 * time.Millisecond
	linkTimeout = 60 * time.Second // spanning tree without PortFast takes 30 s, some NICs 10 s more
	dhcpTimeout = 3 * time.Second  // per packet
)

// linksUp raises every Ethernet port, because only then does it tell whether a cable is in. No port but the boot NIC gets
// an address, and none speaks: IPv6 was switched off before.
func linksUp(log *slog.Logger) {
	links, err := netlink.LinkList()
	if err != nil {
		log.Warn("links not listed", "error", err)
		return
	}
	for _, l := range links {
		if l.Attrs().Flags&net.FlagUp != 0 || l.Type() != "device" {
			continue
		}
		if err := netlink.LinkSetUp(l); err != nil {
			log.Warn("port not raised", "nic", l.Attrs().Name, "error", err)
		}
	}
}

// silenceIPv6 keeps the kernel from sending router solicitations on segments that are not ours.
func silenceIPv6(log *slog.Logger) {
	for _, scope := range []string{"all", "default"} {
		err := os.WriteFile("/proc/sys/net/ipv6/conf/"+scope+"/disable_ipv6", []byte("1"), 0)
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			log.Warn("IPv6 not switched off", "error", err)
		}
	}
}

// bootNIC waits for the port that the machine was booted from, raised and with link.
func bootNIC(ctx context.Context, mac net.HardwareAddr, log *slog.Logger) (netlink.Link, error) {
	deadline := time.Now().Add(linkTimeout)
	for {
		linksUp(log)
		links, err := netlink.LinkList()
		if err != nil {
			return nil, err
		}
		var have []string
		for _, l := range links {
			a := l.Attrs()
			if len(a.HardwareAddr) == 0 || a.Flags&net.FlagLoopback != 0 {
				continue
			}
			linked := a.RawFlags&0x10000 != 0 // IFF_LOWER_UP
			have = append(have, fmt.Sprintf("  %s %s, link: %t", a.Name, a.HardwareAddr, linked))
			if a.HardwareAddr.String() == mac.String() && linked {
				return l, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, fmt.Errorf("no port with address %s and link; there are:\n%s", mac, strings.Join(have, "\n"))
		}
		if err := pause(ctx, nicPoll); err != nil {
			return nil, err
		}
	}
}

// lease is a DHCP binding in the kernel.
type lease struct {
	nic    netlink.Link
	client *nclient4.Client
	held   *nclient4.Lease
}

// acquire gets an address by DHCP and sets it, with the default route.
func acquire(ctx context.Context, nic netlink.Link) (*lease, error) {
	client, err := nclient4.New(nic.Attrs().Name, nclient4.WithTimeout(dhcpTimeout), nclient4.WithRetry(4))
	if err != nil {
		return nil, fmt.Errorf("DHCP on %s: %w", nic.Attrs().Name, err)
	}
	l := &lease{nic: nic, client: client}
	l.held, err = client.Request(ctx)
	if err == nil {
		err = l.apply()
	}
	if err != nil {
		_ = client.Close()
		return nil, fmt.Errorf("DHCP on %s: %w", nic.Attrs().Name, err)
	}
	return l, nil
}

func (l *lease) close() { _ = l.client.Close() }

func (l *lease) address() *net.IPNet {
	ack := l.held.ACK
	mask := ack.SubnetMask()
	if len(mask) == 0 {
		mask = ack.YourIPAddr.DefaultMask()
	}
	return &net.IPNet{IP: ack.YourIPAddr, Mask: mask}
}

func (l *lease) apply() error {
	ip := l.address()
	if err := netlink.AddrReplace(l.nic, &netlink.Addr{IPNet: ip}); err != nil {
		return fmt.Errorf("set address %s: %w", ip, err)
	}
	routers := l.held.ACK.Router()
	if len(routers) == 0 {
		return nil
	}
	route := &netlink.Route{LinkIndex: l.nic.Attrs().Index, Gw: routers[0]}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("set default route by %s: %w", routers[0], err)
	}
	return nil
}

// keep renews the lease at half of its time until ctx ends. A NAK, or silence, starts over: a machine whose image takes
// an hour must not lose its address in the middle, and has no other to go on with.
func (l *lease) keep(ctx context.Context, log *slog.Logger) {
	for {
		half := max(l.held.ACK.IPAddressLeaseTime(time.Hour)/2, 10*time.Second)
		if pause(ctx, half) != nil {
			return
		}
		renewed, err := l.client.Renew(ctx, l.held)
		if err != nil && ctx.Err() == nil {
			log.Warn("lease not renewed, asking for a new one", "error", err)
			renewed, err = l.client.Request(ctx, dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(l.held.ACK.YourIPAddr)))
		}
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			log.Warn("no lease", "error", err)
			continue
		}
		old := l.address()
		l.held = renewed
		if now := l.address(); !now.IP.Equal(old.IP) {
			log.Warn("the address changed", "from", old, "to", now)
			_ = netlink.AddrDel(l.nic, &netlink.Addr{IPNet: old}) // gone already is as good
		}
		if err := l.apply(); err != nil {
			log.Warn("lease not applied", "error", err)
		}
	}
}

// parseCmdline takes our words out of the kernel's command line.
func parseCmdline(line string) (url string, mac net.HardwareAddr, debug bool, err error) {
	var macText string
	for word := range strings.FieldsSeq(line) {
		key, value, _ := strings.Cut(word, "=")
		switch key {
		case "offshoot.url":
			url = value
		case "offshoot.mac":
			macText = value
		case "offshoot.debug":
			debug = value != "0"
		}
	}
	if url == "" {
		return "", nil, debug, errors.New("kernel command line without offshoot.url=http://…")
	}
	mac, err = net.ParseMAC(macText)
	if err != nil || len(mac) != 6 {
		return "", nil, debug, fmt.Errorf("kernel command line: offshoot.mac=%s is not an Ethernet address", macText)
	}
	return url, mac, debug, nil
}
