package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// boots measures how machines get what they boot from, beside those that others would use for it: a seed of the built binary on
// one bridge with tftpd-hpa, dnsmasq and nginx, each on a host of its own, and clients that keep to the rules of firmware.
type boots struct {
	dir      string
	rounds   int
	machines int           // of a burst
	span     time.Duration // of one measurement

	world  *story.World
	small  story.Small
	seed   *story.Daemon
	client *lab.Host
	peers  bootPeers
	table  []verdict
}

// bootTime is for all parts that share a world; on a busy machine they took five minutes.
const bootTime = 8 * time.Minute

// segmentPrefix makes room for a thousand machines around the seed's usual address.
const segmentPrefix = "/21"

func bootBench(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("boot", flag.ContinueOnError)
	count := flags.Int("rounds", 3, "measurements of each contender, in turns; the middle ratio counts")
	span := flags.Duration("span", 500*time.Millisecond, "length of one of them")
	machines := flags.Int("machines", 1000, "of a burst")
	dir := flags.String("dir", "/dev/shm/offshoot-bench-boot", "where files lie: memory, so that programs are measured and not this disk")
	only := flags.String("only", "", "parts, by commas: tftp, http, iso, burst, proxy")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if missing := lab.Missing(lab.Wire, "nginx", "dnsmasq", "in.tftpd", "xorriso", "sfdisk", "mke2fs", "/dev/net/tun"); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	if err := errors.Join(lab.Sweep(filepath.Join(*dir, "full")), lab.Sweep(filepath.Join(*dir, "proxy")), os.RemoveAll(*dir)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(*dir)) }()
	b := &boots{dir: *dir, rounds: *count, span: *span, machines: *machines}
	if b.small, err = story.NewSmall(ctx, filepath.Join(*dir, "small")); err != nil {
		return err
	}
	if err := kernelSized(b.small.Kernel); err != nil {
		return err
	}
	wanted := func(part string) bool { return *only == "" || strings.Contains(","+*only+",", ","+part+",") }
	var failed []error
	if wanted("tftp") || wanted("http") || wanted("iso") || wanted("burst") {
		failed = append(failed, b.full(ctx, wanted))
	}
	if wanted("proxy") {
		failed = append(failed, b.play(ctx, "proxy", b.proxy))
	}
	printVerdicts(os.Stdout, b.table)
	return errors.Join(failed...)
}

// kernelSized makes a small kernel longer: some KB, as the smallest of what iPXE loads.
func kernelSized(path string) error { return os.Truncate(path, 64<<10) }

// play makes a world for parts that share one.
func (b *boots) play(ctx context.Context, name string, part func(context.Context) error) (err error) {
	binary := os.Getenv("OFFSHOOT_BIN")
	if binary == "" {
		return errors.New("run it with: make bench-boot")
	}
	b.world, err = story.NewWorld(story.Options{
		Binary: binary, Image: b.small.Image, Dir: filepath.Join(b.dir, name), Say: func(line string) { fmt.Println(line) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Terse: true,
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	for _, c := range b.world.Captures { // writing them down would slow what is measured
		if err := c.Close(); err != nil {
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, bootTime)
	defer cancel()
	return part(ctx)
}

// full is the seed as the only server of its segment. A part that fails does not hide the others.
func (b *boots) full(ctx context.Context, wanted func(string) bool) error {
	return b.play(ctx, "full", func(ctx context.Context) (err error) {
		if b.client, err = b.machine(ctx, "client", clientAddress); err != nil {
			return err
		}
		if b.seed, _, err = b.world.Seeded(ctx, b.small, "--network", nodeAddress+segmentPrefix, "--auto-approve"); err != nil {
			return err
		}
		if err := b.startPeers(ctx); err != nil {
			return err
		}
		var failed []error
		for _, part := range []struct {
			name string
			run  func(context.Context) error
		}{{"tftp", b.tftp}, {"http", b.http}, {"iso", b.iso}, {"burst", b.burst}} {
			if !wanted(part.name) {
				continue
			}
			if err := part.run(ctx); err != nil {
				failed = append(failed, fmt.Errorf("%s: %w", part.name, err))
				b.table = append(b.table, verdict{what: part.name, ours: "not measured", met: yes(false)})
			}
		}
		return errors.Join(failed...)
	})
}

// machine is a host on the seed's network.
func (b *boots) machine(ctx context.Context, name, address string) (*lab.Host, error) {
	h, err := b.world.Lab.Host(name, b.world.Lan0)
	if err != nil {
		return nil, err
	}
	_, err = h.Run(ctx, "ip", "address", "add", address+segmentPrefix, "dev", "lan0")
	return h, err
}

// tell adds lines to the table, and says them now.
func (b *boots) tell(all ...verdict) {
	for _, v := range all {
		b.world.Say("%s: %s, %s: %s", v.what, v.ours, v.peer, v.ratio)
	}
	b.table = append(b.table, all...)
}

// inTurns lets contenders do something for a while, one after the other, round by round.
func (b *boots) inTurns(ctx context.Context, contenders []func(context.Context) (float64, error)) (rounds, error) {
	out := make(rounds, len(contenders))
	for i, run := range contenders { // warm
		if _, err := run(ctx); err != nil {
			return nil, fmt.Errorf("contender %d: %w", i, err)
		}
	}
	for range b.rounds {
		for i, run := range contenders {
			rate, err := run(ctx)
			if err != nil {
				return nil, fmt.Errorf("contender %d: %w", i, err)
			}
			out[i] = append(out[i], rate)
		}
	}
	return out, nil
}
