package ledger

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/hashicorp/raft"
)

// A saved snapshot is what snapshot.writeTo writes, and the SHA-256 of that.
//
// It is restored by entries of the log like any other decision: raft.Restore is not used. That one changes the leader
// first and asks the others afterwards; a leader that loses its majority between the two keeps, also over a restart, a
// state that nobody else has, and raft never notices. So the state machine's part travels compressed, in entries that
// carry one of these names as raft.Log.Extensions:
//
//	restore-part   16 bytes that name the restore, 8 bytes offset, the bytes
//	restore-whole  16 bytes that name the restore, 32 bytes SHA-256 of all parts
//
// The last one replaces the state, on every member at the same index. Followers get no parts, but the snapshot.
const (
	extPart  = "restore-part"
	extWhole = "restore-whole"

	restoreName = 16
	partHead    = restoreName + 8
	partBody    = MaxCommand - partHead
	// arrivalLife is how many entries after its last part a restore is given up, so that its parts need not be kept. By
	// the entries' own count all members do it at the same place.
	arrivalLife = 2048
)

// SaveSnapshot writes the state as it is at one moment, with its index and a checksum, for RestoreSnapshot. Any node that
// has state can do it, followers too. ErrNoState, ErrTooLarge, and the errors of w.
func (l *Ledger) SaveSnapshot(w io.Writer) error {
	if l.Applied() == 0 {
		return fmt.Errorf("save snapshot: %w", ErrNoState)
	}
	s, err := l.fsm.capture()
	if err != nil {
		return fmt.Errorf("save snapshot: %w", err)
	}
	sum := sha256.New()
	if err := s.writeTo(&limited{to: io.MultiWriter(w, sum), left: MaxSnapshot}); err != nil {
		return fmt.Errorf("save snapshot at %d: %w", s.index, err)
	}
	if _, err := w.Write(sum.Sum(nil)); err != nil {
		return fmt.Errorf("save snapshot at %d: %w", s.index, err)
	}
	l.log.Info("snapshot saved", "index", s.index)
	return nil
}

// RestoreSnapshot puts a saved state in the place of the present one, on all nodes. Leader only. Proposals that are under
// way are either part of what is replaced, or come after it. Members of the ledger stay who they are.
//
// It refuses before anything changes: ErrNotLeader, ErrFormat (not a saved snapshot, damaged, or refused by
// Options.Check), ErrTooLarge. Other errors are those of Accept: the restore may come true or not, but everywhere or
// nowhere.
func (l *Ledger) RestoreSnapshot(ctx context.Context, r io.Reader) error {
	was, err := l.restoreSnapshot(ctx, r)
	if err != nil {
		return fmt.Errorf("restore snapshot: %w", err)
	}
	l.log.Warn("state replaced by a snapshot", "of", was, "now", l.Applied())
	return nil
}

func (l *Ledger) restoreSnapshot(ctx context.Context, r io.Reader) (was uint64, err error) {
	if err := l.ready(ctx); err != nil {
		return 0, err
	}
	if !l.IsLeader() {
		return 0, ErrNotLeader
	}
	if l.opt.Check == nil {
		return 0, errors.New("this node has no means to check snapshots")
	}
	body, was, err := readSaved(r)
	if err != nil {
		return 0, err
	}
	if err := l.opt.Check(bytes.NewReader(body)); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	name := make([]byte, restoreName)
	_, _ = rand.Read(name) // never fails
	packed, err := pack(body)
	if err != nil {
		return 0, err
	}
	for at := 0; at < len(packed); at += partBody {
		part := binary.BigEndian.AppendUint64(bytes.Clone(name), uint64(at))
		part = append(part, packed[at:min(len(packed), at+partBody)]...)
		if _, err := l.commit(ctx, raft.Log{Data: part, Extensions: []byte(extPart)}); err != nil {
			return 0, err
		}
	}
	sum := sha256.Sum256(packed)
	_, err = l.commit(ctx, raft.Log{Data: append(name, sum[:]...), Extensions: []byte(extWhole)})
	return was, err
}

// readSaved reads what SaveSnapshot wrote and returns the state machine's part.
func readSaved(r io.Reader) (body []byte, index uint64, err error) {
	all, err := io.ReadAll(io.LimitReader(r, MaxSnapshot+sha256.Size+1))
	switch {
	case err != nil:
		return nil, 0, err
	case len(all) > MaxSnapshot+sha256.Size:
		return nil, 0, fmt.Errorf("%w: more than %d bytes", ErrTooLarge, MaxSnapshot)
	case len(all) < snapshotHeader+sha256.Size:
		return nil, 0, fmt.Errorf("%w: %d bytes are no snapshot", ErrFormat, len(all))
	}
	content, sum := all[:len(all)-sha256.Size], all[len(all)-sha256.Size:]
	if index, err = parseHeader(content); err != nil {
		return nil, 0, err
	}
	if want := sha256.Sum256(content); !bytes.Equal(sum, want[:]) {
		return nil, 0, fmt.Errorf("%w: the snapshot is damaged or cut off", ErrFormat)
	}
	return content[snapshotHeader:], index, nil
}

func pack(body []byte) ([]byte, error) {
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	_, err := z.Write(body)
	if err = errors.Join(err, z.Close()); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return b.Bytes(), nil
}

// unpack returns a reader that refuses more than a snapshot may have.
func unpack(packed []byte) (io.Reader, error) {
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return &bounded{from: z, left: MaxSnapshot}, nil
}

// bounded fails where io.LimitReader would pretend an end.
type bounded struct {
	from io.Reader
	left int
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.from.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("%w: snapshot of more than %d bytes", ErrTooLarge, MaxSnapshot)
	}
	return n, err
}

// arrival is a saved snapshot that arrives in parts; nil is none. Every member has the same at the same entry.
type arrival struct {
	name  string
	at    uint64 // entry of the last part
	bytes []byte
}

// add takes a part. One that does not fit ends the arrival: another leader may have begun anew.
func (a *arrival) add(index uint64, part []byte) *arrival {
	if len(part) < partHead {
		return nil
	}
	name, offset, body := string(part[:restoreName]), binary.BigEndian.Uint64(part[restoreName:]), part[partHead:]
	if offset == 0 {
		a = &arrival{name: name}
	}
	if a == nil || a.name != name || offset != uint64(len(a.bytes)) || len(a.bytes)+len(body) > MaxSnapshot {
		return nil
	}
	a.bytes, a.at = append(a.bytes, body...), index
	return a
}

func (a *arrival) tooOld(index uint64) bool { return a != nil && index > a.at+arrivalLife }

// whole returns all parts, if they are what the last entry says.
func (a *arrival) whole(last []byte) ([]byte, error) {
	if a == nil || len(last) != restoreName+sha256.Size || a.name != string(last[:restoreName]) {
		return nil, errors.New("parts are missing")
	}
	if sum := sha256.Sum256(a.bytes); !bytes.Equal(sum[:], last[restoreName:]) {
		return nil, errors.New("parts are damaged")
	}
	return a.bytes, nil
}

// install replaces the state by what has arrived. A restore that lacks parts lacks them everywhere, and is refused
// everywhere. One that is whole but cannot be read breaks this node: the others can read it, as the leader has tried.
func (f *fsm) install(entry *raft.Log) outcome {
	packed, err := f.arrival.whole(entry.Data)
	f.arrival = nil
	if entry.Index <= f.applied.Load() {
		return outcome{index: entry.Index, known: true}
	}
	if err != nil {
		return outcome{index: entry.Index, refused: fmt.Errorf("restore at %d: %w", entry.Index, err)}
	}
	r, err := unpack(packed)
	if err == nil {
		err = f.machine.Restore(r)
	}
	if err != nil {
		f.breaks(entry.Index, fmt.Errorf("restore state: %w", err))
		return outcome{index: entry.Index, known: true}
	}
	f.fedTo = 0
	f.recent.clear()
	f.advance(entry.Index)
	return outcome{index: entry.Index}
}
