package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"

	"offshoot/node/internal/peer"
	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
)

// authorities are the CAs whose keys this node has: none unless it votes or has voted, one as a rule, and a second one while the
// swarm's CA is being replaced. Which of them signs stands in the ledger.
type authorities struct {
	dir string
	mu  sync.Mutex
	all []*identity.CA
}

// load reads what is on the disk.
func (a *authorities) load() error {
	all, err := identity.LoadCAs(a.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.all = all
	return nil
}

// get is the authority with this pin, nil if its key is not here.
func (a *authorities) get(pin string) *identity.CA {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, ca := range a.all {
		if ca.Pin() == pin {
			return ca
		}
	}
	return nil
}

// add keeps keys, on the disk first.
func (a *authorities) add(cas ...*identity.CA) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := slices.Clone(a.all)
	for _, ca := range cas {
		if !slices.ContainsFunc(all, func(have *identity.CA) bool { return have.Pin() == ca.Pin() }) {
			all = append(all, ca)
		}
	}
	return a.set(all)
}

// drop forgets keys.
func (a *authorities) drop(pins ...string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.set(slices.DeleteFunc(slices.Clone(a.all), func(ca *identity.CA) bool { return slices.Contains(pins, ca.Pin()) }))
}

func (a *authorities) set(all []*identity.CA) error {
	if len(all) == len(a.all) { // sets only grow or shrink
		return nil
	}
	if err := identity.SaveCAs(a.dir, all...); err != nil {
		return err
	}
	a.all = all
	return nil
}

// Authority keeps the keys of the swarm's CA, and of one that is replacing it, which the leader brings to voters.
func (s *service) Authority(_ context.Context, from swarm.NodeID, keys []byte) error {
	if leader, _, ok := s.ledger.Leader(); !ok || leader != from {
		return fmt.Errorf("%w: only the leader brings the authority's key", peer.ErrRefused)
	}
	settings, ok := s.state.View().Settings()
	if !ok {
		return errors.New("the swarm's settings have not arrived here yet")
	}
	all, err := identity.DecodeCAs(keys)
	if err != nil {
		return fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	for _, ca := range all {
		if ca.Pin() != settings.Pin && !settings.Former(ca.Pin()) {
			return fmt.Errorf("%w: %s is no authority of this swarm", peer.ErrRefused, ca.Pin())
		}
	}
	return s.authorities.add(all...)
}

// entrust is the other side of Authority: whoever may lead must be able to sign, now and after the next step.
func (s *service) entrust(ctx context.Context, n swarm.Node) error {
	if n.ID == s.self() {
		return nil
	}
	settings, _ := s.state.View().Settings()
	var all []*identity.CA
	for _, pin := range slices.Compact([]string{settings.Pin, settings.Signer()}) {
		ca := s.authorities.get(pin)
		if ca == nil && pin == settings.Pin {
			return fmt.Errorf("this node leads without the key of authority %s", pin)
		}
		if ca != nil {
			all = append(all, ca)
		}
	}
	keys, err := identity.EncodeCAs(all...)
	if err != nil {
		return err
	}
	return s.client.Authority(ctx, n.Address, keys)
}

// ReplaceAuthority begins to replace the swarm's CA, on the leader: the new key is on this node's disk before the ledger names
// it, and with the other voters, as far as they answer, before the operator is told. The answer is the new pin.
func (s *service) ReplaceAuthority(ctx context.Context, from swarm.NodeID, r peer.AuthorityRequest) ([]byte, error) {
	view := s.state.View()
	settings, ok := view.Settings()
	if !s.ledger.IsLeader() || !ok {
		return nil, peer.ErrNotLeader
	}
	if n, ok := view.Node(from); !ok || !n.Eligible() {
		return nil, fmt.Errorf("%w: node %s is not in good standing", peer.ErrRefused, from)
	}
	ca, err := identity.NewCA(settings.Swarm, s.now())
	if err != nil {
		return nil, err
	}
	if err := s.authorities.add(ca); err != nil {
		return nil, err
	}
	result, err := s.commitAs(ctx, r.Actor, swarm.ReplaceCA{CA: string(ca.Certificate()), Pin: ca.Pin(), Reason: r.Reason})
	if err != nil {
		return nil, err // it may be true all the same: the key stays
	}
	if err := result.Err(); err != nil {
		return nil, errors.Join(fmt.Errorf("%w: %w", peer.ErrRefused, err), s.authorities.drop(ca.Pin()))
	}
	if err := s.entrustVoters(ctx); err != nil {
		s.log.Info("not every voter has the new CA's key yet", "error", err)
	}
	return []byte(ca.Pin()), nil
}

// commitAs writes an operator's decision down that only this leader can make true: in one attempt, never forwarded.
func (s *service) commitAs(ctx context.Context, actor string, op swarm.Op) (result swarm.Result, err error) {
	command, err := s.encode(actor, op)
	if err != nil {
		return result, err
	}
	answer, err := s.ledger.Commit(ctx, command)
	if errors.Is(err, ledger.ErrNotLeader) {
		return result, fmt.Errorf("%w: %w", peer.ErrNotLeader, err)
	}
	if err != nil {
		return result, fmt.Errorf("%T: %w", op, err)
	}
	return result, unmarshal(answer, &result)
}

// entrustVoters brings the keys to all others that vote, and will go on to.
func (s *service) entrustVoters(ctx context.Context) error {
	view := s.state.View()
	var errs []error
	for _, m := range s.ledger.Members() {
		if n, ok := view.Node(m.ID); ok && m.Voter && n.Eligible() {
			errs = append(errs, s.entrust(ctx, n))
		}
	}
	return errors.Join(errs...)
}

// tendAuthority is the leader's part in a replacement of the CA: it takes the next step once every node has taken the last.
func (s *service) tendAuthority(ctx context.Context) error {
	view := s.state.View()
	settings, _ := view.Settings()
	if settings.CAStage == "" {
		return nil
	}
	if settings.CAStage == swarm.CASpreading && s.authorities.get(settings.Pin) == nil {
		// The leader that made it was lost before this node had the key. Nothing of it is in use, so another one takes its place.
		_, err := s.ReplaceAuthority(ctx, s.self(), peer.AuthorityRequest{Reason: "the node that made the CA was lost before others had its key"})
		return err
	}
	if len(view.CABehind()) > 0 {
		return nil
	}
	step := swarm.AdvanceCA{Generation: settings.CAGeneration}
	if settings.CAStage == swarm.CASpreading {
		if err := s.entrustVoters(ctx); err != nil {
			return fmt.Errorf("the new CA is not used yet: %w", err)
		}
		step.Key = identity.NewGossipKey().Encode()
	}
	s.log.Info("replacement of the CA moves on", "generation", settings.CAGeneration, "stage", settings.CAStage)
	return s.decideHere(ctx, step)
}

// keepTrust takes the step of a replacement of the CA that the ledger says, and remembers it for this node's report: what is
// reported stands on the disk and holds for every connection.
func (s *services) keepTrust(ctx context.Context) error {
	settings, ok := s.state.View().Settings()
	own := s.identity.Pin()
	switch {
	case !ok || settings.CAGeneration == s.ca.Load():
		return nil
	case own != settings.Pin && !settings.Former(own):
		return nil // this node reads old decisions: it has joined since, or starts
	}
	trust, former := [][]byte{[]byte(settings.CA)}, []string{}
	for _, ca := range settings.FormerCAs {
		trust, former = append(trust, []byte(ca.Certificate)), append(former, ca.Pin)
	}
	if err := s.identity.Trust(trust...); err != nil {
		return err
	}
	if n, _ := s.state.View().Node(s.memory.Node); n.Quarantine != "" {
		return nil // nobody renews it, and nobody waits for it
	}
	if settings.CAStage == swarm.CAInUse && own != settings.Pin {
		if err := s.renewCertificate(ctx); err != nil {
			return err
		}
		if own = s.identity.Pin(); own != settings.Pin {
			return fmt.Errorf("the certificate is still of %s", own)
		}
		// What stands was begun with the old certificate. It ends here, one node at a time, and not everywhere in the last step.
		s.identity.Cut(func(p identity.Peer, _ string) bool { return p.Node != "" })
	}
	if settings.CAStage == "" {
		if err := s.service.authorities.drop(s.former...); err != nil {
			return err
		}
	}
	// From the first step on, old certificates count only together with keys that the ledger knows.
	s.cutRefused(s.state.View())
	s.former = former
	s.ca.Store(settings.CAGeneration)
	s.node.log.Info("a step of the replacement of the CA is taken", "generation", settings.CAGeneration, "stage", settings.CAStage, "pin", settings.Pin)
	return nil
}
