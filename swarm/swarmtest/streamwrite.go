package swarmtest

import (
	"bytes"
	"io"
	"net"
	"os"
	"syscall"
	"time"
)

func (c *conn) Write(b []byte) (int, error) {
	written := 0
	for {
		k, p, err := c.tryWrite(b[written:])
		written += k
		if err != nil || written == len(b) {
			return written, err
		}
		p.wait()
	}
}

// tryWrite takes what there is room for.
func (c *conn) tryWrite(b []byte) (k int, p patience, err error) {
	n := c.net()
	n.mu.Lock()
	defer n.mu.Unlock()
	out := c.peer.in
	p.changed, p.fault = out.changed, n.changed
	if err := c.check(); err != nil {
		return 0, p, err
	}
	if c.hungUp() {
		c.broken = syscall.ECONNRESET
		return 0, p, c.broken
	}
	paused := c.life.host.paused
	if !paused { // otherwise its timers stand still
		p.until = c.writeBy
		if !p.until.IsZero() && !p.until.After(time.Now()) {
			return 0, p, os.ErrDeadlineExceeded
		}
	}
	k = min(len(b), window-out.unread)
	if k <= 0 {
		return 0, p, nil
	}
	out.put(item{data: bytes.Clone(b[:k])})
	if paused {
		c.life.held = append(c.life.held, c)
	}
	return k, p, nil
}

// hungUp tells whether what is written now would be answered by a reset: the other end was closed, or belongs to a life
// that is over, and the host can say so. Called with mu held.
func (c *conn) hungUp() bool {
	n, here, there := c.net(), c.life.host, c.peer.life.host
	if n.blocked(here, there) || n.blocked(there, here) || there.life == nil || there.paused {
		return false
	}
	if c.peer.gone {
		return true
	}
	if !c.peer.closed || len(c.in.items) == 0 {
		return false
	}
	last := c.in.items[len(c.in.items)-1] // a farewell that has arrived, perhaps behind data that nobody has read yet
	return last.end != nil && !last.held && !last.due.After(time.Now())
}

// release lets go what was written during a pause. Called with mu held.
func (c *conn) release() {
	out := c.peer.in
	for i := range out.items {
		if out.items[i].held {
			out.items[i].held = false
			out.schedule(&out.items[i])
		}
	}
	out.announce()
}

// Close ends this end; the other reads what was written, then io.EOF.
func (c *conn) Close() error {
	n := c.net()
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	delete(c.life.conns, c)
	c.in.announce()
	if c.life.check() != nil {
		return nil // nobody hears it
	}
	c.peer.in.put(item{end: io.EOF})
	if c.life.host.paused {
		c.life.held = append(c.life.held, c)
	}
	return nil
}

// vanish is what a crash does to this end. Called with mu held.
func (c *conn) vanish(told bool) {
	c.gone = true
	out := c.peer.in
	kept := out.items[:0]
	for _, i := range out.items {
		if !i.held { // what is on the wire arrives still
			kept = append(kept, i)
		}
	}
	out.items = kept
	if told && !c.net().blocked(c.life.host, c.peer.life.host) {
		out.put(item{end: syscall.ECONNRESET})
		out.items[len(out.items)-1].held = false
	}
	c.in.announce()
}

func (c *conn) SetDeadline(t time.Time) error      { return c.setDeadlines(&t, &t) }
func (c *conn) SetReadDeadline(t time.Time) error  { return c.setDeadlines(&t, nil) }
func (c *conn) SetWriteDeadline(t time.Time) error { return c.setDeadlines(nil, &t) }

func (c *conn) setDeadlines(read, write *time.Time) error {
	n := c.net()
	n.mu.Lock()
	defer n.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	if read != nil {
		if !read.IsZero() && (c.readBy.IsZero() || read.Before(c.readBy)) {
			c.in.announce() // a reader that waits has to look again
		}
		c.readBy = *read
	}
	if write != nil {
		if !write.IsZero() && (c.writeBy.IsZero() || write.Before(c.writeBy)) {
			c.peer.in.announce()
		}
		c.writeBy = *write
	}
	return nil
}
