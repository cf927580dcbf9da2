package ledger

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"offshoot/swarm"
)

// distort lets a test change what a node is told by the pulses of others.
func distort(opt *Options) *atomic.Pointer[func(*Pulse)] {
	var change atomic.Pointer[func(*Pulse)]
	truth := opt.Peers.Pulse
	opt.Peers.Pulse = func(ctx context.Context, address string) (Pulse, error) {
		p, err := truth(ctx, address)
		if f := change.Load(); f != nil {
			(*f)(&p)
		}
		return p, err
	}
	return &change
}

func TestContactIsAsOldAsTheLeadersOwnProof(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	opt := c.options("b", scratch(t), fast)
	told := distort(&opt)
	silent := func(p *Pulse) { p.Leading = false }
	told.Store(&silent)
	b := c.start(opt, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.propose(b, "1=x") // raft hears the leader
	if d := b.LeaderContact(); d != never {
		t.Errorf("contact %s ago with a leader that does not claim office", d)
	}
	stale := func(p *Pulse) { p.Confirmed = time.Hour }
	told.Store(&stale)
	c.eventually("contact counts from the leader's proof", func() error {
		if d := b.LeaderContact(); d < time.Hour || d == never {
			return fmt.Errorf("contact %s ago", d)
		}
		return nil
	})
	told.Store(nil)
	c.eventually("contact is fresh", func() error {
		if d := b.LeaderContact(); d > time.Minute {
			return fmt.Errorf("contact %s ago", d)
		}
		return nil
	})
}

func TestALaptopThatWakesUpKnowsThatItsNewsAreOld(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	var asleep atomic.Int64
	begun := time.Now()
	opt := c.options("a", scratch(t), fast)
	opt.Clock = func() time.Duration { return time.Since(begun) + time.Duration(asleep.Load()) }
	told := distort(&opt)
	a := c.start(opt, true)
	c.leads(a)
	b := c.node("b", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.change(func() error { return a.Promote(c.ctx(), "b") })
	c.eventually("contact is fresh", func() error {
		if d := a.LeaderContact(); d > time.Minute {
			return fmt.Errorf("contact %s ago", d)
		}
		return nil
	})
	silent := func(p *Pulse) { p.Term = 0 } // nobody confirms it any more
	told.Store(&silent)
	asleep.Store(int64(time.Hour))
	if d := a.LeaderContact(); d < time.Hour {
		t.Errorf("contact %s ago", d)
	}
}

func TestLeaderIsNotConfirmedByVotersOfALaterTerm(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	opt := c.options("a", scratch(t), fast)
	told := distort(&opt)
	a := c.start(opt, true)
	c.leads(a)
	b := c.node("b", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.change(func() error { return a.Promote(c.ctx(), "b") })
	c.change(func() error { return a.Verify(c.ctx()) })
	later := func(p *Pulse) { p.Term++ }
	told.Store(&later)
	want(t, a.Verify(c.ctx()), ErrNoQuorum)
}

func TestWhoeverElseAnswersAtAMembersAddressDoesNotCount(t *testing.T) {
	t.Parallel()
	there := swarm.NodeID("old")
	l := &Ledger{opt: Options{ID: "self", Peers: Peers{Pulse: func(context.Context, string) (Pulse, error) { return Pulse{Node: there, Term: 7}, nil }}}}
	if p, err := l.pulseOf(t.Context(), "old", "example:1"); err != nil || p.Term != 7 {
		t.Errorf("the member itself: %+v, %v", p, err)
	}
	there = "new" // its machine was installed again
	if _, err := l.pulseOf(t.Context(), "old", "example:1"); err == nil {
		t.Error("another node speaks for the member")
	}
	if conn, err := l.dial(t.Context(), "example:1"); err == nil {
		t.Errorf("calls %v, where no member is known", conn.RemoteAddr())
	}
}
