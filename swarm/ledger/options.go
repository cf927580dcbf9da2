package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"time"

	"github.com/hashicorp/raft"

	"offshoot/swarm"
)

// Peers is how a ledger talks to the ledgers of other nodes beside raft's own stream: over the peer API. Both
// functions are called from many goroutines and must return when ctx is done.
type Peers struct {
	// Forward hands a command to Accept of the node at address and returns its answer unchanged. Every error is taken
	// as "perhaps not done" and leads to another attempt; errors of the other side may be mapped to this package's own.
	Forward func(ctx context.Context, address string, command []byte) ([]byte, error)
	// Pulse returns what Pulse says on the node at address.
	Pulse func(ctx context.Context, address string) (Pulse, error)
}

// Timing holds raft's periods; zero means the default. The defaults bear machines that are emulated without KVM and
// lose the processor for a second. Heartbeat <= Election and Lease <= Heartbeat are required.
type Timing struct {
	Heartbeat time.Duration // a voter that hears nothing for this long asks for votes; feeds say that they live; 1 s
	Election  time.Duration // a vote that is not decided by then starts anew; 1 s
	Lease     time.Duration // a leader without a majority steps down after this long; 1 s
	Commit    time.Duration // idle leaders tell their commit index this often; 50 ms
}

// Compaction says when the log is cut; zero means the default.
type Compaction struct {
	Interval  time.Duration // between looks at the log; 30 s
	Threshold uint64        // entries since the last snapshot that are worth a new one; 4096
	Bytes     int64         // of commands since the last snapshot that are worth a new one, too: they are carried out again at the start; 4 MiB
	Trailing  uint64        // entries kept behind a snapshot for members that are a little late; 8192
}

// Options of a ledger. Timing, Compaction, Check, Clock and Logger may be left out, and one of Dir and Storage. Recover needs
// neither Listener, Dial nor Peers.
type Options struct {
	Dir      string       // data directory, this package's alone
	Storage  Storage      // where everything is kept instead of Dir; closed by Run and Close
	ID       swarm.NodeID // this node
	Address  string       // host:port at which the others reach Listener
	Listener net.Listener // incoming raft streams, already authenticated; closed by Run and Close
	// Dial calls the ledger at address and fails if anyone but the node id answers there. raft goes by address: it would
	// take a machine that was installed anew, and has forgotten its vote, for the voter that it was.
	Dial  func(ctx context.Context, id swarm.NodeID, address string) (net.Conn, error)
	Peers Peers
	FSM   StateMachine
	// Check reads a snapshot to its end and returns why Restore of the FSM would refuse it; it changes nothing. Without,
	// RestoreSnapshot refuses everything, since a leader whose FSM refuses what raft has already accepted must end.
	Check      func(r io.Reader) error
	Timing     Timing
	Compaction Compaction
	// Clock is the machine's own clock, by which the leader's time in office is measured. It should go on while the machine
	// sleeps, or a laptop that wakes up believes for a moment what it knew when it was closed. Go's does not: the default.
	Clock  func() time.Duration
	Logger *slog.Logger
}

func (o *Options) complete() error {
	switch {
	case o.Listener == nil || o.Dial == nil:
		return errors.New("no way to talk to other ledgers given: Listener and Dial are required")
	case o.Peers.Forward == nil || o.Peers.Pulse == nil:
		return errors.New("no peer API given: Forward and Pulse are required")
	}
	return o.completeOffline()
}

// completeOffline does without others.
func (o *Options) completeOffline() error {
	switch {
	case o.Dir == "" && o.Storage == nil:
		return errors.New("no data directory given")
	case o.ID == "":
		return errors.New("no node id given")
	case o.FSM == nil:
		return errors.New("no state machine given")
	}
	if host, _, err := net.SplitHostPort(o.Address); err != nil {
		return fmt.Errorf("address %q: %w", o.Address, err)
	} else if host == "" {
		return fmt.Errorf("address %q: others need a host to reach this node at", o.Address)
	}
	if o.Clock == nil {
		begun := time.Now()
		o.Clock = func() time.Duration { return time.Since(begun) }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	setDefault(&o.Timing.Heartbeat, time.Second)
	setDefault(&o.Timing.Election, time.Second)
	setDefault(&o.Timing.Lease, time.Second)
	setDefault(&o.Timing.Commit, 50*time.Millisecond)
	setDefault(&o.Compaction.Interval, 30*time.Second)
	setDefault(&o.Compaction.Threshold, 4096)
	setDefault(&o.Compaction.Bytes, 4<<20)
	setDefault(&o.Compaction.Trailing, 8192)
	conf := o.raftConfig()
	return raft.ValidateConfig(conf)
}

// place names where the data are, for errors.
func (o *Options) place() string {
	if o.Storage != nil {
		return "the given storage"
	}
	return o.Dir
}

func setDefault[T comparable](v *T, to T) {
	var zero T
	if *v == zero {
		*v = to
	}
}

// nudge is what the first heartbeat and election timeout are longer than asked for: see hurry.
const nudge = time.Millisecond

func (o *Options) raftConfig() *raft.Config {
	conf := raft.DefaultConfig()
	conf.LocalID = raft.ServerID(o.ID)
	conf.HeartbeatTimeout = o.Timing.Heartbeat + nudge
	conf.ElectionTimeout = o.Timing.Election + nudge
	conf.LeaderLeaseTimeout = o.Timing.Lease
	conf.CommitTimeout = o.Timing.Commit
	conf.SnapshotInterval = o.Compaction.Interval
	conf.SnapshotThreshold = o.Compaction.Threshold
	conf.TrailingLogs = o.Compaction.Trailing
	// A removed node stays up: whether it ends is for the node to decide, who may want to say why.
	conf.ShutdownOnRemove = false
	conf.NoLegacyTelemetry = true
	conf.Logger = newRaftLogger(o.Logger)
	return conf
}
