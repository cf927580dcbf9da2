package identity

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"offshoot/swarm"
)

// Why a certificate or a peer was refused. The handshake fails with one of these on the side that refuses; the other side
// learns no more than a TLS alert.
var (
	// ErrNoCertificate: the peer showed none.
	ErrNoCertificate = errors.New("the peer shows no certificate")
	// ErrNotMember: the certificate was not signed by the swarm's authority, or is not a member's certificate.
	ErrNotMember = errors.New("not a certificate of this swarm's authority")
	// ErrOtherSwarm: the certificate names another swarm.
	ErrOtherSwarm = errors.New("belongs to another swarm")
	// ErrExpired: its time is over; the node has to redeem a fresh ticket, or this machine's clock is ahead.
	ErrExpired = errors.New("the certificate has expired")
	// ErrRevoked: the swarm took it back.
	ErrRevoked = errors.New("the certificate is revoked")
	// ErrWrongNode: it belongs to another node than the one that was called.
	ErrWrongNode = errors.New("the certificate belongs to another node")
	// ErrWrongRole: the holder is known, but not entitled to this.
	ErrWrongRole = errors.New("the certificate's role does not allow this")
	// ErrWrongPin: the swarm behind this address is not the one that the ticket is for.
	ErrWrongPin = errors.New("the swarm's authority does not have the expected pin")
	// ErrWrongKey: the certificate is for another private key.
	ErrWrongKey = errors.New("the certificate does not belong to this key")
	// ErrNotEnrolled: this node has no certificate yet.
	ErrNotEnrolled = errors.New("this node has no certificate yet")
)

// uriScheme begins the names in our certificates: offshoot://<swarm>/<role>/<id> of nodes and installers,
// offshoot://<swarm>/operator/<name>/<operator's role>, and offshoot://<swarm> of the authority itself.
const uriScheme = "offshoot"

// Peer is who a verified certificate says the other side is.
type Peer struct {
	Swarm  string       `json:"swarm"`
	Role   Role         `json:"role"`
	Node   swarm.NodeID `json:"node,omitempty"` // "" if Role is RoleOperator
	Serial string       `json:"serial"`
	Key    string       `json:"key"` // hex SHA-256 of the public key's SubjectPublicKeyInfo
	CA     string       `json:"ca"`  // pin of the authority that signed it; "" from PeerOf, which believes nothing

	Operator     string `json:"operator,omitempty"`      // name; "" unless Role is RoleOperator
	OperatorRole string `json:"operator_role,omitempty"` // OperatorView, OperatorOperate or OperatorAdmin; likewise
}

// String is "node 0123456789abcdef" or "operator alice".
func (p Peer) String() string {
	if p.Role == RoleOperator {
		return string(p.Role) + " " + p.Operator
	}
	return string(p.Role) + " " + string(p.Node)
}

// PeerOf names the other side of a connection that was made with one of our configurations: the handshake has verified
// it, PeerOf only reads. Without a certificate (offshoot-join) it returns ErrNoCertificate.
func PeerOf(cs tls.ConnectionState) (Peer, error) {
	if len(cs.PeerCertificates) == 0 {
		return Peer{}, ErrNoCertificate
	}
	return peerIn(cs.PeerCertificates[0])
}

// verify is the one place where a certificate is believed: signed by one of cas as a member or an operator of the named swarm,
// and not over at now. What its role allows is the caller's to say.
//
// A certificate from the future is accepted: the authority signed it, so its NotBefore has passed for whoever issued it,
// and it is our clock that is behind. Freshly installed machines stand in 1970 or in 2000 until someone tells them the
// time, and would otherwise be locked out of the very swarm that could.
func verify(leaf *x509.Certificate, swarmID string, now time.Time, cas ...*x509.Certificate) (Peer, error) {
	peer, err := peerIn(leaf)
	if err != nil {
		return Peer{}, err
	}
	if peer.Swarm != swarmID {
		// Not yet proven, but the better explanation; refused it is in any case.
		return Peer{}, fmt.Errorf("%w: %s, not %s", ErrOtherSwarm, peer.Swarm, swarmID)
	}
	roots, at := x509.NewCertPool(), latest(now, leaf.NotBefore)
	for _, ca := range cas {
		roots.AddCert(ca)
		at = latest(at, ca.NotBefore)
	}
	chains, err := leaf.Verify(x509.VerifyOptions{
		Roots:         roots,
		Intermediates: x509.NewCertPool(),
		CurrentTime:   at,
		// All of ours can call; those of nodes can answer as well, which is a question of the role.
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	if invalid, ok := errors.AsType[x509.CertificateInvalidError](err); ok && invalid.Reason == x509.Expired {
		return Peer{}, fmt.Errorf("%w: %s since %s", ErrExpired, peer, leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if err != nil {
		return Peer{}, fmt.Errorf("%w: %w", ErrNotMember, err)
	}
	peer.CA = pinOf(chains[0][len(chains[0])-1])
	return peer, nil
}

// peerIn reads the one name in a member's or an operator's certificate, and believes nothing.
func peerIn(leaf *x509.Certificate) (Peer, error) {
	if leaf.IsCA || len(leaf.URIs) != 1 {
		return Peer{}, fmt.Errorf("%w: it does not name one member", ErrNotMember)
	}
	u := leaf.URIs[0]
	role, name, _ := strings.Cut(strings.TrimPrefix(u.Path, "/"), "/")
	peer := Peer{Swarm: u.Host, Role: Role(role), Serial: formatSerial(leaf.SerialNumber), Key: keyOf(leaf.RawSubjectPublicKeyInfo)}
	valid := peer.Role.life() != 0 && checkSwarm(peer.Swarm) == nil
	if peer.Role == RoleOperator {
		peer.Operator, peer.OperatorRole, _ = strings.Cut(name, "/")
		valid = valid && checkOperator(peer.Operator, peer.OperatorRole) == nil
	} else {
		peer.Node = swarm.NodeID(name)
		valid = valid && checkNode(peer.Node) == nil
	}
	// The one spelling that we write, so that there is no second one with a query, a user or escapes in it.
	if !valid || u.String() != peer.uri().String() {
		return Peer{}, fmt.Errorf("%w: its name is %.200q", ErrNotMember, u)
	}
	return peer, nil
}

func (p Peer) uri() *url.URL {
	name := string(p.Node)
	if p.Role == RoleOperator {
		name = p.Operator + "/" + p.OperatorRole
	}
	return &url.URL{Scheme: uriScheme, Host: p.Swarm, Path: "/" + string(p.Role) + "/" + name}
}

func swarmOfCA(ca *x509.Certificate) (string, error) {
	if !ca.IsCA || len(ca.URIs) != 1 || ca.URIs[0].String() != uriScheme+"://"+ca.URIs[0].Host {
		return "", errors.New("not the certificate of a swarm's authority")
	}
	return ca.URIs[0].Host, checkSwarm(ca.URIs[0].Host)
}

func checkSwarm(id string) error {
	bad := func(r rune) bool { return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' }
	if id == "" || len(id) > 63 || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("swarm name %q: want 1 to 63 of a-z, 0-9 and hyphen", id)
	}
	return nil
}

func checkNode(id swarm.NodeID) error {
	if len(id) != 16 || !isHex(string(id)) {
		return fmt.Errorf("node id %q: want 16 hexadecimal digits", id)
	}
	return nil
}

func isHex(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return (r < '0' || r > '9') && (r < 'a' || r > 'f') })
}
