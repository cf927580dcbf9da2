package share

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"sync"
	"testing"
)

// The pieces of a killed process are taken up without being fetched or hashed again. What a kill leaves is what the files
// hold at that moment: they are copied while the transfer is under way.
func TestKilledFetcherResumesWhereItWas(t *testing.T) {
	m, data := newMembers(), someBytes(8*mib)
	_, a := m.seed(t, data, slowly(4*mib))
	first := m.join(t, newStore(t), onlyPieces)
	left := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	var once sync.Once
	err := first.Fetch(ctx, a.Digest, a.Size, func(done int64) {
		if done >= a.Size/2 {
			once.Do(func() {
				if err := os.CopyFS(left, os.DirFS(first.store.dir)); err != nil {
					t.Error(err)
				}
				cancel()
			})
		}
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatal(err)
	}
	if first.Has(a.Digest) {
		t.Error("half an artifact is one")
	}
	first.stop(t)
	s, err := OpenStore(left)
	if err != nil {
		t.Fatal(err)
	}
	second := m.join(t, s, onlyPieces)
	second.fetch(t, a)
	wantHere(t, s, data)
	if got := second.Stats().Fetched; got > a.Size/2+chunkSize {
		t.Errorf("fetched %d of %d again", got, a.Size)
	}
	stats := second.engine.client.Stats()
	if hashed := stats.BytesHashed.Int64(); hashed > a.Size/2+pieceLength(a.Size) {
		t.Errorf("hashed %d of %d", hashed, a.Size)
	}
}

// After a reboot nothing is believed: what is on the disk is hashed, and what is bad there fetched again.
func TestAfterARebootPiecesAreHashedAgain(t *testing.T) {
	m, data := newMembers(), someBytes(4*mib)
	_, a := m.seed(t, data, nil)
	n := m.join(t, newStore(t), onlyPieces)
	part := n.store.partial(a.Digest)
	if err := os.WriteFile(part+piecesExt, corrupted(data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part+haveExt, []byte("another-boot\n"+strings.Repeat("+", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	n.fetch(t, a)
	wantHere(t, n.store, data)
	if got := n.Stats().Fetched; got != pieceLength(a.Size) {
		t.Errorf("fetched %d, want the one bad piece", got)
	}
}

// The file beside a partial one says more than is true.
func TestBelievedPiecesThatAreBadAreFoundByTheWhole(t *testing.T) {
	t.Run("info dictionary from peers", func(t *testing.T) { believedPiecesThatAreBad(t, false) })
	t.Run("info dictionary here", func(t *testing.T) { believedPiecesThatAreBad(t, true) })
}

func believedPiecesThatAreBad(t *testing.T, described bool) {
	m, data := newMembers(), someBytes(4*mib)
	seed, a := m.seed(t, data, nil)
	n := m.join(t, newStore(t), onlyPieces)
	if described {
		_, info, _ := seed.store.infos.get(a.InfoHash)
		if _, err := n.store.infos.put(a.Digest, info); err != nil {
			t.Fatal(err)
		}
	}
	part := n.store.partial(a.Digest)
	if err := os.WriteFile(part+piecesExt, corrupted(data), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part+haveExt, []byte(boot()+strings.Repeat("+", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	n.fetch(t, a)
	wantHere(t, n.store, data)
	if log := n.log(); strings.Contains(log, "peer=") {
		t.Errorf("our own disk's fault was blamed on a peer: %s", log)
	}
}

// The process died between the last piece and the name.
func TestAllPiecesOfAnEarlierRunNeedNobody(t *testing.T) {
	m, data := newMembers(), someBytes(4*mib)
	seed, a := m.seed(t, data, nil)
	seed.stop(t)
	n := m.join(t, newStore(t), nil)
	part := n.store.partial(a.Digest)
	if err := os.WriteFile(part+piecesExt, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(part+haveExt, []byte(boot()+strings.Repeat("+", 16)), 0o600); err != nil {
		t.Fatal(err)
	}
	n.fetch(t, a)
	wantHere(t, n.store, data)
	if n.store.InfoHash(a.Digest) != a.InfoHash {
		t.Error("it cannot be served by pieces")
	}
}

// TestSalvagedBytesAreHashedAndOnlyTheRestIsFetched: what lay on a disk is believed piece by piece.
func TestSalvagedBytesAreHashedAndOnlyTheRestIsFetched(t *testing.T) {
	m, data := newMembers(), someBytes(4*mib)
	_, a := m.seed(t, data, nil)
	found := bytes.Clone(data)
	clear(found[mib : 2*mib]) // a file system has grown over it
	s := newStore(t)
	if err := s.Salvage(t.Context(), a.Digest, a.Size, bytes.NewReader(found)); err != nil {
		t.Fatal(err)
	}
	n := m.join(t, s, onlyPieces)
	if err := n.Fetch(t.Context(), a.Digest, a.Size, nil); err != nil {
		t.Fatal(err)
	}
	wantHere(t, s, data)
	if got := n.Stats().Fetched; got < mib || got > 3*mib/2 {
		t.Errorf("a mebibyte was missing, %d bytes came", got)
	}
	if err := s.Salvage(t.Context(), a.Digest, a.Size, bytes.NewReader(nil)); err != nil { // it is here
		t.Fatal(err)
	}
	wantHere(t, s, data)
}
