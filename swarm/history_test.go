package swarm

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// author invents histories: commands of every kind that mostly fit, and now and then do not.
type author struct {
	*rand.Rand
	n   int
	now time.Time
}

func (a *author) mac() MAC { return MAC(fmt.Sprintf("52:54:00:00:%02x:%02x", a.IntN(2), a.IntN(12))) }
func (a *author) addr() netip.Addr {
	return netip.AddrFrom4([4]byte{192, 168, 42, byte(1 + a.IntN(40))})
}
func (a *author) node() NodeID {
	return []NodeID{seedID, "n1", "n2", "n3", "n4", "nobody"}[a.IntN(6)]
}
func (a *author) segment() string             { return []string{"s1", "s1", "s1", "s2", "s9"}[a.IntN(5)] }
func (a *author) ticket() string              { return fmt.Sprint("t", a.IntN(8)) }
func (a *author) later() time.Time            { return a.now.Add(time.Duration(a.IntN(3600)-60) * time.Second) }
func (a *author) name() string                { return fmt.Sprint("x", a.IntN(5)) }
func (a *author) pick(texts ...string) string { return texts[a.IntN(len(texts))] }

func (a *author) lease() Lease {
	return Lease{Addr: a.addr(), MAC: a.mac(), Class: a.pick("os", "ipxe"), Nonce: a.pick("", fmt.Sprint("nonce", a.IntN(20))), Expires: a.later()}
}

func (a *author) op(v View) Op {
	term := func(id string) uint64 { s, _ := v.Segment(id); return s.Duty.Term }
	segment := a.segment()
	settings, _ := v.Settings()
	all := []func() Op{
		func() Op {
			o := BindLeases{Segment: segment, Term: term(segment)}
			for range 1 + a.IntN(12) {
				o.Leases = append(o.Leases, a.lease())
			}
			for _, l := range o.Leases { // sometimes the holder errs, or saw another binding
				if old, ok := v.Lease(segment, l.Addr); ok && a.IntN(8) > 0 && (!old.Live(a.now) || a.IntN(8) == 0) {
					o.Over = map[netip.Addr]time.Time{l.Addr: old.Expires.Add(time.Duration(a.IntN(8)/7) * time.Second)}
				}
			}
			return o
		},
		func() Op { return ReleaseLease{Segment: segment, Term: term(segment), MAC: a.mac(), Addr: a.addr()} },
		func() Op {
			return QuarantineAddress{Segment: segment, Term: term(segment), Addr: a.addr(), Until: a.later()}
		},
		func() Op { return ReserveAddress{MAC: a.mac(), Addr: a.addr()} },
		func() Op { return UnreserveAddress{MAC: a.mac(), Addr: a.addr()} },
		func() Op { return SetPools{Segment: segment, Pools: []AddrRange{{a.addr(), a.addr()}}} },
		func() Op {
			return ForgetIdle{Segment: segment, Before: a.now.Add(-time.Duration(a.IntN(600)) * time.Second)}
		},
		func() Op { return SeeMachine{MAC: a.mac(), Segment: segment, UUID: a.pick("", "u1")} },
		func() Op { return NameMachine{MAC: a.mac(), Name: a.name()} },
		func() Op { return ArmMachine{MAC: a.mac()} },
		func() Op { return HoldMachine{MAC: a.mac(), Reason: "r"} },
		func() Op {
			return MintTicket{ID: a.ticket(), Hash: "hash", MAC: a.mac(), Segment: segment, Addr: a.addr(), Expires: a.later()}
		},
		func() Op {
			t, _ := v.Ticket(a.ticket())
			return RedeemTicket{ID: t.ID, Hash: a.pick("hash", "hash", "no"), Key: a.pick("k1", "k1", "k2"), MACs: []MAC{t.Machine}, Node: a.node(), Address: "x:1"}
		},
		func() Op { return RevokeTicket{ID: a.ticket()} },
		func() Op { return EvictNode{Node: a.node(), Key: a.pick("", gossipKey(a.IntN(30)))} },
		func() Op { return TrustNode{Node: a.node()} },
		func() Op { return LeaveNode{Node: a.node()} },
		func() Op { return NoteCertificate{Node: a.node(), Serial: a.name()} },
		func() Op {
			return ReportNode{Address: "x:1", Warm: a.IntN(2) == 0, Protocol: a.IntN(3), Keys: uint64(a.IntN(5)), Ports: []Port{
				{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true, Segment: segment, Address: netip.PrefixFrom(a.addr(), 24)}, {Name: "lan1", MAC: a.mac()},
			}}
		},
		func() Op { return OpenSegment{Port: a.mac()} },
		func() Op { return GrantDuty{Segment: segment, Term: term(segment), To: a.node()} },
		func() Op { return OfferDuty{Segment: segment, Term: term(segment), To: a.node()} },
		func() Op { return PassDuty{Segment: segment, Term: term(segment)} },
		func() Op { return RotateKeys{Key: gossipKey(a.IntN(30))} },
		func() Op { return AdvanceKeys{Generation: settings.KeyGeneration} },
		func() Op { return AddOperator{Name: a.name(), Role: RoleView, Serial: a.name(), NotAfter: a.later()} },
		func() Op { return RevokeOperator{Name: a.name()} },
		func() Op { return SetVoters{Voters: a.IntN(6)} },
		func() Op { return SetUplinkLimit{Rate(a.IntN(3)) * MinUplinkLimit} },
		func() Op { return Note{Kind: "k", Text: "t"} },
		func() Op {
			return PutRepo{Repo{Name: "repo-" + a.pick("a", "b"), Upstreams: []string{"http://u.example/"}}}
		},
		func() Op { return DropRepo{Name: "repo-a"} },
		func() Op { return PutArtifact{Artifact{Digest: digestOf("a")}} },
		func() Op { return PinArtifact{Digest: digestOf("a"), Pinned: a.IntN(2) == 0} },
		func() Op { return WithdrawArtifact{Digest: digestOf("a")} },
		func() Op {
			m, _ := v.Machine(a.mac())
			return HearMachine{MAC: m.MAC, Install: m.Install, Line: "l", Stage: a.pick("", "s"), Step: a.IntN(3)}
		},
		func() Op {
			m, _ := v.Machine(a.mac())
			return NoteStall{MAC: m.MAC, Install: m.Install, Heard: m.Life.Heard, Silent: 60}
		},
		func() Op { return SetStallAfter{Seconds: a.IntN(3) * 60} },
		func() Op { return SetStore{Bytes: int64(a.IntN(3)) * MinStore} },
		func() Op { return SetDomain{Domain: a.pick("", "lab.example", "-")} },
		func() Op { return SetDNS{Servers: []netip.Addr{a.addr()}, Off: a.IntN(3) == 0} },
		func() Op {
			return AddSegment{Network: netip.MustParsePrefix(a.pick("10.9.0.0/24", "10.9.0.128/25")), There: netip.MustParseAddr("10.9.0.129"), Here: a.addr()}
		},
		func() Op { return RemoveSegment{Segment: a.pick(segment, "s2", "s3", "s4")} },
		func() Op { return SetNTP{Servers: []netip.Addr{a.addr()}} },
		func() Op { return SetLoader{Loader: Loader(a.pick("", "ipxe", "signed", "x"))} },
		func() Op { return SetLoader{MAC: a.mac(), Loader: Loader(a.pick("", "ipxe", "signed"))} },
		func() Op { return LearnLoader{MAC: a.mac(), Loader: LoaderSigned} },
		func() Op { return LearnArch{MAC: a.mac(), Arch: a.pick("", "amd64", "arm64")} },
		func() Op {
			former, _ := v.WorkingSet("p")
			return PutWorkingSet{Set: WorkingSet{Profile: "p", Digest: digestOf(a.pick("a", "b")), Size: 9, Files: 1}, Former: former.Digest}
		},
	}
	if a.IntN(2) == 0 {
		return all[0]()
	}
	return all[a.IntN(len(all))]()
}

// next is a command as it comes out of the ledger.
func (a *author) next(t *testing.T, v View) Command {
	a.n++
	a.now = a.now.Add(time.Duration(a.IntN(120)-10) * time.Second)
	by := seedID
	if s, ok := v.Segment("s1"); ok && a.IntN(3) > 0 {
		by = s.Duty.Holder
	}
	c := Command{ID: fmt.Sprint("c", a.n-a.IntN(40)/39), Time: a.now, By: by, Actor: a.pick("", "", "ann"), Op: a.op(v)}
	wire, err := c.Encode()
	if err != nil {
		t.Fatal(err)
	}
	back, err := DecodeCommand(wire)
	if err != nil {
		t.Fatal(err)
	}
	return back
}

// TestHistoriesKeepTheRules applies invented histories to two states, one of which is replaced by its own snapshot now and
// then, and checks after every command what must hold whatever happens.
func TestHistoriesKeepTheRules(t *testing.T) {
	for seed := range uint64(8) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			t.Parallel()
			h := founded(t)
			a := &author{Rand: rand.New(rand.NewPCG(seed, 3)), now: h.now}
			var other State
			copied := snapshotOf(t, h.s)
			other.changed = make(chan struct{})
			if err := other.Restore(bytes.NewReader(copied)); err != nil {
				t.Fatal(err)
			}
			for range 200 {
				before := h.s.View()
				woken := h.s.Changed()
				c := a.next(t, before)
				one, two := h.s.Apply(c), other.Apply(c)
				if diff := cmp.Diff(one, two); diff != "" {
					t.Fatalf("command %s %+v has two outcomes: %s", c.ID, c.Op, diff)
				}
				inspect(t, h.s.View(), a.now)
				compare(t, before, h.s.View(), c, one)
				if changed := stateOf(before) != stateOf(h.s.View()); changed && !isClosed(woken) {
					t.Fatalf("%T changed something and woke nobody", c.Op)
				}
				if a.IntN(50) == 0 {
					if err := other.Restore(bytes.NewReader(snapshotOf(t, &other))); err != nil {
						t.Fatal(err)
					}
				}
			}
			if diff := cmp.Diff(string(snapshotOf(t, h.s)), string(snapshotOf(t, &other))); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func snapshotOf(t *testing.T, s *State) []byte {
	t.Helper()
	var b bytes.Buffer
	if err := s.Snapshot()(&b); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// stateOf is all that those who wait for a change decide by, as text.
func stateOf(v View) string {
	machines := v.Machines()
	for i := range machines {
		machines[i].LastSeen = time.Time{}
	}
	settings, _ := v.Settings()
	return fmt.Sprintf("%+v", []any{settings, v.Nodes(), v.Segments(), machines, v.AllTickets(), v.Reservations(), v.Operators(), v.Profiles(), v.Artifacts(), v.WorkingSets()})
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// inspect checks one state.
func inspect(t *testing.T, v View, now time.Time) {
	t.Helper()
	machines, nonces := map[string]Lease{}, map[string]Lease{}
	for _, l := range v.Leases() {
		key := macKey(l.Segment, l.MAC)
		if twin, ok := machines[key]; ok && l.MAC != "" {
			t.Fatalf("one machine, two addresses: %+v %+v", l, twin)
		}
		if twin, ok := nonces[l.Nonce]; ok && l.Nonce != "" {
			t.Fatalf("one nonce, two machines: %+v %+v", l, twin)
		}
		machines[key], nonces[l.Nonce] = l, l
		if byMAC, ok := v.LeaseOf(l.Segment, l.MAC); l.MAC != "" && (!ok || !reflect.DeepEqual(byMAC, l)) {
			t.Fatalf("index by MAC: %+v %+v", l, byMAC)
		}
		if byNonce, ok := v.LeaseByNonce(l.Nonce); l.Nonce != "" && (!ok || !reflect.DeepEqual(byNonce, l)) {
			t.Fatalf("index by nonce: %+v %+v", l, byNonce)
		}
	}
	names := map[string]bool{}
	for _, m := range v.Machines() {
		if names[m.Name] {
			t.Fatalf("two machines are called %s", m.Name)
		}
		names[m.Name] = true
	}
	if n, _ := get[counter](v.txn, "counter", "id", machineCount); int(n.Value) != len(names) {
		t.Fatalf("%d machines are counted, %d are there", n.Value, len(names))
	}
	open := map[MAC]Ticket{}
	promisedTo := map[string]MAC{}
	for _, tk := range v.AllTickets() {
		if tk.State == TicketMinted || tk.State == TicketFetched {
			if twin, ok := open[tk.Machine]; ok {
				t.Fatalf("two tickets of one machine: %+v %+v", tk, twin)
			}
			open[tk.Machine] = tk
			if tk.Open(now) {
				promisedTo[addrKey(tk.Segment, tk.Addr)] = tk.Machine
			}
		}
	}
	for _, r := range v.Reservations() {
		if l, ok := v.LeaseOf(r.Segment, r.MAC); ok && l.Expires.IsZero() && l.Addr != r.Addr {
			continue // reserved while it was being installed elsewhere
		}
		if m := promisedTo[addrKey(r.Segment, r.Addr)]; m != "" && m != r.MAC {
			t.Fatalf("%+v is promised to %s", r, m)
		}
	}
	if s, _ := v.Settings(); len(s.GossipKeys) > maxKeys || len(s.GossipKeys) == 0 && s.KeyStage != "" {
		t.Fatalf("%+v", s)
	}
	if got := Members(v, nil, func(NodeID) bool { return true }); len(got) > MaxMembers {
		t.Fatal(got)
	}
}

// redeems says whether a machine becomes a node: the address of its ticket was promised to it.
func redeems(c Command) bool {
	_, ok := c.Op.(RedeemTicket)
	return ok
}

// compare checks one step.
func compare(t *testing.T, before, after View, c Command, r Result) {
	t.Helper()
	if r.Err() != nil && stateOf(before) != stateOf(after) {
		if !redeems(c) { // which may put a node into quarantine
			t.Fatalf("a refused %T changed something", c.Op)
		}
	}
	over := func(old Lease) bool { // the holder said so of this very binding
		o, ok := c.Op.(BindLeases)
		end, said := o.Over[old.Addr]
		return ok && said && end.Equal(old.Expires)
	}
	for _, old := range before.Leases() {
		now, ok := after.Lease(old.Segment, old.Addr)
		if old.Class != "quarantine" && ok && now.MAC != old.MAC && now.MAC != "" && !over(old) && !redeems(c) {
			t.Fatalf("%T took %s from its owner: %+v, now %+v", c.Op, old.Addr, old, now)
		}
		if old.MAC != "" && old.Expires.IsZero() && (!ok || now.MAC != old.MAC || !now.Expires.IsZero()) {
			t.Fatalf("%T took a node's own address: %+v, now %+v", c.Op, old, now)
		}
	}
	for _, old := range before.Segments() {
		now, ok := after.Segment(old.ID)
		if _, removing := c.Op.(RemoveSegment); !ok && removing && old.Relayed() {
			continue
		}
		if now.Duty.Term < old.Duty.Term || now.Duty.Holder != old.Duty.Holder && now.Duty.Term == old.Duty.Term {
			t.Fatalf("%T: duty %+v, then %+v", c.Op, old.Duty, now.Duty)
		}
	}
	for _, old := range before.Nodes() {
		now, ok := after.Node(old.ID)
		if !ok || old.Ended != "" && now.Ended != old.Ended {
			t.Fatalf("%T revived %+v: %+v", c.Op, old, now)
		}
	}
	was, _ := before.Settings()
	is, _ := after.Settings()
	if len(was.GossipKeys) > 0 && !strings.Contains(fmt.Sprint(is.GossipKeys), was.GossipKeys[0]) && was.KeyStage != KeysInUse {
		t.Fatalf("%T: the key that encrypts is gone", c.Op)
	}
	if is.KeyGeneration < was.KeyGeneration || is.KeyGeneration > was.KeyGeneration+1 {
		t.Fatalf("%T: generation %d, then %d", c.Op, was.KeyGeneration, is.KeyGeneration)
	}
}

func TestChangedSleepsThroughWhatNobodyDecidesBy(t *testing.T) {
	h := founded(t)
	h.bound(m1, "192.168.42.20")
	for name, c := range map[string]struct {
		op    Op
		actor string
		wakes bool
	}{
		"a note":               {op: Note{Kind: "k", Text: "t"}},
		"a renewal":            {op: h.lease(m1, "192.168.42.20")},
		"another address":      {op: h.lease(m1, "192.168.42.21")},
		"quarantine":           {op: QuarantineAddress{Segment: "s1", Term: h.term("s1"), Addr: netip.MustParseAddr("192.168.42.90"), Until: h.now.Add(time.Hour)}},
		"seen again":           {op: SeeMachine{MAC: m1, Segment: "s1"}},
		"a refusal":            {op: TrustNode{Node: "nobody"}, actor: "ann"},
		"the same report":      {op: ReportNode{Warm: true, Ports: []Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true, Segment: "s1"}}}},
		"a machine's segment":  {op: SeeMachine{MAC: m1, Segment: "s2"}, wakes: true},
		"a machine's UUID":     {op: SeeMachine{MAC: m1, Segment: "s2", UUID: "u"}, wakes: true},
		"an unknown machine":   {op: h.lease(m2, "192.168.42.30"), wakes: true},
		"a node's report":      {op: ReportNode{Address: "new"}, wakes: true},
		"a reservation":        {op: ReserveAddress{MAC: m1, Addr: netip.MustParseAddr("192.168.42.21")}, wakes: true},
		"an operator":          {op: AddOperator{Name: "ann", Role: RoleView, Serial: "1", NotAfter: h.now.Add(time.Hour)}, wakes: true},
		"a key":                {op: RotateKeys{Key: gossipKey(1)}, wakes: true},
		"a machine is held":    {op: HoldMachine{MAC: m1, Reason: "r"}, wakes: true},
		"a profile":            {op: PutProfile{Profile: Profile{Name: "q"}}, wakes: true},
		"a duty that is given": {op: GrantDuty{Segment: "s1", Term: h.term("s1"), To: seedID}, wakes: true},
	} {
		t.Run(name, func(t *testing.T) {
			h := founded(t)
			h.bound(m1, "192.168.42.20")
			woken := h.s.Changed()
			if isClosed(woken) {
				t.Fatal("it fired without a change")
			}
			if name == "a machine's UUID" {
				h.must(seedID, SeeMachine{MAC: m1, Segment: "s2"})
				woken = h.s.Changed()
			}
			h.ask(c.actor, seedID, c.op)
			if got := isClosed(woken); got != c.wakes {
				t.Fatalf("woken: %v", got)
			}
		})
	}
}

func TestChangedFiresWhenSomethingIsTakenAway(t *testing.T) {
	h := founded(t)
	h.must(seedID, ReserveAddress{MAC: m1, Addr: addr20})
	woken := h.s.Changed()
	h.must(seedID, UnreserveAddress{MAC: m1, Addr: addr20})
	if !isClosed(woken) {
		t.Fatal("nobody woke")
	}
}
