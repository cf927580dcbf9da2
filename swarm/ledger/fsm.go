package ledger

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// fsm drives the StateMachine, for raft and for a feed: whichever brings a command first has it applied, and the other
// finds it done. One mutex makes them take turns. Beside passing calls on it knows the index of the last command that the
// state machine has really seen: raft's own applied index runs ahead of it (raft counts what it handed to a queue), and
// counts entries that are none of the state machine's business.
type fsm struct {
	machine StateMachine
	applied atomic.Uint64 // written under mu
	moved   signal
	bytes   atomic.Int64 // of the commands since the last snapshot of this node

	mu      sync.Mutex
	fedTo   uint64 // the state is ahead of raft, up to here, because a feed brought it there; 0: it is not
	recent  recent
	arrival *arrival    // a saved snapshot of which not all parts are there; nil: none
	broken  error       // an entry cannot be carried out: nothing more is applied
	fail    func(error) // told of it, if not nil
}

var _ raft.FSM = (*fsm)(nil)

func newFSM(machine StateMachine) *fsm { return &fsm{machine: machine} }

// outcome is what raft's future carries back to the proposer on the leader.
type outcome struct {
	index   uint64
	result  []byte
	known   bool  // a feed had brought the command before, or it cannot be carried out here: there is no result
	refused error // of the ledger's own entries
}

// Apply is called by raft for every committed command, in order, from one goroutine.
func (f *fsm) Apply(entry *raft.Log) any {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return outcome{index: entry.Index, known: true}
	}
	if f.arrival.tooOld(entry.Index) {
		f.arrival = nil
	}
	switch string(entry.Extensions) {
	case "":
	case extPart:
		f.arrival = f.arrival.add(entry.Index, entry.Data)
		return outcome{index: entry.Index}
	case extWhole:
		return f.install(entry)
	default:
		f.breaks(entry.Index, fmt.Errorf("%w: an entry of kind %.40q: upgrade this node", ErrFormat, entry.Extensions))
		return outcome{index: entry.Index, known: true}
	}
	if entry.Index <= f.applied.Load() {
		return outcome{index: entry.Index, known: true}
	}
	f.fedTo = 0 // raft has come to where the feed had ended, and is the authority again
	return outcome{index: entry.Index, result: f.apply(entry.Index, entry.Data)}
}

// breaks stops this state machine for good: going on without an entry would be another history.
func (f *fsm) breaks(index uint64, err error) {
	f.broken = fmt.Errorf("entry %d: %w", index, err)
	if f.fail != nil {
		f.fail(f.broken)
	}
}

// errGap: a command does not follow what was applied last.
var errGap = errors.New("commands are missing")

// applyFed applies a command from a feed, if it is the next one. One that is known already is skipped: raft was faster.
func (f *fsm) applyFed(c command) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	applied := f.applied.Load()
	if f.broken != nil {
		return f.broken
	}
	if c.index <= applied {
		return nil
	}
	if c.prev != applied {
		return fmt.Errorf("%w: applied is %d, the command at %d follows %d", errGap, applied, c.index, c.prev)
	}
	f.apply(c.index, c.data)
	f.fedTo = c.index
	return nil
}

func (f *fsm) apply(index uint64, data []byte) []byte {
	f.bytes.Add(int64(len(data)))
	result := f.machine.Apply(index, data)
	f.recent.add(command{prev: f.applied.Load(), index: index, data: data})
	f.advance(index)
	return result
}

func (f *fsm) advance(index uint64) {
	f.applied.Store(index)
	f.moved.announce()
}

// after returns what was applied after the command at index: nothing if that is the last one, and false if it cannot be
// told any more, or is not known here.
func (f *fsm) after(index uint64, batch int) (some []command, ok bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if index == f.applied.Load() {
		return nil, true
	}
	return f.recent.after(index, batch)
}

// reaches tells whether a reader who has everything up to index can be given the rest.
func (f *fsm) reaches(index uint64) bool {
	_, ok := f.after(index, 1)
	return ok
}

// waitApplied returns when the state machine has seen the command at index.
func (f *fsm) waitApplied(ctx context.Context, stopping <-chan struct{}, index uint64) error {
	for {
		moved := f.moved.next()
		if f.applied.Load() >= index {
			return nil
		}
		select {
		case <-moved:
		case <-stopping:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// A snapshot is this header, then what the state machine wrote.
//
//	8 bytes  "OFFSNAP1"
//	8 bytes  index of the last command contained, big endian
const (
	snapshotMagic  = "OFFSNAP1"
	snapshotHeader = len(snapshotMagic) + 8
)

type snapshot struct {
	index uint64
	write func(io.Writer) error
}

// capture takes the state and its index at one moment.
func (f *fsm) capture() (*snapshot, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken != nil {
		return nil, f.broken
	}
	write, err := f.machine.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("capture state: %w", err)
	}
	return &snapshot{index: f.applied.Load(), write: write}, nil
}

// Snapshot is called by raft from the goroutine that calls Apply. What it captures may be newer than raft thinks, if a
// feed was ahead: the index in the header counts. While a saved snapshot is arriving there is none: its parts must stay
// in the log, for members that come later.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	f.mu.Lock()
	arriving := f.arrival != nil
	f.mu.Unlock()
	if arriving {
		return nil, errors.New("not now: a saved snapshot is being restored")
	}
	return f.capture()
}

// Persist is called by raft while commands are applied again.
func (s *snapshot) Persist(sink raft.SnapshotSink) error {
	if err := s.writeTo(sink); err != nil {
		_ = sink.Cancel() // the first error is the one to tell
		return fmt.Errorf("write snapshot %s: %w", sink.ID(), err)
	}
	if err := sink.Close(); err != nil {
		return fmt.Errorf("finish snapshot %s: %w", sink.ID(), err)
	}
	return nil
}

func (s *snapshot) writeTo(w io.Writer) error {
	buffered := bufio.NewWriterSize(w, 64<<10)
	if _, err := buffered.Write(makeHeader(s.index)); err != nil {
		return err
	}
	if err := s.write(buffered); err != nil {
		return err
	}
	return buffered.Flush()
}

// Release is called by raft when it is done with the snapshot; the capture is only memory.
func (s *snapshot) Release() {}

func makeHeader(index uint64) []byte {
	return binary.BigEndian.AppendUint64([]byte(snapshotMagic), index)
}

func parseHeader(header []byte) (index uint64, err error) {
	if len(header) < snapshotHeader {
		return 0, fmt.Errorf("%w: a snapshot has at least %d bytes, this one %d", ErrFormat, snapshotHeader, len(header))
	}
	if string(header[:len(snapshotMagic)]) != snapshotMagic {
		return 0, fmt.Errorf("%w: a snapshot begins with %q, this with %q", ErrFormat, snapshotMagic, header[:len(snapshotMagic)])
	}
	return binary.BigEndian.Uint64(header[len(snapshotMagic):snapshotHeader]), nil
}

// Restore is called by raft at the start and when the leader sends a snapshot, never beside Apply. raft's word is law,
// with one exception: a state that a feed has brought further than the snapshot stays. raft goes on from the snapshot
// with commands that are known then.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer func() { _ = rc.Close() }() // read only: nothing to lose
	f.mu.Lock()
	defer f.mu.Unlock()
	f.arrival = nil // raft goes on from the snapshot, which was taken when nothing was arriving
	_, err := f.restore(rc, func(index uint64) bool { return f.fedTo > 0 && index <= f.fedTo })
	return err
}

// restoreFed takes a snapshot from a feed, unless what is here is as new.
func (f *fsm) restoreFed(r io.Reader) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	applied := f.applied.Load()
	if f.broken != nil {
		return f.broken
	}
	replaced, err := f.restore(r, func(index uint64) bool { return index <= applied })
	if replaced {
		f.fedTo = f.applied.Load()
	}
	return err
}

func (f *fsm) restore(r io.Reader, known func(index uint64) bool) (replaced bool, err error) {
	header := make([]byte, snapshotHeader)
	n, err := io.ReadFull(r, header)
	if err != nil && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, io.EOF) {
		return false, fmt.Errorf("read snapshot header: %w", err)
	}
	index, err := parseHeader(header[:n])
	if err != nil {
		return false, fmt.Errorf("read snapshot: %w", err)
	}
	if known(index) {
		return false, nil
	}
	if err := f.machine.Restore(r); err != nil {
		return false, fmt.Errorf("restore state: %w", err)
	}
	f.fedTo = 0
	f.recent.clear()
	f.advance(index)
	return true, nil
}
