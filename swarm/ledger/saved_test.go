package ledger

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"offshoot/swarm"
)

func (c *cluster) save(n *testNode) []byte {
	c.t.Helper()
	var b bytes.Buffer
	c.must(n.SaveSnapshot(&b))
	return b.Bytes()
}

func TestSnapshotIsRestoredOnEveryNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	learner, follower := c.node("learner", fast, false), c.node("follower", fast, false)
	c.change(func() error { return nodes[0].AddLearner(c.ctx(), "learner", learner.opt.Address) })
	everybody := append([]*testNode{learner, follower}, nodes...)
	want(t, follower.SaveSnapshot(io.Discard), ErrNoState)
	c.propose(nodes[0], "1=x")
	c.fed(follower, learner)
	c.propose(follower, "2=x")
	saved := c.save(follower)
	c.propose(nodes[1], "3=x")

	leader := c.leader(nodes)
	for _, n := range []*testNode{learner, follower} {
		want(t, n.RestoreSnapshot(c.ctx(), bytes.NewReader(saved)), ErrNotLeader)
	}
	c.must(leader.RestoreSnapshot(c.ctx(), bytes.NewReader(saved)))
	for _, n := range everybody {
		c.holds(n, "1=x", "2=x")
	}
	c.propose(follower, "4=x")
	for _, n := range everybody {
		c.holds(n, "1=x", "2=x", "4=x")
	}
	// Twice, and with everything stopped in between.
	c.must(c.leader(nodes).RestoreSnapshot(c.ctx(), bytes.NewReader(saved)))
	c.propose(nodes[2], "5=x")
	for i, n := range nodes {
		c.kill(n)
		opt := c.options(n.id, n.dir, fast)
		_ = opt.Listener.Close()
		opt.Listener, opt.Address = relisten(c, n.opt.Address), n.opt.Address
		nodes[i] = c.start(opt, false)
	}
	c.propose(nodes[0], "6=x")
	for _, n := range append([]*testNode{learner, follower}, nodes...) {
		c.holds(n, "1=x", "2=x", "5=x", "6=x")
	}
}

func TestGarbageIsNotRestored(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	opt := c.options("a", scratch(t), fast)
	opt.Check = func(r io.Reader) error {
		b, err := io.ReadAll(r)
		if bytes.Contains(b, []byte("forbidden")) {
			err = errors.New("it does not like it")
		}
		return err
	}
	a := c.start(opt, true)
	c.leads(a)
	c.propose(a, "1=x")
	good := c.save(a)
	c.propose(a, "forbidden=x")
	other := c.save(a)
	at, term := a.Applied(), a.Stats().Term
	flipped := bytes.Clone(good)
	flipped[len(flipped)/2] ^= 1
	for what, b := range map[string][]byte{
		"nothing": {}, "garbage": bytes.Repeat([]byte("garbage"), 99), "cut off": good[:len(good)-1],
		"longer": append(bytes.Clone(good), 0), "one bit": flipped, "what Check refuses": other,
	} {
		if err := a.RestoreSnapshot(c.ctx(), bytes.NewReader(b)); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v", what, err)
		}
	}
	broken := errors.New("line broke")
	want(t, a.RestoreSnapshot(c.ctx(), io.MultiReader(bytes.NewReader(good), errReader{broken})), broken)
	a.opt.Check = nil
	if err := a.RestoreSnapshot(c.ctx(), bytes.NewReader(good)); err == nil {
		t.Error("restored without a check")
	}
	if s := a.Stats(); a.Applied() != at || s.Term != term || s.Snapshot != 0 {
		t.Errorf("something has changed: %+v", s)
	}
	c.holds(a, "1=x", "forbidden=x")
	want(t, a.SaveSnapshot(shortWriter{}), io.ErrShortWrite)
}

// fit is a snapshot of n entries that takes several parts: random text does not compress.
func fit(t *testing.T, n int) (body []byte, entries []string) {
	t.Helper()
	text := make([]byte, 3*partBody/n)
	for i := range n {
		_, _ = rand.Read(text)
		entries = append(entries, fmt.Sprintf("%d=%x", i, text))
	}
	body, err := json.Marshal(entries)
	if err != nil {
		t.Fatal(err)
	}
	return body, entries
}

func TestRestoreInPartsIsAllOrNothing(t *testing.T) {
	body, entries := fit(t, 30)
	packed, err := pack(body)
	if err != nil {
		t.Fatal(err)
	}
	part := func(name string, at, to int) []byte {
		return append(binary.BigEndian.AppendUint64([]byte(name), uint64(at)), packed[at:to]...)
	}
	half := len(packed) / 2
	const a, b = "0123456789abcdef", "fedcba9876543210"
	sum := sha256.Sum256(packed)
	first, second, whole := part(a, 0, half), part(a, half, len(packed)), append([]byte(a), sum[:]...)
	type entry struct {
		ext  string
		data []byte
		skip uint64 // entries in between
	}
	for what, story := range map[string]struct {
		entries  []entry
		restored bool
	}{
		"whole":               {[]entry{{extPart, first, 0}, {"", []byte("x=y"), 0}, {extPart, second, 0}, {extWhole, whole, 0}}, true},
		"begun again":         {[]entry{{extPart, first, 0}, {extPart, first, 0}, {extPart, second, 0}, {extWhole, whole, 0}}, true},
		"part missing":        {[]entry{{extPart, first, 0}, {extWhole, whole, 0}}, false},
		"part twice":          {[]entry{{extPart, first, 0}, {extPart, second, 0}, {extPart, second, 0}, {extWhole, whole, 0}}, false},
		"only the end":        {[]entry{{extWhole, whole, 0}}, false},
		"part of another":     {[]entry{{extPart, first, 0}, {extPart, part(b, half, len(packed)), 0}, {extWhole, whole, 0}}, false},
		"end of another":      {[]entry{{extPart, first, 0}, {extPart, second, 0}, {extWhole, append([]byte(b), sum[:]...), 0}}, false},
		"other sum":           {[]entry{{extPart, first, 0}, {extPart, second, 0}, {extWhole, append([]byte(a), make([]byte, 32)...), 0}}, false},
		"short part":          {[]entry{{extPart, first, 0}, {extPart, []byte("x"), 0}, {extPart, second, 0}, {extWhole, whole, 0}}, false},
		"given up":            {[]entry{{extPart, first, 0}, {extPart, second, arrivalLife}, {extWhole, whole, 0}}, false},
		"given up at the end": {[]entry{{extPart, first, 0}, {extPart, second, 0}, {extWhole, whole, arrivalLife}}, false},
	} {
		machine := &journal{}
		f := newFSM(machine)
		f.Apply(&raft.Log{Index: 1, Data: []byte("old=x")})
		index := uint64(1)
		var last outcome
		for _, e := range story.entries {
			index += 1 + e.skip
			last = f.Apply(&raft.Log{Index: index, Data: e.data, Extensions: []byte(e.ext)}).(outcome)
		}
		if _, err := f.Snapshot(); err != nil {
			t.Errorf("%s: something still arrives: %v", what, err)
		}
		if got := machine.all(); story.restored != (len(got) == len(entries)) || story.restored != (last.refused == nil) {
			t.Errorf("%s: holds %d, %v", what, len(got), last.refused)
		}
		if restored := f.applied.Load() == index; restored != story.restored || f.broken != nil {
			t.Errorf("%s: applied %d of %d, %v", what, f.applied.Load(), index, f.broken)
		}
	}
}

func TestNoSnapshotIsTakenWhileAnotherArrives(t *testing.T) {
	f := newFSM(&journal{})
	f.Apply(&raft.Log{Index: 2, Data: make([]byte, partHead), Extensions: []byte(extPart)})
	if _, err := f.Snapshot(); err == nil {
		t.Error("parts may be cut from the log before all are there")
	}
	f.Apply(&raft.Log{Index: 3 + arrivalLife, Data: []byte("1=x")})
	if _, err := f.Snapshot(); err != nil {
		t.Errorf("a restore that nobody finished keeps the log from being cut: %v", err)
	}
}

func TestEntryOfUnknownKindEndsTheNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.propose(a, "1=x")
	_, err := a.commit(c.ctx(), raft.Log{Data: []byte("2=x"), Extensions: []byte("from the future")})
	if err == nil {
		t.Error("it was acknowledged")
	}
	c.ends(a)
	if got := a.journal.all(); len(got) != 1 {
		t.Errorf("applied: %q", got)
	}
	want(t, a.SaveSnapshot(io.Discard), ErrFormat)
}

func TestSnapshotThatOneNodeCannotReadEndsThatNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	opt := c.options("b", scratch(t), fast)
	b := c.start(opt, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	c.propose(b, "1=x")
	saved := c.save(a)
	b.fsm.mu.Lock()
	b.fsm.machine = older{b.fsm.machine}
	b.fsm.mu.Unlock()
	c.must(a.RestoreSnapshot(c.ctx(), bytes.NewReader(saved)))
	c.ends(b)
	c.propose(a, "2=x")
}

// older is a state machine that does not understand today's snapshots.
type older struct{ StateMachine }

func (older) Restore(io.Reader) error { return errors.New("from the future") }

func TestLargeSnapshotIsRestoredWhileOthersPropose(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	opt := c.options("a", scratch(t), fast)
	opt.Compaction = Compaction{Interval: 10 * time.Millisecond, Threshold: 5, Trailing: 1}
	a := c.start(opt, true)
	c.leads(a)
	b := c.node("b", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "b", b.opt.Address) })
	f := c.node("f", fast, false)
	c.fed(f, b)
	stop := c.writing("w", a, f)
	body, entries := fit(t, 40)
	saved := append(makeHeader(77), body...)
	sum := sha256.Sum256(saved)
	saved = append(saved, sum[:]...)
	for range 5 {
		c.must(a.RestoreSnapshot(c.ctx(), bytes.NewReader(saved)))
	}
	stop()
	c.propose(a, "end=x")
	late := c.node("late", fast, false)
	c.change(func() error { return a.AddLearner(c.ctx(), "late", late.opt.Address) })
	c.same(len(entries)+1, a, b, f, late)
	if got := a.journal.all(); strings.Join(got[:len(entries)], "") != strings.Join(entries, "") {
		t.Error("the state does not begin with what was restored")
	}
}

type errReader struct{ err error }

func (r errReader) Read([]byte) (int, error) { return 0, r.err }

type shortWriter struct{}

func (shortWriter) Write([]byte) (int, error) { return 0, io.ErrShortWrite }

func FuzzReadSaved(f *testing.F) {
	f.Add([]byte(snapshotMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		if _, _, err := readSaved(bytes.NewReader(b)); err == nil {
			t.Errorf("%x has a SHA-256 that fits: congratulations", b)
		}
	})
}

func TestRestoreWithoutAMajorityChangesNothing(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes := c.voters(3)
	c.propose(nodes[0], "1=x")
	saved := c.save(nodes[0])
	c.propose(nodes[0], "2=x")
	c.isolate(nodes[0].id)
	if err := nodes[0].RestoreSnapshot(c.within(3*time.Second), bytes.NewReader(saved)); err == nil {
		t.Error("restored without a majority")
	}
	c.holds(nodes[0], "1=x", "2=x")
	c.propose(nodes[1], "3=x")
	c.heal(nodes[0].id)
	c.propose(nodes[1], "4=x")
	c.holds(nodes[0], "1=x", "2=x", "3=x", "4=x")
}

func TestMemberThatWasAwayForLongCatchesUpBySnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	opt := c.options("a", scratch(t), fast)
	opt.Compaction = Compaction{Interval: 50 * time.Millisecond} // otherwise the defaults
	a := c.start(opt, true)
	c.leads(a)
	nodes := []*testNode{a}
	for _, id := range []swarm.NodeID{"b", "c"} {
		n := c.node(id, fast, false)
		c.change(func() error { return a.AddLearner(c.ctx(), id, n.opt.Address) })
		c.change(func() error { return a.Promote(c.ctx(), id) })
		nodes = append(nodes, n)
	}
	c.propose(a, "first=x")
	away := nodes[2]
	c.kill(away)

	const commands, writers = 20_000, 200
	failed := make(chan error, writers)
	for w := range writers {
		go func() {
			var err error
			for i := range commands / writers {
				if _, e := nodes[0].Propose(c.within(time.Minute), fmt.Appendf(nil, "%d-%d=x", w, i)); e != nil {
					err = errors.Join(err, e)
				}
			}
			failed <- err
		}()
	}
	for range writers {
		c.must(<-failed)
	}
	c.eventually("the log is cut", func() error {
		first, err := a.store.logs.FirstIndex()
		if err == nil && first < 5000 {
			err = fmt.Errorf("log begins at %d", first)
		}
		return err
	})
	had := len(away.journal.all())
	back := c.options(away.id, away.dir, fast)
	_ = back.Listener.Close()
	back.Listener, back.Address = relisten(c, away.opt.Address), away.opt.Address
	away = c.start(back, false)
	c.same(commands+1, nodes[0], nodes[1], away)
	if had > 10 {
		t.Errorf("it was not away: it had %d", had)
	}
	if s := away.Stats().Snapshot; s < 5000 {
		t.Errorf("it has caught up without a snapshot: %d", s)
	}
	if !strings.HasPrefix(away.journal.all()[0], "first=") {
		t.Error("order")
	}
}
