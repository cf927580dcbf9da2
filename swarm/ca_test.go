package swarm

import (
	"net/netip"
	"strings"
	"testing"
	"time"
)

// pin looks like one.
func pin(c string) string { return "sha256:" + strings.Repeat(c, 64) }

// rooted is a swarm with a CA and a second node.
func rooted(t *testing.T) (h *house, member NodeID) {
	t.Helper()
	h = &house{t: t, s: NewState(), now: day}
	f := Found{
		Settings: Settings{Swarm: "abc", CA: "cert a", Pin: pin("a"), Voters: 5, Profile: "p", AutoApprove: true},
		Node:     Node{ID: seedID, Name: "seed", Key: "seed's", Ephemeral: true, Ports: []Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true}}},
		Profile:  &Profile{Name: "p", Driver: "image", Image: "aa"},
	}
	f.Network = netip.MustParsePrefix("192.168.42.0/24")
	h.must(seedID, f)
	return h, h.join(m1, "192.168.42.20")
}

func (h *house) settings() Settings {
	s, _ := h.s.View().Settings()
	return s
}

func (h *house) wantCA(generation uint64, stage CAStage, signer, present string, former ...string) {
	h.t.Helper()
	s := h.settings()
	var pins []string
	for _, a := range s.FormerCAs {
		if a.Certificate == "" {
			h.t.Errorf("%s has no certificate", a.Pin)
		}
		pins = append(pins, a.Pin)
	}
	if s.CAGeneration != generation || s.CAStage != stage || s.Signer() != signer || s.Pin != present || strings.Join(pins, " ") != strings.Join(former, " ") {
		h.t.Fatalf("generation %d, stage %q, %s signs, present %s, former %v", s.CAGeneration, s.CAStage, s.Signer(), s.Pin, pins)
	}
}

// step is what nodes do when a step was decided.
func (h *house) step(nodes ...NodeID) {
	h.t.Helper()
	for _, id := range nodes {
		h.must(id, ReportNode{Address: "x:1", CA: h.settings().CAGeneration})
	}
}

func TestCAIsReplacedStepByStepAndWaitsForEveryNode(t *testing.T) {
	h, m := rooted(t)
	h.refused(seedID, AdvanceCA{Generation: 0}, ErrConflict) // nothing is under way
	h.must(seedID, ReplaceCA{CA: "cert b", Pin: pin("b"), Reason: "the seed was stolen"})
	h.wantCA(1, CASpreading, pin("a"), pin("b"), pin("a"))
	h.refused(seedID, AdvanceCA{Generation: 1, Key: gossipKey(1)}, ErrConflict)
	h.step(seedID)
	h.refused(seedID, AdvanceCA{Generation: 1, Key: gossipKey(1)}, ErrConflict) // m does not know it, wherever it is
	h.step(m)
	h.refused(seedID, AdvanceCA{Generation: 2, Key: gossipKey(1)}, ErrConflict)
	h.refused(seedID, AdvanceCA{Generation: 1, Key: "x"}, ErrInvalid)
	h.must(seedID, AdvanceCA{Generation: 1, Key: gossipKey(1)})
	h.wantCA(2, CAInUse, pin("b"), pin("b"), pin("a"))
	h.wantKeys(1, KeysSpreading, 1)                                             // whoever listened in until now has heard of the new key
	h.refused(seedID, AdvanceCA{Generation: 1, Key: gossipKey(2)}, ErrConflict) // said twice
	h.step(seedID)
	if behind := h.s.View().CABehind(); len(behind) != 1 || behind[0].ID != m {
		t.Fatalf("waits for %v", behind)
	}
	h.refused(seedID, AdvanceCA{Generation: 2}, ErrConflict)
	h.step(m)
	h.must(seedID, AdvanceCA{Generation: 2})
	h.wantCA(3, "", pin("b"), pin("b"))
	if h.s.View().CABehind() != nil {
		t.Fatal("nothing is under way")
	}
}

func TestNodeThatIsPutOutHoldsNoReplacementUp(t *testing.T) {
	h, m := rooted(t)
	h.must(seedID, ReplaceCA{CA: "cert b", Pin: pin("b")})
	h.step(seedID)
	h.refused(seedID, AdvanceCA{Generation: 1, Key: gossipKey(1)}, ErrConflict)
	h.must(seedID, EvictNode{Node: m})
	h.must(seedID, AdvanceCA{Generation: 1, Key: gossipKey(1)})
}

func TestWhoGotNoNewCertificateHasEnded(t *testing.T) {
	h, m := rooted(t)
	h.must(m, LeaveNode{Node: m})
	h.must(seedID, ReplaceCA{CA: "cert b", Pin: pin("b")})
	h.step(seedID)
	h.must(seedID, AdvanceCA{Generation: 1, Key: gossipKey(1)})
	if h.node(m).Ended != "" {
		t.Fatal("it can come back until the old CA is dropped")
	}
	h.step(seedID)
	h.must(seedID, AdvanceCA{Generation: 2})
	if why := h.node(m).Ended; !strings.Contains(why, "no new certificate") {
		t.Fatalf("%q: its certificate is worth nothing, and status should say so", why)
	}
	if h.node(seedID).Ended != "" {
		t.Fatal("it has a new one")
	}
}

func TestOldCertificateCountsOnlyWithTheKeyThatIsKnown(t *testing.T) {
	h, m := rooted(t)
	refused := func(id NodeID, c Certificate) bool { return h.s.View().Refused(id, c) != "" }
	old := func(key string) Certificate { return Certificate{Serial: "7", Key: key, CA: pin("a")} }
	if refused("stranger", old("x")) || refused(m, old("key")) {
		t.Fatal("the authority signed, and was not stolen")
	}
	if !refused(m, old("x")) {
		t.Fatal("another key than the one it joined with")
	}
	h.must(seedID, ReplaceCA{CA: "cert b", Pin: pin("b")})
	for stage := range 2 {
		if !refused("stranger", old("x")) || !refused(m, old("x")) || !refused(seedID, old("x")) {
			t.Fatalf("stage %d: the stolen CA still makes nodes", stage)
		}
		if refused(m, old("key")) || refused(seedID, old("seed's")) {
			t.Fatalf("stage %d: members are cut off", stage)
		}
		if refused(m, Certificate{Key: "key", CA: pin("b")}) || refused("joined since", Certificate{Key: "k", CA: pin("b")}) {
			t.Fatalf("stage %d: the new CA is not believed", stage)
		}
		h.step(seedID, m)
		h.must(seedID, AdvanceCA{Generation: uint64(stage + 1), Key: gossipKey(stage)})
	}
}

func TestOldOperatorCertificateCountsOnlyWithItsKeyAndIsToBeRenewed(t *testing.T) {
	h, _ := rooted(t)
	add := AddOperator{Name: "ann", Role: RoleAdmin, Serial: "1", NotAfter: day.Add(24 * time.Hour), Key: "ann's", CA: pin("a")}
	h.must(seedID, add)
	h.refused(seedID, add, ErrConflict)
	h.must(seedID, ReplaceCA{CA: "cert b", Pin: pin("b")})
	refused := func(c Certificate) bool { return h.s.View().RefusedOperator("ann", c) != "" }
	if refused(Certificate{Serial: "1", Key: "ann's", CA: pin("a")}) || !refused(Certificate{Serial: "1", Key: "x", CA: pin("a")}) {
		t.Fatal("whoever knows name and serial could be ann")
	}
	if p, _ := h.s.View().Operator("ann"); !h.s.View().Outdated(p) {
		t.Fatal("she needs a new file")
	}
	add.Serial, add.Key, add.CA = "2", "ann's new", pin("b")
	h.must(seedID, add) // without revoking first
	if p, _ := h.s.View().Operator("ann"); h.s.View().Outdated(p) || !refused(Certificate{Serial: "1", Key: "ann's", CA: pin("a")}) {
		t.Fatal("the new file replaces the old one")
	}
}

func TestOpenTicketsNameTheOldPinAndAreRevoked(t *testing.T) {
	h, _ := rooted(t)
	h.must(seedID, SeeMachine{MAC: m2, Segment: "s1"})
	h.must(seedID, MintTicket{ID: "open", Hash: "hash", MAC: m2, Segment: "s1", Addr: addr20.Next(), Expires: h.now.Add(time.Hour)})
	h.must(seedID, ReplaceCA{CA: "cert b", Pin: pin("b")})
	if tk, _ := h.s.View().Ticket("open"); tk.State != TicketRevoked {
		t.Fatalf("%+v", tk)
	}
	if tk, _ := h.s.View().Ticket("t" + string(m1)); tk.State != TicketRedeemed {
		t.Fatalf("%+v", tk)
	}
	events := h.s.View().Events(m2)
	if last := events[len(events)-1].Text; !strings.Contains(last, "CA is being replaced") || !strings.Contains(last, "armed again") {
		t.Fatalf("its timeline says %q", last)
	}
}

func TestReplacementDuringAReplacementEndsWithTheNewest(t *testing.T) {
	h, m := rooted(t)
	h.must(seedID, ReplaceCA{CA: "cert b", Pin: pin("b")})
	h.must(seedID, ReplaceCA{CA: "cert c", Pin: pin("c")}) // nobody has a certificate of b
	h.wantCA(2, CASpreading, pin("a"), pin("c"), pin("a"))
	h.step(seedID, m)
	h.must(seedID, AdvanceCA{Generation: 2, Key: gossipKey(1)})
	h.must(seedID, ReplaceCA{CA: "cert d", Pin: pin("d")}) // some have one of c
	h.wantCA(4, CASpreading, pin("c"), pin("d"), pin("a"), pin("c"))
	h.refused(seedID, ReplaceCA{CA: "cert c", Pin: pin("c")}, ErrConflict)
	h.refused(seedID, ReplaceCA{CA: "cert d", Pin: pin("d")}, ErrConflict)
	h.step(seedID, m)
	h.must(seedID, AdvanceCA{Generation: 4, Key: gossipKey(2)})
	h.step(seedID, m)
	h.must(seedID, AdvanceCA{Generation: 5})
	h.wantCA(6, "", pin("d"), pin("d"))
}

func TestReplacementIsBoundedAndCutsNobodyOff(t *testing.T) {
	h, m := rooted(t)
	for _, bad := range []ReplaceCA{{}, {CA: "x"}, {Pin: pin("b")}, {CA: "x", Pin: "sha256:b"}, {CA: strings.Repeat("x", 5000), Pin: pin("b")}} {
		h.refused(seedID, bad, ErrInvalid)
	}
	for i, c := range []string{"b", "c", "d", "e"} {
		h.must(seedID, ReplaceCA{CA: "cert", Pin: pin(c)})
		h.step(seedID, m)
		h.must(seedID, AdvanceCA{Generation: h.settings().CAGeneration, Key: gossipKey(i)})
	}
	h.refused(seedID, ReplaceCA{CA: "cert", Pin: pin("f")}, ErrFull)

	h, _ = rooted(t)
	n := h.node(seedID)
	n.Key = ""
	older := &change{Command: Command{By: seedID, Time: h.now}, txn: h.s.db.Load().Txn(true), numbers: map[string]uint64{}}
	older.write("node", &n)
	older.txn.Commit()
	h.refused(seedID, ReplaceCA{CA: "cert", Pin: pin("b")}, ErrConflict)
}

func TestOnlyTheLeaderReplacesTheCA(t *testing.T) {
	h, m := rooted(t)
	for _, op := range []Op{ReplaceCA{CA: "cert", Pin: pin("b")}, AdvanceCA{Generation: 1}} {
		if err := MayForward(h.s.View(), m, Command{By: m, Actor: "root", Op: op}); err == nil {
			t.Errorf("a member may forward %T", op)
		}
	}
	h.ask("operator ann", seedID, ReplaceCA{CA: "cert", Pin: pin("b"), Reason: "stolen"})
	all := h.s.View().Audit()
	if len(all) != 1 || all[0].Actor != "operator ann" || !strings.Contains(all[0].Text, pin("b")) || !strings.Contains(all[0].Text, "stolen") {
		t.Errorf("%+v", all)
	}
}
