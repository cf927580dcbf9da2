//go:build wire

package e2e

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// TestRelay: machines on a network that no node has a port on are served through relays that are not ours.
func TestRelay(t *testing.T) {
	lab.Need(t, lab.Wire)
	k := newBadKit(t)
	for _, c := range []struct {
		name  string
		relay func(*farWorld)
	}{{"dnsmasq", relayDnsmasq}, {"dhcrelay", relayDhcrelay}} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			w := newFar(k.world(t))
			c.relay(w)
			w.farClients()
			if c.name == "dnsmasq" { // dhcrelay passes on what the router does as well
				w.manyFar(w.another("many", w.far))
			}
		})
	}
}

// farWorld has a seed on lan0 and a router between that and lan1.
type farWorld struct {
	*badWorld
	far    *lab.Network
	router *lab.Host
	seeded *badRun
}

func newFar(w *badWorld) *farWorld {
	w.t.Helper()
	far, err := w.lab.Network("lan1")
	if err != nil {
		w.t.Fatal(err)
	}
	f := &farWorld{badWorld: w, far: far, router: w.another("router", w.lan, far)}
	for _, args := range [][]string{
		{"ip", "addr", "add", "192.168.42.254/24", "dev", "lan0"}, {"ip", "addr", "add", "10.9.0.1/24", "dev", "lan1"}, {"sysctl", "-qw", "net.ipv4.ip_forward=1"},
	} {
		f.run(f.router, args...)
	}
	f.seeded = f.seed()
	f.seeded.says("ready")
	f.offshoot("segment", "add", "10.9.0.0/24", "--relay", "10.9.0.1", "--via", "192.168.42.254")
	return f
}

func relayDnsmasq(w *farWorld) {
	lab.Need(w.t, "dnsmasq")
	w.start(w.router, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=", "--log-facility=-",
		"--dhcp-relay=10.9.0.1,192.168.42.1").says("started")
}

// relayDhcrelay adds option 82 of its own.
func relayDhcrelay(w *farWorld) {
	lab.Need(w.t, "dhcrelay")
	w.start(w.router, "dhcrelay", "-4", "-d", "-a", "-pf", filepath.Join(w.lab.Dir(), "dhcrelay.pid"), "-id", "lan1", "-iu", "lan0", "192.168.42.1").says("Sending on")
}

func (w *farWorld) farClients() {
	lab.Need(w.t, "dhclient", "dig", "perfdhcp")
	near := w.another("near", w.lan)
	if addr, _ := w.leased(near, "lan0"); !strings.HasPrefix(addr, "192.168.42.") {
		w.t.Errorf("beside the relay, leased %s", addr)
	}
	client := w.another("client", w.far)
	mac := client.MAC(w.far)
	addr, told := w.leased(client, "lan1")
	if !strings.HasPrefix(addr, "10.9.0.") {
		w.t.Fatalf("behind the relay, leased %s", addr)
	}
	for _, want := range []string{"option routers 10.9.0.1;", "option domain-name-servers 192.168.42.1;", "option dhcp-server-identifier 192.168.42.1;"} {
		if !strings.Contains(told, want) {
			w.t.Errorf("%q is not in %s", want, told)
		}
	}
	w.offshoot("machine", "name", mac.String(), "far")
	if out := w.dig(client, "@192.168.42.1", "far.offshoot.internal"); !strings.Contains(out, "\t"+addr) {
		w.t.Errorf("its own name: %s", out)
	}

	// Renewing is between the client and the server alone, and crosses the router.
	renew := w.farMessage(mac, dhcpv4.MessageTypeRequest, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.ParseIP(addr) })
	if ack, err := w.farAsk(client, addr, renew); err != nil || ack.MessageType() != dhcpv4.MessageTypeAck || ack.YourIPAddr.String() != addr {
		w.t.Errorf("renewing: %v, %v", ack, err)
	}
	other := w.farMessage(mac, dhcpv4.MessageTypeRequest, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.IPv4(10, 9, 0, 99) })
	if nak, err := w.farAsk(client, addr, other); err == nil && nak.MessageType() != dhcpv4.MessageTypeNak {
		w.t.Errorf("renewing another's: %v", nak)
	}

	// It finds its address in use: the next one is another.
	w.farSend(client, addr, "255.255.255.255:67", w.farMessage(mac, dhcpv4.MessageTypeDecline, func(p *dhcpv4.DHCPv4) {
		p.UpdateOption(dhcpv4.OptRequestedIPAddress(net.ParseIP(addr)))
		p.UpdateOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 168, 42, 1)))
	}))
	w.seeded.await("the declined address is in quarantine", func() bool {
		return regexp.MustCompile(regexp.QuoteMeta(addr) + ` +s2 .* quarantined`).MatchString(w.offshoot("lease", "list"))
	})
	again, _ := w.leased(client, "lan1")
	if again == addr || !strings.HasPrefix(again, "10.9.0.") {
		w.t.Errorf("declined %s, leased %s", addr, again)
	}
	w.farSend(client, again, "192.168.42.1:67", w.farMessage(mac, dhcpv4.MessageTypeRelease, func(p *dhcpv4.DHCPv4) { p.ClientIPAddr = net.ParseIP(again) }))
	w.seeded.await("the released address is free", func() bool {
		return regexp.MustCompile(regexp.QuoteMeta(again) + ` +s2 .* expired`).MatchString(w.offshoot("lease", "list"))
	})

	// A relay of a network that nobody wrote down.
	stray := w.farMessage(mac, dhcpv4.MessageTypeDiscover, func(p *dhcpv4.DHCPv4) { p.GatewayIPAddr = net.IPv4(10, 99, 0, 1) })
	w.run(w.router, "ip", "addr", "add", "10.99.0.1/24", "dev", "lan1")
	w.farSend(w.router, "192.168.42.254", "192.168.42.1:67", stray)
	w.seeded.await("the stray relay is named", func() bool {
		return strings.Contains(w.offshoot("machine", "why", mac.String()), "relayed for 10.99.0.1, which is not in our subnet 192.168.42.0/24")
	})
}

// manyFar has perfdhcp play a relay with many clients behind it.
func (w *farWorld) manyFar(h *lab.Host) {
	addr, _ := w.leased(h, "lan1")
	const exchanges = 60
	// -W is in microseconds: what is under way at the end may take its time on a busy machine.
	out := w.run(h, "perfdhcp", "-4", "-l", addr, "-r", "20", "-R", fmt.Sprint(exchanges), "-n", fmt.Sprint(exchanges), "-W", "5000000", "192.168.42.1")
	if drops := regexp.MustCompile(`drops: (\d+)`).FindAllStringSubmatch(out, -1); len(drops) != 2 || drops[0][1] != "0" || drops[1][1] != "0" {
		w.t.Errorf("lost exchanges: %s", out)
	}
	for _, s := range w.status().Segments {
		if s.ID == "s2" && (s.Leases < exchanges/2 || s.Relay == nil || *s.Relay != status.Relay{There: "10.9.0.1", Here: "192.168.42.254", Segment: "s1"}) {
			w.t.Errorf("the segment afterwards: %+v %+v", s, s.Relay)
		}
	}
}

func (w *farWorld) farMessage(mac net.HardwareAddr, t dhcpv4.MessageType, more func(*dhcpv4.DHCPv4)) *dhcpv4.DHCPv4 {
	w.t.Helper()
	p, err := dhcpv4.New(dhcpv4.WithHwAddr(mac), dhcpv4.WithMessageType(t))
	if err != nil {
		w.t.Fatal(err)
	}
	more(p)
	return p
}

// farSend sends from the client port of an address, and wants no answer.
func (w *farWorld) farSend(h *lab.Host, from, to string, p *dhcpv4.DHCPv4) {
	w.t.Helper()
	if err := w.farOpen(h, from, to, p).Close(); err != nil { // dhclient wants that port, too
		w.t.Fatal(err)
	}
}

func (w *farWorld) farOpen(h *lab.Host, from, to string, p *dhcpv4.DHCPv4) net.PacketConn {
	w.t.Helper()
	var conn net.PacketConn
	err := h.Do(func() (err error) {
		port := "68"
		if p.GatewayIPAddr != nil && !p.GatewayIPAddr.IsUnspecified() {
			port = "6767" // the relay that is under test has 67
		}
		conn, err = net.ListenPacket("udp4", net.JoinHostPort(from, port))
		if err != nil {
			return err
		}
		at, err := net.ResolveUDPAddr("udp4", to)
		if err != nil {
			return errors.Join(err, conn.Close())
		}
		_, err = conn.WriteTo(p.ToBytes(), at)
		return err
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return conn
}

// farAsk sends to the seed and waits for its answer. dhcrelay passes on what the router does as well, so that answers come twice.
func (w *farWorld) farAsk(h *lab.Host, from string, p *dhcpv4.DHCPv4) (*dhcpv4.DHCPv4, error) {
	w.t.Helper()
	conn := w.farOpen(h, from, "192.168.42.1:67", p)
	defer func() { _ = conn.Close() }()
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		w.t.Fatal(err)
	}
	buf := make([]byte, 1500)
	for {
		n, _, err := conn.ReadFrom(buf)
		if err != nil {
			return nil, err
		}
		if answer, err := dhcpv4.FromBytes(buf[:n]); err != nil || answer.TransactionID == p.TransactionID {
			return answer, err
		}
	}
}

// TestMachineBehindARelayIsInstalledAndTakesOver: it joins the swarm across the router, and serves its network from then on by
// itself: the relay may go.
func TestMachineBehindARelayIsInstalledAndTakesOver(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq", "dhclient")
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	w, small := world(t)
	far, err := w.Lab.Host("far", w.Lan1)
	if err != nil {
		t.Fatal(err)
	}
	router, err := w.Lab.Host("router", w.Lan0, w.Lan1)
	if err != nil {
		t.Fatal(err)
	}
	run := func(h *lab.Host, args ...string) {
		t.Helper()
		if out, err := h.Run(ctx, args[0], args[1:]...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	run(router, "ip", "addr", "add", "192.168.43.254/24", "dev", "lan1")
	run(router, "ip", "addr", "add", "10.9.0.1/24", "dev", "lan0")
	run(router, "sysctl", "-qw", "net.ipv4.ip_forward=1")
	seed, err := w.Start(ctx, far, filepath.Join(w.Lab.Dir(), "far"), "seed", "--interface", "lan1", "--network", "192.168.43.1/24", "--image", small.Image,
		"--ssh-key", filepath.Join(w.Lab.Dir(), "operator.pub"), "--name", "far", "--probe", "1s", "--expand", "never", "--live-kernel", small.Kernel, "--live-modules", small.Modules)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Until(ctx, seed, "the seed serves", func(s status.Status) string {
		if len(s.Segments) == 0 || s.Segments[0].Holder != "far" || !s.Nodes[0].Warm {
			return "not yet"
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	if out, err := seed.Offshoot(ctx, "segment", "add", "10.9.0.0/24", "--relay", "10.9.0.1", "--via", "192.168.43.254"); err != nil {
		t.Fatal(err, out)
	}
	relay := router.Command(ctx, "dnsmasq", "--keep-in-foreground", "--conf-file=/dev/null", "--port=0", "--user=root", "--pid-file=",
		"--dhcp-relay=10.9.0.1,192.168.43.1")
	if err := relay.Start(); err != nil {
		t.Fatal(err)
	}
	m1 := bareAndArmed(ctx, t, w, seed, small, "m1")
	switchOn(ctx, t, m1)
	if err := w.Held(ctx, seed, "10.9.0.0/24", "m1"); err != nil {
		t.Fatal(err)
	}
	if err := relay.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	_ = relay.Wait()
	client, err := w.Lab.Host("client", w.Lan0)
	if err != nil {
		t.Fatal(err)
	}
	gateway, err := w.Lease(ctx, client, w.Lan0)
	if err != nil {
		t.Fatal(err)
	}
	if gateway != "10.9.0.1" {
		t.Errorf("without the relay, the router is %s", gateway)
	}
	out, err := m1.Offshoot(ctx, "lease", "list", "--segment", "s2")
	if err != nil || !strings.Contains(out, client.MAC(w.Lan0).String()) {
		t.Errorf("leases of the network: %v: %s", err, out)
	}
	if s, err := m1.Status(ctx); err != nil || len(s.Nodes) != 2 || !s.Quorum {
		t.Errorf("m1 knows %+v, %v", s.Nodes, err)
	}
}
