package identity

import (
	"net"
	"sync"
)

// links are the connections of this node whose other side has shown a certificate, so that Cut finds them.
type links struct {
	mu   sync.Mutex
	open map[*link]Peer
}

// link is one TCP connection below TLS. It enters links when its peer is known and leaves when it is closed, by whoever.
type link struct {
	net.Conn
	in *links

	closed bool   // guarded by in.mu
	leave  func() // called once at the end, without a lock; guarded by in.mu
}

func newLinks() *links { return &links{open: make(map[*link]Peer)} }

func (s *links) track(raw net.Conn) *link { return &link{Conn: raw, in: s} }

// proven enters the link. It comes before Options.Refused is asked: whoever cuts after the swarm changed its mind either
// finds the connection here, or it has yet to ask and is told.
func (l *link) proven(p Peer) {
	l.in.mu.Lock()
	defer l.in.mu.Unlock()
	if !l.closed {
		l.in.open[l] = p
	}
}

// atEnd has f called when the link is closed, at once if it is.
func (l *link) atEnd(f func()) {
	l.in.mu.Lock()
	closed := l.closed
	if !closed {
		l.leave = f
	}
	l.in.mu.Unlock()
	if closed {
		f()
	}
}

// Close is called by TLS, and by Cut from below it.
func (l *link) Close() error {
	l.end()
	return l.Conn.Close()
}

// end returns false if the link had ended before.
func (l *link) end() bool {
	l.in.mu.Lock()
	if l.closed {
		l.in.mu.Unlock()
		return false
	}
	l.closed = true
	delete(l.in.open, l)
	leave := l.leave
	l.leave = nil
	l.in.mu.Unlock()
	if leave != nil {
		leave()
	}
	return true
}

// Cut closes every open connection, dialed or accepted, whose peer matches, and returns how many those were. Change what
// Options.Refused answers first, then cut: then no connection of that peer is left, and none that is in its handshake
// gets through, on this side. It goes below TLS and waits for nobody. match is called without a lock held.
func (id *Identity) Cut(match func(p Peer, serial string) bool) int {
	id.links.mu.Lock()
	found := make(map[*link]Peer, len(id.links.open))
	for l, p := range id.links.open {
		found[l] = p
	}
	id.links.mu.Unlock()
	n := 0
	for l, p := range found {
		if match(p, p.Serial) && l.end() {
			_ = l.Conn.Close() // broken on purpose
			n++
		}
	}
	return n
}
