package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// leases measures what DHCP clients see, each figure beside its peers: in the same run, on the same drawing of bridges and
// hosts, by the same perfdhcp.
type leases struct {
	world *story.World
	trio  *story.Trio
	rows  []figure

	rates      map[*contender]float64
	keaTuned   []*peerServer
	keaDefault []*peerServer
}

// leaseBench needs the packages kea-dhcp4-server, kea-admin, kea-common, dnsmasq-base.
func leaseBench(ctx context.Context) (err error) {
	if missing := lab.Missing(lab.Wire, "perfdhcp", "kea-dhcp4", "dnsmasq", "sfdisk", "mke2fs", haLibraries+"libdhcp_ha.so"); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	binary := os.Getenv("OFFSHOOT_BIN")
	if binary == "" {
		return errors.New("run it with: make bench-lease")
	}
	dir, err := filepath.Abs(filepath.Join("build", "bench-lease"))
	if err != nil {
		return err
	}
	if err := errors.Join(lab.Sweep(dir), os.RemoveAll(dir)); err != nil {
		return err
	}
	small, err := story.NewSmall(ctx, filepath.Join(dir, "small"))
	if err != nil {
		return err
	}
	b := &leases{rates: map[*contender]float64{}}
	// One world has one seed. What three voters do is measured in the second, so that the first is out of the way.
	for i, part := range []func(context.Context, story.Small) error{b.alone, b.together} {
		err := func() (err error) {
			b.world, err = story.NewWorld(story.Options{
				Binary: binary, Image: small.Image, Dir: filepath.Join(dir, fmt.Sprint(i)), Say: func(line string) { fmt.Println(line) },
				Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
			})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, b.world.Close()) }()
			for _, c := range b.world.Captures { // writing them down would slow one contender
				if err := c.Close(); err != nil {
					return err
				}
			}
			return part(ctx, small)
		}()
		if err != nil {
			return errors.Join(err, b.print())
		}
	}
	return b.print()
}

func (b *leases) print() error {
	fmt.Println()
	for _, f := range b.rows {
		fmt.Printf("%-78s %-62s want %s\n", f.what, f.got, f.want)
	}
	return nil
}

func (b *leases) add(what, want, format string, args ...any) {
	f := figure{what, fmt.Sprintf(format, args...), want}
	b.rows = append(b.rows, f)
	b.world.Say("%s: %s", f.what, f.got)
}

// alone is one node beside one Kea and one dnsmasq.
func (b *leases) alone(ctx context.Context, small story.Small) error {
	if _, _, err := b.world.Seeded(ctx, small); err != nil {
		return err
	}
	own, err := meeting(ctx, b.world, "offshoot", b.world.Lan0)
	if err != nil {
		return err
	}
	kea1, _, err := kea(ctx, b.world, "kea", "Kea memfile", nil)
	if err != nil {
		return err
	}
	masq, err := dnsmasq(ctx, b.world)
	if err != nil {
		return err
	}
	return b.race(ctx, "one node", ">= 1 x the better", []*contender{own, kea1, masq})
}

// race finds what each can do, then how long each takes at half of what the slowest can do.
func (b *leases) race(ctx context.Context, what, want string, all []*contender) error {
	slowest := 0.0
	for _, c := range all {
		if err := b.answers(ctx, c); err != nil {
			return err
		}
		rate, err := c.most(ctx)
		if err != nil {
			return err
		}
		b.rates[c] = rate
		b.world.Say("%s: %.0f exchanges/s", c.name, rate)
		if slowest == 0 || rate < slowest {
			slowest = rate
		}
	}
	best := 0.0
	var text []string
	for i, c := range all {
		text = append(text, fmt.Sprintf("%s %.0f", c.name, b.rates[c]))
		if i > 0 {
			best = max(best, b.rates[c])
		}
	}
	b.add("4-way exchanges/s by perfdhcp, "+what, want, "%.2f x (%s)", b.rates[all[0]]/best, strings.Join(text, ", "))
	text = nil
	for _, c := range all {
		p99, lost, err := c.delay(ctx, max(int(slowest/2), 1))
		if err != nil {
			return err
		}
		text = append(text, fmt.Sprintf("%s %.1f ms, %d lost", c.name, float64(p99.Microseconds())/1e3, lost))
	}
	b.add(fmt.Sprintf("p99 DISCOVER to ACK at %d exchanges/s, %s", int(slowest/2), what), "not worse", "%s", strings.Join(text, "; "))
	return nil
}

// answers waits until a contender serves.
func (b *leases) answers(ctx context.Context, c *contender) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	w, err := c.crowdOf(ctx, 4)
	if err != nil {
		return err
	}
	defer w.end()
	if _, err := w.next(ctx, time.Now()); err != nil {
		return fmt.Errorf("%s does not serve: %w", c.name, err)
	}
	return nil
}

// together is three voters beside hot-standby pairs of Kea.
func (b *leases) together(ctx context.Context, small story.Small) (err error) {
	b.trio, err = b.world.NewTrio(ctx, small)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.trio.Off()) }()
	own, err := meeting(ctx, b.world, "offshoot", b.world.Lan0)
	if err != nil {
		return err
	}
	pair, servers, err := kea(ctx, b.world, "keatuned", "Kea hot-standby", &tuned)
	if err != nil {
		return err
	}
	b.keaTuned = servers
	if err := b.race(ctx, "3 voters", ">= 1.5 x", []*contender{own, pair}); err != nil {
		return err
	}
	if err := b.move(ctx, own); err != nil {
		return err
	}
	ours, err := b.failover(ctx, own, b.killHolder)
	if err != nil {
		return err
	}
	theirs, err := b.failover(ctx, pair, func(context.Context) error { return b.keaTuned[0].kill() })
	if err != nil {
		return err
	}
	slow, servers, err := kea(ctx, b.world, "keaplain", "Kea hot-standby, defaults", &tuning{})
	if err != nil {
		return err
	}
	b.keaDefault = servers
	plain, err := b.failover(ctx, slow, func(context.Context) error { return b.keaDefault[0].kill() })
	text := fmt.Sprintf("%.1f s", plain.Seconds())
	if errors.Is(err, context.DeadlineExceeded) {
		text, err = "more than 3 minutes", nil
	}
	b.add("holder killed, next client has its lease after", "< 5 s, <= half of Kea tuned", "%.2f s (Kea tuned %.2f s, Kea's defaults %s)", ours.Seconds(), theirs.Seconds(), text)
	return err
}

// failover kills whoever serves while clients ask, and returns when the first client had its lease that began after that.
func (b *leases) failover(ctx context.Context, c *contender, kill func(context.Context) error) (time.Duration, error) {
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

// move has the duty moved while clients ask, and counts those that had to ask twice.
func (b *leases) move(ctx context.Context, c *contender) error {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Minute)
	defer cancel()
	s, err := b.trio.Settled(ctx)
	if err != nil {
		return err
	}
	holder := b.trio.Machine(s.Segments[0].Holder)
	next := b.trio.Others(holder)[0]
	w, err := c.crowdOf(ctx, crowdSize)
	if err != nil {
		return err
	}
	defer w.end()
	if err := wait(ctx, 5*time.Second); err != nil {
		return err
	}
	leases, retries := w.counts()
	if out, err := holder.Offshoot(ctx, "segment", "move", s.Segments[0].ID, next.Host.String()); err != nil || !strings.Contains(out, next.Host.String()) {
		b.add("planned move of duty: packets that clients had to repeat", "0", "not measured: %.60s", strings.TrimSpace(out))
		return nil
	}
	if err := wait(ctx, 10*time.Second); err != nil {
		return err
	}
	after, again := w.counts()
	s, err = b.trio.Status(ctx)
	if err != nil {
		return err
	}
	b.add("planned move of duty: packets that clients had to repeat", "0", "%d of %d exchanges; the duty is with %s, and was with %s", again-retries, after-leases,
		s.Segments[0].Holder, holder.Host)
	return nil
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
