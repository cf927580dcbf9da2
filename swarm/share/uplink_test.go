package share

import (
	"bytes"
	"context"
	"crypto/tls"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// link is a connection of an uplink and its other end, which is bounded by nobody.
func (b *border) link(far bool) (ours, theirs net.Conn) {
	a, z := net.Pipe()
	ours = b.Conn(a, func() bool { b.asked.Add(1); return far })
	b.t.Cleanup(func() { _ = ours.Close(); _ = z.Close() })
	return ours, z
}

// border is an uplink whose limit changes.
type border struct {
	*Uplink
	t            *testing.T
	limit, asked atomic.Int64
}

func newBorder(t *testing.T, limit int64) *border {
	b := &border{t: t}
	b.limit.Store(limit)
	b.Uplink = NewUplink(b.limit.Load)
	return b
}

// send moves n bytes from one end to the other and says how long the virtual clock ran until both sides were done.
func send(t *testing.T, from io.Writer, to io.Reader, n int) time.Duration {
	t.Helper()
	began := time.Now()
	var both sync.WaitGroup
	both.Go(func() {
		if _, err := from.Write(make([]byte, n)); err != nil {
			t.Error(err)
		}
	})
	if got, err := io.CopyN(io.Discard, to, int64(n)); err != nil {
		t.Errorf("%d of %d bytes: %v", got, n, err)
	}
	both.Wait()
	return time.Since(began)
}

// wantTook checks that bytes beyond the burst took the time that the limit says.
func wantTook(t *testing.T, what string, took time.Duration, bytes, limit int64) {
	t.Helper()
	least := time.Duration(float64(bytes-int64(burstOf(limit))) / float64(limit) * float64(time.Second))
	if took < least-time.Millisecond || took > least+time.Duration(float64(2*uplinkStep)/float64(limit)*float64(time.Second)) {
		t.Errorf("%s: %d bytes took %v at %d bytes per second, want %v", what, bytes, took, limit, least)
	}
}

func TestFarPeersShareOneLimitEachWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit, size = 1_000_000, 5_000_000
		b := newBorder(t, limit)
		a, farA := b.link(true)
		z, farZ := b.link(true)
		began := time.Now()
		var all sync.WaitGroup
		all.Go(func() { send(t, farA, a, size) })
		all.Go(func() { send(t, farZ, z, size) })
		all.Go(func() { wantTook(t, "sent meanwhile", send(t, a, farA, size), size, limit) }) // its own way
		all.Wait()
		wantTook(t, "received from two", time.Since(began), 2*size, limit)
	})
}

func TestPeersOfOurOwnSegmentAreNotBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBorder(t, 100_000)
		near, other := b.link(false)
		if took := send(t, near, other, 50_000_000) + send(t, other, near, 50_000_000); took != 0 {
			t.Errorf("it took %v", took)
		}
		free := newBorder(t, 0)
		far, other := free.link(true)
		if took := send(t, far, other, 50_000_000) + send(t, other, far, 50_000_000); took != 0 {
			t.Errorf("without a limit it took %v", took)
		}
		if n := free.asked.Load() + b.asked.Load(); n > 2 {
			t.Errorf("peers were looked up %d times within one moment", n)
		}
	})
}

// TestNewLimitHoldsForConnectionsThatStand, and no limit any more as well.
func TestNewLimitHoldsForConnectionsThatStand(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBorder(t, 0)
		ours, theirs := b.link(true)
		if took := send(t, ours, theirs, 10_000_000); took != 0 {
			t.Errorf("without a limit it took %v", took)
		}
		for _, limit := range []int64{1_000_000, 4_000_000, 200_000} {
			b.limit.Store(limit)
			<-time.After(lookAgain)
			send(t, ours, theirs, 1)  // the bucket hears of it
			<-time.After(time.Second) // and fills
			wantTook(t, "a new limit", send(t, ours, theirs, 3_000_000), 3_000_000, limit)
		}
		b.limit.Store(0)
		<-time.After(lookAgain)
		if took := send(t, ours, theirs, 10_000_000); took != 0 {
			t.Errorf("when the limit had gone it took %v", took)
		}
	})
}

// TestWordsPassWhileManyOweForPieces: a handshake or a request does not queue behind the pieces of all others.
func TestWordsPassWhileManyOweForPieces(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBorder(t, 100_000)
		var crowd sync.WaitGroup
		for range 50 {
			ours, theirs := b.link(true)
			crowd.Go(func() { send(t, ours, theirs, 64<<10) })
			crowd.Go(func() { send(t, theirs, ours, 64<<10) })
		}
		<-time.After(time.Second)
		ours, theirs := b.link(true)
		for _, size := range []int{1, 68, uplinkSmall} {
			if took := send(t, ours, theirs, size) + send(t, theirs, ours, size); took > 2*smallWait {
				t.Errorf("%d bytes there and back took %v", size, took)
			}
		}
		began := time.Now()
		crowd.Wait() // what passed was counted: the others are not faster for it
		if all := time.Since(began) + time.Second; all < 31*time.Second {
			t.Errorf("50 times 64 KiB took %v at 100 kB/s", all)
		}
	})
}

func TestClosedConnectionWaitsForNothing(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBorder(t, 100_000)
		ours, theirs := b.link(true)
		go func() { _, _ = io.Copy(io.Discard, theirs) }()
		ended := make(chan error, 1)
		go func() {
			_, err := ours.Write(make([]byte, 50_000_000))
			ended <- err
		}()
		<-time.After(time.Second)
		began := time.Now()
		if err := ours.Close(); err != nil {
			t.Error(err)
		}
		if err := <-ended; err == nil || time.Since(began) != 0 {
			t.Errorf("the write ended with %v after %v", err, time.Since(began))
		}
		if err := ours.Close(); err != nil {
			t.Errorf("closed again: %v", err)
		}
	})
}

// TestWordsAreCountedLikePieces, or who speaks in words only would have no limit.
func TestWordsAreCountedLikePieces(t *testing.T) {
	t.Parallel()
	const limit = 100_000
	now := time.Now()
	var l lane
	for range 400 {
		if wait := l.owe(limit, uplinkSmall, now); wait > smallWait {
			t.Fatalf("a word waits for %v", wait)
		}
	}
	owed := time.Duration(float64(400*uplinkSmall+uplinkStep-burstOf(limit)) / limit * float64(time.Second))
	if wait := l.owe(limit, uplinkStep, now); (wait - owed).Abs() > time.Millisecond {
		t.Errorf("after 400 words a step waits for %v, want %v", wait, owed)
	}
}

func TestNobodyReadsMoreThanAStepUnderALimit(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		for limit, want := range map[int64]int{0: 1 << 20, 100_000: uplinkStep} {
			ours, theirs := newBorder(t, limit).link(true)
			go func() { _, _ = theirs.Write(make([]byte, 1<<20)) }()
			if n, err := ours.Read(make([]byte, 1<<20)); n != want || err != nil {
				t.Errorf("at %d: %d bytes, %v, want %d", limit, n, err, want)
			}
		}
	})
}

func TestNoStepIsLargerThanItsBucket(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for limit := int64(1); limit > 0; limit *= 3 {
		var l lane
		for _, n := range []int{uplinkStep, uplinkStep, uplinkSmall, 1} {
			want := time.Duration(float64(4*uplinkStep)/float64(limit)*float64(time.Second)) + time.Millisecond
			if wait := l.owe(limit, n, now); wait < 0 || wait > max(want, smallWait) && want > 0 {
				t.Errorf("%d bytes at %d per second: wait for %v", n, limit, wait)
			}
		}
		if burstOf(limit) < uplinkStep {
			t.Errorf("a bucket for %d bytes per second holds %d", limit, burstOf(limit))
		}
	}
	var l lane
	for limit := int64(1 << 40); limit > 1000; limit /= 2 { // made smaller again and again
		if wait := l.owe(limit, uplinkStep, now); wait > time.Hour {
			t.Errorf("a step at %d: wait for %v", limit, wait)
		}
	}
}

func TestBodiesOfHTTPAreBoundedBothWays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const limit, size = 1_000_000, 3_000_000
		b := newBorder(t, limit)
		far := true
		whole := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) })
		fetch := func(by http.RoundTripper) time.Duration {
			began := time.Now()
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://m1/v1/artifact/x", nil)
			if err != nil {
				t.Fatal(err)
			}
			resp, err := by.RoundTrip(req)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = resp.Body.Close() }()
			if n, err := io.Copy(io.Discard, resp.Body); n != size || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
			return time.Since(began)
		}
		answering := func(h http.Handler) http.RoundTripper {
			return roundTripper(func(r *http.Request) (*http.Response, error) {
				w := httptest.NewRecorder()
				h.ServeHTTP(w, r)
				return w.Result(), nil
			})
		}
		wantTook(t, "received", fetch(b.RoundTripper(answering(whole), func() bool { return far })), size, limit)
		wantTook(t, "sent", fetch(answering(b.Handler(whole, func(*http.Request) bool { return far }))), size, limit)
		far = false
		if took := fetch(b.RoundTripper(answering(whole), func() bool { return far })); took != 0 {
			t.Errorf("received from near by in %v", took)
		}
		if took := fetch(answering(b.Handler(whole, func(*http.Request) bool { return far }))); took != 0 {
			t.Errorf("sent to near by in %v", took)
		}
		broken := roundTripper(func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF })
		if _, err := b.RoundTripper(broken, func() bool { return true }).RoundTrip(httptest.NewRequest(http.MethodGet, "/", nil)); err == nil {
			t.Error("an error was lost")
		}
	})
}

// TestWhoIsBehindAFarConnectionIsSeenThroughIt, or the guard would not know whom it strikes.
func TestWhoIsBehindAFarConnectionIsSeenThroughIt(t *testing.T) {
	t.Parallel()
	b, config := newBorder(t, 1_000_000), swarmTLS(t)
	raw, other := net.Pipe()
	server := tls.Server(other, config)
	go func() { _ = server.HandshakeContext(t.Context()) }()
	client := tls.Client(raw, config)
	if err := client.HandshakeContext(t.Context()); err != nil {
		t.Fatal(err)
	}
	far := b.Conn(client, func() bool { return true })
	proven, ok := far.(interface{ ConnectionState() tls.ConnectionState })
	if !ok || len(proven.ConnectionState().PeerCertificates) == 0 {
		t.Error("its certificate is not seen")
	}
	if plain := b.Conn(raw, nil).(*farConn).ConnectionState(); plain.HandshakeComplete {
		t.Error("a plain connection shows a certificate")
	}
}

// TestMembersExchangeUnderALimit: pieces arrive whole through the wrapped connections of both sides.
func TestMembersExchangeUnderALimit(t *testing.T) {
	m, data := newMembers(), someBytes(2*mib)
	b := newBorder(t, 64<<20)
	bounded := func(o *TorrentOptions) {
		onlyPieces(o)
		plain := o.Dial
		o.Dial = func(ctx context.Context, p Peer) (net.Conn, error) {
			conn, err := plain(ctx, p)
			if err != nil {
				return nil, err
			}
			return b.Conn(conn, func() bool { return true }), nil
		}
	}
	_, a := m.seed(t, data, bounded)
	n := m.join(t, newStore(t), bounded)
	n.fetch(t, a)
	wantHere(t, n.store, data)
	if got, err := n.store.Open(a.Digest); err != nil {
		t.Error(err)
	} else {
		all, err := io.ReadAll(got)
		if err != nil || !bytes.Equal(all, data) {
			t.Errorf("%d bytes, %v", len(all), err)
		}
		_ = got.Close()
	}
}
