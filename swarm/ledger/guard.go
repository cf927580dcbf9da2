package ledger

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// guard ends the node in order where raft would panic. raft panics when it cannot write its term down, and when it cannot
// read an entry that is committed: it must not go on then, and indeed nobody may. The guard ends the goroutine of raft
// that ran into it (its deferred calls run, so whoever waits for it gets an answer), and tells Run, which stops the rest
// and returns the error.
type guard struct {
	once   sync.Once
	broken chan struct{} // closed when the storage has failed for good
	err    error         // set before broken is closed
}

func newGuard() *guard { return &guard{broken: make(chan struct{})} }

// fail notes the first failure.
func (g *guard) fail(err error) {
	g.once.Do(func() {
		g.err = fmt.Errorf("%w: %w", ErrStorage, err)
		close(g.broken)
	})
}

// end does not return: raft would take what it got back for a reason to panic.
func (g *guard) end(err error) {
	g.fail(err)
	runtime.Goexit()
}

// failure is nil as long as the storage works.
func (g *guard) failure() error {
	select {
	case <-g.broken:
		return g.err
	default:
		return nil
	}
}

// guardedLogs ends raft when entries cannot be read. A failed write raft can bear: a leader steps down, others say no. What
// it cannot bear is that entries were removed from the end and none came in their place: it still takes them for its last
// ones, and panics when they are committed. That happens when the write behind the removal fails (raft 1.8, raft.go,
// appendEntries, says so itself), and when a snapshot is installed over entries that nobody else has. A restart heals it.
type guardedLogs struct {
	raft.LogStore
	newest func() (index, term uint64) // of the snapshots
	guard  *guard
	gone   atomic.Uint64 // the last of the entries that were removed like that, 0 if there are none
}

var _ raft.MonotonicLogStore = (*guardedLogs)(nil)

func (l *guardedLogs) GetLog(index uint64, entry *raft.Log) error {
	err := l.LogStore.GetLog(index, entry)
	switch {
	case err == nil:
	case !errors.Is(err, raft.ErrLogNotFound):
		l.guard.end(fmt.Errorf("read entry %d: %w", index, err))
	case index <= l.gone.Load():
		if last, e := l.LastIndex(); e == nil && index > last {
			l.guard.end(fmt.Errorf("entry %d was removed, and raft does not know: a restart heals this", index))
		}
	}
	return err
}

func (l *guardedLogs) DeleteRange(from, to uint64) error {
	last, err := l.LastIndex()
	if err != nil {
		return err
	}
	if err := l.LogStore.DeleteRange(from, to); err != nil {
		return err
	}
	if to >= last && last > l.snapshot() {
		l.gone.Store(last)
	}
	return nil
}

// snapshot is the index of the newest one, 0 if there is none.
func (l *guardedLogs) snapshot() uint64 {
	index, _ := l.newest()
	return index
}

func (l *guardedLogs) StoreLog(entry *raft.Log) error { return l.StoreLogs([]*raft.Log{entry}) }

func (l *guardedLogs) StoreLogs(entries []*raft.Log) error {
	err := l.LogStore.StoreLogs(entries)
	if err == nil {
		l.gone.Store(0)
	} else if l.gone.Load() > 0 {
		l.guard.end(fmt.Errorf("write entries in the place of others: %w", err))
	}
	return err
}

// IsMonotonic is asked by raft when it has installed a snapshot from elsewhere: whether to drop the whole log. Yes, if all
// of it is older: after a recovery such entries may be others than those that the swarm goes on with. Never, if some is
// newer: this node may have promised to keep it, and raft would go on as if it were there.
func (l *guardedLogs) IsMonotonic() bool {
	last, err := l.LastIndex()
	return err == nil && last <= l.snapshot()
}

// guardedStable ends raft when its term cannot be written.
type guardedStable struct {
	raft.StableStore
	guard *guard
}

// termKey is raft's own name for the term (raft.go, keyCurrentTerm).
const termKey = "CurrentTerm"

func (s guardedStable) SetUint64(key []byte, value uint64) error {
	err := s.StableStore.SetUint64(key, value)
	if err != nil && string(key) == termKey {
		s.guard.end(fmt.Errorf("write term %d: %w", value, err))
	}
	return err
}
