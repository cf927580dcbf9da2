package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"offshoot/handoff"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

func unmarshal(data []byte, into any) error {
	if err := json.Unmarshal(data, into); err != nil {
		return fmt.Errorf("read answer: %w", err)
	}
	return nil
}

// begin is what happens once everything runs: the founding command, the seed's profile, the rest of a handoff.
func (s *services) begin(ctx context.Context) error {
	if s.founding != nil {
		if err := s.replica.decide(ctx, *s.founding); err != nil && ctx.Err() == nil {
			return fmt.Errorf("found the swarm: %w", err)
		}
	}
	if s.node.o.Seed != nil {
		if err := s.writeProfile(ctx); err != nil && ctx.Err() == nil {
			return err
		}
		settings, _ := s.state.View().Settings()
		s.node.o.Say("swarm     " + settings.Swarm + ", pin " + settings.Pin)
		s.sayUnverified()
		s.node.o.Say("ready     connect a machine and let it boot from the network")
		return nil
	}
	take := handoff.Take(s.node.o.DataDir, s.taker, s.node.log)
	if err := take.Execute(ctx); err != nil && ctx.Err() == nil {
		return fmt.Errorf("take the handoff to its end: %w", err)
	}
	if ctx.Err() == nil {
		s.node.o.Say("ready     node " + s.memory.Name)
	}
	return nil
}

func (s *services) writeProfile(ctx context.Context) error {
	if s.stocked.profile.Name == "" {
		return nil
	}
	for _, a := range s.stocked.artifacts {
		have, ok := s.state.View().Artifact(a.Digest)
		if have.Pinned = false; ok && have == a {
			continue
		}
		if err := s.replica.decide(ctx, swarm.PutArtifact{Artifact: a}); err != nil {
			return fmt.Errorf("write artifact %s down: %w", a.Name, err)
		}
	}
	have, ok := s.state.View().Profile(s.stocked.profile.Name)
	if ok && have.Equal(s.stocked.profile) {
		return nil
	}
	if err := s.replica.decide(ctx, swarm.PutProfile{Profile: s.stocked.profile, Default: true}); err != nil {
		return fmt.Errorf("write profile %s down: %w", s.stocked.profile.Name, err)
	}
	return nil
}

// warmPause is the time between two attempts to fetch what is missing.
const warmPause = 5 * time.Second

// keepWarm fetches what the profiles need, now and whenever they change, and says when the node is warm. Working sets are fetched
// beside it: a package that does not come must not hold up an image.
func (s *services) keepWarm(ctx context.Context) error {
	s.salvage(ctx)
	for {
		changed := s.state.Changed()
		missing := 0
		view := s.state.View()
		for _, digest := range view.Needs() {
			a, ok := view.Artifact(digest)
			if !ok {
				missing++
				continue
			}
			if err := s.fetch(ctx, a, nil); err != nil {
				missing++
				s.node.log.Info("artifact is not here yet", "artifact", a.Name, "digest", a.Digest, "error", err)
			}
		}
		_, arrived := view.Settings()
		s.warm.Store(arrived && missing == 0 && len(view.Needs()) > 0 && s.sets.settled(s.state.View()))
		var retry <-chan time.Time
		if missing > 0 {
			retry = time.After(warmPause)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-retry:
		case <-s.sets.wake:
		}
	}
}

func (s *services) fetch(ctx context.Context, a swarm.Artifact, progress func(int64)) error {
	digest, err := share.ParseDigest(a.Digest)
	if err != nil {
		return err
	}
	if s.share.Has(digest) || s.isOwnProgram(ctx, digest) {
		s.freight.needed(a.Digest, a.Size)
		return nil
	}
	if err := s.garbage.makeRoom(a.Size); err != nil { // what a profile needs is dearer than what nobody asks for
		s.node.log.Warn("no room is made", "artifact", a.Name, "error", err)
	}
	started := time.Now()
	before := s.share.Stats().Fetched
	if err := s.share.Fetch(ctx, digest, a.Size, progress); err != nil {
		return err
	}
	pieces := s.share.Stats().Fetched - before
	s.freight.needed(a.Digest, a.Size)
	from := s.freight.of(a.Digest).Received
	s.node.log.Info("artifact fetched", "artifact", a.Name, "bytes", a.Size, "pieces", pieces, "segment", from.Segment, "uplink", from.Uplink, "took", time.Since(started))
	return nil
}

// renewPause is how often the certificate's age is looked at, and how soon a failed renewal is tried again.
const renewPause = 10 * time.Minute

// trustPause is the time between two attempts to take a step of a replacement of the CA.
const trustPause = time.Second

// keepCertificate renews this node's certificate at half of its life, and takes part in a replacement of the CA. Both in one
// loop: an answer to the one must not undo the other.
func (s *services) keepCertificate(ctx context.Context) error {
	ticker := time.NewTicker(renewPause)
	defer ticker.Stop()
	for due := true; ; {
		changed := s.state.Changed()
		var retry <-chan time.Time
		if err := s.keepTrust(ctx); err != nil && ctx.Err() == nil {
			s.node.log.Info("a step of the replacement of the CA is not taken yet", "error", err)
			retry = time.After(trustPause)
		}
		if due && s.identity.NeedsRenewal(time.Now()) {
			if err := s.renewCertificate(ctx); err != nil && ctx.Err() == nil {
				s.node.log.Warn("certificate is not renewed yet", "until", s.identity.NotAfter(), "error", err)
			}
		}
		due = false
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
			due = true
		case <-changed:
		case <-retry:
		}
	}
}

func (s *services) renewCertificate(ctx context.Context) error {
	csr, err := s.identity.CSR()
	if err != nil {
		return err
	}
	var cert []byte
	if s.replica.ledger.IsLeader() {
		cert, err = s.service.RenewCertificate(ctx, s.memory.Node, csr)
	} else if _, leader, ok := s.replica.ledger.Leader(); ok {
		cert, err = s.client.RenewCertificate(ctx, leader, csr)
	} else {
		err = errors.New("no leader is known")
	}
	if err != nil {
		return err
	}
	return s.identity.Renew(cert)
}

// keepMemory writes down where the others are, and the gossip keys, so that this node finds them after a restart.
func (s *services) keepMemory(ctx context.Context) error {
	saved := s.memory
	for {
		changed := s.state.Changed()
		m := saved
		if settings, ok := s.state.View().Settings(); ok {
			m.Keys = settings.GossipKeys
		}
		if others := s.gossipAddresses(); len(others) > 1 {
			m.Members = others[1:]
		}
		if n, ok := s.state.View().Node(m.Node); ok {
			m.Name = n.Name
		}
		if !slices.Equal(m.Keys, saved.Keys) || !slices.Equal(m.Members, saved.Members) || m.Name != saved.Name {
			if err := m.save(s.node.o.DataDir); err != nil {
				return err
			}
			saved = m
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}
