package share

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"math/big"
	"net"
	"testing"
	"time"
)

// members' certificates: one key that all of them have, which is enough to tell a stranger.
func swarmTLS(t *testing.T) *tls.Config {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"member"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
		RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "member",
	}
}

// provenListener hands a connection on when its other side is proven, as the node's port does.
type provenListener struct {
	net.Listener
	config *tls.Config
}

func (l provenListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		secure := tls.Server(conn, l.config)
		_ = conn.SetDeadline(time.Now().Add(3 * time.Second))
		if secure.Handshake() == nil {
			_ = conn.SetDeadline(time.Time{})
			return secure, nil
		}
		_ = conn.Close()
	}
}

func TestStrangerWithoutTLSGetsNothing(t *testing.T) {
	m, data, config := newMembers(), someBytes(2*mib), swarmTLS(t)
	secured := func(o *TorrentOptions) {
		onlyPieces(o)
		o.Listener = provenListener{o.Listener, config}
		plain := o.Dial
		o.Dial = func(ctx context.Context, p Peer) (net.Conn, error) {
			conn, err := plain(ctx, p)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(conn, config)
			return secure, secure.HandshakeContext(ctx)
		}
	}
	seed, a := m.seed(t, data, secured)
	conn, err := new(net.Dialer).DialContext(t.Context(), "tcp4", seed.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got := greet(t, conn, a.InfoHash); got > 7 { // a TLS alert
		t.Errorf("a stranger got %d bytes", got)
	}
	if open := seed.Stats().Open; open != 0 {
		t.Errorf("a stranger opened %d torrents", open)
	}
	n := m.join(t, newStore(t), secured)
	n.fetch(t, a)
	wantHere(t, n.store, data)
	if got := n.Stats().Fetched; got != a.Size {
		t.Errorf("members exchanged %d bytes", got)
	}
}
