package node

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"offshoot/node/internal/api"
	"offshoot/node/internal/peer"
	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
)

// evict puts a node out for good: its certificate ends, the gossip key is changed without it, and its duties and vote go to
// others as soon as their time is over. With rotateCA it also begins to replace the swarm's CA, and returns the new pin.
func (s *services) evict(ctx context.Context, actor string, id swarm.NodeID, rotateCA bool) (pin string, err error) {
	n, _ := s.state.View().Node(id)
	if n.Ended == "" || !rotateCA {
		op := swarm.EvictNode{Node: id, Reason: "evicted by " + actor, Key: identity.NewGossipKey().Encode()}
		if err := s.decideAs(ctx, actor, op); err != nil || !rotateCA {
			return "", err
		}
	}
	pin, err = s.replaceCA(ctx, peer.AuthorityRequest{Actor: actor, Reason: "node " + n.Name + " was evicted"}, id)
	if err != nil {
		// In words only: the half that was done must not look like a refusal.
		return "", fmt.Errorf("%s is evicted, but the CA is not replaced; ask again for that: %s", n.Name, err.Error())
	}
	return pin, nil
}

// replaceCA asks whoever leads, which is another node than the evicted one as soon as that has lost its vote.
func (s *services) replaceCA(ctx context.Context, r peer.AuthorityRequest, evicted swarm.NodeID) (pin string, err error) {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	for {
		changed := s.replica.ledger.LeadershipChanged()
		leader, address, ok := s.replica.ledger.Leader()
		err := peer.ErrNotLeader
		var answer []byte
		switch {
		case !ok || leader == evicted:
		case leader == s.memory.Node:
			answer, err = s.service.ReplaceAuthority(ctx, leader, r)
		default:
			answer, err = s.client.ReplaceAuthority(ctx, address, r)
		}
		if !errors.Is(err, peer.ErrNotLeader) {
			return string(answer), err
		}
		select {
		case <-ctx.Done():
			return "", errors.New("the swarm has no leader at the moment")
		case <-changed:
		case <-time.After(leaderPause): // a leader may be known before it takes office
		}
	}
}

// leaderPause is the time between two looks for a leader.
const leaderPause = 200 * time.Millisecond

// rotateKeys begins to change the gossip key; the steward sees to the rest.
func (s *services) rotateKeys(ctx context.Context, actor string) error {
	return s.decideAs(ctx, actor, swarm.RotateKeys{Key: identity.NewGossipKey().Encode()})
}

func (s *services) decideAs(ctx context.Context, actor string, op swarm.Op) error {
	ctx, cancel := context.WithTimeout(ctx, decideTime)
	defer cancel()
	result, err := s.replica.proposeAs(ctx, actor, op)
	if err != nil {
		return err
	}
	return result.Err()
}

// addOperator makes an operator's file, here or on the leader: only voters can sign.
func (s *services) addOperator(ctx context.Context, actor, name, role string) ([]byte, error) {
	request := peer.OperatorRequest{Actor: actor, Name: name, Role: role}
	file, err := s.service.IssueOperator(ctx, s.memory.Node, request)
	if !errors.Is(err, peer.ErrNotLeader) {
		return file, err
	}
	_, leader, ok := s.replica.ledger.Leader()
	if !ok {
		return nil, errors.New("the swarm has no leader at the moment: try again")
	}
	return s.client.IssueOperator(ctx, leader, request)
}

// maxEndpoints bounds the addresses in an operator's file: one that answers is enough.
const maxEndpoints = 8

// IssueOperator makes an operator's file. It leaves only after its serial was written down.
func (s *service) IssueOperator(ctx context.Context, _ swarm.NodeID, r peer.OperatorRequest) ([]byte, error) {
	settings, _ := s.state.View().Settings()
	ca := s.authorities.get(settings.Pin)
	if !s.ledger.IsLeader() || ca == nil {
		return nil, peer.ErrNotLeader
	}
	file, serial, err := ca.IssueOperator(r.Name, r.Role, s.now(), 0)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	for _, n := range s.state.View().Nodes() {
		if n.Eligible() && len(file.Endpoints) < maxEndpoints {
			file.Endpoints = append(file.Endpoints, n.Address)
		}
	}
	result, err := s.proposeAs(ctx, r.Actor, swarm.AddOperator{
		Name: r.Name, Role: r.Role, Serial: serial, NotAfter: file.NotAfter(), Key: file.Key(), CA: file.Pin,
	})
	if err != nil {
		return nil, err
	}
	if err := result.Err(); err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	return file.Encode()
}

// operator names whoever stands behind a connection to the operators' port.
func (s *services) operator(r *http.Request) (api.Caller, error) {
	if r.TLS == nil {
		return api.Caller{}, errors.New("no TLS")
	}
	p, err := identity.PeerOf(*r.TLS)
	if err != nil {
		return api.Caller{}, err
	}
	return api.Caller{Name: "operator " + p.Operator, Role: p.OperatorRole, From: r.RemoteAddr}, nil
}

// restoreSnapshot replaces the whole state on all nodes.
func (s *services) restoreSnapshot(ctx context.Context, actor string, r io.Reader) error {
	if !s.replica.ledger.IsLeader() {
		leader, _, _ := s.replica.ledger.Leader()
		n, _ := s.state.View().Node(leader)
		return fmt.Errorf("a snapshot is restored on the node that leads, which is %s: run this there", n.Name)
	}
	if err := s.replica.ledger.RestoreSnapshot(ctx, r); err != nil {
		return err
	}
	// The audit log was replaced with the rest: this is the first line of what comes after.
	return s.decideAs(ctx, actor, swarm.Note{Kind: "restored", Text: "the whole state was replaced by a snapshot", Warn: true})
}

// Recover makes the node of a data directory the only voter of its swarm, when the others are lost. Nothing may run on the
// directory. What the lost voters had decided and this node had not heard is lost with them.
func Recover(_ context.Context, dir string, log *slog.Logger) error {
	release, err := lock(dir)
	if err != nil {
		return err
	}
	defer release()
	m, member, err := loadMemory(dir)
	if err != nil {
		return err
	}
	if !member {
		return fmt.Errorf("%w: %s holds no node", ErrNoSwarm, dir)
	}
	if _, err := identity.LoadCAs(dir); errors.Is(err, fs.ErrNotExist) {
		log.Warn("this node has never voted, so it has no copy of the swarm's authority: the swarm will serve, but nobody can join it or renew a certificate")
	} else if err != nil {
		return err
	}
	blank := &replica{state: swarm.NewState(), ages: newAges(uptime, maxLease), broken: func(err error) { log.Warn("ledger entry is not understood", "error", err) }}
	return ledger.Recover(ledger.Options{
		Dir: filepath.Join(dir, "ledger"), ID: m.Node, Address: netip.AddrPortFrom(m.Address.Addr(), PeerPort).String(), FSM: blank, Logger: log,
	})
}
