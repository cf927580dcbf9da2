package swarm

import (
	"errors"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"
)

var addr20 = netip.MustParseAddr("192.168.42.20")

func TestEachLeaseOfABatchStandsForItself(t *testing.T) {
	h := founded(t)
	h.join(m1, "192.168.42.20")
	const m3, m4 = MAC("52:54:00:00:00:03"), MAC("52:54:00:00:00:04")
	lease := func(mac MAC, addr string) Lease {
		return Lease{Addr: netip.MustParseAddr(addr), MAC: mac, Class: "os", Expires: h.now.Add(time.Hour), Nonce: "n" + string(mac)}
	}
	foreign, endless, twin := lease(m3, "192.168.42.60"), lease(m4, "192.168.42.61"), lease(m3, "192.168.42.62")
	foreign.Segment, endless.Expires, twin.Nonce = "s2", time.Time{}, "n"+string(m2)
	batch := BindLeases{Segment: "s1", Term: h.term("s1"), Leases: []Lease{
		lease(m2, "192.168.42.50"),
		lease(m3, "192.168.42.50"), // taken by the one before
		lease(m4, "192.168.42.51"),
		lease(m4, "192.168.42.52"), // moves
		lease(m3, "192.168.42.51"), // which is not free for others before its time
		lease(m3, "10.0.0.1"), lease(m3, "192.168.42.0"), lease(m3, "192.168.42.255"), lease("52:54:00:00:00:3", "192.168.42.70"),
		lease("52:54:00:00:00:AA", "192.168.42.70"), foreign, endless, twin,
		lease(m2, "192.168.42.20"), // a node's own
		lease(m1, "192.168.42.53"), // a node has one for good
	}}
	var got map[int]string
	if err := h.must(seedID, batch).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := []error{
		nil, ErrAddressTaken, nil, nil, ErrAddressTaken, ErrInvalid, ErrInvalid, ErrInvalid, ErrInvalid, ErrInvalid, ErrInvalid, ErrInvalid, ErrConflict,
		ErrAddressTaken, ErrConflict,
	}
	for i := range batch.Leases {
		refusal := got[i]
		if want[i] == nil && refusal != "" || want[i] != nil && !strings.HasSuffix(refusal, want[i].Error()) {
			t.Errorf("lease %d (%+v): got %q, want %v", i, batch.Leases[i], refusal, want[i])
		}
	}
	v := h.s.View()
	for mac, addr := range map[MAC]string{m1: "192.168.42.20", m2: "192.168.42.50", m4: "192.168.42.52"} {
		if l, ok := v.LeaseOf("s1", mac); !ok || l.Addr.String() != addr {
			t.Errorf("%s is at %v, want %s", mac, l.Addr, addr)
		}
	}
	if n := len(slices.Collect(v.LeasesOn("s1"))); n != 4 || len(v.Leases()) != 4 {
		t.Errorf("%d leases", n)
	}
	if _, ok := v.Machine("52:54:00:00:00:AA"); ok {
		t.Error("a machine under two spellings")
	}
}

func TestOnlyTheBindingThatTheHolderSawMayBeReplaced(t *testing.T) {
	h := founded(t)
	h.bound(m1, addr20.String())
	seen, _ := h.s.View().Lease("s1", addr20)
	late := h.lease(m2, addr20.String())
	late.Over = map[netip.Addr]time.Time{addr20: seen.Expires}
	h.now = h.now.Add(time.Minute)
	h.bound(m1, addr20.String()) // renewed while the other was under way
	var refusals map[int]string
	if err := h.must(seedID, late).Decode(&refusals); err != nil || !strings.Contains(refusals[0], ErrAddressTaken.Error()) {
		t.Fatalf("%v, %v", refusals, err)
	}
	h.now = h.now.Add(24 * time.Hour)
	o := h.lease(m2, addr20.String())
	o.Over = nil // the wall clock alone ends nobody's right
	if err := h.must(seedID, o).Decode(&refusals); err != nil || !strings.Contains(refusals[0], ErrAddressTaken.Error()) {
		t.Fatalf("%v, %v", refusals, err)
	}
	h.bound(m2, addr20.String())
}

func TestDecisionsOfAnEarlierTermAboutAddressesAreRefused(t *testing.T) {
	h := founded(t)
	h.bound(m1, addr20.String())
	before := h.term("s1")
	h.must(seedID, GrantDuty{Segment: "s1", Term: before, To: seedID})
	h.refused(seedID, ReleaseLease{Segment: "s1", Term: before, MAC: m1, Addr: addr20}, ErrNotHolder)
	h.refused(seedID, QuarantineAddress{Segment: "s1", Term: before, Addr: addr20, Until: h.now.Add(time.Hour)}, ErrNotHolder)
	if l, _ := h.s.View().Lease("s1", addr20); l.MAC != m1 || !l.Live(h.now) {
		t.Fatalf("%+v", l)
	}
}

func TestMachineWhoseLeaseIsOverDoesNotGetAPromisedAddressBack(t *testing.T) {
	h := founded(t)
	h.bound(m2, addr20.String())
	h.now = h.now.Add(2 * time.Hour)
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.must(seedID, MintTicket{ID: "t", Hash: "hash", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(time.Hour)})
	h.unbound(m2, addr20.String(), ErrAddressTaken)
}

func TestBatchOfTheWrongTermOrHolderBindsNothing(t *testing.T) {
	h := founded(t)
	o := h.lease(m1, "192.168.42.20")
	h.refused("other", o, ErrNotHolder)
	o.Term++
	h.refused(seedID, o, ErrNotHolder)
	o.Segment = "s9"
	h.refused(seedID, o, ErrNotFound)
	o = h.lease(m1, "192.168.42.20")
	o.Leases = slices.Repeat(o.Leases, maxLeases+1)
	h.refused(seedID, o, ErrInvalid)
	if n := len(h.s.View().Leases()); n != 0 {
		t.Fatalf("%d leases", n)
	}
}

func TestBindingShowsTheMachineAndArmsAnUnknownOne(t *testing.T) {
	h := founded(t)
	h.bound(m1, "192.168.42.20")
	m, ok := h.s.View().Machine(m1)
	if !ok || m.State != MachineArmed || m.Segment != "s1" || !m.FirstSeen.Equal(h.now) {
		t.Fatalf("%+v", m)
	}
	h.bound(m1, "192.168.42.20")
	if m, _ := h.s.View().Machine(m1); !m.LastSeen.Equal(m.FirstSeen) {
		t.Fatalf("within %v of the last time: %+v", seenGrain, m)
	}
	h.now = h.now.Add(seenGrain)
	h.bound(m1, "192.168.42.20")
	if m, _ := h.s.View().Machine(m1); !m.LastSeen.Equal(h.now) || m.FirstSeen.Equal(h.now) {
		t.Fatalf("%+v", m)
	}
}

func TestMachinesOfOneBatchGetNamesAndInstallsOfTheirOwn(t *testing.T) {
	h := founded(t)
	o := h.lease("52:54:00:00:00:01", "192.168.42.20")
	for i, mac := range []MAC{"52:54:01:00:00:01", "52:54:02:00:00:01"} { // makers that count alike
		l := o.Leases[0]
		l.MAC, l.Addr = mac, netip.AddrFrom4([4]byte{192, 168, 42, byte(30 + i)})
		o.Leases = append(o.Leases, l)
	}
	h.must(seedID, o)
	names, installs := map[string]bool{}, map[string]bool{}
	for _, m := range h.s.View().Machines() {
		names[m.Name], installs[m.Install] = true, true
		if back, ok := get[Machine](h.s.View().txn, "machine", "name", m.Name); !ok || back.MAC != m.MAC {
			t.Errorf("%s is not found by its name %s", m.MAC, m.Name)
		}
	}
	if len(names) != 3 || len(installs) != 3 {
		t.Fatalf("%v %v", names, installs)
	}
}

func TestPlainRenewalLeavesNoTraceInTheDiary(t *testing.T) {
	h := founded(t)
	h.bound(m1, "192.168.42.20")
	before := len(h.s.View().Events(""))
	h.bound(m1, "192.168.42.20")
	if after := len(h.s.View().Events("")); after != before {
		t.Fatalf("%d events more", after-before)
	}
	h.bound(m1, "192.168.42.21")
	if after := len(h.s.View().Events("")); after != before+1 {
		t.Fatal("a new address left no event")
	}
}

func TestReservedAddressIsForItsMachineAndItsMachineForIt(t *testing.T) {
	h := founded(t)
	h.must(seedID, ReserveAddress{MAC: m1, Addr: addr20})
	h.unbound(m2, addr20.String(), ErrAddressTaken)
	h.unbound(m1, "192.168.42.21", ErrConflict)
	h.bound(m1, addr20.String())
	v := h.s.View()
	if r, ok := v.ReservationOf("s1", m1); !ok || r.Addr != addr20 {
		t.Fatalf("%+v", r)
	}
	if r, ok := v.ReservedFor("s1", addr20); !ok || r.MAC != m1 || len(v.Reservations()) != 1 {
		t.Fatalf("%+v", r)
	}
	h.refused(seedID, UnreserveAddress{MAC: m2, Addr: addr20}, ErrNotFound)
	h.must(seedID, UnreserveAddress{MAC: m1, Addr: addr20})
	h.bound(m1, "192.168.42.21")
	h.now = h.now.Add(2 * time.Hour)
	h.bound(m2, addr20.String())
}

func TestReservationIsRefusedWhenItCannotBeKept(t *testing.T) {
	h := founded(t)
	h.must(seedID, ReportNode{Ports: []Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Segment: "s1", Address: netip.MustParsePrefix("192.168.42.1/24")}}})
	h.join(m1, "192.168.42.20")
	h.refused(seedID, ReserveAddress{MAC: m2, Addr: addr20}, ErrAddressTaken)                              // a node's
	h.refused(seedID, ReserveAddress{MAC: m1, Addr: addr20.Next()}, ErrConflict)                           // it has one for good
	h.refused(seedID, ReserveAddress{MAC: m2, Addr: netip.MustParseAddr("192.168.42.1")}, ErrAddressTaken) // the opener's
	h.refused(seedID, ReserveAddress{MAC: m2, Addr: netip.MustParseAddr("10.9.9.9")}, ErrNotFound)         // no segment
	h.refused(seedID, ReserveAddress{MAC: m2, Addr: netip.MustParseAddr("192.168.42.255")}, ErrNotFound)   // no machine's
	h.refused(seedID, ReserveAddress{MAC: "52-54-00-00-00-02", Addr: addr20.Next()}, ErrInvalid)           // not canonical
	h.must(seedID, ReserveAddress{MAC: m2, Addr: addr20.Next()})
	h.refused(seedID, ReserveAddress{MAC: "52:54:00:00:00:03", Addr: addr20.Next()}, ErrConflict)
	h.must(seedID, ReserveAddress{MAC: m2, Addr: addr20.Next().Next()}) // replaces its first
	if all := h.s.View().Reservations(); len(all) != 1 || all[0].Addr != addr20.Next().Next() {
		t.Fatalf("%+v", all)
	}
}

func TestReservingAnAddressInUseEndsItsRenewalNotItsLease(t *testing.T) {
	h := founded(t)
	h.bound(m2, addr20.String())
	h.must(seedID, ReserveAddress{MAC: m1, Addr: addr20})
	h.unbound(m1, addr20.String(), ErrAddressTaken) // machine 2 has it still
	h.unbound(m2, addr20.String(), ErrAddressTaken)
	h.now = h.now.Add(2 * time.Hour)
	h.bound(m1, addr20.String())
}

func TestNodeKeepsItsOwnAddressDespiteAReservation(t *testing.T) {
	h := founded(t)
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.bound(m1, addr20.String())
	h.must(seedID, MintTicket{ID: "t" + string(m1), Hash: "hash", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(time.Hour)})
	h.must(seedID, ReserveAddress{MAC: m1, Addr: addr20.Next()}) // while it is being installed
	h.must("", redeem(m1, "key"))
	h.bound(m1, addr20.String())
	if l, _ := h.s.View().LeaseOf("s1", m1); !l.Expires.IsZero() {
		t.Fatalf("%+v", l)
	}
}

func TestAddressOfAMachineBeingInstalledIsPromised(t *testing.T) {
	h := founded(t)
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.bound(m1, addr20.String())
	mint := MintTicket{ID: "t" + string(m1), Hash: "hash", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(3 * time.Hour)}
	h.must(seedID, mint)
	h.now = h.now.Add(2 * time.Hour) // its lease is over, its installation is not
	h.unbound(m2, addr20.String(), ErrAddressTaken)
	h.refused(seedID, ReserveAddress{MAC: m2, Addr: addr20}, ErrAddressTaken)
	h.must("", redeem(m1, "key"))
	if l, _ := h.s.View().Lease("s1", addr20); l.MAC != m1 || !l.Expires.IsZero() {
		t.Fatalf("%+v", l)
	}
}

func TestTicketNeverTakesAnAddressFromItsOwner(t *testing.T) {
	h := founded(t)
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.bound(m2, addr20.String())
	mint := MintTicket{ID: "t" + string(m1), Hash: "hash", MAC: m1, Segment: "s1", Addr: addr20, Expires: h.now.Add(10 * time.Hour)}
	h.refused(seedID, mint, ErrAddressTaken)
	mint.Addr = netip.MustParseAddr("10.0.0.1")
	h.refused(seedID, mint, ErrInvalid)
	mint.Addr, mint.Segment = addr20, "s9"
	h.refused(seedID, mint, ErrNotFound)
	mint.Addr, mint.Segment = addr20.Next(), "s1"
	h.must(seedID, ReserveAddress{MAC: m2, Addr: addr20.Next()})
	h.refused(seedID, mint, ErrAddressTaken)
	h.must(seedID, UnreserveAddress{MAC: m2, Addr: addr20.Next()})
	h.must(seedID, mint)
	mint.MAC = m2
	h.refused(seedID, mint, ErrConflict) // the id of another ticket
}

func TestQuarantineHasAnEnd(t *testing.T) {
	h := founded(t)
	h.refused(seedID, QuarantineAddress{Segment: "s1", Term: h.term("s1"), Addr: addr20}, ErrInvalid)
	h.refused(seedID, QuarantineAddress{Segment: "s1", Term: h.term("s1"), Addr: addr20, Until: h.now, By: "x"}, ErrInvalid)
	h.join(m1, addr20.String())
	h.refused(seedID, QuarantineAddress{Segment: "s1", Term: h.term("s1"), Addr: addr20, Until: h.now.Add(time.Hour)}, ErrConflict)
}

func TestPoolsAreWhatTheOperatorSaid(t *testing.T) {
	h := founded(t)
	h.must(seedID, ReportNode{Ports: []Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Segment: "s1", Address: netip.MustParsePrefix("192.168.42.1/24")}}})
	r := func(first, last string) AddrRange {
		return AddrRange{netip.MustParseAddr(first), netip.MustParseAddr(last)}
	}
	pools := func() []AddrRange { s, _ := h.s.View().Segment("s1"); return s.Pools() }
	if got := pools(); !slices.Equal(got, []AddrRange{r("192.168.42.10", "192.168.42.250")}) {
		t.Fatalf("default: %v", got)
	}
	for name, bad := range map[string][]AddrRange{
		"backwards": {r("192.168.42.20", "192.168.42.10")}, "elsewhere": {r("10.0.0.1", "10.0.0.9")}, "none": {{}},
		"the network itself": {r("192.168.42.0", "192.168.42.9")}, "broadcast": {r("192.168.42.250", "192.168.42.255")},
		"overlap": {r("192.168.42.10", "192.168.42.20"), r("192.168.42.20", "192.168.42.30")},
		"inside":  {r("192.168.42.10", "192.168.42.90"), r("192.168.42.20", "192.168.42.30")},
		"six":     {r("fe80::1", "fe80::2")}, "mapped": {r("::ffff:192.168.42.10", "::ffff:192.168.42.20")},
		"too many": slices.Repeat([]AddrRange{r("192.168.42.20", "192.168.42.20")}, maxPools+1),
	} {
		if err := h.apply(seedID, SetPools{Segment: "s1", Pools: bad}).Err(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.refused(seedID, SetPools{Segment: "s1", Pools: []AddrRange{r("192.168.42.1", "192.168.42.9")}}, ErrConflict)
	h.refused(seedID, SetPools{Segment: "s9"}, ErrNotFound)
	two := []AddrRange{r("192.168.42.100", "192.168.42.120"), r("192.168.42.20", "192.168.42.30")}
	h.must(seedID, SetPools{Segment: "s1", Pools: two})
	if got := pools(); !slices.Equal(got, two) {
		t.Fatal(got)
	}
	h.must(seedID, SetPools{Segment: "s1"})
	if got := pools(); len(got) != 1 || got[0].First.String() != "192.168.42.10" {
		t.Fatal(got)
	}
	small := Segment{Network: netip.MustParsePrefix("10.0.0.0/29")}
	if got := small.Pools(); got[0] != r("10.0.0.2", "10.0.0.6") {
		t.Fatal(got)
	}
}

func TestIdleThingsAreForgottenAndNothingElse(t *testing.T) {
	h := founded(t)
	mac := func(i int) MAC { return MAC("52:54:00:00:01:0" + string(rune('0'+i))) }
	h.join(m1, "192.168.42.20")
	settings, _ := h.s.View().Settings()
	settings.AutoApprove = false
	txn := h.s.db.Load().Txn(true)
	if err := txn.Insert("settings", &settings); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	h.bound(mac(0), "192.168.42.30")                                 // a stranger
	h.must(seedID, SeeMachine{MAC: mac(1), Segment: "s1"})           // one without a lease
	h.must(seedID, NameMachine{MAC: mac(2), Name: "mine"})           // named
	h.bound(mac(2), "192.168.42.32")                                 //
	h.bound(mac(3), "192.168.42.33")                                 // armed
	h.must(seedID, ArmMachine{MAC: mac(3)})                          //
	h.bound(mac(4), "192.168.42.34")                                 // reserved
	h.must(seedID, ReserveAddress{MAC: mac(4), Addr: addr20.Next()}) //
	h.must(seedID, QuarantineAddress{Segment: "s1", Term: h.term("s1"), Addr: netip.MustParseAddr("192.168.42.40"), Until: h.now.Add(time.Minute)})
	h.now = h.now.Add(48 * time.Hour)
	h.bound(mac(5), "192.168.42.35") // present
	h.refused(seedID, ForgetIdle{Segment: "s1", Before: h.now.Add(time.Hour)}, ErrInvalid)
	h.refused(seedID, ForgetIdle{Segment: "s9", Before: h.now}, ErrNotFound)
	var got Forgotten
	if err := h.must(seedID, ForgetIdle{Segment: "s1", Before: h.now.Add(-24 * time.Hour)}).Decode(&got); err != nil {
		t.Fatal(err)
	}
	if want := (Forgotten{Leases: 5, Machines: 2}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	v := h.s.View()
	for m, want := range map[MAC]bool{m1: true, mac(0): false, mac(1): false, mac(2): true, mac(3): true, mac(4): true, mac(5): true} {
		if _, ok := v.Machine(m); ok != want {
			t.Errorf("machine %s is there: %v", m, ok)
		}
	}
	if n := len(v.Leases()); n != 2 { // the node's, and the present one
		t.Errorf("%d leases", n)
	}
	if n, _ := get[counter](v.txn, "counter", "id", machineCount); int(n.Value) != len(v.Machines()) {
		t.Errorf("%d machines are counted, %d are there", n.Value, len(v.Machines()))
	}
}

func TestInventedMachinesDoNotFillTheMemory(t *testing.T) {
	h := founded(t)
	txn := h.s.db.Load().Txn(true)
	if err := txn.Insert("counter", &counter{Name: machineCount, Value: maxMachines}); err != nil {
		t.Fatal(err)
	}
	txn.Commit()
	h.refused(seedID, SeeMachine{MAC: m1, Segment: "s1"}, ErrFull)
	h.refused(seedID, NameMachine{MAC: m1, Name: "a"}, ErrFull)
	h.refused(seedID, ArmMachine{MAC: m1}, ErrFull)
	h.bound(m1, "192.168.42.20") // it gets an address all the same
	if n := len(h.s.View().Machines()); n != 0 {
		t.Fatalf("%d machines", n)
	}
}
