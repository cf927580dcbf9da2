package swarm

import (
	"errors"
	"maps"
	"strings"
	"testing"
	"time"
)

// quietly is a swarm that arms nothing by itself, in which m1 has shown itself.
func quietly(t *testing.T) *house {
	t.Helper()
	h := founded(t)
	h.must(seedID, ReserveMachine{MAC: m1, User: "nobody"}) // else --auto-approve arms it
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.must(seedID, ReserveMachine{MAC: m1})
	return h
}

func (h *house) machine(mac MAC) Machine {
	m, _ := h.s.View().Machine(mac)
	return m
}

func (h *house) in(state MachineState) {
	h.t.Helper()
	if m := h.machine(m1); m.State != state {
		h.t.Fatalf("machine is %s (%s), want %s", m.State, m.Reason, state)
	}
}

func (h *house) report(phase string) Result {
	h.t.Helper()
	return h.apply(seedID, ReportInstall{MAC: m1, Install: h.machine(m1).Install, Phase: phase, Text: "x", Final: phase == PhaseFailed})
}

// TestMachineGoesOnlyTheWaysThatThereAre tries every step in every state.
func TestMachineGoesOnlyTheWaysThatThereAre(t *testing.T) {
	reach := map[MachineState]func(*house){
		MachineKnown:      func(*house) {},
		MachineFree:       func(h *house) { h.must(seedID, ReportFree{MAC: m1}) },
		MachineArmed:      func(h *house) { h.must(seedID, ArmMachine{MAC: m1}) },
		MachineInstalling: func(h *house) { h.must(seedID, ArmMachine{MAC: m1}); h.mint() },
		MachineInstalled:  func(h *house) { h.must(seedID, ArmMachine{MAC: m1}); h.mint(); h.report(PhaseInstalled) },
		MachineHeld:       func(h *house) { h.must(seedID, HoldMachine{MAC: m1}) },
		MachineReleasing:  func(h *house) { h.must(seedID, ReleaseMachine{MAC: m1}) },
	}
	steps := map[string]struct {
		do func(*house) Result
		to map[MachineState]MachineState // what is not here is refused, and changes nothing
	}{
		"reports itself": {
			func(h *house) Result { return h.apply(seedID, ReportFree{MAC: m1, Inventory: []byte("{}")}) },
			map[MachineState]MachineState{MachineKnown: MachineFree, MachineFree: MachineFree},
		},
		"is armed": {func(h *house) Result { return h.apply(seedID, ArmMachine{MAC: m1}) }, always(reach, MachineArmed)},
		"is held":  {func(h *house) Result { return h.apply(seedID, HoldMachine{MAC: m1}) }, always(reach, MachineHeld)},
		"is to be released": {
			func(h *house) Result { return h.apply(seedID, ReleaseMachine{MAC: m1}) }, always(reach, MachineReleasing),
		},
		"begins to work": {
			func(h *house) Result { return h.apply(seedID, BeginBoot{MAC: m1, Boot: "b"}) },
			map[MachineState]MachineState{MachineArmed: MachineArmed, MachineInstalling: MachineInstalling, MachineReleasing: MachineReleasing},
		},
		"says installed": {
			func(h *house) Result { return h.report(PhaseInstalled) },
			map[MachineState]MachineState{MachineInstalling: MachineInstalled, MachineInstalled: MachineInstalled},
		},
		"says released": {
			func(h *house) Result { return h.report(PhaseReleased) },
			map[MachineState]MachineState{MachineReleasing: MachineFree},
		},
		"gives up": {
			func(h *house) Result { return h.report(PhaseFailed) },
			map[MachineState]MachineState{MachineInstalling: MachineHeld, MachineReleasing: MachineHeld},
		},
		"is wished for on its console": {
			func(h *house) Result { return h.apply(seedID, RequestInstall{MAC: m1, Profile: "p"}) },
			map[MachineState]MachineState{MachineFree: MachineArmed},
		},
		"fetches its config": {
			func(h *house) Result { return h.minting() },
			map[MachineState]MachineState{MachineArmed: MachineInstalling, MachineInstalling: MachineInstalling},
		},
	}
	for name, step := range steps {
		for from, reach := range reach {
			h := quietly(t)
			h.must(seedID, SetConsoleInstalls{On: true})
			reach(h)
			h.in(from)
			if name == "says released" && from == MachineFree {
				continue // told again: TestReleaseIsToldTwice
			}
			err := step.do(h).Err()
			to, allowed := step.to[from]
			switch now := h.machine(m1).State; {
			case allowed && (err != nil || now != to):
				t.Errorf("a machine that is %s %s: %v, and is %s, want %s", from, name, err, now, to)
			case !allowed && (err == nil || now != from):
				t.Errorf("a machine that is %s %s: %v, and is %s: want it refused", from, name, err, now)
			}
		}
	}
}

func always(states map[MachineState]func(*house), to MachineState) map[MachineState]MachineState {
	all := map[MachineState]MachineState{}
	for from := range states {
		all[from] = to
	}
	return all
}

func (h *house) minting() Result {
	h.t.Helper()
	const addr = "192.168.42.17"
	if _, bound := h.s.View().LeaseOf("s1", m1); !bound {
		h.bound(m1, addr)
	}
	l, _ := h.s.View().LeaseOf("s1", m1)
	return h.apply(seedID, MintTicket{ID: NewID(), Hash: "hash", MAC: m1, Segment: "s1", Addr: l.Addr, Expires: h.now.Add(time.Hour)})
}

func (h *house) mint() {
	h.t.Helper()
	if err := h.minting().Err(); err != nil {
		h.t.Fatal(err)
	}
}

func TestFourthBootOfOneArmingIsHeldWithTheReason(t *testing.T) {
	h := quietly(t)
	h.must(seedID, ArmMachine{MAC: m1})
	h.mint()
	h.report("image")
	for _, boot := range []string{"a", "b", "b", "c", "c"} {
		h.must(seedID, BeginBoot{MAC: m1, Boot: boot})
		h.in(MachineInstalling)
	}
	var state MachineState
	if err := h.must(seedID, BeginBoot{MAC: m1, Boot: "d"}).Decode(&state); err != nil || state != MachineHeld {
		t.Fatalf("%s, %v", state, err)
	}
	h.in(MachineHeld)
	if m := h.machine(m1); !strings.Contains(m.Reason, "3 network boots") || !strings.Contains(m.Reason, "image") {
		t.Errorf("reason %q", m.Reason)
	}
	h.must(seedID, ArmMachine{MAC: m1})
	h.must(seedID, BeginBoot{MAC: m1, Boot: "d"})
	h.in(MachineArmed)
	h.refused(seedID, BeginBoot{MAC: m1}, ErrInvalid)
}

func TestNodeIsNotReleasedBeforeItHasLeft(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.17")
	err := h.apply(seedID, ReleaseMachine{MAC: m1}).Err()
	if !errors.Is(err, ErrConflict) || !strings.Contains(err.Error(), "offshoot swarm leave") || !strings.Contains(err.Error(), "offshoot swarm evict") {
		t.Fatalf("got %v", err)
	}
	h.in(MachineInstalled)
	h.must(id, LeaveNode{Node: id})
	h.must(seedID, ReleaseMachine{MAC: m1, Disk: "/dev/sdb", Discard: true})
	if m := h.machine(m1); m.Run.Disk != "/dev/sdb" || !m.Run.Discard {
		t.Errorf("run %+v", m.Run)
	}
	// It does not come back from the disk that is about to be wiped.
	h.refused(id, ReportNode{}, ErrConflict)
	if n := h.node(id); n.Ended == "" {
		t.Errorf("node %+v", n)
	}
	if err := h.report(PhaseReleased).Err(); err != nil {
		t.Fatal(err)
	}
	m := h.machine(m1)
	if m.State != MachineFree || m.Node != "" || m.Run != (Run{}) {
		t.Errorf("machine %+v", m)
	}
	// Its address was its own for ever; now it ends like any other.
	if l, ok := h.s.View().LeaseOf("s1", m1); !ok || l.Expires.IsZero() || !l.Live(h.now) {
		t.Errorf("lease %+v", l)
	}
}

func TestReleaseIsToldTwice(t *testing.T) {
	h := quietly(t)
	h.must(seedID, ReleaseMachine{MAC: m1})
	for range 2 {
		if err := h.report(PhaseReleased).Err(); err != nil {
			t.Fatal(err)
		}
		h.in(MachineFree)
	}
}

func TestConsoleArmsOnlyWhereItMay(t *testing.T) {
	h := quietly(t)
	h.must(seedID, ReportFree{MAC: m1})
	q := RequestInstall{MAC: m1, Profile: "p", Disk: "/dev/sda"}
	h.refused(seedID, q, ErrConflict)
	h.must(seedID, SetConsoleInstalls{On: true})
	h.must(seedID, ReserveMachine{MAC: m1, User: "alice"})
	h.refused(seedID, q, ErrConflict)
	h.must(seedID, ReserveMachine{MAC: m1})
	h.refused(seedID, RequestInstall{MAC: m1, Profile: "gone"}, ErrNotFound)
	h.in(MachineFree)
	h.must(seedID, q)
	h.in(MachineArmed)
	if e := h.last(); e.Kind != "armed" || !strings.Contains(e.Text, "console") {
		t.Errorf("event %+v", e)
	}
}

func TestReservedMachineIsForItsUserOnly(t *testing.T) {
	h := founded(t) // with --auto-approve
	h.must(seedID, ReserveMachine{MAC: m1, User: "alice"})
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.in(MachineKnown)
	h.refused(seedID, ArmMachine{MAC: m1, User: "bob"}, ErrConflict)
	h.refused(seedID, ArmMachine{MAC: m1, User: "a b"}, ErrInvalid)
	h.in(MachineKnown)
	h.must(seedID, ArmMachine{MAC: m1, User: "alice"})
	h.in(MachineArmed)
	h.must(seedID, ReleaseMachine{MAC: m1})
	h.report(PhaseReleased)
	if u := h.machine(m1).Remarks.User; u != "" {
		t.Errorf("a released machine is still reserved for %s", u)
	}
}

func TestLabelsAreSetAndDroppedAndBounded(t *testing.T) {
	h := quietly(t)
	h.must(seedID, LabelMachine{MAC: m1, Set: map[string]string{"rack": "r1", "gpu": ""}})
	before := h.machine(m1)
	h.must(seedID, LabelMachine{MAC: m1, Set: map[string]string{"rack": "r2"}, Drop: []string{"gpu", "none"}})
	if got := h.machine(m1).Remarks.Labels; !maps.Equal(got, map[string]string{"rack": "r2"}) {
		t.Errorf("labels %v", got)
	}
	if before.Remarks.Labels["rack"] != "r1" || len(before.Remarks.Labels) != 2 {
		t.Errorf("a row that was stored has changed: %v", before.Remarks.Labels)
	}
	for _, bad := range []map[string]string{{"": "x"}, {"a b": "x"}, {"a": "x\n"}, {"a-": "x"}, {strings.Repeat("a", 64): "x"}} {
		h.refused(seedID, LabelMachine{MAC: m1, Set: bad}, ErrInvalid)
	}
	many := map[string]string{}
	for i := range maxLabels + 1 {
		many[strings.Repeat("k", i+1)] = "v"
	}
	h.refused(seedID, LabelMachine{MAC: m1, Set: many}, ErrFull)
}

func TestSettingsOfUnknownMachinesAndOfTheirDisk(t *testing.T) {
	h := quietly(t)
	if s, _ := h.s.View().Settings(); s.UnknownMachines() != UnknownFree {
		t.Errorf("default %s", s.UnknownMachines())
	}
	h.refused(seedID, SetUnknown{Unknown: "explode"}, ErrInvalid)
	h.must(seedID, SetUnknown{Unknown: UnknownOff})
	if s, _ := h.s.View().Settings(); s.UnknownMachines() != UnknownOff {
		t.Errorf("now %s", s.UnknownMachines())
	}
	h.refused(seedID, SetOwnDisk{MAC: m1, Method: "magic"}, ErrInvalid)
	h.must(seedID, SetOwnDisk{MAC: m1, Method: "exit"})
	if m := h.machine(m1); m.Remarks.OwnDisk != "exit" {
		t.Errorf("machine %+v", m)
	}
}

// Whoever reaches a segment can invent machines: what they say of themselves is bounded.
func TestInventoryOfAStrangerIsBounded(t *testing.T) {
	h := quietly(t)
	h.must(seedID, ReportFree{MAC: m1, Inventory: make([]byte, maxInventory+1), Text: strings.Repeat("x", 5000)})
	if m := h.machine(m1); m.State != MachineFree || m.Inventory != nil {
		t.Errorf("%d bytes of inventory, %s", len(m.Inventory), m.State)
	}
	h.refused(seedID, ReportFree{MAC: m1, UUID: strings.Repeat("x", 201)}, ErrInvalid)
	h.refused(seedID, ReportFree{MAC: m2}, ErrNotFound)
}

func TestFreeMachineThatNobodyWantsIsForgotten(t *testing.T) {
	for want, labels := range map[int]map[string]string{1: nil, 0: {"rack": "r1"}} {
		h := quietly(t)
		h.must(seedID, ReportFree{MAC: m1})
		if labels != nil {
			h.must(seedID, LabelMachine{MAC: m1, Set: labels})
		}
		h.now = h.now.Add(48 * time.Hour)
		var got Forgotten
		if err := h.must(seedID, ForgetIdle{Segment: "s1", Before: h.now}).Decode(&got); err != nil || got.Machines != want {
			t.Errorf("labels %v: forgotten %+v, %v", labels, got, err)
		}
	}
}

func TestFieldsThatAreNewNeedNodesThatKnowThem(t *testing.T) {
	for want, ops := range map[int][]Op{
		1: {ArmMachine{}, PutProfile{}},
		3: {ArmMachine{User: "alice"}, PutProfile{Profile: Profile{LeaveBootOrder: true}}, ReleaseMachine{}},
	} {
		for _, op := range ops {
			if got := (Command{Op: op}).Protocol(); got != want {
				t.Errorf("%+v takes protocol %d, want %d", op, got, want)
			}
		}
	}
}
