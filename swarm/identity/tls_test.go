package identity

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"math/big"
	"net/url"
	"sync/atomic"
	"testing"
	"time"

	"offshoot/swarm"
)

func TestMembersKnowEachOther(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, a.Node()))
	if m.client != nil || m.server != nil {
		t.Fatalf("client %v, server %v", m.client, m.server)
	}
	if m.sawClient != shown(b) || m.sawServer != shown(a) {
		t.Errorf("server saw %+v, client saw %+v", m.sawClient, m.sawServer)
	}
}

func TestWrongNodeIsRefused(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, swarm.NewNodeID()))
	refusedBy(t, m.client, m.server, ErrWrongNode)
}

func TestOtherSwarmIsRefusedByBothSides(t *testing.T) {
	a, b := member(t, newCA(t, "alpha"), Options{}), member(t, newCA(t, "beta"), Options{})
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, ""))
	refusedBy(t, m.client, m.server, ErrOtherSwarm)
	trusting := b.clientConfig(nowhere(), ProtoPeer, "")
	trusting.VerifyConnection = nil // the client would take anybody
	m = meet(t, a.serverConfig(nowhere(), ProtoPeer), trusting)
	refusedBy(t, m.server, m.client, ErrOtherSwarm)
}

// The same name proves nothing: the authority's key does.
func TestWrongAuthorityIsRefusedByBothSides(t *testing.T) {
	a, b := member(t, newCA(t, "alpha"), Options{}), member(t, newCA(t, "alpha"), Options{})
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, ""))
	refusedBy(t, m.client, m.server, ErrNotMember)
	trusting := b.clientConfig(nowhere(), ProtoPeer, "")
	trusting.VerifyConnection = nil
	m = meet(t, a.serverConfig(nowhere(), ProtoPeer), trusting)
	refusedBy(t, m.server, m.client, ErrNotMember)
}

func TestExpiredIsRefused(t *testing.T) {
	ca := newCA(t, "alpha")
	var clock atomic.Int64
	now := func() time.Time { return start.Add(time.Duration(clock.Load())) }
	a, b := member(t, ca, Options{Now: now}), member(t, ca, Options{Now: now})
	clock.Store(int64(7*24*time.Hour - time.Second))
	if m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, "")); m.client != nil || m.server != nil {
		t.Fatalf("refused in its last second: %v, %v", m.client, m.server)
	}
	clock.Store(int64(7*24*time.Hour + time.Second))
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, ""))
	refusedBy(t, m.client, m.server, ErrExpired)
	trusting := b.clientConfig(nowhere(), ProtoPeer, "")
	trusting.VerifyConnection = nil
	m = meet(t, a.serverConfig(nowhere(), ProtoPeer), trusting)
	refusedBy(t, m.server, m.client, ErrExpired)
}

// A machine whose battery is empty wakes in 1970; the swarm's certificates are then all from the future.
func TestClockBehindDoesNotLockOut(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{Now: at(time.Unix(0, 0))})
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, a.Node()))
	if m.client != nil || m.server != nil {
		t.Errorf("as client: %v, %v", m.client, m.server)
	}
	m = meet(t, b.serverConfig(nowhere(), ProtoPeer), a.clientConfig(nowhere(), ProtoPeer, b.Node()))
	if m.client != nil || m.server != nil {
		t.Errorf("as server: %v, %v", m.client, m.server)
	}
}

func TestRevokedIsRefusedByBothSides(t *testing.T) {
	ca := newCA(t, "alpha")
	b := member(t, ca, Options{})
	refused := func(serial string, p Peer) error {
		if serial == b.Self().Serial && p == b.Self() {
			return errors.New("evicted: stolen")
		}
		return nil
	}
	a := member(t, ca, Options{Refused: refused})
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, ""))
	refusedBy(t, m.server, m.client, ErrRevoked)
	m = meet(t, b.serverConfig(nowhere(), ProtoPeer), a.clientConfig(nowhere(), ProtoPeer, ""))
	refusedBy(t, m.client, m.server, ErrRevoked)
}

func TestNoCertificateIsRefused(t *testing.T) {
	a := member(t, newCA(t, "alpha"), Options{})
	bare := base([]string{ProtoPeer})
	bare.InsecureSkipVerify = true
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), bare)
	if m.server == nil || m.client == nil || m.readByServer != 0 {
		t.Errorf("a stranger got through: %+v", m)
	}
}

func TestInstallersRoleIsRefusedAsMember(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	certPEM, _ := issue(t, ca, b, b.Node(), RoleInstall, start)
	cert, err := parseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	cfg := b.clientConfig(nowhere(), ProtoPeer, "")
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{cert.Raw}, PrivateKey: b.key()}, nil
	}
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), cfg)
	refusedBy(t, m.server, m.client, ErrWrongRole)
}

// A member must not be able to sign members.
func TestMemberIsNoAuthority(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	own := b.current.Load()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: start, NotAfter: start.Add(time.Hour),
		URIs:        []*url.URL{Peer{Swarm: "alpha", Role: RoleNode, Node: swarm.NewNodeID()}.uri()},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, own.leaf, pub, b.key())
	if err != nil {
		t.Fatal(err)
	}
	cfg := b.clientConfig(nowhere(), ProtoPeer, "")
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{der, own.leaf.Raw, own.ca.Raw}, PrivateKey: key}, nil
	}
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), cfg)
	refusedBy(t, m.server, m.client, ErrNotMember)
}

func TestWrongProtocolIsRefused(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	none := b.clientConfig(nowhere(), ProtoPeer, "")
	none.NextProtos, none.VerifyConnection = nil, nil
	h2 := b.clientConfig(nowhere(), "h2", "")
	for name, cfg := range map[string]*tls.Config{"another of ours": b.clientConfig(nowhere(), ProtoRaft, ""), "h2": h2, "none at all": none} {
		if m := meet(t, a.serverConfig(nowhere(), ProtoPeer), cfg); m.server == nil || m.client == nil {
			t.Errorf("%s got through: %+v", name, m)
		}
	}
}

func TestTLS12IsRefused(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	old := b.clientConfig(nowhere(), ProtoPeer, "")
	old.MinVersion, old.MaxVersion = tls.VersionTLS12, tls.VersionTLS12
	if m := meet(t, a.serverConfig(nowhere(), ProtoPeer), old); m.server == nil || m.client == nil {
		t.Error("TLS 1.2 got through")
	}
}

func TestRenewedCertificateIsUsedAtOnce(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	server, client := a.serverConfig(nowhere(), ProtoPeer), b.clientConfig(nowhere(), ProtoPeer, a.Node())
	for _, id := range []*Identity{a, b} {
		before := id.Self().Serial
		cert, serial := issue(t, ca, id, id.Node(), RoleNode, start.Add(time.Hour))
		if err := id.Renew(cert); err != nil {
			t.Fatal(err)
		}
		if id.Self().Serial != serial || serial == before {
			t.Fatalf("serial %s, want %s", id.Self().Serial, serial)
		}
	}
	m := meet(t, server, client) // configurations made before the renewal
	if m.client != nil || m.server != nil {
		t.Fatalf("%v, %v", m.client, m.server)
	}
	if m.sawClient != shown(b) || m.sawServer != shown(a) {
		t.Error("the old certificates are still shown")
	}
	again, err := Open(Options{Dir: a.dir})
	if err != nil || again.Self() != a.Self() {
		t.Errorf("the renewal did not reach the disk: %v", err)
	}
}

func TestJoinNeedsThePin(t *testing.T) {
	ca, other := newCA(t, "alpha"), newCA(t, "alpha")
	a := member(t, ca, Options{Now: at(start.AddDate(30, 0, 0))}) // the joiner cannot judge time
	good, err := JoinConfig(ca.Pin())
	if err != nil {
		t.Fatal(err)
	}
	if m := meet(t, a.serverConfig(nowhere(), ProtoJoin), good); m.client != nil || m.server != nil || m.readByServer != 1 {
		t.Errorf("right pin: %+v", m)
	}
	bad, err := JoinConfig(other.Pin())
	if err != nil {
		t.Fatal(err)
	}
	m := meet(t, a.serverConfig(nowhere(), ProtoJoin), bad)
	refusedBy(t, m.client, m.server, ErrWrongPin)
	if m.readByServer != 0 {
		t.Error("something was sent before the pin was checked")
	}
	for _, pin := range []string{"", "sha256:", "sha256:" + string(make([]byte, 64)), ca.Pin() + "0", ca.Pin()[7:]} {
		if _, err := JoinConfig(pin); err == nil {
			t.Errorf("%q is taken for a pin", pin)
		}
	}
}

// Showing the right authority is not enough: the leaf has to be signed by it, as a node.
func TestJoinRefusesBorrowedAuthority(t *testing.T) {
	ca, other := newCA(t, "alpha"), newCA(t, "alpha")
	thief := member(t, other, Options{})
	client, err := JoinConfig(ca.Pin())
	if err != nil {
		t.Fatal(err)
	}
	server := thief.serverConfig(nowhere(), ProtoJoin)
	server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		own := thief.current.Load()
		return &tls.Certificate{Certificate: [][]byte{own.leaf.Raw, ca.cert.Raw}, PrivateKey: thief.key()}, nil
	}
	m := meet(t, server, client)
	refusedBy(t, m.client, m.server, ErrNotMember)

	installer := member(t, ca, Options{})
	certPEM, _ := issue(t, ca, installer, installer.Node(), RoleInstall, start)
	cert, err := parseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	server.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		return &tls.Certificate{Certificate: [][]byte{cert.Raw, ca.cert.Raw}, PrivateKey: installer.key()}, nil
	}
	m = meet(t, server, client)
	refusedBy(t, m.client, m.server, ErrWrongRole)
}

func TestUnenrolledServesAndCallsNobody(t *testing.T) {
	ca := newCA(t, "alpha")
	a := member(t, ca, Options{})
	blank, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	m := meet(t, a.serverConfig(nowhere(), ProtoPeer), blank.clientConfig(nowhere(), ProtoPeer, ""))
	refusedBy(t, m.client, m.server, ErrNotEnrolled)
	m = meet(t, blank.serverConfig(nowhere(), ProtoPeer), a.clientConfig(nowhere(), ProtoPeer, ""))
	refusedBy(t, m.server, m.client, ErrNotEnrolled)
}
