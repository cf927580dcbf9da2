package identity

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"time"
)

// What an operator may do, each more than the one before. Which request needs which is the API's to say.
const (
	OperatorView    = "view"    // look
	OperatorOperate = "operate" // arm machines, reserve addresses, move duties
	OperatorAdmin   = "admin"   // change who belongs to the swarm
)

const (
	// MaxOperatorFile bounds an encoded OperatorFile in bytes.
	MaxOperatorFile = 16 << 10

	operatorLife    = 90 * 24 * time.Hour
	maxOperatorLife = 366 * 24 * time.Hour
	maxEndpoints    = 64
	maxEndpoint     = 256 // bytes; a DNS name has 253 at most

	// nextEndpoint is how long an endpoint has before the next one is tried beside it, as RFC 8305 does for addresses.
	nextEndpoint = 500 * time.Millisecond
)

// OperatorFile is all that an operator needs to ask a swarm from anywhere, the private key included: whoever holds the
// file is the operator until the certificate ends or is revoked. Whatever prints, logs or marshals it shows no key; Encode
// is the one way to it.
type OperatorFile struct {
	Swarm       string
	Pin         string // of the authority
	Name        string
	Role        string   // OperatorView, OperatorOperate or OperatorAdmin
	Endpoints   []string // host:port of peer ports, best first; whoever issued the file fills them in
	Certificate []byte   // PEM
	CA          []byte   // PEM
	key         func() ed25519.PrivateKey
}

type wireOperator struct {
	Swarm       string   `json:"swarm"`
	Pin         string   `json:"pin"`
	Name        string   `json:"name"`
	Role        string   `json:"role"`
	Endpoints   []string `json:"endpoints"`
	Certificate string   `json:"certificate"`
	Key         string   `json:"key"`
	CA          string   `json:"ca"`
}

// IssueOperator makes a key and signs a certificate for it: name has 1 to 63 of a-z, 0-9 and hyphen, role is one of
// OperatorView, OperatorOperate and OperatorAdmin, life is 90 days if 0 and 366 days at most. The key is in the file and
// nowhere else; the serial (32 hexadecimal digits) is what the ledger revokes by.
func (ca *CA) IssueOperator(name, role string, now time.Time, life time.Duration) (file OperatorFile, serial string, err error) {
	if err := checkOperator(name, role); err != nil {
		return OperatorFile{}, "", fmt.Errorf("issue operator's certificate: %w", err)
	}
	if life == 0 {
		life = operatorLife
	}
	if life < 0 || life > maxOperatorLife {
		return OperatorFile{}, "", fmt.Errorf("issue operator's certificate: a life of %s: want up to %s", life, maxOperatorLife)
	}
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return OperatorFile{}, "", fmt.Errorf("issue operator's certificate: %w", err)
	}
	leaf, err := ca.sign(Peer{Swarm: ca.swarm, Role: RoleOperator, Operator: name, OperatorRole: role}, name, pub, now, life)
	if err != nil {
		return OperatorFile{}, "", fmt.Errorf("issue operator's certificate: %w", err)
	}
	return OperatorFile{
		Swarm: ca.swarm, Pin: ca.Pin(), Name: name, Role: role,
		Certificate: encodeCert(leaf.Raw), CA: ca.Certificate(), key: hide(key),
	}, formatSerial(leaf.SerialNumber), nil
}

func checkOperator(name, role string) error {
	if checkSwarm(name) != nil {
		return fmt.Errorf("operator's name %.80q: want 1 to 63 of a-z, 0-9 and hyphen", name)
	}
	if !slices.Contains([]string{OperatorView, OperatorOperate, OperatorAdmin}, role) {
		return fmt.Errorf("operator's role %.80q: want %s, %s or %s", role, OperatorView, OperatorOperate, OperatorAdmin)
	}
	return nil
}

// Encode writes the file with the key in it, as JSON for people to look into. Keep it 0600.
func (f OperatorFile) Encode() ([]byte, error) {
	if _, err := f.check(); err != nil {
		return nil, fmt.Errorf("encode operator file: %w", err)
	}
	key, err := encodeKey(f.key())
	if err != nil {
		return nil, fmt.Errorf("encode operator file: %w", err)
	}
	w := wireOperator{
		Swarm: f.Swarm, Pin: f.Pin, Name: f.Name, Role: f.Role, Endpoints: f.Endpoints,
		Certificate: string(f.Certificate), Key: string(key), CA: string(f.CA),
	}
	data, err := json.MarshalIndent(w, "", "  ")
	if err == nil && len(data) >= MaxOperatorFile {
		err = fmt.Errorf("%d bytes, the limit is %d", len(data)+1, MaxOperatorFile)
	}
	if err != nil {
		return nil, fmt.Errorf("encode operator file: %w", err)
	}
	return append(data, '\n'), nil
}

// DecodeOperatorFile reads what Encode wrote. All of it has to fit together: the authority to the pin, the certificate to
// the authority, the name, the role and the key. Expiry is not looked at; Dial does. No error quotes the key.
func DecodeOperatorFile(r io.Reader) (OperatorFile, error) {
	var w wireOperator
	if err := decodeBounded(r, MaxOperatorFile, &w); err != nil {
		return OperatorFile{}, fmt.Errorf("operator file: %w", err)
	}
	key, err := parseKey([]byte(w.Key))
	if err != nil {
		return OperatorFile{}, fmt.Errorf("operator file: %w", err)
	}
	f := OperatorFile{
		Swarm: w.Swarm, Pin: w.Pin, Name: w.Name, Role: w.Role, Endpoints: w.Endpoints,
		Certificate: []byte(w.Certificate), CA: []byte(w.CA), key: hide(key),
	}
	if _, err := f.check(); err != nil {
		return OperatorFile{}, fmt.Errorf("operator file: %w", err)
	}
	return f, nil
}

// operatorCredentials are what a file comes to once it is believed.
type operatorCredentials struct {
	leaf, ca *x509.Certificate
}

func (f OperatorFile) check() (operatorCredentials, error) {
	var none operatorCredentials
	if f.key == nil {
		return none, errors.New("it has no key")
	}
	if len(f.Endpoints) == 0 || len(f.Endpoints) > maxEndpoints {
		return none, fmt.Errorf("it has %d endpoints: want 1 to %d", len(f.Endpoints), maxEndpoints)
	}
	for _, e := range f.Endpoints {
		if host, port, err := net.SplitHostPort(e); err != nil || host == "" || port == "" || len(e) > maxEndpoint {
			return none, fmt.Errorf("endpoint %.80q: want host:port", e)
		}
	}
	leaf, err := parseCert(f.Certificate)
	if err != nil {
		return none, err
	}
	ca, err := parseCert(f.CA)
	if err != nil {
		return none, fmt.Errorf("authority: %w", err)
	}
	if name, err := swarmOfCA(ca); err != nil || name != f.Swarm {
		return none, fmt.Errorf("%w: the authority is not that of %.80q", ErrOtherSwarm, f.Swarm)
	}
	if pinOf(ca) != f.Pin {
		return none, fmt.Errorf("%w: it has %s, wanted %.80q", ErrWrongPin, pinOf(ca), f.Pin)
	}
	peer, err := verify(leaf, f.Swarm, leaf.NotAfter, ca)
	switch {
	case err != nil:
		return none, err
	case peer.Role != RoleOperator || peer.Operator != f.Name || peer.OperatorRole != f.Role:
		return none, fmt.Errorf("%w: the certificate is for %s, role %q", ErrWrongRole, peer, peer.OperatorRole)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(f.key().Public()) {
		return none, ErrWrongKey
	}
	return operatorCredentials{leaf: leaf, ca: ca}, nil
}

// Key names the operator's public key as Peer.Key does; "" if there is no certificate that can be read.
func (f OperatorFile) Key() string {
	leaf, err := parseCert(f.Certificate)
	if err != nil {
		return ""
	}
	return keyOf(leaf.RawSubjectPublicKeyInfo)
}

// NotAfter is when the operator's certificate ends; zero if there is none that can be read.
func (f OperatorFile) NotAfter() time.Time {
	leaf, err := parseCert(f.Certificate)
	if err != nil {
		return time.Time{}
	}
	return leaf.NotAfter
}

// ClientConfig calls a member of the swarm by ProtoOperate. The server has to show a node's certificate that is not over
// at now. Which nodes the swarm has revoked an operator cannot know.
func (f OperatorFile) ClientConfig(now time.Time) (*tls.Config, error) {
	creds, err := f.check()
	if err != nil {
		return nil, fmt.Errorf("operator file: %w", err)
	}
	if now.After(creds.leaf.NotAfter) {
		return nil, fmt.Errorf("operator file of %s: %w: since %s", f.Name, ErrExpired, creds.leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	own := tls.Certificate{Certificate: [][]byte{creds.leaf.Raw}, PrivateKey: f.key(), Leaf: creds.leaf}
	cfg := base([]string{ProtoOperate})
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &own, nil }
	cfg.InsecureSkipVerify = true // members have no host names; VerifyConnection checks chain, swarm and role
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := wantProtocol(cs, ProtoOperate); err != nil {
			return err
		}
		if len(cs.PeerCertificates) == 0 {
			return ErrNoCertificate
		}
		peer, err := verify(cs.PeerCertificates[0], f.Swarm, now, creds.ca)
		if errors.Is(err, ErrNotMember) {
			err = fmt.Errorf("%w; if the swarm's CA was replaced, an admin makes a new file: offshoot operator add %s --role %s -o FILE", err, f.Name, f.Role)
		}
		if err == nil && peer.Role != RoleNode {
			err = fmt.Errorf("%w: answered by %s", ErrWrongRole, peer)
		}
		return err
	}
	return cfg, nil
}

// Dial calls the endpoints, each half a second after the one before or as soon as that one failed, and returns the first
// that proves to be a node of the swarm, as a *tls.Conn. If the swarm refuses the operator, the first read tells (TLS 1.3).
func (f OperatorFile) Dial(ctx context.Context) (net.Conn, error) {
	cfg, err := f.ClientConfig(time.Now())
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel() // ends the attempts that came too late
	type result struct {
		conn net.Conn
		err  error
	}
	results := make(chan result)
	timer := time.NewTimer(0)
	defer timer.Stop()
	var errs []error
	for next, pending := 0, 0; next < len(f.Endpoints) || pending > 0; {
		start := timer.C
		if next == len(f.Endpoints) {
			start = nil
		}
		select {
		case <-start:
			endpoint := f.Endpoints[next]
			next++
			pending++
			go func() {
				conn, err := (&tls.Dialer{Config: cfg}).DialContext(ctx, "tcp", endpoint)
				if err != nil {
					err = fmt.Errorf("%s: %w", endpoint, err)
				}
				select {
				case results <- result{conn, err}:
				case <-ctx.Done():
					if conn != nil {
						_ = conn.Close() // another was faster
					}
				}
			}()
			timer.Reset(nextEndpoint)
		case r := <-results:
			pending--
			if r.err == nil {
				return r.conn, nil
			}
			errs = append(errs, r.err)
			timer.Reset(0)
		case <-ctx.Done():
			return nil, fmt.Errorf("call swarm %s: %w", f.Swarm, errors.Join(append(errs, ctx.Err())...))
		}
	}
	return nil, fmt.Errorf("call swarm %s: %w", f.Swarm, errors.Join(errs...))
}

// String names the operator without the key.
func (f OperatorFile) String() string {
	return fmt.Sprintf("operator %s of %s, role %s, at %s", f.Name, f.Swarm, f.Role, strings.Join(f.Endpoints, " "))
}

// GoString is String: %#v must not show the key.
func (f OperatorFile) GoString() string { return f.String() }

// LogValue is String: a log must not show the key.
func (f OperatorFile) LogValue() slog.Value { return slog.StringValue(f.String()) }

// MarshalText is String: a file inside something that is logged as JSON must not leak. Use Encode.
func (f OperatorFile) MarshalText() ([]byte, error) { return []byte(f.String()), nil }
