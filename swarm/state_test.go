package swarm

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var day = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)

const (
	seedID = NodeID("5eed")
	m1     = MAC("52:54:00:00:00:01")
	m2     = MAC("52:54:00:00:00:02")
)

// house is a founded swarm that commands are applied to, a second apart.
type house struct {
	t   *testing.T
	s   *State
	now time.Time
	n   int
}

func founded(t *testing.T) *house {
	t.Helper()
	h := &house{t: t, s: NewState(), now: day}
	h.must(seedID, Found{
		Settings: Settings{Swarm: "abc", Range: netip.MustParsePrefix("10.42.0.0/16"), Voters: 5, AutoApprove: true, Profile: "p"},
		Node:     Node{ID: seedID, Name: "seed", Ephemeral: true, Ports: []Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true}}, Warm: true},
		Network:  netip.MustParsePrefix("192.168.42.0/24"),
		Profile:  &Profile{Name: "p", Driver: "image", Image: "aa"},
	})
	return h
}

func (h *house) apply(by NodeID, op Op) Result {
	h.t.Helper()
	return h.ask("", by, op)
}

// ask is apply for an operator.
func (h *house) ask(actor string, by NodeID, op Op) Result {
	h.t.Helper()
	h.n++
	h.now = h.now.Add(time.Second)
	c := Command{ID: fmt.Sprintf("c%d", h.n), Time: h.now, By: by, Actor: actor, Op: op}
	wire, err := c.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	back, err := DecodeCommand(wire)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.s.Apply(back)
}

func (h *house) must(by NodeID, op Op) Result {
	h.t.Helper()
	r := h.apply(by, op)
	if err := r.Err(); err != nil {
		h.t.Fatalf("%T: %v", op, err)
	}
	return r
}

func (h *house) refused(by NodeID, op Op, want error) {
	h.t.Helper()
	if err := h.apply(by, op).Err(); !errors.Is(err, want) {
		h.t.Fatalf("%T: got %v, want %v", op, err, want)
	}
}

// node is the node's row.
func (h *house) node(id NodeID) Node {
	n, _ := h.s.View().Node(id)
	return n
}

// last is the newest line of the diary.
func (h *house) last() Event {
	all := h.s.View().Events("")
	return all[len(all)-1]
}

func (h *house) term(segment string) uint64 {
	s, _ := h.s.View().Segment(segment)
	return s.Duty.Term
}

// lease is a binding by a holder whose clock is that of the wall.
func (h *house) lease(mac MAC, addr string) BindLeases {
	at := netip.MustParseAddr(addr)
	o := BindLeases{Segment: "s1", Term: h.term("s1"), Leases: []Lease{{Addr: at, MAC: mac, Class: "os", Expires: h.now.Add(time.Hour)}}}
	if l, ok := h.s.View().Lease("s1", at); ok && !l.Live(h.now) {
		o.Over = map[netip.Addr]time.Time{at: l.Expires}
	}
	return o
}

// bind proposes one lease and returns its refusal.
func (h *house) bind(mac MAC, addr string) string {
	h.t.Helper()
	var refusals map[int]string
	if err := h.must(seedID, h.lease(mac, addr)).Decode(&refusals); err != nil {
		h.t.Fatal(err)
	}
	return refusals[0]
}

func (h *house) bound(mac MAC, addr string) {
	h.t.Helper()
	if refusal := h.bind(mac, addr); refusal != "" {
		h.t.Fatal(refusal)
	}
}

func (h *house) unbound(mac MAC, addr string, why error) {
	h.t.Helper()
	if refusal := h.bind(mac, addr); !strings.Contains(refusal, why.Error()) {
		h.t.Fatalf("lease of %s to %s: got %q, want %q", addr, mac, refusal, why)
	}
}

// join takes a machine through ticket and redeem and returns its node.
func (h *house) join(mac MAC, addr string) NodeID {
	h.t.Helper()
	h.must(seedID, SeeMachine{MAC: mac, Segment: "s1"})
	h.bound(mac, addr)
	h.must(seedID, MintTicket{ID: "t" + string(mac), Hash: "hash", MAC: mac, Segment: "s1", Addr: netip.MustParseAddr(addr), Expires: h.now.Add(time.Hour)})
	var n Node
	if err := h.must("", redeem(mac, "key")).Decode(&n); err != nil {
		h.t.Fatal(err)
	}
	return n.ID
}

func redeem(mac MAC, key string) RedeemTicket {
	return RedeemTicket{ID: "t" + string(mac), Hash: "hash", Key: key, MACs: []MAC{mac}, Node: NodeID("n" + key + string(mac[15:])), Address: "x:1"}
}

func TestAddressIsBoundToOneMachine(t *testing.T) {
	h := founded(t)
	h.bound(m1, "192.168.42.20")
	h.unbound(m2, "192.168.42.20", ErrAddressTaken)
	h.bound(m1, "192.168.42.21")
	h.unbound(m2, "192.168.42.20", ErrAddressTaken) // whoever left it may have left it unawares
	h.now = h.now.Add(2 * time.Hour)
	h.bound(m2, "192.168.42.20")
	if l, _ := h.s.View().LeaseOf("s1", m1); l.Addr.String() != "192.168.42.21" {
		t.Fatalf("machine 1 is at %s", l.Addr)
	}
	h.now = h.now.Add(2 * time.Hour)
	h.bound(m1, "192.168.42.20")
}

func TestOnlyTheHolderBindsInItsTerm(t *testing.T) {
	h := founded(t)
	late := h.lease(m1, "192.168.42.20")
	n := h.join(m2, "192.168.42.30")
	h.must(seedID, OfferDuty{Segment: "s1", Term: h.term("s1"), To: n})
	h.must(seedID, PassDuty{Segment: "s1", Term: h.term("s1")})
	h.refused(seedID, late, ErrNotHolder)
	late.Term = h.term("s1")
	h.refused(seedID, late, ErrNotHolder)
	h.must(n, late)
}

func TestQuarantinedAddressIsGivenToNobody(t *testing.T) {
	h := founded(t)
	a := netip.MustParseAddr("192.168.42.20")
	h.bound(m1, a.String())
	h.must(seedID, QuarantineAddress{Segment: "s1", Term: h.term("s1"), Addr: a, By: m1, Until: h.now.Add(10 * time.Minute)})
	h.unbound(m1, a.String(), ErrAddressTaken)
	h.now = h.now.Add(time.Hour)
	h.bound(m1, a.String())
}

func TestNodeKeepsItsAddressForEver(t *testing.T) {
	h := founded(t)
	h.join(m1, "192.168.42.20")
	h.bound(m1, "192.168.42.20")
	h.unbound(m1, "192.168.42.21", ErrConflict)
	h.must(seedID, ReleaseLease{Segment: "s1", Term: h.term("s1"), MAC: m1, Addr: netip.MustParseAddr("192.168.42.20")})
	h.now = h.now.Add(1000 * time.Hour)
	h.unbound(m2, "192.168.42.20", ErrAddressTaken)
}

func TestMachineIsInstalledOncePerArming(t *testing.T) {
	h := founded(t)
	h.join(m1, "192.168.42.20")
	h.refused(seedID, MintTicket{ID: "again", Hash: "hash", MAC: m1, Segment: "s1", Addr: netip.MustParseAddr("192.168.42.20"), Expires: h.now.Add(time.Hour)}, ErrNotArmed)
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"}) // seen again: not armed again
	h.refused(seedID, MintTicket{ID: "again", Hash: "hash", MAC: m1, Segment: "s1", Addr: netip.MustParseAddr("192.168.42.20"), Expires: h.now.Add(time.Hour)}, ErrNotArmed)
	h.must(seedID, ArmMachine{MAC: m1})
	h.must(seedID, MintTicket{ID: "again", Hash: "hash", MAC: m1, Segment: "s1", Addr: netip.MustParseAddr("192.168.42.20"), Expires: h.now.Add(time.Hour)})
}

func TestTicketIsRedeemedOnce(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	var again Node
	if err := h.must("", redeem(m1, "key")).Decode(&again); err != nil || again.ID != id {
		t.Fatalf("same key again: %v %v", again, err)
	}
	h.refused("", redeem(m1, "thief"), ErrTicketUsed)
	n, _ := h.s.View().Node(id)
	if n.Quarantine == "" || n.Eligible() {
		t.Fatalf("node is not in quarantine: %+v", n)
	}
	if len(h.s.View().Nodes()) != 2 {
		t.Fatal("the thief became a node")
	}
}

func TestTicketRefusals(t *testing.T) {
	mint := func(h *house) MintTicket {
		return MintTicket{ID: "t" + string(m1), Hash: "hash", MAC: m1, Segment: "s1", Addr: netip.MustParseAddr("192.168.42.20"), Expires: h.now.Add(time.Hour)}
	}
	for name, spoil := range map[string]func(*house, *RedeemTicket){
		"wrong secret":   func(_ *house, r *RedeemTicket) { r.Hash = "hush" },
		"unknown":        func(_ *house, r *RedeemTicket) { r.ID = "other" },
		"expired":        func(h *house, _ *RedeemTicket) { h.now = h.now.Add(2 * time.Hour) },
		"other machine":  func(_ *house, r *RedeemTicket) { r.MACs = []MAC{m2} },
		"fetched again":  func(h *house, _ *RedeemTicket) { again := mint(h); again.ID = "x"; h.must(seedID, again) },
		"machine held":   func(h *house, _ *RedeemTicket) { h.must(seedID, HoldMachine{MAC: m1, Reason: "test"}) },
		"armed again":    func(h *house, _ *RedeemTicket) { h.must(seedID, ArmMachine{MAC: m1}) },
		"different UUID": func(h *house, r *RedeemTicket) { r.UUID = "1"; h.must(seedID, SeeMachine{MAC: m1, UUID: "2"}) },
	} {
		t.Run(name, func(t *testing.T) {
			h := founded(t)
			h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
			h.must(seedID, mint(h))
			r := redeem(m1, "key")
			spoil(h, &r)
			h.refused("", r, ErrTicket)
			if len(h.s.View().Nodes()) != 1 {
				t.Fatal("a node joined all the same")
			}
		})
	}
}

func TestRetriedCommandIsAppliedOnce(t *testing.T) {
	h := founded(t)
	c := Command{ID: "same", Time: h.now, By: seedID, Op: NameMachine{MAC: m1, Name: "a"}}
	h.s.Apply(c)
	c.Op = NameMachine{MAC: m1, Name: "b"}
	h.s.Apply(c)
	if m, _ := h.s.View().Machine(m1); m.Name != "a" {
		t.Fatalf("applied twice: %s", m.Name)
	}
}

func TestRefusedCommandChangesNothing(t *testing.T) {
	h := founded(t)
	h.must(seedID, NameMachine{MAC: m1, Name: "a"})
	h.refused(seedID, NameMachine{MAC: m2, Name: "a"}, ErrConflict)
	if _, ok := h.s.View().Machine(m2); ok {
		t.Fatal("a refused command left a machine")
	}
}

func TestSnapshotCarriesEverything(t *testing.T) {
	h := founded(t)
	h.join(m1, "192.168.42.20")
	var first, second bytes.Buffer
	if err := h.s.Snapshot()(&first); err != nil {
		t.Fatal(err)
	}
	other := NewState()
	if err := other.Restore(bytes.NewReader(first.Bytes())); err != nil {
		t.Fatal(err)
	}
	if err := other.Snapshot()(&second); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first.String(), second.String()); diff != "" {
		t.Fatal(diff)
	}
	// The copy goes on where the original stands: the same command has the same outcome.
	c := Command{ID: "next", Time: h.now, By: seedID, Op: SeeMachine{MAC: m2, Segment: "s1"}}
	if diff := cmp.Diff(h.s.Apply(c), other.Apply(c)); diff != "" {
		t.Fatal(diff)
	}
}

func TestDamagedSnapshotLeavesTheStateAlone(t *testing.T) {
	h := founded(t)
	var b bytes.Buffer
	if err := h.s.Snapshot()(&b); err != nil {
		t.Fatal(err)
	}
	const head = `{"offshoot_snapshot":3}` + "\n"
	for name, damaged := range map[string]string{
		"empty": "", "cut": b.String()[:b.Len()-20], "no end": head, "table": head + `{"t":"x","r":{}}` + "\n" + `{"rows":1}`,
		"version":       `{"offshoot_snapshot":99}` + "\n" + `{"rows":0}`,
		"last line cut": b.String()[:strings.LastIndex(strings.TrimSpace(b.String()), "\n")+1],
		"row missing":   strings.Replace(b.String(), b.String()[len(head):len(head)+strings.Index(b.String()[len(head):], "\n")+1], "", 1),
		"trailing data": b.String() + "{}\n",
		"unknown field": head + `{"t":"counter","r":{"Name":"x","Value":1,"More":1}}` + "\n" + `{"rows":1}`,
		"no key":        head + `{"t":"node","r":{"id":""}}` + "\n" + `{"rows":1}`,
	} {
		if err := h.s.Restore(bytes.NewReader([]byte(damaged))); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
	if _, ok := h.s.View().Settings(); !ok {
		t.Fatal("the state is gone")
	}
}

func TestEventsAreBounded(t *testing.T) {
	h := founded(t)
	for range maxEvents + 10 {
		h.n++
		h.s.Apply(Command{ID: fmt.Sprint("e", h.n), Time: h.now, Op: Note{Kind: "k", Text: "t"}})
	}
	v := h.s.View()
	if n := len(v.Events("")); n != maxEvents {
		t.Fatalf("%d events", n)
	}
	if n := len(list[applied](v.txn, "applied", "id")); n != maxApplied {
		t.Fatalf("%d applied", n)
	}
}

func FuzzDecodeCommand(f *testing.F) {
	c := Command{ID: "1", Time: day, By: seedID, Op: BindLeases{Segment: "s1", Leases: []Lease{{MAC: m1}}}}
	wire, err := c.Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(wire)
	f.Add([]byte(`{"v":1,"id":"x","op":"note","args":{"kind":"k","text":"t"}}`))
	for _, op := range []Op{
		SetMode{Segment: "s1", Mode: ModeProxy, Reason: "x"}, LearnAddress{Segment: "s1", MAC: m1, Addr: addr20, Nonce: nonceA, Until: day.Add(time.Hour)},
		MintTicket{ID: "t", Hash: "h", MAC: m1, Segment: "s1"}, RedeemTicket{ID: "t", Hash: "h", Key: "k", Node: "n", MACs: []MAC{m1}},
		OpenSegment{Port: m2}, GrantDuty{Segment: "s1", Term: 1, To: seedID}, NameMachine{MAC: m1, Name: "a"}, PutArtifact{Artifact{Digest: "d"}},
		ReserveAddress{MAC: m1, Addr: netip.MustParseAddr("192.168.42.9")}, ForgetIdle{Segment: "s1"}, EvictNode{Node: "n", Key: gossipKey(1)}, RotateKeys{Key: gossipKey(1)},
		SetPools{Segment: "s1", Pools: []AddrRange{{netip.MustParseAddr("192.168.42.9"), netip.MustParseAddr("192.168.42.19")}}}, AddOperator{Name: "ann", Role: RoleView},
		QuarantineAddress{Segment: "s1", Term: 1, Addr: netip.MustParseAddr("192.168.42.9")}, PutProfile{Profile: Profile{Name: "q"}},
		PutRepo{Repo{Name: "debian", Upstreams: []string{"http://u.example/debian"}, Keyring: []byte("k")}}, DropRepo{Name: "debian"},
		PutWorkingSet{Set: WorkingSet{Profile: "p", Digest: digestOf("a"), Size: 9, Files: 1}}, PinArtifact{Digest: "d", Pinned: true}, WithdrawArtifact{Digest: "d"}, SetStore{Bytes: MinStore},
		farSegment("10.9.0.0/24", "10.9.0.1", "192.168.42.254"), RemoveSegment{"s2"},
		SetDomain{Domain: "lab.example"}, SetDNS{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.53")}}, SetNTP{Servers: []netip.Addr{netip.MustParseAddr("192.0.2.123")}},
		SetLoader{MAC: "52:54:00:00:00:01", Loader: LoaderSigned}, LearnLoader{MAC: "52:54:00:00:00:01", Loader: LoaderSigned}, LearnArch{MAC: "52:54:00:00:00:01", Arch: "arm64"},
	} {
		if wire, err := (Command{ID: "1", Time: day, By: seedID, Op: op}).Encode(); err == nil {
			f.Add(wire)
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := DecodeCommand(data)
		if err != nil {
			return
		}
		// Nothing that decodes may make a node fall over, neither before the swarm was founded nor after.
		NewState().Apply(c)
		s := NewState()
		for i, op := range []Op{
			Found{Settings: Settings{Range: netip.MustParsePrefix("10.42.0.0/16"), AutoApprove: true, Profile: "p"}, Network: netip.MustParsePrefix("192.168.42.0/24"),
				Node: Node{ID: seedID, Ports: []Port{{MAC: m2}}}, Profile: &Profile{Name: "p"}},
			SeeMachine{MAC: m1, Segment: "s1"},
		} {
			s.Apply(Command{ID: fmt.Sprint("before", i), Time: day, By: seedID, Op: op})
		}
		s.Apply(c)
		// What one node passes on, the next must understand.
		wire, err := c.Encode()
		if err != nil {
			return // too long once it is written in our way: refused before it reaches anybody
		}
		if _, err := DecodeCommand(wire); err != nil {
			t.Fatal(err)
		}
		var b bytes.Buffer
		if err := s.Snapshot()(&b); err != nil {
			t.Fatal(err)
		}
		if err := NewState().Restore(&b); err != nil {
			t.Fatal(err)
		}
	})
}

// FuzzRestore: a snapshot comes from a node that was upgraded wrongly, from a damaged disk, or from an operator's file.
func FuzzRestore(f *testing.F) {
	h := founded(&testing.T{})
	h.must(seedID, h.lease(m1, "192.168.42.20"))
	h.ask("ann", seedID, ReserveAddress{MAC: m2, Addr: netip.MustParseAddr("192.168.42.30")})
	var b bytes.Buffer
	if err := h.s.Snapshot()(&b); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte("{\"offshoot_snapshot\":3}\n{\"rows\":0}\n"))
	f.Add([]byte("{\"offshoot_snapshot\":3}\n{\"t\":\"lease\",\"r\":{\"segment\":\"s1\"}}\n{\"rows\":1}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		s := NewState()
		if err := s.Restore(bytes.NewReader(data)); err != nil {
			return
		}
		for i, op := range []Op{SeeMachine{MAC: m1, Segment: "s1"}, BindLeases{Segment: "s1", Leases: []Lease{{MAC: m1}}}, ForgetIdle{Segment: "s1"}} {
			s.Apply(Command{ID: fmt.Sprint("after", i), Time: day, By: seedID, Op: op})
		}
		_, _ = s.View().Settings()
		_ = Members(s.View(), nil, func(NodeID) bool { return true })
	})
}

func TestCommandThatOthersCouldNotReadIsNotEncoded(t *testing.T) {
	good := Command{ID: "1", Time: day, By: seedID, Actor: "ann from 10.0.0.9", Op: Note{Kind: "k", Text: "t"}}
	wire, err := good.Encode()
	if err != nil {
		t.Fatal(err)
	}
	if back, err := DecodeCommand(wire); err != nil || back != good {
		t.Fatalf("%+v, %v", back, err)
	}
	if plain, err := (Command{ID: "1", Op: Note{}}).Encode(); err != nil || strings.Contains(string(plain), "actor") {
		t.Fatalf("%s, %v", plain, err)
	}
	for name, spoil := range map[string]func(*Command){
		"no id":           func(c *Command) { c.ID = "" },
		"long id":         func(c *Command) { c.ID = strings.Repeat("x", maxID+1) },
		"id not UTF-8":    func(c *Command) { c.ID = strings.Repeat("\xff", maxID) },
		"long actor":      func(c *Command) { c.Actor = strings.Repeat("x", maxActor+1) },
		"actor not UTF-8": func(c *Command) { c.Actor = strings.Repeat("\xff", maxActor) },
		"no operation":    func(c *Command) { c.Op = nil },
		"too long":        func(c *Command) { c.Op = Note{Text: strings.Repeat("x", maxCommand)} },
		"pointer":         func(c *Command) { c.Op = &Note{} },
	} {
		bad := good
		spoil(&bad)
		if _, err := bad.Encode(); err == nil {
			t.Errorf("%s: encoded", name)
		}
	}
}

func TestCommandIsReadStrictly(t *testing.T) {
	for name, wire := range map[string]string{
		"unknown operation":   `{"v":1,"id":"1","op":"format-disks","args":{}}`,
		"unknown argument":    `{"v":1,"id":"1","op":"note","args":{"kind":"k","text":"t","colour":"red"}}`,
		"unknown field":       `{"v":1,"id":"1","op":"note","args":{"kind":"k","text":"t"},"colour":"red"}`,
		"unknown lease field": `{"v":1,"id":"1","op":"bind-leases","args":{"segment":"s1","term":1,"leases":[{"ttl":3}]}}`,
		"newer version":       `{"v":2,"id":"1","op":"note","args":{"kind":"k","text":"t"}}`,
		"trailing data":       `{"v":1,"id":"1","op":"note","args":{"kind":"k","text":"t"}}{}`,
		"no id":               `{"v":1,"op":"note","args":{"kind":"k","text":"t"}}`,
		"no arguments":        `{"v":1,"id":"1","op":"note"}`,
		"long actor":          `{"v":1,"id":"1","actor":"` + strings.Repeat("x", maxActor+1) + `","op":"note","args":{"kind":"k","text":"t"}}`,
		"the old name":        `{"v":1,"id":"1","op":"bind-lease","args":{}}`,
		"too long":            `{"v":1,"id":"1","op":"note","args":{"kind":"k","text":"` + strings.Repeat("x", maxCommand) + `"}}`,
	} {
		if _, err := DecodeCommand([]byte(wire)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
