package gossip

import (
	"context"
	"errors"
	"log"
	"net"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// transport stands between memberlist and the network: it can cut the streams, so that Run need not wait for an exchange
// with a host that does not answer, and it bounds what strangers can open, since memberlist reads up to 20 MiB from
// anyone, as often as they like, before it looks for a key.
type transport struct {
	memberlist.NodeAwareTransport
	hangUp  func() // ends dials under way
	member  func(netip.Addr) bool
	streams chan net.Conn
	packets chan *memberlist.Packet
	closing chan struct{} // nobody takes streams any more
	filter  sync.WaitGroup
	done    chan struct{} // nothing below offers them any more
	once    sync.Once

	mu        sync.Mutex
	isCut     bool
	conns     map[*conn]struct{}
	strangers []*conn // accepted from nobody we know, the oldest first
}

const (
	// maxStrangers bounds the streams that strangers, joiners among them, have open. When it is reached the oldest is
	// hung up on: an honest join takes milliseconds.
	maxStrangers, maxPerStranger = 32, 4
	// strangerBytes is what a stranger may send in one stream; a joiner has little to tell. Members, and those who were
	// members in this run, are bounded by memberlist only.
	strangerBytes = 1 << 20
)

var _ memberlist.NodeAwareTransport = (*transport)(nil)

// newTransport takes ownership of below. member says whether a node of the swarm is known at an address.
func newTransport(below memberlist.NodeAwareTransport, hangUp func(), member func(netip.Addr) bool) *transport {
	t := &transport{
		NodeAwareTransport: below, hangUp: hangUp, member: member, conns: map[*conn]struct{}{},
		streams: make(chan net.Conn), packets: make(chan *memberlist.Packet), closing: make(chan struct{}), done: make(chan struct{}),
	}
	t.filter.Go(t.accept)
	t.filter.Go(t.sift)
	return t
}

// StreamCh replaces the one below.
func (t *transport) StreamCh() <-chan net.Conn { return t.streams }

func (t *transport) accept() {
	for {
		select {
		case c := <-t.NodeAwareTransport.StreamCh():
			s, ok := t.admit(c)
			if !ok {
				_ = c.Close()
				continue
			}
			select {
			case t.streams <- s:
			case <-t.closing: // and on, since what is below may wait to be rid of the next one
				_ = s.Close()
			}
		case <-t.done:
			return
		}
	}
}

// admit decides about a stream that somebody opened.
func (t *transport) admit(c net.Conn) (*conn, bool) {
	from := hostOf(c.RemoteAddr())
	tracked := &conn{Conn: c, t: t, from: from, left: -1}
	known := t.member(from)
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.isCut {
		return nil, false
	}
	if !known {
		tracked.left = strangerBytes
		same := 0
		for _, s := range t.strangers {
			if s.from == from {
				same++
			}
		}
		if same >= maxPerStranger {
			return nil, false
		}
		if len(t.strangers) >= maxStrangers {
			oldest := t.strangers[0]
			t.forgetLocked(oldest)
			_ = oldest.Conn.Close() // its reader finds out
		}
		t.strangers = append(t.strangers, tracked)
	}
	t.conns[tracked] = struct{}{}
	return tracked, true
}

func (t *transport) forgetLocked(c *conn) {
	delete(t.conns, c)
	for i, s := range t.strangers {
		if s == c {
			t.strangers = append(t.strangers[:i], t.strangers[i+1:]...)
			return
		}
	}
}

// DialAddressTimeout is called by memberlist for every stream that it opens.
func (t *transport) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	c, err := t.NodeAwareTransport.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	tracked := &conn{Conn: c, t: t, left: -1}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[tracked] = struct{}{}
	if t.isCut {
		_ = c.Close() // cut while we dialled: the caller sees a closed connection
	}
	return tracked, nil
}

// DialTimeout is the older form of DialAddressTimeout.
func (t *transport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	return t.DialAddressTimeout(memberlist.Address{Addr: addr}, timeout)
}

func (t *transport) cut() {
	t.hangUp()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.isCut = true
	for c := range t.conns {
		_ = c.Conn.Close() // broken on purpose
	}
}

// Shutdown is called by memberlist, and by Run if it could not start.
func (t *transport) Shutdown() error {
	var err error
	t.once.Do(func() {
		close(t.closing)
		err = t.NodeAwareTransport.Shutdown()
		close(t.done)
	})
	t.filter.Wait()
	return err
}

// conn is a stream that can be cut. left is how many bytes may still be read, below zero for any number; memberlist reads
// a stream from one goroutine.
type conn struct {
	net.Conn
	t    *transport
	from netip.Addr
	left int
	seal sealCheck
}

var errTooLong = errors.New("a stranger's stream is too long")

func (c *conn) Read(b []byte) (int, error) {
	if c.left == 0 {
		return 0, errTooLong
	}
	if c.left > 0 {
		b = b[:min(len(b), c.left)]
	}
	n, err := c.Conn.Read(b)
	if c.left > 0 {
		c.left -= n
	}
	if bad := c.seal.pass(b[:n]); bad != nil {
		return 0, bad
	}
	return n, err
}

func (c *conn) Close() error {
	c.t.mu.Lock()
	c.t.forgetLocked(c)
	c.t.mu.Unlock()
	return c.Conn.Close()
}

// hostOf is the zero address for a transport that has others than IP addresses: all its strangers count as one.
func hostOf(a net.Addr) netip.Addr {
	if a == nil {
		return netip.Addr{}
	}
	ap, err := netip.ParseAddrPort(a.String())
	if err != nil {
		return netip.Addr{}
	}
	return ap.Addr().Unmap().WithZone("")
}

// sockets is memberlist's own UDP and TCP transport, whose dials can be ended.
type sockets struct {
	*memberlist.NetTransport
	ctx context.Context //nolint:containedctx // the transport's own life: memberlist's dial is given none; cut ends it
}

// anyPort is how often a port is drawn if any will do: what the kernel finds free for TCP may be another's for UDP.
const anyPort = 10

func newSockets(bind netip.AddrPort, logger *log.Logger) (s *sockets, hangUp func(), err error) {
	var n *memberlist.NetTransport
	for try := 1; ; try++ {
		n, err = memberlist.NewNetTransport(&memberlist.NetTransportConfig{
			BindAddrs: []string{bind.Addr().String()},
			BindPort:  int(bind.Port()),
			Logger:    logger,
		})
		if err == nil {
			break
		}
		// memberlist hides the cause, and looks for these words itself.
		if bind.Port() != 0 || try == anyPort || !strings.Contains(err.Error(), "address already in use") {
			return nil, nil, err
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	return &sockets{NetTransport: n, ctx: ctx}, cancel, nil
}

func (s *sockets) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	dialer := net.Dialer{Timeout: timeout}
	return dialer.DialContext(s.ctx, "tcp", a.Addr)
}
