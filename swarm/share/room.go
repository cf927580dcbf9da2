package share

import (
	"time"

	"github.com/anacrolix/torrent/metainfo"
)

// unused is how long a torrent has moved nothing when it may be closed for another. A fetch in which nothing moves for so long
// makes its connections anew anyway.
const unused = 5 * time.Second

// room sees that fewer than most torrents are open: if need be, the one that has moved nothing for longest is closed. Else a node
// that is asked for many artifacts within a minute would send the next ones by HTTP, though nobody needs those torrents any more:
// who has fetched stays connected for that minute. The lock is held.
func (x *Torrent) room(most int, now time.Time) bool {
	if len(x.open) < most {
		return true
	}
	var idlest metainfo.Hash
	var found *opened
	for ih, o := range x.open {
		o.look(now)
		if now.Sub(o.since) >= unused && (found == nil || o.since.Before(found.since)) {
			idlest, found = ih, o
		}
	}
	if found == nil {
		return false
	}
	x.drop(idlest, found)
	return true
}

// look notices whether the torrent has been of use since it was last looked at.
func (o *opened) look(now time.Time) {
	stats := o.torrent.Stats()
	moved := stats.BytesWrittenData.Int64() + stats.BytesReadData.Int64()
	if moved != o.moved || o.fetched {
		o.moved, o.since = moved, now
	}
}
