package share

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"
)

// flights are the transfers under way, one for each digest. They are what all implementations over a Store have in common:
// who calls Fetch boards a flight, and how it flies is the implementation's.
type flights struct {
	store *Store
	// fly brings the artifact into the store. It ends when its context does.
	fly func(ctx context.Context, d Digest, size int64, tell func(done int64)) error

	mu sync.Mutex
	m  map[Digest]*flight
}

func newFlights(store *Store, fly func(context.Context, Digest, int64, func(int64)) error) *flights {
	return &flights{store: store, fly: fly, m: map[Digest]*flight{}}
}

// flight is one transfer and the callers of Fetch that wait for it. Its fields are guarded by flights.mu, but for done,
// size and cancel, which are set once, and err, which is read after done.
type flight struct {
	size    int64
	cancel  context.CancelFunc
	waiters int
	done    chan struct{}
	err     error

	report sync.Mutex // guards those below, and is held while they are called
	told   map[int]func(int64)
	next   int
	began  time.Time
	pace   pace
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
	f.pace.note(time.Now(), done)
	for _, progress := range f.told {
		progress(done)
	}
}

// transfers are the flights in the air, sorted by digest; peers says how many bring one.
func (x *flights) transfers(now time.Time, peers func(Digest) int) []Transfer {
	x.mu.Lock()
	flying := maps.Clone(x.m)
	x.mu.Unlock()
	var out []Transfer
	for _, d := range slices.Sorted(maps.Keys(flying)) {
		f := flying[d]
		f.report.Lock()
		t := Transfer{Digest: d, Size: f.size, Done: f.pace.done, Rate: f.pace.rate(now), Began: f.began}
		f.report.Unlock()
		t.Peers = peers(d)
		out = append(out, t)
	}
	return out
}

// Fetch implements Share.
func (x *flights) Fetch(ctx context.Context, d Digest, size int64, progress func(done int64)) error {
	if _, err := ParseDigest(string(d)); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if size < 0 {
		return fmt.Errorf("fetch %s: size %d", d, size)
	}
	if size == 0 && d != DigestOf(nil) {
		return fmt.Errorf("fetch %s: %w: nothing has another digest", d, ErrMismatch)
	}
	err := x.fetch(ctx, d, size, progress)
	if err != nil {
		return fmt.Errorf("fetch %s: %w", d, err)
	}
	return nil
}

func (x *flights) fetch(ctx context.Context, d Digest, size int64, progress func(int64)) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if have, ok := x.store.stat(d); ok {
			if have != size {
				return fmt.Errorf("%w: it has %d bytes, wanted %d", ErrMismatch, have, size)
			}
			if progress != nil {
				progress(size)
			}
			return nil
		}
		f, joined := x.board(ctx, d, size)
		if !joined { // the last caller gave up and it is about to end: wait for that, then begin anew
			select {
			case <-f.done:
				continue
			case <-ctx.Done():
				return ctx.Err()
			}
		}
		if f.size != size {
			x.leave(f)
			return fmt.Errorf("%w: another caller fetches it with %d bytes, wanted %d", ErrMismatch, f.size, size)
		}
		unsubscribe := f.subscribe(progress)
		select {
		case <-f.done:
		case <-ctx.Done():
		}
		unsubscribe()
		x.leave(f)
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
func (x *flights) board(ctx context.Context, d Digest, size int64) (f *flight, joined bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if f, ok := x.m[d]; ok {
		if f.waiters == 0 {
			return f, false
		}
		f.waiters++
		return f, true
	}
	// It lives as long as any of its callers, not as the first one.
	flying, cancel := context.WithCancel(context.WithoutCancel(ctx))
	f = &flight{size: size, cancel: cancel, waiters: 1, done: make(chan struct{}), told: map[int]func(int64){}, began: time.Now()}
	x.m[d] = f
	go func() {
		defer cancel()
		err := x.fly(flying, d, size, f.tell)
		x.mu.Lock()
		f.err = err
		delete(x.m, d)
		x.mu.Unlock()
		close(f.done)
	}()
	return f, true
}

// leave ends the transfer with its last caller, and then waits for its end: nothing is left running.
func (x *flights) leave(f *flight) {
	x.mu.Lock()
	f.waiters--
	last := f.waiters == 0
	x.mu.Unlock()
	if last {
		f.cancel()
		<-f.done
	}
}
