package share

import (
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

const (
	// uplinkStep is the most that is moved at once under a limit: a record of TLS. A bucket is never asked for more, and holds that
	// much at least.
	uplinkStep = 16 << 10
	// uplinkSmall is the size up to which bytes are taken for words (requests, announcements, keep-alives) instead of pieces. They
	// are counted like all others, but wait for smallWait at most, whatever is owed: who waits for an answer of 68 bytes for seconds
	// hangs up.
	uplinkSmall = 512
	smallWait   = 20 * time.Millisecond
	// lookAgain is how often a connection asks how large the limit is, and whether it is far still.
	lookAgain = time.Second
)

// Uplink bounds what this node moves to and from nodes of other segments, each way for itself: all connections of one direction take
// from one bucket. What moves is paid for afterwards: the bytes are there already, and no deadline of the connection runs out
// over it; it is TCP that slows the other side down. It is safe for concurrent use.
type Uplink struct {
	limit   func() int64
	in, out lane
}

// NewUplink asks limit for bytes per second, 0 for no bound, once a second for each connection.
func NewUplink(limit func() int64) *Uplink { return &Uplink{limit: limit} }

// Conn is c, bounded while far says that its other side is in another segment. far is asked once a second at most.
func (u *Uplink) Conn(c net.Conn, far func() bool) net.Conn {
	gone := make(chan struct{})
	return &farConn{Conn: c, meter: u.meter(far, gone), hangUp: sync.OnceFunc(func() { close(gone) })}
}

// RoundTripper is next, with the bodies of its answers bounded while far says so.
func (u *Uplink) RoundTripper(next http.RoundTripper, far func() bool) http.RoundTripper {
	return roundTripper(func(r *http.Request) (*http.Response, error) {
		resp, err := next.RoundTrip(r)
		if err == nil {
			resp.Body = &farBody{resp.Body, u.meter(far, r.Context().Done())}
		}
		return resp, err
	})
}

// Handler is next, with its answers bounded for those who ask from afar.
func (u *Uplink) Handler(next http.Handler, far func(*http.Request) bool) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&farWriter{w, u.meter(func() bool { return far(r) }, r.Context().Done())}, r)
	})
}

func (u *Uplink) meter(far func() bool, gone <-chan struct{}) *meter {
	return &meter{uplink: u, far: far, gone: gone}
}

// lane is one direction.
type lane struct {
	mu     sync.Mutex
	limit  int64 // that bucket was told
	bucket *rate.Limiter
}

// burstOf is what a bucket holds: a tenth of a second, so that its rate is kept in the short run too, and a step at least.
func burstOf(limit int64) int { return int(min(max(limit/10, uplinkStep), 1<<30)) }

// owe takes n bytes, a step at most, and says how long who moved them has to wait.
func (l *lane) owe(limit int64, n int, now time.Time) time.Duration {
	if limit <= 0 || n <= 0 {
		return 0
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.bucket == nil {
		l.bucket = rate.NewLimiter(rate.Limit(limit), burstOf(limit))
	} else if l.limit != limit { // what is owed is paid at the new rate
		l.bucket.SetLimitAt(now, rate.Limit(limit))
		l.bucket.SetBurstAt(now, burstOf(limit))
	}
	l.limit = limit
	wait := l.bucket.ReserveN(now, n).DelayFrom(now)
	if n <= uplinkSmall {
		wait = min(wait, smallWait)
	}
	return wait
}

// meter is one connection or one body. It remembers for a while what it was told.
type meter struct {
	uplink *Uplink
	far    func() bool
	gone   <-chan struct{} // nobody waits any more

	mu     sync.Mutex
	limit  int64
	looked time.Time
}

// bound is the limit that holds for this connection now, 0 for none.
func (m *meter) bound() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := time.Now(); m.looked.IsZero() || now.Sub(m.looked) >= lookAgain {
		if m.limit, m.looked = m.uplink.limit(), now; m.limit > 0 && !m.far() {
			m.limit = 0
		}
	}
	return m.limit
}

func (m *meter) pay(l *lane, limit int64, n int) {
	wait := l.owe(limit, n, time.Now())
	if wait <= 0 {
		return
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-m.gone:
	}
}

func (m *meter) read(r io.Reader, p []byte) (int, error) {
	limit := m.bound()
	if limit == 0 {
		return r.Read(p)
	}
	n, err := r.Read(p[:min(len(p), uplinkStep)])
	m.pay(&m.uplink.in, limit, n)
	return n, err
}

func (m *meter) write(w io.Writer, p []byte) (int, error) {
	for written := 0; ; {
		limit, next := m.bound(), p[written:]
		if limit > 0 {
			next = next[:min(len(next), uplinkStep)]
		}
		n, err := w.Write(next)
		written += n
		m.pay(&m.uplink.out, limit, min(n, uplinkStep))
		if err != nil || written == len(p) {
			return written, err
		}
	}
}

// farConn is a connection of an Uplink.
type farConn struct {
	net.Conn
	meter  *meter
	hangUp func()
}

// Read implements net.Conn.
func (c *farConn) Read(p []byte) (int, error) { return c.meter.read(c.Conn, p) }

// Write implements net.Conn.
func (c *farConn) Write(p []byte) (int, error) { return c.meter.write(c.Conn, p) }

// Close implements net.Conn. Who waits to have paid waits no longer.
func (c *farConn) Close() error {
	c.hangUp()
	return c.Conn.Close()
}

// ConnectionState is that of the TLS inside: who is behind a connection is asked of what this returns. Without TLS it is empty.
func (c *farConn) ConnectionState() tls.ConnectionState {
	if inner, ok := c.Conn.(interface{ ConnectionState() tls.ConnectionState }); ok {
		return inner.ConnectionState()
	}
	return tls.ConnectionState{}
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

type farBody struct {
	io.ReadCloser
	meter *meter
}

// Read implements io.Reader.
func (b *farBody) Read(p []byte) (int, error) { return b.meter.read(b.ReadCloser, p) }

type farWriter struct {
	http.ResponseWriter
	meter *meter
}

// Write implements io.Writer.
func (w *farWriter) Write(p []byte) (int, error) { return w.meter.write(w.ResponseWriter, p) }

// Unwrap lets http.ResponseController find deadlines.
func (w *farWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
