package swarm

import "testing"

func TestMachinesOwnBootProgramsGoBeforeTheSwarms(t *testing.T) {
	h := founded(t)
	const mac, other = MAC("52:54:00:00:00:01"), MAC("52:54:00:00:00:02")
	want := func(when string, own, others Loader) {
		t.Helper()
		if v := h.s.View(); v.LoaderOf(mac) != own || v.LoaderOf(other) != others {
			t.Errorf("%s: %s and %s, want %s and %s", when, v.LoaderOf(mac), v.LoaderOf(other), own, others)
		}
	}
	want("at first", LoaderAuto, LoaderAuto)
	h.must(seedID, SetLoader{Loader: LoaderSigned})
	want("for all", LoaderSigned, LoaderSigned)
	h.must(seedID, SetLoader{MAC: mac, Loader: LoaderIPXE}) // not seen yet
	want("for one", LoaderIPXE, LoaderSigned)
	h.must(seedID, SetLoader{})
	want("for all others again", LoaderIPXE, LoaderAuto)
	h.must(seedID, SetLoader{MAC: mac})
	want("for none", LoaderAuto, LoaderAuto)
	h.refused(seedID, SetLoader{Loader: "grub"}, ErrInvalid)
	h.refused(seedID, SetLoader{MAC: "x", Loader: LoaderIPXE}, ErrInvalid)
}

func TestWhatAnOperatorChoseIsNotUnlearned(t *testing.T) {
	h := founded(t)
	const mac = MAC("52:54:00:00:00:01")
	learn := LearnLoader{MAC: mac, Loader: LoaderSigned}
	h.refused(seedID, learn, ErrNotFound) // never seen
	h.must(seedID, SetLoader{MAC: mac, Loader: LoaderIPXE})
	h.must(seedID, learn)
	if got := h.s.View().LoaderOf(mac); got != LoaderIPXE {
		t.Errorf("against an operator: %s", got)
	}
	h.must(seedID, SetLoader{MAC: mac})
	h.must(seedID, learn)
	h.must(seedID, learn)
	if got, events := h.s.View().LoaderOf(mac), len(h.s.View().Events(mac)); got != LoaderSigned || events != 1 {
		t.Errorf("%s, %d lines on the timeline", got, events)
	}
	h.refused(seedID, LearnLoader{MAC: mac, Loader: LoaderIPXE}, ErrInvalid)
}
