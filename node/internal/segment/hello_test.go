package segment

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"offshoot/swarm"
)

// voice is one node under test: what it says can be changed while it runs.
type voice struct {
	*Hello
	port    string
	segment atomic.Pointer[string]
}

func newVoice(t testing.TB, swarmID string, node swarm.NodeID, key byte, port string, every time.Duration) *voice {
	t.Helper()
	v := &voice{port: port}
	empty := ""
	v.segment.Store(&empty)
	seal, open := sealer(t, key)
	h, err := NewHello(HelloConfig{
		Swarm: swarmID, Node: node, Seal: seal, Open: open, Every: every, Log: quiet(),
		Ports: func() []string { return []string{port} },
		Say: func(string) (string, netip.Addr) {
			if s := *v.segment.Load(); s != "" {
				return s, netip.MustParseAddr("192.168.42.1")
			}
			return "", netip.Addr{}
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	v.Hello = h
	return v
}

func (v *voice) say(segment string) { v.segment.Store(&segment); v.Poke() }

// sees returns nil once v has exactly these neighbours, each "node segment address".
func (v *voice) sees(want ...string) error {
	var got []string
	for _, n := range v.Neighbours(v.port) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s", n.Node, n.Segment)))
		if (n.Segment != "") != n.Addr.IsValid() {
			return fmt.Errorf("segment %q with address %v", n.Segment, n.Addr)
		}
	}
	return expect("neighbours of "+v.port, fmt.Sprint(got), fmt.Sprint(want))
}

// twoNodesMeet is the story of two nodes of one swarm, and one of another, on one layer 2. It is told on the fake and on
// real veth pairs: run starts a voice on its port and returns what ends it.
func twoNodesMeet(t *testing.T, a, b, other *voice, run func(*voice) (stop func())) {
	const limit = 10 * time.Second
	stopA, stopB, stopOther := run(a), run(b), run(other)
	defer stopA()
	defer stopOther()
	eventually(t, limit, a.Changed(), func() error { return a.sees("bb") })
	eventually(t, limit, b.Changed(), func() error { return b.sees("aa") })
	if _, ok := a.Listening(a.port); !ok {
		t.Error("a hears, and does not know it")
	}

	a.say("lan0")
	eventually(t, limit, b.Changed(), func() error { return b.sees("aa lan0") })

	other.say("theirs")
	eventually(t, limit, a.Changed(), func() error {
		s := a.Strangers(a.port)
		if len(s) != 1 || s[0].Swarm != "other" || !s[0].Served {
			return fmt.Errorf("strangers: %+v", s)
		}
		return nil
	})
	if err := other.sees(); err != nil {
		t.Error(err)
	}

	stopB()
	eventually(t, limit, a.Changed(), func() error { return a.sees() })
	if s := a.Stats(); s.Sent == 0 || s.Heard == 0 || s.Strange == 0 || s.Dropped != 0 {
		t.Errorf("stats %+v", s)
	}
}

// onHub makes a voice speak on the fake. Its port has link while up says so.
func onHub(v *voice, h *hub, mac swarm.MAC, up func() bool) {
	v.open = h.open
	v.linked = func(names []string) (ports []Port, err error) {
		if up == nil || up() {
			ports = append(ports, Port{Name: names[0], Index: 1, MAC: mac, Up: true, Link: true})
		}
		return ports, nil
	}
}

func background(t *testing.T) func(*voice) func() {
	return func(v *voice) func() {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- v.Run(ctx) }()
		return func() {
			cancel()
			if err := <-done; err != nil {
				t.Errorf("%s: %v", v.port, err)
			}
		}
	}
}

func TestNodesOnOneSegmentMeet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		a, b := newVoice(t, "s1", "aa", 1, "pa", 0), newVoice(t, "s1", "bb", 1, "pb", 0)
		other := newVoice(t, "other", "cc", 2, "pc", 0)
		onHub(a, h, "02:00:00:00:00:0a", nil)
		onHub(b, h, "02:00:00:00:00:0b", nil)
		onHub(other, h, "02:00:00:00:00:0c", nil)
		twoNodesMeet(t, a, b, other, background(t))
	})
}

func TestHelloIsSentEverySecond(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newVoice(t, "s1", "aa", 1, "pa", 0)
		onHub(a, newHub(), "02:00:00:00:00:0a", nil)
		stop := background(t)(a)
		<-time.After(100 * time.Second)
		stop()
		if n := a.Stats().Sent; n < 90 || n > 112 {
			t.Errorf("%d hellos in 100 s", n)
		}
	})
}

func TestNeighboursGoWithTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		a, b := newVoice(t, "s1", "aa", 1, "pa", 0), newVoice(t, "s1", "bb", 1, "pb", 0)
		var link atomic.Bool
		link.Store(true)
		onHub(a, h, "02:00:00:00:00:0a", link.Load)
		onHub(b, h, "02:00:00:00:00:0b", nil)
		stopA, stopB := background(t)(a), background(t)(b)
		defer stopA()
		defer stopB()
		eventually(t, 5*time.Second, a.Changed(), func() error { return a.sees("bb") })
		link.Store(false)
		eventually(t, 2*time.Second, a.Changed(), func() error { return a.sees() })
		if _, ok := a.Listening("pa"); ok {
			t.Error("a port without link is not listened on")
		}
		link.Store(true)
		eventually(t, 5*time.Second, a.Changed(), func() error { return a.sees("bb") })
	})
}

func TestTwoPortsOfOneNodeOnOneSegmentSeeEachOther(t *testing.T) {
	a := newVoice(t, "s1", "aa", 1, "pa", 0)
	f, err := hello{Swarm: "s1", Node: "aa", MAC: "02:00:00:00:00:0b", Seq: 1}.encode(a.cfg.Seal)
	if err != nil {
		t.Fatal(err)
	}
	if err := a.receive(Port{Name: "pa", MAC: "02:00:00:00:00:0a"}, f); err != nil {
		t.Fatal(err)
	}
	if err := a.sees("aa"); err != nil {
		t.Error(err)
	}
	if err := a.receive(Port{Name: "pb", MAC: "02:00:00:00:00:0b"}, f); err == nil {
		t.Error("its own frame, come back on the same port, is no neighbour")
	}
}

func TestHelloThatCannotBeTrustedIsDropped(t *testing.T) {
	here := Port{Name: "pa", MAC: "02:00:00:00:00:0a"}
	good := hello{Swarm: "s1", Node: "bb", MAC: "02:00:00:00:00:0b", Segment: "lan0", Addr: netip.MustParseAddr("192.0.2.1"), Seq: 5}
	seal, _ := sealer(t, 1)
	wrongKey, _ := sealer(t, 9)
	encode := func(h hello, seal func([]byte) ([]byte, error)) []byte {
		f, err := h.encode(seal)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	change := func(f func(*hello)) hello { h := good; f(&h); return h }
	flip := func(at int) []byte { f := encode(good, seal); f[at] ^= 1; return f }
	raw := func(plain string) []byte {
		sealed, err := seal([]byte(plain))
		if err != nil {
			t.Fatal(err)
		}
		b := append([]byte("ofsh\x01\x00\x02s1\x00"), byte(len(sealed)))
		return ether(broadcast, good.MAC.Hardware(), HelloEtherType, append(b, sealed...))
	}
	for name, frame := range map[string][]byte{
		"another key":         encode(good, wrongKey),
		"changed source":      flip(11),
		"changed magic":       flip(14),
		"changed version":     flip(18),
		"changed flag":        flip(19),
		"unknown flag":        func() []byte { f := encode(good, seal); f[19] |= 2; return f }(),
		"changed body":        flip(40),
		"cut":                 encode(good, seal)[:50],
		"trailing data":       append(encode(good, seal), 0, 0, 1),
		"empty":               {},
		"no sequence":         encode(change(func(h *hello) { h.Seq = 0 }), seal),
		"no node":             encode(change(func(h *hello) { h.Node = "" }), seal),
		"IPv6":                encode(change(func(h *hello) { h.Addr = netip.MustParseAddr("fd00::1") }), seal),
		"long segment":        encode(change(func(h *hello) { h.Segment = strings.Repeat("x", 65) }), seal),
		"unknown field":       raw(`{"swarm":"s1","node":"bb","mac":"02:00:00:00:00:0b","seq":1,"x":1}`),
		"two bodies":          raw(`{"swarm":"s1","node":"bb","mac":"02:00:00:00:00:0b","seq":1}{}`),
		"garbage after":       raw(`{"swarm":"s1","node":"bb","mac":"02:00:00:00:00:0b","seq":1}x`),
		"inner swarm differs": raw(`{"swarm":"s2","node":"bb","mac":"02:00:00:00:00:0b","seq":1}`),
	} {
		a := newVoice(t, "s1", "aa", 1, "pa", 0)
		if err := a.receive(here, frame); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if err := a.sees(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	a := newVoice(t, "s1", "aa", 1, "pa", 0)
	if err := a.receive(here, append(encode(good, seal), make([]byte, 20)...)); err != nil {
		t.Errorf("Ethernet's padding: %v", err)
	}
}

func TestRecordedHelloIsNotBelieved(t *testing.T) {
	here := Port{Name: "pa", MAC: "02:00:00:00:00:0a"}
	a := newVoice(t, "s1", "aa", 1, "pa", 0)
	say := func(seq uint64, segment string) error {
		f, err := hello{Swarm: "s1", Node: "bb", MAC: "02:00:00:00:00:0b", Segment: segment, Seq: seq}.encode(a.cfg.Seal)
		if err != nil {
			t.Fatal(err)
		}
		return a.receive(here, f)
	}
	if err := say(5, "new"); err != nil {
		t.Fatal(err)
	}
	for _, seq := range []uint64{5, 4} {
		if err := say(seq, "old"); !errors.Is(err, errReplay) {
			t.Errorf("sequence %d after 5: %v", seq, err)
		}
	}
	if got := a.Neighbours("pa"); len(got) != 1 || got[0].Segment != "new" {
		t.Errorf("got %+v", got)
	}
}

func TestHelloConfigurationIsChecked(t *testing.T) {
	for _, id := range []string{"", "has space", "ünïcode", strings.Repeat("x", 65)} {
		cfg := newVoice(t, "s1", "aa", 1, "pa", 0).cfg
		cfg.Swarm = id
		if _, err := NewHello(cfg); err == nil {
			t.Errorf("swarm id %q was accepted", id)
		}
	}
	if _, err := NewHello(HelloConfig{Swarm: "s1"}); err == nil {
		t.Error("an incomplete configuration was accepted")
	}
}

func FuzzHello(f *testing.F) {
	seal, open := sealer(f, 1)
	good := hello{Swarm: "s1", Node: "bb", MAC: "02:00:00:00:00:0b", Segment: "lan0", Addr: netip.MustParseAddr("192.0.2.1"), Seq: 5}
	frame, err := good.encode(seal)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(frame)
	f.Add(frame[:40])
	plainSeal := func(b []byte) ([]byte, error) { return b, nil }
	if clear, err := good.encode(plainSeal); err == nil {
		f.Add(clear)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		g, err := decodeGreeting(b)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Error(err)
			}
			return
		}
		if h, err := g.unseal(open); err == nil && h != good {
			t.Errorf("forged: %+v", h)
		}
		// Without a key, so that the fuzzer reaches the body's decoder: what it accepts survives a round trip.
		h, err := g.unseal(plainSeal)
		if err != nil {
			return
		}
		again, err := h.encode(plainSeal)
		if err != nil {
			return // longer than what we would send
		}
		if g, err = decodeGreeting(again); err != nil {
			t.Fatal(err)
		}
		if h2, err := g.unseal(plainSeal); err != nil || h2 != h {
			t.Errorf("round trip: %+v became %+v, %v", h, h2, err)
		}
	})
}

// A socket whose port went down and came back within a second still sends, but its reader has ended.
func TestHelloIsNotDeafAfterItsSocketFailed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		a, b := newVoice(t, "s1", "aa", 1, "pa", 0), newVoice(t, "s1", "bb", 1, "pb", 0)
		onHub(a, h, "02:00:00:00:00:0a", nil)
		onHub(b, h, "02:00:00:00:00:0b", nil)
		stopA, stopB := background(t)(a), background(t)(b)
		defer stopA()
		defer stopB()
		eventually(t, 5*time.Second, a.Changed(), func() error { return a.sees("bb") })
		h.mu.Lock()
		for tap := range h.taps {
			tap.once.Do(func() { close(tap.closed) })
		}
		h.mu.Unlock()
		<-time.After(30 * time.Second)
		if err := errors.Join(a.sees("bb"), b.sees("aa")); err != nil {
			t.Error(err)
		}
	})
}
