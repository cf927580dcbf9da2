package ledger

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"time"
)

const (
	// feedPatience bounds one write to the reader of a feed, if the writer can be given deadlines.
	feedPatience = 10 * time.Second
	// feedRest is the time between two rounds of a feed: a holder that feeds hundreds must not wake hundreds of times for
	// each of a thousand commands a second.
	feedRest = 20 * time.Millisecond
	// feedBatch is the most commands in one round, before the beat gets its turn.
	feedBatch = 256
)

// ServeFeed writes to w what this node's state machine sees after the command at index from: a snapshot first if that is
// not remembered any more, then commands as they are applied, and a beat every Timing.Heartbeat that says who leads. It is
// for nodes that take no part in raft, and costs the leader nothing, unless the leader serves it itself.
//
// It goes on until ctx is done (nil), or w fails. flush, which may be nil, is called when the reader should get what was
// written. If w has a SetWriteDeadline method, a reader that does not read for feedPatience is cut off with ErrSlowReader;
// so is one that falls so far behind that commands which it has not got are forgotten. It may come back at once.
//
// Errors: ErrNoState if this node knows nothing yet, ErrBehind if it knows less than the reader, ErrBusy if MaxFeeds
// readers are served, ErrSlowReader, ErrStopped, and those of w. The first three come before anything is written.
func (l *Ledger) ServeFeed(ctx context.Context, from uint64, w io.Writer, flush func()) error {
	err := l.serveFeed(ctx, from, w, flush)
	if err == nil || (ctx.Err() != nil && !errors.Is(err, ErrStopped)) {
		return nil
	}
	return fmt.Errorf("serve feed after %d: %w", from, err)
}

func (l *Ledger) serveFeed(ctx context.Context, from uint64, w io.Writer, flush func()) error {
	if err := l.ready(ctx); err != nil {
		return err
	}
	switch applied := l.fsm.applied.Load(); {
	case applied == 0 && !l.Member(): // a member of a swarm that has decided nothing yet knows at least who leads it
		return ErrNoState
	case applied < from:
		return fmt.Errorf("%w: applied here is %d", ErrBehind, applied)
	}
	if err := l.feeds.enter(MaxFeeds); err != nil {
		return err
	}
	defer l.feeds.leave()
	out := &feedWriter{to: w, flush: flush, stopping: l.stopping, ctx: ctx}
	if err := out.send([]byte(feedMagic)); err != nil { // at once: a snapshot takes time
		return err
	}
	at := from
	if !l.fsm.reaches(from) {
		var err error
		if at, err = l.feedSnapshot(out); err != nil {
			return err
		}
	}
	return l.feedCommands(ctx, at, out)
}

func (l *Ledger) feedCommands(ctx context.Context, at uint64, out *feedWriter) error {
	ticker := time.NewTicker(l.opt.Timing.Heartbeat)
	defer ticker.Stop()
	rest := time.NewTimer(feedRest)
	defer rest.Stop()
	due := true
	for {
		moved, led := l.fsm.moved.next(), l.leadership.next()
		batch, ok := l.fsm.after(at, feedBatch)
		if !ok {
			return fmt.Errorf("%w: what follows %d is forgotten", ErrSlowReader, at)
		}
		var round []byte
		for _, c := range batch {
			round, at = appendCommand(round, c), c.index
		}
		if due {
			round, due = appendBeat(round, l.beat(at)), false
		}
		if len(round) > 0 {
			if err := out.send(round); err != nil {
				return err
			}
		}
		var rested <-chan time.Time
		if len(batch) > 0 {
			rest.Reset(feedRest)
			moved, rested = nil, rest.C
		}
		select {
		case <-moved:
		case <-rested:
		case <-led:
			due = true // so that readers find the new leader now
		case <-ticker.C:
			due = true
		case <-l.stopping:
			return ErrStopped
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// beat is what this node says of itself to a reader that has everything up to at.
func (l *Ledger) beat(at uint64) beat {
	b := beat{applied: at, source: peer{l.opt.ID, l.opt.Address}}
	id, address, ok := l.Leader()
	if !ok {
		return b
	}
	b.leader = peer{id, address}
	if word, age := l.fed.word(); word.ID == id && !l.hearsLeader() {
		b.age = age // from a feed of our own: it must not become young again by being passed on, in a circle perhaps
	}
	return b
}

// hearsLeader tells whether raft itself knows a leader here.
func (l *Ledger) hearsLeader() bool {
	r := l.current()
	if r == nil {
		return false
	}
	_, id := r.LeaderWithID()
	return id != ""
}

// feedSnapshot sends a snapshot and returns its index.
func (l *Ledger) feedSnapshot(out *feedWriter) (uint64, error) {
	s, err := l.shared.take(l.fsm)
	if err != nil {
		return 0, err
	}
	defer l.shared.giveBack(s)
	for rest := s.bytes; len(rest) > 0; {
		part := rest[:min(len(rest), partBytes)]
		rest = rest[len(part):]
		if !l.fsm.reaches(s.index) {
			return 0, fmt.Errorf("%w: its snapshot has grown too old before it was read", ErrSlowReader)
		}
		if err := out.send(appendPart(nil, part)); err != nil {
			return 0, err
		}
	}
	return s.index, out.send(appendEnd(nil, len(s.bytes)))
}

// shared is the one snapshot that all readers are fed with which come at the same time: when a holder comes back,
// hundreds ask at once. It is let go when nobody reads it. The zero value is ready.
type shared struct {
	making sync.Mutex // one is made at a time; the others wait for it
	mu     sync.Mutex
	newest *sharedSnapshot
}

type sharedSnapshot struct {
	index   uint64
	bytes   []byte
	readers int
}

func (s *shared) take(f *fsm) (*sharedSnapshot, error) {
	s.making.Lock()
	defer s.making.Unlock()
	s.mu.Lock()
	if n := s.newest; n != nil && f.reaches(n.index) {
		n.readers++
		s.mu.Unlock()
		return n, nil
	}
	s.mu.Unlock()
	captured, err := f.capture()
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	if err := captured.writeTo(&limited{to: &b, left: MaxSnapshot}); err != nil {
		return nil, fmt.Errorf("write snapshot: %w", err)
	}
	fresh := &sharedSnapshot{index: captured.index, bytes: b.Bytes(), readers: 1}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.newest = fresh
	return fresh, nil
}

func (s *shared) giveBack(n *sharedSnapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n.readers--; n.readers == 0 && s.newest == n {
		s.newest = nil
	}
}

// limited refuses what is too large instead of cutting it.
type limited struct {
	to   io.Writer
	left int
}

func (l *limited) Write(b []byte) (int, error) {
	if l.left -= len(b); l.left < 0 {
		return 0, fmt.Errorf("%w: snapshot of more than %d bytes", ErrTooLarge, MaxSnapshot)
	}
	return l.to.Write(b)
}

// feedWriter sends to one reader.
type feedWriter struct {
	to       io.Writer
	flush    func()
	stopping <-chan struct{}
	ctx      context.Context //nolint:containedctx // lives as long as one call of ServeFeed
}

func (w *feedWriter) send(b []byte) error {
	select {
	case <-w.stopping:
		return ErrStopped
	case <-w.ctx.Done():
		return w.ctx.Err()
	default:
	}
	if d, ok := w.to.(interface{ SetWriteDeadline(at time.Time) error }); ok {
		if err := d.SetWriteDeadline(time.Now().Add(feedPatience)); err != nil {
			return fmt.Errorf("set deadline: %w", err)
		}
	}
	_, err := w.to.Write(b)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("%w: it has not read for %s", ErrSlowReader, feedPatience)
	}
	if err != nil {
		return err
	}
	if w.flush != nil {
		w.flush()
	}
	return nil
}
