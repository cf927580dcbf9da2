package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// installBench installs many machines beside one node, and says how often the image has left that node: once per machine by
// HTTP, a few times if they give it to each other.
func installBench(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("install", flag.ContinueOnError)
	machines := flags.Int("machines", 30, "that install themselves at the same time")
	rate := flags.Int("rate", 100, "Mbit/s of each machine and of the node, each way; 0: no limit")
	dir := flags.String("dir", "/dev/shm/offshoot-bench-install", "where disks lie: memory, so that links are measured and not this disk")
	if err := flags.Parse(args); err != nil {
		return err
	}
	binary := os.Getenv("OFFSHOOT_BIN")
	if missing := lab.Missing(lab.Wire, "tc", "sfdisk", "mke2fs"); binary == "" || len(missing) > 0 {
		return fmt.Errorf("run it with: make bench-install (this machine lacks: %v)", missing)
	}
	if err := errors.Join(lab.Sweep(filepath.Join(*dir, "lab")), os.RemoveAll(*dir), os.MkdirAll(*dir, 0o755)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(*dir)) }()
	small, err := story.NewSmall(ctx, *dir)
	if err != nil {
		return err
	}
	image, err := os.Stat(small.Image)
	if err != nil {
		return err
	}
	w, err := story.NewWorld(story.Options{
		Binary: binary, Image: small.Image, Dir: filepath.Join(*dir, "lab"), Say: func(string) {}, Terse: true,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, w.Close()) }()
	seed, _, err := w.Seeded(ctx, small)
	if err != nil {
		return err
	}
	crowd, err := armed(ctx, w, seed, small, *machines)
	if err != nil {
		return err
	}
	if *rate > 0 {
		for _, h := range append([]*lab.Host{w.Seed}, hostsOf(crowd)...) {
			if err := limitLink(ctx, h, "lan0", *rate); err != nil {
				return err
			}
		}
	}
	before, err := sent(ctx, w.Seed)
	if err != nil {
		return err
	}
	began := time.Now()
	var all sync.WaitGroup
	failed := make([]error, len(crowd))
	for i, b := range crowd {
		all.Go(func() { failed[i] = b.Install(ctx) })
	}
	all.Wait()
	if err := errors.Join(failed...); err != nil {
		return err
	}
	took := time.Since(began)
	after, err := sent(ctx, w.Seed)
	if err != nil {
		return err
	}
	fmt.Printf("%d machines beside one node, image of %.1f MB, %d Mbit/s each: installed in %.1f s; the node has sent %.2f images (by HTTP alone %d), want <= 3\n",
		*machines, float64(image.Size())/1e6, *rate, took.Seconds(), float64(after-before)/float64(image.Size()), *machines)
	return nil
}

func armed(ctx context.Context, w *story.World, seed *story.Daemon, small story.Small, machines int) ([]*story.Bare, error) {
	var out []*story.Bare
	for i := range machines {
		b, err := w.NewBare(fmt.Sprintf("m%d", i+1), small)
		if err != nil {
			return nil, err
		}
		if text, err := seed.Offshoot(ctx, "machine", "arm", b.MAC.String()); err != nil {
			return nil, fmt.Errorf("arm %s: %w: %s", b.MAC, err, text)
		}
		out = append(out, b)
	}
	return out, nil
}

func hostsOf(crowd []*story.Bare) (out []*lab.Host) {
	for _, b := range crowd {
		out = append(out, b.Host)
	}
	return out
}
