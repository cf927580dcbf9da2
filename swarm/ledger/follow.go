package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"
)

// Follow brings this node's state up to date from a feed, until ctx is done (nil) or the feed is of no use any more. It is
// for a node that is no Member; raft may make it one meanwhile, and nothing is then applied twice or left out. One feed at
// a time.
//
// If r is an io.Closer it is closed when ctx is done, and when nothing arrives for ten heartbeats. Otherwise r has to end
// by itself. Errors: ErrFeed (gap, damage, silence; begin another one after Applied, perhaps elsewhere), ErrNoLeader if the
// node that feeds has known no leader for as long, ErrBusy if another Follow is under way, ErrStopped, those of r, and
// those of the state machine's Restore.
func (l *Ledger) Follow(ctx context.Context, r io.Reader) error {
	err := l.follow(ctx, r)
	if err == nil || (ctx.Err() != nil && !errors.Is(err, ErrStopped)) {
		return nil
	}
	return fmt.Errorf("follow feed: %w", err)
}

func (l *Ledger) follow(ctx context.Context, r io.Reader) error {
	if err := l.ready(ctx); err != nil {
		return err
	}
	if !l.following.CompareAndSwap(false, true) {
		return fmt.Errorf("%w: another feed is being followed", ErrBusy)
	}
	defer l.following.Store(false)
	defer l.fed.end()

	hurt := make(chan struct{})
	watch := newWatchdog(l.opt.feedSilence(), r, hurt)
	defer watch.stop()
	defer context.AfterFunc(ctx, watch.bite)()
	in, leaderless := newFeedDecoder(r), time.Now()
	for {
		f, err := in.next()
		select {
		case <-l.stopping:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		case <-hurt:
			return fmt.Errorf("%w: nothing has arrived for %s", ErrFeed, l.opt.feedSilence())
		default:
		}
		if err != nil {
			return fmt.Errorf("%w: %w", ErrFeed, err)
		}
		watch.pat()
		if err := l.takeFrame(f); err != nil {
			return err
		}
		switch {
		case f.beat == nil:
		case f.beat.leader.ID != "":
			leaderless = time.Now()
		case time.Since(leaderless) > l.opt.feedSilence():
			return fmt.Errorf("%w, nor to node %s, which feeds it", ErrNoLeader, f.beat.source.ID)
		}
	}
}

// feedSilence is how long a feed may say nothing, or name no leader.
func (o *Options) feedSilence() time.Duration { return 10 * o.Timing.Heartbeat }

// wordLife is how long the word of a feed about the leader counts.
func (o *Options) wordLife() time.Duration { return 3 * o.Timing.Heartbeat }

// takeFrame does what a frame says.
func (l *Ledger) takeFrame(f frame) error {
	// What a leader has applied, its proposers have been told about: nothing may overtake raft there. A frame that is in
	// our hands was decided before we looked, so none of what this node has since proposed can be in it.
	if l.IsLeader() {
		return fmt.Errorf("%w: this node leads", ErrFeed)
	}
	switch {
	case f.command != nil:
		if err := l.fsm.applyFed(*f.command); err != nil {
			return fmt.Errorf("%w: %w", ErrFeed, err)
		}
	case f.snapshot != nil:
		if err := l.fsm.restoreFed(bytes.NewReader(f.snapshot)); err != nil {
			return fmt.Errorf("%w: %w", ErrFeed, err)
		}
		l.log.Info("state restored from a feed", "index", l.Applied(), "bytes", len(f.snapshot))
	case f.beat != nil:
		if applied := l.Applied(); f.beat.applied > applied {
			return fmt.Errorf("%w: it claims to have sent everything up to %d, but applied is %d", ErrFeed, f.beat.applied, applied)
		}
		if l.fed.note(*f.beat, time.Now()) {
			l.log.Info("leader is known from a feed", "leader", f.beat.leader.ID, "feeder", f.beat.source.ID)
			l.leadership.announce()
		}
	}
	return nil
}

// fed is what the present feed says beside commands. The zero value is ready.
type fed struct {
	mu     sync.Mutex
	leader peer
	heard  time.Time // when the source had heard of that leader
	source peer      // nobody if there is no feed
}

// note returns whether the leader is another one than before.
func (f *fed) note(b beat, now time.Time) (changed bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	changed = f.leader != b.leader
	f.leader, f.source, f.heard = b.leader, b.source, now.Add(-b.age)
	return changed
}

// word returns the leader and how old the word about it is.
func (f *fed) word() (leader peer, age time.Duration) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.leader.ID == "" {
		return peer{}, never
	}
	return f.leader, time.Since(f.heard)
}

func (f *fed) feeder() peer {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.source
}

// end forgets who fed us. What it said about the leader ages, and counts as long as it is fresh.
func (f *fed) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.source = peer{}
}

// watchdog closes a reader that stays silent.
type watchdog struct {
	patience time.Duration
	timer    *time.Timer
	bite     func()
}

func newWatchdog(patience time.Duration, r io.Reader, hurt chan<- struct{}) *watchdog {
	var once sync.Once
	w := &watchdog{patience: patience}
	w.bite = func() {
		once.Do(func() {
			if c, ok := r.(io.Closer); ok {
				_ = c.Close() // its reader sees that
			}
		})
	}
	var silent sync.Once
	w.timer = time.AfterFunc(patience, func() {
		silent.Do(func() { close(hurt) })
		w.bite()
	})
	return w
}

func (w *watchdog) pat()  { w.timer.Reset(w.patience) }
func (w *watchdog) stop() { w.timer.Stop() }
