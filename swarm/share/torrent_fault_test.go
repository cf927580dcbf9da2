package share

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

const mib = 1 << 20

// slowly bounds what a node sends, so that a test can act while a transfer is under way.
func slowly(perSecond int) func(*TorrentOptions) {
	return func(o *TorrentOptions) { o.UploadLimit = perSecond }
}

// onlyPieces takes the path over HTTP away.
func onlyPieces(o *TorrentOptions) {
	o.HTTP.Peers = nil
	o.Patience, o.HTTP.Idle = 30*time.Second, 30*time.Second // machines that run tests are slow
}

// sees limits the peers of a node to these.
func sees(peers ...*node) func(*TorrentOptions) {
	return func(o *TorrentOptions) {
		onlyPieces(o)
		o.Peers = func(Digest) (out []Peer) {
			for _, p := range peers {
				out = append(out, Peer{ID: p.ip, Addr: p.ln.Addr().String()})
			}
			return out
		}
	}
}

func (n *node) fetch(t *testing.T, a Artifact) {
	t.Helper()
	if err := n.Fetch(t.Context(), a.Digest, a.Size, nil); err != nil {
		t.Error(err)
	}
}

// state is what a node has of an artifact that it is fetching, one character for each piece.
func (n *node) state(a Artifact) string {
	n.Torrent.mu.Lock()
	defer n.Torrent.mu.Unlock()
	for _, o := range n.open {
		if o.pieces.digest == a.Digest {
			o.pieces.mu.Lock()
			defer o.pieces.mu.Unlock()
			return string(o.pieces.state)
		}
	}
	return ""
}

// damage changes bytes of an artifact in the store, which nobody should.
func damage(t *testing.T, s *Store, d Digest, at ...int64) {
	t.Helper()
	if err := os.Chmod(s.file(d), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(s.file(d), os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	for _, off := range at {
		b := make([]byte, 1)
		_, rerr := f.ReadAt(b, off)
		b[0] ^= 1
		_, werr := f.WriteAt(b, off)
		if err := errors.Join(rerr, werr); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestWrongPieceNamesItsPeerAndNobodyElse(t *testing.T) {
	m, data := newMembers(), someBytes(4*mib)
	liar, a := m.seed(t, data, nil)
	damage(t, liar.store, a.Digest, 100, 3*mib)
	n := m.join(t, newStore(t), onlyPieces)
	done := make(chan error, 1)
	go func() { done <- n.Fetch(t.Context(), a.Digest, a.Size, nil) }()
	until(t, "the liar has been caught", func() bool { return n.Stats().BadPieces > 0 })
	good, _ := m.seed(t, data, nil)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	wantHere(t, n.store, data)
	if log := n.log(); !strings.Contains(log, "peer="+liar.ip) || strings.Contains(log, "peer="+good.ip) {
		t.Errorf("log: %s", log)
	}
}

func TestPeerThatSendsWrongPiecesAgainIsLeftAlone(t *testing.T) {
	m, data := newMembers(), someBytes(4*mib)
	liar, a := m.seed(t, data, nil)
	var all []int64
	for at := int64(0); at < a.Size; at += pieceLength(a.Size) {
		all = append(all, at)
	}
	damage(t, liar.store, a.Digest, all...)
	n := m.join(t, newStore(t), func(o *TorrentOptions) {
		onlyPieces(o)
		o.Patience = 6 * time.Second
	})
	if err := n.Fetch(t.Context(), a.Digest, a.Size, nil); err == nil {
		t.Fatal("fetched from a liar")
	}
	n.engine.guard.mu.Lock()
	left := time.Until(n.engine.guard.byID[liar.ip].until)
	n.engine.guard.mu.Unlock()
	if left < banTime-time.Minute || left > banTime {
		t.Errorf("banned for %v; log: %s", left, n.log())
	}
	if n.store.Has(a.Digest) {
		t.Error("wrong bytes became an artifact")
	}
	if log := n.log(); !strings.Contains(log, "left alone for an hour") {
		t.Errorf("log: %s", log)
	}
	// It may call us no more than we call it.
	conn, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(liar.ip)}}).DialContext(t.Context(), "tcp4", n.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	if got := greet(t, conn, a.InfoHash); got != 0 {
		t.Errorf("a banned peer is answered with %d bytes", got)
	}
}

// greet sends a BitTorrent handshake and counts the bytes of the answer, until the other side hangs up or is silent.
func greet(t *testing.T, conn net.Conn, infoHash string) int {
	t.Helper()
	ih, err := hex.DecodeString(infoHash)
	if err != nil {
		t.Fatal(err)
	}
	hello := slices.Concat([]byte("\x13BitTorrent protocol"), make([]byte, 8), ih, []byte("-XX0000-123456789012"))
	if err := conn.SetDeadline(time.Now().Add(2 * time.Second)); err != nil {
		t.Fatal(err)
	}
	_, _ = conn.Write(hello) // may be refused already
	got, _ := io.ReadFull(conn, make([]byte, len(hello)))
	return got
}

// A peer that promises everything and sends nothing does not hold the others up.
func TestStallingPeerIsWorkedAround(t *testing.T) {
	m, data := newMembers(), someBytes(8*mib)
	seed, a := m.seed(t, data, nil)
	ln, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = ln.Close() })
	var wg sync.WaitGroup
	defer wg.Wait()
	defer func() { _ = ln.Close() }()
	wg.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { stall(t, conn, a) })
		}
	})
	n := m.join(t, newStore(t), func(o *TorrentOptions) {
		onlyPieces(o)
		o.Peers = func(Digest) []Peer {
			return []Peer{{ID: "staller", Addr: ln.Addr().String()}, {ID: seed.ip, Addr: seed.ln.Addr().String()}}
		}
	})
	start := time.Now()
	n.fetch(t, a)
	wantHere(t, n.store, data)
	t.Log(time.Since(start))
	n.stop(t)
}

func stall(t *testing.T, conn net.Conn, a Artifact) {
	defer func() { _ = conn.Close() }()
	greet(t, conn, a.InfoHash)
	count := int((a.Size + pieceLength(a.Size) - 1) / pieceLength(a.Size))
	field := bytes.Repeat([]byte{0xff}, count/8)
	_, _ = conn.Write(slices.Concat([]byte{0, 0, 0, byte(1 + len(field)), 5}, field, []byte{0, 0, 0, 1, 1})) // bitfield, unchoke
	_ = conn.SetDeadline(time.Time{})
	_, _ = io.Copy(io.Discard, conn)
}

func TestFullDiskIsSaidAndLeavesNothing(t *testing.T) {
	m, data := newMembers(), someBytes(4*mib)
	_, a := m.seed(t, data, nil)
	s := newStore(t)
	s.free = func(string) (int64, error) { return 3 * mib, nil }
	n := m.join(t, s, nil)
	if err := n.Fetch(t.Context(), a.Digest, a.Size, nil); !errors.Is(err, ErrDiskFull) {
		t.Errorf("no room: %v", err)
	}
	small := t.TempDir()
	if err := syscall.Mount("tmpfs", small, "tmpfs", 0, "size=3m"); err != nil {
		t.Skipf("the rest needs root: %v", err)
	}
	defer func() {
		if err := syscall.Unmount(small, syscall.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	s, err := OpenStore(small)
	if err != nil {
		t.Fatal(err)
	}
	s.free = func(string) (int64, error) { return 1 << 40, nil } // others fill it meanwhile
	n = m.join(t, s, nil)
	if err := n.Fetch(t.Context(), a.Digest, a.Size, nil); !errors.Is(err, ErrDiskFull) {
		t.Errorf("full while fetching: %v", err)
	}
	wantNoLeftovers(t, s)
	n.stop(t)
}

// The seeder dies when each piece is somewhere else too, and nobody has all.
func TestTheRestFinishAmongThemselves(t *testing.T) {
	const n = 3
	m, data := newMembers(), someBytes(8*mib)
	seed, a := m.seed(t, data, slowly(4*mib))
	var nodes []*node
	for i := range n {
		nodes = append(nodes, m.join(t, newStore(t), func(o *TorrentOptions) {
			onlyPieces(o)
			o.UploadLimit = 2 * mib // so that the seeder is what they wait for, and not each other
			o.Part = func(Digest) (int, int) { return i, n }
		}))
	}
	var wg sync.WaitGroup
	for _, x := range nodes {
		wg.Go(func() { x.fetch(t, a) })
	}
	until(t, "each piece is somewhere", func() bool {
		seen := map[int]bool{}
		for _, x := range nodes {
			for i, c := range x.state(a) {
				if c == present {
					seen[i] = true
				}
			}
		}
		return len(seen) == int(a.Size/pieceLength(a.Size))
	})
	for i, x := range nodes {
		t.Log(i, x.Has(a.Digest), x.state(a))
	}
	seed.stop(t)
	wg.Wait()
	for _, x := range nodes {
		wantHere(t, x.store, data)
	}
	if sent := seed.Stats().Served; sent > a.Size*3/2 {
		t.Errorf("the seeder sent %.1f artifacts to bring out one", float64(sent)/float64(a.Size))
	}
}

// The puller of a segment is killed: the next one goes on from what the segment holds, and the rest of the artifact alone crosses
// the uplink once more.
func TestNextPullerGoesOnFromWhatTheSegmentHolds(t *testing.T) {
	m, data := newMembers(), someBytes(8*mib)
	far, a := m.seed(t, data, slowly(4*mib))
	var segment []*node
	var puller atomic.Int32
	for i := range 3 {
		segment = append(segment, m.join(t, newStore(t), func(o *TorrentOptions) {
			onlyPieces(o)
			all := o.Peers
			o.Peers = func(d Digest) (out []Peer) {
				for _, p := range all(d) {
					if p.ID != far.ip || int(puller.Load()) == i {
						out = append(out, p)
					}
				}
				return out
			}
		}))
	}
	var wg sync.WaitGroup
	first, stop := context.WithCancel(t.Context())
	wg.Go(func() { _ = segment[0].Fetch(first, a.Digest, a.Size, nil) }) // it is killed
	for _, x := range segment[1:] {
		wg.Go(func() { x.fetch(t, a) })
	}
	until(t, "half of it is on the segment", func() bool {
		return strings.Count(segment[1].state(a), string(present)) >= int(a.Size/pieceLength(a.Size))/2
	})
	stop()
	segment[0].stop(t)
	puller.Store(1)
	wg.Wait()
	for _, x := range segment[1:] {
		wantHere(t, x.store, data)
	}
	if sent := far.Stats().Served; sent > a.Size*3/2 {
		t.Errorf("%.1f artifacts have crossed the uplink", float64(sent)/float64(a.Size))
	}
}

// A chain of segments: what comes in goes out while it comes.
func TestPiecesArePassedOnWhileTheyArrive(t *testing.T) {
	m, data := newMembers(), someBytes(8*mib)
	seed, a := m.seed(t, data, slowly(4*mib))
	middle := m.join(t, newStore(t), sees(seed))
	last := m.join(t, newStore(t), sees(middle))
	var wg sync.WaitGroup
	wg.Go(func() { middle.fetch(t, a) })
	until(t, "the middle has something", func() bool { return strings.ContainsRune(middle.state(a), present) })
	early := false
	if err := last.Fetch(t.Context(), a.Digest, a.Size, func(done int64) {
		early = early || (done > 0 && !middle.Has(a.Digest))
	}); err != nil {
		t.Error(err)
	}
	wg.Wait()
	if !early {
		t.Error("nothing was passed on before the middle had it all")
	}
	wantHere(t, last.store, data)
}

func TestIdleArtifactsAreNoTorrents(t *testing.T) {
	m := newMembers()
	s := newStore(t)
	var all []Artifact
	for i := range 8 {
		a, err := s.PublishReader(t.Context(), bytes.NewReader(append(someBytes(mib), byte(i))))
		if err != nil {
			t.Fatal(err)
		}
		m.index(a)
		all = append(all, a)
	}
	seed := m.join(t, s, func(o *TorrentOptions) { o.Keep = 300 * time.Millisecond })
	if open := seed.Stats().Open; open != 0 {
		t.Errorf("%d torrents before anyone asked", open)
	}
	for _, a := range all[:2] {
		n := m.join(t, newStore(t), onlyPieces)
		n.fetch(t, a)
		if open := seed.Stats().Open; open != 1 {
			t.Errorf("%d torrents for one that was asked for", open)
		}
		n.stop(t)
		until(t, "it is closed again", func() bool { return seed.Stats().Open == 0 })
	}
	if got := len(seed.engine.client.Torrents()); got != 0 {
		t.Errorf("the client still has %d", got)
	}
}

// The index names another torrent: HTTP brings the artifact, and the infohash is not tried again.
func TestWrongInfoHashCostsNothingButTime(t *testing.T) {
	m, data := newMembers(), someBytes(2*mib)
	seed, a := m.seed(t, data, nil)
	other, err := seed.store.PublishReader(t.Context(), bytes.NewReader(someBytes(3*mib)))
	if err != nil {
		t.Fatal(err)
	}
	m.index(Artifact{Digest: a.Digest, InfoHash: other.InfoHash})
	n := m.join(t, newStore(t), nil)
	n.fetch(t, a)
	wantHere(t, n.store, data)
	if log := n.log(); !strings.Contains(log, "wrong infohash") || strings.Contains(log, "peer=") {
		t.Errorf("log: %s", log)
	}
	if n.exchangeable(a.Digest, a.Size) != "" {
		t.Error("it would be tried again")
	}
	if n.store.InfoHash(a.Digest) != a.InfoHash {
		t.Error("it cannot be served by pieces")
	}
}

func TestNobodyWithPiecesMeansHTTP(t *testing.T) {
	m, data := newMembers(), someBytes(2*mib)
	_, a := m.seed(t, data, nil)
	n := m.join(t, newStore(t), func(o *TorrentOptions) {
		o.Dial = func(context.Context, Peer) (net.Conn, error) { return nil, errors.New("no way") }
		o.Patience = time.Hour
	})
	n.fetch(t, a)
	wantHere(t, n.store, data)
	if got := n.Stats().Fetched; got != 0 {
		t.Errorf("%d bytes came as pieces", got)
	}
}

func TestCloseLeavesNothingRunning(t *testing.T) {
	ignore := goleak.IgnoreCurrent()
	m, data := newMembers(), someBytes(4*mib)
	seed, a := m.seed(t, data, nil)
	n := m.join(t, newStore(t), onlyPieces)
	n.fetch(t, a)
	slow, b := m.seed(t, append(data, 1), slowly(mib))
	ctx, cancel := context.WithCancel(t.Context())
	if err := n.Fetch(ctx, b.Digest, b.Size, func(done int64) {
		if done > 0 {
			cancel()
		}
	}); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	for _, x := range []*node{n, seed, slow} {
		x.stop(t)
	}
	goleak.VerifyNone(t, ignore)
}

func TestStoreForgetsInfoOfWhatIsGone(t *testing.T) {
	s := newStore(t)
	a, err := s.PublishReader(t.Context(), bytes.NewReader(someBytes(mib)))
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.PublishReader(t.Context(), bytes.NewReader(someBytes(mib+1)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(a.Digest); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(s.file(b.Digest)); err != nil { // behind our back
		t.Fatal(err)
	}
	if s, err = OpenStore(s.dir); err != nil {
		t.Fatal(err)
	}
	left, err := os.ReadDir(filepath.Join(s.dir, infoDir))
	if err != nil || len(left) != 0 || s.InfoHash(a.Digest) != "" || s.InfoHash(b.Digest) != "" {
		t.Errorf("left: %v, %v", left, err)
	}
}
