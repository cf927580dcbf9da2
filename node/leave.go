package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"offshoot/handoff"
	"offshoot/swarm"
	"offshoot/swarm/ledger"
)

// leaver is a node that goes for good: everything that it holds passes to others first.
type leaver struct {
	*replica
	alive func(swarm.NodeID) bool
	log   *slog.Logger
}

var _ handoff.Leaver = (*leaver)(nil)

// ErrAlone: there is nobody to hand over to.
var ErrAlone = errors.New("nobody can take over")

// leaveTime bounds each step of leaving: after it, an operator wants to hear what hangs.
const leaveTime = 30 * time.Second

// check says whether leaving is possible: for every duty of this node there must be another living node on that segment.
func (l *leaver) check() error {
	view := l.state.View()
	for _, s := range view.Segments() {
		if s.Duty.Holder != l.self() {
			continue
		}
		if _, ok := l.heir(view, s); !ok {
			return fmt.Errorf("%w duty on segment %s (%s): no other living node is on it", ErrAlone, s.ID, s.Network)
		}
	}
	return nil
}

func (l *leaver) heir(view swarm.View, s swarm.Segment) (swarm.Node, bool) {
	return swarm.Heir(view, s, func(id swarm.NodeID) bool { return id != l.self() && l.alive(id) })
}

// HandOverDuties offers each duty to the best other node, and waits until it has passed.
func (l *leaver) HandOverDuties(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	if err := l.check(); err != nil {
		return handoff.Final(err)
	}
	view := l.state.View()
	for _, s := range view.Segments() {
		if s.Duty.Holder != l.self() {
			continue
		}
		heir, _ := l.heir(view, s)
		if err := l.decide(ctx, swarm.OfferDuty{Segment: s.ID, Term: s.Duty.Term, To: heir.ID}); err != nil && !errors.Is(err, swarm.ErrConflict) {
			return err
		}
	}
	err := l.await(ctx, "every duty is handed over", func(v swarm.View) bool {
		for _, s := range v.Segments() {
			if s.Duty.Holder == l.self() {
				return false
			}
		}
		return true
	})
	return final(err)
}

// SayGoodbye writes down that this node has left. The leader lets go of it then, and takes its vote away.
func (l *leaver) SayGoodbye(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	return final(l.decide(ctx, swarm.LeaveNode{Node: l.self()}))
}

// GiveUpVote waits until others carry the ledger. The steward sees to it, since a node that has left is never wanted as a
// voter; when nobody else is there, the ledger simply stops with us.
func (l *leaver) GiveUpVote(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, leaveTime)
	defer cancel()
	for {
		if !carries(l.ledger.Members(), l.self(), l.state.View().Nodes(), l.alive) {
			return nil
		}
		select {
		case <-ctx.Done():
			return final(fmt.Errorf("wait until this node does not vote: %w", ctx.Err()))
		case <-time.After(200 * time.Millisecond): // members have no change notification
		}
	}
}

// carries says whether the ledger would stop for others if this node went now: it votes, and there is somebody who votes as well,
// or is about to.
func carries(members []ledger.Member, self swarm.NodeID, nodes []swarm.Node, alive func(swarm.NodeID) bool) bool {
	votes := func(m ledger.Member) bool { return m.Voter && m.ID == self }
	other := func(m ledger.Member) bool { return m.Voter && m.ID != self }
	heir := func(n swarm.Node) bool { return n.ID != self && n.Eligible() && alive(n.ID) }
	return slices.ContainsFunc(members, votes) && (slices.ContainsFunc(members, other) || slices.ContainsFunc(nodes, heir))
}

// final keeps a plan from trying a step of leaving again: the operator waits.
func final(err error) error {
	if err == nil {
		return nil
	}
	return handoff.Final(err)
}
