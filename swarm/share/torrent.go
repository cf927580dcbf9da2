package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/mse"
	pp "github.com/anacrolix/torrent/peer_protocol"
	"golang.org/x/time/rate"
)

const (
	// chunkSize is what one request asks for; measured in DESIGN.md.
	chunkSize = 128 << 10
	// inFlight is how many chunks a peer is asked for at once. The peer serves requests in no order, so a long queue would undo
	// the order in which we ask; a mebibyte fills a LAN's link.
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
	client  *bt.Client
	guard   *guard
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
	if opts.Caller == nil {
		opts.Caller = callerIP
	}
	x := &Torrent{
		HTTP: NewHTTP(opts.HTTP), opts: opts, ended: make(chan struct{}),
		open: map[metainfo.Hash]*opened{}, wrong: map[string]time.Time{},
	}
	x.flights = newFlights(opts.HTTP.Store, x.transfer)
	x.guard = newGuard(opts.Dial, opts.Caller, x.log)
	x.tally = newTally(x.HTTP.opts.Moved, func(c *bt.PeerConn) string { return x.guard.name(c.RemoteAddr) })
	client, err := bt.NewClient(x.config())
	if err != nil {
		return nil, fmt.Errorf("start BitTorrent: %w", err)
	}
	x.client = client
	client.AddDialer(x.guard)
	client.AddListener(gate{opts.Listener, x.guard})
	go x.janitor()
	return x, nil
}

func callerIP(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}

// config switches off every way out of the swarm: what is left is the guard.
func (x *Torrent) config() *bt.ClientConfig {
	c := bt.NewDefaultClientConfig()
	c.DisableTCP, c.DisableUTP, c.NoDHT, c.DisableTrackers, c.DisablePEX = true, true, true, true, true
	c.NoDefaultPortForwarding, c.DisableWebtorrent, c.DisableWebseeds = true, true, true
	// Obfuscation authenticates nobody, and TLS is around it all.
	c.HeaderObfuscationPolicy = bt.HeaderObfuscationPolicy{Preferred: false, RequirePreferred: true}
	c.CryptoProvides = mse.CryptoMethodPlaintext
	c.Seed = true // serves also those who have nothing to give
	c.AlwaysWantConns = true
	c.DropDuplicatePeerIds = true
	c.EstablishedConnsPerTorrent, c.HalfOpenConnsPerTorrent = maxConns, maxConns
	c.DialRateLimiter = rate.NewLimiter(dialsPerSecond, dialsPerSecond)
	c.MaxUnverifiedBytes = 0 // a brake on fast links; our disks keep up
	c.MaxAllocPeerRequestDataPerConn = 16 * chunkSize
	if x.opts.UploadLimit > 0 {
		c.UploadRateLimiter = rate.NewLimiter(rate.Limit(x.opts.UploadLimit), max(x.opts.UploadLimit/10, 2*chunkSize))
	}
	c.DefaultStorage = nowhere{}
	c.Callbacks.CompletedHandshake = func(_ *bt.PeerConn, ih metainfo.Hash) { x.openStored(ih) }
	c.Callbacks.PeerConnAdded = []func(*bt.PeerConn){x.tally.began}
	c.Callbacks.PeerConnClosed = x.tally.ended
	// Called before the client takes the peer's word on how many requests it bears.
	c.Callbacks.ReadExtendedHandshake = func(_ *bt.PeerConn, m *pp.ExtendedHandshakeMessage) { m.Reqq = inFlight }
	c.Slogger = slog.New(onlyErrors{x.log.Handler()})
	return c
}

// onlyErrors leaves out what the client says of pieces, connections and its own locks: our words are enough.
type onlyErrors struct{ slog.Handler }

func (h onlyErrors) Enabled(ctx context.Context, l slog.Level) bool {
	return l >= slog.LevelError && h.Handler.Enabled(ctx, l)
}

func (h onlyErrors) WithAttrs(a []slog.Attr) slog.Handler {
	return onlyErrors{h.Handler.WithAttrs(a)}
}

func (h onlyErrors) WithGroup(name string) slog.Handler {
	return onlyErrors{h.Handler.WithGroup(name)}
}

// Close hangs up on all peers and waits for what the Torrent runs.
func (x *Torrent) Close() error {
	x.once.Do(func() {
		close(x.guard.done)
		<-x.ended
		x.client.Close()
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
	s := x.client.ConnStats()
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
