package identity

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"offshoot/swarm"
)

const (
	// caKeyFile holds certificate and key of each authority that can be signed with: in one file, so that after a crash the two
	// belong together.
	caKeyFile = "ca.key"

	pemKey  = "PRIVATE KEY" // PKCS #8, RFC 5958
	pemCert = "CERTIFICATE"
	pemCSR  = "CERTIFICATE REQUEST"

	// caLife outlives every machine that a swarm is made of: replacing the root means visiting all of them.
	caLife = 50 * 365 * 24 * time.Hour
	// backdate lets programs that know nothing of our clock rules accept a fresh certificate on a machine whose clock
	// stands up to a day behind, as after a wrong time zone in the firmware. Our own check goes further; see verify.
	backdate = 24 * time.Hour
	// maxPEM bounds every PEM document that we read: an Ed25519 certificate has less than 1 KiB.
	maxPEM = 16 << 10
)

// Role is what a certificate entitles its holder to.
type Role string

const (
	// RoleNode is a member: it may speak raft and the peer API.
	RoleNode Role = "node"
	// RoleInstall is a machine that installs itself: an hour, and artifacts of its own segment only. It may call
	// by ProtoShare, and answer other installing machines there; see Options.Role.
	RoleInstall Role = "install"
	// RoleOperator is a person or a program that asks the swarm from outside, as Peer.OperatorRole allows; see
	// CA.IssueOperator. It is no member: it may use ProtoOperate only.
	RoleOperator Role = "operator"
)

// life is how long a certificate of this role lasts, 0 if there is no such role.
func (r Role) life() time.Duration {
	switch r {
	case RoleNode:
		return 7 * 24 * time.Hour
	case RoleInstall:
		return time.Hour
	case RoleOperator:
		return operatorLife
	default:
		return 0
	}
}

// CA is a swarm's certificate authority. It is safe for concurrent use. Printing it shows the swarm's name and the pin.
type CA struct {
	swarm string
	cert  *x509.Certificate
	key   func() ed25519.PrivateKey // a function for the reason given at Ticket
}

// NewCA founds the authority of the swarm with this name (1 to 63 letters a-z, digits, hyphens).
func NewCA(swarmID string, now time.Time) (*CA, error) {
	if err := checkSwarm(swarmID); err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	serial, err := newSerial()
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               pkix.Name{CommonName: "offshoot swarm " + swarmID},
		URIs:                  []*url.URL{{Scheme: uriScheme, Host: swarmID}},
		NotBefore:             now.Add(-backdate).UTC(),
		NotAfter:              now.Add(caLife).UTC(),
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		BasicConstraintsValid: true,
		IsCA:                  true,
		MaxPathLenZero:        true, // it signs members only, never another authority
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("new authority: %w", err)
	}
	return &CA{swarm: swarmID, cert: cert, key: hide(key)}, nil
}

// ImportCA is the inverse of Certificate and ExportKey; the two have to belong together.
func ImportCA(certPEM, keyPEM []byte) (*CA, error) {
	cert, err := parseCert(certPEM)
	if err != nil {
		return nil, fmt.Errorf("import authority: %w", err)
	}
	name, err := swarmOfCA(cert)
	if err != nil {
		return nil, fmt.Errorf("import authority: %w", err)
	}
	key, err := parseKey(keyPEM)
	if err != nil {
		return nil, fmt.Errorf("import authority: %w", err)
	}
	if pub, ok := cert.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(key.Public()) {
		return nil, fmt.Errorf("import authority: %w", ErrWrongKey)
	}
	return &CA{swarm: name, cert: cert, key: hide(key)}, nil
}

// LoadCAs reads what SaveCAs wrote. Where there is none the error is fs.ErrNotExist.
func LoadCAs(dir string) ([]*CA, error) {
	data, err := os.ReadFile(filepath.Join(dir, caKeyFile))
	if err != nil {
		return nil, fmt.Errorf("load authority: %w", err)
	}
	all, err := DecodeCAs(data)
	if err != nil {
		return nil, fmt.Errorf("load authority: %s: %w", filepath.Join(dir, caKeyFile), err)
	}
	return all, nil
}

// SaveCAs writes ca.key (0600) into dir, as a whole or not at all: one authority, or several while one is being replaced. With
// none the file is removed.
func SaveCAs(dir string, all ...*CA) error {
	if len(all) == 0 {
		if err := os.Remove(filepath.Join(dir, caKeyFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("save authority: %w", err)
		}
		return nil
	}
	data, err := EncodeCAs(all...)
	if err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	if err := writeFile(filepath.Join(dir, caKeyFile), data, 0o600); err != nil {
		return fmt.Errorf("save authority: %w", err)
	}
	return nil
}

// EncodeCAs is certificate and key of each authority, in PEM. Whoever holds it is the swarm.
func EncodeCAs(all ...*CA) ([]byte, error) {
	var out []byte
	for _, ca := range all {
		key, err := ca.ExportKey()
		if err != nil {
			return nil, err
		}
		out = append(append(out, ca.Certificate()...), key...)
	}
	return out, nil
}

// DecodeCAs is the inverse of EncodeCAs; there is one authority at least. No error quotes a key.
func DecodeCAs(data []byte) ([]*CA, error) {
	if len(data) > maxPEM {
		return nil, fmt.Errorf("import authority: %d bytes of PEM, the limit is %d", len(data), maxPEM)
	}
	var all []*CA
	for len(all) == 0 || len(bytes.TrimSpace(data)) > 0 {
		cert, rest := firstPEM(data)
		key, rest := firstPEM(rest)
		ca, err := ImportCA(cert, key)
		if err != nil {
			return nil, err
		}
		all, data = append(all, ca), rest
	}
	return all, nil
}

// Certificate is the authority's certificate in PEM; it is public.
func (ca *CA) Certificate() []byte { return encodeCert(ca.cert.Raw) }

// ExportKey is the private key in PEM (PKCS #8). Whoever holds it is the swarm.
func (ca *CA) ExportKey() ([]byte, error) { return encodeKey(ca.key()) }

// Swarm is the name that the authority was founded with.
func (ca *CA) Swarm() string { return ca.swarm }

// Pin is "sha256:" and the SHA-256 of the authority's SubjectPublicKeyInfo (as RFC 7469 counts it) in hexadecimal.
func (ca *CA) Pin() string { return pinOf(ca.cert) }

// String names the authority without its key.
func (ca *CA) String() string { return fmt.Sprintf("authority of %s, %s", ca.swarm, ca.Pin()) }

// GoString is String: %#v must not show the key.
func (ca *CA) GoString() string { return ca.String() }

// LogValue is String: a log must not show the key.
func (ca *CA) LogValue() slog.Value { return slog.StringValue(ca.String()) }

// IssueNode signs a certificate for node in this role (RoleNode or RoleInstall) over the key in csr (PEM or DER), which has
// to be Ed25519 or P-256 and has to have signed the request. Nothing else of the request is looked at. The serial (32
// hexadecimal digits) is what the ledger revokes by. now comes from whoever decides to admit the node.
func (ca *CA) IssueNode(csr []byte, node swarm.NodeID, role Role, now time.Time) (certPEM []byte, serial string, err error) {
	if role != RoleNode && role != RoleInstall {
		return nil, "", fmt.Errorf("issue certificate for %s: %w: %q", node, ErrWrongRole, role)
	}
	if err := checkNode(node); err != nil {
		return nil, "", fmt.Errorf("issue certificate: %w", err)
	}
	req, err := parseCSR(csr)
	if err != nil {
		return nil, "", fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	leaf, err := ca.sign(Peer{Swarm: ca.swarm, Role: role, Node: node}, string(node), req.PublicKey, now, role.life())
	if err != nil {
		return nil, "", fmt.Errorf("issue certificate for %s: %w", node, err)
	}
	return encodeCert(leaf.Raw), formatSerial(leaf.SerialNumber), nil
}

// sign is where all certificates come from; the serial is drawn here.
func (ca *CA) sign(p Peer, name string, pub any, now time.Time, life time.Duration) (*x509.Certificate, error) {
	number, err := newSerial()
	if err != nil {
		return nil, err
	}
	usage := []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}
	if p.Role != RoleOperator {
		usage = append(usage, x509.ExtKeyUsageServerAuth)
	}
	template := &x509.Certificate{
		SerialNumber: number,
		Subject:      pkix.Name{CommonName: name},
		URIs:         []*url.URL{p.uri()},
		// A leaf older than its root would be no chain on the first day.
		NotBefore:             latest(now.Add(-backdate), ca.cert.NotBefore).UTC(),
		NotAfter:              now.Add(life).UTC(),
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           usage,
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca.cert, pub, ca.key())
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}

func latest(a, b time.Time) time.Time {
	if a.After(b) {
		return a
	}
	return b
}

// newSerial draws 127 random bits: positive as RFC 5280, 4.1.2.2 wants it, and never zero.
func newSerial() (*big.Int, error) {
	limit := new(big.Int).Lsh(big.NewInt(1), 127)
	n, err := rand.Int(rand.Reader, limit.Sub(limit, big.NewInt(1)))
	if err != nil {
		return nil, err
	}
	return n.Add(n, big.NewInt(1)), nil
}

func formatSerial(n *big.Int) string { return fmt.Sprintf("%032x", n) }

func pinOf(cert *x509.Certificate) string { return "sha256:" + keyOf(cert.RawSubjectPublicKeyInfo) }

// keyOf names a public key by the SHA-256 of its SubjectPublicKeyInfo.
func keyOf(spki []byte) string {
	sum := sha256.Sum256(spki)
	return hex.EncodeToString(sum[:])
}

// KeyOf names the public key in a certificate request (PEM or DER), as Peer.Key does: whatever else differs between two requests for it.
func KeyOf(csr []byte) (string, error) {
	req, err := parseCSR(csr)
	if err != nil {
		return "", err
	}
	return keyOf(req.RawSubjectPublicKeyInfo), nil
}

func checkPin(pin string) error {
	if len(pin) != 7+64 || pin[:7] != "sha256:" || !isHex(pin[7:]) {
		return errors.New(`a pin is "sha256:" and 64 hexadecimal digits`)
	}
	return nil
}

func parseCSR(data []byte) (*x509.CertificateRequest, error) {
	der := data
	if block, rest := pem.Decode(data); block != nil {
		if block.Type != pemCSR || len(bytes.TrimSpace(rest)) != 0 {
			return nil, errors.New("certificate request: not one PEM block of type " + pemCSR)
		}
		der = block.Bytes
	}
	if len(der) > maxPEM {
		return nil, fmt.Errorf("certificate request has %d bytes, the limit is %d", len(der), maxPEM)
	}
	req, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	switch pub := req.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if pub.Curve != elliptic.P256() {
			return nil, errors.New("certificate request: the key must be Ed25519 or P-256")
		}
	default:
		return nil, errors.New("certificate request: the key must be Ed25519 or P-256")
	}
	if err := req.CheckSignature(); err != nil {
		return nil, fmt.Errorf("certificate request: %w", err)
	}
	return req, nil
}
