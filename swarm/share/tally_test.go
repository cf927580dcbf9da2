package share

import (
	"bytes"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// movesOf is what a node was told of its moves, by peer.
type movesOf struct {
	mu  sync.Mutex
	all map[string]Move
}

func (m *movesOf) add(v Move) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.all == nil {
		m.all = map[string]Move{}
	}
	sum := m.all[v.Peer]
	m.all[v.Peer] = Move{Digest: v.Digest, Peer: v.Peer, Received: sum.Received + v.Received, Sent: sum.Sent + v.Sent}
}

func (m *movesOf) sum() (all Move) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, v := range m.all {
		all.Received, all.Sent = all.Received+v.Received, all.Sent+v.Sent
	}
	return all
}

func (m *movesOf) of(peer string) Move {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.all[peer]
}

// TestPiecesAreCountedByPeer: what three machines received adds up to what they asked for, and to what others sent; each move has
// the name of who was at the other end, and of the artifact.
func TestPiecesAreCountedByPeer(t *testing.T) {
	m, data := newMembers(), someBytes(6<<20+4711)
	var seeds movesOf
	counts := func(to *movesOf) func(*TorrentOptions) {
		return func(o *TorrentOptions) { onlyPieces(o); o.HTTP.Moved = to.add }
	}
	seed, a := m.seed(t, data, counts(&seeds))
	moved := make([]movesOf, 3)
	var nodes []*node
	for i := range moved {
		nodes = append(nodes, m.join(t, newStore(t), counts(&moved[i])))
	}
	var all sync.WaitGroup
	for _, n := range nodes {
		all.Go(func() { n.fetch(t, a) })
	}
	all.Wait()
	sent, received := int64(0), int64(0)
	for _, n := range append(nodes, seed) { // ends what is open: then nothing is on its way any more
		n.stop(t)
	}
	for i := range moved {
		received += moved[i].sum().Received
		sent += moved[i].sum().Sent
		if got := moved[i].sum().Received; got != a.Size {
			t.Errorf("machine %d has counted %d bytes of %d: %+v", i, got, a.Size, moved[i].all)
		}
		if got := seeds.of(nodes[i].ip).Sent; got < moved[i].of(seed.ip).Received {
			t.Errorf("machine %d has %d bytes from the seed, who sent it %d", i, moved[i].of(seed.ip).Received, got)
		}
		for peer, v := range moved[i].all {
			if peer == "" || v.Digest != a.Digest {
				t.Errorf("machine %d: %q is nobody, or %q another artifact", i, peer, v.Digest)
			}
		}
	}
	sent += seeds.sum().Sent
	if sent < received || sent > received*3/2 {
		t.Errorf("%d bytes were sent and %d received", sent, received)
	}
	if got := seeds.sum().Received; got != 0 {
		t.Errorf("the seed received %d bytes", got)
	}
}

func TestWholesAreCountedByPeer(t *testing.T) {
	data := someBytes(3<<20 + 17)
	var asked, gave movesOf
	from, to := newStore(t), newStore(t)
	a, err := from.PublishReader(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	giver := NewHTTP(Options{Store: from, Moved: gave.add, Caller: func(r *http.Request) string { return r.Header.Get("User-Agent") }})
	peer := newPeer(t, giver.serve)
	url := peer.URL
	h := NewHTTP(Options{Store: to, Peers: func(Digest) []string { return []string{url} }, Client: func(string) *http.Client { return peer.Client() }, Moved: asked.add})
	if err := h.Fetch(t.Context(), a.Digest, a.Size, nil); err != nil {
		t.Fatal(err)
	}
	if got, want := asked.of(url), (Move{Digest: a.Digest, Peer: url, Received: a.Size}); got != want {
		t.Errorf("the one who asked counted %+v, want %+v", got, want)
	}
	if got, want := gave.of("Go-http-client/1.1"), (Move{Digest: a.Digest, Peer: "Go-http-client/1.1", Sent: a.Size}); got != want {
		t.Errorf("the one who gave counted %+v, want %+v", got, want)
	}
}

func TestRateIsThatOfTheLastSeconds(t *testing.T) {
	var p pace
	start := time.Unix(0, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	if got := p.rate(at(5)); got != 0 {
		t.Errorf("before it began: %v", got)
	}
	p.note(at(0), 500) // of an earlier transfer
	if got := p.rate(at(0)); got != 0 {
		t.Errorf("at its beginning: %v", got)
	}
	p.note(at(1), 600)
	if got := p.rate(at(1)); got != 100 {
		t.Errorf("after a second: %v, want 100", got)
	}
	for s := 2; s <= 20; s++ {
		p.note(at(s), 600+int64(s-1)*100)
	}
	for s := 21; s <= 30; s++ {
		p.note(at(s), 2500+int64(s-20)*1000)
	}
	if got := p.rate(at(30)); got != 1000 {
		t.Errorf("ten seconds after it became faster: %v, want 1000", got)
	}
	if got := p.rate(at(60)); got > 80 {
		t.Errorf("half a minute after the last byte: %v", got)
	}
	p.note(at(60), 0) // thrown away
	p.note(at(61), 50)
	if got := p.rate(at(61)); got != 50 {
		t.Errorf("a second after it began anew: %v, want 50", got)
	}
}

// TestTransfersAreThoseUnderWay: while half of an artifact is here, the fetch says so; before and after there is nothing.
func TestTransfersAreThoseUnderWay(t *testing.T) {
	data := someBytes(2 << 20)
	half, goOn := make(chan struct{}), make(chan struct{})
	peer := newPeer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		_, _ = w.Write(data[:1<<20])
		_ = http.NewResponseController(w).Flush()
		<-goOn
		_, _ = w.Write(data[1<<20:])
	})
	h, _ := fetcher(t, newStore(t), peer)
	fetched := make(chan error, 1)
	var once sync.Once
	go func() {
		fetched <- h.Fetch(t.Context(), DigestOf(data), int64(len(data)), func(done int64) {
			if done >= 1<<20 {
				once.Do(func() { close(half) })
			}
		})
	}()
	<-half
	got := h.Transfers()
	close(goOn)
	if len(got) != 1 || got[0].Digest != DigestOf(data) || got[0].Size != 2<<20 || got[0].Done != 1<<20 || got[0].Peers != 1 || got[0].Began.IsZero() {
		t.Errorf("under way: %+v", got)
	}
	if err := <-fetched; err != nil {
		t.Fatal(err)
	}
	if got := h.Transfers(); len(got) != 0 {
		t.Errorf("afterwards: %+v", got)
	}
}

func TestStoreKnowsItsSize(t *testing.T) {
	s := newStore(t)
	for _, size := range []int{1000, 2000} {
		if _, err := s.PublishReader(t.Context(), bytes.NewReader(someBytes(size))); err != nil {
			t.Fatal(err)
		}
	}
	a, err := s.PublishReader(t.Context(), strings.NewReader("again"))
	if err != nil {
		t.Fatal(err)
	}
	before := s.Size()
	if _, err := s.PublishReader(t.Context(), strings.NewReader("again")); err != nil {
		t.Fatal(err)
	}
	all, err := s.List()
	if err != nil {
		t.Fatal(err)
	}
	want := int64(0)
	for _, a := range all {
		want += a.Size
	}
	if s.Size() != before || before != want {
		t.Errorf("%d bytes, before the same was published again %d, the files have %d", s.Size(), before, want)
	}
	for range 2 { // the second time it is not here
		if err := s.Remove(a.Digest); err != nil {
			t.Fatal(err)
		}
	}
	again, err := OpenStore(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	if want -= 5; s.Size() != want || again.Size() != want {
		t.Errorf("%d bytes, opened again %d, want %d", s.Size(), again.Size(), want)
	}
}
