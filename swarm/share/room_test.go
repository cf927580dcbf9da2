package share

import (
	"bytes"
	"testing"
	"time"

	"github.com/anacrolix/torrent/metainfo"
)

func TestIdleTorrentMakesRoomForTheNext(t *testing.T) {
	t.Parallel()
	m := newMembers()
	seed, first := m.seed(t, bytes.Repeat([]byte{1}, minTorrent), nil)
	var hashes []metainfo.Hash
	for i := range byte(3) {
		a := first
		if i > 0 {
			var err error
			if a, err = seed.store.PublishReader(t.Context(), bytes.NewReader(bytes.Repeat([]byte{i + 1}, minTorrent))); err != nil {
				t.Fatal(err)
			}
		}
		hashes = append(hashes, metainfo.NewHashFromHex(a.InfoHash))
	}
	for _, ih := range hashes {
		seed.openStored(ih)
	}
	seed.mu.Lock()
	defer seed.mu.Unlock()
	now := time.Now()
	if seed.room(3, now) {
		t.Error("a torrent was closed that a peer had asked for a moment ago")
	}
	seed.open[hashes[0]].since = now.Add(-time.Minute)
	seed.open[hashes[0]].fetched = true
	seed.open[hashes[1]].since = now.Add(-2 * unused)
	seed.open[hashes[2]].since = now.Add(-3 * unused)
	if !seed.room(3, now) || seed.open[hashes[2]] != nil || len(seed.open) != 2 {
		t.Errorf("the one unused for longest that is not being fetched should have gone: %d are open", len(seed.open))
	}
	if !seed.room(3, now) || len(seed.open) != 2 {
		t.Errorf("where there is room none is closed: %d are open", len(seed.open))
	}
	seed.open[hashes[0]].fetched = false
}
