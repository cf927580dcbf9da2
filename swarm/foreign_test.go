package swarm

import (
	"net/netip"
	"testing"
	"time"
)

const (
	nonceA = "AAAAAAAAAAAAAAAAAAAAAA"
	nonceB = "BBBBBBBBBBBBBBBBBBBBBB"
)

var addr22 = netip.MustParseAddr("192.168.42.22")

// besideOthers is a swarm that was founded by proxy.
func besideOthers(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, s: NewState(), now: day}
	h.must(seedID, Found{
		Settings: Settings{Swarm: "abc", Range: netip.MustParsePrefix("10.42.0.0/16"), Voters: 5, AutoApprove: true, Profile: "p"},
		Node:     Node{ID: seedID, Name: "seed", Ephemeral: true, Ports: []Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true}}, Warm: true},
		Network:  netip.MustParsePrefix("192.168.42.0/24"),
		Profile:  &Profile{Name: "p", Driver: "image", Image: "aa"},
		Mode:     ModeProxy,
	})
	return h
}

func (h *house) learn(mac MAC, addr netip.Addr, nonce string) LearnAddress {
	return LearnAddress{Segment: "s1", MAC: mac, Addr: addr, Nonce: nonce, Until: h.now.Add(time.Hour)}
}

func TestSegmentOfOthersNeverBecomesOurs(t *testing.T) {
	h := besideOthers(t)
	h.refused(seedID, SetMode{Segment: "s1"}, ErrConflict)
	h.refused(seedID, BindLeases{Segment: "s1", Term: 1, Leases: []Lease{{MAC: m1, Addr: addr20, Class: "os", Nonce: nonceA, Expires: day.Add(time.Hour)}}}, ErrConflict)
	h.refused(seedID, ReserveAddress{MAC: m1, Addr: addr20}, ErrConflict)
	h.refused(seedID, SetPools{Segment: "s1", Pools: []AddrRange{{addr20, addr22}}}, ErrConflict)
	h.must(seedID, BlockSegment{Segment: "s1", Reason: "a boot server"})
	h.must(seedID, SetMode{Segment: "s1", Mode: ModeProxy, Reason: "whatever"})
	if s, _ := h.s.View().Segment("s1"); !s.Foreign() || s.Blocked != "" {
		t.Errorf("%+v", s)
	}
}

func TestSegmentOfOursYieldsAndComesBack(t *testing.T) {
	h := founded(t)
	bind := BindLeases{Segment: "s1", Term: 1, Leases: []Lease{{MAC: m1, Addr: addr20, Class: "os", Nonce: nonceA, Expires: day.Add(time.Hour)}}}
	h.refused(seedID, h.learn(m1, addr20, nonceA), ErrConflict)
	h.refused("stranger", SetMode{Segment: "s1", Mode: ModeProxy, Reason: "x"}, ErrNotHolder)
	h.refused(seedID, SetMode{Segment: "s1", Mode: ModeProxy}, ErrInvalid)
	h.refused(seedID, SetMode{Segment: "s1", Mode: "other", Reason: "x"}, ErrInvalid)
	h.must(seedID, BlockSegment{Segment: "s1", Reason: "a server"})
	h.must(seedID, SetMode{Segment: "s1", Mode: ModeProxy, Reason: "a server"})
	if s, _ := h.s.View().Segment("s1"); s.Mode != ModeProxy || s.Beside != "a server" || s.Foreign() || s.Blocked != "" {
		t.Errorf("%+v", s)
	}
	h.refused(seedID, bind, ErrConflict)
	h.must(seedID, SetMode{Segment: "s1"})
	h.must(seedID, bind)
}

func TestForeignAddressBelongsToWhoeverWasSeenWithItLast(t *testing.T) {
	h := besideOthers(t)
	h.must(seedID, h.learn(m1, addr20, nonceA))
	if m, ok := h.s.View().Machine(m1); !ok || m.State != MachineArmed {
		t.Errorf("the machine was not seen: %+v", m)
	}
	// iPXE had one, the agent has another: the machine is the same, and the first one is anybody's.
	h.must(seedID, h.learn(m1, addr22, nonceA))
	if l, ok := h.s.View().Lease("s1", addr20); ok {
		t.Errorf("%s is kept: %+v", addr20, l)
	}
	// The other server has given it to another machine.
	h.must(seedID, h.learn(m2, addr22, nonceB))
	if l, _ := h.s.View().Lease("s1", addr22); l.MAC != m2 || l.Class != LeaseForeign {
		t.Errorf("%+v", l)
	}
	if l, ok := h.s.View().LeaseOf("s1", m1); ok {
		t.Errorf("the first machine has %+v still", l)
	}
	h.refused(seedID, h.learn(m1, addr20, nonceB), ErrConflict) // another machine's nonce
	h.refused(seedID, h.learn(m1, netip.MustParseAddr("10.0.0.1"), nonceA), ErrInvalid)
	h.refused("stranger", LearnAddress{Segment: "s1", MAC: m1, Addr: addr20, Nonce: nonceA, Until: h.now.Add(time.Hour)}, ErrConflict)
}

func TestNodeOnASegmentOfOthersOwnsNoAddress(t *testing.T) {
	h := besideOthers(t)
	h.must(seedID, h.learn(m1, addr20, nonceA))
	h.must(seedID, MintTicket{ID: "t1", Hash: "h1", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(time.Hour)})
	// While it installs, the other server gives its address to another machine, and both go on.
	h.must(seedID, h.learn(m2, addr20, nonceB))
	h.must(seedID, MintTicket{ID: "t2", Hash: "h2", MAC: m2, Segment: "s1", Addr: addr20, Expires: h.now.Add(time.Hour)})
	h.must(seedID, RedeemTicket{ID: "t1", Hash: "h1", Key: "k1", MACs: []MAC{m1}, Node: "n1", Address: "192.168.42.20:7400"})
	if l, ok := h.s.View().LeaseOf("s1", m1); ok && l.Expires.IsZero() {
		t.Errorf("the node owns %+v", l)
	}
	report := ReportNode{Address: "192.168.42.30:7400", Ports: []Port{{Name: "eth0", MAC: m1, Link: true, Segment: "s1", Address: netip.MustParsePrefix("192.168.42.30/24")}}}
	h.must("n1", report)
	h.must("n1", report)
	moved := 0
	for _, e := range h.s.View().Events(m1) {
		if e.Kind == "moved" && e.Warn {
			moved++
		}
	}
	if moved != 1 {
		t.Errorf("its move is told %d times", moved)
	}
}
