//go:build wire

package segment

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"offshoot/swarm"
)

// brisk is the schedule of a lab: the same rules on a shorter clock.
var brisk = Schedule{Sends: []time.Duration{0, 300 * time.Millisecond, 600 * time.Millisecond, 900 * time.Millisecond}, Listen: 1500 * time.Millisecond}

// dnsmasq serves on a port that has the address 10.9.0.1/24.
func dnsmasq(s *space, port string, args ...string) (stop func()) {
	s.t.Helper()
	return s.start("dnsmasq", append([]string{
		"--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--log-facility=-",
		"--interface=" + port, "--bind-interfaces", "--no-ping", "--dhcp-authoritative", "--log-dhcp",
		"--dhcp-leasefile=" + filepath.Join(s.t.TempDir(), "leases"),
	}, args...)...)
}

const fullRange = "--dhcp-range=10.9.0.50,10.9.0.99,120"

// probeUntil probes until the check holds, because a foreign server needs a moment to start.
func probeUntil(host *space, p Prober, port string, check func([]Server) error) {
	host.t.Helper()
	eventually(host.t, 20*time.Second, nil, func() error {
		var got []Server
		if err := host.do(func() (err error) {
			got, err = p.Probe(context.Background(), host.port(port))
			return err
		}); err != nil {
			return err
		}
		return check(got)
	})
}

func TestProbeFindsAForeignServer(t *testing.T) {
	need(t, "dnsmasq")
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	far.address("x1", "10.9.0.1/24")
	dnsmasq(far, "x1", fullRange)
	mac := far.port("x1").MAC
	probeUntil(host, Prober{Schedule: brisk, Mark: "offshoot-probe t", Log: quiet()}, "eth1", func(got []Server) error {
		if len(got) != 1 {
			return fmt.Errorf("found %v", got)
		}
		return errors.Join(expect("id", got[0].ID, netip.MustParseAddr("10.9.0.1")), expect("mac", got[0].MAC, mac), expect("proxy", got[0].Proxy, false))
	})
	start := time.Now()
	host.must(func() error { _, err := Prober{Log: quiet()}.Probe(t.Context(), host.port("eth1")); return err })
	if d := time.Since(start); d > 5*time.Second {
		t.Errorf("the probe went on for %v after the answer", d)
	}
}

func TestProbeFindsAForeignProxy(t *testing.T) {
	need(t, "dnsmasq")
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	far.address("x1", "10.9.0.1/24")
	dnsmasq(far, "x1", "--dhcp-range=10.9.0.0,proxy", "--pxe-service=x86PC,test,pxelinux")
	probeUntil(host, Prober{Schedule: brisk, Log: quiet()}, "eth1", func(got []Server) error {
		if len(got) != 1 || !got[0].Proxy {
			return fmt.Errorf("found %+v", got)
		}
		return nil
	})
}

func TestProbeHearsSilenceAndOwnServers(t *testing.T) {
	need(t, "dnsmasq")
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	far.address("x1", "10.9.0.1/24")
	dnsmasq(far, "x1", fullRange)
	var mu sync.Mutex
	asked := 0
	mine := func(s Server) bool {
		mu.Lock()
		defer mu.Unlock()
		asked++
		return s.ID == netip.MustParseAddr("10.9.0.1")
	}
	probeUntil(host, Prober{Schedule: brisk, Mine: mine, Log: quiet()}, "eth1", func(got []Server) error {
		mu.Lock()
		defer mu.Unlock()
		if len(got) > 0 {
			t.Fatalf("its own server is foreign to it: %v", got)
		}
		if asked == 0 {
			return errors.New("no server has answered")
		}
		return nil
	})
}

// A server that ignores the broadcast flag answers to a MAC that no card has. A veth passes such a frame anyway, so the
// card's mode is looked at instead.
func TestPortIsPromiscuousOnlyWhileProbed(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	mode := func(want int) error {
		var got int
		host.link("eth1", func(l netlink.Link) error { got = l.Attrs().Promisc; return nil })
		return expect("promiscuity", got, want)
	}
	port := host.port("eth1")
	done := make(chan error, 1)
	go func() {
		done <- host.do(func() error {
			_, err := Prober{Schedule: brisk, Log: quiet()}.Probe(context.Background(), port)
			return err
		})
	}()
	eventually(t, time.Second, nil, func() error { return mode(1) })
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := mode(0); err != nil {
		t.Error(err)
	}
}

func TestWatcherSeesARealServerComeAndGo(t *testing.T) {
	need(t, "dnsmasq")
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	far.address("x1", "10.9.0.1/24")
	changes := make(chan []Server, 8)
	w := &Watcher{
		Prober: Prober{Schedule: Schedule{Sends: []time.Duration{0}, Listen: 300 * time.Millisecond}, Log: quiet()},
		Port:   host.port("eth1"), Every: 200 * time.Millisecond, Changed: func(s []Server) { changes <- s },
	}
	host.serve(w.Run)
	next := func(n int) {
		t.Helper()
		select {
		case s := <-changes:
			if len(s) != n {
				t.Fatalf("got %v, want %d servers", s, n)
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("no change to %d servers", n)
		}
	}
	stop := dnsmasq(far, "x1", fullRange)
	next(1)
	// A link that blinks interrupts the watch and must not end it.
	host.down("eth1")
	host.up("eth1")
	stop()
	next(0)
	dnsmasq(far, "x1", fullRange)
	next(1)
}

func TestRealNodesOnOneSegmentMeet(t *testing.T) {
	need(t)
	// A switch between three nodes, as a bridge in a namespace of its own.
	sw := newSpace(t)
	attrs := netlink.NewLinkAttrs()
	attrs.Name = "br0"
	sw.add(&netlink.Bridge{LinkAttrs: attrs})
	sw.up("br0")
	spaces := map[string]*space{}
	for _, name := range []string{"pa", "pb", "pc"} {
		s := newSpace(t)
		cable(s, name, sw, "to-"+name)
		sw.link("to-"+name, func(l netlink.Link) error {
			br, err := netlink.LinkByName("br0")
			if err != nil {
				return err
			}
			return netlink.LinkSetMaster(l, br)
		})
		spaces[name] = s
	}
	const every = 100 * time.Millisecond
	a, b := newVoice(t, "s1", "aa", 1, "pa", every), newVoice(t, "s1", "bb", 1, "pb", every)
	other := newVoice(t, "other", "cc", 2, "pc", every)
	twoNodesMeet(t, a, b, other, func(v *voice) func() { return spaces[v.port].serve(v.Run) })
}

func TestHelloSurvivesARealPortThatGoes(t *testing.T) {
	need(t)
	left, right := newSpace(t), newSpace(t)
	cable(left, "pa", right, "pb")
	const every = 100 * time.Millisecond
	a, b := newVoice(t, "s1", "aa", 1, "pa", every), newVoice(t, "s1", "bb", 1, "pb", every)
	left.serve(a.Run)
	right.serve(b.Run)
	meet := func() {
		t.Helper()
		eventually(t, 10*time.Second, a.Changed(), func() error { return a.sees("bb") })
		eventually(t, 10*time.Second, b.Changed(), func() error { return b.sees("aa") })
	}
	meet()
	right.down("pb")
	eventually(t, 5*time.Second, a.Changed(), func() error { return a.sees() })
	right.up("pb")
	meet()
	left.link("pa", netlink.LinkDel) // both ends go
	eventually(t, 5*time.Second, a.Changed(), func() error { return a.sees() })
	cable(left, "pa", right, "pb") // another card under the same name
	meet()
}

func TestARPTellsWhoHasAnAddress(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	host.address("eth1", "10.9.0.1/24")
	far.address("x1", "10.9.0.7/24")
	mac := far.port("x1").MAC
	for addr, want := range map[string]bool{"10.9.0.7": true, "10.9.0.8": false} {
		host.must(func() error {
			taken, by, err := ProbeARP(t.Context(), host.port("eth1"), netip.MustParseAddr(addr))
			if err != nil || taken != want || want && swarm.MACOf(by) != mac {
				t.Errorf("%s: taken %v by %v, %v", addr, taken, by, err)
			}
			return nil
		})
	}

	entry := func(addr string) (mac swarm.MAC, ok bool) {
		host.must(func() (err error) { mac, ok, err = ARPEntry(netip.MustParseAddr(addr)); return err })
		return mac, ok
	}
	if m, ok := entry("10.9.0.8"); ok {
		t.Errorf("10.9.0.8 is at %s", m)
	}
	// A datagram makes the kernel ask; the answer is in the table soon after.
	host.must(func() error {
		c, err := net.Dial("udp4", "10.9.0.7:9")
		if err != nil {
			return err
		}
		_, err = c.Write([]byte("x"))
		return errors.Join(err, c.Close())
	})
	eventually(t, 5*time.Second, nil, func() error {
		m, ok := entry("10.9.0.7")
		return errors.Join(expect("found", ok, true), expect("mac", m, mac))
	})

	// The address moves to another card; its announcement replaces what the host believed.
	fresh := localMAC()
	far.link("x1", func(l netlink.Link) error { return netlink.LinkSetHardwareAddr(l, fresh) })
	stop := far.serve(func(ctx context.Context) error {
		return Announce(ctx, far.port("x1"), netip.MustParseAddr("10.9.0.7"))
	})
	eventually(t, 5*time.Second, nil, func() error {
		m, _ := entry("10.9.0.7")
		return expect("mac", m, swarm.MACOf(fresh))
	})
	stop()
}

func TestMissingRightIsNamed(t *testing.T) {
	need(t)
	host, far := newSpace(t), newSpace(t)
	cable(host, "eth1", far, "x1")
	port := host.port("eth1")
	err := host.do(func() error {
		// The thread ends with this function, and its capabilities with it.
		hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
		var data [2]unix.CapUserData
		if err := unix.Capget(&hdr, &data[0]); err != nil {
			return err
		}
		data[0].Effective &^= 1 << unix.CAP_NET_RAW
		if err := unix.Capset(&hdr, &data[0]); err != nil {
			return err
		}
		if err := Rights(); !errors.Is(err, ErrRights) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
			t.Errorf("rights: %v", err)
		}
		_, err := Prober{Log: quiet()}.Probe(t.Context(), port)
		return err
	})
	if !errors.Is(err, ErrRights) || !strings.Contains(err.Error(), "CAP_NET_RAW") {
		t.Error(err)
	}
	if err := host.do(Rights); err != nil {
		t.Error(err)
	}
}
