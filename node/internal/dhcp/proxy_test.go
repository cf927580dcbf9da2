package dhcp

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
)

func proxyConfig() Config {
	c := testConfig()
	c.Proxy, c.Pools, c.Sole = true, nil, false
	return c
}

// TestProxyAnswersToCapturedClients holds the whole reply to columns B, C, D, and E and F beside a foreign server.
func TestProxyAnswersToCapturedClients(t *testing.T) {
	for _, c := range []struct {
		name string
		boot bool // it came to port 4011
	}{
		{"firmware-bios-discover", false}, {"pxerom-bios-discover", false}, {"firmware-efi-discover", false}, {"http-efi-discover", false}, {"ipxe-bios-discover", false},
		{"ipxe-efi-discover", false}, {"binl-efi-request", true},
	} {
		t.Run(c.name, func(t *testing.T) {
			p, client := read(t, c.name)
			plan := Decide(day, p, client, View{Duty: Full, BootServer: c.boot, From: 4011, NewNonce: nonce}, proxyConfig())
			if plan.Reply == nil {
				t.Fatalf("silence: %s", plan.Reason)
			}
			again, err := dhcpv4.FromBytes(plan.Reply.ToBytes())
			if err != nil {
				t.Fatal(err)
			}
			golden(t, c.name+".proxy", fmt.Sprintf("%s\nto: %+v\nbegin: %q\n%s", plan.Answer, plan.To, plan.Begin, again.Summary()))
		})
	}
}

// leaseOptions are what only the server says that gives the address.
var leaseOptions = []uint8{1, 3, 6, 12, 15, 28, 51, 58, 59}

func TestProxyGivesNothing(t *testing.T) {
	files, err := filepath.Glob("testdata/*.hex")
	if err != nil {
		t.Fatal(err)
	}
	answered := 0
	for _, path := range files {
		p, c := read(t, strings.TrimSuffix(filepath.Base(path), ".hex"))
		for _, message := range []dhcpv4.MessageType{1, 3, 4, 7, 8} {
			c.Message = message
			for _, v := range []View{
				{Duty: Full, NewNonce: nonce}, {Duty: Full, NewNonce: nonce, BootServer: true}, {Duty: RenewOnly, Unicast: true}, {},
				{Duty: Full, NewNonce: nonce, Candidate: addr17, Binding: bound("192.168.42.17", ClassOS, time.Hour), Offer: &Offer{Addr: addr17, Nonce: nonce}},
			} {
				plan := Decide(day, p, c, v, proxyConfig())
				if plan.Bind != nil || plan.Offer != nil || plan.Release.IsValid() || plan.Quarantine.IsValid() || plan.To.Frame {
					t.Errorf("%s as %s: %+v", path, message, plan)
				}
				if plan.Reply == nil {
					if plan.Reason == "" {
						t.Errorf("%s as %s: silence without a reason", path, message)
					}
					continue
				}
				answered++
				if v.Duty != Full {
					t.Errorf("%s as %s: answered without duty", path, message)
				}
				if !plan.Reply.YourIPAddr.IsUnspecified() && plan.Reply.YourIPAddr != nil {
					t.Errorf("%s as %s: gives %s", path, message, plan.Reply.YourIPAddr)
				}
				for _, code := range leaseOptions {
					if plan.Reply.Options.Has(dhcpv4.GenericOptionCode(code)) {
						t.Errorf("%s as %s: says option %d", path, message, code)
					}
				}
			}
		}
	}
	if answered == 0 {
		t.Error("nobody was answered: this test proves nothing")
	}
}

// TestRulesOfTheProxy: want is the answer, or part of the reason for silence behind a dash.
func TestRulesOfTheProxy(t *testing.T) {
	at := has("192.168.42.77")
	for _, c := range []struct {
		name string
		m    dhcpv4.MessageType
		mods []mod
		boot bool
		want string
	}{
		{"an ordinary client", discover, nil, false, "- wants an address only"},
		{"its REQUEST", request, []mod{wants("192.168.42.77")}, false, "- REQUEST is for the server"},
		{"BIOS", discover, []mod{pxe("\x00\x00")}, false, "OFFER file=undionly.kpxe"},
		{"EFI by 7", discover, []mod{pxe("\x00\x07")}, false, "OFFER file=snponly.efi"},
		{"EFI by 9", discover, []mod{pxe("\x00\x09")}, false, "OFFER file=snponly.efi"},
		{"HTTP", discover, []mod{httpBoot("\x00\x10")}, false, "OFFER file=http://192.168.42.1:7480/boot/snponly.efi"},
		{"another architecture", discover, []mod{pxe("\x00\x0b")}, false, "- there is only GRUB for firmware EFI arm64"},
		{"firmware's REQUEST to the other server", request, []mod{pxe("\x00\x00"), chose("192.168.42.254")}, false, "- REQUEST is for the server"},
		{"of a relay elsewhere", discover, []mod{pxe("\x00\x00"), dhcpv4.WithRelay(ip("10.9.9.1"))}, false, "- relayed for 10.9.9.1"},
		{"4011, BIOS", request, []mod{pxe("\x00\x00"), at}, true, "ACK file=undionly.kpxe"},
		{"4011, EFI", request, []mod{pxe("\x00\x07"), at}, true, "ACK file=snponly.efi"},
		{"4011, by INFORM", dhcpv4.MessageTypeInform, []mod{pxe("\x00\x07"), at}, true, "ACK file=snponly.efi"},
		{"4011, iPXE", request, []mod{ipxe(), at}, true, "ACK file=http://192.168.42.1:7480/b/AAAA.../boot.ipxe"},
		{"4011, without an address", request, []mod{pxe("\x00\x07")}, true, "- asks port 4011 from no address"},
		{"4011, of another network", request, []mod{pxe("\x00\x07"), has("10.0.0.1")}, true, "- asks port 4011 from 10.0.0.1"},
		{"4011, DISCOVER", discover, []mod{pxe("\x00\x07"), at}, true, "- DISCOVER is not a message for boot servers"},
		{"4011, an ordinary client", request, []mod{at}, true, "- client asks port 4011"},
	} {
		p, client := ask(t, c.m, c.mods...)
		plan := Decide(day, p, client, View{Duty: Full, BootServer: c.boot, NewNonce: nonce}, proxyConfig())
		got := plan.Answer
		if plan.Reply == nil {
			got = "- " + plan.Reason
		}
		if !strings.HasPrefix(got, c.want) {
			t.Errorf("%s: %s, want %s", c.name, got, c.want)
		}
	}
}

// TestEFIIsSentToPort4011AndBIOSIsNot: what option 43 does, and its absence.
func TestEFIIsSentToPort4011AndBIOSIsNot(t *testing.T) {
	for arch, want := range map[string]string{"\x00\x00": pxeDiscoveryOff, "\x00\x07": "", "\x00\x09": ""} {
		p, c := ask(t, discover, pxe(arch))
		r := Decide(day, p, c, View{Duty: Full, NewNonce: nonce}, proxyConfig()).Reply
		if got := string(r.Options.Get(dhcpv4.OptionVendorSpecificInformation)); got != want {
			t.Errorf("%s: option 43 is %x, want %x", c, got, want)
		}
		if got := r.ClassIdentifier(); got != "PXEClient" {
			t.Errorf("%s: option 60 is %q", c, got)
		}
	}
}

// withProxy runs a proxy with both of its ports.
func withProxy(t *testing.T, body func(b *bench, boot *fakeLink, boots *Boots)) {
	second, boots, closed := &fakeLink{}, NewBoots(), new(atomic.Bool)
	withServer(t, func(b *bench) {
		*second = fakeLink{in: make(chan received), out: b.link.out, closed: make(chan struct{})}
		b.o.Config, b.o.Boots = proxyConfig(), boots
		b.o.ListenBoot = func(Config) (BootLink, error) { return noted{second, closed}, nil }
	}, func(b *bench) {
		body(b, second, boots)
		if n := len(b.ledger.bindings); n > 0 {
			t.Errorf("%d bindings of a proxy", n)
		}
	})
	if !closed.Load() {
		t.Error("the second link is open still")
	}
}

// noted is a link that says when it was closed.
type noted struct {
	*fakeLink
	closed *atomic.Bool
}

func (l noted) From() uint16 { return 4011 }

func (l noted) Close() error {
	l.closed.Store(true)
	return l.fakeLink.Close()
}

func scriptNonce(t *testing.T, r *dhcpv4.DHCPv4) string {
	t.Helper()
	if r == nil {
		t.Fatal("silence")
	}
	_, rest, _ := strings.Cut(r.BootFileName, "/b/")
	nonce, _, ok := strings.Cut(rest, "/")
	if !ok {
		t.Fatalf("no script address: %q", r.BootFileName)
	}
	return nonce
}

func TestProxyBeginsOneBootForAllThatIPXEAsks(t *testing.T) {
	withProxy(t, func(b *bench, boot *fakeLink, boots *Boots) {
		first := scriptNonce(t, b.say(b.packet(discover, ipxe())))
		if whose, ok := boots.MAC(time.Now(), first); !ok || whose != swarm.MACOf(mac) {
			t.Errorf("the nonce is that of %q", whose)
		}
		<-time.After(4 * time.Second)
		if again := scriptNonce(t, b.say(b.packet(discover, ipxe()))); again != first {
			t.Error("a repeated DISCOVER begins another boot")
		}
		boot.in <- received{raw: b.packet(request, ipxe(), has("192.168.42.77")).ToBytes(), unicast: true}
		synctest.Wait()
		if again := scriptNonce(t, b.heard()); again != first {
			t.Error("port 4011 begins another boot")
		}
		if b.say(b.packet(discover, pxe("\x00\x07"))) == nil {
			t.Fatal("firmware hears nothing")
		}
		if _, ok := boots.MAC(time.Now(), first); ok {
			t.Error("the boot goes on after its firmware has begun another")
		}
		second := scriptNonce(t, b.say(b.packet(discover, ipxe())))
		if second == first {
			t.Error("two boots have one nonce")
		}
		<-time.After(bootTime)
		if _, ok := boots.MAC(time.Now(), second); ok {
			t.Error("a boot that nobody went on with is good for ever")
		}
	})
}

func TestBootLoopThroughPort4011GetsTheOtherProgram(t *testing.T) {
	withProxy(t, func(b *bench, boot *fakeLink, _ *Boots) {
		load := func() string {
			b.say(b.packet(discover, pxe("\x00\x07")))
			boot.in <- received{raw: b.packet(request, pxe("\x00\x07"), has("192.168.42.77")).ToBytes(), unicast: true}
			synctest.Wait()
			r := b.heard()
			if r == nil {
				t.Fatalf("silence: %s", b.lastReason())
			}
			return r.BootFileName
		}
		var got []string
		for range 4 {
			got = append(got, load())
			<-time.After(5 * time.Second)
		}
		if want := []string{"snponly.efi", "snponly.efi", "snponly.efi", "ipxe.efi"}; !slices.Equal(got, want) {
			t.Errorf("%v, want %v", got, want)
		}
	})
}

func TestFloodOfBootsIsBounded(t *testing.T) {
	b := NewBoots()
	for i := range maxBoots + 10 {
		b.begin(day, swarm.MAC(fmt.Sprint(i)), fmt.Sprint("nonce", i))
	}
	if len(b.begun) > maxBoots || len(b.last) > maxBoots {
		t.Errorf("%d and %d are remembered, at most %d", len(b.begun), len(b.last), maxBoots)
	}
	if _, ok := b.MAC(day, fmt.Sprint("nonce", maxBoots+9)); !ok {
		t.Error("the last one is not among them")
	}
	if b.sweep(day.Add(bootTime)); len(b.begun) > 0 || len(b.last) > 0 {
		t.Errorf("%d and %d are left", len(b.begun), len(b.last))
	}
}

// TestProxySendsNothingThatIsSigned: shim would look for GRUB at the other server. Who asks why is told.
func TestProxySendsNothingThatIsSigned(t *testing.T) {
	p, client := read(t, "binl-efi-request")
	for _, l := range []swarm.Loader{swarm.LoaderAuto, swarm.LoaderSigned} {
		plan := Decide(day, p, client, View{Duty: Full, BootServer: true, NewNonce: nonce, Loader: l, Fetches: 1}, proxyConfig())
		if plan.Answer != "ACK file=snponly.efi" || plan.Event != EventRefused || !strings.Contains(plan.Reason, "not served beside another DHCP server") {
			t.Errorf("%s: %q, %q, %q", l, plan.Answer, plan.Event, plan.Reason)
		}
	}
}
