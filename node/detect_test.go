package node

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"offshoot/node/internal/segment"
	"offshoot/node/status"
)

// TestDetectJudgesAsSeedDoes: what detect promises of a port is what segment.Choose, the probe and the address will say.
func TestDetectJudgesAsSeedDoes(t *testing.T) {
	t.Parallel()
	free := segment.Port{Name: "eth1", MAC: "52:54:00:00:00:01", Kind: segment.KindDevice, Up: true, Link: true}
	with := func(change func(*segment.Port)) segment.Port {
		p := free
		change(&p)
		return p
	}
	foreign := []segment.Server{{ID: netip.MustParseAddr("192.0.2.1"), MAC: "52:54:00:00:0d:0d"}}
	alone := footing{free: []string{"eth1"}}
	for _, c := range []struct {
		name    string
		look    look
		footing footing
		want    status.Verdict
		why     string
	}{
		{"the only free port", look{port: free, link: true}, alone, status.VerdictServes, "the only free port"},
		{"a foreign server", look{port: free, link: true, servers: foreign}, alone, status.VerdictRefuses, "192.0.2.1"},
		{"a foreign server on a named port", look{port: free, link: true, servers: foreign}, footing{named: "eth1"}, status.VerdictRefuses, "192.0.2.1"},
		{"two free ports", look{port: free, link: true}, footing{free: []string{"eth1", "eth2"}}, status.VerdictAsks, "2 ports are free"},
		{"one of two, named", look{port: free, link: true}, footing{named: "eth1", free: []string{"eth1", "eth2"}}, status.VerdictServes, "named"},
		{"a member of a bridge, named", look{port: with(func(p *segment.Port) { p.Master = "br0" }), link: true}, footing{named: "eth1"}, status.VerdictRefuses, "a member of br0"},
		{"the way to the world", look{port: with(func(p *segment.Port) { p.DefaultRoute = true }), link: true}, footing{}, status.VerdictAsks, "carries the default route"},
		{"an address", look{port: with(func(p *segment.Port) { p.Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")} }), link: true}, footing{}, status.VerdictAsks, "has address 192.0.2.9/24"},
		{"down, with link once it is up", look{port: with(func(p *segment.Port) { p.Up, p.Link = false, false }), link: true}, footing{}, status.VerdictAsks, "it is down"},
		{"down, without link", look{port: with(func(p *segment.Port) { p.Up, p.Link = false, false }), err: fmt.Errorf("x: %w", segment.ErrNoLink)}, footing{named: "eth1"}, status.VerdictRefuses, "no link"},
		{"no cable", look{port: with(func(p *segment.Port) { p.Link = false })}, footing{named: "eth1"}, status.VerdictRefuses, "no link"},
		{"could not be probed", look{port: free, link: true, err: errors.New("no buffer")}, alone, status.VerdictRefuses, "no buffer"},
		{"the network is in use", look{port: free, link: true}, footing{free: alone.free, reached: []segment.Carried{{Port: "eth0", Prefix: netip.MustParsePrefix("192.168.42.77/25")}}}, status.VerdictRefuses, "eth0 carries 192.168.42.77/25; choose another with --network"},
		{"where a swarm stands, busy as it is", look{port: with(func(p *segment.Port) { p.Addrs = []netip.Prefix{DefaultNetwork} }), link: true}, footing{home: free.MAC}, status.VerdictServes, "the swarm of the data directory"},
		{"a foreign server, with an address of its network", look{port: with(func(p *segment.Port) { p.Addrs = []netip.Prefix{netip.MustParsePrefix("192.0.2.9/24")} }), link: true, servers: foreign}, footing{named: "eth1"}, status.VerdictServes, "the DHCP server 192.0.2.1"},
		{"beside a swarm", look{port: free, link: true}, footing{home: "52:54:00:00:00:02", free: alone.free}, status.VerdictAsks, "another port"},
	} {
		got, at, why := c.footing.judge(c.look)
		if got != c.want || !strings.Contains(why, c.why) || at.address.IsValid() != (got != status.VerdictRefuses) {
			t.Errorf("%s: %s on %s, %q; want %s, %q", c.name, got, at.address, why, c.want, c.why)
		}
		// Whatever the pure choice of a seed refuses, detect must not promise.
		c.look.port.Link = c.look.link
		if _, err := segment.Choose([]segment.Port{c.look.port}, c.footing.named); err != nil && got == status.VerdictServes && c.footing.home == "" {
			t.Errorf("%s: detect promises it, and a seed says %v", c.name, err)
		}
	}
}
