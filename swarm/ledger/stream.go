package ledger

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// stream is raft's StreamLayer over the caller's listener and dialer. It knows every connection, because raft does not
// close those that it pooled or serves when it stops: their goroutines would stay for ever.
type stream struct {
	address  advertised
	listener net.Listener
	dial     func(ctx context.Context, address string) (net.Conn, error) // as who should be there
	ctx      context.Context                                             //nolint:containedctx // the stream's own life: raft's Dial is given none; cut ends it
	cancel   context.CancelFunc

	mu    sync.Mutex
	cutOf bool
	conns map[*trackedConn]struct{}
	idle  signal // announced when a connection goes
}

var _ raft.StreamLayer = (*stream)(nil)

// advertised is the address at which others reach us. raft takes its own address from the stream layer's Addr and
// tells it to everyone, so it must not be the wildcard address that the listener may be bound to.
type advertised string

func (a advertised) Network() string { return "tcp" }
func (a advertised) String() string  { return string(a) }

func newStream(address string, l net.Listener, dial func(context.Context, string) (net.Conn, error)) *stream {
	ctx, cancel := context.WithCancel(context.Background())
	return &stream{
		address: advertised(address), listener: l, dial: dial,
		ctx: ctx, cancel: cancel, conns: map[*trackedConn]struct{}{},
	}
}

func (s *stream) Addr() net.Addr { return s.address }

func (s *stream) Accept() (net.Conn, error) {
	conn, err := s.listener.Accept()
	if err != nil {
		return nil, err
	}
	return s.track(conn, true), nil
}

// Dial is called by raft; timeout is the transport's own.
func (s *stream) Dial(address raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(s.ctx, timeout)
	defer cancel()
	conn, err := s.dial(ctx, string(address))
	if err != nil {
		return nil, err
	}
	return s.track(conn, false), nil
}

func (s *stream) track(conn net.Conn, accepted bool) net.Conn {
	t := &trackedConn{Conn: conn, stream: s, accepted: accepted}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns[t] = struct{}{}
	if s.cutOf {
		_ = conn.Close() // the owner sees a closed connection and lets go of it
	}
	return t
}

// cut breaks every connection, and every one that comes later. The listener stays, so that raft's accept loop does not
// fret before raft is told to stop.
func (s *stream) cut() {
	s.cancel()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cutOf = true
	for t := range s.conns {
		_ = t.Conn.Close() // broken on purpose
		if !t.accepted {
			delete(s.conns, t) // it may lie in raft's pool, which nobody empties: do not wait for it
		}
	}
}

// Close is called by raft's transport once raft has stopped.
func (s *stream) Close() error { return s.listener.Close() }

// wait returns when the goroutines that serve accepted connections have let go of them.
func (s *stream) wait() error {
	timer := time.NewTimer(time.Second) // they only have to notice a closed socket
	defer timer.Stop()
	for {
		idle := s.idle.next()
		s.mu.Lock()
		left := len(s.conns)
		s.mu.Unlock()
		if left == 0 {
			return nil
		}
		select {
		case <-idle:
		case <-timer.C:
			return errors.New("raft streams are still in use after they were cut")
		}
	}
}

// trackedConn leaves the stream's set when its owner closes it.
type trackedConn struct {
	net.Conn
	stream   *stream
	accepted bool
	once     sync.Once
}

func (t *trackedConn) Close() error {
	err := t.Conn.Close()
	t.once.Do(func() {
		t.stream.mu.Lock()
		delete(t.stream.conns, t)
		t.stream.mu.Unlock()
		t.stream.idle.announce()
	})
	return err
}
