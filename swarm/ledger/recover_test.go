package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// recovered recovers from the directory of a stopped node and starts it, at a new address.
func (c *cluster) recovered(n *testNode) *testNode {
	c.t.Helper()
	opt := c.options(n.id, n.dir, fast)
	c.must(Recover(Options{Dir: n.dir, ID: n.id, Address: opt.Address, FSM: &journal{}, Logger: opt.Logger}))
	back := c.start(opt, false)
	c.leads(back)
	return back
}

func copies(t *testing.T, dir string) []string {
	t.Helper()
	all, err := filepath.Glob(dir + ".before-recovery-*")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		for _, d := range all {
			_ = os.RemoveAll(d)
		}
	})
	return all
}

func TestOneDataDirectoryIsEnoughToGoOn(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	learner := c.node("learner", fast, false)
	c.change(func() error { return nodes[0].AddLearner(c.ctx(), "learner", learner.opt.Address) })
	c.propose(learner, "1=x")
	want(t, Recover(Options{Dir: learner.dir, ID: "learner", Address: "a:1", FSM: &journal{}}), ErrInUse)
	if got := copies(t, learner.dir); len(got) != 0 {
		t.Errorf("a recovery that was refused left %q", got)
	}
	for _, n := range append(nodes, learner) {
		c.kill(n)
	}
	want(t, Recover(Options{Dir: learner.dir, ID: "someone", Address: "a:1", FSM: &journal{}}), ErrOtherNode)

	back := c.recovered(learner)
	c.propose(back, "2=x")
	c.holds(back, "1=x", "2=x")
	if m := back.Members(); len(m) != 1 || !m[0].Voter || m[0].ID != "learner" {
		t.Errorf("members: %+v", m)
	}
	// The copy is a ledger as it was.
	made := copies(t, learner.dir)
	if len(made) != 1 {
		t.Fatalf("copies: %q", made)
	}
	s, err := openFiles(made[0], "learner", back.log)
	c.must(err)
	last, err := s.Logs().LastIndex()
	c.must(errors.Join(err, s.Close()))
	if last == 0 || last > leap {
		t.Errorf("the copy ends at %d", last)
	}

	// And once more, after more was decided; then twice without a start in between, as after an interruption.
	c.stop(back)
	back = c.recovered(back)
	c.propose(back, "3=x")
	c.stop(back)
	opt := Options{Dir: back.dir, ID: "learner", Address: "127.0.0.1:9", FSM: &journal{}}
	c.must(Recover(opt))
	opt.FSM = &journal{}
	c.must(Recover(opt))
	back = c.recovered(back)
	c.holds(back, "1=x", "2=x", "3=x")
	c.propose(back, "4=x")
	if got := copies(t, back.dir); len(got) != 5 {
		t.Errorf("%d copies after 5 recoveries", len(got))
	}
	// Others join it as they would join any swarm.
	n := c.node("new", fast, false)
	c.change(func() error { return back.AddLearner(c.ctx(), "new", n.opt.Address) })
	c.change(func() error { return back.Promote(c.ctx(), "new") })
	c.propose(n, "5=x")
	c.same(5, back, n)
}

func TestNothingIsRecoveredFromNothing(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "mistyped")
	want(t, Recover(Options{Dir: dir, ID: "a", Address: "a:1", FSM: &journal{}}), ErrNoState)
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Error("a directory was made")
	}
	want(t, Recover(Options{Storage: newDisk(), ID: "a", Address: "a:1", FSM: &journal{}}), ErrNoState)
	empty := filepath.Join(t.TempDir(), "empty")
	f, err := openFiles(empty, "a", testLogger(t, "a"))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	want(t, Recover(Options{Dir: empty, ID: "a", Address: "a:1", FSM: &journal{}}), ErrNoState)
	if got := copies(t, empty); len(got) != 0 {
		t.Errorf("copies of nothing: %q", got)
	}
}

// The lost come back: they have decided what the recovered one never heard of, they have applied it, they were not
// restarted since, and their terms are higher. What they know more has to go.
func TestThoseWhoWereLostForgetWhatTheyKnewMore(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	follower := c.node("follower", fast, false)
	c.propose(nodes[0], "1=x")
	c.same(1, nodes...)
	cut := nodes[2]
	c.isolate(cut.id)
	for i := range 5 {
		c.propose(nodes[0], fmt.Sprintf("lost-%d=x", i))
	}
	for range 3 { // terms that the cut off one never hears of
		c.change(func() error { return nodes[0].TransferTo(c.ctx(), nodes[1].id) })
		c.change(func() error { return nodes[1].TransferTo(c.ctx(), nodes[0].id) })
	}
	ctx, cancel := context.WithCancel(t.Context())
	fed := make(chan struct{})
	go func() { defer close(fed); _, _ = c.feed(ctx, nodes[0], follower) }()
	c.same(6, nodes[0], nodes[1], follower)
	cancel()
	<-fed
	c.isolate(nodes[0].id) // alive, but nobody reaches it, so there is no majority
	c.kill(nodes[1])
	c.stop(cut)
	c.heal(cut.id)

	back := c.recovered(cut)
	if lost, now := nodes[0].Stats().Term, back.Stats().Term; now <= lost {
		t.Errorf("it leads in term %d, one of the lost is in %d already and will depose it", now, lost)
	}
	c.propose(back, "2=x")
	c.holds(back, "1=x", "2=x")
	c.fed(follower, back)
	c.holds(follower, "1=x", "2=x")
	c.heal(nodes[0].id)
	c.change(func() error { return back.AddLearner(c.ctx(), nodes[0].id, nodes[0].opt.Address) })
	c.holds(nodes[0], "1=x", "2=x")
	lost := c.restart(nodes[1])
	c.change(func() error { return back.AddLearner(c.ctx(), lost.id, lost.opt.Address) })
	c.holds(lost, "1=x", "2=x")
	for _, n := range []*testNode{nodes[0], lost} {
		c.change(func() error { return back.Promote(c.ctx(), n.id) })
	}
	c.propose(follower, "3=x")
	// Also one of the lost may lead now, and bring up a node from nothing.
	c.change(func() error { return back.TransferTo(c.ctx(), nodes[0].id) })
	n := c.node("new", fast, false)
	c.change(func() error { return nodes[0].AddLearner(c.ctx(), "new", n.opt.Address) })
	for _, m := range []*testNode{back, nodes[0], lost, follower, n} {
		c.holds(m, "1=x", "2=x", "3=x")
	}
	if first, err := nodes[0].store.logs.FirstIndex(); err != nil || first < leap {
		t.Errorf("its log still begins at %d: entries from before the recovery (%v)", first, err)
	}
}

// A node whose snapshot holds more than raft thinks, because a feed was ahead, must not take new entries for old ones.
func TestRecoveryLeapsOverWhatAFeedBrought(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	d := newDisk()
	opt := c.options("a", "", fast)
	opt.Storage = d
	a := c.start(opt, true)
	c.leads(a)
	c.propose(a, "1=x")
	at := a.Applied()
	for i := range uint64(100) {
		c.must(a.fsm.applyFed(command{prev: at, index: at + i + 1000 + leap, data: fmt.Appendf(nil, "fed-%d=x", i)}))
		at += i + 1000 + leap // it was fed by a swarm that had been recovered
	}
	c.must(a.raft.Snapshot().Error())
	c.stop(a)
	c.must(Recover(Options{Storage: d, ID: "a", Address: "127.0.0.1:9", FSM: &journal{}}))
	again := c.options("a", "", fast)
	again.Storage = d
	b := c.start(again, false)
	c.leads(b)
	c.propose(b, "2=x")
	if b.Applied() < at {
		t.Errorf("it goes on at %d, but others were fed up to %d", b.Applied(), at)
	}
	if got := b.journal.all(); len(got) != 102 || got[101] != "2=x" {
		t.Errorf("holds %d: %q", len(got), strings.Join(got[max(0, len(got)-3):], " "))
	}
}
