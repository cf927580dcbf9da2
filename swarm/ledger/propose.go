package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/hashicorp/raft"

	"offshoot/swarm"
)

const (
	// proposalBound ends a proposal whose context has no deadline: several elections long.
	proposalBound = time.Minute
	retryFirst    = 50 * time.Millisecond
	retryMost     = time.Second
)

// Propose has command committed and returns what the state machine answered, from whichever node it is called. When it
// returns without error, this node's own state machine has seen the command as well.
//
// It tries until ctx is done (one minute if ctx has no deadline): it waits while there is no leader, and tries again
// when leadership is lost on the way. The command may then be committed twice: commands carry ids. An error means that
// the command may or may not be committed; it wraps ErrNoLeader, ErrNoQuorum or the last attempt's error, and ctx's.
// ErrTooLarge and ErrStopped are final.
func (l *Ledger) Propose(ctx context.Context, command []byte) ([]byte, error) {
	if len(command) > MaxCommand {
		return nil, fmt.Errorf("propose: %w: %d bytes, at most %d", ErrTooLarge, len(command), MaxCommand)
	}
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, proposalBound)
		defer cancel()
	}
	if err := l.ready(ctx); err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	var last error
	for attempt := 1; ; attempt++ {
		changed := l.leadership.next()
		answer, err := l.tryPropose(ctx, command)
		if err == nil {
			return l.settle(ctx, answer)
		}
		select {
		case <-l.stopping: // this node, that is: one that says so of itself has a successor soon
			return nil, fmt.Errorf("propose: %w", ErrStopped)
		default:
		}
		if ctx.Err() == nil || last == nil {
			last = err // what failed before time was up says more than that time is up
		}
		if l.pause(ctx, attempt, changed); ctx.Err() != nil {
			return nil, fmt.Errorf("propose: gave up at attempt %d: %w (%w)", attempt, l.diagnose(last), ctx.Err())
		}
		l.log.Debug("proposal is tried again", "attempt", attempt, "error", err)
	}
}

// tryPropose makes one attempt, here or at the leader.
func (l *Ledger) tryPropose(ctx context.Context, command []byte) ([]byte, error) {
	if l.IsLeader() {
		return l.Accept(ctx, command)
	}
	id, address, ok := l.Leader()
	if !ok {
		return nil, ErrNoLeader
	}
	if id == l.opt.ID {
		return nil, ErrNotLeader // between two roles
	}
	// One attempt must not eat all the time: the leader may be dead, and its successor be elected meanwhile.
	attempt, cancel := context.WithTimeout(ctx, 2*l.opt.Timing.Election)
	defer cancel()
	answer, err := l.opt.Peers.Forward(attempt, address, command)
	if err != nil {
		return nil, fmt.Errorf("forward to leader %s at %s: %w", id, address, err)
	}
	return answer, nil
}

// pause waits a random part of a doubling bound, or until leadership changes.
func (l *Ledger) pause(ctx context.Context, attempt int, changed <-chan struct{}) {
	bound := retryMost
	if attempt < 6 {
		bound = min(retryFirst<<attempt, retryMost)
	}
	timer := time.NewTimer(bound/2 + rand.N(bound/2))
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
	case <-l.stopping:
	}
}

// settle takes the leader's answer apart and waits until this node has applied the command too.
func (l *Ledger) settle(ctx context.Context, answer []byte) ([]byte, error) {
	index, result, err := parseAnswer(answer)
	if err != nil {
		return nil, fmt.Errorf("propose: %w", err)
	}
	if err := l.fsm.waitApplied(ctx, l.stopping, index); err != nil {
		return nil, fmt.Errorf("propose: committed at %d, but not yet applied here: %w", index, err)
	}
	return result, nil
}

// diagnose names the reason why nothing could be proposed.
func (l *Ledger) diagnose(last error) error {
	if !errors.Is(last, ErrNoLeader) {
		return last
	}
	for _, m := range l.Members() {
		if m.ID == l.opt.ID && m.Voter {
			return fmt.Errorf("%w: no leader was elected", ErrNoQuorum)
		}
	}
	return last
}

// Accept commits a command on the leader; it is the far side of Peers.Forward. Its answer is opaque and goes back
// unchanged. Errors: ErrNotLeader, ErrNoQuorum (leadership was lost on the way: perhaps committed, perhaps not), ErrBusy
// (at once, and certainly not committed), ErrTooLarge, ErrStopped, or ctx's.
func (l *Ledger) Accept(ctx context.Context, command []byte) ([]byte, error) {
	done, err := l.commit(ctx, raft.Log{Data: command})
	if err != nil {
		return nil, err
	}
	return makeAnswer(done), nil
}

// Commit commits a command on this leader, in one attempt, and returns the state machine's result: for decisions that may
// not come true under a later leader. Errors are those of Accept.
func (l *Ledger) Commit(ctx context.Context, command []byte) ([]byte, error) {
	done, err := l.commit(ctx, raft.Log{Data: command})
	return done.result, err
}

func (l *Ledger) commit(ctx context.Context, entry raft.Log) (outcome, error) {
	if len(entry.Data) > MaxCommand {
		return outcome{}, fmt.Errorf("accept: %w: %d bytes, at most %d", ErrTooLarge, len(entry.Data), MaxCommand)
	}
	var done outcome
	err := l.awaitOneOf(ctx, MaxPending, func(r *raft.Raft) error {
		if r.State() != raft.Leader {
			return raft.ErrNotLeader // a follower would say so as well, but later
		}
		future := r.ApplyLog(entry, ioTimeout)
		if err := future.Error(); err != nil {
			return err
		}
		done = future.Response().(outcome) // fsm.Apply returns nothing else
		return nil
	})
	if err == nil && done.refused != nil {
		return outcome{}, done.refused
	}
	if err == nil && done.known {
		err = fmt.Errorf("command at %d came by a feed before it came by raft, so its result is not known here", done.index)
	}
	if err != nil {
		return outcome{}, fmt.Errorf("accept: %w", err)
	}
	return done, nil
}

// An answer is the index at which the command was applied (8 bytes, big endian), then the state machine's result.
func makeAnswer(o outcome) []byte {
	return append(binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(o.result)), o.index), o.result...)
}

func parseAnswer(answer []byte) (index uint64, result []byte, err error) {
	if len(answer) < 8 {
		return 0, nil, fmt.Errorf("answer of the leader has %d bytes, want at least 8", len(answer))
	}
	index = binary.BigEndian.Uint64(answer)
	if index == 0 {
		return 0, nil, errors.New("answer of the leader has no index")
	}
	return index, answer[8:], nil
}

// ready returns when raft runs.
func (l *Ledger) ready(ctx context.Context) error {
	select {
	case <-l.stopping:
		return ErrStopped
	default:
	}
	select {
	case <-l.started:
		return nil
	case <-l.stopping:
		return ErrStopped
	case <-ctx.Done():
		return fmt.Errorf("ledger does not run yet: %w", ctx.Err())
	}
}

// await makes a request of raft and waits for its end, no longer than ctx. raft's futures cannot be abandoned, so the
// request goes on in a goroutine that the gate knows and that shutdown waits for.
func (l *Ledger) await(ctx context.Context, request func(*raft.Raft) error) error {
	return l.awaitOneOf(ctx, 0, request)
}

// awaitOneOf refuses with ErrBusy if so many requests are under way already, abandoned ones among them; 0 is no bound,
// for the few that must get through.
func (l *Ledger) awaitOneOf(ctx context.Context, most int, request func(*raft.Raft) error) error {
	if err := l.ready(ctx); err != nil {
		return err
	}
	if err := l.requests.enter(most); err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		defer l.requests.leave()
		done <- request(l.raft)
	}()
	select {
	case err := <-done:
		return translate(err)
	case <-ctx.Done():
		return fmt.Errorf("%w in time: %w", ErrNoQuorum, ctx.Err())
	}
}

// translate turns raft's errors into this package's.
func translate(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, raft.ErrNotLeader), errors.Is(err, raft.ErrLeadershipTransferInProgress):
		return ErrNotLeader
	case errors.Is(err, raft.ErrLeadershipLost):
		return fmt.Errorf("%w: leadership was lost before the commit", ErrNoQuorum)
	case errors.Is(err, raft.ErrRaftShutdown):
		return ErrStopped
	default:
		return err
	}
}

// Leader returns whom this node takes for the leader, and the address that it told. A node that hears of none by raft
// believes its feed, as long as the word is fresh.
func (l *Ledger) Leader() (id swarm.NodeID, address string, ok bool) {
	r := l.current()
	if r == nil {
		return "", "", false
	}
	a, i := r.LeaderWithID()
	// raft blanks its own name a moment after it stepped down.
	if i != "" && (swarm.NodeID(i) != l.opt.ID || r.State() == raft.Leader) {
		return swarm.NodeID(i), string(a), true
	}
	leader, age := l.fed.word()
	if leader.ID == "" || leader.ID == l.opt.ID || age > l.opt.wordLife() {
		return "", "", false
	}
	return leader.ID, leader.Address, true
}

// IsLeader tells whether this node takes itself for the leader. It may be wrong for as long as a lease: see Verify.
func (l *Ledger) IsLeader() bool {
	r := l.current()
	return r != nil && r.State() == raft.Leader
}

// current is raft if it runs, nil before.
func (l *Ledger) current() *raft.Raft {
	select {
	case <-l.started:
		return l.raft
	default:
		return nil
	}
}
