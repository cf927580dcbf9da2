package dhcp

import (
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// tube is a link whose packets a test puts in.
type tube struct {
	in     chan heard
	closed chan struct{}
}

func (l *tube) Receive(buf []byte) (int, bool, error) {
	select {
	case p, ok := <-l.in:
		if !ok {
			return 0, false, io.ErrUnexpectedEOF
		}
		return copy(buf, p.raw), p.unicast, nil
	case <-l.closed:
		return 0, false, net.ErrClosed
	}
}

func (l *tube) Send([]byte, Destination, net.HardwareAddr) error { return nil }
func (l *tube) Close() error                                     { close(l.closed); return nil }

func TestPacketsOfAnInterfaceGoToTheServerOfTheirSegment(t *testing.T) {
	t.Parallel()
	cable := &tube{in: make(chan heard), closed: make(chan struct{})}
	opened := 0
	hub := &Hub{Open: func(Config) (Link, error) { opened++; return cable, nil }}
	links := map[string]Link{}
	for name, cfg := range map[string]Config{
		"own":  {Interface: "lan0", Subnet: netip.MustParsePrefix("192.168.42.0/24")},
		"far":  {Interface: "lan0", Subnet: netip.MustParsePrefix("10.9.0.0/24"), Relayed: true},
		"afar": {Interface: "lan0", Subnet: netip.MustParsePrefix("10.8.0.0/24"), Relayed: true},
	} {
		link, err := hub.Listen(cfg)
		if err != nil {
			t.Fatal(err)
		}
		links[name] = link
	}
	if opened != 1 {
		t.Errorf("the port was opened %d times", opened)
	}
	for _, cfg := range []Config{{Interface: "lan0", Subnet: netip.MustParsePrefix("172.16.0.0/24")}, {Interface: "lan0", Subnet: netip.MustParsePrefix("10.9.0.0/25"), Relayed: true}} {
		if _, err := hub.Listen(cfg); err == nil {
			t.Errorf("%s is served twice", cfg.Subnet)
		}
	}
	option82 := func(sub byte, addr string) dhcpv4.Modifier {
		return dhcpv4.WithOption(dhcpv4.OptGeneric(dhcpv4.OptionRelayAgentInformation, append([]byte{sub, 4}, netip.MustParseAddr(addr).AsSlice()...)))
	}
	giaddr := func(a string) dhcpv4.Modifier { return func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = net.ParseIP(a) } }
	ciaddr := func(a string) dhcpv4.Modifier { return func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.ParseIP(a) } }
	for _, c := range []struct {
		name    string
		with    []dhcpv4.Modifier
		unicast bool
		want    string
	}{
		{"heard here", nil, false, "own"},
		{"relayed", []dhcpv4.Modifier{giaddr("10.9.0.1")}, true, "far"},
		{"relayed by another", []dhcpv4.Modifier{giaddr("10.8.0.1")}, true, "afar"},
		{"82.5 wins", []dhcpv4.Modifier{giaddr("192.168.42.254"), option82(5, "10.9.0.0")}, true, "far"},
		{"82.11 chooses nothing", []dhcpv4.Modifier{giaddr("10.9.0.1"), option82(11, "10.8.0.1")}, true, "far"},
		{"renewing", []dhcpv4.Modifier{ciaddr("10.9.0.17")}, true, "far"},
		{"carried over to this network", []dhcpv4.Modifier{ciaddr("10.9.0.17")}, false, "own"}, // to be told no
		{"a relay that nobody knows", []dhcpv4.Modifier{giaddr("10.99.0.1")}, true, "own"},     // which says why
	} {
		p, err := dhcpv4.New(append([]dhcpv4.Modifier{dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest)}, c.with...)...)
		if err != nil {
			t.Fatal(err)
		}
		cable.in <- heard{p.ToBytes(), c.unicast}
		buf := make([]byte, maxPacket)
		n, unicast, err := links[c.want].Receive(buf)
		if err != nil || n != len(p.ToBytes()) || unicast != c.unicast {
			t.Fatalf("%s: %d bytes, %v", c.name, n, err)
		}
	}
	// One goes, the others stay; the last one closes the port.
	for _, name := range []string{"own", "far"} {
		if err := links[name].Close(); err != nil {
			t.Fatal(err)
		}
		if _, _, err := links[name].Receive(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("%s reads on: %v", name, err)
		}
	}
	select {
	case <-cable.closed:
		t.Fatal("closed while somebody listens")
	default:
	}
	if err := links["afar"].Close(); err != nil {
		t.Fatal(err)
	}
	<-cable.closed
}

func TestPortThatFailsIsOpenedAnew(t *testing.T) {
	t.Parallel()
	var cables []*tube
	hub := &Hub{Open: func(Config) (Link, error) {
		cables = append(cables, &tube{in: make(chan heard), closed: make(chan struct{})})
		return cables[len(cables)-1], nil
	}}
	cfg := Config{Interface: "lan0", Subnet: netip.MustParsePrefix("192.168.42.0/24")}
	first, err := hub.Listen(cfg)
	if err != nil {
		t.Fatal(err)
	}
	close(cables[0].in)
	if _, _, err := first.Receive(make([]byte, 9)); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Fatalf("the failure is not told: %v", err)
	}
	second, err := hub.Listen(cfg)
	if err != nil || len(cables) != 2 {
		t.Fatalf("%v, opened %d times", err, len(cables))
	}
	if err := errors.Join(first.Close(), second.Close()); err != nil {
		t.Fatal(err)
	}
}
