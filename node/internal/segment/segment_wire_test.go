//go:build wire

package segment

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"offshoot/swarm"
)

func TestPortsAreEthernetPortsOnly(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	attrs := func(name string) netlink.LinkAttrs { a := netlink.NewLinkAttrs(); a.Name = name; return a }
	cable(host, "eth0", far, "x0")
	cable(host, "eth1", far, "x1")
	cable(host, "eth2", far, "x2")
	host.add(&netlink.Bridge{LinkAttrs: attrs("virbr0")})
	host.tryAdd(&netlink.Dummy{LinkAttrs: attrs("dummy0")})
	host.tryAdd(&netlink.GenericLink{LinkAttrs: attrs("ifb0"), LinkType: "ifb"})
	host.add(&netlink.Tuntap{LinkAttrs: attrs("tap0"), Mode: netlink.TUNTAP_MODE_TAP})
	host.add(&netlink.Tuntap{LinkAttrs: attrs("tun0"), Mode: netlink.TUNTAP_MODE_TUN})
	vlans := host.tryAdd(&netlink.Vlan{LinkAttrs: netlink.LinkAttrs{Name: "eth1.7", ParentIndex: host.port("eth1").Index}, VlanId: 7})
	host.address("eth0", "192.0.2.2/24")
	host.address("eth2", "169.254.7.7/16")
	host.must(func() error {
		if err := netlink.RouteAdd(&netlink.Route{Gw: net.IPv4(192, 0, 2, 1)}); err != nil {
			return err
		}
		br, err := netlink.LinkByName("virbr0")
		if err != nil {
			return err
		}
		l, err := netlink.LinkByName("eth1")
		if err != nil {
			return err
		}
		return netlink.LinkSetMaster(l, br)
	})
	far.down("x2")

	var ports []Port
	host.must(func() (err error) { ports, err = Ports(); return err })
	var got []string
	for _, p := range ports {
		if p.MAC.Hardware() == nil || p.MTU == 0 || p.Index == 0 {
			t.Errorf("incomplete: %+v", p)
		}
		got = append(got, fmt.Sprintf("%s %s up=%v link=%v %s %v default=%v", p.Name, p.Kind, p.Up, p.Link, p.Master, p.Addrs, p.DefaultRoute))
	}
	want := []string{
		"eth0 veth up=true link=true  [192.0.2.2/24] default=true",
		"eth1 veth up=true link=true virbr0 [] default=false",
		"eth1.7 vlan up=false link=false  [] default=false",
		"eth2 veth up=true link=false  [] default=false",
		"tap0 tap up=false link=false  [] default=false",
	}
	if !vlans {
		want = slices.Delete(want, 2, 3)
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Error(d)
	}
	if _, err := Choose(ports, ""); !errors.Is(err, ErrNoChoice) {
		t.Error(err)
	}
	far.up("x2")
	host.await("eth2")
	host.must(func() (err error) { ports, err = Ports(); return err })
	if p, err := Choose(ports, ""); err != nil || p.Name != "eth2" {
		t.Errorf("chose %q, %v", p.Name, err)
	}
}

func TestConfigureIsUndoneAndLeavesTheRestAlone(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	host.down("eth1")
	path := filepath.Join(t.TempDir(), "undo.json")
	j := host.journal(path)
	var undo func() error
	host.must(func() (err error) {
		undo, err = j.Configure(host.port("eth1"), netip.MustParsePrefix("192.168.42.1/24"))
		return err
	})
	if !host.has("eth1", "192.168.42.1/24") || !host.await("eth1").Link {
		t.Error("not configured")
	}
	host.must(func() error { // the same again is no conflict, and not ours to undo
		again, err := j.Configure(host.port("eth1"), netip.MustParsePrefix("192.168.42.1/24"))
		if err != nil {
			return err
		}
		return again()
	})
	if !host.has("eth1", "192.168.42.1/24") {
		t.Error("the second undo took what the first Configure made")
	}
	host.must(undo)
	if host.has("eth1", "192.168.42.1/24") || host.port("eth1").Up {
		t.Errorf("not undone: %+v", host.port("eth1"))
	}
	if !gone(path) {
		t.Error("an empty journal is a file")
	}
	host.must(undo) // twice is once
}

func TestNetworkOfAnotherPortIsRefusedAndNothingChanges(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth0", far, "x0")
	cable(host, "eth1", far, "x1")
	host.down("eth1")
	host.address("eth0", "192.168.42.77/24")
	path := filepath.Join(t.TempDir(), "undo.json")
	j := host.journal(path)
	err := host.do(func() error {
		_, err := j.Configure(host.port("eth1"), netip.MustParsePrefix("192.168.42.1/24"))
		return err
	})
	if !errors.Is(err, ErrNetworkInUse) || !strings.Contains(err.Error(), "eth0 carries 192.168.42.77/24") {
		t.Error(err)
	}
	if host.port("eth1").Up || !gone(path) {
		t.Error("something changed")
	}
}

// crashed configures everything, and forgets the journal's object as a killed process does.
func crashed(host *space, path string) {
	host.t.Helper()
	host.down("eth1")
	j := host.journal(path)
	host.must(func() error {
		if _, err := j.Configure(host.port("eth1"), netip.MustParsePrefix("192.168.42.1/24")); err != nil {
			return err
		}
		if _, err := j.EnableForwarding(); err != nil {
			return err
		}
		return j.SyncRoutes([]Route{{Dst: netip.MustParsePrefix("10.42.0.0/24"), Via: netip.MustParseAddr("192.168.42.10")}})
	})
}

func ourRoutes(s *space) (out []string) {
	s.t.Helper()
	s.must(func() error {
		r, err := routesOf(RouteProtocol)
		out = show(r)
		return err
	})
	return out
}

func forwards(s *space) (on bool) {
	s.t.Helper()
	s.must(func() (err error) { on, err = forwarding(); return err })
	return on
}

func TestNextStartUndoesWhatACrashLeft(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	path := filepath.Join(t.TempDir(), "undo.json")
	was := forwards(host)
	crashed(host, path)
	if !host.has("eth1", "192.168.42.1/24") || !forwards(host) || len(ourRoutes(host)) != 1 || gone(path) {
		t.Fatal("the crash left nothing behind")
	}
	host.must(func() error { return Undo(path, quiet()) })
	if host.has("eth1", "192.168.42.1/24") || host.port("eth1").Up || forwards(host) != was || ourRoutes(host) != nil || !gone(path) {
		t.Errorf("left: %+v, forwarding %v, routes %v", host.port("eth1"), forwards(host), ourRoutes(host))
	}
	host.must(func() error { return Undo(path, quiet()) })
}

func TestWhatOthersChangedSinceIsLeftAlone(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	path := filepath.Join(t.TempDir(), "undo.json")
	crashed(host, path)
	host.address("eth1", "172.16.0.1/24") // an administrator has begun to use the port
	host.must(func() error { return Undo(path, quiet()) })
	p := host.port("eth1")
	if !p.Up || host.has("eth1", "192.168.42.1/24") || !host.has("eth1", "172.16.0.1/24") || !gone(path) {
		t.Errorf("got %+v", p)
	}
}

func TestAnotherCardUnderTheNameIsLeftAlone(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	path := filepath.Join(t.TempDir(), "undo.json")
	crashed(host, path)
	host.link("eth1", netlink.LinkDel)
	cable(host, "eth1", far, "x1")
	host.address("eth1", "192.168.42.1/24")
	host.must(func() error { return Undo(path, quiet()) })
	if !host.has("eth1", "192.168.42.1/24") || !host.port("eth1").Up || !gone(path) {
		t.Errorf("got %+v", host.port("eth1"))
	}
}

func TestJournalOfAnotherBootIsDropped(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	path := filepath.Join(t.TempDir(), "undo.json")
	crashed(host, path)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := decodeJournal(b)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(strings.ReplaceAll(string(b), f.Boot, "another")), 0o600); err != nil {
		t.Fatal(err)
	}
	host.must(func() error { return Undo(path, quiet()) })
	if !host.has("eth1", "192.168.42.1/24") || !gone(path) {
		t.Error("a reboot has undone everything already; what is there now is someone's")
	}
}

func TestHomeAddressOutlivesTheProcess(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	host.down("eth1")
	path := filepath.Join(t.TempDir(), "undo.json")
	for range 2 {
		host.must(func() error { return KeepAddress("eth1", netip.MustParsePrefix("192.168.42.10/24")) })
	}
	host.must(func() error { return Undo(path, quiet()) })
	if !host.has("eth1", "192.168.42.10/24") || !host.port("eth1").Up {
		t.Errorf("got %+v", host.port("eth1"))
	}
	if err := host.do(func() error { return KeepAddress("nosuch0", netip.MustParsePrefix("192.168.42.10/24")) }); !errors.Is(err, ErrNoPort) {
		t.Error(err)
	}
}

func TestOnlyOurRoutesAreSynced(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	host.address("eth1", "192.168.42.1/24")
	r := func(dst, via string) Route {
		return Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)}
	}
	all := func() (out []string) {
		host.must(func() error {
			routes, err := netlink.RouteList(nil, netlink.FAMILY_V4)
			for _, r := range routes {
				if r.Gw != nil {
					out = append(out, fmt.Sprintf("%s via %s proto %d", r.Dst, r.Gw, r.Protocol))
				}
			}
			return err
		})
		return out
	}
	host.must(func() error { // the administrator's: one for itself, one for a network that is ours too
		return errors.Join(
			netlink.RouteAdd(&netlink.Route{Dst: netOf(netip.MustParsePrefix("10.99.0.0/24")), Gw: net.IPv4(192, 168, 42, 99), Protocol: unix.RTPROT_STATIC}),
			netlink.RouteAdd(&netlink.Route{Dst: netOf(netip.MustParsePrefix("10.42.0.0/24")), Gw: net.IPv4(192, 168, 42, 99), Protocol: unix.RTPROT_STATIC}))
	})
	host.must(func() error {
		return SyncRoutes([]Route{r("10.42.0.0/24", "192.168.42.10"), r("10.42.1.0/24", "192.168.42.10")}, RouteProtocol)
	})
	host.must(func() error {
		return SyncRoutes([]Route{r("10.42.1.0/24", "192.168.42.11"), r("10.42.0.0/24", "192.168.42.10")}, RouteProtocol)
	})
	static := []string{"10.42.0.0/24 via 192.168.42.99 proto 4", "10.99.0.0/24 via 192.168.42.99 proto 4"}
	want := []string{static[0], "10.42.0.0/24 via 192.168.42.10 proto 79", "10.42.1.0/24 via 192.168.42.11 proto 79", static[1]}
	if d := cmp.Diff(want, all()); d != "" {
		t.Error(d)
	}
	err := host.do(func() error { // an unreachable gateway does not keep the others out
		return SyncRoutes([]Route{r("10.42.5.0/24", "203.0.113.1"), r("10.42.6.0/24", "192.168.42.10")}, RouteProtocol)
	})
	if err == nil || !strings.Contains(err.Error(), "10.42.5.0/24 via 203.0.113.1") {
		t.Error(err)
	}
	if d := cmp.Diff([]string{"10.42.6.0/24 via 192.168.42.10"}, ourRoutes(host)); d != "" {
		t.Error(d)
	}
	host.must(func() error { return SyncRoutes(nil, RouteProtocol) })
	if d := cmp.Diff(static, all()); d != "" {
		t.Error(d)
	}
}

// TestWayToEverythingIsNoNetworkInUse: a VPN that takes all traffic sets two halves beside the default route.
func TestWayToEverythingIsNoNetworkInUse(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth0", far, "eth0")
	host.address("eth0", "192.0.2.2/24")
	host.must(func() error {
		var err error
		for _, dst := range []string{"0.0.0.0/0", "0.0.0.0/1", "128.0.0.0/1", "8.0.0.0/7", "10.0.0.0/8"} {
			err = errors.Join(err, netlink.RouteAdd(&netlink.Route{Dst: netOf(netip.MustParsePrefix(dst)), Gw: net.IPv4(192, 0, 2, 1), Protocol: unix.RTPROT_STATIC}))
		}
		return err
	})
	var got []string
	host.must(func() error {
		reached, err := Reached()
		for _, c := range reached {
			if c.Port != "lo" {
				got = append(got, c.String())
			}
		}
		return err
	})
	if d := cmp.Diff([]string{"eth0 carries 192.0.2.2/24", "eth0 has a route to 10.0.0.0/8"}, got); d != "" {
		t.Error(d)
	}
}

// Seed, m1 and m2 in a row, as in the demo: a packet crosses m1.
func TestNodesReachEachOtherAcrossSegments(t *testing.T) {
	need(t)
	seed, m1, m2 := newSpace(t), newSpace(t), newSpace(t)
	cable(seed, "lan0", m1, "lan0")
	cable(m1, "lan1", m2, "lan1")
	topology := Topology{
		Segments: map[string]netip.Prefix{"lan0": netip.MustParsePrefix("192.168.42.0/24"), "lan1": netip.MustParsePrefix("10.42.0.0/24")},
		Nodes: map[swarm.NodeID]map[string]netip.Addr{
			"seed": at("lan0", "192.168.42.1"), "m1": at("lan0", "192.168.42.10", "lan1", "10.42.0.1"), "m2": at("lan1", "10.42.0.10"),
		},
	}
	for id, s := range map[swarm.NodeID]*space{"seed": seed, "m1": m1, "m2": m2} {
		j := s.journal(filepath.Join(t.TempDir(), "undo.json"))
		for seg, addr := range topology.Nodes[id] {
			s.must(func() error {
				_, err := j.Configure(s.port(seg), netip.PrefixFrom(addr, 24))
				return err
			})
		}
		s.must(func() error { _, err := j.EnableForwarding(); return err })
		s.must(func() error { return j.SyncRoutes(Routes(id, topology)) })
		t.Cleanup(func() { s.must(j.Undo) })
	}
	var l net.Listener
	m2.must(func() (err error) { l, err = net.Listen("tcp4", "10.42.0.10:7400"); return err })
	defer func() { _ = l.Close() }()
	go func() {
		if c, err := l.Accept(); err == nil {
			_, _ = io.WriteString(c, c.RemoteAddr().String())
			_ = c.Close()
		}
	}()
	seed.must(func() error {
		c, err := net.DialTimeout("tcp4", "10.42.0.10:7400", 3*time.Second)
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		b, err := io.ReadAll(c)
		if err == nil && !strings.HasPrefix(string(b), "192.168.42.1:") {
			err = fmt.Errorf("m2 was reached from %s", b)
		}
		return err
	})
}

func TestLinkChangesAreReported(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var changed <-chan struct{}
	host.must(func() (err error) { changed, err = WatchLinks(ctx); return err })
	for name, change := range map[string]func(){
		"peer goes down": func() { far.down("x1") },
		"new address":    func() { host.address("eth1", "192.0.2.1/24") },
	} {
		for len(changed) > 0 {
			<-changed
		}
		change()
		select {
		case <-changed:
		case <-time.After(5 * time.Second):
			t.Errorf("%s: not reported", name)
		}
	}
	cancel()
	for range changed { // closed soon
	}
	if err := host.do(func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
		defer cancel()
		_, err := AwaitLink(ctx, "eth1")
		return err
	}); !errors.Is(err, ErrNoLink) {
		t.Errorf("peer is down: %v", err)
	}
}
