package swarmtest

import (
	"context"
	"fmt"
	"net"
	"syscall"
	"time"
)

// listener is guarded by Network.mu.
type listener struct {
	life    *life
	port    uint16
	waiting []*conn
	closed  bool
	changed chan struct{}
}

var _ net.Listener = (*listener)(nil)

// Listen accepts streams at a port of the host, from now until the end of this life.
func (h *Host) Listen(port uint16) (net.Listener, error) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.listen(port)
}

// listen is called with mu held.
func (h *Host) listen(port uint16) (*listener, error) {
	l, err := h.alive()
	if err != nil {
		return nil, err
	}
	if _, taken := l.listeners[port]; taken {
		return nil, fmt.Errorf("listen on %s: %w", h.Address(port), syscall.EADDRINUSE)
	}
	s := &listener{life: l, port: port, changed: make(chan struct{})}
	l.listeners[port] = s
	return s, nil
}

func (s *listener) Addr() net.Addr { return address(s.life.host.Address(s.port)) }

func (s *listener) Accept() (net.Conn, error) {
	n := s.life.host.net
	for {
		n.mu.Lock()
		changed, fault := s.changed, n.changed
		if s.closed {
			n.mu.Unlock()
			return nil, net.ErrClosed
		}
		if err := s.life.check(); err != nil {
			closed := n.closed
			n.mu.Unlock()
			if !closed { // accept loops would try again for ever: their owner, who has to end now, closes the listener
				<-changed
				continue
			}
			return nil, err
		}
		if len(s.waiting) > 0 && !s.life.host.paused {
			c := s.waiting[0]
			s.waiting = s.waiting[1:]
			n.mu.Unlock()
			return c, nil
		}
		n.mu.Unlock()
		select {
		case <-changed:
		case <-fault:
		}
	}
}

func (s *listener) Close() error {
	n := s.life.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if s.closed {
		return net.ErrClosed
	}
	s.closed = true
	delete(s.life.listeners, s.port)
	for _, c := range s.waiting {
		delete(c.life.conns, c)
		c.closed = true
		c.peer.in.put(item{end: syscall.ECONNRESET})
	}
	s.waiting = nil
	close(s.changed)
	s.changed = make(chan struct{})
	return nil
}

// Dial opens a stream to host:port, where host is a name or an IP address. A port on which nobody listens refuses; a host
// that is off is unreachable after 3 s; what is cut off is tried until ctx ends, 30 s at most. A paused host's kernel
// accepts, as it does on SIGSTOP.
func (h *Host) Dial(ctx context.Context, address string) (net.Conn, error) {
	n := h.net
	n.mu.Lock()
	l, err := h.alive()
	n.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	ctx, cancel := context.WithTimeout(ctx, synTime)
	defer cancel()
	c, err := l.dial(ctx, address)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", address, err)
	}
	return c, nil
}

func (l *life) dial(ctx context.Context, to string) (*conn, error) {
	n := l.host.net
	n.mu.Lock()
	there, port, err := n.find(to)
	if err != nil {
		n.mu.Unlock()
		return nil, err
	}
	trip := n.travel(l.host, there) + n.travel(there, l.host)
	n.mu.Unlock()
	for {
		if err := pass(ctx, l.over, trip); err != nil {
			return nil, err
		}
		if err := l.awake(ctx); err != nil {
			return nil, err
		}
		n.mu.Lock()
		changed := n.changed
		c, off, err := l.connect(there, port)
		n.mu.Unlock()
		if err != nil || c != nil {
			return c, err
		}
		if !off {
			if err := wait(ctx, changed, 0); err != nil {
				return nil, err
			}
			continue
		}
		timer, stop := context.WithTimeout(ctx, unreachable)
		err = wait(timer, changed, 0)
		stop()
		if err != nil && ctx.Err() == nil {
			return nil, syscall.EHOSTUNREACH
		}
		if err != nil {
			return nil, err
		}
	}
}

// connect makes a stream now; nil if the way is cut, or the host is off. Called with mu held.
func (l *life) connect(there *Host, port uint16) (c *conn, off bool, err error) {
	n := l.host.net
	switch {
	case l.check() != nil:
		return nil, false, l.check()
	case n.blocked(l.host, there) || n.blocked(there, l.host):
		return nil, false, nil
	case there.life == nil:
		return nil, true, nil
	}
	s := there.life.listeners[port]
	if s == nil || len(s.waiting) >= backlog {
		return nil, false, syscall.ECONNREFUSED
	}
	now := time.Now()
	from := address(l.host.Address(uint16(32768 + n.rng.IntN(28000))))
	a := &conn{life: l, local: from, remote: address(there.Address(port))}
	b := &conn{life: there.life, local: a.remote, remote: from, peer: a}
	a.peer = b
	a.in = &pipe{from: there, to: l.host, last: now, changed: make(chan struct{})}
	b.in = &pipe{from: l.host, to: there, last: now, changed: make(chan struct{})}
	l.conns[a], there.life.conns[b] = struct{}{}, struct{}{}
	s.waiting = append(s.waiting, b)
	close(s.changed)
	s.changed = make(chan struct{})
	return a, false, nil
}
