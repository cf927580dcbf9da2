package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// handshakeTime is what a client gets from its first byte to a verified connection: TLS 1.3 needs one round trip, so
	// this is generous for a far segment and short for someone who only wants to hold a slot.
	handshakeTime = 5 * time.Second
	// maxHandshakes bounds the goroutines that strangers can make us hold; the kernel's backlog keeps the rest.
	maxHandshakes = 256
	// maxPerAddress keeps one machine from taking all of them. A node that reconnects everything at once needs a dozen.
	maxPerAddress = 64
	// maxQueued bounds the connections that wait for one protocol's Accept, which only happens when its server hangs.
	maxQueued = 128
	// acceptPause is how long Run rests when the process has run out of file descriptors.
	acceptPause = 50 * time.Millisecond
)

// Mux shares one TCP listener among the protocols of the swarm. Each connection goes through its TLS handshake here, with
// the rules of the one protocol that it offers, so that a stranger never gets as far as the code behind ProtoRaft or
// ProtoPeer. It is safe for concurrent use.
//
// The connections that its listeners return are not *tls.Conn but have its ConnectionState method: net/http then fills
// in Request.TLS, but does not look for a handler of our ALPN names, find none and hang up.
type Mux struct {
	ln     net.Listener
	config *tls.Config
	log    *slog.Logger
	queues map[string]*queue
	// limits are fields so that tests can narrow them.
	handshakeTime time.Duration
	slots         chan struct{}
	perAddress    int

	mu      sync.Mutex
	callers map[netip.Addr]int // handshakes in flight
}

// NewMux takes ownership of ln; Run closes it.
func NewMux(ln net.Listener, id *Identity, log *slog.Logger) *Mux {
	m := &Mux{
		ln: ln, log: log, handshakeTime: handshakeTime, slots: make(chan struct{}, maxHandshakes), perAddress: maxPerAddress,
		callers: make(map[netip.Addr]int),
		queues:  make(map[string]*queue),
	}
	configs := map[string]*tls.Config{
		ProtoRaft: id.ServerConfig(ProtoRaft),
		ProtoPeer: id.ServerConfig(ProtoPeer),
		ProtoJoin: id.JoinServerConfig(),
	}
	for proto := range configs {
		m.queues[proto] = &queue{addr: ln.Addr(), conns: make(chan net.Conn, maxQueued), closed: make(chan struct{})}
	}
	m.config = &tls.Config{
		MinVersion: tls.VersionTLS13,
		GetConfigForClient: func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
			if len(hello.SupportedProtos) != 1 {
				return nil, fmt.Errorf("client offers protocols %q: want exactly one", hello.SupportedProtos)
			}
			cfg, ok := configs[hello.SupportedProtos[0]]
			if !ok {
				return nil, fmt.Errorf("client offers protocol %q: not served here", hello.SupportedProtos[0])
			}
			return cfg, nil
		},
	}
	return m
}

// Listener returns the connections of one protocol, ProtoRaft, ProtoPeer or ProtoJoin; another name is a programming
// error and panics. Closing it refuses that protocol and leaves the others. Its Accept returns net.ErrClosed after that,
// and when Run has ended. Connections are the receiver's to close.
func (m *Mux) Listener(proto string) net.Listener {
	q, ok := m.queues[proto]
	if !ok {
		panic("identity: no protocol " + proto)
	}
	return q
}

// Run accepts until ctx ends, which is no error. When it returns the listener is closed, no handshake is under way, and
// connections that no one had accepted are closed.
func (m *Mux) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	unhook := context.AfterFunc(ctx, func() { _ = m.ln.Close() })
	defer func() {
		cancel()
		unhook()
		_ = m.ln.Close() // closed twice when ctx ended first
		wg.Wait()
		for _, q := range m.queues {
			q.drain()
		}
	}()
	for {
		select {
		case m.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		conn, err := m.ln.Accept()
		if err != nil {
			<-m.slots
			if ctx.Err() != nil {
				return nil
			}
			if errors.Is(err, net.ErrClosed) {
				return fmt.Errorf("accept on %s: %w", m.ln.Addr(), err)
			}
			m.log.Warn("cannot accept peer connections", "addr", m.ln.Addr().String(), "error", err)
			select {
			case <-time.After(acceptPause):
			case <-ctx.Done():
			}
			continue
		}
		from := remoteAddr(conn)
		if !m.admit(from) {
			<-m.slots
			_ = conn.Close()
			m.log.Debug("peer connection refused", "from", from.String(), "reason", "too many handshakes from this address")
			continue
		}
		wg.Go(func() {
			defer func() { <-m.slots }()
			defer m.leave(from)
			m.serve(ctx, conn)
		})
	}
}

// serve ends with the connection closed or handed over.
func (m *Mux) serve(ctx context.Context, raw net.Conn) {
	conn := tls.Server(raw, m.config)
	ctx, cancel := context.WithTimeout(ctx, m.handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close()
		level := slog.LevelDebug // strangers must not fill the log
		if errors.Is(err, ErrExpired) || errors.Is(err, ErrRevoked) {
			level = slog.LevelWarn // proven to be, or to have been, one of us
		}
		m.log.Log(ctx, level, "peer connection refused", "from", raw.RemoteAddr().String(), "reason", err)
		return
	}
	proto := conn.ConnectionState().NegotiatedProtocol
	if !m.queues[proto].put(muxConn{conn}) {
		_ = raw.Close()
		m.log.Warn("peer connection dropped: no one accepts it", "from", raw.RemoteAddr().String(), "protocol", proto)
	}
}

func (m *Mux) admit(from netip.Addr) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.callers[from] >= m.perAddress {
		return false
	}
	m.callers[from]++
	return true
}

func (m *Mux) leave(from netip.Addr) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.callers[from]--; m.callers[from] <= 0 {
		delete(m.callers, from)
	}
}

func remoteAddr(c net.Conn) netip.Addr {
	ap, err := netip.ParseAddrPort(c.RemoteAddr().String())
	if err != nil {
		return netip.Addr{} // not TCP: all callers count as one
	}
	return ap.Addr().Unmap().WithZone("")
}

// muxConn hides the type *tls.Conn; see Mux.
type muxConn struct{ *tls.Conn }

// queue is one protocol's listener.
type queue struct {
	addr  net.Addr
	conns chan net.Conn

	mu     sync.Mutex // put and close exclude each other, so that nothing is queued after the last look
	closed chan struct{}
	done   bool
}

var _ net.Listener = (*queue)(nil)

func (q *queue) put(c net.Conn) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.done {
		return false
	}
	select {
	case q.conns <- c:
		return true
	default:
		return false
	}
}

func (q *queue) Accept() (net.Conn, error) {
	select {
	case <-q.closed:
		return nil, net.ErrClosed
	default:
	}
	select {
	case c := <-q.conns:
		return c, nil
	case <-q.closed:
		return nil, net.ErrClosed
	}
}

func (q *queue) Close() error {
	q.drain()
	return nil
}

func (q *queue) drain() {
	q.mu.Lock()
	defer q.mu.Unlock()
	if !q.done {
		q.done = true
		close(q.closed)
	}
	for {
		select {
		case c := <-q.conns:
			_ = c.Close()
		default:
			return
		}
	}
}

func (q *queue) Addr() net.Addr { return q.addr }
