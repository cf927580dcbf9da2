package ledger

import (
	"context"
	"errors"
	"fmt"
	"math"
	"sync"
	"time"

	"github.com/hashicorp/raft"

	"offshoot/swarm"
)

// Pulse is what a ledger tells the ledgers of other nodes about itself. It travels over the peer API.
type Pulse struct {
	Node    swarm.NodeID `json:"node"`
	Term    uint64       `json:"term"`    // the newest it knows
	Commit  uint64       `json:"commit"`  // raft index that it knows to be committed; learned from a leader, in this life
	Applied uint64       `json:"applied"` // raft index of the last command that its state machine has seen
	Leading bool         `json:"leading"`
	// Confirmed is, if Leading, how long ago (nanoseconds) a majority last confirmed its term.
	Confirmed time.Duration `json:"confirmed"`
	// Contact is, if Hears, how long ago (nanoseconds) the leader was in office for what this node knows: LeaderContact.
	Hears   bool          `json:"hears"`
	Contact time.Duration `json:"contact"`
}

// Pulse is the far side of Peers.Pulse. It is cheap and never waits; all zero before Run has started raft.
func (l *Ledger) Pulse() Pulse {
	r := l.current()
	if r == nil {
		return Pulse{}
	}
	// In this order: a term read first can only be too old for the claim to lead, which then is not believed.
	p := Pulse{Node: l.opt.ID, Term: r.CurrentTerm(), Commit: r.CommitIndex(), Applied: l.fsm.applied.Load()}
	if contact := l.LeaderContact(); contact != never {
		p.Hears, p.Contact = true, contact
		if r.State() == raft.Leader {
			p.Leading, p.Confirmed = true, contact
		}
	}
	return p
}

// pulseOf asks a node, and nobody else who has its address by now: what a machine says that was installed anew must not
// count for the voter that it was.
func (l *Ledger) pulseOf(ctx context.Context, id swarm.NodeID, address string) (Pulse, error) {
	p, err := l.opt.Peers.Pulse(ctx, address)
	if err == nil && p.Node != id {
		return Pulse{}, fmt.Errorf("node %q answers at %s", p.Node, address)
	}
	return p, err
}

const never = time.Duration(math.MaxInt64)

// LeaderContact is how long ago this node knew for certain that the leader was in office; the largest duration if it
// never did. On the leader: since it last asked a majority that agreed. On members: since the leader was last asked and
// could say so, counted from what a majority had last told it. On followers: the same, asked of the node that feeds them.
// All count from the moment of asking, so a node that was paused and wakes up with old messages in its sockets is not
// deceived (raft's LastContact is).
func (l *Ledger) LeaderContact() time.Duration {
	l.contactMu.Lock()
	defer l.contactMu.Unlock()
	if l.contact == never {
		return never
	}
	return l.opt.Clock() - l.contact
}

func (l *Ledger) noteContact(at time.Duration) {
	l.contactMu.Lock()
	defer l.contactMu.Unlock()
	if l.contact == never || at > l.contact {
		l.contact = at
	}
}

// keepContact asks again and again whether the leader is in office.
func (l *Ledger) keepContact(ctx context.Context) {
	ticker := time.NewTicker(l.opt.Timing.Heartbeat / 4)
	defer ticker.Stop()
	var askedFeeder time.Time
	for {
		changed := l.leadership.next()
		round, cancel := context.WithTimeout(ctx, l.opt.Timing.Election)
		var err error
		if feeder := l.fed.feeder(); feeder.ID == "" || l.hearsLeader() {
			err = l.contactOnce(round)
		} else if time.Since(askedFeeder) >= l.opt.Timing.Heartbeat { // it has hundreds like us
			askedFeeder = time.Now()
			err = l.contactByFeeder(round, feeder)
		}
		if err != nil && ctx.Err() == nil {
			l.log.Debug("leader does not confirm its office", "error", err)
		}
		cancel()
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-changed:
		}
	}
}

func (l *Ledger) contactOnce(ctx context.Context) error {
	asked := l.opt.Clock()
	id, address, ok := l.Leader()
	switch {
	case !ok:
		return ErrNoLeader
	case id == l.opt.ID:
		if err := l.Verify(ctx); err != nil {
			return err
		}
		l.noteContact(asked)
		l.correctAddress(ctx)
		return nil
	}
	p, err := l.pulseOf(ctx, id, address)
	if err != nil {
		return fmt.Errorf("ask leader %s at %s: %w", id, address, err)
	}
	if !p.Leading || p.Term < l.raft.CurrentTerm() || p.Confirmed < 0 {
		return fmt.Errorf("ask leader %s at %s: %w", id, address, ErrNotLeader)
	}
	l.noteContact(asked - p.Confirmed)
	return nil
}

// contactByFeeder asks the node that feeds this one how old its own contact is. What the feed itself says about time
// would not do: a frame may have lain in a socket for a minute.
func (l *Ledger) contactByFeeder(ctx context.Context, feeder peer) error {
	asked := l.opt.Clock()
	p, err := l.pulseOf(ctx, feeder.ID, feeder.Address)
	if err != nil {
		return fmt.Errorf("ask %s at %s, which feeds this node: %w", feeder.ID, feeder.Address, err)
	}
	if !p.Hears || p.Contact < 0 {
		return fmt.Errorf("ask %s at %s, which feeds this node: %w", feeder.ID, feeder.Address, ErrNoLeader)
	}
	l.noteContact(asked - p.Contact)
	return nil
}

// Verify asks the voters whether this node leads them still: ErrNotLeader if not, ErrNoQuorum if no majority answers.
// A nil error means that it led at some moment during the call.
//
// raft's VerifyLeader is not used: it counts answers to heartbeats that were sent before it was called (replication.go,
// notifyAll), so a leader that wakes from a pause may confirm itself with old mail.
func (l *Ledger) Verify(ctx context.Context) error {
	if err := l.ready(ctx); err != nil {
		return fmt.Errorf("verify leadership: %w", err)
	}
	term := l.raft.CurrentTerm()
	if !l.IsLeader() {
		return fmt.Errorf("verify leadership: %w", ErrNotLeader)
	}
	// A voter whose term is ours has not voted in a later election; when a majority says so, there was no later one.
	err := l.majority(ctx, l.Members(), func(p Pulse) error {
		if p.Term != term {
			return fmt.Errorf("it is in term %d, we lead in %d", p.Term, term)
		}
		return nil
	})
	if err != nil {
		return fmt.Errorf("verify leadership: %w", err)
	}
	if !l.IsLeader() || l.raft.CurrentTerm() != term {
		return fmt.Errorf("verify leadership: %w", ErrNotLeader)
	}
	return nil
}

// majority asks the voters among members, all at once, until more than half of them satisfy check. ErrNoQuorum, with
// what the others said, if they do not.
func (l *Ledger) majority(ctx context.Context, members []Member, check func(Pulse) error) error {
	ctx, cancel := context.WithTimeout(ctx, l.opt.Timing.Election)
	defer cancel() // ends the questions that are not needed any more, before they are waited for
	var asked sync.WaitGroup
	voters, yes := 0, 0
	answers := make(chan error, len(members))
	for _, m := range members {
		if !m.Voter {
			continue
		}
		voters++
		if m.ID == l.opt.ID {
			yes++
			continue
		}
		asked.Go(func() {
			p, err := l.pulseOf(ctx, m.ID, m.Address)
			if err == nil {
				err = check(p)
			}
			if err != nil {
				err = fmt.Errorf("%s at %s: %w", m.ID, m.Address, err)
			}
			answers <- err
		})
	}
	var no []error
	waiting := voters - yes
	for yes <= voters/2 && waiting > 0 {
		waiting--
		if err := <-answers; err != nil {
			no = append(no, err)
		} else {
			yes++
		}
	}
	cancel()
	asked.Wait()
	if voters == 0 || yes <= voters/2 {
		return fmt.Errorf("%w: %d of %d: %w", ErrNoQuorum, yes, voters, errors.Join(no...))
	}
	return nil
}

// Barrier returns when everything that was committed before is applied on this node, which must be the leader.
func (l *Ledger) Barrier(ctx context.Context) error {
	err := l.await(ctx, func(r *raft.Raft) error { return r.Barrier(ioTimeout).Error() })
	if err != nil {
		return fmt.Errorf("barrier: %w", err)
	}
	return nil
}

// Applied is the raft index of the last command that this node's state machine has seen.
func (l *Ledger) Applied() uint64 { return l.fsm.applied.Load() }

// LeadershipChanged returns a channel that is closed when another node leads, or none, or when this node's role
// changes. Take it, then look at Leader.
func (l *Ledger) LeadershipChanged() <-chan struct{} { return l.leadership.next() }

// Stats is the ledger's part of a status document.
type Stats struct {
	State    string // Follower, Candidate, Leader, Shutdown; "" before Run
	Leader   swarm.NodeID
	Term     uint64
	Last     uint64 // raft index of the newest entry on disk
	Commit   uint64
	Applied  uint64 // raft index of the last command that the state machine has seen
	Contact  time.Duration
	Snapshot uint64 // raft index of the newest snapshot, 0 if none
	Members  []Member
	Feeder   swarm.NodeID // which node feeds this one; "" if none does
	Feeds    int          // how many nodes are fed from here
	Pending  int          // requests that wait for raft; see MaxPending
}

// Stats returns figures that belong together only roughly.
func (l *Ledger) Stats() Stats {
	s := Stats{Applied: l.Applied(), Contact: l.LeaderContact(), Members: l.Members()}
	s.Leader, _, _ = l.Leader()
	s.Feeder, s.Feeds, s.Pending = l.fed.feeder().ID, l.feeds.count(), l.requests.count()
	if r := l.current(); r != nil {
		s.State, s.Term, s.Last, s.Commit = r.State().String(), r.CurrentTerm(), r.LastIndex(), r.CommitIndex()
	}
	if list, err := l.store.snapshots.List(); err == nil && len(list) > 0 {
		s.Snapshot = list[0].Index
	}
	return s
}
