package swarm

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// installing is a swarm whose nodes all speak the present protocol, and m1 in its installation.
func installing(t *testing.T) (h *house, install string) {
	t.Helper()
	h = founded(t)
	h.must(seedID, ReportNode{Protocol: Protocol})
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.must(seedID, ArmMachine{MAC: m1})
	h.must(seedID, MintTicket{ID: "t1", Hash: "hash", MAC: m1, Segment: "s1", Addr: netip.MustParseAddr("192.168.42.20"), Expires: h.now.Add(time.Hour)})
	m, _ := h.s.View().Machine(m1)
	return h, m.Install
}

// later lets time pass.
func (h *house) later(d time.Duration) { h.now = h.now.Add(d) }

func (h *house) life() Life {
	h.t.Helper()
	m, ok := h.s.View().Machine(m1)
	if !ok {
		h.t.Fatal("m1 is not known")
	}
	return m.Life
}

func (h *house) kinds() (out []string) {
	for _, e := range h.s.View().Events(m1) {
		out = append(out, e.Kind)
	}
	return out
}

func TestOnlyProgressIsASignOfLife(t *testing.T) {
	h, install := installing(t)
	report := func(phase, text string, percent int) bool {
		t.Helper()
		before := h.life().Heard
		h.later(time.Minute)
		h.must(seedID, ReportInstall{MAC: m1, Install: install, Phase: phase, Text: text, Percent: percent})
		return !h.life().Heard.Equal(before)
	}
	for _, c := range []struct {
		phase, text string
		percent     int
		life        bool
	}{
		{"image", "", 0, true}, {"image", "", 0, false}, {"image", "", 1, true}, {"image", "", 1, false}, {"image", "unpacking", 1, true}, {"image", "unpacking", 1, false},
		{"image", "", 0, true}, {"configure", "", 0, true},
	} {
		if got := report(c.phase, c.text, c.percent); got != c.life {
			t.Errorf("%+v: a sign of life: %v", c, got)
		}
	}
	before := h.life()
	h.later(time.Minute)
	h.must(seedID, SeeMachine{MAC: m1, Segment: "s1"})
	h.must(seedID, h.lease(m1, "192.168.42.20"))
	if h.life() != before {
		t.Error("an address that is renewed is no sign of an installation that gets on")
	}
	h.must(seedID, HearMachine{MAC: m1, Install: install, Line: "kernel: still here"})
	if got := h.life(); got.Heard.Equal(before.Heard) || got.Said != "kernel: still here" {
		t.Errorf("a line of its log: %+v", got)
	}
}

func TestStallIsToldOnceUntilTheMachineGetsOn(t *testing.T) {
	h, install := installing(t)
	h.must(seedID, ReportInstall{MAC: m1, Install: install, Phase: "disk", Text: "/dev/sda"})
	stall := NoteStall{MAC: m1, Install: install, Heard: h.life().Heard, Silent: 600}
	h.later(10 * time.Minute)
	h.must(seedID, stall)
	if e := h.last(); e.Kind != "stalled" || !e.Warn || !strings.Contains(e.Text, "for 10m0s in phase disk; the last that it said: /dev/sda") {
		t.Errorf("got %+v", e)
	}
	h.refused(seedID, stall, ErrConflict)
	h.must(seedID, ReportInstall{MAC: m1, Install: install, Phase: "disk", Text: "/dev/sda"}) // nothing new
	if !h.life().Stalled {
		t.Error("the same words again are no progress")
	}
	h.must(seedID, ReportInstall{MAC: m1, Install: install, Phase: "image", Percent: 3})
	if h.life().Stalled || !strings.HasSuffix(strings.Join(h.kinds(), " "), "stalled install resumed") {
		t.Errorf("got %v, %+v", h.kinds(), h.life())
	}
	h.refused(seedID, stall, ErrConflict) // it got on since
	h.must(seedID, NoteStall{MAC: m1, Install: install, Heard: h.life().Heard, Silent: 60})
	h.must(seedID, HearMachine{MAC: m1, Install: install, Line: "writing"})
	if e := h.last(); e.Kind != "resumed" || !strings.Contains(e.Text, "gets on again: writing") {
		t.Errorf("got %+v", e)
	}
	for name, end := range map[string]Op{
		"armed again": ArmMachine{MAC: m1}, "held": HoldMachine{MAC: m1, Reason: "x"}, "installed": ReportInstall{MAC: m1, Install: install, Phase: PhaseInstalled},
	} {
		h, install := installing(t)
		h.must(seedID, NoteStall{MAC: m1, Install: install, Heard: h.life().Heard, Silent: 60})
		if o, ok := end.(ReportInstall); ok {
			o.Install = install
			end = o
		}
		h.must(seedID, end)
		if h.life() != (Life{}) {
			t.Errorf("%s: %+v", name, h.life())
		}
		h.refused(seedID, NoteStall{MAC: m1, Install: install, Silent: 60}, ErrNotArmed)
		h.refused(seedID, HearMachine{MAC: m1, Install: install, Line: "late"}, ErrNotArmed)
	}
}

func TestLogMovesAnInstallationForwardOnlyAndDecidesNothing(t *testing.T) {
	h, install := installing(t)
	before, _ := h.s.View().Machine(m1)
	for _, c := range []struct {
		stage string
		step  int
		want  string
	}{{"partitioning", 10, "partitioning"}, {"packages", 30, "packages"}, {"partitioning", 10, "packages"}, {"packages", 30, "packages"}, {"", 0, "packages"}} {
		h.must(seedID, HearMachine{MAC: m1, Install: install, Line: "l", Stage: c.stage, Step: c.step})
		m, _ := h.s.View().Machine(m1)
		if m.Text != c.want || m.State != before.State || m.Phase != before.Phase || m.Install != before.Install {
			t.Errorf("after %+v: %+v", c, m)
		}
	}
	if got := strings.Count(strings.Join(h.kinds(), " "), "log"); got != 2 {
		t.Errorf("%d lines on the timeline, want one for each stage: %v", got, h.kinds())
	}
	h.must(seedID, MintTicket{ID: "t2", Hash: "hash", MAC: m1, Segment: "s1", Addr: netip.MustParseAddr("192.168.42.20"), Expires: h.now.Add(time.Hour)})
	if h.life().Step != 0 {
		t.Error("an installation that begins again has its stages before it")
	}
	h.must(seedID, HearMachine{MAC: m1, Install: install, Line: strings.Repeat("ä", 5000)})
	if n := len(h.life().Said); n > maxWord {
		t.Errorf("%d bytes are kept", n)
	}
	h.refused(seedID, HearMachine{MAC: m1, Install: "another"}, ErrNotArmed)
}

// TestLifeIsNotWrittenWhereSomebodyCouldNotReadIt: an older node refuses a snapshot with fields that it does not know.
func TestLifeIsNotWrittenWhereSomebodyCouldNotReadIt(t *testing.T) {
	h, _ := installing(t)
	h.must(seedID, ReportNode{Protocol: lifeSince - 1})
	h.must(seedID, ArmMachine{MAC: m1})
	m, _ := h.s.View().Machine(m1)
	h.must(seedID, MintTicket{ID: "t3", Hash: "hash", MAC: m1, Segment: "s1", Addr: netip.MustParseAddr("192.168.42.20"), Expires: h.now.Add(time.Hour)})
	h.must(seedID, ReportInstall{MAC: m1, Install: m.Install, Phase: "image", Percent: 50})
	if h.life() != (Life{}) {
		t.Errorf("got %+v", h.life())
	}
}

func TestStallAfterHasBounds(t *testing.T) {
	h := founded(t)
	for _, c := range []struct {
		seconds int
		ok      bool
	}{{0, true}, {30, true}, {86_400, true}, {29, false}, {86_401, false}, {-60, false}} {
		err := h.apply(seedID, SetStallAfter{Seconds: c.seconds}).Err()
		if (err == nil) != c.ok || err != nil && !errors.Is(err, ErrInvalid) {
			t.Errorf("%d seconds: %v", c.seconds, err)
		}
	}
}

func TestInstallingMachinesAreFoundByTheirState(t *testing.T) {
	h, _ := installing(t)
	h.must(seedID, SeeMachine{MAC: m2, Segment: "s1"})
	if all := h.s.View().Installing(); len(all) != 1 || all[0].MAC != m1 {
		t.Errorf("got %+v", all)
	}
	h.must(seedID, HoldMachine{MAC: m1, Reason: "x"})
	if all := h.s.View().Installing(); len(all) != 0 {
		t.Errorf("got %+v", all)
	}
}

func TestInstallerThatBeginsLives(t *testing.T) {
	h := founded(t)
	h.must(seedID, ReportNode{Protocol: Protocol})
	h.must(seedID, ArmMachine{MAC: m1})
	h.must(seedID, BeginInstall{MAC: m1})
	if got := h.life(); !got.Heard.Equal(h.now) || got.Said != "runs the installer" {
		t.Errorf("got %+v", got)
	}
}
