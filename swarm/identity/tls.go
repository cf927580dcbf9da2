package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"slices"

	"offshoot/swarm"
)

// The protocols that share the peer port, as TLS names them (ALPN, RFC 7301).
const (
	// ProtoRaft carries the ledger; both sides show a node's certificate.
	ProtoRaft = "offshoot-raft"
	// ProtoPeer carries the peer API; both sides show a node's certificate.
	ProtoPeer = "offshoot-peer"
	// ProtoShare carries pieces of artifacts; both sides show a node's certificate, or that of a machine that installs itself.
	// Such a machine calls; no node calls it.
	ProtoShare = "offshoot-share"
	// ProtoOperate is where operators ask and command; the client shows an operator's certificate, the server a node's.
	ProtoOperate = "offshoot-operate"
	// ProtoJoin is where tickets are shown; only the server shows a certificate.
	ProtoJoin = "offshoot-join"
)

// callers is who may call by a protocol that asks for a certificate.
func callers(proto string) []Role {
	switch proto {
	case ProtoOperate:
		return []Role{RoleOperator}
	case ProtoShare:
		return []Role{RoleNode, RoleInstall}
	}
	return []Role{RoleNode}
}

// answerers is who may answer a caller of this role.
func answerers(caller Role) []Role {
	if caller == RoleInstall {
		return []Role{RoleNode, RoleInstall}
	}
	return []Role{RoleNode}
}

// protocolsOf are the protocols that a holder of this role answers.
func protocolsOf(own Role) []string {
	if own == RoleInstall {
		return []string{ProtoShare}
	}
	return []string{ProtoRaft, ProtoPeer, ProtoShare, ProtoOperate, ProtoJoin}
}

// serverConfig is for one handshake on l by this protocol.
//
// A client whose protocol is another, or that names none, is refused. Note TLS 1.3's order: a client's handshake ends
// before the server has looked at its certificate, so a refused client sees the alert on its first read.
func (id *Identity) serverConfig(l *link, proto string) *tls.Config {
	cfg := base([]string{proto})
	if proto == ProtoJoin {
		// Strangers hold a ticket and a pin: they are shown the authority with our certificate, and asked for none.
		cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.ownCert(true) }
		cfg.VerifyConnection = func(cs tls.ConnectionState) error { return wantProtocol(cs, proto) }
		return cfg
	}
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.ownCert(false) }
	// The chain is held against the swarm in VerifyConnection, the same way on both sides.
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := wantProtocol(cs, proto); err != nil {
			return err
		}
		return id.verifyPeer(l, cs, callers(proto), "")
	}
	return cfg
}

// clientConfig is for one handshake on l with a member; expect "" takes any node of the swarm, else it has to be this one.
func (id *Identity) clientConfig(l *link, proto string, expect swarm.NodeID) *tls.Config {
	cfg := base([]string{proto})
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.ownCert(false) }
	cfg.InsecureSkipVerify = true // members have no host names; VerifyConnection checks chain, swarm and node
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := wantProtocol(cs, proto); err != nil {
			return err
		}
		return id.verifyPeer(l, cs, answerers(id.role), expect)
	}
	return cfg
}

// Dial calls a member at addr (host:port) and returns after the handshake: nothing was sent to whoever failed it. expect
// "" takes any node of the swarm, else it has to be this one. The connection is a *tls.Conn.
func (id *Identity) Dial(ctx context.Context, proto, addr string, expect swarm.NodeID) (net.Conn, error) {
	raw, err := new(net.Dialer).DialContext(ctx, "tcp", addr)
	if err != nil {
		return nil, err
	}
	l := id.links.track(raw)
	conn := tls.Client(l, id.clientConfig(l, proto, expect))
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = l.Close() // the handshake's error says more
		return nil, err
	}
	id.door.proved(sourceOf(raw.RemoteAddr()))
	return conn, nil
}

// JoinConfig calls a swarm that we know by its pin only. The server has to show a node's certificate signed by the
// authority with that pin; otherwise the handshake ends with ErrWrongPin before anything of ours is sent.
//
// Time is not looked at: the joining machine's clock may be years off, and it has no other way to learn better. The price
// is that a certificate which expired, or was revoked, after its key was stolen can still answer; such a thief can watch
// the ticket pass over plain HTTP on the segment just as well, and single use makes either visible.
func JoinConfig(pin string) (*tls.Config, error) {
	if err := checkPin(pin); err != nil {
		return nil, fmt.Errorf("join: %w", err)
	}
	cfg := base([]string{ProtoJoin})
	cfg.InsecureSkipVerify = true // the pin is checked in VerifyConnection
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := wantProtocol(cs, ProtoJoin); err != nil {
			return err
		}
		return verifyPinned(cs.PeerCertificates, pin)
	}
	return cfg, nil
}

func verifyPinned(chain []*x509.Certificate, pin string) error {
	if len(chain) == 0 {
		return ErrNoCertificate
	}
	i := slices.IndexFunc(chain[1:], func(c *x509.Certificate) bool { return pinOf(c) == pin })
	if i < 0 {
		return fmt.Errorf("%w %s", ErrWrongPin, pin)
	}
	ca := chain[1+i]
	name, err := swarmOfCA(ca)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotMember, err)
	}
	peer, err := verify(chain[0], name, chain[0].NotAfter, ca)
	if err != nil {
		return err
	}
	if peer.Role != RoleNode {
		return fmt.Errorf("%w: %q", ErrWrongRole, peer.Role)
	}
	return nil
}

// base is what all our connections have in common. Session tickets are off and no client keeps any: a resumed session
// would outlive the revocation of the certificate that it began with. (VerifyConnection would be asked even then.)
func base(alpn []string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: slices.Clone(alpn), SessionTicketsDisabled: true}
}

// wantProtocol closes a gap in crypto/tls: a peer that sends no ALPN at all is let through by it.
func wantProtocol(cs tls.ConnectionState, proto string) error {
	if cs.NegotiatedProtocol != proto {
		return fmt.Errorf("protocol %q is not served here: want %q", cs.NegotiatedProtocol, proto)
	}
	return nil
}

func (id *Identity) verifyPeer(l *link, cs tls.ConnectionState, roles []Role, expect swarm.NodeID) error {
	own := id.current.Load()
	if own == nil {
		return ErrNotEnrolled
	}
	if len(cs.PeerCertificates) == 0 {
		return ErrNoCertificate
	}
	peer, err := verify(cs.PeerCertificates[0], own.peer.Swarm, id.now(), own.trust...)
	switch {
	case err != nil:
		return err
	case !slices.Contains(roles, peer.Role):
		return fmt.Errorf("%w: %s has called, or answered, where a certificate for %q is wanted", ErrWrongRole, peer, roles)
	case expect != "" && peer.Node != expect:
		return fmt.Errorf("%w: called %s, answered by %s", ErrWrongNode, expect, peer.Node)
	}
	l.proven(peer) // in this order, for the reason given there
	if now := id.current.Load(); !now.trusts(peer.CA) {
		return fmt.Errorf("%w: %s is trusted no more", ErrNotMember, peer.CA)
	}
	if err := id.refused(peer.Serial, peer); err != nil {
		return fmt.Errorf("%w: serial %s of %s: %w", ErrRevoked, peer.Serial, peer, err)
	}
	return nil
}

func (id *Identity) ownCert(withCA bool) (*tls.Certificate, error) {
	own := id.current.Load()
	if own == nil {
		return nil, ErrNotEnrolled
	}
	if !withCA {
		return &own.tls, nil
	}
	full := own.tls
	full.Certificate = [][]byte{bytes.Clone(own.leaf.Raw), bytes.Clone(own.ca.Raw)}
	return &full, nil
}
