package ledger

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

func TestFounderLeadsWithoutWaitingForAHeartbeat(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	began := time.Now()
	a := c.node("a", Timing{Heartbeat: 5 * time.Second, Election: 5 * time.Second}, true) // a timeout is 5 s to 10 s
	c.propose(a, "1=x")
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("founder took %s to decide something", took)
	}
}

func TestLearnerForwardsAndSeesItsOwnWrite(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	b := c.node("b", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	if got := c.propose(b, "1=x"); got != "1" {
		t.Errorf("answer of the state machine: got %q, want 1", got)
	}
	if got := b.journal.all(); len(got) != 1 {
		t.Errorf("proposer does not hold its own write: %q", got)
	}
}

func TestVoteMovesFromFounderToFirstDurableNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.propose(a, "1=x")
	b := c.node("b", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.change(func() error { return a.Promote(c.ctx(), "b") })
	c.change(func() error { return a.TransferTo(c.ctx(), "b") })
	c.leads(b)
	c.change(func() error { return b.Demote(c.ctx(), a.id) })
	c.propose(a, "2=x") // now from a learner
	c.kill(a)
	c.propose(b, "3=x")
	c.holds(b, "1=x", "2=x", "3=x")
	if m := b.Members(); len(m) != 2 || m[0].Voter || !m[1].Voter {
		t.Errorf("members: %+v, want a learner and b voter", m)
	}
}

func TestLeaderMayDemoteItself(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(2)
	c.change(func() error { return nodes[0].Demote(c.ctx(), nodes[0].id) })
	c.leads(nodes[1])
	c.propose(nodes[0], "1=x")
}

func TestStoppingLeaderHandsLeadershipOver(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	slow := Timing{Heartbeat: 3 * time.Second, Election: 3 * time.Second, Lease: 2 * time.Second}
	a := c.node("a", slow, true) // without handing over, b would lead after 3 s to 6 s
	c.leads(a)
	b := c.node("b", slow, false) // keeps office for its lease after a is gone
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.change(func() error { return a.Promote(c.ctx(), "b") })
	c.stop(a)
	if !b.IsLeader() {
		t.Error("b does not lead when the old leader has ended")
	}
}

func TestProposalsSurviveTheLossOfTheLeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	learner := c.node("learner", fast, false)
	c.change(func() error { return nodes[0].AddLearner(c.ctx(), "learner", learner.opt.Address) })
	c.propose(learner, "first=x")

	const writers, each = 4, 15
	var all sync.WaitGroup
	failed := make(chan error, writers*each)
	for w := range writers {
		from := []*testNode{nodes[1], nodes[2], learner, learner}[w]
		all.Go(func() {
			for i := range each {
				id := fmt.Sprintf("w%d-%d", w, i)
				if _, err := from.Propose(context.Background(), []byte(id+"=x")); err != nil {
					failed <- fmt.Errorf("%s: %w", id, err)
				}
			}
		})
	}
	c.eventually("some writes are in", func() error {
		if n := len(learner.journal.all()); n < 10 {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	c.kill(nodes[0])
	all.Wait()
	close(failed)
	for err := range failed {
		t.Error(err)
	}
	for _, n := range []*testNode{nodes[1], nodes[2], learner} {
		c.eventually(string(n.id)+" holds every write once", func() error {
			if got := len(n.journal.all()); got != writers*each+1 {
				return fmt.Errorf("%d of %d", got, writers*each+1)
			}
			return nil
		})
	}
	if a, b := nodes[1].journal.all(), learner.journal.all(); strings.Join(a, " ") != strings.Join(b, " ") {
		t.Errorf("order differs:\n%q\n%q", a, b)
	}
}

func TestWholeSwarmResumesFromDiskAtOtherAddresses(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	b := c.node("b", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.propose(b, "1=x")
	c.stop(b)
	c.stop(a)

	a, b = c.restart(a), c.restart(b)
	if !a.HasState() || !b.HasState() {
		t.Fatal("a restarted node says that it has no state")
	}
	c.leads(a)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) }) // as the node does when gossip shows another address
	c.propose(b, "2=x")
	c.holds(a, "1=x", "2=x")
	c.holds(b, "1=x", "2=x")
	c.eventually("leader's own address is corrected", func() error {
		if m, _ := find(b.Members(), a.id); m.Address != a.opt.Address || !m.Voter {
			return fmt.Errorf("b knows %+v", m)
		}
		return nil
	})
	if m, _ := find(a.Members(), "b"); m.Address != b.opt.Address || m.Voter {
		t.Errorf("b is listed as %+v", m)
	}
}

func TestThreeVotersResumeFromDisk(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	c.propose(nodes[1], "1=x")
	for _, n := range nodes {
		c.kill(n) // power loss: nobody says goodbye
	}
	for i, n := range nodes {
		// One of three may move; that two keep their address is what lets them elect.
		opt := c.options(n.id, n.dir, fast)
		if i > 0 {
			_ = opt.Listener.Close()
			opt.Listener = relisten(c, n.opt.Address)
			opt.Address = n.opt.Address
		}
		nodes[i] = c.start(opt, false)
	}
	c.propose(nodes[2], "2=x")
	c.holds(nodes[2], "1=x", "2=x")
	leader := c.leader(nodes)
	c.change(func() error { return leader.AddLearner(c.ctx(), nodes[0].id, nodes[0].opt.Address) }) // keeps the vote
	c.holds(nodes[0], "1=x", "2=x")
	if m, _ := find(leader.Members(), nodes[0].id); !m.Voter {
		t.Error("a voter that moved lost its vote")
	}
}

func TestLateJoinerRestoresASnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	opt := c.options("a", scratch(t), fast)
	opt.Compaction = Compaction{Interval: 20 * time.Millisecond, Threshold: 10, Trailing: 1}
	a := c.start(opt, true)
	for i := range 60 {
		c.propose(a, fmt.Sprintf("%d=x", i))
	}
	c.eventually("a snapshot is taken and the log cut", func() error {
		first, err := a.store.logs.FirstIndex()
		if err == nil && (a.Stats().Snapshot == 0 || first < 20) {
			err = fmt.Errorf("log begins at %d", first)
		}
		return err
	})
	b := c.node("b", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.eventually("b has caught up", func() error { return a.CaughtUp(c.ctx(), "b") })
	if got, want := strings.Join(b.journal.all(), " "), strings.Join(a.journal.all(), " "); got != want {
		t.Errorf("b holds %q, want %q", got, want)
	}
	// A restart from the snapshot knows how far it goes.
	before := b.Applied()
	c.stop(b)
	b = c.restart(b)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.eventually("b is as far as before", func() error {
		if b.Applied() < before {
			return fmt.Errorf("applied %d of %d", b.Applied(), before)
		}
		return nil
	})
}

func TestLossOfQuorumIsNamed(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	learner := c.node("learner", fast, false)
	c.change(func() error { return nodes[0].AddLearner(c.ctx(), "learner", learner.opt.Address) })
	c.propose(learner, "1=x")
	c.isolate(nodes[0].id)
	c.isolate(nodes[1].id)
	for _, n := range []*testNode{nodes[0], nodes[2]} { // the old leader, and a voter left alone
		_, err := n.Propose(c.within(1500*time.Millisecond), []byte("2=x"))
		want(t, err, ErrNoQuorum)
		want(t, err, context.DeadlineExceeded)
	}
	_, err := learner.Propose(c.within(100*time.Millisecond), []byte("3=x"))
	want(t, err, ErrNoLeader)
	if got := learner.journal.all(); len(got) != 1 {
		t.Errorf("decided without a majority: %q", got)
	}
	c.heal(nodes[0].id)
	c.heal(nodes[1].id)
	c.propose(learner, "4=x")
}

func TestProposalWaitsForALeader(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	b := c.node("b", fast, false) // a member of nothing yet
	done := make(chan error, 1)
	go func() {
		_, err := b.Propose(c.ctx(), []byte("1=x"))
		done <- err
	}()
	a := c.voters(1)[0]
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.must(<-done)
	c.holds(a, "1=x")
}

func TestSilentLearnerGetsNoVote(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.change(func() error { return a.AddLearner(c.ctx(), "ghost", "127.0.0.1:9") })
	want(t, a.Promote(c.ctx(), "ghost"), ErrBehind)
	want(t, a.CaughtUp(c.ctx(), "ghost"), ErrBehind)
	want(t, a.Promote(c.ctx(), "nobody"), ErrUnknownMember)
	c.propose(a, "1=x")
}

func TestLearnerThatAnswersButIsNotReplicatedToGetsNoVote(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	b := c.node("b", fast, false)
	opt := c.options("c", scratch(t), fast)
	_ = opt.Listener.Close() // raft can not reach it, its peer API can
	cNode := c.start(opt, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.change(func() error { return a.AddLearner(c.ctx(), "c", cNode.opt.Address) })
	want(t, a.Promote(c.ctx(), "c"), ErrBehind)
	c.change(func() error { return a.Promote(c.ctx(), "b") })
}

func TestVoterIsKeptWhenTheRestWouldHaveNoMajority(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	c.kill(nodes[2])
	want(t, nodes[0].Remove(c.ctx(), nodes[1].id), ErrNoQuorum)
	want(t, nodes[0].Demote(c.ctx(), nodes[1].id), ErrNoQuorum)
	c.propose(nodes[1], "1=x")
	c.change(func() error { return nodes[0].Remove(c.ctx(), nodes[2].id) }) // the dead one may go
	c.propose(nodes[1], "2=x")
}

func TestLastVoterKeepsItsVote(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	want(t, a.Demote(c.ctx(), a.id), ErrLastVoter)
	want(t, a.Remove(c.ctx(), a.id), ErrLastVoter)
	c.propose(a, "1=x")
}

func TestMembershipCallsAreIdempotent(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	b := c.node("b", fast, false)
	for range 2 {
		c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	}
	for range 2 {
		c.change(func() error { return a.Promote(c.ctx(), "b") })
	}
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	if m, _ := find(a.Members(), "b"); !m.Voter {
		t.Error("adding a voter as learner took its vote")
	}
	c.change(func() error { return a.TransferTo(c.ctx(), a.id) })
	for range 2 {
		c.change(func() error { return a.Demote(c.ctx(), "b") })
	}
	want(t, a.AddLearner(c.ctx(), "other", b.opt.Address), ErrAddressTaken)
	for range 2 {
		c.change(func() error { return a.Remove(c.ctx(), "b") })
	}
}

func TestMembershipIsTheLeadersBusiness(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(2)
	b := nodes[1]
	for what, err := range map[string]error{
		"add":      b.AddLearner(c.ctx(), "x", "127.0.0.1:9"),
		"promote":  b.Promote(c.ctx(), "x"),
		"demote":   b.Demote(c.ctx(), nodes[0].id),
		"remove":   b.Remove(c.ctx(), nodes[0].id),
		"transfer": b.TransferTo(c.ctx(), b.id),
		"verify":   b.Verify(c.ctx()),
		"caughtup": b.CaughtUp(c.ctx(), nodes[0].id),
	} {
		if !errors.Is(err, ErrNotLeader) {
			t.Errorf("%s on a follower: got %v", what, err)
		}
	}
	_, err := b.Accept(c.ctx(), []byte("1=x"))
	want(t, err, ErrNotLeader)
}

func TestContactEndsWithTheLeadersMajority(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	learner := c.node("learner", fast, false)
	c.change(func() error { return nodes[0].AddLearner(c.ctx(), "learner", learner.opt.Address) })
	near := func(n *testNode) error {
		if d := n.LeaderContact(); d > fast.Election {
			return fmt.Errorf("last contact %s ago", d)
		}
		return nil
	}
	for _, n := range append(nodes, learner) {
		c.eventually(string(n.id)+" is in contact", func() error { return near(n) })
	}
	// The learner still reaches the leader, who reaches nobody else.
	c.isolate(nodes[1].id)
	c.isolate(nodes[2].id)
	for _, n := range []*testNode{nodes[0], learner} {
		c.eventually(string(n.id)+" knows that contact is lost", func() error {
			if d := n.LeaderContact(); d < 3*fast.Election {
				return fmt.Errorf("last contact %s ago", d)
			}
			return nil
		})
	}
}

func TestLeadershipChangeIsAnnounced(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(2)
	c.eventually("b knows the leader", func() error {
		if id, _, _ := nodes[1].Leader(); id != nodes[0].id {
			return fmt.Errorf("it knows %q", id)
		}
		return nil
	})
	changed := nodes[1].LeadershipChanged()
	c.change(func() error { return nodes[0].TransferTo(c.ctx(), nodes[1].id) })
	select {
	case <-changed:
	case <-c.ctx().Done():
		t.Error("nothing was announced")
	}
}

func TestDirectoryOfAnotherVersionOrNodeIsRefused(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	_, err := Open(c.closing(c.options(a.id, a.dir, fast)))
	want(t, err, ErrInUse)
	c.stop(a)
	_, err = Open(c.closing(c.options("other", a.dir, fast)))
	want(t, err, ErrOtherNode)

	format := filepath.Join(a.dir, formatFile)
	c.must(os.WriteFile(format, []byte("offshoot-ledger 2 "+string(a.id)+"\n"), 0o600))
	_, err = Open(c.closing(c.options(a.id, a.dir, fast)))
	want(t, err, ErrFormat)
	if err == nil || !strings.Contains(err.Error(), "version 2") {
		t.Errorf("error does not name the version: %v", err)
	}
	c.must(os.Remove(format))
	_, err = Open(c.closing(c.options(a.id, a.dir, fast)))
	want(t, err, ErrFormat)
}

func TestSwarmIsNotFoundedTwiceOnOneDirectory(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.stop(a)
	opt := c.options(a.id, a.dir, fast)
	l, err := Open(opt)
	c.must(err)
	want(t, l.Found(), ErrHasState)
	c.must(l.Close())
	_, err = l.Propose(c.ctx(), nil)
	want(t, err, ErrStopped)
}

func TestOversizedCommandIsRefusedAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	_, err := a.Propose(c.ctx(), make([]byte, MaxCommand+1))
	want(t, err, ErrTooLarge)
	c.propose(a, "big="+strings.Repeat("x", MaxCommand-4))
}

// leader waits until one of nodes leads.
func (c *cluster) leader(nodes []*testNode) (leader *testNode) {
	c.t.Helper()
	c.eventually("someone leads", func() error {
		for _, n := range nodes {
			if n.Verify(context.Background()) == nil {
				leader = n
				return nil
			}
		}
		return ErrNoLeader
	})
	return leader
}

// closing frees the listener of options that Open is expected to refuse.
func (c *cluster) closing(opt Options) Options {
	c.t.Cleanup(func() { _ = opt.Listener.Close() })
	return opt
}
