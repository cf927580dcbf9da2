package share

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// defaultParallel bounds the transfers under way: a few fill any link, more only make each of them late.
	defaultParallel = 4
	// defaultIdle is how long a peer may send nothing before the next one is asked.
	defaultIdle = 15 * time.Second
	// defaultBackoff is the first pause after all peers failed; it doubles each round.
	defaultBackoff = 500 * time.Millisecond
	// maxRounds is how often in a row all peers may fail to bring the transfer on.
	maxRounds = 4
	// banTime is how long a peer that sent bad bytes is left alone.
	banTime = time.Hour
)

// Options says how an HTTP share finds its peers.
type Options struct {
	Store *Store
	// Peers names the nodes to ask for an artifact, best first, as base URLs ("https://10.42.0.1:7400"). It is asked again
	// in each round of a transfer. nil: none.
	Peers func(Digest) []string
	// Client gives the client for a base URL, once per request, never nil. It authenticates both sides. It should have no
	// Timeout over all: large artifacts take long, and Idle bounds everything else.
	Client func(base string) *http.Client
	// Caller is the name of the member that asks Handler. nil: nobody has one.
	Caller func(*http.Request) string
	// Moved hears of all bytes of artifacts that came from peers and went to them, some seconds later at most a minute. It is
	// called from any goroutine, must not block and must not call back. nil: nobody counts.
	Moved func(Move)
	// Logger hears of transfers (debug) and of peers that sent bad bytes (warn). nil discards.
	Logger *slog.Logger
	// Parallel, Idle and Backoff: 0 takes 4 transfers, 15 s, 500 ms.
	Parallel int
	Idle     time.Duration
	Backoff  time.Duration
}

// HTTP is the Share over plain GET with Range, served by Handler on every node. It is safe for concurrent use and owns no
// goroutine when no Fetch is under way.
type HTTP struct {
	opts  Options
	log   *slog.Logger
	slots chan struct{} // transfers under way

	flights *flights

	mu     sync.Mutex
	banned map[string]time.Time // base URL to the end of its ban
	asking map[Digest]bool      // an answer is being read
}

var _ Share = (*HTTP)(nil)

// NewHTTP panics without a Store or, with Peers, without a Client: both are programming errors.
func NewHTTP(opts Options) *HTTP {
	if opts.Store == nil || (opts.Peers != nil && opts.Client == nil) {
		panic("share: HTTP needs a Store, and a Client for its Peers")
	}
	if opts.Peers == nil {
		opts.Peers = func(Digest) []string { return nil }
	}
	if opts.Caller == nil {
		opts.Caller = func(*http.Request) string { return "" }
	}
	if opts.Moved == nil {
		opts.Moved = func(Move) {}
	}
	if opts.Parallel <= 0 {
		opts.Parallel = defaultParallel
	}
	if opts.Idle <= 0 {
		opts.Idle = defaultIdle
	}
	if opts.Backoff <= 0 {
		opts.Backoff = defaultBackoff
	}
	log := opts.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	h := &HTTP{opts: opts, log: log, slots: make(chan struct{}, opts.Parallel), banned: map[string]time.Time{}, asking: map[Digest]bool{}}
	h.flights = newFlights(opts.Store, h.transfer)
	return h
}

// Publish implements Share.
func (h *HTTP) Publish(ctx context.Context, path string) (Artifact, error) {
	return h.opts.Store.Publish(ctx, path)
}

// Open implements Share.
func (h *HTTP) Open(d Digest) (io.ReadSeekCloser, error) {
	f, err := h.opts.Store.Open(d)
	if err != nil {
		return nil, err // not f: a nil *os.File in the interface would not be nil
	}
	return f, nil
}

// Has implements Share.
func (h *HTTP) Has(d Digest) bool { return h.opts.Store.Has(d) }

// Fetch implements Share. What was received of a transfer that ended early stays aside, and is continued by the next
// Fetch, also after a restart of the process.
func (h *HTTP) Fetch(ctx context.Context, d Digest, size int64, progress func(done int64)) error {
	return h.flights.Fetch(ctx, d, size, progress)
}

// transfer is the flight's goroutine.
func (h *HTTP) transfer(ctx context.Context, d Digest, size int64, tell func(done int64)) error {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	t := &transfer{http: h, digest: d, size: size, tell: tell}
	err := explain(t.run(ctx))
	if errors.Is(err, ErrDiskFull) && t.part != nil {
		t.part.discard() // else the disk stays full of what no one can finish
	}
	if t.part != nil {
		_ = t.part.Close() // closed already when it was adopted
	}
	return err
}

func (h *HTTP) ban(base string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.banned[base] = time.Now().Add(banTime)
}

// usable is the peers to ask for d now, without those that are banned.
func (h *HTTP) usable(d Digest) []string {
	peers := h.opts.Peers(d)
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []string
	for _, p := range peers {
		if until, ok := h.banned[p]; ok {
			if time.Now().Before(until) {
				continue
			}
			delete(h.banned, p)
		}
		out = append(out, p)
	}
	return out
}

// Transfers are the fetches under way, sorted by digest.
func (h *HTTP) Transfers() []Transfer { return h.flights.transfers(time.Now(), h.peersOf) }

func (h *HTTP) peersOf(d Digest) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.asking[d] {
		return 1
	}
	return 0
}

// hears notes that an artifact is being read from a peer, until done is called.
func (h *HTTP) hears(d Digest) (done func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asking[d] = true
	return func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		delete(h.asking, d)
	}
}
