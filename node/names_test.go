package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"offshoot/swarm"
)

func TestNamesAreThoseOfNodesAndOfMachinesWithALease(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 42, n}) }
	b.apply("", swarm.ReportNode{Address: "192.168.42.1:7400", Protocol: swarm.Protocol, Ports: []swarm.Port{
		{MAC: "02:00:00:00:00:01", Segment: "s1", Link: true, Address: netip.PrefixFrom(at(1), 24)},
		{MAC: "02:00:00:00:00:02", Segment: "s2", Link: true, Address: netip.MustParsePrefix("10.42.0.1/24")},
	}})
	b.apply("", swarm.NameMachine{MAC: mac1, Name: "m1"})
	b.apply("", swarm.NameMachine{MAC: mac2, Name: "m2"})
	b.apply("", swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{
		{MAC: mac1, Addr: at(10), Class: "os", Expires: b.now.Add(time.Hour)},
		{MAC: mac2, Addr: at(11), Class: "os", Expires: b.now.Add(time.Minute)},
	}})
	for _, c := range []struct{ host, segment, want string }{
		{"seed", "s1", "[192.168.42.1 10.42.0.1] true"},
		{"seed", "s2", "[10.42.0.1 192.168.42.1] true"}, // the nearest first
		{"m1", "s2", "[192.168.42.10] true"},
		{"m2", "s1", "[] true"}, // its lease is over
		{"m3", "s1", "[] false"},
		{"", "s1", "[] false"},
	} {
		addrs, known := addressesOf(b.state.View(), c.host, c.segment, b.now.Add(2*time.Minute))
		if got := fmt.Sprint(addrs, known); got != c.want {
			t.Errorf("%q on %s: %s, want %s", c.host, c.segment, got, c.want)
		}
	}
	for addr, want := range map[netip.Addr]string{at(10): "m1 true", at(11): " true", at(1): "seed true", at(99): " true", netip.MustParseAddr("10.42.0.1"): "seed true", netip.MustParseAddr("192.0.2.1"): " false"} {
		host, ours := hostAt(b.state.View(), addr, b.now.Add(2*time.Minute))
		if got := fmt.Sprint(host, " ", ours); got != want {
			t.Errorf("%s: %q, want %q", addr, got, want)
		}
	}
	b.apply("", swarm.LeaveNode{Node: seedID})
	if addrs, known := addressesOf(b.state.View(), "seed", "s1", b.now); known {
		t.Errorf("a node that has left is at %v", addrs)
	}
}

func TestClientsAreToldOfTheHolderAndOfNodesThatStay(t *testing.T) {
	t.Parallel()
	b := &book{t: t, state: swarm.NewState(), now: time.Now()}
	b.apply("", swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed"}, Network: netip.MustParsePrefix("192.168.42.0/24"),
		Node: swarm.Node{ID: seedID, Name: "seed", Ephemeral: true, Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Link: true}}},
	})
	self := netip.MustParseAddr("192.168.42.1")
	told := func() string {
		s := servicesOn(b.state.View(), "s1", self)
		return fmt.Sprint(s.DNS, " ", s.Domain, " ", s.NTP)
	}
	if got := told(); got != "[192.168.42.1] offshoot.internal []" {
		t.Error(got)
	}
	b.apply("root", swarm.SetDomain{Domain: "lab.example"})
	b.apply("root", swarm.SetNTP{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.123")}})
	// A seed expects to leave: others are not told of it.
	b.apply("", swarm.ReportNode{Address: "192.168.42.1:7400", Protocol: swarm.Protocol, Ports: []swarm.Port{
		{MAC: "02:00:00:00:00:01", Segment: "s1", Link: true, Address: netip.PrefixFrom(self, 24)},
	}})
	self = netip.MustParseAddr("192.168.42.7")
	if got := told(); got != "[192.168.42.7] lab.example [192.0.2.123]" {
		t.Error(got)
	}
	b.apply("root", swarm.SetDNS{Off: true})
	if got := told(); got != "[] lab.example [192.0.2.123]" {
		t.Error(got)
	}
}

func TestNodesOfTheSwarmAreNotAskedForOthersNames(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.apply("", swarm.ReportNode{Address: "192.168.42.1:7400", Protocol: swarm.Protocol, Ports: []swarm.Port{
		{MAC: "02:00:00:00:00:01", Segment: "s1", Address: netip.MustParsePrefix("192.168.42.1/24")},
	}})
	path := filepath.Join(t.TempDir(), "resolv.conf")
	s := &nameServers{replica: &replica{state: b.state}, resolvConf: path, log: slog.New(slog.DiscardHandler)}
	asked := func() string {
		s.read = time.Time{}
		return fmt.Sprint(s.upstreams())
	}
	if got := asked(); got != "[]" {
		t.Errorf("without a file: %s", got)
	}
	if err := os.WriteFile(path, []byte("nameserver 192.168.42.1\nnameserver 127.0.0.53\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := asked(); got != "[127.0.0.53:53]" {
		t.Errorf("its own resolver's: %s", got)
	}
	b.apply("root", swarm.SetDNS{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}})
	if got := asked(); got != "[192.0.2.53:53]" {
		t.Errorf("an operator's: %s", got)
	}
}
