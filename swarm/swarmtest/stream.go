package swarmtest

import (
	"errors"
	"io"
	"net"
	"os"
	"time"
)

const (
	// window is what a stream takes in before its writer waits, in bytes: a socket buffer.
	window = 256 << 10
	// backlog bounds the connections that nobody has accepted yet.
	backlog = 128
	// unreachable is how long a dial to a host that is off takes: three ARP requests.
	unreachable = 3 * time.Second
	// synTime is how long a dial through a cut network goes on.
	synTime = 30 * time.Second
)

// pipe is one direction of a stream, guarded by Network.mu.
type pipe struct {
	from, to *Host
	items    []item
	unread   int // bytes in items
	last     time.Time
	changed  chan struct{} // closed at the next change
}

// item is a piece of a stream on its way.
type item struct {
	due  time.Time
	data []byte
	end  error // io.EOF, or a reset
	held bool  // its sender is paused
}

func (p *pipe) announce() {
	close(p.changed)
	p.changed = make(chan struct{})
}

// put adds an item behind all others. Called with mu held.
func (p *pipe) put(i item) {
	i.held = p.from.paused
	p.schedule(&i)
	p.items = append(p.items, i)
	p.unread += len(i.data)
	p.announce()
}

func (p *pipe) schedule(i *item) {
	i.due = time.Now().Add(p.from.net.travel(p.from, p.to))
	if i.due.Before(p.last) {
		i.due = p.last
	}
	p.last = i.due
}

// conn is one end of a stream.
type conn struct {
	life          *life
	peer          *conn
	in            *pipe // what this end reads
	local, remote address
	closed        bool
	broken        error // what reads and writes return since the other end was reset
	gone          bool  // the host of this end crashed without a word
	readBy        time.Time
	writeBy       time.Time
}

var _ net.Conn = (*conn)(nil)

// address is a net.Addr.
type address string

func (a address) Network() string { return "tcp" }
func (a address) String() string  { return string(a) }

func (c *conn) net() *Network        { return c.life.host.net }
func (c *conn) LocalAddr() net.Addr  { return c.local }
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// check is called with mu held.
func (c *conn) check() error {
	if c.closed {
		return net.ErrClosed
	}
	if err := c.life.check(); err != nil {
		return err
	}
	return c.broken
}

// patience says for what a read or a write has to wait.
type patience struct {
	until          time.Time // zero: for no time
	changed, fault <-chan struct{}
}

func (p patience) wait() {
	if p.until.IsZero() {
		select {
		case <-p.changed:
		case <-p.fault:
		}
		return
	}
	timer := time.NewTimer(time.Until(p.until))
	defer timer.Stop()
	select {
	case <-p.changed:
	case <-p.fault:
	case <-timer.C:
	}
}

func (c *conn) Read(b []byte) (int, error) {
	for {
		k, p, err := c.tryRead(b)
		if k > 0 || err != nil || len(b) == 0 {
			return k, err
		}
		p.wait()
	}
}

// tryRead reads what is there.
func (c *conn) tryRead(b []byte) (k int, p patience, err error) {
	n := c.net()
	n.mu.Lock()
	defer n.mu.Unlock()
	p.changed, p.fault = c.in.changed, n.changed
	if err := c.check(); err != nil {
		return 0, p, err
	}
	if c.life.host.paused {
		return 0, p, nil
	}
	if len(c.in.items) > 0 && !c.in.items[0].held && !n.blocked(c.in.from, c.in.to) {
		head := &c.in.items[0]
		switch {
		case head.due.After(time.Now()):
			p.until = head.due
		case head.end == nil:
			return c.take(b), p, nil
		default:
			if !errors.Is(head.end, io.EOF) {
				c.broken = head.end
			}
			return 0, p, head.end
		}
	}
	if !c.readBy.IsZero() {
		if !c.readBy.After(time.Now()) {
			return 0, p, os.ErrDeadlineExceeded
		}
		if p.until.IsZero() || c.readBy.Before(p.until) {
			p.until = c.readBy
		}
	}
	return 0, p, nil
}

// take moves what has arrived into b. Called with mu held.
func (c *conn) take(b []byte) int {
	k := 0
	now := time.Now()
	for k < len(b) && len(c.in.items) > 0 {
		head := &c.in.items[0]
		if head.held || head.end != nil || head.due.After(now) {
			break
		}
		m := copy(b[k:], head.data)
		head.data = head.data[m:]
		k += m
		if len(head.data) == 0 {
			c.in.items[0] = item{}
			c.in.items = c.in.items[1:]
		}
	}
	if c.in.unread >= window {
		c.in.announce() // its writer waits for room
	}
	c.in.unread -= k
	return k
}
