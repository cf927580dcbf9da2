// Package identity proves who belongs to a swarm: its certificate authority, the keys and certificates of nodes and
// operators, mutual TLS between them, the tickets by which a machine becomes a node, and the keys that gossip and hello
// frames share. Every connection goes through Identity.Dial, OperatorFile.Dial or a Mux: there is no door that Cut cannot
// close.
//
// It refuses to decide: which ticket is still good, which serial is revoked and who leads stands in the ledger and comes
// in as a function or an argument. It never writes a private key, a ticket's secret or a shared key anywhere but into the
// directory that it was given or the OperatorFile that was asked for, and never into a log. It knows no HTTP.
//
// Package node may import it, and through node what needs its types (handoff, the install configuration, the agent). It
// imports swarm and the standard library only.
package identity

import (
	"bytes"
	"cmp"
	"crypto"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"offshoot/swarm"
)

const (
	keyFile    = "node.key"
	certFile   = "node.crt"
	caCertFile = "ca.crt" // all authorities that are trusted: one, or several while the CA is being replaced
)

// Options says where an Identity lives and whom it asks.
type Options struct {
	// Dir holds node.key, node.crt and ca.crt; made with mode 0700 if it is missing.
	Dir string
	// Role is what its certificate has to be for; "" is RoleNode.
	Role Role
	// Now is the clock that certificates are held against; nil is time.Now. A machine with a wrong clock passes one that
	// is corrected by RedeemResponse.Time.
	Now func() time.Time
	// Refused says why the swarm will not have this node or operator any more, nil if it will. It is asked within every
	// handshake, whoever called, after the certificate was found genuine; from many goroutines, and must answer from
	// memory. nil refuses nobody. What it begins to refuse does not end what stands: see Cut.
	Refused func(serial string, p Peer) error
	// Member says whether a node in good standing is expected to call from this address; nil expects nobody. It only
	// keeps the node apart from strangers in the Mux's limits, from its first call on: it lets nobody in. It is asked for
	// each connection from an address that nobody proved himself at, so it should be a lookup.
	Member func(netip.Addr) bool
}

// Identity is this node's key, its certificate, its swarm's authority, and the connections that were made with them. It
// is safe for concurrent use; a renewed certificate is used from the next handshake on.
type Identity struct {
	dir     string
	role    Role
	now     func() time.Time
	refused func(serial string, p Peer) error
	member  func(netip.Addr) bool
	links   *links
	door    *door
	key     func() ed25519.PrivateKey // a function for the reason given at Ticket

	mu      sync.Mutex // serialises Enroll and Renew
	current atomic.Pointer[credentials]
}

// credentials change as one.
type credentials struct {
	leaf  *x509.Certificate
	ca    *x509.Certificate   // that signed leaf
	trust []*x509.Certificate // the authorities that others' certificates are held against; ca is one of them
	peer  Peer                // what the own certificate says
	tls   tls.Certificate
}

// Open loads the identity in opts.Dir, or makes its key there. It never replaces files that it cannot read: a damaged
// identity is an error, since a fresh key would silently make another node.
func Open(opts Options) (*Identity, error) {
	id := &Identity{dir: opts.Dir, role: cmp.Or(opts.Role, RoleNode), now: opts.Now, refused: opts.Refused, member: opts.Member, links: newLinks(), door: newDoor(time.Now)}
	if id.now == nil {
		id.now = time.Now
	}
	if id.refused == nil {
		id.refused = func(string, Peer) error { return nil }
	}
	if id.member == nil {
		id.member = func(netip.Addr) bool { return false }
	}
	if err := os.MkdirAll(opts.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	key, err := loadOrMakeKey(filepath.Join(opts.Dir, keyFile))
	if err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	id.key = hide(key)
	certPEM, err := os.ReadFile(filepath.Join(opts.Dir, certFile))
	if errors.Is(err, fs.ErrNotExist) {
		return id, nil
	}
	if err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	caPEM, err := os.ReadFile(filepath.Join(opts.Dir, caCertFile))
	if err != nil {
		return nil, fmt.Errorf("open identity: %w", err)
	}
	trust, err := parseCAs(caPEM)
	if err != nil {
		return nil, fmt.Errorf("open identity in %s: %w", opts.Dir, err)
	}
	creds, err := id.check(certPEM, trust)
	if err != nil {
		return nil, fmt.Errorf("open identity in %s: %w", opts.Dir, err)
	}
	id.current.Store(creds)
	return id, nil
}

func loadOrMakeKey(path string) (ed25519.PrivateKey, error) {
	data, err := os.ReadFile(path)
	if err == nil {
		return parseKey(data)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	data, err = encodeKey(key)
	if err != nil {
		return nil, err
	}
	return key, writeFile(path, data, 0o600)
}

// CSR is a certificate request in PEM that carries the node's public key and nothing else: the swarm sets every field.
func (id *Identity) CSR() ([]byte, error) {
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, id.key())
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: pemCSR, Bytes: der}), nil
}

// Enroll makes this node a member: it checks that caPEM is the authority that pin names and that certPEM is its
// certificate for our key, and stores both. The pin is asked for here because the answer to a join comes from one member,
// who could be a thief with a certificate and an authority of his own. It is refused with ErrOtherSwarm once the node
// belongs to another authority; enrolling again under the same one replaces the certificate.
func (id *Identity) Enroll(pin string, certPEM, caPEM []byte) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	ca, err := parseCA(caPEM)
	if err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	creds, err := id.check(certPEM, []*x509.Certificate{ca})
	if err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	if pinOf(creds.ca) != pin {
		return fmt.Errorf("enroll: %w: it has %s, wanted %s", ErrWrongPin, pinOf(creds.ca), pin)
	}
	if old := id.current.Load(); old != nil && !bytes.Equal(old.ca.RawSubjectPublicKeyInfo, creds.ca.RawSubjectPublicKeyInfo) {
		return fmt.Errorf("enroll: %w: this node belongs to %s", ErrOtherSwarm, old.peer.Swarm)
	}
	// node.crt is written last: until it stands, the node is not enrolled and asks again.
	if err := id.storeTrust(creds); err != nil {
		return fmt.Errorf("enroll: %w", err)
	}
	return id.store(creds)
}

// Trust replaces the authorities that certificates are held against; the present one is the first. The one that signed our own
// certificate must be among them: without it this node could not even start again. Connections whose other side has shown a
// certificate of an authority that is gone are closed.
func (id *Identity) Trust(casPEM ...[]byte) error {
	trust, err := parseCAs(bytes.Join(casPEM, nil))
	if err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	if err := id.trust(trust); err != nil {
		return fmt.Errorf("trust: %w", err)
	}
	id.Cut(func(p Peer, _ string) bool { return !id.current.Load().trusts(p.CA) })
	return nil
}

func (c *credentials) trusts(pin string) bool {
	return slices.ContainsFunc(c.trust, func(ca *x509.Certificate) bool { return pinOf(ca) == pin })
}

func (id *Identity) trust(trust []*x509.Certificate) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	old := id.current.Load()
	if old == nil {
		return ErrNotEnrolled
	}
	creds := *old
	creds.trust = trust
	switch {
	case !slices.ContainsFunc(trust, old.ca.Equal):
		return fmt.Errorf("%w: this node's own certificate is of %s", ErrNotMember, pinOf(old.ca))
	case slices.EqualFunc(trust, old.trust, (*x509.Certificate).Equal):
		return nil
	}
	if err := id.storeTrust(&creds); err != nil {
		return err
	}
	id.current.Store(&creds)
	return nil
}

// Renew replaces the certificate with a later one for the same node and key, of an authority that is trusted. Connections
// that stand are not touched; the next handshake uses it.
func (id *Identity) Renew(certPEM []byte) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	old := id.current.Load()
	if old == nil {
		return fmt.Errorf("renew: %w", ErrNotEnrolled)
	}
	creds, err := id.check(certPEM, old.trust)
	if err != nil {
		return fmt.Errorf("renew: %w", err)
	}
	if old.ca.Equal(old.trust[0]) && !creds.ca.Equal(old.ca) { // an answer from before a replacement of the CA, come late
		return fmt.Errorf("renew: %w: it is of %s, which was replaced", ErrNotMember, pinOf(creds.ca))
	}
	if creds.peer.Node != old.peer.Node {
		return fmt.Errorf("renew: %w: it is for %s, this node is %s", ErrWrongNode, creds.peer.Node, old.peer.Node)
	}
	return id.store(creds)
}

func (id *Identity) store(creds *credentials) error {
	if err := writeFile(filepath.Join(id.dir, certFile), encodeCert(creds.leaf.Raw), 0o644); err != nil {
		return fmt.Errorf("store certificate: %w", err)
	}
	id.current.Store(creds)
	return nil
}

// storeTrust comes before store: what is trusted on the disk always has the authority of the certificate beside it.
func (id *Identity) storeTrust(creds *credentials) error {
	var all []byte
	for _, ca := range creds.trust {
		all = append(all, encodeCert(ca.Raw)...)
	}
	return writeFile(filepath.Join(id.dir, caCertFile), all, 0o644)
}

// check holds a certificate against authorities and our key. Expiry is not looked at: a node that was off for a month
// still has an identity, though no one will talk to it before it is renewed.
func (id *Identity) check(certPEM []byte, trust []*x509.Certificate) (*credentials, error) {
	leaf, err := parseCert(certPEM)
	if err != nil {
		return nil, err
	}
	name, err := swarmOfCA(trust[0])
	if err != nil {
		return nil, err
	}
	peer, err := verify(leaf, name, leaf.NotAfter, trust...)
	if err != nil {
		return nil, err
	}
	ca := trust[slices.IndexFunc(trust, func(c *x509.Certificate) bool { return pinOf(c) == peer.CA })]
	if peer.Role != id.role {
		return nil, fmt.Errorf("%w: %q", ErrWrongRole, peer.Role)
	}
	if pub, ok := leaf.PublicKey.(ed25519.PublicKey); !ok || !pub.Equal(id.key().Public()) {
		return nil, ErrWrongKey
	}
	return &credentials{
		leaf: leaf, ca: ca, trust: trust, peer: peer,
		tls: tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: crypto.Signer(id.key()), Leaf: leaf},
	}, nil
}

// Enrolled says whether the node has a certificate, expired or not.
func (id *Identity) Enrolled() bool { return id.current.Load() != nil }

// Node is the id that the swarm gave to this node, "" before Enroll.
func (id *Identity) Node() swarm.NodeID { return id.Self().Node }

// Swarm is the name of the swarm that this node belongs to, "" before Enroll.
func (id *Identity) Swarm() string { return id.Self().Swarm }

// Self is what this node's certificate says of it, zero before Enroll.
func (id *Identity) Self() Peer {
	if c := id.current.Load(); c != nil {
		return c.peer
	}
	return Peer{}
}

// Pin is the fingerprint of the authority that signed this node's certificate, "" before Enroll.
func (id *Identity) Pin() string {
	if c := id.current.Load(); c != nil {
		return pinOf(c.ca)
	}
	return ""
}

// NotAfter is when the certificate ends, zero before Enroll.
func (id *Identity) NotAfter() time.Time {
	if c := id.current.Load(); c != nil {
		return c.leaf.NotAfter
	}
	return time.Time{}
}

// NeedsRenewal says whether half of the certificate's life, counted from its issue, is over at now. It is false before
// Enroll.
func (id *Identity) NeedsRenewal(now time.Time) bool {
	c := id.current.Load()
	if c == nil {
		return false
	}
	issued := c.leaf.NotBefore.Add(backdate)
	return !now.Before(issued.Add(c.leaf.NotAfter.Sub(issued) / 2))
}
