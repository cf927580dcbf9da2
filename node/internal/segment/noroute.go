package segment

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

// NoRouter answers IPv6 router solicitations on a port with: there is a node here, and it is no router. Debian's iPXE asks
// for routers beside its DHCP, and waits sixteen seconds for an answer before it boots, twice for every installation. The
// advertisement names no prefix and a router lifetime of zero (RFC 4861, 4.2 and 6.2.3), so it configures nobody, and takes
// away nothing that a real router on the segment advertises.
type NoRouter struct {
	Port Port
	Log  *slog.Logger
}

// solicitPause is how long is waited after an error; the link or its address may only be coming up.
const solicitPause = 2 * time.Second

// Run answers until ctx is done, which is no error. Without IPv6 on the port there is nobody to answer.
func (n *NoRouter) Run(ctx context.Context) error {
	for {
		err := n.serve(ctx)
		if ctx.Err() != nil {
			return nil
		}
		n.Log.Debug("router solicitations are not answered", "port", n.Port.Name, "error", err)
		if !sleep(ctx, solicitPause) {
			return nil
		}
	}
}

func (n *NoRouter) serve(ctx context.Context) error {
	ifi, err := net.InterfaceByName(n.Port.Name)
	if err != nil {
		return err
	}
	self, err := linkLocal(ifi)
	if err != nil {
		return err
	}
	// Bound to the link-local address, as the source of an advertisement must be; solicitations are sent to all routers.
	conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::%"+ifi.Name)
	if err != nil {
		return fmt.Errorf("listen for router solicitations: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer func() {
		if stop() {
			_ = conn.Close()
		}
	}()
	p := conn.IPv6PacketConn()
	var only ipv6.ICMPFilter
	only.SetAll(true)
	only.Accept(ipv6.ICMPTypeRouterSolicitation)
	allRouters := &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: ifi.Name}
	if err := p.SetICMPFilter(&only); err != nil {
		return fmt.Errorf("filter solicitations: %w", err)
	}
	if err := p.JoinGroup(ifi, allRouters); err != nil {
		return fmt.Errorf("join all routers: %w", err)
	}
	if err := p.SetControlMessage(ipv6.FlagInterface|ipv6.FlagHopLimit, true); err != nil {
		return err
	}
	buf := make([]byte, 1500)
	for {
		size, cm, _, err := p.ReadFrom(buf)
		if err != nil {
			return err
		}
		if cm == nil || cm.IfIndex != ifi.Index || !isSolicitation(buf[:size], cm.HopLimit) {
			continue
		}
		to := &net.IPAddr{IP: net.IPv6linklocalallnodes, Zone: ifi.Name}
		out := &ipv6.ControlMessage{HopLimit: ndHopLimit, Src: self.AsSlice(), IfIndex: ifi.Index}
		if _, err := p.WriteTo(noRouter, out, to); err != nil {
			return fmt.Errorf("answer a router solicitation: %w", err)
		}
	}
}

// ndHopLimit is what every neighbour discovery packet has, which proves that no router passed it on (RFC 4861, 6.1).
const ndHopLimit = 255

// isSolicitation checks what RFC 4861, 6.1.1, asks for.
func isSolicitation(b []byte, hopLimit int) bool {
	return hopLimit == ndHopLimit && len(b) >= 8 && b[0] == byte(ipv6.ICMPTypeRouterSolicitation) && b[1] == 0
}

// noRouter is a router advertisement (type 134) with everything unspecified: hop limit, flags, router lifetime, reachable and
// retransmission time are zero. The kernel fills in the checksum.
var noRouter = []byte{byte(ipv6.ICMPTypeRouterAdvertisement), 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}

func linkLocal(ifi *net.Interface) (netip.Addr, error) {
	addrs, err := ifi.Addrs()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		p, err := netip.ParsePrefix(a.String())
		if err == nil && p.Addr().Is6() && p.Addr().IsLinkLocalUnicast() {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("%s has no IPv6 link-local address", ifi.Name)
}
