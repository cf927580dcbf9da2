//go:build wire

package e2e

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/dhcpv4/nclient4"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestProxyBesideARealServer: the seed finds the server of others by itself, gives nothing, and tells BIOS, EFI and iPXE what to boot,
// on both of a proxy's ports.
func TestProxyBesideARealServer(t *testing.T) {
	for _, program := range []string{"dnsmasq", "kea-dhcp4"} {
		t.Run(program, func(t *testing.T) {
			t.Parallel()
			lab.Need(t, program, "curl", "ss")
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			k := besideForeign(ctx, t, program)
			k.begin(ctx)
			client, err := k.Lab.Host("client", k.Lan0)
			if err != nil {
				t.Fatal(err)
			}
			c := proxyClient{t: t, host: client, mac: client.MAC(k.Lan0)}
			k.checkFirmware(ctx, c)
			k.checkIPXE(ctx, c)
			k.checkGivesNothing()
			if err := k.seed.Interrupt(); err != nil {
				t.Fatal(err)
			}
			k.waitFor(ctx, "it says that nobody can take over", func() bool { return strings.Contains(k.said(), "nobody can take over") })
			k.seed.Kill()
			if now := k.port(ctx); now != k.before {
				t.Errorf("the port was\n%s\nand is now\n%s", k.before, now)
			}
		})
	}
}

// foreignKit is a world whose network belongs to somebody else.
type foreignKit struct {
	*story.World
	t      *testing.T
	small  story.Small
	seed   *story.Daemon
	before string // how the seed's port looked
}

func besideForeign(ctx context.Context, t *testing.T, program string) *foreignKit {
	t.Helper()
	w, small := world(t)
	k := &foreignKit{World: w, t: t, small: small}
	_, err := w.StartForeign(ctx, program)
	if err := errors.Join(err, w.SettleSeed(ctx)); err != nil {
		t.Fatal(err)
	}
	k.before = k.port(ctx)
	return k
}

// begin starts the seed, which is told no mode.
func (k *foreignKit) begin(ctx context.Context, flags ...string) {
	k.t.Helper()
	var err error
	flags = append([]string{"--probe", "2s", "--expand", "never", "--live-kernel", k.small.Kernel, "--live-modules", k.small.Modules}, flags...)
	if k.seed, err = k.StartSeed(ctx, flags...); err != nil {
		k.t.Fatal(err)
	}
	s, err := k.Until(ctx, k.seed, "it serves", func(s status.Status) string {
		if len(s.Segments) == 0 || s.Segments[0].Holder != "seed" {
			return "nobody on duty"
		}
		return ""
	})
	if err != nil {
		k.t.Fatal(err)
	}
	if g := s.Segments[0]; g.Mode != "proxy" || g.Network != "192.168.42.0/24" || g.Blocked != "" || g.Beside != "" || len(g.Pools) > 0 || len(s.Problems) > 0 {
		k.t.Errorf("%+v, problems %+v", g, s.Problems)
	}
	if want := "segment   " + story.ForeignSeed + "/24 on lan0, mode proxy: the DHCP server " + story.ForeignServer; !strings.Contains(k.said(), want) {
		k.t.Errorf("it did not say %q, but\n%s", want, k.said())
	}
}

func (k *foreignKit) said() string { return k.log(k.seed.Log) }

func (k *foreignKit) log(path string) string {
	k.t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		k.t.Fatal(err)
	}
	return string(text)
}

func (k *foreignKit) port(ctx context.Context) string {
	k.t.Helper()
	out, err := k.Seed.Run(ctx, "ip", "-4", "-o", "addr", "show", "dev", "lan0")
	if err != nil {
		k.t.Fatal(err)
	}
	return out
}

func (k *foreignKit) waitFor(ctx context.Context, what string, holds func() bool) {
	k.t.Helper()
	for !holds() {
		if err := lapse(ctx, 50*time.Millisecond); err != nil {
			k.t.Fatalf("wait until %s: %v", what, err)
		}
	}
}

// checkGivesNothing: of all that the seed has sent, nothing has what a lease has.
func (k *foreignKit) checkGivesNothing() {
	k.t.Helper()
	all, err := lab.ReadDHCP(k.Captures["lan0"].Path())
	if err != nil {
		k.t.Fatal(err)
	}
	ours := 0
	for _, m := range all {
		if !m.Reply || m.SrcMAC.String() != k.Seed.MAC(k.Lan0).String() {
			continue
		}
		ours++
		for _, code := range []uint8{1, 3, 6, 15, 28, 51, 58, 59} {
			if m.Packet.Options.Has(dhcpv4.GenericOptionCode(code)) {
				k.t.Errorf("it says option %d: %s", code, m)
			}
		}
		if m.Your.IsValid() {
			k.t.Errorf("it gives an address: %s", m)
		}
	}
	if ours == 0 {
		k.t.Error("it said nothing at all")
	}
}

// proxyClient plays what boots on a machine.
type proxyClient struct {
	t    *testing.T
	host *lab.Host
	mac  net.HardwareAddr
}

func generic(code uint8, value string) dhcpv4.Modifier {
	return dhcpv4.WithGeneric(dhcpv4.GenericOptionCode(code), []byte(value))
}

func firmware(arch string) []dhcpv4.Modifier {
	return []dhcpv4.Modifier{generic(60, "PXEClient:Arch:00000:UNDI:002001"), generic(93, arch), generic(94, "\x01\x02\x01"), generic(97, "\x00"+strings.Repeat("g", 16))}
}

// offers asks as firmware does, and waits for both: that of the foreign server, with an address, and the proxy's.
func (c proxyClient) offers(ctx context.Context, mods ...dhcpv4.Modifier) (lease, proxy *dhcpv4.DHCPv4) {
	c.t.Helper()
	err := c.host.Do(func() error {
		client, err := nclient4.New("lan0", nclient4.WithHWAddr(c.mac), nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(3))
		if err != nil {
			return err
		}
		defer func() { _ = client.Close() }()
		ask, err := dhcpv4.NewDiscovery(c.mac, append(mods, dhcpv4.WithBroadcast(true))...)
		if err != nil {
			return err
		}
		_, err = client.SendAndRead(ctx, nclient4.DefaultServers, ask, func(p *dhcpv4.DHCPv4) bool {
			if p.ServerIdentifier().String() == story.ForeignSeed {
				proxy = p
			} else {
				lease = p
			}
			return lease != nil && proxy != nil
		})
		return err
	})
	if err != nil {
		c.t.Fatalf("%v: foreign %v, ours %v", err, lease, proxy)
	}
	return lease, proxy
}

// boot asks port 4011 from an address and a port, and hears the answer only there.
func (c proxyClient) boot(ctx context.Context, from net.IP, port int, mods ...dhcpv4.Modifier) *dhcpv4.DHCPv4 {
	c.t.Helper()
	var answer *dhcpv4.DHCPv4
	err := c.host.Do(func() error {
		conn, err := net.ListenUDP("udp4", &net.UDPAddr{IP: from, Port: port})
		if err != nil {
			return err
		}
		defer func() { _ = conn.Close() }()
		ask, err := dhcpv4.New(append(mods, dhcpv4.WithHwAddr(c.mac), dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest), dhcpv4.WithClientIP(from))...)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo(ask.ToBytes(), &net.UDPAddr{IP: net.ParseIP(story.ForeignSeed), Port: 4011}); err != nil {
			return err
		}
		end, _ := ctx.Deadline()
		if err := conn.SetReadDeadline(end); err != nil {
			return err
		}
		buf := make([]byte, 1500)
		n, sender, err := conn.ReadFromUDP(buf)
		if err != nil {
			return err
		}
		if sender.Port != 4011 {
			c.t.Errorf("answered from port %d", sender.Port)
		}
		answer, err = dhcpv4.FromBytes(buf[:n])
		return err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return answer
}

func (k *foreignKit) checkFirmware(ctx context.Context, c proxyClient) {
	k.t.Helper()
	for i, f := range []struct{ name, arch, file, option43 string }{
		{"BIOS", "\x00\x00", "undionly.kpxe", "\x06\x01\x08\xff"}, {"EFI", "\x00\x07", "snponly.efi", ""}, {"EFI by 9", "\x00\x09", "snponly.efi", ""},
	} {
		c.mac = net.HardwareAddr{0x52, 0x54, 0, 0, 0, byte(i + 1)} // one that asks again and again would be in a loop
		lease, proxy := c.offers(ctx, firmware(f.arch)...)
		if lease.YourIPAddr.IsUnspecified() || lease.ServerIdentifier().String() != story.ForeignServer {
			k.t.Errorf("%s: the foreign server offers %s", f.name, lease.Summary())
		}
		if proxy.BootFileName != f.file || proxy.BootFileNameOption() != f.file || proxy.ServerIPAddr.String() != story.ForeignSeed || proxy.ClassIdentifier() != "PXEClient" ||
			string(proxy.Options.Get(dhcpv4.OptionVendorSpecificInformation)) != f.option43 || !proxy.YourIPAddr.IsUnspecified() {
			k.t.Errorf("%s: the proxy offers %s", f.name, proxy.Summary())
		}
		if out, err := c.host.Run(ctx, "ip", "addr", "replace", lease.YourIPAddr.String()+"/24", "dev", "lan0"); err != nil {
			k.t.Fatal(err, out)
		}
		for _, port := range []int{68, 4011} { // PXE 2.1 says 68; OVMF asks from 4011
			ack := c.boot(ctx, lease.YourIPAddr, port, firmware(f.arch)...)
			if ack.MessageType() != dhcpv4.MessageTypeAck || ack.BootFileName != f.file || !ack.ClientIPAddr.Equal(lease.YourIPAddr) || !ack.YourIPAddr.IsUnspecified() ||
				ack.ClassIdentifier() != "PXEClient" || ack.Options.Has(dhcpv4.OptionVendorSpecificInformation) {
				k.t.Errorf("%s: port 4011 answers port %d %s", f.name, port, ack.Summary())
			}
		}
		if out, err := c.host.Run(ctx, "curl", "--silent", "--show-error", "--max-time", "20", "--output", "/dev/null", "--write-out", "%{size_download}", "tftp://"+story.ForeignSeed+"/"+f.file); err != nil || len(out) < 5 {
			k.t.Errorf("%s: TFTP: %v: %q bytes", f.name, err, out)
		}
	}
}

// checkIPXE: the address that the machine got elsewhere is known once it has asked for its script, and nobody else has the script.
func (k *foreignKit) checkIPXE(ctx context.Context, c proxyClient) {
	k.t.Helper()
	_, proxy := c.offers(ctx, generic(60, "PXEClient:Arch:00000:UNDI:002001"), generic(93, "\x00\x00"), generic(77, "iPXE"))
	url := proxy.BootFileName
	if !strings.HasPrefix(url, "http://"+story.ForeignSeed+":7480/b/") || proxy.ClassIdentifier() != "PXEClient" || proxy.ServerIPAddr.String() != story.ForeignSeed || proxy.Options.Has(dhcpv4.GenericOptionCode(175)) {
		k.t.Fatalf("the proxy offers iPXE %s", proxy.Summary())
	}
	get := func(h *lab.Host) string {
		out, err := h.Run(ctx, "curl", "--silent", "--show-error", "--max-time", "20", "--write-out", "%{http_code}", url)
		if err != nil {
			k.t.Fatal(err, out)
		}
		return out
	}
	if out := get(k.Operator); !strings.HasSuffix(out, "409") {
		k.t.Errorf("another machine got %s", out)
	}
	if out := get(c.host); !strings.HasSuffix(out, "200") || !strings.Contains(out, "starts the agent") {
		k.t.Errorf("it got %s", out)
	}
	s, err := k.seed.Status(ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	own, err := c.host.Run(ctx, "ip", "-4", "-o", "addr", "show", "dev", "lan0")
	if err != nil {
		k.t.Fatal(err)
	}
	if len(s.Machines) != 1 || s.Machines[0].MAC != c.mac.String() || !strings.Contains(own, s.Machines[0].Address+"/") || s.Machines[0].Address == "" {
		k.t.Errorf("machines %+v, and it has %s", s.Machines, own)
	}
}

// TestMachineIsInstalledByAProxyAndTakesOver: the machine's address is the foreign server's before and after, the duty is its own then,
// and it goes on as a proxy when the seed has gone.
func TestMachineIsInstalledByAProxyAndTakesOver(t *testing.T) {
	t.Parallel()
	lab.Need(t, "dnsmasq", "ss")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	k := besideForeign(ctx, t, "dnsmasq")
	k.begin(ctx, "--auto-approve")
	bare, err := k.NewBare("m1", k.small)
	if err != nil {
		t.Fatal(err)
	}
	switchOn(ctx, t, bare)
	s, err := k.Until(ctx, k.seed, "m1 has the duty", func(s status.Status) string {
		if s.Segments[0].Holder == "seed" || s.Segments[0].Holder == "" {
			return "the seed has it"
		}
		return ""
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, k.log(bare.Log()))
	}
	if s.Segments[0].Mode != "proxy" || len(s.Nodes) != 2 {
		t.Errorf("%+v %+v", s.Segments, s.Nodes)
	}
	own, err := bare.Host.Run(ctx, "ip", "-4", "-o", "addr", "show", "dev", "lan0")
	if err != nil || !strings.Contains(own, " 192.168.42.2") || !strings.Contains(own, "valid_lft") || strings.Contains(own, "valid_lft forever") {
		t.Errorf("%v: m1 has %s", err, own)
	}
	if err := k.seed.Interrupt(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-k.seed.Ended():
	case <-ctx.Done():
		t.Fatal("the seed does not leave")
	}
	if now := k.port(ctx); now != k.before {
		t.Errorf("the port was\n%s\nand is now\n%s", k.before, now)
	}
	// The next machine is told by m1.
	client, err := k.Lab.Host("client", k.Lan0)
	if err != nil {
		t.Fatal(err)
	}
	c := proxyClient{t: t, host: client, mac: client.MAC(k.Lan0)}
	var proxy *dhcpv4.DHCPv4
	err = client.Do(func() error {
		n, err := nclient4.New("lan0", nclient4.WithTimeout(3*time.Second), nclient4.WithRetry(5))
		if err != nil {
			return err
		}
		defer func() { _ = n.Close() }()
		ask, err := dhcpv4.NewDiscovery(c.mac, append(firmware("\x00\x00"), dhcpv4.WithBroadcast(true))...)
		if err != nil {
			return err
		}
		proxy, err = n.SendAndRead(ctx, nclient4.DefaultServers, ask, func(p *dhcpv4.DHCPv4) bool { return p.YourIPAddr.IsUnspecified() })
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	if id := proxy.ServerIdentifier().String(); !strings.Contains(own, " "+id+"/") {
		t.Errorf("%s answers, m1 has %s", id, own)
	}
	k.checkGivesNothing()
}
