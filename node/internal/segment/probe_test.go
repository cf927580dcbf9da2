package segment

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"reflect"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

var testPort = Port{Name: "p0", Index: 7, MAC: "52:54:00:00:00:01", Kind: KindVeth, Up: true, Link: true}

const serverMAC = "52:54:00:00:0d:0d"

// offer is the frame with which a server at 192.0.2.1 answers; change makes it strange.
func offer(t testing.TB, change ...dhcpv4.Modifier) []byte {
	t.Helper()
	mods := append([]dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeOffer),
		dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, 9}),
		dhcpv4.WithYourIP(net.IPv4(192, 0, 2, 50)),
		dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 1))),
	}, change...)
	msg, err := dhcpv4.New(mods...)
	if err != nil {
		t.Fatal(err)
	}
	msg.OpCode = dhcpv4.OpcodeBootReply
	for _, m := range change {
		m(msg)
	}
	hw, err := net.ParseMAC(serverMAC)
	if err != nil {
		t.Fatal(err)
	}
	b := datagram(msg.ToBytes())
	copy(b[12:], []byte{192, 0, 2, 1})
	b[20], b[21], b[22], b[23] = 0, dhcpServer, 0, dhcpClient
	return ether(broadcast, hw, etherIPv4, b)
}

func opcode(op dhcpv4.OpcodeType) dhcpv4.Modifier { return func(d *dhcpv4.DHCPv4) { d.OpCode = op } }

func TestReplyProvesAServer(t *testing.T) {
	refusing := Server{ID: netip.MustParseAddr("192.0.2.1"), Addr: netip.MustParseAddr("192.0.2.1"), MAC: serverMAC}
	proxy, full := refusing, refusing
	proxy.Proxy = true
	full.Offer.Address = netip.MustParseAddr("192.0.2.50")
	relayed := full
	relayed.ID = netip.MustParseAddr("198.51.100.9")
	for _, c := range []struct {
		name  string
		frame []byte
		want  Server
		bad   bool
	}{
		{"offer", offer(t), full, false},
		{"ack to another client", offer(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeAck)), full, false},
		{"nak", offer(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak), dhcpv4.WithYourIP(net.IPv4zero)), refusing, false},
		{"offer of a boot program only", offer(t, dhcpv4.WithYourIP(net.IPv4zero)), proxy, false},
		{"behind a relay", offer(t, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(198, 51, 100, 9)))), relayed, false},
		{"no server id", offer(t, dhcpv4.WithoutOption(dhcpv4.OptionServerIdentifier)), full, false},
		{"padded", append(offer(t), make([]byte, 40)...), full, false},
		{"a client's", offer(t, opcode(dhcpv4.OpcodeBootRequest)), Server{}, true},
		{"discover", offer(t, dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)), Server{}, true},
		{"cut", offer(t)[:60], Server{}, true},
		{"cut in the options", offer(t)[:290], Server{}, true},
		{"empty", nil, Server{}, true},
	} {
		got, err := decodeReply(c.frame)
		if c.bad != errors.Is(err, ErrFrame) || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v", c.name, got, err)
		}
	}
}

func FuzzDecodeReply(f *testing.F) {
	f.Add(offer(f))
	f.Add(offer(f, dhcpv4.WithMessageType(dhcpv4.MessageTypeNak)))
	if d, err := discover(localMAC(), 4, "mark", true); err == nil {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		s, err := decodeReply(b)
		if err == nil && (!s.ID.Is4() || s.MAC.Hardware() == nil) {
			t.Errorf("accepted %+v", s)
		}
		if err != nil && !errors.Is(err, ErrFrame) {
			t.Error(err)
		}
	})
}

func TestDiscoverIsSentByTheSchedule(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		ear, err := h.open(Port{}, etherIPv4, nil, false)
		if err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		var when []time.Duration
		var kinds []string
		heard := make(chan struct{})
		go func() {
			defer close(heard)
			buf := make([]byte, readBuffer)
			for {
				n, _, err := ear.ReadFrom(buf)
				if err != nil {
					return
				}
				msg, err := dhcpv4.FromBytes(buf[42:n])
				if err != nil {
					t.Errorf("DISCOVER does not parse: %v", err)
					return
				}
				hw := msg.ClientHWAddr
				if hw[0]&3 != 2 || !msg.IsBroadcast() || hw.String() != net.HardwareAddr(buf[6:12]).String() {
					t.Errorf("DISCOVER from %v, broadcast %v", hw, msg.IsBroadcast())
				}
				if sum(buf[14:34], 0) != 0xffff {
					t.Error("IPv4 header checksum is wrong")
				}
				if c := msg.UserClass(); len(c) != 1 || c[0] != "offshoot-probe s1" {
					t.Errorf("user class %q", c)
				}
				when = append(when, time.Since(start))
				kinds = append(kinds, msg.ClassIdentifier())
			}
		}()
		got, err := Prober{Log: quiet(), Mark: "offshoot-probe s1", open: h.open}.Probe(t.Context(), testPort)
		if err != nil || got != nil {
			t.Errorf("silence: got %v, %v", got, err)
		}
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("listened for %v", d)
		}
		_ = ear.Close()
		<-heard
		if d := cmp.Diff([]time.Duration{0, 2e9, 4e9, 8e9}, when); d != "" {
			t.Error(d)
		}
		if len(kinds) == 4 && (kinds[0] != "" || kinds[1] == "" || kinds[2] != "" || kinds[3] == "") {
			t.Errorf("classes %q", kinds)
		}
	})
}

// answerer puts frames onto a hub, each when the returned function is called.
func answerer(t *testing.T, h *hub) (say func([]byte), stop func()) {
	t.Helper()
	c, err := h.open(Port{}, 0x9999, nil, false)
	if err != nil {
		t.Fatal(err)
	}
	return func(frame []byte) {
		if err := send(c, frame); err != nil {
			t.Error(err)
		}
	}, func() { _ = c.Close() }
}

func TestProbeEndsSoonAfterAForeignAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		say, stop := answerer(t, h)
		defer stop()
		time.AfterFunc(2500*time.Millisecond, func() { say(offer(t)) })
		time.AfterFunc(2600*time.Millisecond, func() {
			say(offer(t, dhcpv4.WithOption(dhcpv4.OptServerIdentifier(net.IPv4(192, 0, 2, 2)))))
		})
		start := time.Now()
		got, err := Prober{Log: quiet(), open: h.open}.Probe(t.Context(), testPort)
		if err != nil || len(got) != 2 || got[0].ID != netip.MustParseAddr("192.0.2.1") || got[0].MAC != serverMAC {
			t.Errorf("got %v, %v", got, err)
		}
		if d := time.Since(start); d != 2500*time.Millisecond+linger {
			t.Errorf("took %v", d)
		}
	})
}

func TestOwnServersAreNotForeign(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		say, stop := answerer(t, h)
		defer stop()
		time.AfterFunc(time.Second, func() { say(offer(t)) })
		start := time.Now()
		mine := func(s Server) bool { return s.ID == netip.MustParseAddr("192.0.2.1") }
		got, err := Prober{Log: quiet(), Mine: mine, open: h.open}.Probe(t.Context(), testPort)
		if err != nil || got != nil || time.Since(start) != 10*time.Second {
			t.Errorf("got %v, %v after %v", got, err, time.Since(start))
		}
	})
}

func TestCancelledProbeIsNotSilence(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := Prober{Log: quiet(), open: newHub().open}.Probe(ctx, testPort)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWatcherTellsWhenServersComeAndGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		say, stop := answerer(t, h)
		defer stop()
		type event struct {
			at time.Duration
			n  int
			ok bool // all of them were asked
		}
		start := time.Now()
		events := make(chan event, 16)
		w := &Watcher{
			Prober: Prober{Log: quiet(), open: h.open}, Port: testPort, Every: time.Minute,
			Changed: func(s []Server) { events <- event{time.Since(start), len(s), len(s) > 0 && s[0].Asked} },
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error)
		go func() { done <- w.Run(ctx) }()

		// Heard in passing, between two probes, and again: one event.
		time.AfterFunc(30*time.Second, func() { say(offer(t)) })
		time.AfterFunc(31*time.Second, func() { say(offer(t)) })
		if e := <-events; e.n != 1 || e.at != 30*time.Second || e.ok {
			t.Errorf("appeared: %+v", e)
		}
		// It is asked at once, and was heard during that probe.
		if e := <-events; e.n != 1 || e.at != 40*time.Second || !e.ok {
			t.Errorf("asked: %+v", e)
		}
		// Probes begin after 100 to 106 s and 170 to 182 s: the second one that it misses ends its stay.
		if e := <-events; e.n != 0 || e.at < 180*time.Second || e.at > 192*time.Second {
			t.Errorf("vanished: %+v", e)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if len(events) > 0 {
			t.Errorf("%d more events", len(events))
		}
	})
}

func TestWatcherMissesNothingOnceItHears(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		say, stop := answerer(t, h)
		defer stop()
		start := time.Now()
		changed := make(chan time.Duration, 16)
		w := &Watcher{
			Prober: Prober{Log: quiet(), open: h.open}, Port: testPort,
			Changed: func([]Server) { changed <- time.Since(start) },
			Hears:   func() { say(offer(t)) },
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		select {
		case at := <-changed:
			if at != 0 {
				t.Errorf("heard after %v", at)
			}
		default:
			t.Error("not heard")
		}
	})
}

func TestWatcherSaysThatNobodyIsThereAfterTwoProbes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		start := time.Now()
		events := make(chan time.Duration, 16)
		w := &Watcher{
			Prober: Prober{Log: quiet(), open: h.open}, Port: testPort, Every: time.Minute,
			Changed: func(s []Server) {
				if len(s) > 0 {
					t.Errorf("there are %v", s)
				}
				events <- time.Since(start)
			},
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		if len(events) != 1 {
			t.Fatalf("said %d times", len(events))
		}
		if at := <-events; at < 80*time.Second || at > 86*time.Second {
			t.Errorf("said after %v", at)
		}
	})
}

func TestForgersCannotFillTheMemory(t *testing.T) {
	s := newSightings()
	for i := range 1000 {
		s.note(Server{ID: netip.AddrFrom4([4]byte{10, 0, byte(i >> 8), byte(i)})}, time.Unix(0, 0))
	}
	if n := len(s.list()); n != maxServers {
		t.Errorf("%d servers are remembered", n)
	}
	tb := newTable()
	for i := range 1000 {
		tb.meet("p0", greeting{swarm: string(rune('a'+i%26)) + time.Duration(i).String()}, time.Unix(0, 0))
	}
	if n := len(tb.strange("")); n != maxStrangers {
		t.Errorf("%d strangers are remembered", n)
	}
}

func TestProxyBecomesFullServerOnceItGivesAddresses(t *testing.T) {
	s := newSightings()
	now := time.Unix(100, 0)
	srv := Server{ID: netip.MustParseAddr("192.0.2.1"), Proxy: true}
	if !s.note(srv, now) || s.note(srv, now) {
		t.Error("a new server is news once")
	}
	srv.Proxy = false
	if !s.note(srv, now) || s.list()[0].Proxy {
		t.Error("giving out addresses is news")
	}
	srv.Proxy = true
	if s.note(srv, now) || s.list()[0].Proxy {
		t.Error("a full server stays one")
	}
}
