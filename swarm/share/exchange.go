package share

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	bt "github.com/anacrolix/torrent"
	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
)

const (
	// callPause is how often the peers that are not connected are called.
	callPause = 2 * time.Second
	// lookPause is how often an exchange is looked at when nothing has changed.
	lookPause = 200 * time.Millisecond
)

var (
	errNobody  = errors.New("nobody exchanges it")
	errStalled = errors.New("no piece has come")
	errEnded   = errors.New("BitTorrent has been closed")
)

// opened is a torrent that the client knows. It is made for a Fetch, or for a peer that asked, and dropped when it has moved
// nothing for a while: an artifact that nobody asks for costs its files and nothing else.
type opened struct {
	torrent *bt.Torrent
	pieces  *pieces
	fetched bool      // by a Fetch that is under way
	moved   int64     // bytes, when last looked at
	since   time.Time // when that was last another number
}

// nowhere is the storage of torrents that were added without one: there are none.
type nowhere struct{}

func (nowhere) OpenTorrent(context.Context, *metainfo.Info, metainfo.Hash) (storage.TorrentImpl, error) {
	return storage.TorrentImpl{}, errForeignInfo
}

// openStored is called between a handshake and the client's look at its torrents, without its lock: the one moment when a
// torrent can be opened because a peer has asked for it.
func (x *Torrent) openStored(ih metainfo.Hash) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if o := x.open[ih]; o != nil {
		o.since = time.Now()
		return
	}
	if !x.room(maxOpen, time.Now()) {
		x.log.Debug("too many torrents are in use: this peer has to ask by HTTP", "open", len(x.open))
		return
	}
	d, info, ok := x.opts.HTTP.Store.infos.get(ih.HexString())
	if !ok {
		return
	}
	p, err := x.opts.HTTP.Store.wholePieces(d)
	if err != nil {
		return // on its way, or gone
	}
	x.add(ih, p, info)
}

// add makes the torrent known to the client. The lock is held.
func (x *Torrent) add(ih metainfo.Hash, p *pieces, info []byte) *opened {
	p.settled = x.settled
	t, _ := x.client.AddTorrentOpt(bt.AddTorrentOpts{InfoHash: ih, Storage: p, ChunkSize: chunkSize, InfoBytes: info})
	t.SetOnWriteChunkError(func(error) {}) // pieces knows
	o := &opened{torrent: t, pieces: p, since: time.Now()}
	x.open[ih] = o
	return o
}

// drop closes the torrent and its files. The lock is held.
func (x *Torrent) drop(ih metainfo.Hash, o *opened) {
	delete(x.open, ih)
	o.torrent.Drop()
	_ = o.pieces.close() // the client does so only if it has seen the info dictionary
}

// settled is called after each piece was judged, and after the client has banned who sent a wrong one.
func (x *Torrent) settled(good bool) {
	if !good {
		x.mu.Lock()
		x.badPieces++
		x.mu.Unlock()
	}
	x.guard.strike(x.client.BadPeerIPs())
}

// janitor drops torrents that move nothing.
func (x *Torrent) janitor() {
	defer close(x.ended)
	tick := time.NewTicker(max(x.opts.Keep/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-x.guard.done:
			return
		case now := <-tick.C:
			x.tidy(now)
		}
	}
}

func (x *Torrent) tidy(now time.Time) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for ih, o := range x.open {
		o.look(now)
		if now.Sub(o.since) >= x.opts.Keep {
			x.drop(ih, o)
		}
	}
	for ih, until := range x.wrong {
		if now.After(until) {
			delete(x.wrong, ih)
		}
	}
}

// transfer is the flight's goroutine: pieces first, and HTTP for what they do not bring.
func (x *Torrent) transfer(ctx context.Context, d Digest, size int64, tell func(int64)) error {
	ih := x.exchangeable(d, size)
	if ih == "" {
		return x.HTTP.transfer(ctx, d, size, tell)
	}
	err := x.exchange(ctx, d, size, metainfo.NewHashFromHex(ih), tell)
	if err != nil && (ctx.Err() != nil || errors.Is(err, errOurs) || errors.Is(explain(err), ErrDiskFull)) {
		return explain(err)
	}
	if errors.Is(err, errForeignInfo) {
		x.mu.Lock()
		x.wrong[ih] = time.Now().Add(banTime)
		x.mu.Unlock()
		x.log.Warn("the index names a wrong infohash: not tried again for an hour", "digest", d, "infohash", ih, "error", err)
	} else if err != nil {
		x.log.Debug("pieces did not bring the artifact: asking by HTTP", "digest", d, "error", err)
	}
	if err != nil {
		if err := x.HTTP.transfer(ctx, d, size, tell); err != nil {
			return err
		}
	}
	if _, err := x.opts.HTTP.Store.describe(ctx, d); err != nil { // so that the next one finds its pieces here
		x.log.Debug("no info dictionary", "digest", d, "error", err)
	}
	return nil
}

// exchangeable is the infohash of an artifact that is worth an exchange, else "".
func (x *Torrent) exchangeable(d Digest, size int64) string {
	ih := x.opts.InfoHash(d)
	if size < minTorrent || !isInfoHash(ih) {
		return ""
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if _, wrong := x.wrong[ih]; wrong || len(x.open) >= maxOpen {
		return ""
	}
	return ih
}

// exchange returns nil when the artifact is in the store. What it received stays aside, in the form that suits who
// continues.
func (x *Torrent) exchange(ctx context.Context, d Digest, size int64, ih metainfo.Hash, tell func(int64)) error {
	store := x.opts.HTTP.Store
	p, err := store.partialPieces(d, size)
	if err != nil {
		return err
	}
	of, info, ok := store.infos.get(ih.HexString())
	if !ok || of != d {
		info = nil // peers have it
	}
	x.mu.Lock()
	if old := x.open[ih]; old != nil { // of an artifact that was removed since
		x.drop(ih, old)
	}
	o := x.add(ih, p, info)
	o.fetched = true
	x.mu.Unlock()
	err = x.gather(ctx, o, tell)
	x.mu.Lock()
	defer x.mu.Unlock()
	o.fetched, o.since = false, time.Now()
	if err == nil {
		return nil
	}
	x.drop(ih, o)
	switch {
	case ctx.Err() != nil: // continued by the next Fetch
	case errors.Is(err, ErrMismatch):
		p.discard()
		store.infos.forget(d)
		return fmt.Errorf("%w: its pieces make other bytes", errForeignInfo)
	case errors.Is(err, errForeignInfo), errors.Is(explain(err), ErrDiskFull): // else the disk stays full of what no one can finish
		p.discard()
	default:
		p.handOver(store.partial(d))
	}
	return err
}

// gather runs until all pieces are here and the whole has got its name.
func (x *Torrent) gather(ctx context.Context, o *opened, tell func(int64)) error {
	p, store := o.pieces, x.opts.HTTP.Store
	began := time.Now()
	look, call := time.NewTicker(lookPause), time.NewTicker(callPause)
	defer look.Stop()
	defer call.Stop()
	got := o.torrent.GotInfo()
	peers := x.call(o)
	last, lastBytes, lastRead := began, int64(-1), int64(0)
	var shaken time.Time
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
			if err = p.verify(ctx); err == nil {
				return x.finish(o)
			}
			if !errors.Is(err, ErrMismatch) || !p.doubt() {
				return err
			}
			if o.torrent.Info() != nil { // else the client hashes them when it has got it
				if err := o.torrent.VerifyDataContext(ctx); err != nil {
					return err
				}
			}
			continue
		}
		if err := x.hopeless(o, peers, began, last, shaken); err != nil {
			return err
		}
		if now := time.Now(); now.Sub(last) >= x.HTTP.opts.Idle/3 && shaken.Before(last) {
			shaken = now
			hangUp(o)
			peers = x.call(o)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-x.guard.done:
			return errEnded
		case <-got:
			got = nil
			if _, err := store.infos.put(p.digest, o.torrent.Metainfo().InfoBytes); err != nil {
				return fmt.Errorf("%w: %w", errOurs, err)
			}
			x.want(o)
		case <-call.C:
			peers = x.call(o)
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
func (x *Torrent) hopeless(o *opened, peers []Peer, began, last, shaken time.Time) error {
	now := time.Now()
	alone := min(now.Sub(last), now.Sub(shaken))
	if len(o.torrent.PeerConns()) == 0 && (alone >= x.opts.Patience || !x.guard.reachable(peers, began)) {
		return errNobody
	}
	if now.Sub(last) >= x.HTTP.opts.Idle {
		return fmt.Errorf("%w for %s", errStalled, x.HTTP.opts.Idle)
	}
	return nil
}

// call brings the client together with the peers that it is not connected to.
func (x *Torrent) call(o *opened) []Peer {
	peers := x.opts.Peers(o.pieces.digest)
	if len(peers) > maxConns {
		peers = peers[:maxConns]
	}
	var infos []bt.PeerInfo
	for _, at := range x.guard.introduce(peers) {
		infos = append(infos, bt.PeerInfo{Addr: at, Source: bt.PeerSourceDirect})
	}
	o.torrent.AddPeers(infos)
	return peers
}

// want asks for all pieces, and for our part of them first.
func (x *Torrent) want(o *opened) {
	if x.opts.Part != nil {
		if i, n := x.opts.Part(o.pieces.digest); n > 1 {
			for k := i; k < o.torrent.NumPieces(); k += n {
				o.torrent.Piece(k).SetPriority(bt.PiecePriorityHigh)
			}
		}
	}
	o.torrent.DownloadAll()
}

// finish gives the whole its name. The torrent goes on serving.
func (x *Torrent) finish(o *opened) error {
	p, store := o.pieces, x.opts.HTTP.Store
	f, err := os.OpenFile(p.path, os.O_RDWR, 0) // adopt closes it, and we serve on
	if err == nil {
		err = store.adopt(f, p.digest)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOurs, err)
	}
	p.adopted()
	x.log.Debug("artifact fetched", "digest", p.digest, "bytes", p.size, "by", "pieces")
	return nil
}
