package share

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anacrolix/torrent/metainfo"
)

// GuestOptions is the world of a Guest.
type GuestOptions struct {
	// Listener gives connections of nodes and guests, Dial calls one; both sides are proven then. Caller names who has called.
	// The Listener ends with Close.
	Listener net.Listener
	Caller   func(net.Conn) string
	Dial     func(context.Context, Peer) (net.Conn, error)
	// Peers are those to exchange with, and Part says that this is the i-th of n guests that fetch together; both are asked again
	// every other second.
	Peers func() []Peer
	Part  func() (i, n int)
	// Patience, Idle: 0 takes 3 s until nobody is found, and 15 s without a byte until a fetch is given up.
	Patience, Idle time.Duration
	Logger         *slog.Logger // nil discards
}

// Disk is where a Guest keeps its artifact: from its byte 0, in pieces that come in any order.
type Disk interface {
	io.ReaderAt
	io.WriterAt
}

// Guest is a machine that has no store yet: it gathers one artifact onto a disk, and gives it to others until Close. It is
// safe for concurrent use.
type Guest struct {
	engine *engine
	once   sync.Once
	bad    atomic.Int64

	mu     sync.Mutex
	opened *opened
}

// NewGuest panics if one of Listener, Dial, Peers is missing: that is a programming error.
func NewGuest(o GuestOptions) (*Guest, error) {
	if o.Listener == nil || o.Dial == nil || o.Peers == nil {
		panic("share: Guest needs Listener, Dial and Peers")
	}
	if o.Patience <= 0 {
		o.Patience = defaultPatience
	}
	if o.Idle <= 0 {
		o.Idle = defaultIdle
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guest{}
	options := engineOptions{
		listener: o.Listener, dial: o.Dial, caller: o.Caller, peers: func(Digest) []Peer { return o.Peers() },
		patience: o.Patience, idle: o.Idle, log: o.Logger, asked: func(metainfo.Hash) {}, badPiece: func() { g.bad.Add(1) },
	}
	if o.Part != nil {
		options.part = func(Digest) (i, n int) { return o.Part() }
	}
	var err error
	g.engine, err = newEngine(options)
	return g, err
}

// Fetch gathers an artifact (Digest, Size, InfoHash) onto disk, and returns nil when each piece matches the infohash: that
// the whole is the artifact is the caller's to check, who reads it anyway. resume says that the disk may hold pieces of an
// earlier try; they are hashed first. After an error nothing is written any more, Missing says what is not there, and what is
// there goes on being given to others. It is called once.
func (g *Guest) Fetch(ctx context.Context, a Artifact, disk Disk, resume bool, progress func(done int64)) error {
	if a.Size < minTorrent || !isInfoHash(a.InfoHash) {
		return fmt.Errorf("fetch %s: %w: it is not exchanged in pieces", a.Digest, errNobody)
	}
	p := newPieces(a.Digest, a.Size)
	p.data = keptOpen{disk}
	if resume {
		for i := range p.state {
			p.state[i] = unchecked
		}
	}
	o := g.engine.add(metainfo.NewHashFromHex(a.InfoHash), p, nil)
	g.mu.Lock()
	g.opened = o
	g.mu.Unlock()
	if err := g.engine.gather(ctx, o, g, progress); err != nil {
		p.freeze()
		hangUp(o) // nothing of it is on its way any more; the peers call again
		return fmt.Errorf("fetch %s: %w", a.Digest, err)
	}
	return nil
}

// learned implements keeper.
func (g *Guest) learned(Digest, []byte) error { return nil }

// whole implements keeper.
func (g *Guest) whole(_ context.Context, p *pieces) error {
	p.freeze()
	return nil
}

// Missing calls do with each stretch of the artifact that is not there, until it fails.
func (g *Guest) Missing(do func(off, n int64) error) error {
	g.mu.Lock()
	o := g.opened
	g.mu.Unlock()
	if o == nil {
		return errors.New("nothing is being fetched")
	}
	return o.pieces.missing(do)
}

// Stats is what has been moved since the start.
func (g *Guest) Stats() TorrentStats {
	s := g.engine.client.ConnStats()
	return TorrentStats{
		Fetched: s.BytesReadUsefulData.Int64(), Served: s.BytesWrittenData.Int64(), BadPieces: int(g.bad.Load()), Open: 1,
	}
}

// Close hangs up on all peers, and reads and writes no more.
func (g *Guest) Close() error {
	g.once.Do(g.engine.close)
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.opened != nil {
		_ = g.opened.pieces.close() // the disk stays open
	}
	if err := g.engine.listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close listener: %w", err)
	}
	return nil
}

// keptOpen is a Disk, which is its owner's to close.
type keptOpen struct{ Disk }

// Close implements io.Closer.
func (keptOpen) Close() error { return nil }
