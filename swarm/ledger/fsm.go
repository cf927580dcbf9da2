package ledger

import (
	"bufio"
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/hashicorp/raft"
)

// fsm is the three-method adaptor between raft and the StateMachine. Beside passing calls on it knows the index of the
// last command that the state machine has really seen: raft's own applied index runs ahead of it (raft counts what it
// handed to a queue), and counts entries that are none of the state machine's business.
type fsm struct {
	machine StateMachine
	applied atomic.Uint64
	moved   signal
}

var _ raft.FSM = (*fsm)(nil)

func newFSM(machine StateMachine) *fsm { return &fsm{machine: machine} }

// outcome is what raft's future carries back to the proposer on the leader.
type outcome struct {
	index  uint64
	result []byte
}

// Apply is called by raft for every committed command, in order, from one goroutine.
func (f *fsm) Apply(entry *raft.Log) any {
	result := f.machine.Apply(entry.Index, entry.Data)
	f.advance(entry.Index)
	return outcome{index: entry.Index, result: result}
}

func (f *fsm) advance(index uint64) {
	f.applied.Store(index)
	f.moved.announce()
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
const snapshotMagic = "OFFSNAP1"

type snapshot struct {
	index uint64
	write func(io.Writer) error
}

// Snapshot is called by raft from the goroutine that calls Apply.
func (f *fsm) Snapshot() (raft.FSMSnapshot, error) {
	write, err := f.machine.Snapshot()
	if err != nil {
		return nil, fmt.Errorf("capture state: %w", err)
	}
	return &snapshot{index: f.applied.Load(), write: write}, nil
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
	header := binary.BigEndian.AppendUint64([]byte(snapshotMagic), s.index)
	if _, err := buffered.Write(header); err != nil {
		return err
	}
	if err := s.write(buffered); err != nil {
		return err
	}
	return buffered.Flush()
}

// Release is called by raft when it is done with the snapshot; the capture is only memory.
func (s *snapshot) Release() {}

// Restore is called by raft at the start and when the leader sends a snapshot, never beside Apply.
func (f *fsm) Restore(rc io.ReadCloser) error {
	defer func() { _ = rc.Close() }() // read only: nothing to lose
	header := make([]byte, len(snapshotMagic)+8)
	if _, err := io.ReadFull(rc, header); err != nil {
		return fmt.Errorf("read snapshot header: %w", err)
	}
	if string(header[:len(snapshotMagic)]) != snapshotMagic {
		return fmt.Errorf("read snapshot: %w: it begins with %q", ErrFormat, header[:len(snapshotMagic)])
	}
	if err := f.machine.Restore(rc); err != nil {
		return fmt.Errorf("restore state: %w", err)
	}
	f.advance(binary.BigEndian.Uint64(header[len(snapshotMagic):]))
	return nil
}
