package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// leases measures what DHCP clients see, each figure beside its peers: in the same run, on the same drawing of bridges and
// hosts, by the same perfdhcp.
type leases struct {
	world *story.World
	trio  *story.Trio
	small story.Small
	dir   string
	table *table
}

// leaseParts are the parts of the measurement, in their order. Each has a world of its own, since one world has one seed.
var leaseParts = []string{"alone", "together", "size"}

// leaseBench measures the parts that are named, all if none is. A part that fails does not hide what others found.
func leaseBench(ctx context.Context, parts []string) error {
	if len(parts) == 0 {
		parts = leaseParts
	}
	dir, err := filepath.Abs(filepath.Join("build", "bench-lease"))
	if err != nil {
		return err
	}
	if err := errors.Join(lab.Sweep(filepath.Join(dir, "alone")), lab.Sweep(filepath.Join(dir, "together")), os.RemoveAll(dir)); err != nil {
		return err
	}
	b := &leases{dir: dir, table: newTable()}
	var failed []error
	for _, part := range parts {
		var err error
		switch part {
		case "alone":
			err = b.play(ctx, part, b.alone)
		case "together":
			err = b.play(ctx, part, b.together)
		case "size":
			err = b.size(ctx)
		default:
			err = fmt.Errorf("no such part: want one of %s", strings.Join(leaseParts, ", "))
		}
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", part, err))
		}
	}
	b.table.print(os.Stdout)
	return errors.Join(failed...)
}

// play makes a world for a part. It needs the packages kea-dhcp4-server, kea-admin, kea-common, dnsmasq-base.
func (b *leases) play(ctx context.Context, name string, part func(context.Context) error) (err error) {
	if missing := lab.Missing(lab.Wire, "perfdhcp", "kea-dhcp4", "dnsmasq", "sfdisk", "mke2fs", haLibraries+"libdhcp_ha.so"); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	binary := os.Getenv("OFFSHOOT_BIN")
	if binary == "" {
		return errors.New("run it with: make bench-lease")
	}
	if b.small.Image == "" {
		small, err := story.NewSmall(ctx, filepath.Join(b.dir, "small"))
		if err != nil {
			return err
		}
		if b.small, err = small.Roomy(ctx); err != nil {
			return err
		}
	}
	b.world, err = story.NewWorld(story.Options{
		Binary: binary, Image: b.small.Image, Dir: filepath.Join(b.dir, name), Say: func(line string) { fmt.Println(line) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Terse: true,
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
	return part(ctx)
}

func (b *leases) set(row row, format string, args ...any) {
	b.table.set(row, format, args...)
	b.world.Say("%s", b.table.line(row))
}

// alone is one node beside one Kea and one dnsmasq.
func (b *leases) alone(ctx context.Context) error {
	if _, _, err := b.world.Seeded(ctx, b.small); err != nil {
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
	return b.race(ctx, rateAlone, delayAlone, []*contender{own, kea1, masq})
}

// race finds what each can do, then how long each takes at half of what the slowest can do.
func (b *leases) race(ctx context.Context, rateRow, delayRow row, all []*contender) error {
	var text []string
	slowest, best, own := 0.0, 0.0, 0.0
	for i, c := range all {
		if err := b.answers(ctx, c); err != nil {
			return err
		}
		rate, err := c.most(ctx)
		if err != nil {
			return err
		}
		text = append(text, fmt.Sprintf("%s %.0f", c.name, rate))
		if i == 0 {
			slowest, own = rate, rate
			continue
		}
		slowest, best = min(slowest, rate), max(best, rate)
	}
	b.set(rateRow, "%.2f x (%s)", own/best, strings.Join(text, ", "))
	half, failed := max(int(slowest/2), 1), []error(nil)
	text = nil
	for _, c := range all {
		p99, lost, err := c.delay(ctx, half)
		if err != nil {
			failed = append(failed, err)
			text = append(text, c.name+" not measured")
			continue
		}
		text = append(text, fmt.Sprintf("%s %.1f ms, %d lost", c.name, float64(p99.Microseconds())/1e3, lost))
	}
	b.set(delayRow, "at %d/s: %s", half, strings.Join(text, "; "))
	return errors.Join(failed...)
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
