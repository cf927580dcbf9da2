package handoff

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// diary is a giver, a taker and a leaver that write down what they are asked for.
type diary struct {
	lines   []string
	deliver func(context.Context)
	err     error
}

func (d *diary) note(line string) error { d.lines = append(d.lines, line); return d.err }

func (d *diary) StopAnswering(string) { _ = d.note("stop") }
func (d *diary) Deliver(ctx context.Context, _ string) {
	_ = d.note("deliver")
	if d.deliver != nil {
		d.deliver(ctx)
	}
}
func (d *diary) Pass(context.Context, string, uint64) error { return d.note("pass") }
func (d *diary) Redeem(context.Context) error               { return d.note("redeem") }
func (d *diary) ForgetTicket(context.Context) error         { return d.note("forget") }
func (d *diary) JoinLedger(context.Context) error           { return d.note("join") }
func (d *diary) Warm(context.Context) error                 { return d.note("warm") }
func (d *diary) HandOverDuties(context.Context) error       { return d.note("hand over") }
func (d *diary) SayGoodbye(context.Context) error           { return d.note("goodbye") }
func (d *diary) GiveUpVote(context.Context) error           { return d.note("give up vote") }
func (d *diary) wrote(t *testing.T, want ...string) {
	t.Helper()
	if !slices.Equal(d.lines, want) {
		t.Errorf("done %q, want %q", d.lines, want)
	}
}

func TestDutyIsPassedAfterTheLastAnswerAndPacketsAfterThat(t *testing.T) {
	t.Parallel()
	d := &diary{}
	if err := Give(t.Context(), d, "s1", 3); err != nil {
		t.Fatal(err)
	}
	d.wrote(t, "stop", "pass", "deliver")
}

func TestDeliveryIsBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		d := &diary{deliver: func(ctx context.Context) { <-ctx.Done() }} // the new holder does not answer
		began := time.Now()
		if err := Give(t.Context(), d, "s1", 3); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took != deliverTime {
			t.Errorf("took %v", took)
		}
		d.wrote(t, "stop", "pass", "deliver")
	})
}

func TestDutyThatCouldNotBePassedIsNamed(t *testing.T) {
	t.Parallel()
	d := &diary{err: errors.New("no quorum")}
	err := Give(t.Context(), d, "s1", 3)
	if !errors.Is(err, d.err) || !strings.Contains(err.Error(), "s1") || !strings.Contains(err.Error(), "term 3") {
		t.Errorf("got %v", err)
	}
	d.wrote(t, "stop", "pass") // nothing is delivered to whom the duty was not passed
}

func TestTicketIsForgottenOnlyAfterItWasRedeemed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	d := &diary{err: Final(errors.New("refused"))}
	if err := Take(dir, d, quiet()).Execute(t.Context()); err == nil {
		t.Error("a refused ticket was taken")
	}
	d.wrote(t, "redeem")
	d.err = nil
	if err := Take(dir, d, quiet()).Execute(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wrote(t, "redeem", "redeem", "forget", "join", "warm")
}

// The node runs the first two steps before its services exist, and the whole plan once they do.
func TestTakeGoesOnWhereItsFirstStepsEnded(t *testing.T) {
	t.Parallel()
	dir, d := t.TempDir(), &diary{}
	first := Take(dir, d, quiet())
	first.Steps = first.Steps[:2]
	for _, p := range []Plan{first, Take(dir, d, quiet())} {
		if err := p.Execute(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	d.wrote(t, "redeem", "forget", "join", "warm")
}

func TestLeavingHandsDutiesOverBeforeItSaysGoodbyeAndVotesToTheEnd(t *testing.T) {
	t.Parallel()
	d := &diary{}
	if err := Leave(t.TempDir(), d, quiet()).Execute(t.Context()); err != nil {
		t.Fatal(err)
	}
	d.wrote(t, "hand over", "goodbye", "give up vote")
}

func TestTakeAndLeaveKeepSeparateRecords(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	take, leave := Take(dir, &diary{}, quiet()), Leave(dir, &diary{}, quiet())
	if err := take.Begin(); err != nil {
		t.Fatal(err)
	}
	if !take.Pending() || leave.Pending() {
		t.Errorf("take pending: %t, leave pending: %t", take.Pending(), leave.Pending())
	}
}
