package share

import (
	"sync"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
)

// Move is bytes of an artifact that went between this node and one of its peers. By BitTorrent: what chunks carried, without
// the protocol around it; received is only what was new here. By HTTP: what bodies carried.
type Move struct {
	Digest         Digest
	Peer           string // the ID of a Peer, or the base URL that HTTP asked
	Received, Sent int64
}

// tab adds up small steps of one transfer, so that not each of them is told.
type tab struct {
	tell func(n int64)
	n    int64
}

const tabSize = 1 << 20

func (t *tab) add(n int) {
	if t.n += int64(n); t.n >= tabSize {
		t.settle()
	}
}

func (t *tab) settle() {
	if t.n > 0 {
		t.tell(t.n)
	}
	t.n = 0
}

// tally reads what each connection of the BitTorrent client has carried, and tells of what is new. The client says when
// connections begin and end while it holds its lock, and is asked for their numbers without: so they are noted here, and read later.
type tally struct {
	moved func(Move)
	name  func(*bt.PeerConn) string

	mu      sync.Mutex // never held while the client is asked
	digests map[metainfo.Hash]Digest
	conns   map[*bt.PeerConn]*account
}

// account is one connection.
type account struct {
	move  Move // told so far
	ended bool
}

func newTally(moved func(Move), name func(*bt.PeerConn) string) *tally {
	return &tally{moved: moved, name: name, digests: map[metainfo.Hash]Digest{}, conns: map[*bt.PeerConn]*account{}}
}

func (t *tally) opened(ih metainfo.Hash, d Digest) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.digests[ih] = d
}

func (t *tally) closed(ih metainfo.Hash) {
	t.mu.Lock()
	defer t.mu.Unlock()
	delete(t.digests, ih)
}

func (t *tally) began(c *bt.PeerConn) {
	peer := t.name(c) // now: a peer that sends wrong pieces gets another address
	t.mu.Lock()
	defer t.mu.Unlock()
	t.conns[c] = &account{move: Move{Digest: t.digests[c.Torrent().InfoHash()], Peer: peer}}
}

func (t *tally) ended(c *bt.PeerConn) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if a := t.conns[c]; a != nil { // else its handshake had not come to its end
		a.ended = true
	}
}

// settle tells what connections have carried since it was last called.
func (t *tally) settle() {
	t.mu.Lock()
	all, over := make([]*bt.PeerConn, 0, len(t.conns)), map[*bt.PeerConn]bool{}
	for c, a := range t.conns {
		all, over[c] = append(all, c), a.ended
	}
	t.mu.Unlock()
	for _, c := range all {
		stats := c.Stats()
		if m := t.progress(c, stats.BytesReadUsefulData.Int64(), stats.BytesWrittenData.Int64(), over[c]); m.Received+m.Sent > 0 {
			t.moved(m)
		}
	}
}

// progress brings a connection's account up to date and returns the difference. Two may settle at once: the later number
// counts, and each byte once.
func (t *tally) progress(c *bt.PeerConn, received, sent int64, over bool) Move {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.conns[c]
	if a == nil {
		return Move{}
	}
	if over {
		delete(t.conns, c)
	}
	m := Move{Digest: a.move.Digest, Peer: a.move.Peer, Received: max(0, received-a.move.Received), Sent: max(0, sent-a.move.Sent)}
	a.move.Received += m.Received
	a.move.Sent += m.Sent
	return m
}

// Transfer is a Fetch that is under way.
type Transfer struct {
	Digest Digest
	Size   int64
	Done   int64   // bytes that are here
	Rate   float64 // bytes per second, over the last seconds
	Peers  int     // connections; 0: it waits
	Began  time.Time
}

// paceStep is the shortest time over which a rate is measured, and half of the longest while bytes come.
const paceStep = 3 * time.Second

// pace is how fast a transfer goes: the difference to what it was some seconds ago.
type pace struct {
	from, mark point
	done       int64
}

type point struct {
	at   time.Time
	done int64
}

// note takes down how far it is. The first note is where it begins: what an earlier transfer left has no rate.
func (p *pace) note(now time.Time, done int64) {
	p.done = done
	switch {
	case p.from.at.IsZero() || done < p.from.done: // thrown away: from the start
		p.from, p.mark = point{now, done}, point{now, done}
	case now.Sub(p.mark.at) >= paceStep:
		p.from, p.mark = p.mark, point{now, done}
	}
}

// rate is in bytes per second.
func (p *pace) rate(now time.Time) float64 {
	from := p.from
	if now.Sub(p.mark.at) >= paceStep { // nothing has come for as long
		from = p.mark
	}
	took := now.Sub(from.at).Seconds()
	if from.at.IsZero() || took <= 0 {
		return 0
	}
	return float64(max(0, p.done-from.done)) / took
}
