// Package ledger replicates commands: what the swarm decided, in one order, on every node that takes part. It is a
// thin adaptor over hashicorp/raft; DESIGN.md beside this file tells the protocol and its price.
//
// It refuses to know what a command means (that is the StateMachine's), who may join or who should have a vote (that
// is a plan made by the caller), and how bytes are protected on their way (the caller's Listener and Dial do that).
// It keeps no clock of the swarm: replicated code takes the time from the command.
//
// It may be imported by node. It imports swarm for the names only, and none of gossip, share, identity.
package ledger

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/raft"

	"offshoot/swarm"
)

// Errors of the ledger; match them with errors.Is.
var (
	// ErrNotLeader: the call is for the leader, and this node does not lead (any more).
	ErrNotLeader = errors.New("this node does not lead the ledger")
	// ErrNoLeader: this node, which has no vote, hears from no leader.
	ErrNoLeader = errors.New("no leader of the ledger is known to this node")
	// ErrNoQuorum: no majority of the voters answers, so nothing can be decided now.
	ErrNoQuorum = errors.New("no majority of the voters answers")
	// ErrStopped: the ledger was shut down or is about to be.
	ErrStopped = errors.New("ledger is stopped")
	// ErrFormat: the data directory was written by another version, or is damaged.
	ErrFormat = errors.New("ledger data has another format")
	// ErrOtherNode: the data directory belongs to another node.
	ErrOtherNode = errors.New("ledger data belongs to another node")
	// ErrInUse: another process has the data directory open.
	ErrInUse = errors.New("ledger data is in use by another process")
	// ErrHasState: a swarm cannot be founded on a directory that already holds one.
	ErrHasState = errors.New("ledger data already holds a swarm")
	// ErrBehind: the member has not yet applied what the leader has committed.
	ErrBehind = errors.New("member has not caught up")
	// ErrUnknownMember: no member of that id.
	ErrUnknownMember = errors.New("not a member of the ledger")
	// ErrLastVoter: the only voter cannot give up its vote.
	ErrLastVoter = errors.New("the only voter cannot lose its vote")
	// ErrAddressTaken: another member has that address.
	ErrAddressTaken = errors.New("address belongs to another member")
	// ErrTooLarge: the command is larger than MaxCommand, or the snapshot than MaxSnapshot.
	ErrTooLarge = errors.New("too large for the ledger")
	// ErrBusy: as much is under way here as this node can bear. Try again later, or elsewhere.
	ErrBusy = errors.New("ledger is busy")
	// ErrStorage: the disk cannot be written or read, or what is read cannot be carried out, so this node has to end.
	ErrStorage = errors.New("ledger data cannot be used")
	// ErrNoState: there is nothing here yet that could be fed to others, saved or recovered.
	ErrNoState = errors.New("no state of a swarm is here")
	// ErrFeed: a feed has a gap, is damaged or has fallen silent. Begin another one.
	ErrFeed = errors.New("feed is of no use")
	// ErrSlowReader: the reader of a feed did not keep up. It may come back, and gets a snapshot.
	ErrSlowReader = errors.New("reader of the feed is too slow")
)

const (
	// MaxCommand bounds one command, in bytes. raft sends entries in line with what keeps followers calm, and advises to
	// stay under 512 KiB (raft.SuggestedMaxDataSize); bulk belongs to share.
	MaxCommand = 256 << 10
	// MaxSnapshot bounds a snapshot that is fed to a follower, saved or restored, in bytes: it is held in memory once.
	MaxSnapshot = 256 << 20
	// MaxPending bounds the commands that wait for raft on a leader. It is less than the log keeps behind a snapshot, so
	// what a deposed leader has appended in vain never reaches further back than what its successor can send.
	MaxPending = 1024
	// MaxFeeds bounds the followers that one node feeds: those of its segment, and as many again whose holder is gone.
	MaxFeeds = 512
)

// StateMachine is what the ledger replicates. Apply, Snapshot and Restore are never called at the same time, but from
// different goroutines; only the function that Snapshot returned runs beside them.
type StateMachine interface {
	// Apply carries out a committed command and returns what the proposer gets back, on whichever node that is. It must
	// be deterministic: same index, same bytes, same effect. A refused command is an answer like any other. The same
	// command may arrive at two indexes (a proposer that was not sure tried again), so commands carry ids.
	Apply(index uint64, command []byte) []byte
	// Snapshot captures the state as of now, quickly; the returned function writes the captured state later, while
	// Apply goes on. An error means: no snapshot this time.
	Snapshot() (func(w io.Writer) error, error)
	// Restore replaces the whole state by a snapshot. After an error the state is as it was; the node does not start, or
	// asks again.
	Restore(r io.Reader) error
}

// Ledger is one node's part of the replicated log. All methods may be called from any goroutine; those that need raft
// wait for Run to have started it.
type Ledger struct {
	opt   Options
	log   *slog.Logger
	store *store
	fsm   *fsm

	raft     *raft.Raft    // set before started is closed
	started  chan struct{} // closed when raft runs
	stopping chan struct{} // closed when Run begins to shut down, or Close was called
	stopOnce sync.Once
	running  atomic.Bool
	requests gate          // raft requests under way
	changing chan struct{} // holds one token: one change of members at a time

	leadership signal
	contactMu  sync.Mutex
	contact    time.Duration // by Clock: the leader was in office then, by a round trip; never: not yet
	began      time.Time     // when raft was started
	fed        fed           // what a feed says, if there is one
	feeds      gate          // readers that are fed from here
	shared     shared        // the snapshot that they are fed with
	following  atomic.Bool
}

// Open checks the options and opens (or creates) the data directory. It starts nothing. The caller calls Run, or
// Close if it does not come to that. Errors: ErrFormat, ErrOtherNode, ErrInUse, and those of the file system.
func Open(opt Options) (*Ledger, error) {
	if err := opt.complete(); err != nil {
		return nil, fmt.Errorf("open ledger: %w", err)
	}
	s, err := openStore(opt)
	if err != nil {
		return nil, fmt.Errorf("open ledger in %s: %w", opt.place(), err)
	}
	l := &Ledger{
		opt:      opt,
		log:      opt.Logger,
		store:    s,
		fsm:      newFSM(opt.FSM),
		started:  make(chan struct{}),
		stopping: make(chan struct{}),
		changing: make(chan struct{}, 1),
		contact:  never,
	}
	l.changing <- struct{}{}
	l.fsm.fail = s.guard.fail
	return l, nil
}

// HasState tells whether the data directory holds a ledger to resume. Without, the node must found a swarm or be added
// to one as a learner.
func (l *Ledger) HasState() bool { return l.store.hasState }

// Found makes a new swarm in which this node is the only voter. It comes before Run. A directory that has state
// returns ErrHasState.
func (l *Ledger) Found() error {
	if l.running.Load() {
		return errors.New("found swarm: ledger runs already")
	}
	if err := l.store.found(l.opt.raftConfig(), l.opt.Address); err != nil {
		return fmt.Errorf("found swarm: %w", err)
	}
	l.log.Info("swarm founded", "node", l.opt.ID, "address", l.opt.Address)
	return nil
}

// Close releases the data directory of a ledger that was never run. After Run it does nothing.
func (l *Ledger) Close() error {
	if l.running.Swap(true) {
		return nil
	}
	l.stopOnce.Do(func() { close(l.stopping) })
	return errors.Join(l.opt.Listener.Close(), l.store.Close())
}

// Run takes part in the ledger until ctx is done. On return the stream listener, the data directory and all goroutines
// are released. Cancelled is nil; an error means that the ledger could not start or not end in order. ErrStorage is
// returned, without waiting for ctx, when the disk fails in a way that makes going on a danger for the others.
func (l *Ledger) Run(ctx context.Context) error {
	if l.running.Swap(true) {
		return errors.New("run ledger: it ran before; a ledger runs once")
	}
	stream := newStream(l.opt.Address, l.opt.Listener, l.dial)
	conf := l.opt.raftConfig()
	transport := newSieve(raft.NewNetworkTransportWithConfig(&raft.NetworkTransportConfig{
		Stream:  stream,
		MaxPool: 3, // heartbeats, entries and votes of one peer at the same time
		// One, so that raft does not pipeline: its pipeline hangs for ever, and shutdown with it, if it learns of a later
		// term while a request waits for room (raft 1.8, replication.go: pipelineDecode ends, pipelineSend blocks).
		MaxRPCsInFlight: 1,
		Timeout:         ioTimeout,
		Logger:          conf.Logger,
	}), l.store.logs, l.store.snapshots.get, l.raftTerm)
	r, err := l.startRaft(conf, transport)
	if err != nil {
		l.stopOnce.Do(func() { close(l.stopping) })
		stream.cut()
		return errors.Join(fmt.Errorf("start raft: %w", err), transport.Close(), stream.wait(), l.store.Close())
	}
	l.raft, l.began = r, time.Now()
	observations := make(chan raft.Observation, 1) // one is enough: it only says "look again"
	observer := raft.NewObserver(observations, false, func(o *raft.Observation) bool {
		switch o.Data.(type) {
		case raft.LeaderObservation, raft.RaftState:
			return true
		}
		return false
	})
	r.RegisterObserver(observer)
	close(l.started)
	l.hurry(r)

	var loops sync.WaitGroup
	asking, stopAsking := context.WithCancel(ctx)
	defer stopAsking()
	loops.Go(func() { l.keepContact(asking) })
	loops.Go(func() { l.keepShort(asking, r) })
	watching, stopWatching := context.WithCancel(context.WithoutCancel(ctx)) // until leadership is handed over
	loops.Go(func() { l.watch(watching, observations) })
	select {
	case <-ctx.Done():
	case <-l.store.guard.broken:
		l.log.Error("ledger storage fails: this node ends", "error", l.store.guard.err)
	}
	stopAsking()
	err = l.shutdown(r, stream)
	stopWatching()
	loops.Wait()
	r.DeregisterObserver(observer)
	return errors.Join(l.store.guard.failure(), err)
}

// startRaft gives raft a goroutine to start on, which the guard may end, and takes its panics for what they are: errors.
func (l *Ledger) startRaft(conf *raft.Config, transport raft.Transport) (r *raft.Raft, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer func() {
			if p := recover(); p != nil {
				r, err = nil, fmt.Errorf("%w: %v", ErrStorage, p)
			}
		}()
		r, err = raft.NewRaft(conf, l.fsm, l.store.logs, l.store.stable, l.store.snapshots, transport)
	}()
	<-done
	if failure := l.store.guard.failure(); failure != nil && r == nil {
		err = failure
	}
	return r, err
}

// keepShort takes a snapshot when the commands since the last one are many bytes, however few they are.
func (l *Ledger) keepShort(ctx context.Context, r *raft.Raft) {
	ticker := time.NewTicker(l.opt.Compaction.Interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		before := l.fsm.bytes.Load()
		if before < l.opt.Compaction.Bytes {
			continue
		}
		if err := r.Snapshot().Error(); err != nil {
			l.log.Debug("no snapshot", "error", err)
			continue
		}
		l.fsm.bytes.Add(-before)
	}
}

// raftTerm is raft's own, 0 before it runs.
func (l *Ledger) raftTerm() uint64 {
	if r := l.current(); r != nil {
		return r.CurrentTerm()
	}
	return 0
}

// dial calls the member that raft's configuration has at an address.
func (l *Ledger) dial(ctx context.Context, address string) (net.Conn, error) {
	for _, m := range l.Members() {
		if m.Address == address {
			return l.opt.Dial(ctx, m.ID, address)
		}
	}
	return nil, fmt.Errorf("dial %s: %w", address, ErrUnknownMember)
}

// ioTimeout bounds one exchange with a peer. Long, because an emulated machine may need seconds to sync its disk;
// failures are found by heartbeats, not by this.
const ioTimeout = 10 * time.Second

// hurry lets the only voter elect itself at once instead of after a heartbeat timeout in which nobody could call.
// Lowering the timeout of a running raft makes it look at its timer immediately (raft.ReloadConfig).
func (l *Ledger) hurry(r *raft.Raft) {
	voters := 0
	self := false
	for _, server := range r.GetConfiguration().Configuration().Servers {
		if server.Suffrage == raft.Voter {
			voters++
			self = self || server.ID == raft.ServerID(l.opt.ID)
		}
	}
	if voters != 1 || !self {
		return
	}
	reload := r.ReloadableConfig()
	reload.HeartbeatTimeout -= nudge
	reload.ElectionTimeout -= nudge
	if err := r.ReloadConfig(reload); err != nil {
		l.log.Debug("hurry election", "error", err)
	}
}

// watch turns raft's observations into the leadership signal and the machine's diary.
func (l *Ledger) watch(ctx context.Context, observations <-chan raft.Observation) {
	var last swarm.NodeID
	for {
		select {
		case <-ctx.Done():
			return
		case <-observations:
		}
		id, address, ok := l.Leader()
		l.leadership.announce()
		if ok && id != last {
			l.log.Info("ledger has a leader", "leader", id, "address", address, "self", id == l.opt.ID)
		} else if !ok && last != "" {
			l.log.Info("ledger has no leader", "was", last)
		}
		last = id
	}
}

// shutdown ends in the order in which the others suffer least: first no new requests, so that those under way get
// their answer; then leadership goes to someone who stays, so that the others need not wait for a timeout; then the
// streams are cut, so that raft's goroutines do not sit out a deadline; then raft; the files last, since raft writes
// until its end.
func (l *Ledger) shutdown(r *raft.Raft, stream *stream) error {
	l.stopOnce.Do(func() { close(l.stopping) })
	bound := l.opt.Timing.Election
	if !l.requests.closeAndWait(bound) {
		l.log.Info("ledger stops with requests unanswered", "waited", bound)
	}
	l.giveLeadershipAway(r, bound)
	stream.cut()
	err := r.Shutdown().Error()
	if e := stream.wait(); e != nil {
		err = errors.Join(err, e)
	}
	if e := l.store.Close(); e != nil {
		err = errors.Join(err, fmt.Errorf("close ledger data: %w", e))
	}
	l.leadership.announce()
	if err != nil {
		return fmt.Errorf("stop ledger: %w", err)
	}
	return nil
}

func (l *Ledger) giveLeadershipAway(r *raft.Raft, bound time.Duration) {
	if r.State() != raft.Leader || l.store.guard.failure() != nil {
		return
	}
	others := 0
	for _, m := range l.Members() {
		if m.Voter && m.ID != l.opt.ID {
			others++
		}
	}
	if others == 0 {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), bound+bound/2) // raft gives up by itself after bound
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- r.LeadershipTransfer().Error() }()
	var err error
	select {
	case err = <-done:
	case <-ctx.Done():
		err = ctx.Err()
	}
	if err == nil {
		// We only stepped down. The other still needs our vote, which must leave before the streams are cut.
		err = l.awaitLeader(ctx, func(id swarm.NodeID) bool { return id != l.opt.ID })
	}
	if err != nil {
		l.log.Info("ledger stops without handing leadership over", "error", err)
	}
}

// awaitLeader returns when a leader is known that want accepts.
func (l *Ledger) awaitLeader(ctx context.Context, want func(swarm.NodeID) bool) error {
	for {
		changed := l.leadership.next()
		if id, _, ok := l.Leader(); ok && want(id) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", ErrNoLeader, ctx.Err())
		}
	}
}
