package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/ledger"
)

// stewardPause is how often the leader looks after the swarm when nothing changes, so that time-outs are noticed.
const stewardPause = 200 * time.Millisecond

// roundTime bounds one round.
const roundTime = 30 * time.Second

// deadVoterGrace is how long a voter may be unreachable before its vote goes to another.
const deadVoterGrace = time.Minute

// steward is the leader's work: who takes part in the ledger, who votes, who holds which duty. Every node runs one; it acts
// only while this node leads. What should be is decided by pure rules in package swarm.
type steward struct {
	*replica
	renewals *renewals
	clock    func() time.Duration
	alive    func(swarm.NodeID) bool
	goneFor  func(swarm.NodeID) time.Duration
	// entrust brings the CA's key to a node before it gets a vote: whoever may lead must be able to sign.
	entrust func(ctx context.Context, n swarm.Node) error
	// authority takes a replacement of the CA on.
	authority func(ctx context.Context) error
	members   func() <-chan struct{} // closed at the next change of gossip
	swept     time.Duration          // by clock; sweep's own
	vigil     vigil                  // stalls's own
	log       *slog.Logger
}

func (s *steward) String() string { return "steward" }

// Run looks after the swarm until ctx ends: duties in one loop, because machines wait for them, members in another, because
// changes there can hang on a slow node.
func (s *steward) Run(ctx context.Context) error {
	var loops sync.WaitGroup
	loops.Go(func() {
		var (
			office uint64 // by term: a node that lost leadership and has it again has not seen what was confirmed between
			last   time.Duration
		)
		s.loop(ctx, func(ctx context.Context) error {
			if term := s.ledger.Pulse().Term; term != office {
				if err := s.ledger.Barrier(ctx); err != nil {
					return err
				}
				s.renewals.takeOffice(term)
				office = term
			}
			// A leader that could not run for a while could not hear either: whoever asked to go on in that time must be
			// given the chance to ask again.
			if now := s.clock(); now-last > dutyRenew+stewardPause {
				s.renewals.extend()
			}
			err := s.duties(ctx)
			last = s.clock()
			return err
		})
	})
	loops.Go(func() {
		s.loop(ctx, func(ctx context.Context) error { return errors.Join(s.admit(ctx), s.vote(ctx)) })
	})
	loops.Go(func() { s.loop(ctx, s.sweep) })
	loops.Go(func() { s.loop(ctx, s.stalls) })
	loops.Wait()
	return nil
}

// loop makes a round whenever something has changed, and now and then, while this node leads. An error ends the round: the
// next one sees what has become of it.
func (s *steward) loop(ctx context.Context, round func(context.Context) error) {
	ticker := time.NewTicker(stewardPause)
	defer ticker.Stop()
	for {
		changed, leadership, members := s.state.Changed(), s.ledger.LeadershipChanged(), s.members()
		if s.ledger.IsLeader() {
			bounded, cancel := context.WithTimeout(ctx, roundTime)
			if err := round(bounded); err != nil && ctx.Err() == nil && !errors.Is(err, ledger.ErrNotLeader) {
				s.log.Debug("steward's round ended early", "error", err)
			}
			cancel()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		case <-changed:
		case <-leadership:
		case <-members:
		}
	}
}

// duties grants, offers and withdraws.
func (s *steward) duties(ctx context.Context) error {
	view := s.state.View()
	for _, segment := range view.Segments() {
		op := swarm.Assign(view, segment, swarm.Liveness{Alive: s.alive, Expired: s.renewals.expired})
		if op == nil {
			continue
		}
		if _, grant := op.(swarm.GrantDuty); grant && !s.renewals.giveAway(segment) {
			continue // it was confirmed a moment ago
		}
		if err := s.decideHere(ctx, op); err != nil && !errors.Is(err, swarm.ErrConflict) {
			return err
		}
	}
	return nil
}

// admit makes those members of the ledger who should be: voters, holders and who stands by. It lets go of the others, who
// follow by a feed.
func (s *steward) admit(ctx context.Context) error {
	view, members := s.state.View(), s.ledger.Members()
	voting := map[swarm.NodeID]bool{}
	for _, m := range members {
		voting[m.ID] = m.Voter
	}
	wanted := swarm.Members(view, voting, func(id swarm.NodeID) bool {
		_, member := voting[id]
		return s.alive(id) || member && s.goneFor(id) < deadVoterGrace
	})
	for _, m := range members { // first, because a machine that was installed again has the address of who it was before
		n, known := view.Node(m.ID)
		dispensable := !known || !n.Eligible() || s.alive(m.ID)
		if m.Voter || slices.Contains(wanted, m.ID) || !dispensable {
			continue
		}
		if err := s.ledger.Remove(ctx, m.ID); err != nil {
			return err
		}
	}
	for _, id := range wanted {
		n, ok := view.Node(id)
		at := slices.IndexFunc(members, func(m ledger.Member) bool { return m.ID == id })
		if !ok || !s.alive(id) || at >= 0 && members[at].Address == n.Address {
			continue
		}
		if err := s.ledger.AddLearner(ctx, id, n.Address); err != nil {
			return err
		}
	}
	return nil
}

// idleTime is how long an address is remembered for a machine that does not come back.
const idleTime = 7 * 24 * time.Hour

// sweep moves on what has its time: a change of the gossip keys or of the CA, and the forgetting of leases and machines that
// are gone.
func (s *steward) sweep(ctx context.Context) error {
	view := s.state.View()
	settings, _ := view.Settings()
	if swarm.KeysSpread(view, s.alive) {
		s.log.Info("gossip keys move on", "generation", settings.KeyGeneration, "stage", settings.KeyStage)
		return s.decideHere(ctx, swarm.AdvanceKeys{Generation: settings.KeyGeneration})
	}
	if err := s.authority(ctx); err != nil {
		return err
	}
	if at := s.clock(); at-s.swept >= time.Hour {
		s.swept = at
		for _, segment := range view.Segments() {
			if err := s.decideHere(ctx, swarm.ForgetIdle{Segment: segment.ID, Before: s.now().Add(-idleTime)}); err != nil {
				return err
			}
		}
	}
	return nil
}

// vote moves the set of voters one step towards what it should be: first promote, so that the ledger never gets weaker,
// then hand leadership to someone who stays, then demote.
func (s *steward) vote(ctx context.Context) error {
	voting := map[swarm.NodeID]bool{}
	for _, m := range s.ledger.Members() {
		if m.Voter {
			voting[m.ID] = true
		}
	}
	view := s.state.View()
	settings, _ := view.Settings()
	want := swarm.Voters(view.Nodes(), voting, settings.Voters, func(id swarm.NodeID) bool {
		if voting[id] {
			return s.alive(id) || s.goneFor(id) < deadVoterGrace
		}
		return s.alive(id) && s.ledger.CaughtUp(ctx, id) == nil
	})
	for _, id := range want {
		if voting[id] {
			continue
		}
		if err := s.settled(ctx, voting); err != nil {
			return err
		}
		n, _ := view.Node(id)
		if err := s.entrust(ctx, n); err != nil {
			return err
		}
		if err := s.ledger.Promote(ctx, id); err != nil {
			return err
		}
		s.log.Info("node votes now", "node", id)
		return nil // one change at a time
	}
	for id := range voting {
		if slices.Contains(want, id) || len(want) == 0 {
			continue
		}
		if err := s.settled(ctx, voting); err != nil {
			return err
		}
		if id == s.self() {
			s.log.Info("handing leadership over", "to", want[0])
			return s.ledger.TransferTo(ctx, want[0])
		}
		if err := s.ledger.Demote(ctx, id); err != nil {
			return err
		}
		s.log.Info("node no longer votes", "node", id)
		return nil
	}
	return nil
}

// settled says whether every voter that may come back knows who votes now. raft gives no vote to a candidate that it does not
// know as a voter: a voter that lags behind several changes could refuse the only one that can still be elected.
func (s *steward) settled(ctx context.Context, voting map[swarm.NodeID]bool) error {
	for id := range voting {
		if id == s.self() || s.goneFor(id) >= deadVoterGrace && !s.alive(id) {
			continue
		}
		if err := s.ledger.CaughtUp(ctx, id); err != nil {
			return fmt.Errorf("voters stay as they are: %w", err)
		}
	}
	return nil
}
