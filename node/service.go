package node

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"sync/atomic"
	"time"

	"offshoot/node/internal/peer"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/ledger"
)

// service answers the calls of other nodes and of machines with a ticket.
type service struct {
	*replica
	dir      string // of the CA's key, where this node has it
	ca       atomic.Pointer[identity.CA]
	renewals *renewals
	client   calls
	deliver  func(ctx context.Context, segment string, term uint64, packets [][]byte) error
	gossip   func() []netip.AddrPort // where a new node finds others
	journal  *journal
	log      *slog.Logger
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

// RenewCertificate signs the key of a member again.
func (s *service) RenewCertificate(ctx context.Context, from swarm.NodeID, csr []byte) ([]byte, error) {
	ca := s.ca.Load()
	if !s.ledger.IsLeader() || ca == nil {
		return nil, peer.ErrNotLeader
	}
	if n, ok := s.state.View().Node(from); !ok || !n.Eligible() {
		return nil, fmt.Errorf("%w: node %s is not in good standing", peer.ErrRefused, from)
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

// Authority keeps the CA's key, which the leader brings before it gives this node a vote.
func (s *service) Authority(_ context.Context, from swarm.NodeID, key []byte) error {
	if leader, _, ok := s.ledger.Leader(); !ok || leader != from {
		return fmt.Errorf("%w: only the leader brings the authority's key", peer.ErrRefused)
	}
	settings, ok := s.state.View().Settings()
	if !ok {
		return errors.New("the swarm's settings have not arrived here yet")
	}
	ca, err := identity.ImportCA([]byte(settings.CA), key)
	if err != nil {
		return fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	if ca.Pin() != settings.Pin {
		return fmt.Errorf("%w: the key is not that of this swarm's authority", peer.ErrRefused)
	}
	if err := ca.Save(s.dir); err != nil {
		return err
	}
	s.ca.Store(ca)
	return nil
}

// entrust is the other side of Authority.
func (s *service) entrust(ctx context.Context, n swarm.Node) error {
	if n.ID == s.self() {
		return nil
	}
	ca := s.ca.Load()
	if ca == nil {
		return errors.New("this node leads without the authority's key")
	}
	key, err := ca.ExportKey()
	if err != nil {
		return err
	}
	return s.client.Authority(ctx, n.Address, key)
}

// Pulse is what the ledger says of itself.
func (s *service) Pulse() ([]byte, error) { return json.Marshal(s.ledger.Pulse()) }

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
	answer, err := s.Redeem(ctx, request)
	if !errors.Is(err, peer.ErrNotLeader) {
		return answer, err
	}
	_, leader, ok := s.ledger.Leader()
	if !ok {
		return nil, errors.New("the swarm has no leader at the moment: try again")
	}
	return s.client.Redeem(ctx, leader, request)
}

// Redeem makes a machine with a ticket a node. What makes the ticket good only once is the command in the ledger; the
// certificate leaves only after that was accepted.
func (s *service) Redeem(ctx context.Context, request []byte) ([]byte, error) {
	ca := s.ca.Load()
	if !s.ledger.IsLeader() || ca == nil {
		return nil, peer.ErrNotLeader
	}
	req, err := identity.DecodeRedeemRequest(bytes.NewReader(request))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	view := s.state.View()
	ticket, ok := view.Ticket(req.Ticket.ID())
	if !ok {
		return nil, fmt.Errorf("%w: ticket %s is not known to this swarm", peer.ErrRefused, req.Ticket.ID())
	}
	// Asked before anything is written: whoever knows no more than a ticket's name must not fill the ledger.
	if subtle.ConstantTimeCompare([]byte(ticket.Hash), []byte(req.Ticket.Hash())) != 1 {
		return nil, fmt.Errorf("%w: ticket %s: its secret is wrong", peer.ErrRefused, req.Ticket.ID())
	}
	fresh := swarm.NewNodeID()
	// Signed first: what cannot be signed must not use up the ticket.
	cert, serial, err := ca.IssueNode(req.CSR, fresh, identity.RoleNode, s.now())
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	result, err := s.propose(ctx, swarm.RedeemTicket{
		ID: req.Ticket.ID(), Hash: req.Ticket.Hash(), Key: keyHash(req.CSR), MACs: req.MACs, UUID: req.UUID,
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

// keyHash names the public key of a certificate request, whatever else differs between two requests for it.
func keyHash(csr []byte) string {
	der := csr
	if block, _ := pem.Decode(csr); block != nil {
		der = block.Bytes
	}
	if request, err := x509.ParseCertificateRequest(der); err == nil { // checked before, by DecodeRedeemRequest
		der = request.RawSubjectPublicKeyInfo
	}
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}
