package ledger

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/hashicorp/raft"
	raftboltdb "github.com/hashicorp/raft-boltdb/v2"
	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"offshoot/swarm"
)

// Storage is the disk of one ledger. The three parts are called by raft from several goroutines, under the contracts of
// package raft; what is missing is raft.ErrLogNotFound in Logs and an error that reads "not found" in Stable. A write
// that returned nil must survive a loss of power. Close is called once, after everything else.
type Storage interface {
	Logs() raft.LogStore
	Stable() raft.StableStore
	Snapshots() raft.SnapshotStore
	Close() error
}

// The data directory:
//
//	format      one line: what wrote this, and for which node
//	raft.db     log entries, term and vote (bbolt; synced before an entry counts)
//	snapshots/  the newest two
const (
	formatFile   = "format"
	logFile      = "raft.db"
	formatPrefix = "offshoot-ledger"
	// formatVersion changes when older code can not read what newer code wrote, or the other way round.
	formatVersion = "1"
	keepSnapshots = 2 // the newest, and one in case that the newest is damaged
	logCache      = 512
)

// store is a Storage as raft gets to see it: guarded, and with the newest entries in memory.
type store struct {
	Storage
	guard     *guard
	logs      raft.LogStore
	stable    raft.StableStore
	snapshots *newestSnapshot
	hasState  bool
}

// openStore takes the storage of the options, or opens the data directory if there is none. On an error a given storage
// stays open: it is the caller's still.
func openStore(opt Options) (*store, error) {
	if opt.Storage != nil {
		return newStore(opt.Storage)
	}
	disk, err := openFiles(opt.Dir, opt.ID, opt.Logger)
	if err != nil {
		return nil, err
	}
	s, err := newStore(disk)
	if err != nil {
		return nil, errors.Join(err, disk.Close())
	}
	return s, nil
}

func newStore(disk Storage) (*store, error) {
	g := newGuard()
	newest, err := newNewest(disk.Snapshots())
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	s := &store{Storage: disk, guard: g, stable: guardedStable{disk.Stable(), g}, snapshots: newest}
	if s.logs, err = raft.NewLogCache(logCache, &guardedLogs{LogStore: disk.Logs(), newest: newest.get, guard: g}); err != nil {
		return nil, fmt.Errorf("log cache: %w", err)
	}
	if s.hasState, err = raft.HasExistingState(disk.Logs(), disk.Stable(), disk.Snapshots()); err != nil {
		return nil, fmt.Errorf("look for state: %w", err)
	}
	return s, nil
}

func (s *store) found(conf *raft.Config, address string) error {
	if s.hasState {
		return ErrHasState
	}
	err := raft.BootstrapCluster(conf, s.logs, s.stable, s.snapshots, noTransport(address), alone(conf, address))
	if errors.Is(err, raft.ErrCantBootstrap) {
		return ErrHasState
	}
	if err != nil {
		return err
	}
	s.hasState = true
	return nil
}

// noTransport is for calls that only take one for the peer lists of raft protocol 2, which we do not speak.
func noTransport(address string) raft.Transport {
	_, unused := raft.NewInmemTransport(raft.ServerAddress(address))
	return unused
}

// alone is the configuration of a swarm with one voter.
func alone(conf *raft.Config, address string) raft.Configuration {
	return raft.Configuration{Servers: []raft.Server{{
		Suffrage: raft.Voter, ID: conf.LocalID, Address: raft.ServerAddress(address),
	}}}
}

// files is the Storage in a data directory.
type files struct {
	bolt      *raftboltdb.BoltStore
	snapshots raft.SnapshotStore
}

var _ Storage = (*files)(nil)

func (f *files) Logs() raft.LogStore           { return f.bolt }
func (f *files) Stable() raft.StableStore      { return f.bolt }
func (f *files) Snapshots() raft.SnapshotStore { return f.snapshots }
func (f *files) Close() error                  { return f.bolt.Close() }

func openFiles(dir string, id swarm.NodeID, logger *slog.Logger) (*files, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := claim(dir, id); err != nil {
		return nil, err
	}
	bolt, err := raftboltdb.New(raftboltdb.Options{
		Path: filepath.Join(dir, logFile),
		BoltOptions: &bbolt.Options{
			Timeout:        2 * time.Second, // long enough for a predecessor that is about to end, short enough to tell a person soon
			NoFreelistSync: true,            // it is found out anew at the start, in place of being written with every entry
		},
	})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil, fmt.Errorf("%w: stop it first", ErrInUse)
	} else if err != nil {
		return nil, fmt.Errorf("%s: %w", logFile, err)
	}
	snapshots, err := raft.NewFileSnapshotStoreWithLogger(dir, keepSnapshots, newRaftLogger(logger))
	if err != nil {
		return nil, errors.Join(fmt.Errorf("snapshots: %w", err), bolt.Close())
	}
	return &files{bolt: bolt, snapshots: snapshots}, nil
}

// claim checks that dir was written by this format for this node, and marks it so if it is new.
func claim(dir string, id swarm.NodeID) error {
	path := filepath.Join(dir, formatFile)
	text, err := os.ReadFile(path)
	switch {
	case err == nil:
		return checkFormat(string(text), id)
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if _, err := os.Stat(filepath.Join(dir, logFile)); err == nil {
		return fmt.Errorf("%w: it has a %s but no %s file", ErrFormat, logFile, formatFile)
	}
	return writeDurably(path, []byte(formatLine(id)))
}

func formatLine(id swarm.NodeID) string {
	return fmt.Sprintf("%s %s %s\n", formatPrefix, formatVersion, id)
}

// checkFormat compares a format file with what this program writes for this node.
func checkFormat(text string, id swarm.NodeID) error {
	fields := strings.Fields(text)
	if len(fields) != 3 || fields[0] != formatPrefix {
		return fmt.Errorf("%w: its %s file is not ours", ErrFormat, formatFile)
	}
	if fields[1] != formatVersion {
		return fmt.Errorf("%w: it is version %s, this program reads version %s; run the program that wrote it, or start with an empty directory",
			ErrFormat, fields[1], formatVersion)
	}
	if fields[2] != string(id) {
		return fmt.Errorf("%w: it was written by node %s, this is node %s", ErrOtherNode, fields[2], id)
	}
	return nil
}

// writeDurably makes path hold text whole or not at all, also after a power loss.
func writeDurably(path string, text []byte) error {
	temporary := path + ".new"
	f, err := os.OpenFile(temporary, os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("write %s: %w", temporary, err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}
