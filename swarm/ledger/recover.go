package ledger

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"
)

// leap is how far a recovery moves the indexes. Every node can tell by it that what it has is of before: no swarm decides
// as much meanwhile. There is room for four billion leaps.
const leap = 1 << 32

// termLeap is how far a recovery moves the term, so that members which have seen elections that this node has not do not
// make it step down again and again when they come back.
const termLeap = 1 << 10

// Recover makes this node the only voter of what its data directory holds, for when the majority is lost. The node must
// not run: ErrInUse. A copy of the directory is left beside it first (not of an Options.Storage). FSM is used to read the
// state; Address is where the others will find this node.
//
// Whatever the lost voters had decided and this node had not heard of is lost; whatever this node had heard of, decided or
// not, is decided now. The others must not go on without this node: two swarms would then believe to be one. ErrNoState if
// the directory holds no swarm. It may be repeated, also after it was interrupted.
func Recover(opt Options) error {
	if err := opt.completeOffline(); err != nil {
		return fmt.Errorf("recover ledger: %w", err)
	}
	if err := recoverFrom(opt); err != nil {
		return fmt.Errorf("recover ledger in %s: %w", opt.place(), err)
	}
	return nil
}

func recoverFrom(opt Options) (err error) {
	if opt.Storage == nil {
		// Without this, a mistyped path would become an empty data directory.
		if _, err := os.Stat(filepath.Join(opt.Dir, logFile)); errors.Is(err, fs.ErrNotExist) {
			return ErrNoState
		}
	}
	s, err := openStore(opt)
	if err != nil {
		return err
	}
	if opt.Storage == nil {
		defer func() { err = errors.Join(err, s.Close()) }()
	}
	if !s.hasState {
		return ErrNoState
	}
	if opt.Storage == nil { // under the lock of the open log: nobody writes
		beside, err := copyBeside(opt.Dir, time.Now())
		if err != nil {
			return fmt.Errorf("keep a copy: %w", err)
		}
		opt.Logger.Info("ledger data copied before recovery", "to", beside)
	}
	return makeSoleVoter(opt, s.Storage)
}

func makeSoleVoter(opt Options, disk Storage) error {
	logs, stable, snapshots := disk.Logs(), disk.Stable(), disk.Snapshots()
	last, err := logs.LastIndex()
	if err != nil {
		return fmt.Errorf("last entry: %w", err)
	}
	term, err := stable.GetUint64([]byte(termKey))
	if err != nil && err.Error() != "not found" { // raft's own convention
		return fmt.Errorf("term: %w", err)
	}
	if err := stable.SetUint64([]byte(termKey), term+termLeap); err != nil {
		return fmt.Errorf("term: %w", err)
	}
	conf := opt.raftConfig()
	r := &recovery{fsm: newFSM(opt.FSM), SnapshotStore: snapshots, last: last}
	if err := raft.RecoverCluster(conf, r, logs, stable, r, noTransport(opt.Address), alone(conf, opt.Address)); err != nil {
		return err
	}
	opt.Logger.Warn("this node is the only voter now", "before", last, "now", r.to, "address", opt.Address)
	return nil
}

// recovery makes the snapshot that raft.RecoverCluster writes leap ahead of everything that a member may have. Otherwise
// a member which has applied more than this node, and was not restarted since, would take new entries for old ones.
type recovery struct {
	*fsm
	raft.SnapshotStore
	last uint64 // the newest entry of the log
	to   uint64
}

// Snapshot is called once, after everything was applied and before Create.
func (r *recovery) Snapshot() (raft.FSMSnapshot, error) {
	s, err := r.capture()
	if err != nil {
		return nil, err
	}
	known, err := r.List()
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	r.to = max(r.last, s.index)
	for _, k := range known {
		r.to = max(r.to, k.Index)
	}
	r.to += leap
	s.index = r.to
	return s, nil
}

// Create is called with the index of the last entry.
func (r *recovery) Create(version raft.SnapshotVersion, _, term uint64, conf raft.Configuration, confIndex uint64, trans raft.Transport) (raft.SnapshotSink, error) {
	return r.SnapshotStore.Create(version, r.to, term, conf, confIndex, trans)
}

// copyBeside copies a data directory to one beside it, synced, and returns its name.
func copyBeside(dir string, now time.Time) (string, error) {
	to := strings.TrimRight(dir, "/") + ".before-recovery-" + now.UTC().Format("20060102T150405.000000000Z")
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		inside, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, inside)
		switch {
		case d.IsDir():
			return os.Mkdir(target, 0o700)
		case d.Type().IsRegular():
			return copyFile(path, target)
		default:
			return fmt.Errorf("%s is neither file nor directory", path)
		}
	})
	if err != nil {
		return "", errors.Join(err, os.RemoveAll(to))
	}
	return to, errors.Join(syncDir(to), syncDir(filepath.Dir(to)))
}

func copyFile(from, to string) error {
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer func() { _ = in.Close() }() // read only: nothing to lose
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Sync(), out.Close())
}
