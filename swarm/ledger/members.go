package ledger

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/hashicorp/raft"

	"offshoot/swarm"
)

// Member is a node that the ledger is replicated to.
type Member struct {
	ID      swarm.NodeID
	Address string // host:port of its raft stream
	Voter   bool   // false: a learner
}

// Members are the voters and learners as this node knows them, perhaps not yet committed; none before Run.
func (l *Ledger) Members() []Member {
	r := l.current()
	if r == nil {
		return nil
	}
	servers := r.GetConfiguration().Configuration().Servers // answers from memory, never fails
	members := make([]Member, 0, len(servers))
	for _, s := range servers {
		members = append(members, Member{
			ID: swarm.NodeID(s.ID), Address: string(s.Address), Voter: s.Suffrage == raft.Voter,
		})
	}
	return members
}

// memberSilence is how long a member may hear nothing from raft before it looks for a feed: so long that elections and
// restarts of the whole swarm pass without.
func (o *Options) memberSilence() time.Duration { return 5 * o.Timing.Heartbeat }

// Member tells whether this node takes part in raft: it is in raft's configuration and hears from it, or has come up a
// moment ago. A node that is not should Follow somebody.
func (l *Ledger) Member() bool {
	r := l.current()
	if r == nil {
		return false
	}
	if _, ok := find(l.Members(), l.opt.ID); !ok {
		return false
	}
	heard := r.LastContact()
	if heard.Before(l.began) {
		heard = l.began
	}
	return r.State() == raft.Leader || time.Since(heard) < l.opt.memberSilence()
}

func find(members []Member, id swarm.NodeID) (Member, bool) {
	for _, m := range members {
		if m.ID == id {
			return m, true
		}
	}
	return Member{}, false
}

// AddLearner makes id a member without a vote, or tells the others its new address if it is a member already, whose
// vote then stays as it is. Leader only. ErrAddressTaken if another member has that address: remove that one first.
func (l *Ledger) AddLearner(ctx context.Context, id swarm.NodeID, address string) error {
	return l.change(ctx, "add learner", id, func(members []Member) (proposal, error) {
		for _, m := range members {
			if m.Address == address && m.ID != id {
				return nil, fmt.Errorf("%w: %s is node %s", ErrAddressTaken, address, m.ID)
			}
		}
		if m, ok := find(members, id); ok && m.Address == address {
			return nil, nil
		}
		return func(r *raft.Raft, wait time.Duration) raft.IndexFuture {
			return r.AddNonvoter(raft.ServerID(id), raft.ServerAddress(address), 0, wait)
		}, nil
	})
}

// Promote gives a learner a vote. Leader only. It refuses with ErrBehind a learner that does not take part, since a
// voter that never answers can stop the swarm for good, and with ErrNoQuorum what would leave no majority that answers.
func (l *Ledger) Promote(ctx context.Context, id swarm.NodeID) error {
	return l.change(ctx, "promote", id, func(members []Member) (proposal, error) {
		m, ok := find(members, id)
		if !ok {
			return nil, ErrUnknownMember
		}
		if m.Voter {
			return nil, nil
		}
		// A fresh entry makes sure that what the learner has caught up with was sent to it just now.
		if err := l.Barrier(ctx); err != nil {
			return nil, err
		}
		if err := l.CaughtUp(ctx, id); err != nil {
			return nil, err
		}
		m.Voter = true
		if err := l.majority(ctx, with(members, m), anyPulse); err != nil {
			return nil, err
		}
		return func(r *raft.Raft, wait time.Duration) raft.IndexFuture {
			return r.AddVoter(raft.ServerID(id), raft.ServerAddress(m.Address), 0, wait)
		}, nil
	})
}

// Demote turns a voter into a learner. Leader only. A leader that demotes itself steps down once that is committed, and
// the others wait for an election: TransferTo another voter first and demote from there. ErrLastVoter, ErrNoQuorum.
func (l *Ledger) Demote(ctx context.Context, id swarm.NodeID) error {
	return l.change(ctx, "demote", id, func(members []Member) (proposal, error) {
		m, ok := find(members, id)
		if !ok {
			return nil, ErrUnknownMember
		}
		if !m.Voter {
			return nil, nil
		}
		if err := l.survives(ctx, without(members, id)); err != nil {
			return nil, err
		}
		return func(r *raft.Raft, wait time.Duration) raft.IndexFuture {
			return r.DemoteVoter(raft.ServerID(id), 0, wait)
		}, nil
	})
}

// Remove ends a membership. Leader only; what Demote says holds here. The removed node is not told: if it asks for
// votes later, the others' pre-vote refuses it.
func (l *Ledger) Remove(ctx context.Context, id swarm.NodeID) error {
	return l.change(ctx, "remove", id, func(members []Member) (proposal, error) {
		m, ok := find(members, id)
		if !ok {
			return nil, nil
		}
		if m.Voter {
			if err := l.survives(ctx, without(members, id)); err != nil {
				return nil, err
			}
		}
		return func(r *raft.Raft, wait time.Duration) raft.IndexFuture {
			return r.RemoveServer(raft.ServerID(id), 0, wait)
		}, nil
	})
}

// survives checks that the voters which are left can go on deciding. raft would accept the change regardless, and a
// change that its own majority cannot commit can never be taken back.
func (l *Ledger) survives(ctx context.Context, left []Member) error {
	for _, m := range left {
		if m.Voter {
			return l.majority(ctx, left, anyPulse)
		}
	}
	return ErrLastVoter
}

// anyPulse is content with a voter that answers at all.
func anyPulse(Pulse) error { return nil }

func without(members []Member, id swarm.NodeID) []Member {
	left := make([]Member, 0, len(members))
	for _, m := range members {
		if m.ID != id {
			left = append(left, m)
		}
	}
	return left
}

func with(members []Member, m Member) []Member { return append(without(members, m.ID), m) }

// TransferTo gives leadership to a voter and returns when it leads. Leader only; nil if that voter leads already.
func (l *Ledger) TransferTo(ctx context.Context, id swarm.NodeID) error {
	ctx, cancel := context.WithTimeout(ctx, changeBound)
	defer cancel()
	if leader, _, ok := l.Leader(); ok && leader == id {
		return nil
	}
	m, ok := find(l.Members(), id)
	switch {
	case !l.IsLeader():
		return fmt.Errorf("transfer leadership to %s: %w", id, ErrNotLeader)
	case !ok:
		return fmt.Errorf("transfer leadership to %s: %w", id, ErrUnknownMember)
	case !m.Voter:
		return fmt.Errorf("transfer leadership to %s: it has no vote", id)
	}
	err := l.await(ctx, func(r *raft.Raft) error {
		return r.LeadershipTransferToServer(raft.ServerID(id), raft.ServerAddress(m.Address)).Error()
	})
	if err == nil { // we stepped down; another may still win the election
		err = l.awaitLeader(ctx, func(swarm.NodeID) bool { return true })
	}
	if leader, _, _ := l.Leader(); err == nil && leader != id {
		err = fmt.Errorf("node %s was elected", leader)
	}
	if err != nil {
		return fmt.Errorf("transfer leadership to %s: %w", id, err)
	}
	return nil
}

// CaughtUp returns nil if the member has everything that this leader had committed when asked, within one election
// timeout: the measure of Ongaro's thesis, 4.2.1, for who may get a vote. ErrBehind says by how much not.
//
// raft does not tell what it knows of its followers' progress, so the member is asked itself: its commit index is what
// a leader told it through raft, its applied index what its state machine has done with it.
func (l *Ledger) CaughtUp(ctx context.Context, id swarm.NodeID) error {
	if !l.IsLeader() {
		return ErrNotLeader
	}
	m, ok := find(l.Members(), id)
	if !ok {
		return fmt.Errorf("node %s: %w", id, ErrUnknownMember)
	}
	if id == l.opt.ID {
		return nil
	}
	commit, applied := l.raft.CommitIndex(), l.fsm.applied.Load()
	round, cancel := context.WithTimeout(ctx, l.opt.Timing.Election)
	defer cancel()
	ticker := time.NewTicker(l.opt.Timing.Commit)
	defer ticker.Stop()
	var last error
	for {
		p, err := l.pulseOf(round, m.ID, m.Address)
		switch {
		case err == nil && p.Commit >= commit && p.Applied >= applied:
			return nil
		case err == nil:
			last = fmt.Errorf("it has applied %d of %d and knows %d of %d", p.Applied, applied, p.Commit, commit)
		case last == nil || round.Err() == nil:
			last = err
		}
		select {
		case <-ticker.C:
		case <-round.Done():
			return fmt.Errorf("node %s: %w: %w", id, ErrBehind, last)
		case <-l.stopping:
			return ErrStopped
		}
	}
}

// proposal appends one change of members to raft's log, waiting no longer than wait for its turn.
type proposal func(r *raft.Raft, wait time.Duration) raft.IndexFuture

// changeBound ends a change of members whose context has no deadline.
const changeBound = 30 * time.Second

// change carries out one change of members at a time. decide looks at the members and returns what to do: nil for
// nothing.
func (l *Ledger) change(ctx context.Context, what string, id swarm.NodeID, decide func([]Member) (proposal, error)) error {
	ctx, cancel := context.WithTimeout(ctx, changeBound)
	defer cancel()
	if err := l.ready(ctx); err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	select {
	case <-l.changing:
		defer func() { l.changing <- struct{}{} }()
	case <-ctx.Done():
		return fmt.Errorf("%s %s: another change is under way: %w", what, id, ctx.Err())
	}
	if !l.IsLeader() {
		return fmt.Errorf("%s %s: %w", what, id, ErrNotLeader)
	}
	do, err := decide(l.Members())
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	if do == nil {
		return nil
	}
	err = l.await(ctx, func(r *raft.Raft) error { return do(r, changeBound).Error() })
	if err != nil {
		return fmt.Errorf("%s %s: %w", what, id, err)
	}
	l.log.Info("ledger membership changed", "change", what, "node", id)
	return nil
}

// correctAddress is done by a leader that finds itself listed under an address that it had before a restart.
func (l *Ledger) correctAddress(ctx context.Context) {
	self, ok := find(l.Members(), l.opt.ID)
	if !ok || self.Address == l.opt.Address {
		return
	}
	if err := l.AddLearner(ctx, l.opt.ID, l.opt.Address); err != nil && !errors.Is(err, ErrNotLeader) {
		l.log.Warn("own address in the ledger is not corrected", "was", self.Address, "is", l.opt.Address, "error", err)
	}
}
