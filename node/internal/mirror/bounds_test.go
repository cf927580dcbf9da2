package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"runtime"
	"sync"
	"testing"
	"time"
)

func TestMissingFilesCostNothingWithoutBound(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	h.learn(u)
	ask := func(p string) int {
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, httptest.NewRequest(http.MethodGet, "/repo/debian/"+p, nil))
		return rec.Code
	}
	before, heap := u.total(), heapInUse()
	for i := range 100_000 {
		p := fmt.Sprintf("pool/main/m/missing-%d_1_amd64.deb", i)
		switch i % 100 {
		case 1:
			p = fmt.Sprintf("dists/suite-%d/InRelease", i)
		case 2:
			p = fmt.Sprintf("%s/main/binary-amd64/by-hash/SHA256/%064x", suite, i)
		case 3:
			p = fmt.Sprintf("dists/suite-%d/main/binary-amd64/Packages", i)
		}
		if code := ask(p); code != http.StatusNotFound && code != http.StatusServiceUnavailable {
			t.Fatalf("%s: %d, want 404 or 503", p, code)
		}
	}
	if n := u.total() - before; n > 1000 {
		t.Errorf("%d requests upstream for 100,000 that are not there", n)
	}
	if grown := heapInUse() - heap; grown > 20<<20 {
		t.Errorf("memory has grown by %d MiB", grown>>20)
	}
	h.want(small.path(), small.data)
}

func heapInUse() int64 {
	var s runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&s)
	return int64(s.HeapAlloc)
}

func TestNamedFileThatUpstreamLacksIsAskedForOnce(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	h.learn(u)
	u.change(func(f map[string][]byte) { delete(f, small.path()) })
	for range 5 {
		h.wantCode(small.path(), 404, "not there")
	}
	if n := u.count(small.path()); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	u.change(func(f map[string][]byte) { f[small.path()] = small.data })
	h.clock.add(time.Hour)
	h.want(small.path(), small.data)
}

func TestUpstreamIsNotAskedForMoreAtOnceThanAllowed(t *testing.T) {
	var pkgs []pkg
	for i := range 30 {
		pkgs = append(pkgs, makePkg(fmt.Sprint("p", i), 1000))
	}
	h, u, _ := scene(t, pkgs, func(o *Options, _ *limits) { o.PerUpstream = 3 })
	h.learn(u)
	var mu sync.Mutex
	now, most := 0, 0
	u.misbehave(func(w http.ResponseWriter, _ *http.Request, _ string, data []byte) bool {
		mu.Lock()
		now++
		most = max(most, now)
		mu.Unlock()
		<-time.After(5 * time.Millisecond)
		_, _ = w.Write(data)
		mu.Lock()
		now--
		mu.Unlock()
		return true
	})
	var wg sync.WaitGroup
	for _, p := range pkgs {
		wg.Go(func() { h.want(p.path(), p.data) })
	}
	wg.Wait()
	if most > 3 {
		t.Errorf("%d requests at once, want 3 at most", most)
	}
}

func TestFilesOnTheirWayAreBounded(t *testing.T) {
	h, u, _ := scene(t, []pkg{small, big}, func(_ *Options, l *limits) { l.flights = 1 })
	h.learn(u)
	h.settle()
	arrived, hold := make(chan struct{}), make(chan struct{})
	u.misbehave(only(big.path(), func(w http.ResponseWriter, _ *http.Request, data []byte) {
		close(arrived)
		<-hold
		_, _ = w.Write(data)
	}))
	var wg sync.WaitGroup
	wg.Go(func() { h.want(big.path(), big.data) })
	<-arrived
	h.wantCode(small.path(), 503, "on their way")
	close(hold)
	wg.Wait()
}

func TestRateIsKept(t *testing.T) {
	h, u, _ := scene(t, []pkg{big}, func(o *Options, _ *limits) { o.Repos[0].Rate, o.Now = 4<<20, time.Now })
	h.learn(u)
	h.repos[0].upstreams[0].pace.have = 0
	begin := time.Now()
	h.want(big.path(), big.data)
	if d := time.Since(begin); d < 200*time.Millisecond {
		t.Errorf("1 MiB took %v at 4 MiB/s", d)
	}
}

// TestLimitIsOfTheRepositoryAndNotOfItsClients: all upstreams take from one bucket, each step is paid for, and what is here is
// served though nothing has been paid for years.
func TestLimitIsOfTheRepositoryAndNotOfItsClients(t *testing.T) {
	key := newSigner(t)
	files := map[string][]byte{}
	debian(t, files, key, epoch, "", small, big)
	first, second := newUpstream(t, maps.Clone(files)), newUpstream(t, maps.Clone(files))
	repo := Repo{Upstreams: []string{first.URL, second.URL}, Keyring: key.ring, Rate: 1 << 30}
	h := newHouse(t, repo)
	h.learn(second)
	first.change(func(f map[string][]byte) { delete(f, big.path()) })
	up := h.repos[0].upstreams
	up[0].pace.fill() // from here on its clock stands, so that nothing is paid back
	before := up[0].pace.have
	h.want(big.path(), big.data)
	h.settle()
	if up[0].pace != up[1].pace {
		t.Error("each upstream has a limit of its own")
	}
	if paid := before - up[0].pace.have; int(paid) < len(big.data) || up[1].bytes.Load() < int64(len(big.data)) {
		t.Errorf("%d bytes came from the second upstream, %.0f were paid for", up[1].bytes.Load(), paid)
	}
	below := newHouse(t, repo, func(o *Options, _ *limits) {
		o.Parents = func() []string { return []string{h.web.URL} }
	})
	for _, mirror := range []*house{h, below} { // who asks a mirror is a client of it
		for _, s := range mirror.repos[0].upstreams {
			s.pace.have = -1e18 // a wait that no test survives
		}
	}
	h.want(big.path(), big.data)
	below.learn(second)
	below.want(big.path(), big.data)
	if n := first.count(big.path()) + second.count(big.path()); n != 2 { // the one that has it, and the one that lacks it
		t.Errorf("upstreams were asked %d times", n)
	}
}

// TestNobodyReadsMuchAtOnceUnderALimit: a step that is large makes everybody wait for long.
func TestNobodyReadsMuchAtOnceUnderALimit(t *testing.T) {
	for step, want := range map[int]int{0: 1 << 20, payStep: payStep} {
		timer := time.NewTimer(time.Hour)
		defer timer.Stop()
		paid := 0
		b := &pacedBody{
			ReadCloser: io.NopCloser(bytes.NewReader(big.data)), source: &source{idle: time.Hour}, timer: timer, step: step,
			pay: func(n int) error { paid = n; return nil }, stalls: func() bool { return false },
		}
		if n, err := b.Read(make([]byte, 1<<20)); n != want || paid != want || err != nil {
			t.Errorf("with steps of %d: %d bytes, %d paid for, %v", step, n, paid, err)
		}
	}
}

func TestBucketBorrowsAndWaits(t *testing.T) {
	c := &clock{t: epoch}
	b := newBucket(2, 2, c.now)
	for i, want := range []bool{true, true, false} {
		if b.try() != want {
			t.Errorf("token %d: %v, want %v", i, !want, want)
		}
	}
	c.add(time.Second / 2)
	if !b.try() {
		t.Error("no token after half a second at two per second")
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("gone")
	cancel(why)
	if err := b.wait(ctx, 1000); !errors.Is(err, why) {
		t.Errorf("%v, want the cause", err)
	}
}
