package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offshoot/swarm"
)

func TestIdentitySurvivesRestart(t *testing.T) {
	ca := newCA(t, "alpha")
	a := member(t, ca, Options{})
	b, err := Open(Options{Dir: a.dir})
	if err != nil {
		t.Fatal(err)
	}
	if a.Self() != b.Self() || a.Pin() != b.Pin() || b.Node() == "" || b.Swarm() != "alpha" {
		t.Errorf("after restart %+v with %s, before %+v with %s", b.Self(), b.Pin(), a.Self(), a.Pin())
	}
	for name, mode := range map[string]fs.FileMode{keyFile: 0o600, certFile: 0o644, caCertFile: 0o644} {
		info, err := os.Stat(filepath.Join(a.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode().Perm() != mode {
			t.Errorf("%s has mode %o, want %o", name, info.Mode().Perm(), mode)
		}
	}
	left, err := filepath.Glob(filepath.Join(a.dir, ".*"))
	if err != nil || len(left) != 0 {
		t.Errorf("temporary files left: %v, %v", left, err)
	}
}

func TestUnenrolledIdentityKeepsItsKey(t *testing.T) {
	dir := t.TempDir()
	a, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if a.Enrolled() || a.Node() != "" || a.NeedsRenewal(start) {
		t.Error("a fresh identity claims to be someone")
	}
	b, err := Open(Options{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	if !a.key().Equal(b.key()) {
		t.Error("the key changed over a restart: a redeemed certificate would be lost")
	}
}

func TestDamagedIdentityIsNeverReplaced(t *testing.T) {
	for _, name := range []string{keyFile, certFile, caCertFile} {
		a := member(t, newCA(t, "alpha"), Options{})
		path := filepath.Join(a.dir, name)
		if err := os.WriteFile(path, []byte("rubbish"), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := Open(Options{Dir: a.dir}); err == nil {
			t.Errorf("opened with a damaged %s", name)
		}
		if data, err := os.ReadFile(path); err != nil || string(data) != "rubbish" {
			t.Errorf("%s was replaced", name)
		}
	}
}

func TestCASurvivesRestart(t *testing.T) {
	dir := t.TempDir()
	if _, err := LoadCAs(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Fatalf("empty directory: %v", err)
	}
	ca := newCA(t, "alpha")
	if err := SaveCAs(dir, ca); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(filepath.Join(dir, caKeyFile))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Fatalf("ca.key: %v, %v", info, err)
	}
	all, err := LoadCAs(dir)
	if err != nil || len(all) != 1 {
		t.Fatal(all, err)
	}
	again := all[0]
	if again.Pin() != ca.Pin() || again.Swarm() != "alpha" || !strings.HasPrefix(ca.Pin(), "sha256:") || checkPin(ca.Pin()) != nil {
		t.Errorf("loaded %v, saved %v", again, ca)
	}
	// Still able to sign what the first one's members accept.
	meets := meet(t, member(t, ca, Options{}).serverConfig(nowhere(), ProtoPeer), member(t, again, Options{}).clientConfig(nowhere(), ProtoPeer, ""))
	if meets.client != nil || meets.server != nil {
		t.Errorf("%v, %v", meets.client, meets.server)
	}
}

func TestCANeedsItsOwnKey(t *testing.T) {
	other, err := newCA(t, "alpha").ExportKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ImportCA(newCA(t, "alpha").Certificate(), other); !errors.Is(err, ErrWrongKey) {
		t.Errorf("foreign key: %v", err)
	}
}

// The request asks for everything; it gets the fields of the server, and its key.
func TestServerSetsEveryField(t *testing.T) {
	ca := newCA(t, "alpha")
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	greedy := &x509.CertificateRequest{
		Subject:  pkix.Name{CommonName: "root", Organization: []string{"admin"}},
		DNSNames: []string{"example.org"},
		URIs:     []*url.URL{{Scheme: uriScheme, Host: "alpha", Path: "/node/0000000000000001"}},
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, greedy, key)
	if err != nil {
		t.Fatal(err)
	}
	node := swarm.NewNodeID()
	certPEM, serial, err := ca.IssueNode(der, node, RoleNode, start)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := parseCert(certPEM)
	if err != nil {
		t.Fatal(err)
	}
	want := "offshoot://alpha/node/" + string(node)
	if cert.Subject.String() != "CN="+string(node) || len(cert.DNSNames) != 0 || cert.URIs[0].String() != want || cert.IsCA {
		t.Errorf("issued %s %v %v", cert.Subject, cert.DNSNames, cert.URIs)
	}
	if cert.NotAfter != start.Add(7*24*time.Hour) || cert.NotBefore != start.Add(-24*time.Hour) {
		t.Errorf("valid %s to %s", cert.NotBefore, cert.NotAfter)
	}
	if len(serial) != 32 || formatSerial(cert.SerialNumber) != serial {
		t.Errorf("serial %s", serial)
	}
}

func TestIssueRefuses(t *testing.T) {
	ca := newCA(t, "alpha")
	good, err := member(t, ca, Options{}).CSR()
	if err != nil {
		t.Fatal(err)
	}
	rsaKey, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	rsaCSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, rsaKey)
	if err != nil {
		t.Fatal(err)
	}
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	p384CSR, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, p384)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(good)
	forged := bytes.Clone(block.Bytes)
	forged[len(forged)-1] ^= 1 // within the signature
	node := swarm.NodeID("0123456789abcdef")
	for name, c := range map[string]struct {
		csr  []byte
		node swarm.NodeID
		role Role
	}{
		"RSA key":             {rsaCSR, node, RoleNode},
		"P-384 key":           {p384CSR, node, RoleNode},
		"forged signature":    {forged, node, RoleNode},
		"no request":          {nil, node, RoleNode},
		"two requests":        {append(bytes.Clone(good), good...), node, RoleNode},
		"unknown role":        {good, node, "admin"},
		"operator's role":     {good, node, RoleOperator},
		"node with a path":    {good, "../../../node/x", RoleNode},
		"node in upper case":  {good, "0123456789ABCDEF", RoleNode},
		"node without digits": {good, "", RoleNode},
	} {
		if _, _, err := ca.IssueNode(c.csr, c.node, c.role, start); err == nil {
			t.Errorf("%s: issued", name)
		}
	}
}

func TestEnrollRefuses(t *testing.T) {
	ca, other := newCA(t, "alpha"), newCA(t, "beta")
	id, err := Open(Options{Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	mine, _ := issue(t, ca, id, swarm.NewNodeID(), RoleNode, start)
	installer, _ := issue(t, ca, id, swarm.NewNodeID(), RoleInstall, start)
	foreign, _ := issue(t, ca, member(t, ca, Options{}), swarm.NewNodeID(), RoleNode, start)
	impostor := newCA(t, "alpha") // right name, other key
	theirs, _ := issue(t, impostor, id, swarm.NewNodeID(), RoleNode, start)
	for name, c := range map[string]struct {
		pin      string
		cert, ca []byte
		want     error
	}{
		"another's key":           {ca.Pin(), foreign, ca.Certificate(), ErrWrongKey},
		"an installer's role":     {ca.Pin(), installer, ca.Certificate(), ErrWrongRole},
		"authority of other name": {other.Pin(), mine, other.Certificate(), ErrOtherSwarm},
		"not signed by it":        {impostor.Pin(), mine, impostor.Certificate(), ErrNotMember},
		"a thief's authority":     {ca.Pin(), theirs, impostor.Certificate(), ErrWrongPin},
	} {
		if err := id.Enroll(c.pin, c.cert, c.ca); !errors.Is(err, c.want) {
			t.Errorf("%s: %v, want %v", name, err, c.want)
		}
	}
	if err := id.Renew(mine); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("renewed before it enrolled: %v", err)
	}
	if id.Enrolled() {
		t.Fatal("a refused answer enrolled the node")
	}
	if err := id.Enroll(ca.Pin(), mine, ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	if err := id.Enroll(impostor.Pin(), theirs, impostor.Certificate()); !errors.Is(err, ErrOtherSwarm) {
		t.Errorf("left its swarm for another: %v", err)
	}
	if err := id.Renew(theirs); !errors.Is(err, ErrNotMember) {
		t.Errorf("renewed by another authority: %v", err)
	}
	if err := id.Renew(mine[:100]); err == nil {
		t.Error("renewed with half a certificate")
	}
	other2, _ := issue(t, ca, id, swarm.NewNodeID(), RoleNode, start)
	if err := id.Renew(other2); !errors.Is(err, ErrWrongNode) {
		t.Errorf("became another node: %v", err)
	}
}

func TestRenewalIsDueAtHalfLife(t *testing.T) {
	id := member(t, newCA(t, "alpha"), Options{})
	half := start.Add(7 * 24 * time.Hour / 2)
	if id.NeedsRenewal(half.Add(-time.Minute)) || !id.NeedsRenewal(half) {
		t.Errorf("certificate of %s to %s: due before %s, or not at it", start, id.NotAfter(), half)
	}
}
