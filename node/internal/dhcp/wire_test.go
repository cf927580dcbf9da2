//go:build wire

package dhcp

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"
	"golang.org/x/sys/unix"

	"offshoot/swarm"
)

// need skips a test whose tool or right is missing; where both are promised (CI=true) that is a failure.
func need(t *testing.T, tools ...string) {
	t.Helper()
	missing := func(what string) {
		if os.Getenv("CI") == "true" {
			t.Fatalf("%s", what)
		}
		t.Skipf("%s", what)
	}
	if os.Geteuid() != 0 {
		missing("namespaces need root")
	}
	for _, tool := range append(tools, "ip", "ethtool") {
		if _, err := exec.LookPath(tool); err != nil {
			missing(tool + " is not installed")
		}
	}
}

func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 60*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// segment is two namespaces with a cable between them.
type segment struct{ serverNS, clientNS string }

func newSegment(t *testing.T, subnet string) segment {
	t.Helper()
	s := segment{serverNS: fmt.Sprintf("offdhcp-s%d", os.Getpid()), clientNS: fmt.Sprintf("offdhcp-c%d", os.Getpid())}
	for _, ns := range []string{s.serverNS, s.clientNS} {
		run(t, "ip", "netns", "add", ns)
		t.Cleanup(func() { run(t, "ip", "netns", "del", ns) })
	}
	run(t, "ip", "-n", s.serverNS, "link", "add", "lan0", "type", "veth", "peer", "name", "eth0", "netns", s.clientNS)
	run(t, "ip", "-n", s.serverNS, "addr", "add", subnet, "dev", "lan0")
	run(t, "ip", "-n", s.serverNS, "link", "set", "lan0", "up")
	run(t, "ip", "-n", s.clientNS, "link", "set", "eth0", "address", "52:54:00:00:00:01")
	run(t, "ip", "-n", s.clientNS, "link", "set", "eth0", "up")
	// Clients that read raw packets would see sums that no card has filled in.
	run(t, "ip", "netns", "exec", s.serverNS, "ethtool", "-K", "lan0", "tx", "off")
	run(t, "ip", "netns", "exec", s.clientNS, "ethtool", "-K", "eth0", "tx", "off")
	return s
}

// within runs f on a thread of the namespace; sockets opened there stay there.
func within(ns string, f func() error) error {
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // never unlocked: the thread ends with this goroutine
		h, err := os.Open(filepath.Join("/var/run/netns", ns))
		if err != nil {
			done <- err
			return
		}
		defer func() { _ = h.Close() }()
		if err := unix.Setns(int(h.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace %s: %w", ns, err)
			return
		}
		done <- f()
	}()
	return <-done
}

// arp opens the prober inside the server's namespace.
func (s segment) arp(t *testing.T) (a *arp) {
	t.Helper()
	err := within(s.serverNS, func() (err error) { a, err = openARP("lan0"); return err })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(a.close)
	return a
}

// serve runs a real server on the segment until the test ends.
func (s segment) serve(t *testing.T, cfg Config) *memory {
	t.Helper()
	ledger := newMemory(time.Now)
	var mu sync.Mutex
	var traces []Trace
	srv, err := New(Options{
		Config: cfg, Ledger: ledger, Duty: func() DutyState { return Full },
		OnTrace: func(tr Trace) { mu.Lock(); defer mu.Unlock(); traces = append(traces, tr) },
		Probe:   s.arp(t).probe,
		Listen: func(c Config) (l Link, err error) {
			err = within(s.serverNS, func() error { l, err = Listen(c); return err })
			return l, err
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- srv.Run(ctx) }()
	select {
	case <-srv.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
		if t.Failed() {
			for _, tr := range traces[max(0, len(traces)-50):] {
				t.Logf("%s %s -> %s (%s)", tr.MAC, tr.What, tr.Answer, tr.Reason)
			}
		}
	})
	return ledger
}

// until waits for a condition, asking every 50 ms.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	deadline := time.After(30 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("not within 30 s: %s", what)
		}
	}
}

// dhclientScript gives the interface its address and no more: the distribution's script would write to /etc.
const dhclientScript = `#!/bin/sh
[ -z "$new_ip_address" ] || exec ip addr replace "$new_ip_address/24" dev "$interface"
[ "$reason" != RELEASE ] || exec ip addr flush dev "$interface"
`

func TestDhclientGetsRenewsAndReleases(t *testing.T) {
	need(t, "dhclient")
	seg := newSegment(t, "192.168.42.1/24")
	cfg := testConfig()
	cfg.Lease = 6 * time.Second
	ledger := seg.serve(t, cfg)
	dir := t.TempDir()
	script := filepath.Join(dir, "script")
	if err := os.WriteFile(script, []byte(dhclientScript), 0o755); err != nil {
		t.Fatal(err)
	}
	pidFile := filepath.Join(dir, "pid")
	args := []string{"netns", "exec", seg.clientNS, "dhclient", "-4", "-v", "-sf", script, "-pf", pidFile, "-lf", filepath.Join(dir, "leases"), "-cf", "/dev/null"}
	t.Logf("%s", run(t, "ip", append(args, "-1", "eth0")...))
	first, ok := ledger.Binding("52:54:00:00:00:01")
	if !ok {
		t.Fatal("no binding")
	}
	until(t, "renewed", func() bool {
		b, _ := ledger.Binding("52:54:00:00:00:01")
		return b.Expires.After(first.Expires) && b.Addr == first.Addr && b.Nonce == first.Nonce
	})
	t.Logf("%s", run(t, "ip", append(args, "-r", "eth0")...))
	until(t, "released", func() bool {
		b, _ := ledger.Binding("52:54:00:00:00:01")
		return b.ExpiredAt(time.Now())
	})
}

func TestPerfdhcpLosesNothing(t *testing.T) {
	need(t, "perfdhcp")
	seg := newSegment(t, "10.77.0.1/16")
	run(t, "ip", "-n", seg.clientNS, "addr", "add", "10.77.0.2/16", "dev", "eth0")
	cfg := testConfig()
	cfg.Server, cfg.Router, cfg.DNS = netip.MustParseAddr("10.77.0.1"), netip.Addr{}, nil
	cfg.Subnet, cfg.Pools = netip.MustParsePrefix("10.77.0.0/16"), []Range{{netip.MustParseAddr("10.77.1.0"), netip.MustParseAddr("10.77.9.255")}}
	ledger := seg.serve(t, cfg)
	const exchanges = 400
	// -W is in microseconds: without it the last exchange ends while its address is still being probed.
	out := run(t, "ip", "netns", "exec", seg.clientNS, "perfdhcp", "-4", "-l", "eth0", "-r", "100", "-R", "300", "-n", fmt.Sprint(exchanges), "-W", "2000000", cfg.Server.String())
	t.Logf("%s", out)
	if drops := regexp.MustCompile(`drops: (\d+)`).FindAllStringSubmatch(out, -1); len(drops) != 2 || drops[0][1] != "0" || drops[1][1] != "0" {
		t.Errorf("lost exchanges: %v", drops)
	}
	seen := make(map[netip.Addr]swarm.MAC)
	for mac, b := range ledger.bindings {
		if other, ok := seen[b.Addr]; ok {
			t.Errorf("%s belongs to %s and %s", b.Addr, mac, other)
		}
		seen[b.Addr] = mac
	}
	if len(seen) < 100 {
		t.Errorf("only %d machines are bound", len(seen))
	}
}

// TestUnicastToClientWithoutAddress covers the raw frame: nclient4 leaves the broadcast flag clear, and reads below IP.
func TestUnicastToClientWithoutAddress(t *testing.T) {
	need(t)
	seg := newSegment(t, "192.168.42.1/24")
	seg.serve(t, testConfig())
	var client *nclient4.Client
	err := within(seg.clientNS, func() (err error) {
		client, err = nclient4.New("eth0", nclient4.WithTimeout(3*time.Second))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	for _, broadcast := range []bool{false, true} {
		lease, err := client.Request(context.Background(), dhcpv4.WithBroadcast(broadcast))
		if err != nil {
			t.Fatalf("broadcast flag %t: %v", broadcast, err)
		}
		t.Logf("broadcast flag %t: %s", broadcast, lease.ACK)
	}
}

func TestARPProbeFindsTheUser(t *testing.T) {
	need(t)
	seg := newSegment(t, "192.168.42.1/24")
	run(t, "ip", "-n", seg.clientNS, "addr", "add", "192.168.42.50/24", "dev", "eth0")
	asker := seg.arp(t)
	for addr, want := range map[string]string{"192.168.42.50": "52:54:00:00:00:01", "192.168.42.51": ""} {
		user, err := asker.probe(context.Background(), netip.MustParseAddr(addr))
		if err != nil || user.String() != want {
			t.Errorf("%s is used by %q, want %q (%v)", addr, user, want, err)
		}
	}
}

func TestTwoServersOnOneInterfaceIsAnError(t *testing.T) {
	need(t)
	seg := newSegment(t, "192.168.42.1/24")
	seg.serve(t, testConfig())
	err := within(seg.serverNS, func() error { _, err := Listen(testConfig()); return err })
	if err == nil || !strings.Contains(err.Error(), "another DHCP server") {
		t.Errorf("second listener: %v", err)
	}
}
