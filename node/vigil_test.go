package node

import (
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/install"
	"offshoot/node/status"
	"offshoot/swarm"
)

// ward is a state with mac1 in its installation, and a vigil over it with a clock of its own.
type ward struct {
	t     *testing.T
	state *swarm.State
	vigil vigil
	n     int
	clock time.Duration
	wall  time.Time
}

func newWard(t *testing.T) *ward {
	w := &ward{t: t, state: swarm.NewState(), clock: time.Hour, wall: time.Date(2026, 11, 21, 3, 0, 0, 0, time.UTC)}
	w.apply(swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed", Profile: "p"}, Network: netip.MustParsePrefix("192.168.42.0/24"), Profile: &swarm.Profile{Name: "p", Driver: "image"},
		Node: swarm.Node{ID: seedID, Name: "seed", Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Link: true}}},
	})
	w.apply(swarm.ReportNode{Protocol: swarm.Protocol, Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Link: true, Segment: "s1", Address: netip.MustParsePrefix("192.168.42.1/24")}}})
	w.apply(swarm.SeeMachine{MAC: mac1, Segment: "s1"})
	w.apply(swarm.ArmMachine{MAC: mac1})
	w.apply(swarm.MintTicket{ID: "t1", Hash: "hash", MAC: mac1, Segment: "s1", Addr: addr1, Expires: w.wall.Add(time.Hour)})
	return w
}

func (w *ward) apply(op swarm.Op) {
	w.t.Helper()
	w.n++
	if err := w.state.Apply(swarm.Command{ID: fmt.Sprint("c", w.n), Time: w.wall, By: seedID, Op: op}).Err(); err != nil {
		w.t.Fatalf("%T: %v", op, err)
	}
}

func (w *ward) machine() swarm.Machine {
	m, _ := w.state.View().Machine(mac1)
	return m
}

func (w *ward) report(phase install.Phase, percent int) {
	w.t.Helper()
	w.apply(swarm.ReportInstall{MAC: mac1, Install: w.machine().Install, Phase: string(phase), Percent: percent})
}

// watch looks every second for a while, and writes down what is found; it returns how often that was.
func (w *ward) watch(d time.Duration) (found int) {
	w.t.Helper()
	for range int(d / time.Second) {
		w.clock += time.Second
		w.wall = w.wall.Add(time.Second)
		for _, op := range w.vigil.look(w.state.View(), w.clock) {
			found++
			w.apply(op)
		}
	}
	return found
}

func TestMachineIsStalledOnceAfterTheDeadlineOfItsPhase(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	for _, phase := range []install.Phase{install.PhaseAgent, install.PhaseImage, "some installer's own"} {
		w.report(phase, 1)
		limit := install.Deadline("image", phase)
		if n := w.watch(limit); n != 0 {
			t.Errorf("%s: stalled within %s", phase, limit)
		}
		if n := w.watch(2 * limit); n != 1 || !w.machine().Life.Stalled {
			t.Errorf("%s: told %d times after %s", phase, n, limit)
		}
		if phase == install.PhaseImage { // a percent that moves is a sign of life
			w.report(phase, 2)
			if w.watch(limit) != 0 || w.machine().Life.Stalled {
				t.Error("a machine that gets on is stalled")
			}
			w.report(phase, 2)
			if w.watch(time.Minute) != 1 {
				t.Error("the same percent again hides that the machine is stalled")
			}
		}
	}
}

func TestOperatorsDeadlineTakesThePlaceOfAllPhases(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.apply(swarm.SetStallAfter{Seconds: 60})
	w.report(install.PhaseImage, 1)
	if w.watch(time.Minute) != 0 || w.watch(5*time.Second) != 1 {
		t.Error("want it stalled after a minute")
	}
}

func TestLogOfAMachineIsASignOfLife(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.apply(swarm.SetStallAfter{Seconds: 60})
	for i := range 10 {
		if w.watch(50*time.Second) != 0 {
			t.Fatalf("stalled after line %d", i)
		}
		w.apply(swarm.HearMachine{MAC: mac1, Install: w.machine().Install, Line: "the same line"})
	}
	if w.watch(2*time.Minute) != 1 {
		t.Error("its log has ended, and it is not stalled")
	}
}

// TestNobodyIsStalledForWhatTheLeaderCouldNotSee: it was not in office, or slept; the wall clock was set; the segment has a new holder,
// to whom no machine has spoken yet.
func TestNobodyIsStalledForWhatTheLeaderCouldNotSee(t *testing.T) {
	t.Parallel()
	for name, happens := range map[string]func(w *ward){
		"new in office":         func(w *ward) { w.vigil = vigil{} },
		"out of office, asleep": func(w *ward) { w.clock += 10 * time.Minute },
		"new holder":            func(w *ward) { w.apply(swarm.GrantDuty{Segment: "s1", Term: 1, To: seedID}) },
	} {
		w := newWard(t)
		w.apply(swarm.SetStallAfter{Seconds: 60})
		w.watch(50 * time.Second)
		happens(w)
		if w.watch(50*time.Second) != 0 {
			t.Errorf("%s: stalled at once", name)
		}
		if w.watch(20*time.Second) != 1 {
			t.Errorf("%s: never stalled", name)
		}
	}
	w := newWard(t)
	w.apply(swarm.SetStallAfter{Seconds: 60})
	w.watch(10 * time.Second)
	w.wall = w.wall.Add(24 * time.Hour)
	if w.watch(40*time.Second) != 0 || w.watch(30*time.Second) != 1 {
		t.Error("the wall clock has a say")
	}
}

func TestEveryKnownPhaseHasADeadline(t *testing.T) {
	t.Parallel()
	usual := install.Deadline("image", "unheard of")
	for _, phase := range []install.Phase{"", install.PhaseAgent, install.PhaseInventory, install.PhaseDisk, install.PhaseImage, install.PhaseConfigure, install.PhaseFailed} {
		if d := install.Deadline("image", phase); d < swarm.MinStallAfter || d == usual {
			t.Errorf("%q: %s", phase, d)
		}
		if d := install.Deadline("debian", phase); d != usual {
			t.Errorf("%q of a driver that nobody knows: %s", phase, d)
		}
	}
}

func TestRelayWritesTheLastLineNowAndThenAndStagesAtOnce(t *testing.T) {
	t.Parallel()
	r, at := newRelay(), time.Unix(0, 0)
	m := swarm.Machine{MAC: mac1, Install: "i1"}
	add := func(program, text string) { r.add(m, status.LogLine{Program: program, Text: text}) }
	due := func(after time.Duration) string {
		t.Helper()
		at = at.Add(after)
		var all []string
		for _, op := range r.due(at) {
			if op.MAC != mac1 || op.Install != "i1" {
				t.Errorf("got %+v", op)
			}
			all = append(all, op.Line+"|"+op.Stage)
		}
		return strings.Join(all, " ")
	}
	want := func(what, got, want string) {
		t.Helper()
		if got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	want("nothing was said", due(0), "")
	add("a", "1")
	want("the first line", due(0), "a: 1|")
	add("a", "2")
	add("", "3")
	want("soon after", due(time.Second), "")
	want("the last of a burst, though nothing follows", due(relayPause), "3|")
	add("main-menu", "Menu item 'pkgsel' selected")
	add("a", "4")
	want("a stage", due(time.Second), "a: 4|packages")
	m.Life.Step = 30
	add("main-menu", "Menu item 'partman-base' selected")
	want("a stage that is past", due(time.Second), "")
	want("it is a line like others", due(relayPause), "main-menu: Menu item 'partman-base' selected|")
	// What could not be written down is tried again, unless there is something newer.
	lost := swarm.HearMachine{MAC: mac1, Install: "i1", Line: "lost", Stage: "finishing", Step: 50}
	r.again(lost)
	want("lost", due(time.Second), "lost|finishing")
	add("", "newer")
	r.again(lost)
	want("newer, with the stage that was lost", due(time.Second), "newer|finishing")
	add("", "newest")
	r.again(swarm.HearMachine{MAC: mac1, Install: "i1", Line: "old"})
	want("the newest", due(relayPause), "newest|")
	at = at.Add(-time.Hour)
	add("", "after the clock was set back")
	want("the clock was set back", due(0), "after the clock was set back|")
	due(relayPause)
	if len(r.waiting)+len(r.written) != 0 {
		t.Errorf("%d and %d machines are remembered for nothing", len(r.waiting), len(r.written))
	}
}

func TestOnlyMachinesWithALeaseAreHeard(t *testing.T) {
	t.Parallel()
	w := newWard(t)
	w.apply(swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{
		{Segment: "s1", MAC: mac1, Addr: addr1, Nonce: "Zk3vQ9-wX_1pLm8sTt0uYa", Expires: w.wall.Add(-time.Minute)}, // its installer does not renew
		{Segment: "s1", MAC: mac2, Addr: addr1.Next(), Expires: w.wall.Add(time.Hour)},
	}})
	w.apply(swarm.QuarantineAddress{Segment: "s1", Term: 1, Addr: addr1.Next().Next(), Until: w.wall.Add(time.Hour)})
	h := newHearing(&replica{state: w.state, now: func() time.Time { return w.wall }}, slog.New(slog.DiscardHandler))
	h.heard("s1", addr1, []byte("<13>wget: http://192.168.42.1:7480/b/Zk3vQ9-wX_1pLm8sTt0uYa/install"))
	h.heard("s1", addr1.Next(), []byte("<13>of a machine that does not install itself"))
	h.heard("s1", addr1.Next().Next(), []byte("<13>of nobody"))
	h.heard("s1", netip.MustParseAddr("192.168.42.99"), []byte("<13>of a stranger"))
	h.heard("s2", addr1, []byte("<13>on another segment"))
	if got := h.book.Of(mac1); len(got) != 1 || got[0].Text != "http://192.168.42.1:7480/b/Zk3v.../install" || got[0].Program != "wget" || !got[0].Time.Equal(w.wall) {
		t.Errorf("got %+v", got)
	}
	if got := h.book.Of(mac2); len(got) != 1 {
		t.Errorf("got %+v", got)
	}
	if got := h.book.Of(""); len(got) != 0 {
		t.Errorf("of strangers: %+v", got)
	}
	if ops := h.relay.due(w.wall); len(ops) != 1 || ops[0].MAC != mac1 {
		t.Errorf("written down: %+v; want what the machine says that installs itself", ops)
	}
}
