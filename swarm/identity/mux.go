package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"
)

const (
	// handshakeTime is what a client gets from its first byte to a verified connection: TLS 1.3 needs one round trip, so
	// this is generous for a far segment and short for someone who only wants to hold a place.
	handshakeTime = 5 * time.Second
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
	id     *Identity
	log    *slog.Logger
	queues map[string]*queue
	door   *door
	// handshakeTime is a field so that tests can shorten it.
	handshakeTime time.Duration
}

// NewMux takes ownership of ln; Run closes it.
func NewMux(ln net.Listener, id *Identity, log *slog.Logger) *Mux {
	m := &Mux{ln: ln, id: id, log: log, door: id.door, handshakeTime: handshakeTime, queues: make(map[string]*queue)}
	for _, proto := range protocolsOf(id.role) {
		m.queues[proto] = &queue{addr: ln.Addr(), conns: make(chan net.Conn, maxQueued), closed: make(chan struct{})}
	}
	return m
}

// config picks the rules by the one protocol that the client offers.
func (m *Mux) config(l *link) *tls.Config {
	outer := base(nil)
	outer.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		if len(hello.SupportedProtos) != 1 {
			return nil, fmt.Errorf("client offers %d protocols: want exactly one", len(hello.SupportedProtos))
		}
		proto := hello.SupportedProtos[0]
		if _, ok := m.queues[proto]; !ok {
			return nil, fmt.Errorf("client offers protocol %q: not served here", proto)
		}
		return m.id.serverConfig(l, proto), nil
	}
	return outer
}

// Listener returns the connections of one protocol, one of those in tls.go; another name, or one that
// the identity's role does not serve, is a programming error and panics. Closing it refuses that protocol and leaves the others. Its Accept returns net.ErrClosed after that,
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
		conn, err := m.ln.Accept()
		if err != nil {
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
		from := sourceOf(conn.RemoteAddr())
		if !m.door.knows(from) && m.id.member(addressOf(conn.RemoteAddr())) {
			m.door.proved(from)
		}
		leave, refusal := m.door.begin(from, func() { _ = conn.Close() })
		if refusal != "" {
			_ = conn.Close()
			m.log.Debug("peer connection refused", "from", from, "reason", refusal)
			continue
		}
		wg.Go(func() {
			defer leave()
			m.serve(ctx, m.id.links.track(conn), from)
		})
	}
}

// serve ends with the connection closed or handed over.
func (m *Mux) serve(ctx context.Context, l *link, from string) {
	conn := tls.Server(l, m.config(l))
	shaking, cancel := context.WithTimeout(ctx, m.handshakeTime)
	defer cancel()
	if err := conn.HandshakeContext(shaking); err != nil {
		_ = l.Close()
		if ctx.Err() == nil {
			m.refused(l, from, err)
		}
		return
	}
	proto := conn.ConnectionState().NegotiatedProtocol
	if proto == ProtoJoin {
		leave, refusal := m.door.join(from, func() { _ = l.Close() })
		if refusal != "" {
			_ = l.Close()
			m.log.Debug("join refused", "from", from, "reason", refusal)
			return
		}
		l.atEnd(leave)
	} else {
		m.door.proved(from)
	}
	if !m.queues[proto].put(muxConn{conn}) {
		_ = l.Close()
		m.log.Warn("peer connection dropped: no one accepts it", "from", l.RemoteAddr().String(), "protocol", proto)
	}
}

func (m *Mux) refused(l *link, from string, err error) {
	revoked := errors.Is(err, ErrRevoked)
	level := slog.LevelDebug // strangers must not fill the log
	if m.door.failed(from, revoked) && (revoked || errors.Is(err, ErrExpired)) {
		level = slog.LevelWarn // it is, or has been, one of us
	}
	m.log.Log(context.Background(), level, "peer connection refused", "from", l.RemoteAddr().String(), "reason", err)
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
