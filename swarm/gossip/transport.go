package gossip

import (
	"context"
	"log"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport is memberlist's own UDP and TCP transport whose connections can be cut, so that Run need not wait for an
// exchange with a host that does not answer.
type transport struct {
	*memberlist.NetTransport
	ctx    context.Context //nolint:containedctx // the transport's own life: memberlist's dial is given none; cut ends it
	cancel context.CancelFunc

	mu    sync.Mutex
	conns map[*conn]struct{}
}

var _ memberlist.NodeAwareTransport = (*transport)(nil)

func newTransport(bind netip.AddrPort, logger *log.Logger) (*transport, error) {
	n, err := memberlist.NewNetTransport(&memberlist.NetTransportConfig{
		BindAddrs: []string{bind.Addr().String()},
		BindPort:  int(bind.Port()),
		Logger:    logger,
	})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &transport{NetTransport: n, ctx: ctx, cancel: cancel, conns: map[*conn]struct{}{}}, nil
}

// DialAddressTimeout is called by memberlist for every stream that it opens.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	c, err := dialer.DialContext(t.ctx, "tcp", a.Addr)
	if err != nil {
		return nil, err
	}
	tracked := &conn{Conn: c, t: t}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[tracked] = struct{}{}
	if t.ctx.Err() != nil {
		_ = c.Close() // cut while we dialled: the caller sees a closed connection
	}
	return tracked, nil
}

// DialTimeout is the older form of DialAddressTimeout.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) cut() {
	t.cancel()
	t.mu.Lock()
	defer t.mu.Unlock()
	for c := range t.conns {
		_ = c.Conn.Close() // broken on purpose
	}
}

type conn struct {
	net.Conn
	t *transport
}

func (c *conn) Close() error {
	c.t.mu.Lock()
	delete(c.t.conns, c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}
