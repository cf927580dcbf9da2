package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// trioTime is for three installations, one after the other, and their first votes; seen were 45 s.
const trioTime = 5 * time.Minute

// together is three voters beside hot-standby pairs of Kea.
func (b *leases) together(ctx context.Context) (err error) {
	bounded, cancel := context.WithTimeout(ctx, trioTime)
	defer cancel()
	b.trio, err = b.world.NewTrio(bounded, b.small)
	if b.trio != nil {
		defer func() { err = errors.Join(err, b.trio.Off()) }()
	}
	if err != nil {
		return err
	}
	own, err := meeting(ctx, b.world, "offshoot", b.world.Lan0)
	if err != nil {
		return err
	}
	pair, servers, err := kea(ctx, b.world, "keatuned", "Kea hot-standby", &tuned)
	if err != nil {
		return err
	}
	return errors.Join(
		b.race(ctx, rateTogether, delayTogether, []*contender{own, pair}),
		b.move(ctx, own),
		b.takeovers(ctx, own, pair, servers[0]),
	)
}

// takeovers kills whoever serves: ours, and the primary of a tuned pair and of one with Kea's defaults.
func (b *leases) takeovers(ctx context.Context, own, pair *contender, primary *peerServer) error {
	ours, err := b.takeover(ctx, own, b.killHolder)
	if err != nil {
		return err
	}
	b.set(takeover, "%.2f s; the pairs of Kea are not measured", ours.Seconds())
	theirs, err := b.takeover(ctx, pair, func(context.Context) error { return primary.kill() })
	if err != nil {
		return err
	}
	b.set(takeover, "%.2f s (Kea tuned %.2f s; Kea's defaults not measured)", ours.Seconds(), theirs.Seconds())
	slow, servers, err := kea(ctx, b.world, "keaplain", "Kea hot-standby, defaults", &tuning{})
	if err != nil {
		return err
	}
	plain, err := b.takeover(ctx, slow, func(context.Context) error { return servers[0].kill() })
	text := fmt.Sprintf("%.1f s", plain.Seconds())
	if errors.Is(err, context.DeadlineExceeded) {
		text, err = "more than 3 minutes", nil
	}
	if err == nil {
		b.set(takeover, "%.2f s (Kea tuned %.2f s, Kea's defaults %s)", ours.Seconds(), theirs.Seconds(), text)
	}
	return err
}

// takeover kills whoever serves while clients ask, and returns when the first client had its lease that began after that.
func (b *leases) takeover(ctx context.Context, c *contender, kill func(context.Context) error) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	if err := b.answers(ctx, c); err != nil {
		return 0, err
	}
	w, err := c.crowdOf(ctx, crowdSize)
	if err != nil {
		return 0, err
	}
	defer w.end()
	if err := wait(ctx, 10*time.Second); err != nil { // a pair has found itself, and everything is as on every day
		return 0, err
	}
	if err := kill(ctx); err != nil {
		return 0, err
	}
	return w.next(ctx, time.Now())
}

func (b *leases) killHolder(ctx context.Context) error {
	s, err := b.trio.Status(ctx)
	if err != nil {
		return err
	}
	m := b.trio.Machine(s.Segments[0].Holder)
	if m == nil {
		return fmt.Errorf("duty is held by %q", s.Segments[0].Holder)
	}
	return m.Signal(ctx, syscall.SIGKILL)
}

// move has the duty moved while clients ask, and counts the packets that they had to repeat. If there are any, a capture tells
// why, and is kept.
func (b *leases) move(ctx context.Context, c *contender) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s, err := b.trio.Settled(ctx)
	if err != nil {
		return err
	}
	holder := b.trio.Machine(s.Segments[0].Holder)
	next := b.trio.Others(holder)[0]
	path := filepath.Join(c.dir, "move-"+c.network.String()+".pcap")
	capture, err := c.network.Capture(path)
	if err != nil {
		return err
	}
	w, err := c.crowdOf(ctx, crowdSize)
	if err != nil {
		return err
	}
	defer w.end()
	if err := wait(ctx, 5*time.Second); err != nil {
		return err
	}
	leases, retries := w.counts()
	if out, err := holder.Offshoot(ctx, "segment", "move", s.Segments[0].ID, next.Host.String()); err != nil {
		return fmt.Errorf("move the duty from %s to %s: %w: %s", holder.Host, next.Host, err, strings.TrimSpace(out))
	}
	if err := wait(ctx, 10*time.Second); err != nil {
		return err
	}
	after, again := w.counts()
	if err := capture.Close(); err != nil {
		return err
	}
	if s, err = b.trio.Status(ctx); err != nil {
		return err
	}
	if now := s.Segments[0].Holder; now != next.Host.String() {
		return fmt.Errorf("the duty was moved from %s to %s, and is with %s", holder.Host, next.Host, now)
	}
	b.set(plannedMove, "%d in %d exchanges", again-retries, after-leases)
	if again > retries {
		b.world.Say("%s shows why", path)
		return nil
	}
	return os.Remove(path)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}
