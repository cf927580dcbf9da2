package share

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

func someBytes(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{2})
	_, _ = r.Read(data) // never fails
	return data
}

func newStore(t *testing.T) *Store {
	t.Helper()
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// fetcher asks these peers in this order; its log can be read.
func fetcher(t *testing.T, s *Store, peers ...*peer) (*HTTP, *bytes.Buffer) {
	t.Helper()
	var log bytes.Buffer
	return NewHTTP(Options{
		Store: s, Backoff: time.Millisecond, Idle: 5 * time.Second,
		Logger: slog.New(slog.NewTextHandler(&log, nil)),
		Peers: func(Digest) (urls []string) {
			for _, p := range peers {
				urls = append(urls, p.URL)
			}
			return urls
		},
		Client: func(string) *http.Client { return peers[0].Client() },
	}), &log
}

// peer is a server that may misbehave; it remembers the ranges that it was asked for.
type peer struct {
	*httptest.Server
	mu     sync.Mutex
	ranges []string
}

func (p *peer) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.ranges)
}

func newPeer(t *testing.T, h http.HandlerFunc) *peer {
	t.Helper()
	p := &peer{}
	p.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		p.mu.Lock()
		p.ranges = append(p.ranges, r.Header.Get("Range"))
		p.mu.Unlock()
		h(w, r)
	}))
	t.Cleanup(p.Close)
	return p
}

// holder serves data as it should be.
func holder(t *testing.T, data []byte) *peer {
	t.Helper()
	s := newStore(t)
	if _, err := s.PublishReader(t.Context(), bytes.NewReader(data)); err != nil {
		t.Fatal(err)
	}
	return newPeer(t, NewHTTP(Options{Store: s}).Handler().ServeHTTP)
}

// dying promises data and hangs up after n bytes.
func dying(t *testing.T, data []byte, n int) *peer {
	t.Helper()
	return newPeer(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:n])
		if err := http.NewResponseController(w).Flush(); err != nil {
			t.Error(err)
		}
		panic(http.ErrAbortHandler)
	})
}

func missing(t *testing.T) *peer {
	t.Helper()
	return newPeer(t, http.NotFound)
}

func corrupted(data []byte) []byte {
	bad := bytes.Clone(data)
	bad[len(bad)/3] ^= 1
	return bad
}

func plain(data []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(data))
	}
}

func wantHere(t *testing.T, s *Store, data []byte) {
	t.Helper()
	f, err := s.Open(DigestOf(data))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("holds %d bytes, %v", len(got), err)
	}
	wantNoLeftovers(t, s)
}

func wantNoLeftovers(t *testing.T, s *Store) {
	t.Helper()
	for _, dir := range []string{tempDir, partialDir} {
		left, err := os.ReadDir(filepath.Join(s.dir, dir))
		if err != nil || len(left) != 0 {
			t.Errorf("%s holds %v, %v", dir, left, err)
		}
	}
}

// gated holds answers back after their first bytes, until the gate opens.
func gated(t *testing.T, data []byte, before int) (p *peer, open func()) {
	t.Helper()
	gate := make(chan struct{})
	open = sync.OnceFunc(func() { close(gate) })
	p = newPeer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:before])
		_ = http.NewResponseController(w).Flush()
		select {
		case <-gate:
			_, _ = w.Write(data[before:])
		case <-r.Context().Done():
		}
	})
	t.Cleanup(open)
	return p, open
}

// until asks again every millisecond, for ten seconds.
func until(t *testing.T, what string, ok func() bool) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	late := time.After(10 * time.Second)
	for !ok() {
		select {
		case <-tick.C:
		case <-late:
			t.Fatalf("not reached: %s", what)
		}
	}
}

func (h *HTTP) waiting(d Digest) int {
	h.flights.mu.Lock()
	defer h.flights.mu.Unlock()
	if f := h.flights.m[d]; f != nil {
		return f.waiters
	}
	return 0
}
