package node

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/peer"
	"offshoot/swarm"
	"offshoot/swarm/identity"
)

const nodeID = swarm.NodeID("00000000000000a1")

func command(t *testing.T, by swarm.NodeID, op swarm.Op) []byte {
	t.Helper()
	data, err := swarm.Command{ID: swarm.NewID(), Time: time.Now(), By: by, Op: op}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// refused wants a "no" for good, in these words.
func refused(t *testing.T, err error, words string) {
	t.Helper()
	if !errors.Is(err, peer.ErrRefused) || !strings.Contains(err.Error(), words) {
		t.Errorf("got %v, want a refusal with %q", err, words)
	}
}

// inOffice waits until a leader has proved its office: it asks every half second.
func inOffice(t *testing.T, l *leader) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); l.ledger.LeaderContact() > officeProof; {
		if time.Now().After(deadline) {
			t.Fatalf("last proof of office %v ago", l.ledger.LeaderContact())
		}
		<-time.After(10 * time.Millisecond)
	}
}

func TestNodeProposesInItsOwnNameOnly(t *testing.T) {
	t.Parallel()
	l := founded(t)
	ticket := l.member(nodeID)
	note := swarm.Note{MAC: mac1, Kind: "test", Text: "hello"}
	if _, err := l.Propose(t.Context(), nodeID, command(t, nodeID, note)); err != nil {
		t.Errorf("a good command: %v", err)
	}
	_, err := l.Propose(t.Context(), nodeID, command(t, seedID, note))
	refused(t, err, "in the name of "+string(seedID))
	_, err = l.Propose(t.Context(), "00000000000000ff", command(t, "00000000000000ff", note))
	refused(t, err, "is not known to this swarm")
	_, err = l.Propose(t.Context(), nodeID, []byte("garbage"))
	refused(t, err, "decode command")

	l.quarantine(ticket)
	before := len(l.state.View().Events(""))
	_, err = l.Propose(t.Context(), nodeID, command(t, nodeID, note))
	refused(t, err, "shown a second time")
	if after := len(l.state.View().Events("")); after != before {
		t.Error("a node in quarantine changed the swarm")
	}
}

func TestDutyIsRenewedForItsHolderInItsTermOnly(t *testing.T) {
	t.Parallel()
	l := founded(t)
	ctx := t.Context()
	inOffice(t, l)
	refused(t, l.RenewDuty(ctx, seedID, "s1", 1), "new in office") // it has not seen yet what was decided before
	l.renewals.takeOffice(l.ledger.Pulse().Term)
	if err := l.RenewDuty(ctx, seedID, "s1", 1); err != nil {
		t.Errorf("the holder: %v", err)
	}
	refused(t, l.RenewDuty(ctx, nodeID, "s1", 1), "moved on")
	refused(t, l.RenewDuty(ctx, seedID, "s1", 2), "moved on")
	refused(t, l.RenewDuty(ctx, seedID, "s9", 1), "moved on")
	ticket := l.member(nodeID)
	l.must(swarm.GrantDuty{Segment: "s1", Term: 1, To: nodeID, Why: "test"})
	refused(t, l.RenewDuty(ctx, seedID, "s1", 1), "moved on")
	if err := l.RenewDuty(ctx, nodeID, "s1", 2); err != nil {
		t.Errorf("the new holder: %v", err)
	}
	l.quarantine(ticket)
	refused(t, l.RenewDuty(ctx, nodeID, "s1", 2), "may not hold duty")
}

func TestWhatTheLeaderDecidesIsNotForwarded(t *testing.T) {
	t.Parallel()
	l := founded(t)
	l.member(nodeID)
	for _, op := range []swarm.Op{
		swarm.Found{}, swarm.GrantDuty{Segment: "s1", Term: 1, To: nodeID}, swarm.RedeemTicket{ID: "t"},
		swarm.OfferDuty{Segment: "s1", Term: 1, To: nodeID}, swarm.LeaveNode{Node: seedID},
	} {
		if _, err := l.Propose(t.Context(), nodeID, command(t, nodeID, op)); !errors.Is(err, peer.ErrRefused) {
			t.Errorf("%T of a member: %v", op, err)
		}
	}
	if _, err := l.Propose(t.Context(), nodeID, command(t, nodeID, swarm.LeaveNode{Node: nodeID})); err != nil {
		t.Errorf("a node leaves by itself: %v", err)
	}
}

func TestDutyThatIsBeingGivenAwayIsNotRenewed(t *testing.T) {
	t.Parallel()
	l := founded(t)
	h := &hands{}
	inOffice(t, l)
	l.renewals = newRenewals(h.read)
	l.renewals.takeOffice(l.ledger.Pulse().Term)
	l.renewals.expired(held(1))
	h.at += dutyTTL + dutyMargin
	if !l.renewals.giveAway(held(1)) {
		t.Fatal("not over")
	}
	refused(t, l.RenewDuty(t.Context(), seedID, "s1", 1), "given to another")
}

func TestNodeThatDoesNotLeadConfirmsAndSignsNothing(t *testing.T) {
	t.Parallel()
	l := stopped(t)
	if err := l.RenewDuty(t.Context(), seedID, "s1", 1); !errors.Is(err, peer.ErrNotLeader) {
		t.Errorf("duty: %v", err)
	}
	if _, err := l.RenewCertificate(t.Context(), seedID, nil); !errors.Is(err, peer.ErrNotLeader) {
		t.Errorf("certificate: %v", err)
	}
	if _, err := l.Redeem(t.Context(), nil); !errors.Is(err, peer.ErrNotLeader) {
		t.Errorf("redeem: %v", err)
	}
	if _, err := l.redeem(t.Context(), nil); err == nil || errors.Is(err, peer.ErrRefused) || !strings.Contains(err.Error(), "try again") {
		t.Errorf("a machine with a ticket is told %v", err)
	}
	if err := l.Authority(t.Context(), seedID, nil); !errors.Is(err, peer.ErrRefused) {
		t.Errorf("authority from nobody we follow: %v", err)
	}
}

func TestAuthorityIsTakenFromTheLeaderOnlyAndOnlyTheRightKey(t *testing.T) {
	t.Parallel()
	l := founded(t)
	if err := l.authorities.drop(l.authority.Pin()); err != nil {
		t.Fatal(err)
	}
	key, err := identity.EncodeCAs(l.authority)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, l.Authority(t.Context(), nodeID, key), "only the leader")
	other, err := identity.NewCA("5eed", time.Now())
	if err != nil {
		t.Fatal(err)
	}
	foreign, err := identity.EncodeCAs(other)
	if err != nil {
		t.Fatal(err)
	}
	refused(t, l.Authority(t.Context(), seedID, foreign), "no authority of this swarm")
	refused(t, l.Authority(t.Context(), seedID, []byte("garbage")), "import authority")
	if l.authorities.get(other.Pin()) != nil {
		t.Fatal("a refused key was kept")
	}
	if _, err := os.Stat(filepath.Join(l.authorities.dir, "ca.key")); err == nil {
		t.Fatal("a refused key was written down")
	}
	if err := l.Authority(t.Context(), seedID, key); err != nil {
		t.Fatal(err)
	}
	if all, err := identity.LoadCAs(l.authorities.dir); err != nil || len(all) != 1 || all[0].Pin() != l.authority.Pin() || l.authorities.get(l.authority.Pin()) == nil {
		t.Errorf("kept: %v, %v", all, err)
	}
	if st, err := os.Stat(filepath.Join(l.authorities.dir, "ca.key")); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v, %v", st, err)
	}
}

// stranger is an identity that no swarm knows, its certificate request, and the name of its key.
func stranger(t *testing.T) (id *identity.Identity, csr []byte, key string) {
	t.Helper()
	id, err := identity.Open(identity.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	if csr, err = id.CSR(); err != nil {
		t.Fatal(err)
	}
	if key, err = identity.KeyOf(csr); err != nil {
		t.Fatal(err)
	}
	return id, csr, key
}

func TestCertificateIsRenewedForMembersInGoodStanding(t *testing.T) {
	t.Parallel()
	l := founded(t)
	id, csr, key := stranger(t)
	ticket := l.memberWith(nodeID, key)
	cert, err := l.RenewCertificate(t.Context(), nodeID, csr)
	if err != nil {
		t.Fatal(err)
	}
	if err := id.Enroll(l.authority.Pin(), cert, l.authority.Certificate()); err != nil || id.Node() != nodeID {
		t.Errorf("certificate is for %s: %v", id.Node(), err)
	}
	_, other, _ := stranger(t)
	_, err = l.RenewCertificate(t.Context(), nodeID, other)
	refused(t, err, "another key than the one that it joined with")
	_, err = l.RenewCertificate(t.Context(), nodeID, []byte("garbage"))
	refused(t, err, "certificate request")
	l.quarantine(ticket)
	_, err = l.RenewCertificate(t.Context(), nodeID, csr)
	refused(t, err, "good standing")
}

func TestRedeemRefusesWhatIsNoGoodTicketAndSignsNothing(t *testing.T) {
	t.Parallel()
	l := founded(t)
	_, err := l.Redeem(t.Context(), []byte("{}"))
	refused(t, err, "redeem request")
	id, err := identity.Open(identity.Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	ask := func(ticket identity.Ticket, macs ...swarm.MAC) error {
		request, err := identity.RedeemRequest{Ticket: ticket, CSR: csr, MACs: macs}.Encode()
		if err != nil {
			t.Fatal(err)
		}
		answer, err := l.Redeem(t.Context(), request)
		if err != nil && answer != nil {
			t.Error("an answer beside a refusal")
		}
		return err
	}
	refused(t, ask(identity.NewTicket(), mac1), "not known to this swarm")
	good := l.mint()
	refused(t, ask(good, mac2), "is for machine "+string(mac1))
	guessed, err := identity.ParseTicket("os1." + good.ID() + "." + "AAAAAAAAAAAAAAAAAAAAAA")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, ask(guessed, mac1), "secret is wrong")
	l.must(swarm.HoldMachine{MAC: mac1, Reason: "test"})
	refused(t, ask(good, mac1), "revoked")
	for _, n := range l.state.View().Nodes() {
		if n.ID != seedID {
			t.Errorf("a node came of it: %+v", n)
		}
	}
}

func TestKeyHashNamesTheKeyNotTheRequest(t *testing.T) {
	t.Parallel()
	key := func() *ecdsa.PrivateKey {
		k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return k
	}
	csr := func(k *ecdsa.PrivateKey, name string) []byte {
		der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: name}}, k)
		if err != nil {
			t.Fatal(err)
		}
		return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
	}
	k := key()
	a, b := csr(k, "a"), csr(k, "b")
	if bytes.Equal(a, b) {
		t.Fatal("two requests are the same")
	}
	der, _ := pem.Decode(a)
	hash := func(csr []byte) string {
		name, err := identity.KeyOf(csr)
		if err != nil {
			t.Fatal(err)
		}
		return name
	}
	if hash(a) != hash(b) || hash(a) != hash(der.Bytes) || len(hash(a)) != 64 {
		t.Errorf("%s, %s, %s", hash(a), hash(b), hash(der.Bytes))
	}
	if hash(a) == hash(csr(key(), "a")) {
		t.Error("two keys have one name")
	}
}

func TestCommandThatIsNotUnderstoodStopsTheNode(t *testing.T) {
	t.Parallel()
	var why error
	r := &replica{state: swarm.NewState(), broken: func(err error) { why = err }, log: quiet()}
	if answer := r.Apply(7, []byte(`{"v":99,"id":"x","op":"note","args":{}}`)); answer != nil || why == nil || !strings.Contains(why.Error(), "entry 7") || !strings.Contains(why.Error(), "upgrade") {
		t.Errorf("answer %s, stopped with %v", answer, why)
	}
}
