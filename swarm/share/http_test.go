package share

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

func TestPeerThatSendsBadBytesIsNamedAndDropped(t *testing.T) {
	data := someBytes(1 << 20)
	bad, good := newPeer(t, plain(corrupted(data))), holder(t, data)
	s := newStore(t)
	h, log := fetcher(t, s, bad, good)
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantHere(t, s, data)
	if !strings.Contains(log.String(), "level=WARN") || !strings.Contains(log.String(), bad.URL) || strings.Contains(log.String(), good.URL) {
		t.Errorf("log: %s", log)
	}
	if err := s.Remove(DigestOf(data)); err != nil {
		t.Fatal(err)
	}
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	if n := len(bad.asked()); n != 1 {
		t.Errorf("the bad peer was asked %d times", n)
	}
}

func TestOnlyBadPeersIsAnErrorAndLeavesNothing(t *testing.T) {
	data := someBytes(1000)
	s := newStore(t)
	h, _ := fetcher(t, s, newPeer(t, plain(corrupted(data))))
	err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil)
	if !errors.Is(err, ErrMismatch) && !errors.Is(err, ErrNotFound) {
		t.Errorf("%v", err)
	}
	if h.Has(DigestOf(data)) {
		t.Error("bad bytes became an artifact")
	}
}

func TestTransferGoesOnAtThePeerThatIsLeft(t *testing.T) {
	data := someBytes(3 << 20)
	first, second := dying(t, data, 1<<20), holder(t, data)
	s := newStore(t)
	h, log := fetcher(t, s, missing(t), first, second)
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantHere(t, s, data)
	if got, want := second.asked(), []string{"bytes=1048576-"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
	if log.Len() != 0 {
		t.Errorf("a death is no crime: %s", log)
	}
}

func TestTruncatedAnswerIsNoArtifact(t *testing.T) {
	data := someBytes(1000)
	// Says that the half is all there is.
	half := newPeer(t, plain(data[:500]))
	// Chunked: the end looks regular.
	chunked := newPeer(t, func(w http.ResponseWriter, _ *http.Request) {
		_, _ = w.Write(data[:500])
		_ = http.NewResponseController(w).Flush()
	})
	s := newStore(t)
	h, _ := fetcher(t, s, half, chunked)
	if err := h.Fetch(t.Context(), DigestOf(data), 1000, nil); err == nil || h.Has(DigestOf(data)) {
		t.Errorf("half a file is an artifact: %v", err)
	}
}

// The first peer's half is bad, the second's good: no one can say whose fault it was, so the next is fetched from one.
func TestMixedMismatchIsSortedOut(t *testing.T) {
	data := someBytes(1 << 20)
	liar, good := dying(t, corrupted(data), 1<<19), holder(t, data)
	s := newStore(t)
	h, _ := fetcher(t, s, liar, good)
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantHere(t, s, data)
	if len(h.banned) != 0 {
		t.Errorf("banned without proof: %v", h.banned)
	}
	if got := good.asked(); len(got) != 2 || got[1] != "" {
		t.Errorf("asked the good peer for %q", got)
	}
}

func TestPeerWithoutRangeSendsAll(t *testing.T) {
	data := someBytes(1 << 20)
	simple := newPeer(t, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(data) })
	s := newStore(t)
	h, _ := fetcher(t, s, dying(t, data, 1000), simple)
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantHere(t, s, data)
}

func TestMisleadingAnswersAreRefused(t *testing.T) {
	data := someBytes(1 << 20)
	good := holder(t, data)
	for name, answer := range map[string]http.HandlerFunc{
		"redirect": func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, good.URL+r.URL.Path, http.StatusTemporaryRedirect)
		},
		"other range": func(w http.ResponseWriter, r *http.Request) {
			if r.Header.Get("Range") == "" {
				dyingAnswer(w, data, 1000)
			}
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data)
		},
		"error page": func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, strings.Repeat("x", len(data)), http.StatusInternalServerError)
		},
		"endless": func(w http.ResponseWriter, _ *http.Request) {
			for {
				if _, err := w.Write(data[:1<<16]); err != nil {
					return
				}
			}
		},
	} {
		s := newStore(t)
		h, log := fetcher(t, s, newPeer(t, answer))
		if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err == nil || h.Has(DigestOf(data)) {
			t.Errorf("%s: %v", name, err)
		}
		if name != "endless" && log.Len() != 0 {
			t.Errorf("%s: its bytes were taken before they were refused: %s", name, log)
		}
	}
}

func dyingAnswer(w http.ResponseWriter, data []byte, n int) {
	w.Header().Set("Content-Length", fmt.Sprint(len(data)))
	_, _ = w.Write(data[:n])
	_ = http.NewResponseController(w).Flush()
	panic(http.ErrAbortHandler)
}

func TestSilentPeerIsLeft(t *testing.T) {
	data := someBytes(1 << 20)
	silent := newPeer(t, func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:1000])
		_ = http.NewResponseController(w).Flush()
		<-r.Context().Done()
	})
	s := newStore(t)
	h, _ := fetcher(t, s, silent, holder(t, data))
	h.opts.Idle = 50 * time.Millisecond
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantHere(t, s, data)
}

// A peer that brings one byte per answer must not hold a transfer for ever.
func TestTriesAreBounded(t *testing.T) {
	data := someBytes(1 << 20)
	drip := newPeer(t, func(w http.ResponseWriter, r *http.Request) {
		var from int
		_, _ = fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from)
		if from > 0 {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
		}
		_, _ = w.Write(data[from : from+1])
		_ = http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	s := newStore(t)
	h, _ := fetcher(t, s, drip)
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); err == nil {
		t.Error("fetched")
	}
	if n := len(drip.asked()); n != maxRounds {
		t.Errorf("asked %d times, want %d", n, maxRounds)
	}
}

func TestManyCallersAreOneTransfer(t *testing.T) {
	data := someBytes(1 << 20)
	d := DigestOf(data)
	p, open := gated(t, data, 1000)
	s := newStore(t)
	h, _ := fetcher(t, s, p)
	var wg sync.WaitGroup
	call := func(ctx context.Context, want error) {
		wg.Go(func() {
			if err := h.Fetch(ctx, d, int64(len(data)), func(int64) {}); !errors.Is(err, want) {
				t.Errorf("%v, want %v", err, want)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	call(ctx, context.Canceled)
	until(t, "the transfer begins", func() bool { return h.waiting(d) == 1 })
	for range 9 {
		call(t.Context(), nil)
	}
	until(t, "all have come", func() bool { return h.waiting(d) == 10 })
	cancel() // the one who began it gives up: the others must not notice
	until(t, "one has left", func() bool { return h.waiting(d) == 9 })
	open()
	wg.Wait()
	wantHere(t, s, data)
	if n := len(p.asked()); n != 1 {
		t.Errorf("%d transfers", n)
	}
}

func TestCancelledTransferEndsAndIsContinuedAfterRestart(t *testing.T) {
	data := someBytes(1 << 20)
	d := DigestOf(data)
	p, _ := gated(t, data, 1<<19)
	s := newStore(t)
	h, _ := fetcher(t, s, p)
	h.opts.Idle = time.Minute
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- h.Fetch(ctx, d, int64(len(data)), func(done int64) {
			if done == 1<<19 {
				cancel()
			}
		})
	}()
	select {
	case err := <-ended:
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("%v", err)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("a cancelled transfer goes on")
	}
	if len(h.flights.m) != 0 || len(h.slots) != 0 {
		t.Error("a transfer is left running")
	}
	if all, err := s.List(); err != nil || len(all) != 0 || h.Has(d) {
		t.Errorf("half a file is an artifact: %v, %v", all, err)
	}
	again, err := OpenStore(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	good := holder(t, data)
	h, _ = fetcher(t, again, good)
	if err := h.Fetch(t.Context(), d, int64(len(data)), nil); err != nil {
		t.Fatal(err)
	}
	wantHere(t, again, data)
	if got, want := good.asked(), []string{"bytes=524288-"}; !slices.Equal(got, want) {
		t.Errorf("asked for %q, want %q", got, want)
	}
}

func TestBadRemainsOfAnEarlierTransferBlameNobody(t *testing.T) {
	data := someBytes(1000)
	for name, rest := range map[string][]byte{
		"half, bad": corrupted(data)[:500], "whole, bad": corrupted(data), "whole, good": data, "too long": append(bytes.Clone(data), 1),
	} {
		s := newStore(t)
		if err := os.WriteFile(s.partial(DigestOf(data)), rest, 0o600); err != nil {
			t.Fatal(err)
		}
		h, _ := fetcher(t, s, holder(t, data))
		if err := h.Fetch(t.Context(), DigestOf(data), 1000, nil); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		wantHere(t, s, data)
		if len(h.banned) != 0 {
			t.Errorf("%s: banned %v", name, h.banned)
		}
	}
}

func TestCallersMustAgreeOnTheSize(t *testing.T) {
	data := someBytes(1000)
	d := DigestOf(data)
	p, open := gated(t, data, 10)
	h, _ := fetcher(t, newStore(t), p)
	first := make(chan error, 1)
	go func() { first <- h.Fetch(t.Context(), d, 1000, nil) }()
	until(t, "the transfer begins", func() bool { return h.waiting(d) == 1 })
	if err := h.Fetch(t.Context(), d, 999, nil); !errors.Is(err, ErrMismatch) {
		t.Errorf("%v", err)
	}
	open()
	if err := <-first; err != nil {
		t.Errorf("the honest caller suffered: %v", err)
	}
}

func TestTransfersAreBounded(t *testing.T) {
	const limit, callers = 2, 20
	var now, most atomic.Int32
	gate := make(chan struct{})
	p := newPeer(t, func(w http.ResponseWriter, r *http.Request) {
		n := now.Add(1)
		defer now.Add(-1)
		for old := most.Load(); n > old && !most.CompareAndSwap(old, n); old = most.Load() {
		}
		<-gate
		http.NotFound(w, r)
	})
	h, _ := fetcher(t, newStore(t), p)
	h.slots = make(chan struct{}, limit)
	var wg sync.WaitGroup
	for i := range callers {
		wg.Go(func() { _ = h.Fetch(t.Context(), DigestOf([]byte{byte(i)}), 1, nil) })
	}
	until(t, "all have come, and as many as may are asking", func() bool {
		h.flights.mu.Lock()
		defer h.flights.mu.Unlock()
		return len(h.flights.m) == callers && now.Load() >= limit
	})
	close(gate)
	wg.Wait()
	if most.Load() != limit {
		t.Errorf("%d transfers at once, want %d", most.Load(), limit)
	}
}

// Between the moment when the last caller gives up and the transfer's end a new one comes: he must not be told that he
// cancelled it.
func TestNewCallerDoesNotInheritACancelledTransfer(t *testing.T) {
	data := someBytes(1000)
	d := DigestOf(data)
	p := holder(t, data)
	h, _ := fetcher(t, newStore(t), p)
	gate, inside := make(chan struct{}), make(chan struct{}, 10)
	peers := h.opts.Peers
	h.opts.Peers = func(d Digest) []string { // the place where a transfer does not hear its context
		inside <- struct{}{}
		<-gate
		return peers(d)
	}
	ctx, cancel := context.WithCancel(t.Context())
	first, second := make(chan error, 1), make(chan error, 1)
	go func() { first <- h.Fetch(ctx, d, 1000, nil) }()
	<-inside
	cancel()
	until(t, "the last caller gives up", func() bool { return h.waiting(d) == 0 })
	// Its deadline is looked at only where it has to wait for the end of the old transfer.
	late, stop := context.WithCancel(t.Context())
	go func() { second <- h.Fetch(late, d, 1000, nil) }()
	stop()
	if err := <-second; !errors.Is(err, context.Canceled) {
		t.Errorf("a caller who waits for the old transfer cannot give up: %v", err)
	}
	go func() { second <- h.Fetch(t.Context(), d, 1000, nil) }()
	close(gate)
	if err := <-first; !errors.Is(err, context.Canceled) {
		t.Errorf("first: %v", err)
	}
	if err := <-second; err != nil {
		t.Errorf("second: %v", err)
	}
}

func TestHandlerServesDigestsOnly(t *testing.T) {
	data := someBytes(1000)
	s := newStore(t)
	a, err := s.PublishReader(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	unfinished := DigestOf([]byte("unfinished"))
	if err := os.WriteFile(s.partial(unfinished), []byte("unfin"), 0o600); err != nil {
		t.Fatal(err)
	}
	h := NewHTTP(Options{Store: s}).Handler()
	do := func(method, path string, header ...string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(method, "/", nil)
		r.URL.Path = path // unescaped and uncleaned, as a hostile client could bring it here
		for i := 0; i < len(header); i += 2 {
			r.Header.Set(header[i], header[i+1])
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		return w
	}
	path := pathPrefix + string(a.Digest)
	if w := do("GET", path); w.Code != 200 || !bytes.Equal(w.Body.Bytes(), data) || w.Header().Get("ETag") != `"`+string(a.Digest)+`"` {
		t.Errorf("GET: %d, %d bytes, %v", w.Code, w.Body.Len(), w.Header())
	}
	if w := do("HEAD", path); w.Code != 200 || w.Body.Len() != 0 || w.Header().Get("Content-Length") != "1000" {
		t.Errorf("HEAD: %d, %d bytes, %v", w.Code, w.Body.Len(), w.Header())
	}
	if w := do("GET", path, "Range", "bytes=990-"); w.Code != 206 || !bytes.Equal(w.Body.Bytes(), data[990:]) {
		t.Errorf("Range: %d, %d bytes", w.Code, w.Body.Len())
	}
	if w := do("GET", path, "If-None-Match", `"`+string(a.Digest)+`"`); w.Code != 304 {
		t.Errorf("If-None-Match: %d", w.Code)
	}
	if w := do("PUT", path); w.Code != 405 {
		t.Errorf("PUT: %d", w.Code)
	}
	for _, bad := range []string{
		"", "/", pathPrefix, "/v1/artifact", path + "/", path + "/..", pathPrefix + "/" + string(a.Digest), strings.ToUpper(path),
		pathPrefix + "../" + string(a.Digest), pathPrefix + string(a.Digest[:2]) + "/" + string(a.Digest), pathPrefix + "../published.json",
		pathPrefix + "../../../../etc/passwd", pathPrefix + string(unfinished), pathPrefix + string(DigestOf([]byte("other"))),
		pathPrefix + string(a.Digest[:63]) + "\x00",
	} {
		if w := do("GET", bad); w.Code != 404 {
			t.Errorf("%q: %d", bad, w.Code)
		}
	}
}
