package share

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/anacrolix/torrent/metainfo"
)

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
	x.tally.opened(ih, p.digest)
	o := x.engine.add(ih, p, info)
	x.open[ih] = o
	return o
}

// drop closes the torrent and its files. The lock is held.
func (x *Torrent) drop(ih metainfo.Hash, o *opened) {
	delete(x.open, ih)
	o.torrent.Drop()
	x.tally.closed(ih)
	_ = o.pieces.close() // the client does so only if it has seen the info dictionary
}

// janitor drops torrents that move nothing.
func (x *Torrent) janitor() {
	defer close(x.ended)
	tick := time.NewTicker(max(x.opts.Keep/4, time.Millisecond))
	defer tick.Stop()
	for {
		select {
		case <-x.engine.guard.done:
			return
		case now := <-tick.C:
			x.tidy(now)
		}
	}
}

func (x *Torrent) tidy(now time.Time) {
	x.tally.settle()
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
	err = x.engine.gather(ctx, o, x, tell)
	x.tally.settle() // who waits for the artifact may want to know from where it came
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

// learned implements keeper.
func (x *Torrent) learned(d Digest, info []byte) error {
	_, err := x.opts.HTTP.Store.infos.put(d, info)
	return err
}

// whole implements keeper: it gives the artifact its name. The torrent goes on serving.
func (x *Torrent) whole(ctx context.Context, p *pieces) error {
	if err := p.verify(ctx); err != nil {
		return err
	}
	f, err := os.OpenFile(p.path, os.O_RDWR, 0) // adopt closes it, and we serve on
	if err == nil {
		err = x.opts.HTTP.Store.adopt(f, p.digest)
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errOurs, err)
	}
	p.adopted()
	x.log.Debug("artifact fetched", "digest", p.digest, "bytes", p.size, "by", "pieces")
	return nil
}
