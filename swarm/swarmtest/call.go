package swarmtest

import (
	"context"
	"fmt"
	"net/netip"
	"syscall"
	"time"
)

// Handler answers the calls of other hosts. It runs on the caller's goroutine and must return when ctx ends; request and
// answer are passed as they are, so neither side may change them afterwards.
type Handler func(ctx context.Context, from netip.Addr, request any) (any, error)

// Handle answers calls at a port of the host for the rest of this life: an API between nodes without the price of HTTP and
// TLS. nil ends it.
func (h *Host) Handle(port uint16, f Handler) error {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	l, err := h.alive()
	if err != nil {
		return err
	}
	if f == nil {
		delete(l.handlers, port)
	} else {
		l.handlers[port] = f
	}
	return nil
}

// Call asks the handler at host:port and returns what it answers. Request and answer travel as everything else does: they
// wait while the way is cut or a host is paused, until ctx ends. An error that is not the handler's may mean "done,
// but nobody knows": of a host that crashed meanwhile, or of an answer that did not come in time.
func (h *Host) Call(ctx context.Context, address string, request any) (any, error) {
	n := h.net
	n.mu.Lock()
	l, err := h.alive()
	var there *Host
	var port uint16
	if err == nil {
		there, port, err = n.find(address)
	}
	n.mu.Unlock()
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", address, err)
	}
	far, f, err := l.send(ctx, there, port)
	if err != nil {
		return nil, fmt.Errorf("call %s: %w", address, err)
	}
	answer, failed := f(ctx, h.addr, request)
	if err := far.reply(ctx, l); err != nil {
		return nil, fmt.Errorf("call %s: %w", address, err)
	}
	return answer, failed
}

// send takes a request to the far host; it returns the far life that answers, and how.
func (l *life) send(ctx context.Context, there *Host, port uint16) (*life, Handler, error) {
	since := time.Now()
	for first := true; ; first = false {
		n := l.host.net
		n.mu.Lock()
		changed, far := n.changed, there.life
		trip := n.travel(l.host, there)
		cut := n.blocked(l.host, there)
		var f Handler
		if far != nil {
			f = far.handlers[port]
		}
		err := l.check()
		paused := l.host.paused || there.paused
		n.mu.Unlock()
		switch {
		case err != nil:
			return nil, nil, err
		case first:
			if err := pass(ctx, l.over, trip); err != nil {
				return nil, nil, err
			}
		case !cut && !paused && far != nil && f == nil:
			return nil, nil, syscall.ECONNREFUSED
		case !cut && !paused && far != nil:
			return far, f, nil
		case !cut && far == nil && time.Since(since) >= unreachable:
			return nil, nil, syscall.EHOSTUNREACH
		default:
			again := time.Duration(0)
			if far == nil {
				again = unreachable
			}
			if err := wait(ctx, changed, again); err != nil {
				return nil, nil, err
			}
		}
	}
}

// reply takes an answer from this life back to the caller's.
func (l *life) reply(ctx context.Context, caller *life) error {
	n := l.host.net
	n.mu.Lock()
	trip := n.travel(l.host, caller.host)
	n.mu.Unlock()
	left := false
	for {
		n.mu.Lock()
		changed := n.changed
		over, err := l.check(), caller.check()
		cut := n.blocked(l.host, caller.host)
		here, there := l.host.paused, caller.host.paused
		n.mu.Unlock()
		switch {
		case err != nil:
			return err
		case over != nil && !left:
			return over
		case !left && here, cut, left && there:
			if err := wait(ctx, changed, 0); err != nil {
				return err
			}
		case !left:
			left = true
			if err := pass(ctx, caller.over, trip); err != nil {
				return err
			}
		default:
			return nil
		}
	}
}
