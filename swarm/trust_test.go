package swarm

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// gossipKey is a key that looks like one.
func gossipKey(i int) string {
	return base64.RawURLEncoding.EncodeToString(fmt.Appendf(nil, "%032d", i))
}

func (h *house) keys() (keys []string, generation uint64, stage KeyStage) {
	s, _ := h.s.View().Settings()
	return s.GossipKeys, s.KeyGeneration, s.KeyStage
}

func (h *house) wantKeys(generation uint64, stage KeyStage, want ...int) {
	h.t.Helper()
	var all []string
	for _, i := range want {
		all = append(all, gossipKey(i))
	}
	if keys, g, s := h.keys(); !slices.Equal(keys, all) || g != generation || s != stage {
		h.t.Fatalf("keys %v, generation %d, stage %q; want %v, %d, %q", keys, g, s, want, generation, stage)
	}
}

func TestKeyRotationGoesStepByStep(t *testing.T) {
	h := founded(t)
	h.must(seedID, RotateKeys{Key: gossipKey(1)})
	h.wantKeys(1, KeysSpreading, 1)
	h.must(seedID, AdvanceKeys{Generation: 1})
	h.must(seedID, AdvanceKeys{Generation: 2})
	h.wantKeys(3, "", 1)
	h.refused(seedID, AdvanceKeys{Generation: 3}, ErrConflict) // nothing is under way
	h.must(seedID, RotateKeys{Key: gossipKey(2)})
	h.wantKeys(4, KeysSpreading, 1, 2)
	h.refused(seedID, AdvanceKeys{Generation: 3}, ErrConflict)
	h.refused(seedID, AdvanceKeys{Generation: 5}, ErrConflict)
	h.must(seedID, AdvanceKeys{Generation: 4})
	h.wantKeys(5, KeysInUse, 2, 1)
	h.refused(seedID, AdvanceKeys{Generation: 4}, ErrConflict) // said twice
	h.must(seedID, AdvanceKeys{Generation: 5})
	h.wantKeys(6, "", 2)
}

func TestRotationDuringARotationEndsWithTheNewestKey(t *testing.T) {
	h := founded(t)
	h.must(seedID, RotateKeys{Key: gossipKey(1)})
	h.must(seedID, AdvanceKeys{Generation: 1})
	h.must(seedID, AdvanceKeys{Generation: 2})
	h.must(seedID, RotateKeys{Key: gossipKey(2)})
	h.must(seedID, RotateKeys{Key: gossipKey(3)}) // while 2 spreads
	h.wantKeys(5, KeysSpreading, 1, 2, 3)
	h.must(seedID, AdvanceKeys{Generation: 5})
	h.wantKeys(6, KeysInUse, 3, 1, 2)
	h.must(seedID, RotateKeys{Key: gossipKey(4)}) // while 3 comes into use
	h.wantKeys(7, KeysSpreading, 3, 1, 2, 4)
	h.must(seedID, AdvanceKeys{Generation: 7})
	h.must(seedID, AdvanceKeys{Generation: 8})
	h.wantKeys(9, "", 4)
}

func TestKeyringIsBoundedAndNeverLosesWhatEncrypts(t *testing.T) {
	h := founded(t)
	h.must(seedID, RotateKeys{Key: gossipKey(0)})
	h.must(seedID, AdvanceKeys{Generation: 1})
	h.must(seedID, AdvanceKeys{Generation: 2})
	for i := range 40 {
		h.must(seedID, RotateKeys{Key: gossipKey(i + 1)})
		keys, generation, _ := h.keys()
		first := keys[0]
		if len(keys) > maxKeys || keys[len(keys)-1] != gossipKey(i+1) {
			t.Fatalf("%d keys", len(keys))
		}
		if i%3 == 0 {
			h.must(seedID, AdvanceKeys{Generation: generation})
			if keys, _, _ := h.keys(); keys[0] != gossipKey(i+1) || keys[1] != first {
				t.Fatal("the key that encrypted a moment ago does not decrypt")
			}
		}
	}
}

func TestKeyThatNodesCannotReadIsRefused(t *testing.T) {
	h := founded(t)
	h.must(seedID, RotateKeys{Key: gossipKey(1)})
	for _, bad := range []string{"", "x", gossipKey(1)[:42], gossipKey(1) + "A", strings.Repeat("!", 43)} {
		h.refused(seedID, RotateKeys{Key: bad}, ErrInvalid)
	}
	h.refused(seedID, RotateKeys{Key: gossipKey(1)}, ErrConflict)
	id := h.join(m1, "192.168.42.20")
	h.refused(seedID, EvictNode{Node: id, Key: "x"}, ErrInvalid)
	if h.node(id).Ended != "" {
		t.Fatal("half an eviction")
	}
}

func TestRotationWaitsForEveryNodeThatCountsAndIsThere(t *testing.T) {
	h := founded(t)
	n := h.join(m1, "192.168.42.20")
	all := func(NodeID) bool { return true }
	spread := func(alive func(NodeID) bool) bool { return KeysSpread(h.s.View(), alive) }
	if spread(all) {
		t.Fatal("nothing is under way")
	}
	h.must(seedID, RotateKeys{Key: gossipKey(1)})
	h.must(seedID, ReportNode{Keys: 1})
	if spread(all) {
		t.Fatal("one node lacks the key")
	}
	if !spread(func(id NodeID) bool { return id != n }) {
		t.Fatal("a node that is away holds the rotation up")
	}
	h.must(n, ReportNode{Keys: 1})
	if !spread(all) {
		t.Fatal("all have it")
	}
	h.must(seedID, AdvanceKeys{Generation: 1})
	if spread(all) {
		t.Fatal("nobody has the next generation")
	}
	h.must(seedID, ReportNode{Keys: 2})
	h.must(seedID, EvictNode{Node: n})
	if !spread(all) {
		t.Fatal("an evicted node holds the rotation up")
	}
}

func TestEvictedNodeIsOutForGood(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	h.must(seedID, SeeMachine{MAC: m2, Segment: "s1"})
	h.must(id, MintTicket{ID: "back door", Hash: "hash", MAC: m2, Segment: "s1", Addr: addr20.Next(), Expires: h.now.Add(time.Hour)})
	if why := h.s.View().Refused(id, Certificate{Serial: "77", Key: "key"}); why != "" {
		t.Fatal(why)
	}
	h.refused(id, EvictNode{Node: id}, ErrConflict) // nobody evicts itself
	h.refused(seedID, EvictNode{Node: "nobody"}, ErrNotFound)
	h.must(seedID, OfferDuty{Segment: "s1", Term: h.term("s1"), To: id})
	h.must(seedID, PassDuty{Segment: "s1", Term: h.term("s1")})
	h.must(seedID, EvictNode{Node: id, Reason: "stolen", Key: gossipKey(1)})
	n := h.node(id)
	if !n.Left || n.Ended != "stolen" || n.Eligible() {
		t.Fatalf("%+v", n)
	}
	if why := h.s.View().Refused(id, Certificate{Serial: "77"}); !strings.Contains(why, "stolen") || !strings.Contains(why, "77") {
		t.Fatalf("%q", why)
	}
	if s, _ := h.s.View().Segment("s1"); s.Duty.Holder != id {
		t.Fatal("its duty moved before its time was over")
	}
	h.wantKeys(1, KeysSpreading, 1)
	if tk, _ := h.s.View().Ticket("back door"); tk.State != TicketRevoked {
		t.Fatal("it can come back with a ticket that it minted")
	}
	h.refused(id, ReportNode{Address: "x"}, ErrConflict)
	h.refused(seedID, TrustNode{Node: id}, ErrConflict)
	h.refused(seedID, NoteCertificate{Node: id, Serial: "78"}, ErrConflict)
	h.refused(seedID, GrantDuty{Segment: "s1", Term: h.term("s1"), To: id}, ErrConflict)
	h.refused("", redeem(m1, "key"), ErrTicketUsed) // with the key that it has
	h.refused(id, MintTicket{ID: "x", Hash: "h", MAC: m2, Segment: "s1", Addr: addr20.Next(), Expires: h.now.Add(time.Hour)}, ErrConflict)
	h.must(seedID, EvictNode{Node: id, Reason: "again"})
	if h.node(id).Ended != "stolen" {
		t.Fatal("the first reason is lost")
	}
	h.must(seedID, EvictNode{Node: id, Key: gossipKey(2)}) // the first time without a key, perhaps
	h.wantKeys(2, KeysSpreading, 1, 2)
}

func TestReinstalledMachineIsANewNodeAndTheOldOneHasEnded(t *testing.T) {
	h := founded(t)
	old := h.join(m1, "192.168.42.20")
	h.must(seedID, ArmMachine{MAC: m1})
	h.must(seedID, MintTicket{ID: "again", Hash: "hash", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(time.Hour)})
	r := redeem(m1, "key2")
	r.ID, r.Node = "again", old
	h.refused("", r, ErrConflict) // an id is given once
	r.Node = "fresh"
	h.must("", r)
	if h.s.View().Refused(old, Certificate{}) == "" || h.s.View().Refused("fresh", Certificate{Key: "key2"}) != "" || h.node("fresh").Ended != "" {
		t.Fatalf("%+v %+v", h.node(old), h.node("fresh"))
	}
	h.refused(old, ReportNode{Address: "x"}, ErrConflict)
}

func TestNodeThatLeftMayComeBack(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	h.must(id, LeaveNode{Node: id})
	if h.node(id).Eligible() || h.s.View().Refused(id, Certificate{Key: "key"}) != "" {
		t.Fatal("it has only left")
	}
	h.must(id, ReportNode{Address: "x"})
	if !h.node(id).Eligible() {
		t.Fatal("it is back")
	}
}

func TestUnknownNodeIsInGoodStanding(t *testing.T) {
	// Who was away must be able to hear from nodes that joined meanwhile.
	if why := NewState().View().Refused("new", Certificate{}); why != "" {
		t.Fatal(why)
	}
}

func TestOperatorLiftsAQuarantineNotTheNodeItself(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	h.refused("", redeem(m1, "thief"), ErrTicketUsed)
	h.refused(id, TrustNode{Node: id}, ErrConflict)
	h.must(seedID, TrustNode{Node: id})
	if n := h.node(id); !n.Eligible() {
		t.Fatalf("%+v", n)
	}
	h.must(seedID, TrustNode{Node: id})
	h.refused(seedID, TrustNode{Node: "nobody"}, ErrNotFound)
}

func TestStrangerWithATicketsIDDoesNotFillTheDiary(t *testing.T) {
	h := founded(t)
	h.join(m1, "192.168.42.20")
	bad := redeem(m1, "thief")
	bad.Hash = "guess"
	h.refused("", bad, ErrTicket)
	before := len(h.s.View().Events(""))
	for range 5 {
		h.refused("", bad, ErrTicket)
	}
	if after := len(h.s.View().Events("")); after != before || !h.last().Warn {
		t.Fatalf("%d lines more; the last one is %+v", after-before, h.last())
	}
	if n := h.node(redeem(m1, "key").Node); n.Quarantine != "" {
		t.Fatal("who does not know the secret put a node into quarantine")
	}
}

func TestMistakeOfTheRightNodeIsNoTheft(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	again := redeem(m1, "key")
	again.Node = ""
	h.refused("", again, ErrInvalid)
	if n := h.node(id); n.Quarantine != "" {
		t.Fatal(n.Quarantine)
	}
}

func TestCertificateIsNoted(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	h.must(seedID, NoteCertificate{Node: id, Serial: "99", NotAfter: day.Add(time.Hour)})
	if n := h.node(id); n.Serial != "99" || !n.NotAfter.Equal(day.Add(time.Hour)) {
		t.Fatalf("%+v", n)
	}
	h.refused(seedID, NoteCertificate{Node: id}, ErrInvalid)
	h.refused(seedID, NoteCertificate{Node: "nobody", Serial: "1"}, ErrNotFound)
}

func TestOperatorIsRefusedOnceRevokedAndComesBackOnlyWithAFreshCertificate(t *testing.T) {
	h := founded(t)
	add := AddOperator{Name: "ann", Role: RoleOperate, Serial: "1", NotAfter: h.now.Add(24 * time.Hour)}
	refusal := func(serial string) string { return h.s.View().RefusedOperator("ann", Certificate{Serial: serial}) }
	if refusal("1") == "" {
		t.Fatal("an unknown operator is welcome")
	}
	h.must(seedID, add)
	if refusal("1") != "" || refusal("2") == "" {
		t.Fatalf("%q %q", refusal("1"), refusal("2"))
	}
	fresh := add
	fresh.Serial, fresh.NotAfter = "2", h.now.Add(2000*time.Hour)
	h.refused(seedID, fresh, ErrConflict) // one is good still
	h.must(seedID, RevokeOperator{Name: "ann"})
	h.must(seedID, RevokeOperator{Name: "ann"})
	if refusal("1") == "" {
		t.Fatal("a revoked operator is welcome")
	}
	h.refused(seedID, add, ErrConflict) // the same certificate
	h.must(seedID, fresh)
	if refusal("1") == "" || refusal("2") != "" {
		t.Fatalf("%q %q", refusal("1"), refusal("2"))
	}
	h.now = h.now.Add(3000 * time.Hour)
	fresh.Serial, fresh.NotAfter = "3", h.now.Add(time.Hour)
	h.must(seedID, fresh) // the former one is over
	if all := h.s.View().Operators(); len(all) != 1 || all[0].Serial != "3" {
		t.Fatalf("%+v", all)
	}
}

func TestOperatorRefusals(t *testing.T) {
	h := founded(t)
	good := AddOperator{Name: "ann", Role: RoleView, Serial: "1", NotAfter: h.now.Add(time.Hour)}
	for name, spoil := range map[string]func(*AddOperator){
		"no name":   func(o *AddOperator) { o.Name = "" },
		"bad name":  func(o *AddOperator) { o.Name = "Ann/../x" },
		"role":      func(o *AddOperator) { o.Role = "root" },
		"no serial": func(o *AddOperator) { o.Serial = "" },
		"over":      func(o *AddOperator) { o.NotAfter = h.now },
	} {
		bad := good
		spoil(&bad)
		t.Log(name)
		h.refused(seedID, bad, ErrInvalid)
	}
	h.refused(seedID, RevokeOperator{Name: "nobody"}, ErrNotFound)
}

func TestRevokedTicketIsWorthless(t *testing.T) {
	h := founded(t)
	h.join(m1, "192.168.42.20")
	h.refused(seedID, RevokeTicket{ID: "t" + string(m1)}, ErrTicketUsed)
	h.refused(seedID, RevokeTicket{ID: "none"}, ErrNotFound)
	h.must(seedID, SeeMachine{MAC: m2, Segment: "s1"})
	h.must(seedID, MintTicket{ID: "t" + string(m2), Hash: "hash", MAC: m2, Segment: "s1", Addr: addr20.Next(), Expires: h.now.Add(time.Hour)})
	h.must(seedID, RevokeTicket{ID: "t" + string(m2)})
	h.must(seedID, RevokeTicket{ID: "t" + string(m2)})
	h.refused("", redeem(m2, "key"), ErrTicket)
	all := h.s.View().AllTickets()
	if len(all) != 2 || all[0].Machine != m1 || all[1].State != TicketRevoked || all[1].By != seedID {
		t.Fatalf("%+v", all)
	}
}

func TestTicketsOfAnAgentInALoopAreForgotten(t *testing.T) {
	h := founded(t)
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	for i := range 50 {
		h.must(seedID, MintTicket{ID: fmt.Sprint("t", i), Hash: "hash", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(5 * time.Second)})
	}
	if n := len(h.s.View().AllTickets()); n > 6 {
		t.Fatalf("%d tickets", n)
	}
}

func TestSwarmSpeaksWhatEveryMemberUnderstands(t *testing.T) {
	h := founded(t)
	if p := NewState().View().Protocol(); p != 1 {
		t.Fatal(p)
	}
	id := h.join(m1, "192.168.42.20")
	check := func(want int) {
		t.Helper()
		if got := h.s.View().Protocol(); got != want {
			t.Fatalf("protocol %d, want %d", got, want)
		}
	}
	h.must(seedID, ReportNode{Protocol: 3})
	check(1) // the other has not said anything
	h.must(id, ReportNode{Protocol: 2})
	check(2)
	h.must(id, ReportNode{Protocol: -7})
	check(1)
	h.must(id, LeaveNode{Node: id})
	check(3)
	h.must(id, ReportNode{Protocol: 2})
	h.must(seedID, EvictNode{Node: id})
	check(3)
}

func TestEveryOperationSaysSinceWhen(t *testing.T) {
	for name, known := range ops {
		if p := (Command{Op: known.op}).Protocol(); p < 1 || p > Protocol {
			t.Errorf("%s exists since protocol %d, this offshoot speaks %d", name, p, Protocol)
		}
		if _, worded := known.op.(worded); known.who == byOperator && !worded {
			t.Errorf("%s is for operators and has no words for the audit log", name)
		}
	}
	if len(opNames) != len(ops) {
		t.Error("one operation has two names")
	}
	if p := (Command{}).Protocol(); p != 0 {
		t.Errorf("no operation: %d", p)
	}
}

func TestWhatAnOperatorAskedIsInTheAuditLogAlsoWhenRefused(t *testing.T) {
	h := founded(t)
	if n := len(h.s.View().Audit()); n != 0 {
		t.Fatalf("%d entries about what nodes decided", n)
	}
	id := h.join(m1, "192.168.42.20")
	h.ask("ann from 10.0.0.9", seedID, ArmMachine{MAC: m1, Wipe: true})
	h.ask("root (uid 0)", seedID, NameMachine{MAC: m1, Name: "NO"})
	c := Command{ID: "once", Time: h.now, By: seedID, Actor: "ann", Op: EvictNode{Node: id, Reason: "lost", Key: gossipKey(1)}}
	h.s.Apply(c)
	h.s.Apply(c) // a retry
	got := h.s.View().Audit()
	want := []AuditEntry{
		{Seq: 1, By: seedID, Actor: "ann from 10.0.0.9", Op: "arm-machine", Text: "arm machine " + string(m1) + ", what is on the disk may be destroyed"},
		{Seq: 2, By: seedID, Actor: "root (uid 0)", Op: "name-machine", Text: "name machine " + string(m1) + " NO"},
		{Seq: 3, By: seedID, Actor: "ann", Op: "evict-node", Text: "evict node " + string(id) + ": lost; rotate the gossip key"},
	}
	if len(got) != 3 || !strings.Contains(got[1].Refused, "host name") || got[0].Time.IsZero() {
		t.Fatalf("%+v", got)
	}
	for i := range got {
		got[i].Time, got[i].Refused = time.Time{}, ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Fatal(diff)
	}
}

func TestAuditTellsNoSecrets(t *testing.T) {
	h := founded(t)
	key := gossipKey(9)
	for _, known := range ops {
		op := known.op
		switch op.(type) {
		case RotateKeys:
			op = RotateKeys{Key: key}
		case EvictNode:
			op = EvictNode{Node: "nobody", Key: key}
		case PutProfile:
			op = PutProfile{Profile: Profile{Name: "x", RootHash: key, Args: key}}
		case RedeemTicket:
			op = RedeemTicket{ID: "x", Hash: key, Key: key, Node: "n"}
		case MintTicket:
			op = MintTicket{ID: "x", Hash: key}
		}
		h.ask("ann", seedID, op)
	}
	all := h.s.View().Audit()
	if len(all) != len(ops) {
		t.Fatalf("%d entries", len(all))
	}
	for _, e := range all {
		if strings.Contains(fmt.Sprint(e), key) || e.Text == "" {
			t.Errorf("%+v", e)
		}
	}
	for _, e := range h.s.View().Events("") {
		if strings.Contains(e.Text, key) {
			t.Errorf("%+v", e)
		}
	}
}

func TestAuditAndTextsAreBounded(t *testing.T) {
	h := founded(t)
	for i := range maxAudit + 10 {
		h.s.Apply(Command{ID: fmt.Sprint("a", i), Time: h.now, Actor: "ann", Op: HoldMachine{MAC: m1}})
	}
	if all := h.s.View().Audit(); len(all) != maxAudit || all[0].Seq != 11 {
		t.Fatalf("%d entries", len(all))
	}
	h.must(seedID, Note{Kind: strings.Repeat("k", 9999), Text: strings.Repeat("ä", 100_000)})
	if e := h.last(); len(e.Text) > maxText || len(e.Kind) > maxWord || !strings.HasSuffix(e.Text, "ä…") {
		t.Fatalf("%d %d", len(e.Text), len(e.Kind))
	}
	h.refused(seedID, Note{MAC: "x", Text: "t"}, ErrInvalid)
	h.refused(seedID, ReportNode{Ports: make([]Port, maxPorts+1)}, ErrInvalid)
	h.refused(seedID, ReportNode{Ports: []Port{{MAC: "x"}}}, ErrInvalid)
	h.refused(seedID, ReportNode{Version: strings.Repeat("v", 9999)}, ErrInvalid)
	h.refused(seedID, SetVoters{Voters: MaxVoters + 2}, ErrInvalid)
}
