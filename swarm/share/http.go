package share

import (
	"context"
	"errors"
	"fmt"
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

	mu      sync.Mutex
	flights map[Digest]*flight
	banned  map[string]time.Time // base URL to the end of its ban
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
	return &HTTP{
		opts: opts, log: log, slots: make(chan struct{}, opts.Parallel),
		flights: map[Digest]*flight{}, banned: map[string]time.Time{},
	}
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

// flight is one transfer and the callers of Fetch that wait for it. Its fields are guarded by HTTP.mu, but for done,
// size and cancel, which are set once, and err, which is read after done.
type flight struct {
	size    int64
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	err     error

	report sync.Mutex // guards the two below, and is held while they are called
	told   map[int]func(int64)
	next   int
}

func (f *flight) subscribe(progress func(int64)) (unsubscribe func()) {
	if progress == nil {
		return func() {}
	}
	f.report.Lock()
	defer f.report.Unlock()
	id := f.next
	f.next++
	f.told[id] = progress
	return func() {
		f.report.Lock()
		defer f.report.Unlock()
		delete(f.told, id)
	}
}

func (f *flight) tell(done int64) {
	f.report.Lock()
	defer f.report.Unlock()
	for _, progress := range f.told {
		progress(done)
	}
}

// Fetch implements Share. What was received of a transfer that ended early stays aside, and is continued by the next
// Fetch, also after a restart of the process.
func (h *HTTP) Fetch(ctx context.Context, d Digest, size int64, progress func(done int64)) error {
	if _, err := ParseDigest(string(d)); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if size < 0 {
		return fmt.Errorf("fetch %s: size %d", d, size)
	}
	if size == 0 && d != DigestOf(nil) {
		return fmt.Errorf("fetch %s: %w: nothing has another digest", d, ErrMismatch)
	}
	err := h.fetch(ctx, d, size, progress)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", d, err)
	}
	return nil
}

func (h *HTTP) fetch(ctx context.Context, d Digest, size int64, progress func(int64)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if have, ok := h.opts.Store.stat(d); ok {
			if have != size {
				return fmt.Errorf("%w: it has %d bytes, wanted %d", ErrMismatch, have, size)
			}
			if progress != nil {
				progress(size)
			}
			return nil
		}
		f, joined := h.board(ctx, d, size)
		if !joined { // the last caller gave up and it is about to end: wait for that, then begin anew
			select {
			case <-f.done:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if f.size != size {
			h.leave(f)
			return fmt.Errorf("%w: another caller fetches it with %d bytes, wanted %d", ErrMismatch, f.size, size)
		}
		unsubscribe := f.subscribe(progress)
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		unsubscribe()
		h.leave(f)
		select {
		case <-f.done:
		default:
			return ctx.Err() // the others go on
		}
		if f.err != nil && ctx.Err() != nil {
			return ctx.Err() // the transfer only knows that it was cancelled
		}
		if f.err == nil && progress != nil {
			progress(size)
		}
		return f.err
	}
}

// board takes the caller into the transfer of d, which it starts if there is none.
func (h *HTTP) board(ctx context.Context, d Digest, size int64) (f *flight, joined bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if f, ok := h.flights[d]; ok {
		if f.waiters == 0 {
			return f, false
		}
		f.waiters++
		return f, true
	}
	// It lives as long as any of its callers, not as the first one.
	flying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = &flight{size: size, cancel: cancel, waiters: 1, done: make(chan struct{}), told: map[int]func(int64){}}
	h.flights[d] = f
	go func() {
		defer cancel()
		err := h.transfer(flying, d, f)
		h.mu.Lock()
		f.err = err
		delete(h.flights, d)
		h.mu.Unlock()
		close(f.done)
	}()
	return f, true
}

// leave ends the transfer with its last caller, and then waits for its end: nothing is left running.
func (h *HTTP) leave(f *flight) {
	h.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	h.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
}

// transfer is the flight's goroutine.
func (h *HTTP) transfer(ctx context.Context, d Digest, f *flight) error {
	select {
	case h.slots <- struct{}{}:
		defer func() { <-h.slots }()
	case <-ctx.Done():
		return ctx.Err()
	}
	t := &transfer{http: h, digest: d, size: f.size, tell: f.tell}
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
