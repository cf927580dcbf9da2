package node

import (
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/peer"
	"offshoot/swarm"
	"offshoot/swarm/identity"
)

// rooted is a node that leads a swarm which it founded, with an identity of its own, and mac1 as a second node with another.
type rooted struct {
	*leader
	t            *testing.T
	seed, member *services
}

func newRooted(t *testing.T) *rooted {
	t.Helper()
	l := foundedIn(t, scratch(t))
	seed, csr, key := stranger(t)
	l.must(swarm.Found{
		Settings: swarm.Settings{
			Swarm: "5eed", CA: string(l.authority.Certificate()), Pin: l.authority.Pin(), Voters: 5, Profile: "p",
			GossipKeys: []string{identity.NewGossipKey().Encode()}, Range: netip.MustParsePrefix("10.42.0.0/16"),
		},
		Node: swarm.Node{ID: seedID, Name: "seed", Key: key, Ephemeral: true, Address: "192.168.42.1:7400", Ports: []swarm.Port{
			{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true, Address: netip.MustParsePrefix("192.168.42.1/24")},
		}},
		Network: netip.MustParsePrefix("192.168.42.0/24"),
		Profile: &swarm.Profile{Name: "p", Driver: "image"},
	})
	l.must(swarm.SeeMachine{MAC: mac1, Segment: "s1"})
	l.must(swarm.ArmMachine{MAC: mac1})
	member, memberCSR, memberKey := stranger(t)
	l.memberWith(nodeID, memberKey)
	r := &rooted{leader: l, t: t}
	r.seed, r.member = r.enrolled(seed, seedID, csr), r.enrolled(member, nodeID, memberCSR)
	return r
}

// enrolled is what of a node takes part in a replacement. All of them have the leader's ledger here.
func (r *rooted) enrolled(id *identity.Identity, node swarm.NodeID, csr []byte) *services {
	r.t.Helper()
	cert, _, err := r.authority.IssueNode(csr, node, identity.RoleNode, time.Now())
	if err == nil {
		err = id.Enroll(r.authority.Pin(), cert, r.authority.Certificate())
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return &services{
		node: &Node{log: quiet()}, state: r.state, identity: id, memory: memory{Node: node, Swarm: "5eed"},
		core: &core{id: node, replica: r.replica, service: r.service},
	}
}

// takes is one node's step, and its report of it.
func (r *rooted) takes(s *services) {
	r.t.Helper()
	if err := s.keepTrust(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	n, _ := r.state.View().Node(s.memory.Node)
	report := swarm.ReportNode{Address: n.Address, Ports: n.Ports, CA: s.ca.Load()}
	if s.memory.Node == seedID {
		r.must(report)
	} else if _, err := r.Propose(r.t.Context(), s.memory.Node, command(r.t, s.memory.Node, report)); err != nil {
		r.t.Fatal(err)
	}
}

// joining is the redeem request of a machine that has just been installed.
func (r *rooted) joining(mac swarm.MAC) []byte {
	r.t.Helper()
	ticket := identity.NewTicket()
	r.must(swarm.SeeMachine{MAC: mac, Segment: "s1"})
	r.must(swarm.ArmMachine{MAC: mac})
	r.must(swarm.MintTicket{ID: ticket.ID(), Hash: ticket.Hash(), MAC: mac, Segment: "s1", Addr: addr1.Next(), Expires: time.Now().Add(time.Hour)})
	_, csr, _ := stranger(r.t)
	request, err := identity.RedeemRequest{Ticket: ticket, CSR: csr, MACs: []swarm.MAC{mac}}.Encode()
	if err != nil {
		r.t.Fatal(err)
	}
	return request
}

func (r *rooted) stage() swarm.CAStage {
	settings, _ := r.state.View().Settings()
	return settings.CAStage
}

// tend is one round of the leader; it wants this stage afterwards.
func (r *rooted) tend(want swarm.CAStage) {
	r.t.Helper()
	if err := r.tendAuthority(r.t.Context()); err != nil {
		r.t.Fatal(err)
	}
	if got := r.stage(); got != want {
		r.t.Fatalf("stage %q, want %q", got, want)
	}
}

func TestCAOfASwarmIsReplaced(t *testing.T) {
	t.Parallel()
	r := newRooted(t)
	ctx, old := t.Context(), r.authority.Pin()
	open := r.joining(mac2)
	pin, err := r.seed.replaceCA(ctx, peer.AuthorityRequest{Actor: "root", Reason: "stolen"}, "")
	if err != nil || pin == old {
		t.Fatal(pin, err)
	}
	if all, err := identity.LoadCAs(r.authorities.dir); err != nil || len(all) != 2 {
		t.Fatalf("keys on the disk: %v, %v", all, err)
	}
	r.tend(swarm.CASpreading)
	r.takes(r.seed)
	r.tend(swarm.CASpreading) // the other one does not know
	if _, err := r.Redeem(ctx, open); err == nil || errors.Is(err, peer.ErrRefused) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a machine that wants to join meanwhile is told %v", err)
	}
	r.takes(r.member)
	if r.member.identity.Pin() != old {
		t.Error("the new CA signs before everybody trusts it")
	}
	if err := r.member.renewCertificate(ctx); err != nil || r.member.identity.Pin() != old {
		t.Errorf("a renewal that is due meanwhile: %s, %v", r.member.identity.Pin(), err)
	}
	keys, _ := r.state.View().Settings()
	r.tend(swarm.CAInUse)
	if now, _ := r.state.View().Settings(); len(now.GossipKeys) != len(keys.GossipKeys)+1 {
		t.Error("whoever listened in goes on to")
	}
	r.takes(r.seed)
	r.tend(swarm.CAInUse)
	r.takes(r.member)
	for _, s := range []*services{r.seed, r.member} {
		if s.identity.Pin() != pin {
			t.Errorf("%s has a certificate of %s", s.memory.Node, s.identity.Pin())
		}
	}
	r.tend("")
	r.takes(r.seed)
	r.takes(r.member)
	if all, err := identity.LoadCAs(r.authorities.dir); err != nil || len(all) != 1 || all[0].Pin() != pin {
		t.Errorf("keys on the disk: %v, %v", all, err)
	}
	if _, err := r.Redeem(ctx, open); !errors.Is(err, peer.ErrRefused) || !strings.Contains(err.Error(), "revoked") {
		t.Errorf("a ticket with the old pin: %v", err)
	}
}

// Whoever has the old key can make a certificate in the name of a member, and ask with it for one of the new CA.
func TestForgedMemberGetsNoCertificateOfTheNewCA(t *testing.T) {
	t.Parallel()
	r := newRooted(t)
	if _, err := r.seed.replaceCA(t.Context(), peer.AuthorityRequest{Reason: "stolen"}, ""); err != nil {
		t.Fatal(err)
	}
	r.takes(r.seed)
	r.takes(r.member)
	r.tend(swarm.CAInUse)
	_, csr, key := stranger(t)
	_, err := r.RenewCertificate(t.Context(), nodeID, csr)
	refused(t, err, "another key")
	_, err = r.RenewCertificate(t.Context(), "00000000000000ff", csr)
	refused(t, err, "good standing")
	forged := identity.Peer{Node: nodeID, Key: key, CA: r.authority.Pin()}
	if refusal(r.state.View(), "7", forged) == nil {
		t.Error("and it is believed in handshakes")
	}
}

// The leader that made the CA is lost, and this one has never had its key.
func TestCAWhoseKeyIsLostBeforeItsUseIsReplacedByAnother(t *testing.T) {
	t.Parallel()
	r := newRooted(t)
	lost, err := identity.NewCA("5eed", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	r.must(swarm.ReplaceCA{CA: string(lost.Certificate()), Pin: lost.Pin(), Reason: "stolen"})
	r.takes(r.seed)
	r.takes(r.member)
	r.tend(swarm.CASpreading)
	settings, _ := r.state.View().Settings()
	if settings.Pin == lost.Pin() || r.authorities.get(settings.Pin) == nil {
		t.Fatalf("nobody can sign for %s", settings.Pin)
	}
	for _, stage := range []swarm.CAStage{swarm.CAInUse, ""} {
		r.takes(r.seed)
		r.takes(r.member)
		r.tend(stage)
	}
}

func TestReplacementGoesOnWhenTheMissingNodeIsEvicted(t *testing.T) {
	t.Parallel()
	r := newRooted(t)
	if _, err := r.seed.replaceCA(t.Context(), peer.AuthorityRequest{Reason: "stolen"}, ""); err != nil {
		t.Fatal(err)
	}
	r.takes(r.seed)
	r.tend(swarm.CASpreading)
	p := &picture{replica: r.replica}
	if c := p.caChange(r.state.View()); c == nil || c.Nodes != 2 || c.Know != 1 || c.Renewed != 0 || len(c.Missing) != 1 {
		t.Errorf("status says %+v", c)
	}
	r.must(swarm.LeaveNode{Node: nodeID})
	r.tend(swarm.CAInUse)
	r.takes(r.seed)
	r.tend("")
	if c := p.caChange(r.state.View()); c != nil {
		t.Errorf("status says %+v", c)
	}
	// It comes back: what it has is worth nothing, and it changes nothing of it.
	before := r.member.identity.Pin()
	if err := r.member.keepTrust(t.Context()); err != nil || r.member.identity.Pin() != before || r.member.ca.Load() != 0 {
		t.Errorf("%v", err)
	}
	if refusal(r.state.View(), "7", r.member.identity.Self()) == nil {
		t.Error("its certificate is believed")
	}
}

func TestOnlyMembersInGoodStandingAskForANewCA(t *testing.T) {
	t.Parallel()
	r := newRooted(t)
	r.must(swarm.EvictNode{Node: nodeID})
	for _, from := range []swarm.NodeID{"00000000000000ff", nodeID} {
		_, err := r.ReplaceAuthority(t.Context(), from, peer.AuthorityRequest{})
		refused(t, err, "good standing")
	}
	if r.stage() != "" {
		t.Error("it has begun")
	}
}

func TestSnapshotOfAnotherCAIsRefused(t *testing.T) {
	t.Parallel()
	r := newRooted(t)
	var before strings.Builder
	if err := r.state.Snapshot()(&before); err != nil {
		t.Fatal(err)
	}
	if err := checkSnapshot(strings.NewReader(before.String()), r.state.View()); err != nil {
		t.Fatal(err)
	}
	if _, err := r.seed.replaceCA(t.Context(), peer.AuthorityRequest{Reason: "stolen"}, ""); err != nil {
		t.Fatal(err)
	}
	if err := checkSnapshot(strings.NewReader(before.String()), r.state.View()); err == nil || !strings.Contains(err.Error(), "another CA") {
		t.Errorf("a snapshot with which the ledger would trust the stolen CA: %v", err)
	}
}
