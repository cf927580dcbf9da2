package node

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"offshoot/swarm"
)

// hands is a clock that only moves when a test says so.
type hands struct{ at time.Duration }

func (h *hands) read() time.Duration { return h.at }

func TestFenceIsShutFromTheStart(t *testing.T) {
	t.Parallel()
	// Even a machine that came up a moment ago, whose uptime is less than a period, was confirmed by nobody yet.
	for _, at := range []time.Duration{0, time.Second, time.Hour} {
		if s := newFence((&hands{at}).read).standing(); s != standingNone {
			t.Errorf("at %v: %v", at, s)
		}
	}
}

func TestFenceCountsFromWhenTheLeaderWasAsked(t *testing.T) {
	t.Parallel()
	h := &hands{time.Minute}
	f := newFence(h.read)
	asked := h.at
	h.at += 2 * time.Second // the answer took its time
	f.renewed(asked)
	h.at = asked + dutyTTL - 1
	if f.standing() != standingFull {
		t.Error("stopped before its time")
	}
	h.at = asked + dutyTTL
	if f.standing() != standingNone {
		t.Error("answers after its time, and has not asked whether it may")
	}
}

func TestLateAnswerDoesNotShortenARenewal(t *testing.T) {
	t.Parallel()
	h := &hands{time.Minute}
	f := newFence(h.read)
	f.renewed(h.at)
	f.renewed(h.at - 5*time.Second) // an answer to an earlier question
	h.at += dutyTTL - 1
	if f.standing() != standingFull {
		t.Error("an old answer took time away")
	}
}

func TestNothingIsSaidAfterTheFenceWasShut(t *testing.T) {
	t.Parallel()
	h := &hands{time.Minute}
	f := newFence(h.read)
	f.renewed(h.at)
	f.shut()
	if f.standing() != standingNone {
		t.Error("still standing")
	}
	f.renewed(h.at + time.Second) // the answer was on its way
	if f.standing() != standingNone {
		t.Error("a late confirmation opened a fence that was shut")
	}
}

func TestPausedHolderIsNotFullWhenItWakes(t *testing.T) {
	t.Parallel()
	h := &hands{time.Minute}
	f := newFence(h.read)
	f.renewed(h.at)
	asked := h.at + dutyRenew
	h.at = asked + time.Minute // stopped by SIGSTOP, a debugger, or a laptop's lid, with the answer in its socket
	if f.standing() == standingFull {
		t.Error("full right after a pause")
	}
	f.renewed(asked)
	if f.standing() == standingFull {
		t.Error("full by an answer that is older than the pause")
	}
	f.renewed(h.at)
	if f.standing() != standingFull {
		t.Error("not full after it was confirmed anew")
	}
}

func TestHolderThatWakesIsSilentUntilItHasAskedInVain(t *testing.T) {
	t.Parallel()
	h := &hands{time.Minute}
	f := newFence(h.read)
	f.renewed(h.at)
	asked := h.at + dutyRenew
	h.at = asked + time.Minute // it was stopped while it asked
	f.failed(asked)            // the attempt ends when it wakes, with a time-out
	if f.standing() != standingNone {
		t.Error("answers because of an attempt that began before the pause")
	}
	f.failed(h.at)
	if f.standing() != standingNone {
		t.Error("answers after one quick refusal, with old packets in its socket")
	}
	h.at += dutyAlone
	f.failed(h.at)
	if f.standing() != standingStale {
		t.Error("renews for nobody although no leader can be reached")
	}
	h.at += dutyStale
	if f.standing() != standingNone {
		t.Error("old news of no leader is enough")
	}
	f.failed(h.at)
	f.renewed(h.at)
	if f.standing() != standingFull {
		t.Error("not full after it was confirmed")
	}
}

func TestUptimeGoesOn(t *testing.T) {
	t.Parallel()
	a := uptime()
	if b := uptime(); a <= 0 || b < a {
		t.Errorf("%v, then %v", a, b)
	}
}

func held(term uint64) swarm.Segment {
	return swarm.Segment{ID: "s1", Duty: swarm.Duty{Holder: "h", Term: term}}
}

func TestUnknownTermCountsFromTheFirstQuestion(t *testing.T) {
	t.Parallel()
	h := &hands{time.Hour}
	r := newRenewals(h.read)
	h.at += time.Hour // the duty was granted long after this leader came
	if r.expired(held(7)) {
		t.Fatal("a holder that was never heard of expired at once")
	}
	h.at += dutyTTL + dutyMargin - 1
	if r.expired(held(7)) {
		t.Error("expired before its period and the margin were over")
	}
	h.at++
	if !r.expired(held(7)) {
		t.Error("never expires")
	}
	if r.expired(held(8)) {
		t.Error("another term is another duty")
	}
}

func TestConfirmationGivesAFullPeriod(t *testing.T) {
	t.Parallel()
	h := &hands{time.Hour}
	r := newRenewals(h.read)
	r.expired(held(7))
	h.at += dutyTTL + dutyMargin - 1
	r.confirm(7, 0)
	h.at += dutyTTL + dutyMargin - 1
	if r.expired(held(7)) {
		t.Error("a confirmed duty expired early")
	}
}

func TestNewLeaderGivesEveryHolderAFullPeriod(t *testing.T) {
	t.Parallel()
	h := &hands{time.Hour}
	r := newRenewals(h.read)
	r.confirm(7, 0)
	h.at += dutyTTL + dutyMargin - 1
	r.takeOffice(0) // the leader before may have confirmed it a moment ago
	if r.expired(held(7)) {
		t.Fatal("expired with the change of leaders")
	}
	for range 2 {
		h.at += (dutyTTL+dutyMargin)/2 - 1
		if r.expired(held(7)) {
			t.Fatal("expired within the first period of a leader")
		}
	}
	h.at += 2
	if !r.expired(held(7)) {
		t.Error("never expires")
	}
}

func TestDutyOfNobodyIsFree(t *testing.T) {
	t.Parallel()
	if !newRenewals((&hands{}).read).expired(swarm.Segment{ID: "s1"}) {
		t.Error("a duty without holder must be granted at once")
	}
}

func TestDutyThatIsBeingGivenAwayIsNotConfirmedAnyMore(t *testing.T) {
	t.Parallel()
	h := &hands{time.Hour}
	r := newRenewals(h.read)
	if r.giveAway(held(7)) {
		t.Fatal("given away within its period")
	}
	h.at += dutyTTL + dutyMargin
	if !r.confirm(7, 0) {
		t.Fatal("a holder that is late, but whose duty nobody else gets, was refused")
	}
	if r.giveAway(held(7)) {
		t.Fatal("given away although it was confirmed since it was looked at")
	}
	h.at += dutyTTL + dutyMargin
	if !r.giveAway(held(7)) {
		t.Fatal("not given away after its time")
	}
	// The grant is on its way into the ledger: whoever asks now would go on beside the next holder.
	if r.confirm(7, 0) {
		t.Error("confirmed a duty that is being given away")
	}
	r.takeOffice(0)
	if !r.confirm(7, 0) {
		t.Error("a new leadership knows of no grant of the one before")
	}
}

// duel is a holder and two leaders, one after the other, on three clocks of different speeds. Questions and answers take
// their time, the holder is paused now and then, and the first leader goes on confirming for as long as its last proof of
// office allows.
type duel struct {
	rng            *rand.Rand
	truth          time.Duration // what no one of them sees
	holder         float64       // speed of its clock
	paused         time.Duration // how much more has passed for the holder than it had time to see
	leaders        [2]*renewals
	speeds         [2]float64
	change         time.Duration // when the second one takes office
	fence          *fence
	asked, arrives []time.Duration // confirmations on their way: by the holder's clock, by truth
}

// skew is how far a clock may be off: dutyTTL+officeProof on a slow one must end before dutyTTL+dutyMargin on a fast one.
const skew = 0.05

func newDuel(seed uint64) *duel {
	d := &duel{rng: rand.New(rand.NewPCG(seed, 1))}
	speed := func() float64 { return 1 - skew + 2*skew*d.rng.Float64() }
	d.holder, d.speeds = speed(), [2]float64{speed(), speed()}
	d.change = d.within(20 * time.Second)
	d.fence = newFence(d.holderTime)
	for i, speed := range d.speeds {
		d.leaders[i] = newRenewals(func() time.Duration { return time.Duration(float64(d.truth) * speed) })
	}
	return d
}

func (d *duel) within(bound time.Duration) time.Duration {
	return time.Duration(d.rng.Int64N(int64(bound)))
}

func (d *duel) holderTime() time.Duration {
	return time.Hour + time.Duration(float64(d.truth)*d.holder) + d.paused
}

// ask sends a question that a leader answers later, and whose answer arrives later still.
func (d *duel) ask() (answered time.Duration, by int, asked time.Duration) {
	answered = d.truth + d.within(time.Second)
	stale := time.Duration(float64(officeProof) / d.speeds[0])
	if answered < d.change || answered < d.change+stale && d.rng.IntN(2) == 0 {
		return answered, 0, d.holderTime()
	}
	return answered, 1, d.holderTime()
}

func (d *duel) deliver() {
	for i := len(d.arrives) - 1; i >= 0; i-- {
		if d.arrives[i] <= d.truth {
			d.fence.renewed(d.asked[i])
			d.asked, d.arrives = append(d.asked[:i], d.asked[i+1:]...), append(d.arrives[:i], d.arrives[i+1:]...)
		}
	}
}

// fight ends with true when the duty was given away, and with an error text if the holder answers beside the next one.
func (d *duel) fight() (given bool, wrong string) {
	type question struct {
		at    time.Duration
		by    int
		asked time.Duration
	}
	var questions []question
	cut, next, inOffice, granted := d.within(20*time.Second), time.Duration(0), false, time.Duration(0)
	for d.truth < 60*time.Second {
		d.truth += d.within(50 * time.Millisecond)
		if d.truth >= d.change && !inOffice {
			inOffice = true
			d.leaders[1].takeOffice(0)
		}
		if d.rng.IntN(400) == 0 {
			d.paused += d.within(5 * time.Second)
		}
		if d.truth >= next {
			next = d.truth + dutyRenew
			if d.truth < cut || d.rng.IntN(8) == 0 { // after the cut, a question gets through now and then
				at, by, asked := d.ask()
				questions = append(questions, question{at, by, asked})
			}
		}
		for len(questions) > 0 && questions[0].at <= d.truth {
			q := questions[0]
			questions = questions[1:]
			if d.leaders[q.by].confirm(7, 0) {
				d.asked, d.arrives = append(d.asked, q.asked), append(d.arrives, d.truth+d.within(4*time.Second))
			}
		}
		d.deliver()
		if granted == 0 && inOffice && d.leaders[1].expired(held(7)) && d.leaders[1].giveAway(held(7)) {
			granted = d.truth // the next holder may answer from now on, or a little later: now is the worst
		}
		if granted > 0 && d.fence.standing() == standingFull {
			return true, fmt.Sprintf("the duty was given away at %v, the holder answers in full at %v", granted, d.truth)
		}
		if granted > 0 && d.truth > granted+2*dutyTTL {
			return true, ""
		}
	}
	return false, ""
}

func TestHolderHasAlwaysStoppedBeforeTheLeaderGivesTheDutyAway(t *testing.T) {
	t.Parallel()
	const rounds = 3000
	ended := 0
	for seed := range uint64(rounds) {
		d := newDuel(seed)
		given, wrong := d.fight()
		if wrong != "" {
			t.Fatalf("seed %d: %s; clocks run at %.3f, %.3f and %.3f, leadership changed at %v", seed, wrong, d.holder, d.speeds[0], d.speeds[1], d.change)
		}
		if given {
			ended++
		}
	}
	if ended < rounds/2 {
		t.Errorf("only %d of %d duels ended: they prove little", ended, rounds)
	}
}
