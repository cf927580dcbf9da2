package main

import (
	"cmp"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"time"

	"offshoot/e2e/lab"
	"offshoot/swarm/share"
)

// sharer is one of our nodes on a machine of the lab. All of them live in this process, each with its sockets in its own
// namespace.
type sharer struct {
	*share.Torrent
	web *http.Server
}

func (b *shares) pieces(ctx context.Context, dir string) (time.Duration, error) {
	return b.exchange(ctx, dir, nil, true)
}

func (b *shares) piecesOverTLS(ctx context.Context, dir string) (time.Duration, error) {
	return b.exchange(ctx, dir, b.certs, true)
}

func (b *shares) overHTTP(ctx context.Context, dir string) (time.Duration, error) {
	return b.exchange(ctx, dir, nil, false)
}

// exchange starts a node on each machine and lets all but the first fetch at once.
func (b *shares) exchange(ctx context.Context, dir string, certs *tls.Config, byPieces bool) (took time.Duration, err error) {
	seed, err := b.seedStore(ctx, filepath.Join(filepath.Base(dir), "s0"))
	if err != nil {
		return 0, err
	}
	stores := []*share.Store{seed}
	for i := 1; i < len(b.hosts); i++ {
		s, err := share.OpenStore(filepath.Join(dir, fmt.Sprintf("s%d", i)))
		if err != nil {
			return 0, err
		}
		stores = append(stores, s)
	}
	var all []*sharer
	defer func() {
		for _, s := range all {
			err = errors.Join(err, s.Close(), s.web.Close())
		}
	}()
	for i, store := range stores {
		s, err := b.node(i, store, certs, byPieces)
		if err != nil {
			return 0, err
		}
		all = append(all, s)
	}
	began := time.Now()
	errs := make([]error, len(all))
	var wg sync.WaitGroup
	for i, s := range all[1:] {
		wg.Go(func() { errs[i] = s.Fetch(ctx, b.artifact.Digest, b.artifact.Size, nil) })
	}
	wg.Wait()
	took = time.Since(began)
	for i, s := range all[1:] {
		if got := s.Stats(); byPieces && got.Fetched < b.artifact.Size {
			errs = append(errs, fmt.Errorf("machine %d got %d bytes by pieces, the rest by HTTP", i+1, got.Fetched))
		}
	}
	return took, errors.Join(errs...)
}

const (
	piecePort = 6881
	webPort   = 8080
)

// port is the same on each machine; on the loopback, where the machines are one, each has its own.
func (b *shares) port(base, i int) string {
	if b.rate == 0 {
		base += i
	}
	return fmt.Sprintf("%s:%d", b.address(i), base)
}

// everywhere is where a machine listens.
func (b *shares) everywhere(base, i int) string {
	if b.rate == 0 {
		return b.port(base, i)
	}
	return fmt.Sprintf(":%d", base)
}

// name is the same for all addresses of a machine.
func (b *shares) name(address string) string { return cmp.Or(b.names[address], address) }

// part is a machine's place among those that fetch and that it exchanges with.
func (b *shares) part(own int) (i, n int) {
	for k := 1; k < len(b.hosts); k++ {
		if k != own && b.reach(own, k) == "" {
			continue
		}
		if k < own {
			i++
		}
		n++
	}
	return i, n
}

func (b *shares) node(i int, store *share.Store, certs *tls.Config, byPieces bool) (*sharer, error) {
	h := b.hosts[i]
	ln, err := listenOn(h, b.everywhere(piecePort, i))
	if err != nil {
		return nil, err
	}
	web, err := listenOn(h, b.everywhere(webPort, i))
	if err != nil {
		return nil, err
	}
	if certs != nil {
		ln = &provenListener{Listener: ln, config: certs}
	}
	transport := &http.Transport{DialContext: h.Dial}
	o := share.TorrentOptions{
		HTTP: share.Options{
			Store: store, Client: func(string) *http.Client { return &http.Client{Transport: transport} },
			Peers:  func(share.Digest) []string { return []string{"http://" + b.port(webPort, 0)} },
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		},
		Listener: ln,
		Caller: func(c net.Conn) string {
			return b.name(netip.MustParseAddrPort(c.RemoteAddr().String()).Addr().Unmap().String())
		},
		Dial: func(ctx context.Context, p share.Peer) (net.Conn, error) {
			conn, err := h.Dial(ctx, "tcp4", p.Addr)
			if err != nil || certs == nil {
				return conn, err
			}
			secure := tls.Client(conn, certs)
			return secure, secure.HandshakeContext(ctx)
		},
		Peers: func(share.Digest) (peers []share.Peer) {
			for k := range b.hosts {
				if at := b.reach(i, k); at != "" {
					_, port, _ := net.SplitHostPort(b.port(piecePort, k)) // it has one
					peers = append(peers, share.Peer{ID: b.name(at), Addr: net.JoinHostPort(at, port)})
				}
			}
			return peers
		},
		InfoHash: func(share.Digest) string {
			if !byPieces {
				return ""
			}
			return b.artifact.InfoHash
		},
		Part:     func(share.Digest) (int, int) { return b.part(i) },
		Patience: time.Minute,
	}
	x, err := share.NewTorrent(o)
	if err != nil {
		return nil, err
	}
	s := &sharer{Torrent: x, web: &http.Server{Handler: x.Handler(), ReadHeaderTimeout: time.Minute}}
	go func() { _ = s.web.Serve(web) }() // ends with web.Close
	return s, nil
}

func listenOn(h *lab.Host, addr string) (ln net.Listener, err error) {
	err = h.Do(func() error {
		ln, err = net.Listen("tcp4", addr)
		return err
	})
	return ln, err
}

// provenListener hands a connection on when its other side is proven, as the node's port does.
type provenListener struct {
	net.Listener
	config *tls.Config
}

// Accept implements net.Listener.
func (l *provenListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		secure := tls.Server(conn, l.config)
		_ = conn.SetDeadline(time.Now().Add(5 * time.Second))
		if secure.Handshake() == nil {
			_ = conn.SetDeadline(time.Time{})
			return secure, nil
		}
		_ = conn.Close()
	}
}

// member is mutual TLS 1.3 with one certificate for all, which costs what the swarm's costs.
type member struct{ Key, Cert []byte } // DER

func newMember() (m member, err error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return m, err
	}
	if m.Key, err = x509.MarshalECPrivateKey(key); err != nil {
		return m, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), DNSNames: []string{"member"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true,
	}
	m.Cert, err = x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	return m, err
}

func (m member) config() (*tls.Config, error) {
	key, err := x509.ParseECPrivateKey(m.Key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(m.Cert)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{m.Cert}, PrivateKey: key}}, MinVersion: tls.VersionTLS13,
		RootCAs: pool, ClientCAs: pool, ClientAuth: tls.RequireAndVerifyClientCert, ServerName: "member",
	}, nil
}
