package share

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/mse"
	pp "github.com/anacrolix/torrent/peer_protocol"
	"github.com/anacrolix/torrent/storage"
	"golang.org/x/time/rate"
)

const (
	// callPause is how often the peers that are not connected are called.
	callPause = 2 * time.Second
	// lookPause is how often an exchange is looked at when nothing has changed.
	lookPause = 200 * time.Millisecond
	// untoldPause is how long a connection may bring no info dictionary: who gets one after the handshake does not say so (v1.61.0),
	// so that a whole segment would wait behind its puller. It doubles, for dictionaries that take their time.
	untoldPause = 500 * time.Millisecond
)

var (
	errNobody  = errors.New("nobody exchanges it")
	errStalled = errors.New("no piece has come")
	errEnded   = errors.New("BitTorrent has been closed")
)

// engine is a BitTorrent client that knows nothing but connections of the swarm, and how it gathers one artifact. A Torrent keeps
// what comes in a store, a Guest on a disk.
type engine struct {
	engineOptions
	client *bt.Client
	guard  *guard
}

type engineOptions struct {
	listener       net.Listener
	dial           func(context.Context, Peer) (net.Conn, error)
	caller         func(net.Conn) string // nil takes the IP address
	peers          func(Digest) []Peer
	part           func(Digest) (i, n int) // nil: no order
	uploadLimit    int                     // bytes per second, 0: none
	patience, idle time.Duration
	log            *slog.Logger
	asked          func(metainfo.Hash) // a peer has named this torrent; without a lock of the client
	badPiece       func()
	// connected and hungUp hear of connections; nil hears nothing.
	connected, hungUp func(*bt.PeerConn)
}

func newEngine(o engineOptions) (*engine, error) {
	if o.caller == nil {
		o.caller = callerIP
	}
	e := &engine{engineOptions: o, guard: newGuard(o.dial, o.caller, o.log)}
	client, err := bt.NewClient(e.config())
	if err != nil {
		return nil, fmt.Errorf("start BitTorrent: %w", err)
	}
	e.client = client
	client.AddDialer(e.guard)
	client.AddListener(gate{o.listener, e.guard})
	return e, nil
}

// close hangs up on all peers. To be called once.
func (e *engine) close() {
	close(e.guard.done)
	e.client.Close()
}

func callerIP(c net.Conn) string {
	host, _, err := net.SplitHostPort(c.RemoteAddr().String())
	if err != nil {
		return c.RemoteAddr().String()
	}
	return host
}

// config switches off every way out of the swarm: what is left is the guard.
func (e *engine) config() *bt.ClientConfig {
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
	if e.uploadLimit > 0 {
		c.UploadRateLimiter = rate.NewLimiter(rate.Limit(e.uploadLimit), max(e.uploadLimit/10, 2*chunkSize))
	}
	c.DefaultStorage = nowhere{}
	c.Callbacks.CompletedHandshake = func(_ *bt.PeerConn, ih metainfo.Hash) { e.asked(ih) }
	if e.connected != nil {
		c.Callbacks.PeerConnAdded = []func(*bt.PeerConn){e.connected}
	}
	c.Callbacks.PeerConnClosed = e.hungUp
	// Called before the client takes the peer's word on how many requests it bears.
	c.Callbacks.ReadExtendedHandshake = func(_ *bt.PeerConn, m *pp.ExtendedHandshakeMessage) { m.Reqq = inFlight }
	c.Slogger = slog.New(onlyErrors{e.log.Handler()})
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

// opened is a torrent that the client knows. It is made for a Fetch, or for a peer that asked, and dropped when it has moved
// nothing for a while: an artifact that nobody asks for costs its files and nothing else.
type opened struct {
	torrent *bt.Torrent
	pieces  *pieces
	fetched bool      // by a Fetch that is under way
	moved   int64     // bytes, when last looked at
	since   time.Time // when that was last another number
	i, n    int       // the part of it that was asked for first; gather's own
}

// add makes the torrent known to the client.
func (e *engine) add(ih metainfo.Hash, p *pieces, info []byte) *opened {
	p.settled = e.settled
	t, _ := e.client.AddTorrentOpt(bt.AddTorrentOpts{InfoHash: ih, Storage: p, ChunkSize: chunkSize, InfoBytes: info})
	t.SetOnWriteChunkError(func(error) {}) // pieces knows
	return &opened{torrent: t, pieces: p, since: time.Now()}
}

// settled is called after each piece was judged, and after the client has banned who sent a wrong one.
func (e *engine) settled(good bool) {
	if !good {
		e.badPiece()
	}
	e.guard.strike(e.client.BadPeerIPs())
}

// keeper is what becomes of the artifact that is gathered.
type keeper interface {
	// learned is called with the info dictionary, once a peer has sent it.
	learned(d Digest, info []byte) error
	// whole is called when all pieces are here; ErrMismatch says that they make another whole.
	whole(ctx context.Context, p *pieces) error
}

// gather runs until all pieces are here and k has taken them.
func (e *engine) gather(ctx context.Context, o *opened, k keeper, tell func(int64)) error {
	p := o.pieces
	began := time.Now()
	look, call := time.NewTicker(lookPause), time.NewTicker(callPause)
	defer look.Stop()
	defer call.Stop()
	got := o.torrent.GotInfo()
	peers := e.call(o)
	last, lastBytes, lastRead := began, int64(-1), int64(0)
	var shaken time.Time
	untold, asked := untoldPause, began
	for {
		done, err := p.progress()
		if err != nil {
			return err
		}
		if done != lastBytes {
			last, lastBytes = time.Now(), done
			tell(done)
		}
		if stats := o.torrent.Stats(); stats.BytesReadUsefulData.Int64() != lastRead {
			last, lastRead = time.Now(), stats.BytesReadUsefulData.Int64()
		}
		if done == p.size {
			if err = k.whole(ctx, p); !errors.Is(err, ErrMismatch) || !p.doubt() {
				return err
			}
			if o.torrent.Info() != nil { // else the client hashes them when it has got it
				if err := o.torrent.VerifyDataContext(ctx); err != nil {
					return err
				}
			}
			continue
		}
		if err := e.hopeless(o, peers, began, last, shaken); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(last) >= e.idle/3 && shaken.Before(last) {
			shaken = now
			hangUp(o)
			peers = e.call(o)
		} else if got != nil && now.Sub(asked) >= untold {
			asked, untold = now, 2*untold
			hangUp(o)
			peers = e.call(o)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-e.guard.done:
			return errEnded
		case <-got:
			got = nil
			if err := k.learned(p.digest, o.torrent.Metainfo().InfoBytes); err != nil {
				return fmt.Errorf("%w: %w", errOurs, err)
			}
			e.want(o)
		case <-call.C:
			peers = e.call(o)
			e.want(o)
		case <-p.changed:
		case <-look.C:
		}
	}
}

// hangUp ends all connections of a torrent. Seldom, about once in some hundred exchanges, the client waits for pieces that its peers
// have and would send (v1.61.0); on new connections it asks for them.
func hangUp(o *opened) {
	for _, c := range o.torrent.PeerConns() {
		_ = c.Close() // it has no errors
	}
}

// hopeless says why HTTP should be asked. last is when something came, shaken when all connections were ended.
func (e *engine) hopeless(o *opened, peers []Peer, began, last, shaken time.Time) error {
	now := time.Now()
	alone := min(now.Sub(last), now.Sub(shaken))
	if len(o.torrent.PeerConns()) == 0 && (alone >= e.patience || !e.guard.reachable(peers, began)) {
		return errNobody
	}
	if now.Sub(last) >= e.idle {
		return fmt.Errorf("%w for %s", errStalled, e.idle)
	}
	return nil
}

// call brings the client together with the peers that it is not connected to.
func (e *engine) call(o *opened) []Peer {
	peers := e.peers(o.pieces.digest)
	if len(peers) > maxConns {
		peers = peers[:maxConns]
	}
	var infos []bt.PeerInfo
	for _, at := range e.guard.introduce(peers) {
		infos = append(infos, bt.PeerInfo{Addr: at, Source: bt.PeerSourceDirect})
	}
	o.torrent.AddPeers(infos)
	return peers
}

// want asks for all pieces, and for our part of them first. It is called again when others have come or gone.
func (e *engine) want(o *opened) {
	i, n := 0, 1
	if e.part != nil {
		i, n = e.part(o.pieces.digest)
	}
	if o.torrent.Info() == nil || o.i == i && o.n == n {
		return
	}
	for k := range o.torrent.NumPieces() {
		switch {
		case n > 1 && k%n == i:
			o.torrent.Piece(k).SetPriority(bt.PiecePriorityHigh)
		case o.n > 1 && k%o.n == o.i:
			o.torrent.Piece(k).SetPriority(bt.PiecePriorityNone) // DownloadAll raises it to that of all others
		}
	}
	o.i, o.n = i, n
	o.torrent.DownloadAll()
}

// nowhere is the storage of torrents that were added without one: there are none.
type nowhere struct{}

func (nowhere) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{}, errForeignInfo
}
