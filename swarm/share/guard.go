package share

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

// strikes is how many times a peer may send wrong pieces before it is left alone for banTime.
const strikes = 2

// listenPause is how long a listener is left alone that cannot accept for the moment.
const listenPause = 100 * time.Millisecond

// Peer is a node that may have pieces.
type Peer struct {
	ID   string // its name in the swarm; the same that Caller gives for its connections
	Addr string // what Dial is to call
}

// guard stands between the BitTorrent client and the network, and knows peers by their names.
//
// The client knows addresses only: it bans them, for ever, and sees by them whether it is connected already. A node may have
// many addresses and share one with others, so the guard shows the client an address for each name, in an IPv6 network that
// does not exist. A peer that sent wrong pieces gets a new one: the client forgets, the guard does not.
type guard struct {
	dial   func(context.Context, Peer) (net.Conn, error)
	caller func(net.Conn) string
	log    *slog.Logger
	done   chan struct{} // closed when the client is

	mu     sync.Mutex
	byID   map[string]*suspect
	byAddr map[netip.Addr]*suspect
}

// suspect is what the guard knows of one peer.
type suspect struct {
	Peer
	addr    netip.Addr // shown to the client
	strikes int
	until   time.Time // end of its ban
	failed  time.Time // of the last call that did not reach it
}

func newGuard(dial func(context.Context, Peer) (net.Conn, error), caller func(net.Conn) string, log *slog.Logger) *guard {
	return &guard{
		dial: dial, caller: caller, log: log, done: make(chan struct{}),
		byID: map[string]*suspect{}, byAddr: map[netip.Addr]*suspect{},
	}
}

// know finds or makes the peer's entry. The lock is held.
func (g *guard) know(id string) *suspect {
	s := g.byID[id]
	if s == nil {
		s = &suspect{Peer: Peer{ID: id}}
		g.byID[id] = s
		g.rename(s)
	}
	return s
}

// rename gives the peer an address that the client has not seen. The lock is held.
func (g *guard) rename(s *suspect) {
	delete(g.byAddr, s.addr)
	seed := sha256.Sum256(binary.BigEndian.AppendUint64([]byte(s.ID+"\x00"), uint64(s.strikes)<<48|uint64(s.until.Unix()&(1<<48-1))))
	var a [16]byte
	copy(a[:], "\xfd\x6f") // fd00::/8, RFC 4193
	copy(a[2:], seed[:])
	s.addr = netip.AddrFrom16(a)
	g.byAddr[s.addr] = s
}

func (s *suspect) shown() netip.AddrPort { return netip.AddrPortFrom(s.addr, 1) } // the client refuses port 0

// introduce returns the addresses under which the client may call these peers.
func (g *guard) introduce(peers []Peer) []netip.AddrPort {
	g.mu.Lock()
	defer g.mu.Unlock()
	var out []netip.AddrPort
	for _, p := range peers {
		s := g.know(p.ID)
		s.Addr = p.Addr
		if time.Now().After(s.until) {
			out = append(out, s.shown())
		}
	}
	return out
}

// name is who the client knows by this address, "" for nobody.
func (g *guard) name(at fmt.Stringer) string {
	ap, err := netip.ParseAddrPort(at.String())
	if err != nil {
		return ""
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if s := g.byAddr[ap.Addr()]; s != nil {
		return s.ID
	}
	return ""
}

// reachable says whether any of these peers has not failed to answer since then.
func (g *guard) reachable(peers []Peer, since time.Time) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, p := range peers {
		if s := g.know(p.ID); s.failed.Before(since) && time.Now().After(s.until) {
			return true
		}
	}
	return false
}

var errBanned = errors.New("it sent wrong pieces and is left alone")

// Dial implements torrent.Dialer.
func (g *guard) Dial(ctx context.Context, addr string) (net.Conn, error) {
	at, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	g.mu.Lock()
	s := g.byAddr[at.Addr()]
	if s == nil || time.Now().Before(s.until) {
		g.mu.Unlock()
		return nil, fmt.Errorf("call %s: %w", addr, errBanned)
	}
	peer := s.Peer
	g.mu.Unlock()
	conn, err := g.dial(ctx, peer)
	g.mu.Lock()
	defer g.mu.Unlock()
	if err != nil {
		s.failed = time.Now()
		return nil, err
	}
	return named{conn, s.shown()}, nil
}

// DialerNetwork implements torrent.Dialer.
func (g *guard) DialerNetwork() string { return "tcp" }

// named is a connection that shows the client its peer's name.
type named struct {
	net.Conn
	peer netip.AddrPort
}

// RemoteAddr implements net.Conn.
func (n named) RemoteAddr() net.Addr { return net.TCPAddrFromAddrPort(n.peer) }

// gate is the listener as the client sees it.
type gate struct {
	net.Listener
	guard *guard
}

// Accept implements net.Listener. It does not return errors before the client has ended: the client would ask again at once.
func (l gate) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			wait := time.NewTimer(listenPause)
			if errors.Is(err, net.ErrClosed) {
				wait.Stop()
			}
			select {
			case <-l.guard.done:
				wait.Stop()
				return nil, err
			case <-wait.C:
			}
			continue
		}
		if peer, ok := l.guard.admit(l.guard.caller(conn)); ok {
			return named{conn, peer}, nil
		}
		_ = conn.Close()
	}
}

func (g *guard) admit(id string) (netip.AddrPort, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s := g.know(id)
	return s.shown(), time.Now().After(s.until)
}

// strike counts against the peers whose addresses the client has banned, and shows them to it under new ones.
func (g *guard) strike(banned []string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, ip := range banned {
		at, err := netip.ParseAddr(ip)
		if err != nil {
			continue
		}
		s := g.byAddr[at]
		if s == nil {
			continue // of an earlier name, and counted
		}
		s.strikes++
		if s.strikes < strikes {
			g.log.Warn("peer sent a wrong piece: connection dropped", "peer", s.ID)
		} else {
			s.strikes, s.until = 0, time.Now().Add(banTime)
			g.log.Warn("peer sent wrong pieces again: left alone for an hour", "peer", s.ID)
		}
		g.rename(s)
	}
}
