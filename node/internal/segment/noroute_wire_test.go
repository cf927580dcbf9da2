//go:build wire

package segment

import (
	"context"
	"net"
	"testing"
	"time"

	"golang.org/x/net/icmp"
	"golang.org/x/net/ipv6"
)

func TestSolicitationIsAnsweredByNobodysRouter(t *testing.T) {
	need(t)
	node, machine := newSpace(t), newSpace(t)
	cable(node, "lan0", machine, "eth0")
	node.up("lan0")
	machine.up("eth0")
	port := node.await("lan0")
	defer node.serve(func(ctx context.Context) error { return (&NoRouter{Port: port, Log: quiet()}).Run(ctx) })()

	var answer []byte
	machine.must(func() error {
		ifi, err := net.InterfaceByName("eth0")
		if err != nil {
			return err
		}
		conn, err := icmp.ListenPacket("ip6:ipv6-icmp", "::%eth0")
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		p := conn.IPv6PacketConn()
		var only ipv6.ICMPFilter
		only.SetAll(true)
		only.Accept(ipv6.ICMPTypeRouterAdvertisement)
		if err := p.SetICMPFilter(&only); err != nil {
			return err
		}
		solicitation := []byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}
		to := &net.IPAddr{IP: net.IPv6linklocalallrouters, Zone: "eth0"}
		buf := make([]byte, 1500)
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); {
			// Both sides' link-local addresses are tentative for the first second or two: ask again, as machines do.
			if _, err := p.WriteTo(solicitation, &ipv6.ControlMessage{HopLimit: ndHopLimit, IfIndex: ifi.Index}, to); err != nil {
				t.Logf("not sent yet: %v", err)
			}
			if err := p.SetReadDeadline(time.Now().Add(500 * time.Millisecond)); err != nil {
				return err
			}
			if n, _, _, err := p.ReadFrom(buf); err == nil {
				answer = append(answer, buf[:n]...)
				return nil
			}
		}
		return nil
	})
	if len(answer) != 16 || answer[0] != byte(ipv6.ICMPTypeRouterAdvertisement) {
		t.Fatalf("answer % x: want an advertisement without options", answer)
	}
	for i, b := range answer[4:] {
		if b != 0 {
			t.Fatalf("byte %d of % x says something: want lifetime, flags and timers zero", i+4, answer)
		}
	}
}

func TestOnlyWhatNoRouterPassedOnIsASolicitation(t *testing.T) {
	solicitation := []byte{byte(ipv6.ICMPTypeRouterSolicitation), 0, 0, 0, 0, 0, 0, 0}
	for name, c := range map[string]struct {
		packet   []byte
		hopLimit int
		want     bool
	}{
		"good": {solicitation, 255, true}, "routed": {solicitation, 64, false}, "short": {solicitation[:7], 255, false},
		"advertisement": {noRouter, 255, false},
	} {
		if got := isSolicitation(c.packet, c.hopLimit); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
