package node

import (
	"bytes"
	"context"
	"crypto/subtle"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"time"

	"offshoot/node/internal/peer"
	"offshoot/node/internal/syslog"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
)

// service answers the calls of other nodes and of machines with a ticket.
type service struct {
	*replica
	authorities *authorities // that this node can sign for
	renewals    *renewals
	client      calls
	deliver     func(ctx context.Context, segment string, term uint64, packets [][]byte) error
	gossip      func() []netip.AddrPort // where a new node finds others
	journal     *journal
	book        *syslog.Book // nil: this node hears no syslog
	log         *slog.Logger
}

var _ peer.Service = (*service)(nil)

// Propose applies a command that another node forwarded. A node may speak for itself only.
func (s *service) Propose(ctx context.Context, from swarm.NodeID, command []byte) ([]byte, error) {
	c, err := swarm.DecodeCommand(command)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	if err := swarm.MayForward(s.state.View(), from, c); err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	answer, err := s.ledger.Accept(ctx, command)
	if errors.Is(err, ledger.ErrNotLeader) {
		return nil, fmt.Errorf("%w: %w", peer.ErrNotLeader, err)
	}
	return answer, err
}

// RenewDuty confirms that a holder may go on for another period. A leader that was replaced without noticing must not
// confirm: its last proof of office may be officeProof old, which the margin of the duty's time covers.
func (s *service) RenewDuty(_ context.Context, from swarm.NodeID, segment string, term uint64) error {
	if age := s.ledger.LeaderContact(); !s.ledger.IsLeader() || age > officeProof {
		return fmt.Errorf("%w: last confirmed %v ago", peer.ErrNotLeader, age)
	}
	view := s.state.View()
	at, ok := view.Segment(segment)
	if !ok || at.Duty.Holder != from || at.Duty.Term != term {
		return fmt.Errorf("%w: duty on segment %s has moved on: %q holds it in term %d", peer.ErrRefused, segment, at.Duty.Holder, at.Duty.Term)
	}
	if n, ok := view.Node(from); !ok || !n.Eligible() {
		return fmt.Errorf("%w: node %s may not hold duty", peer.ErrRefused, from)
	}
	if !s.renewals.confirm(term, s.ledger.Pulse().Term) {
		return fmt.Errorf("%w: duty on segment %s in term %d is being given to another, or this leader is new in office", peer.ErrRefused, segment, term)
	}
	return nil
}

// RenewCertificate signs the key of a member again: the one that it joined with and no other, so that whoever could make a
// certificate of a replaced CA cannot change it for one of the present CA.
func (s *service) RenewCertificate(ctx context.Context, from swarm.NodeID, csr []byte) ([]byte, error) {
	view := s.state.View()
	settings, _ := view.Settings()
	ca := s.authorities.get(settings.Signer())
	if !s.ledger.IsLeader() || ca == nil {
		return nil, peer.ErrNotLeader
	}
	n, ok := view.Node(from)
	if !ok || !n.Eligible() {
		return nil, fmt.Errorf("%w: node %s is not in good standing", peer.ErrRefused, from)
	}
	key, err := identity.KeyOf(csr)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	if n.Key != key {
		return nil, fmt.Errorf("%w: node %s has another key than the one that it joined with", peer.ErrRefused, from)
	}
	cert, serial, err := ca.IssueNode(csr, from, identity.RoleNode, s.now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	// Before it leaves: what is not written down could not be revoked by its serial.
	if err := s.decideHere(ctx, swarm.NoteCertificate{Node: from, Serial: serial, NotAfter: endOf(cert)}); err != nil {
		return nil, err
	}
	return cert, nil
}

// endOf is when a certificate ends, zero if it cannot be read.
func endOf(certPEM []byte) time.Time {
	block, _ := pem.Decode(certPEM)
	if block == nil {
		return time.Time{}
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return time.Time{}
	}
	return cert.NotAfter
}

// Pulse is what the ledger says of itself.
func (s *service) Pulse() ([]byte, error) { return json.Marshal(s.ledger.Pulse()) }

// Log is what this node heard of a machine by syslog.
func (s *service) Log(mac swarm.MAC) []status.LogLine {
	if s.book == nil {
		return nil
	}
	return s.book.Of(mac)
}

// Traces are what this node saw of a machine.
func (s *service) Traces(mac swarm.MAC) []status.Trace { return s.journal.of(mac) }

// Feed sends what was decided to a node that takes no part in raft, until it goes away.
func (s *service) Feed(ctx context.Context, from swarm.NodeID, after uint64, w io.Writer, flush func()) error {
	if n, ok := s.state.View().Node(from); ok && !n.Eligible() {
		return fmt.Errorf("%w: node %s is not in good standing", peer.ErrRefused, from)
	}
	return s.ledger.ServeFeed(ctx, after, w, flush)
}

// Deliver takes the packets that arrived while a duty was handed over to this node, from whoever held it.
func (s *service) Deliver(ctx context.Context, from swarm.NodeID, segment string, term uint64, packets [][]byte) error {
	if n, ok := s.state.View().Node(from); !ok || !n.Eligible() {
		return fmt.Errorf("%w: node %s is not in good standing", peer.ErrRefused, from)
	}
	return s.deliver(ctx, segment, term, packets)
}

// redeem answers a machine with a ticket: it passes the request on to the leader, or answers it if this node leads.
func (s *service) redeem(ctx context.Context, request []byte) ([]byte, error) {
	return s.byLeader(ctx, request, s.Redeem, calls.Redeem)
}

// byLeader answers a request of a stranger: here if this node leads, else there.
func (s *service) byLeader(ctx context.Context, request []byte, here peer.Passed, there func(c calls, ctx context.Context, addr string, request []byte) ([]byte, error)) ([]byte, error) {
	answer, err := here(ctx, request)
	if !errors.Is(err, peer.ErrNotLeader) {
		return answer, err
	}
	_, leader, ok := s.ledger.Leader()
	if !ok {
		return nil, errors.New("the swarm has no leader at the moment: try again")
	}
	return there(s.client, ctx, leader, request)
}

// Redeem makes a machine with a ticket a node. What makes the ticket good only once is the command in the ledger; the
// certificate leaves only after that was accepted.
func (s *service) Redeem(ctx context.Context, request []byte) ([]byte, error) {
	ca, err := s.signer()
	if err != nil {
		return nil, err
	}
	req, err := identity.DecodeRedeemRequest(bytes.NewReader(request))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	// Asked before anything is written: whoever knows no more than a ticket's name must not fill the ledger.
	ticket, err := s.shown(req.Ticket)
	if err != nil {
		return nil, err
	}
	key, err := identity.KeyOf(req.CSR)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	fresh := swarm.NewNodeID()
	// Signed first: what cannot be signed must not use up the ticket.
	cert, serial, err := ca.IssueNode(req.CSR, fresh, identity.RoleNode, s.now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	result, err := s.propose(ctx, swarm.RedeemTicket{
		ID: req.Ticket.ID(), Hash: req.Ticket.Hash(), Key: key, MACs: req.MACs, UUID: req.UUID,
		Node: fresh, Serial: serial, Address: netip.AddrPortFrom(ticket.Addr, PeerPort).String(),
	})
	if err != nil {
		return nil, err
	}
	var n swarm.Node
	if err := result.Decode(&n); err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	if n.ID != fresh { // asked again with the same key, because our first answer was lost
		if cert, serial, err = ca.IssueNode(req.CSR, n.ID, identity.RoleNode, s.now()); err != nil {
			return nil, err
		}
		if err := s.decideHere(ctx, swarm.NoteCertificate{Node: n.ID, Serial: serial, NotAfter: endOf(cert)}); err != nil {
			return nil, err
		}
	}
	return s.welcome(n, ca, cert)
}

// signer is the swarm's authority, if this node may sign with it now.
func (s *service) signer() (*identity.CA, error) {
	settings, _ := s.state.View().Settings()
	ca := s.authorities.get(settings.Pin)
	if !s.ledger.IsLeader() || ca == nil {
		return nil, peer.ErrNotLeader
	}
	if settings.CAStage == swarm.CASpreading {
		return nil, errors.New("the swarm's CA is being replaced, and not every node knows the new one: try again")
	}
	return ca, nil
}

// shown finds the ticket whose secret a machine has shown.
func (s *service) shown(t identity.Ticket) (swarm.Ticket, error) {
	ticket, ok := s.state.View().Ticket(t.ID())
	if !ok {
		return ticket, fmt.Errorf("%w: ticket %s is not known to this swarm", peer.ErrRefused, t.ID())
	}
	if subtle.ConstantTimeCompare([]byte(ticket.Hash), []byte(t.Hash())) != 1 {
		return ticket, fmt.Errorf("%w: ticket %s: its secret is wrong", peer.ErrRefused, t.ID())
	}
	return ticket, nil
}

func (s *service) welcome(n swarm.Node, ca *identity.CA, cert []byte) ([]byte, error) {
	settings, _ := s.state.View().Settings()
	keys, err := parseKeys(settings.GossipKeys)
	if err != nil {
		return nil, err
	}
	response := identity.RedeemResponse{
		Node: n.ID, Swarm: settings.Swarm, Certificate: cert, CA: ca.Certificate(), GossipKeys: keys,
		Members: s.gossip(), Time: s.now(),
	}
	if self, ok := s.state.View().Node(s.self()); ok {
		response.Leader, _ = netip.ParseAddrPort(self.Address)
	}
	return response.Encode()
}

func parseKeys(encoded []string) ([]identity.Key, error) {
	var keys []identity.Key
	for _, e := range encoded {
		k, err := identity.ParseKey(e)
		if err != nil {
			return nil, fmt.Errorf("gossip keyring: %w", err)
		}
		keys = append(keys, k)
	}
	return keys, nil
}
