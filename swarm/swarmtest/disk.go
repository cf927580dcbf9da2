package swarmtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"syscall"
	"time"

	"github.com/hashicorp/raft"
)

// Disk is a host's disk, as the storage of a ledger: it has the methods of ledger.Storage. What a method has returned from
// is synced, as with bbolt; a crash forgets the rest. What Logs, Stable and Snapshots return belongs to the host's present
// life: after a crash they go on without an error on a copy that nobody will see, since raft panics if it cannot write its
// term, and a node that is being torn down must not.
type Disk struct {
	host *Host
	// The fields below are guarded by Network.mu.
	content *content
	stale   *content // what a disk that lies keeps in truth; nil for an honest one
	delay   time.Duration
	full    bool
}

// content is what is on a disk. A crash replaces it; who wrote on the old one goes on doing so.
type content struct {
	first, last uint64
	logs        map[uint64]*raft.Log // entries are never changed
	stable      map[string][]byte
	snapshots   []*stored // the newest last
	next        int
}

type stored struct {
	meta raft.SnapshotMeta
	data []byte
}

// keepSnapshots is as many as the ledger keeps in files.
const keepSnapshots = 2

func newContent() *content {
	return &content{logs: map[uint64]*raft.Log{}, stable: map[string][]byte{}}
}

func (c *content) clone() *content {
	return &content{
		first: c.first, last: c.last, logs: maps.Clone(c.logs), stable: maps.Clone(c.stable),
		snapshots: slices.Clone(c.snapshots), next: c.next,
	}
}

func newDisk(h *Host) *Disk { return &Disk{host: h, content: newContent()} }

// handle is a disk in one life of its host.
type handle struct {
	disk    *Disk
	life    *life
	content *content
}

func (d *Disk) open() handle {
	d.host.net.mu.Lock()
	defer d.host.net.mu.Unlock()
	if d.host.life == nil { // opened between two lives: nobody will see it
		return handle{disk: d, life: newLife(d.host), content: newContent()}
	}
	return handle{disk: d, life: d.host.life, content: d.content}
}

// Logs is raft's log on this disk.
func (d *Disk) Logs() raft.LogStore { return logStore{d.open()} }

// Stable holds raft's term and vote.
func (d *Disk) Stable() raft.StableStore { return stableStore{d.open()} }

// Snapshots holds the newest two.
func (d *Disk) Snapshots() raft.SnapshotStore { return snapshotStore{d.open()} }

// Close does nothing: the disk stays.
func (d *Disk) Close() error { return nil }

// SetSyncDelay makes every write take that long from now on.
func (d *Disk) SetSyncDelay(delay time.Duration) {
	d.host.net.mu.Lock()
	defer d.host.net.mu.Unlock()
	d.delay = delay
}

// SetFull makes writes of log entries and snapshots fail with ENOSPC. Term and vote fit in still: raft panics without.
func (d *Disk) SetFull(full bool) {
	d.host.net.mu.Lock()
	defer d.host.net.mu.Unlock()
	d.full = full
}

// SetLying makes the disk keep nothing of what it says to have synced from now on: the next crash takes it back to this
// moment. Nothing can be safe on such a disk; tests use it to see that their invariants notice.
func (d *Disk) SetLying() {
	d.host.net.mu.Lock()
	defer d.host.net.mu.Unlock()
	d.stale = d.content.clone()
}

// Wipe empties the disk of a crashed host.
func (d *Disk) Wipe() {
	d.host.net.mu.Lock()
	defer d.host.net.mu.Unlock()
	d.content, d.stale = newContent(), nil
}

// crash is called with mu held.
func (d *Disk) crash() {
	if d.stale != nil {
		d.content, d.stale = d.stale, nil
		return
	}
	d.content = d.content.clone()
}

// write carries out one synced write. A crash while it waits loses the write, or keeps it, by the seed; nobody is told
// that it succeeded in either case.
func (h handle) write(bulk bool, do func(*content)) error {
	n, host := h.disk.host.net, h.disk.host
	n.mu.Lock()
	delay, paused := h.disk.delay, host.paused
	if h.life.check() != nil {
		delay, paused = 0, false
	}
	if bulk && h.disk.full && h.life.check() == nil {
		n.mu.Unlock()
		return fmt.Errorf("disk of %s: %w", host.name, syscall.ENOSPC)
	}
	if delay <= 0 && !paused {
		do(h.content)
		n.mu.Unlock()
		return nil
	}
	early := n.rng.IntN(2) == 0
	if early { // it reaches the disk at once, and is acknowledged later
		do(h.content)
	}
	n.mu.Unlock()
	_ = pass(context.Background(), h.life.over, delay)
	_ = h.life.awake(context.Background()) // an error is the end of this life: the write goes nowhere
	if !early {
		n.mu.Lock()
		do(h.content)
		n.mu.Unlock()
	}
	return nil
}

// read looks at the disk. It never waits: nobody outside could tell that a paused host has read.
func (h handle) read(look func(*content) error) error {
	h.disk.host.net.mu.Lock()
	defer h.disk.host.net.mu.Unlock()
	return look(h.content)
}

type logStore struct{ handle }

var _ raft.LogStore = logStore{}

func (s logStore) FirstIndex() (index uint64, err error) {
	err = s.read(func(c *content) error { index = c.first; return nil })
	return index, err
}

func (s logStore) LastIndex() (index uint64, err error) {
	err = s.read(func(c *content) error { index = c.last; return nil })
	return index, err
}

func (s logStore) GetLog(index uint64, into *raft.Log) error {
	return s.read(func(c *content) error {
		entry, ok := c.logs[index]
		if !ok {
			return raft.ErrLogNotFound
		}
		*into = *entry
		return nil
	})
}

func (s logStore) StoreLog(entry *raft.Log) error { return s.StoreLogs([]*raft.Log{entry}) }

func (s logStore) StoreLogs(entries []*raft.Log) error {
	copies := make([]raft.Log, len(entries))
	for i, e := range entries {
		copies[i] = *e
		copies[i].Data, copies[i].Extensions = bytes.Clone(e.Data), bytes.Clone(e.Extensions)
	}
	return s.write(true, func(c *content) {
		for i := range copies {
			e := &copies[i]
			c.logs[e.Index] = e
			if c.first == 0 || e.Index < c.first {
				c.first = e.Index
			}
			c.last = max(c.last, e.Index)
		}
	})
}

func (s logStore) DeleteRange(from, to uint64) error {
	return s.write(false, func(c *content) {
		if c.first == 0 || from > c.last || to < c.first {
			return
		}
		for i := max(from, c.first); i <= min(to, c.last); i++ {
			delete(c.logs, i)
		}
		switch {
		case from <= c.first && to >= c.last:
			c.first, c.last = 0, 0
		case from <= c.first:
			c.first = to + 1
		case to >= c.last:
			c.last = from - 1
		}
	})
}

type stableStore struct{ handle }

// errNotFound reads as raft wants it: it compares the text.
var errNotFound = errors.New("not found")

var _ raft.StableStore = stableStore{}

func (s stableStore) Set(key, value []byte) error {
	kept := bytes.Clone(value)
	return s.write(false, func(c *content) { c.stable[string(key)] = kept })
}

func (s stableStore) Get(key []byte) (value []byte, err error) {
	err = s.read(func(c *content) error {
		kept, ok := c.stable[string(key)]
		if !ok {
			return errNotFound
		}
		value = bytes.Clone(kept)
		return nil
	})
	return value, err
}

func (s stableStore) SetUint64(key []byte, value uint64) error {
	return s.Set(key, fmt.Append(nil, value))
}

func (s stableStore) GetUint64(key []byte) (value uint64, err error) {
	text, err := s.Get(key)
	if err != nil {
		return 0, err
	}
	_, err = fmt.Sscan(string(text), &value)
	return value, err
}

type snapshotStore struct{ handle }

var _ raft.SnapshotStore = snapshotStore{}

func (s snapshotStore) Create(version raft.SnapshotVersion, index, term uint64, configuration raft.Configuration,
	configurationIndex uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	var id string
	err := s.write(true, func(c *content) {
		c.next++
		id = fmt.Sprintf("%d-%d-%d", term, index, c.next)
	})
	if err != nil {
		return nil, err
	}
	return &sink{handle: s.handle, meta: raft.SnapshotMeta{
		Version: version, ID: id, Index: index, Term: term,
		Configuration: configuration.Clone(), ConfigurationIndex: configurationIndex,
	}}, nil
}

func (s snapshotStore) List() (list []*raft.SnapshotMeta, err error) {
	err = s.read(func(c *content) error {
		for _, snap := range slices.Backward(c.snapshots) {
			meta := snap.meta
			list = append(list, &meta)
		}
		return nil
	})
	return list, err
}

func (s snapshotStore) Open(id string) (meta *raft.SnapshotMeta, data io.ReadCloser, err error) {
	err = s.read(func(c *content) error {
		for _, snap := range c.snapshots {
			if snap.meta.ID == id {
				m := snap.meta
				meta, data = &m, io.NopCloser(bytes.NewReader(snap.data))
				return nil
			}
		}
		return fmt.Errorf("no snapshot %s", id)
	})
	return meta, data, err
}

// sink is a snapshot that is being written; it counts once it is closed.
type sink struct {
	handle
	meta raft.SnapshotMeta
	data []byte
	done bool
}

func (s *sink) ID() string { return s.meta.ID }

func (s *sink) Write(b []byte) (int, error) {
	n := s.disk.host.net
	n.mu.Lock()
	full := s.disk.full && s.life.check() == nil
	n.mu.Unlock()
	if full {
		return 0, fmt.Errorf("disk of %s: %w", s.disk.host.name, syscall.ENOSPC)
	}
	s.data = append(s.data, b...)
	return len(b), nil
}

func (s *sink) Close() error {
	if s.done {
		return nil
	}
	s.done = true
	s.meta.Size = int64(len(s.data))
	return s.write(true, func(c *content) {
		c.snapshots = append(c.snapshots, &stored{meta: s.meta, data: s.data})
		slices.SortStableFunc(c.snapshots, func(a, b *stored) int {
			if a.meta.Term != b.meta.Term {
				return int(a.meta.Term) - int(b.meta.Term)
			}
			return int(a.meta.Index) - int(b.meta.Index)
		})
		if extra := len(c.snapshots) - keepSnapshots; extra > 0 {
			c.snapshots = slices.Delete(c.snapshots, 0, extra)
		}
	})
}

func (s *sink) Cancel() error {
	s.done = true
	return nil
}
