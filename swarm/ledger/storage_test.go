package ledger

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/hashicorp/raft"

	"offshoot/swarm"
)

// disk is a Storage in memory whose parts can be made to fail, and whose log can be made to wait.
type disk struct {
	store     *raft.InmemStore
	snapshots raft.SnapshotStore
	full      atomic.Bool // entries cannot be written
	ill       atomic.Bool // term and vote cannot be written
	blind     atomic.Bool // entries cannot be read
	mu        sync.Mutex  // held while entries are to wait
	closed    atomic.Int32
}

var _ Storage = (*disk)(nil)

func newDisk() *disk {
	return &disk{store: raft.NewInmemStore(), snapshots: raft.NewInmemSnapshotStore()}
}

func (d *disk) Logs() raft.LogStore           { return diskLogs{d.store, d} }
func (d *disk) Stable() raft.StableStore      { return diskStable{d.store, d} }
func (d *disk) Snapshots() raft.SnapshotStore { return d.snapshots }
func (d *disk) Close() error                  { d.closed.Add(1); return nil }

type diskLogs struct {
	raft.LogStore
	disk *disk
}

func (l diskLogs) StoreLog(e *raft.Log) error { return l.StoreLogs([]*raft.Log{e}) }

func (l diskLogs) StoreLogs(e []*raft.Log) error {
	l.disk.mu.Lock()
	defer l.disk.mu.Unlock()
	if l.disk.full.Load() {
		return syscall.ENOSPC
	}
	return l.LogStore.StoreLogs(e)
}

func (l diskLogs) GetLog(i uint64, e *raft.Log) error {
	if l.disk.blind.Load() {
		return syscall.EIO
	}
	return l.LogStore.GetLog(i, e)
}

type diskStable struct {
	raft.StableStore
	disk *disk
}

func (s diskStable) SetUint64(k []byte, v uint64) error {
	if s.disk.ill.Load() {
		return syscall.ENOSPC
	}
	return s.StableStore.SetUint64(k, v)
}

func (s diskStable) Set(k, v []byte) error {
	if s.disk.ill.Load() {
		return syscall.ENOSPC
	}
	return s.StableStore.Set(k, v)
}

// onDisks makes a swarm of voters with disks in memory.
func (c *cluster) onDisks(n int) ([]*testNode, []*disk) {
	c.t.Helper()
	var nodes []*testNode
	var disks []*disk
	for i := range n {
		opt := c.options(swarm.NodeID(fmt.Sprintf("node-%d", i)), "", fast)
		d := newDisk()
		opt.Storage = d
		m := c.start(opt, i == 0)
		if i == 0 {
			c.leads(m)
		} else {
			c.change(func() error { return nodes[0].AddLearner(c.ctx(), m.id, m.opt.Address) })
			c.change(func() error { return nodes[0].Promote(c.ctx(), m.id) })
		}
		nodes, disks = append(nodes, m), append(disks, d)
	}
	c.caughtUp(nodes)
	return nodes, disks
}

// ends expects a node to end by itself, with ErrStorage.
func (c *cluster) ends(n *testNode) {
	c.t.Helper()
	select {
	case err := <-n.ended:
		want(c.t, err, ErrStorage)
	case <-c.ctx().Done():
		c.t.Errorf("node %s does not end", n.id)
	}
	c.mu.Lock()
	delete(c.nodes, n.id)
	delete(c.at, n.opt.Address)
	c.mu.Unlock()
}

func TestGivenStorageIsUsedAndClosedOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes, disks := c.onDisks(1)
	c.propose(nodes[0], "1=x")
	c.stop(nodes[0])
	if n := disks[0].closed.Load(); n != 1 {
		t.Errorf("storage was closed %d times", n)
	}
	opt := c.options("node-0", "", fast)
	opt.Storage = disks[0]
	again := c.start(opt, false)
	c.leads(again)
	c.propose(again, "2=x")
	c.holds(again, "1=x", "2=x")
}

func TestFullDiskNeverAcknowledges(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes, disks := c.onDisks(1)
	c.propose(nodes[0], "1=x")
	disks[0].full.Store(true)
	_, err := nodes[0].Propose(c.within(1500*time.Millisecond), []byte("2=x"))
	if err == nil {
		t.Error("a command was acknowledged that is not on the disk")
	}
	if got := nodes[0].journal.all(); len(got) != 1 {
		t.Errorf("applied though not written: %q", got)
	}
	if _, err := nodes[0].Commit(c.within(time.Second), []byte("3=x")); err == nil {
		t.Error("a command was acknowledged that is not on the disk")
	}
	disks[0].full.Store(false)
	c.propose(nodes[0], "4=x")
	c.holds(nodes[0], "1=x", "4=x")
}

func TestSwarmGoesOnWhenTheLeadersDiskIsFull(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes, disks := c.onDisks(3)
	c.propose(nodes[0], "1=x")
	disks[0].full.Store(true)
	disks[0].ill.Store(true) // a disk that is full is so for everything
	for i := range 20 {
		c.propose(nodes[1], fmt.Sprintf("more-%d=x", i))
	}
	if nodes[0].IsLeader() {
		t.Error("a node whose disk is full leads")
	}
	c.ends(nodes[0])
	c.same(21, nodes[1], nodes[2])
	// With room again, it comes back from what it has.
	disks[0].full.Store(false)
	disks[0].ill.Store(false)
	opt := c.options("node-0", "", fast)
	opt.Storage, opt.Address = disks[0], nodes[0].opt.Address
	_ = opt.Listener.Close()
	opt.Listener = relisten(c, opt.Address)
	back := c.start(opt, false)
	c.same(21, nodes[1], nodes[2], back)
}

func TestNodeEndsInOrderWhenItsTermCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes, disks := c.onDisks(2)
	c.propose(nodes[0], "1=x")
	disks[1].ill.Store(true)
	c.kill(nodes[0]) // so that node-1 asks for votes, in a new term
	c.eventually("pre-vote needs the other", func() error {
		if nodes[1].IsLeader() {
			return errors.New("leads")
		}
		return nil
	})
	// node-0 comes back and is elected, in a term that node-1 cannot write down.
	opt := c.options("node-0", "", fast)
	opt.Storage, opt.Address = disks[0], nodes[0].opt.Address
	_ = opt.Listener.Close()
	opt.Listener = relisten(c, opt.Address)
	c.start(opt, false)
	c.ends(nodes[1])
	_, err := nodes[1].Propose(c.ctx(), []byte("2=x"))
	want(t, err, ErrStopped)
	if n := disks[1].closed.Load(); n != 1 {
		t.Errorf("storage was closed %d times", n)
	}
}

func TestNodeDoesNotStartWhenItsTermCannotBeWritten(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes, disks := c.onDisks(1)
	c.stop(nodes[0])
	disks[0].ill.Store(true)
	opt := c.options("node-0", "", fast)
	opt.Storage = disks[0]
	l, err := Open(opt)
	c.must(err)
	want(t, l.Run(c.ctx()), ErrStorage)
}

func TestNodeEndsInOrderWhenEntriesCannotBeRead(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes, disks := c.onDisks(1)
	c.propose(nodes[0], "1=x")
	disks[0].blind.Store(true)
	late := c.node("late", fast, false) // needs old entries, which the cache may have: so they are dropped from it
	_ = nodes[0].store.logs.DeleteRange(1<<40, 1<<40)
	c.change(func() error {
		if err := nodes[0].AddLearner(c.ctx(), late.id, late.opt.Address); err != nil && !errors.Is(err, ErrStopped) {
			return err
		}
		return nil
	})
	c.ends(nodes[0])
}

func TestMoreRequestsThanRaftCanBearAreRefusedAtOnce(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	nodes, disks := c.onDisks(1)
	a := nodes[0]
	c.propose(a, "first=x")
	disks[0].mu.Lock() // the disk stands still
	var all sync.WaitGroup
	var acknowledged atomic.Int64
	for i := range MaxPending {
		all.Go(func() {
			if _, err := a.Accept(context.Background(), fmt.Appendf(nil, "%d=x", i)); err == nil {
				acknowledged.Add(1)
			}
		})
	}
	c.eventually("all are under way", func() error {
		if n := a.Stats().Pending; n < MaxPending {
			return fmt.Errorf("%d", n)
		}
		return nil
	})
	began := time.Now()
	_, err := a.Accept(c.ctx(), []byte("too-many=x"))
	want(t, err, ErrBusy)
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s to say so", took)
	}
	_, err = a.Propose(c.within(300*time.Millisecond), []byte("too-many=x"))
	want(t, err, ErrBusy)
	proposed := make(chan error, 1)
	go func() {
		_, err := a.Propose(context.Background(), []byte("patient=x"))
		proposed <- err
	}()
	disks[0].mu.Unlock()
	all.Wait()
	c.must(<-proposed)
	if got := len(a.journal.all()); int64(got) < acknowledged.Load()+2 {
		t.Errorf("%d acknowledged, %d applied", acknowledged.Load(), got)
	}
	if a.journal.all()[0] != "first=x" {
		t.Error("order")
	}
}

func TestResultThatAFeedTookAwayIsNotMadeUp(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.propose(a, "1=x")
	// As if a feed had brought the next command, before this node was elected and while its queue stood still.
	next := a.raft.LastIndex() + 1
	c.must(a.fsm.applyFed(command{prev: a.Applied(), index: next, data: []byte("2=x")}))
	if _, err := a.Commit(c.ctx(), []byte("2=x")); err == nil {
		t.Error("a result was made up")
	}
	if got := c.propose(a, "2=x"); got != "2" {
		t.Errorf("asked again: %q, want 2", got)
	}
}
