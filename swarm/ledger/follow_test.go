package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/raft"
)

// feed lets to follow from until ctx is done, and returns why either side ended.
func (c *cluster) feed(ctx context.Context, from, to *testNode) (served, followed error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, w := io.Pipe()
	done := make(chan error, 1)
	go func() {
		err := from.ServeFeed(ctx, to.Applied(), wire{c, from, to, w}, nil)
		_ = w.CloseWithError(io.EOF)
		done <- err
	}()
	followed = to.Follow(ctx, r)
	cancel()
	_ = r.Close()
	return <-done, followed
}

// wire is a connection between two nodes that breaks when one of them is cut off.
type wire struct {
	c        *cluster
	from, to *testNode
	io.Writer
}

func (w wire) Write(b []byte) (int, error) {
	if _, err := w.c.reach(w.to.id, w.from.opt.Address); err != nil {
		return 0, err
	}
	return w.Writer.Write(b)
}

// fed keeps a node fed like node does: by the next of sources whenever a feed ends, while it is no member.
func (c *cluster) fed(n *testNode, sources ...*testNode) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for round := 0; ctx.Err() == nil; round++ {
			if !n.Member() {
				once, stop := context.WithCancel(ctx)
				go func() {
					for once.Err() == nil && !n.Member() {
						wait(once, 20*time.Millisecond)
					}
					stop()
				}()
				served, followed := c.feed(once, sources[round%len(sources)], n)
				n.log.Debug("feed ended", "served", served, "followed", followed)
				stop()
			}
			wait(ctx, 20*time.Millisecond)
		}
	}()
	c.t.Cleanup(func() { cancel(); <-done })
}

func wait(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// writing proposes on nodes, in turn, until the returned function is called, which returns how many were acknowledged.
func (c *cluster) writing(name string, nodes ...*testNode) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	var acknowledged atomic.Int64
	for w := range 3 {
		all.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				id := fmt.Sprintf("%s-%d-%d", name, w, i)
				if _, err := nodes[(i+w)%len(nodes)].Propose(c.within(20*time.Second), []byte(id+"=x")); err != nil {
					c.t.Errorf("%s on %s: %v", id, nodes[(i+w)%len(nodes)].id, err)
					return
				}
				acknowledged.Add(1)
				wait(ctx, time.Millisecond)
			}
		})
	}
	var once sync.Once
	end := func() int {
		once.Do(func() { cancel(); all.Wait() })
		return int(acknowledged.Load())
	}
	c.t.Cleanup(func() { end() })
	return end
}

// same waits until nodes hold the same, which is at least so much.
func (c *cluster) same(atLeast int, nodes ...*testNode) {
	c.t.Helper()
	c.eventually("all hold the same", func() error {
		first := nodes[0].journal.all()
		if len(first) < atLeast {
			return fmt.Errorf("%s holds %d of %d", nodes[0].id, len(first), atLeast)
		}
		for _, n := range nodes[1:] {
			if got := n.journal.all(); strings.Join(got, " ") != strings.Join(first, " ") {
				return fmt.Errorf("%s holds %d, %s %d", nodes[0].id, len(first), n.id, len(got))
			}
		}
		return nil
	})
}

func TestFollowerIsFedWhileTheLeaderChanges(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	learner := c.node("learner", fast, false)
	c.change(func() error { return nodes[0].AddLearner(c.ctx(), "learner", learner.opt.Address) })
	c.propose(learner, "first=x")
	follower := c.node("follower", fast, false)
	c.fed(follower, learner)
	stop := c.writing("w", follower, nodes[1])
	grown := func(by int) {
		t.Helper()
		before := len(follower.journal.all())
		c.eventually("follower moves on", func() error {
			if n := len(follower.journal.all()); n < before+by {
				return fmt.Errorf("%d of %d", n, before+by)
			}
			return nil
		})
	}
	grown(20)
	c.change(func() error { return nodes[0].TransferTo(c.ctx(), nodes[1].id) })
	grown(20)
	c.kill(nodes[0])
	grown(20)
	c.same(stop()+1, nodes[1], nodes[2], learner, follower)
	if follower.Member() {
		t.Error("a follower takes itself for a member")
	}
	if id, _, ok := follower.Leader(); !ok || id == "" {
		t.Error("follower knows no leader")
	}
	if s := follower.Stats(); s.Feeder != "learner" {
		t.Errorf("follower says that it is fed by %q", s.Feeder)
	}
	if s := learner.Stats(); s.Feeds != 1 {
		t.Errorf("learner says that it feeds %d", s.Feeds)
	}
}

func TestFollowerBecomesLearnerAndVoterAndBack(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	opt := c.options("a", scratch(t), fast)
	opt.Compaction = Compaction{Interval: 20 * time.Millisecond, Threshold: 50, Trailing: 10} // snapshots are in it, too
	a := c.start(opt, true)
	c.leads(a)
	f := c.node("f", fast, false)
	c.fed(f, a)
	stop := c.writing("w", a, f)
	progress := func(what string) {
		t.Helper()
		goal := len(a.journal.all()) + 60
		for _, n := range []*testNode{a, f} {
			c.eventually(what+": "+string(n.id)+" moves on", func() error {
				if got := len(n.journal.all()); got < goal {
					return fmt.Errorf("it has %d of %d", got, goal)
				}
				return nil
			})
		}
	}
	member := func(want bool) {
		t.Helper()
		c.eventually(fmt.Sprintf("f is member: %t", want), func() error {
			if got := f.Member(); got != want {
				return fmt.Errorf("it says %t", got)
			}
			return nil
		})
	}
	for round := range 2 {
		progress("follower")
		c.change(func() error { return a.AddLearner(c.ctx(), "f", f.opt.Address) })
		member(true)
		progress("learner")
		c.change(func() error { return a.Promote(c.ctx(), "f") })
		progress("voter")
		c.change(func() error { return a.TransferTo(c.ctx(), "f") })
		progress("leader")
		c.change(func() error { return f.TransferTo(c.ctx(), "a") })
		c.leads(a)
		if round == 0 {
			c.change(func() error { return a.Demote(c.ctx(), "f") })
			progress("demoted")
		}
		c.change(func() error { return a.Remove(c.ctx(), "f") })
		member(false)
		progress("follower again")
	}
	c.same(stop(), a, f)
	if term := a.Stats().Term; term > 50 {
		t.Errorf("term %d: somebody disturbs", term)
	}
}

func TestProposalFromFollowerSeesItsOwnWrite(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.propose(a, "1=x")
	f := c.node("f", fast, false)
	_, err := f.Propose(c.within(200*time.Millisecond), []byte("early=x"))
	want(t, err, ErrNoLeader) // nobody feeds it yet
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, followed := c.feed(ctx, a, f)
		ended <- followed
	}()
	if got := c.propose(f, "2=x"); got != "2" {
		t.Errorf("answer %q, want 2", got)
	}
	if got := f.journal.all(); len(got) != 2 {
		t.Errorf("proposer does not hold its own write: %q", got)
	}
	want(t, f.Follow(t.Context(), strings.NewReader("")), ErrBusy)
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("a cancelled Follow returned %v", err)
	}
	// The leader is known for a while, but what it commits does not arrive: the proposer is told so, and does not lie.
	_, err = f.Propose(c.within(300*time.Millisecond), []byte("3=x"))
	want(t, err, context.DeadlineExceeded)
	c.eventually("the word about the leader ages", func() error {
		if id, _, ok := f.Leader(); ok {
			return fmt.Errorf("leader %s", id)
		}
		return nil
	})
}

func TestFollowersContactIsWhatItsFeederKnowsWhenAsked(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	opt := c.options("f", scratch(t), fast)
	told := distort(&opt)
	f := c.start(opt, false)
	c.propose(nodes[0], "1=x")
	c.fed(f, nodes[0])
	fresh := func() error {
		if d := f.LeaderContact(); d > 4*fast.Heartbeat {
			return fmt.Errorf("contact %s ago", d)
		}
		return nil
	}
	c.eventually("contact is fresh", fresh)
	deaf := func(p *Pulse) { p.Hears, p.Contact = false, 0 }
	told.Store(&deaf)
	before := f.LeaderContact()
	c.eventually("contact ages when the feeder is not in contact, though its feed goes on", func() error {
		if d := f.LeaderContact(); d < before+4*fast.Heartbeat {
			return fmt.Errorf("contact %s ago", d)
		}
		return nil
	})
	told.Store(nil)
	c.eventually("contact is fresh again", fresh)
}

func TestRemovedVoterDoesNotDisturbAnybody(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	// Calm, so that a busy machine does not move the leadership by itself. The third is nervous.
	calm := Timing{Heartbeat: 3 * time.Second, Election: 3 * time.Second, Lease: 3 * time.Second, Commit: 10 * time.Millisecond}
	leader, other, gone := c.node("leader", calm, true), c.node("other", calm, false), c.node("gone", fast, false)
	c.leads(leader)
	for _, n := range []*testNode{other, gone} {
		c.change(func() error { return leader.AddLearner(c.ctx(), n.id, n.opt.Address) })
		c.change(func() error { return leader.Promote(c.ctx(), n.id) })
	}
	c.isolate(gone.id) // so that it never hears that it is removed, and goes on believing in its vote
	c.change(func() error { return leader.Remove(c.ctx(), gone.id) })
	c.eventually("it asks for votes, and nobody listens", func() error {
		if gone.Member() || gone.raft.State() != raft.Candidate {
			return fmt.Errorf("member %t, %s", gone.Member(), gone.raft.State())
		}
		return nil
	})
	term := leader.Stats().Term
	c.heal(gone.id)
	c.fed(gone, other)
	for i := range 30 {
		c.propose(gone, fmt.Sprintf("%d=x", i))
		wait(t.Context(), 50*time.Millisecond)
	}
	c.same(30, leader, other, gone)
	if s := leader.Stats(); s.Term != term || s.State != "Leader" {
		t.Errorf("term went from %d to %d, the leader is %s now", term, s.Term, s.State)
	}
}

func TestStrangerWithoutStateKeepsQuiet(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	f := c.node("f", fast, false)
	c.propose(a, "1=x")
	c.fed(f, a)
	c.propose(f, "2=x")
	wait(t.Context(), 4*fast.Heartbeat)
	if s := f.Stats(); s.State != "Follower" || s.Term != 0 || s.Last != 0 || len(s.Members) != 0 {
		t.Errorf("%+v: raft has begun to do something on a follower", s)
	}
	if s := a.Stats(); len(s.Members) != 1 {
		t.Errorf("members: %+v", s.Members)
	}
}

func TestFollowerGoesElsewhereWhenItsFeederKnowsNoLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(2)
	f := c.node("f", fast, false)
	c.propose(nodes[1], "1=x")
	c.isolate(nodes[0].id)
	_, followed := c.feed(c.within(10*time.Second), nodes[1], f)
	want(t, followed, ErrNoLeader)
	c.holds(f, "1=x")
}

func TestFollowersDoNotKeepTheWordAboutALeaderAliveInACircle(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.propose(a, "1=x")
	f, g := c.node("f", fast, false), c.node("g", fast, false)
	once, stop := context.WithCancel(t.Context())
	fed := make(chan struct{})
	go func() { defer close(fed); _, _ = c.feed(once, a, f) }()
	c.holds(f, "1=x")
	go func() { _, _ = c.feed(t.Context(), f, g) }()
	c.holds(g, "1=x")
	knows := func(n *testNode) error {
		if _, _, ok := n.Leader(); !ok {
			return errors.New("it knows no leader")
		}
		return nil
	}
	c.eventually("g knows", func() error { return knows(g) })
	stop()
	<-fed
	go func() { _, _ = c.feed(t.Context(), g, f) }()
	for _, n := range []*testNode{f, g} {
		c.eventually(string(n.id)+" stops believing", func() error {
			if knows(n) == nil {
				return errors.New("it knows a leader")
			}
			return nil
		})
	}
}

func TestFeedIsRefusedWhereItCannotHelp(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	empty := c.node("empty", fast, false)
	want(t, empty.ServeFeed(t.Context(), 0, io.Discard, nil), ErrNoState)
	a := c.voters(1)[0]
	c.propose(a, "1=x")
	want(t, a.ServeFeed(t.Context(), a.Applied()+1, io.Discard, nil), ErrBehind)
	for range MaxFeeds {
		c.must(a.feeds.enter(0))
	}
	want(t, a.ServeFeed(t.Context(), 0, io.Discard, nil), ErrBusy)
}

func TestLeaderTakesNothingFromAFeed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a, b := c.voters(1)[0], c.node("other-swarm", fast, true)
	c.propose(b, "1=x")
	for i := range 9 {
		c.propose(b, fmt.Sprintf("%d=x", i))
	}
	_, followed := c.feed(t.Context(), b, a)
	want(t, followed, ErrFeed)
	if got := a.journal.all(); len(got) != 0 {
		t.Errorf("leader was fed with %q", got)
	}
}
