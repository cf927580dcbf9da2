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
	// ProtoJoin is where tickets are redeemed; only the server shows a certificate.
	ProtoJoin = "offshoot-join"
)

// ServerConfig accepts members only, for these protocols. The certificate may be renewed while it is in use.
//
// A client whose protocols have nothing in common with alpn, or that names none, is refused. Note TLS 1.3's order: a
// client's handshake ends before the server has looked at its certificate, so a refused client sees the alert on its
// first read.
func (id *Identity) ServerConfig(alpn ...string) *tls.Config {
	cfg := base(alpn)
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.ownCert(false) }
	// The chain is held against the swarm in VerifyConnection, the same way on both sides.
	cfg.ClientAuth = tls.RequireAnyClientCert
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := wantProtocol(cs, alpn); err != nil {
			return err
		}
		return id.verifyPeer(cs, "")
	}
	return cfg
}

// JoinServerConfig serves strangers that hold a ticket: it shows our certificate with the authority's, so that they can
// check the pin, and asks for none.
func (id *Identity) JoinServerConfig() *tls.Config {
	cfg := base([]string{ProtoJoin})
	cfg.GetCertificate = func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return id.ownCert(true) }
	cfg.VerifyConnection = func(cs tls.ConnectionState) error { return wantProtocol(cs, []string{ProtoJoin}) }
	return cfg
}

// ClientConfig calls a member; expect "" takes any node of the swarm, else it has to be this one.
func (id *Identity) ClientConfig(alpn string, expect swarm.NodeID) *tls.Config {
	cfg := base([]string{alpn})
	cfg.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return id.ownCert(false) }
	cfg.InsecureSkipVerify = true // members have no host names; VerifyConnection checks chain, swarm and node
	cfg.VerifyConnection = func(cs tls.ConnectionState) error {
		if err := wantProtocol(cs, []string{alpn}); err != nil {
			return err
		}
		return id.verifyPeer(cs, expect)
	}
	return cfg
}

// Dial calls a member at addr (host:port) and returns after the handshake: nothing was sent to whoever failed it.
func (id *Identity) Dial(ctx context.Context, proto, addr string, expect swarm.NodeID) (net.Conn, error) {
	d := tls.Dialer{Config: id.ClientConfig(proto, expect)}
	return d.DialContext(ctx, "tcp", addr)
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
		if err := wantProtocol(cs, []string{ProtoJoin}); err != nil {
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
	peer, err := verify(chain[0], ca, name, chain[0].NotAfter)
	if err != nil {
		return err
	}
	if peer.Role != RoleNode {
		return fmt.Errorf("%w: %q", ErrWrongRole, peer.Role)
	}
	return nil
}

// base is what all our connections have in common. Session tickets are off: a resumed session would outlive the
// revocation of the certificate that it began with.
func base(alpn []string) *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS13, NextProtos: slices.Clone(alpn), SessionTicketsDisabled: true}
}

// wantProtocol closes a gap in crypto/tls: a peer that sends no ALPN at all is let through by it.
func wantProtocol(cs tls.ConnectionState, alpn []string) error {
	if !slices.Contains(alpn, cs.NegotiatedProtocol) {
		return fmt.Errorf("protocol %q is not served here: want one of %q", cs.NegotiatedProtocol, alpn)
	}
	return nil
}

func (id *Identity) verifyPeer(cs tls.ConnectionState, expect swarm.NodeID) error {
	own := id.current.Load()
	if own == nil {
		return ErrNotEnrolled
	}
	if len(cs.PeerCertificates) == 0 {
		return ErrNoCertificate
	}
	peer, err := verify(cs.PeerCertificates[0], own.ca, own.peer.Swarm, id.now())
	switch {
	case err != nil:
		return err
	case id.revoked(peer.Serial):
		return fmt.Errorf("%w: serial %s of %s", ErrRevoked, peer.Serial, peer.Node)
	case peer.Role != RoleNode:
		return fmt.Errorf("%w: %q", ErrWrongRole, peer.Role)
	case expect != "" && peer.Node != expect:
		return fmt.Errorf("%w: called %s, answered by %s", ErrWrongNode, expect, peer.Node)
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
