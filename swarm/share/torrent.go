package share

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
)

const (
	// chunkSize is what one request asks for; measured in DESIGN.md.
	chunkSize = 64 << 10
	// inFlight is how many chunks a peer is asked for at once. The peer serves requests in no order, so a long queue would undo
	// the order in which we ask; half a mebibyte fills a LAN's link, and 100 Mbit/s over 40 ms.
	inFlight = 8
	// maxOpen bounds the torrents that are open at once; beyond it HTTP serves.
	maxOpen = 256
	// maxConns bounds the connections of one torrent.
	maxConns = 50
	// dialsPerSecond bounds calls: a member that comes back finds its peers within a second.
	dialsPerSecond = 100
	// defaultPatience is how long an exchange looks for its first peer before HTTP is asked.
	defaultPatience = 3 * time.Second
	// defaultKeep is how long a torrent that moves nothing stays open.
	defaultKeep = time.Minute
)

// TorrentOptions is the world of a Torrent.
type TorrentOptions struct {
	// HTTP is the path that always works: for small artifacts, for those without an infohash, and where no peer exchanges
	// pieces. Its Store and Logger are the Torrent's too.
	HTTP Options
	// Listener gives connections whose other side has been proven to be a member. It ends with Close.
	Listener net.Listener
	// Caller is the name of the member at the other end of an accepted connection. nil takes its IP address.
	Caller func(net.Conn) string
	// Dial calls a peer, and returns when both sides are proven.
	Dial func(context.Context, Peer) (net.Conn, error)
	// Peers are the members to exchange an artifact with, best first; maxConns of them are called. It is asked again every
	// other second of a fetch.
	Peers func(Digest) []Peer
	// InfoHash is what the index says of an artifact; "" if it says nothing.
	InfoHash func(Digest) string
	// Part says that this node is the i-th, from 0, of n that fetch this artifact together: it asks for pieces ≡ i (mod n)
	// first. nil, or n < 2: no order.
	Part func(Digest) (i, n int)
	// UploadLimit bounds what is sent to peers, in bytes per second. 0: nothing does.
	UploadLimit int
	// Patience, Keep: 0 takes 3 s until HTTP is asked because nobody exchanges the artifact, and a minute until a torrent is
	// closed that moves nothing. HTTP.Idle is when an exchange that has stalled is given up.
	Patience, Keep time.Duration
}

// Torrent is the Share over BitTorrent between members. It is safe for concurrent use. See DESIGN.md.
type Torrent struct {
	*HTTP   // Publish, Open, Has, Handler
	opts    TorrentOptions
	flights *flights
	engine  *engine
	tally   *tally
	ended   chan struct{} // the janitor has
	once    sync.Once

	mu        sync.Mutex
	open      map[metainfo.Hash]*opened
	wrong     map[string]time.Time // infohashes that are not their artifacts', to when they may be tried again
	badPieces int
}

var _ Share = (*Torrent)(nil)

// NewTorrent panics if one of Listener, Dial, Peers, InfoHash is missing: that is a programming error. Close ends what it
// starts; callers of Fetch are to be gone by then.
func NewTorrent(opts TorrentOptions) (*Torrent, error) {
	if opts.Listener == nil || opts.Dial == nil || opts.Peers == nil || opts.InfoHash == nil {
		panic("share: Torrent needs Listener, Dial, Peers and InfoHash")
	}
	if opts.Patience <= 0 {
		opts.Patience = defaultPatience
	}
	if opts.Keep <= 0 {
		opts.Keep = defaultKeep
	}
	x := &Torrent{
		HTTP: NewHTTP(opts.HTTP), opts: opts, ended: make(chan struct{}),
		open: map[metainfo.Hash]*opened{}, wrong: map[string]time.Time{},
	}
	x.flights = newFlights(opts.HTTP.Store, x.transfer)
	x.tally = newTally(x.HTTP.opts.Moved, func(c *bt.PeerConn) string { return x.engine.guard.name(c.RemoteAddr) })
	var err error
	x.engine, err = newEngine(engineOptions{
		listener: opts.Listener, dial: opts.Dial, caller: opts.Caller, peers: opts.Peers, part: opts.Part, uploadLimit: opts.UploadLimit,
		patience: opts.Patience, idle: x.HTTP.opts.Idle, log: x.log, asked: x.openStored, badPiece: x.countBad,
		connected: x.tally.began, hungUp: x.tally.ended,
	})
	if err != nil {
		return nil, err
	}
	go x.janitor()
	return x, nil
}

// Close hangs up on all peers and waits for what the Torrent runs.
func (x *Torrent) Close() error {
	x.once.Do(func() {
		close(x.engine.guard.done)
		<-x.ended
		x.engine.client.Close()
		x.tally.settle()
	})
	if err := x.opts.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
		return fmt.Errorf("close listener: %w", err)
	}
	return nil
}

// Fetch implements Share. Pieces of a transfer that ended early stay aside, and are continued by the next Fetch, also after
// a restart of the process.
func (x *Torrent) Fetch(ctx context.Context, d Digest, size int64, progress func(done int64)) error {
	return x.flights.Fetch(ctx, d, size, progress)
}

func (x *Torrent) countBad() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.badPieces++
}

// TorrentStats is what has been moved by BitTorrent since the start.
type TorrentStats struct {
	Fetched   int64 // bytes that were new
	Served    int64 // bytes sent to peers
	BadPieces int   // pieces that did not match
	Open      int   // torrents that are open now
}

// Stats may be called at any time. What it says has been told to Options.Moved by then.
func (x *Torrent) Stats() TorrentStats {
	x.tally.settle()
	s := x.engine.client.ConnStats()
	x.mu.Lock()
	defer x.mu.Unlock()
	return TorrentStats{
		Fetched: s.BytesReadUsefulData.Int64(), Served: s.BytesWrittenData.Int64(),
		BadPieces: x.badPieces, Open: len(x.open),
	}
}

// Transfers are the fetches under way, sorted by digest.
func (x *Torrent) Transfers() []Transfer { return x.flights.transfers(time.Now(), x.peersOf) }

func (x *Torrent) peersOf(d Digest) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	for _, o := range x.open {
		if o.fetched && o.pieces.digest == d {
			return len(o.torrent.PeerConns())
		}
	}
	return x.HTTP.peersOf(d)
}
