package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
)

// mirrors measures what a client of a node's mirror waits for and what its uplink carries, beside nginx as a cache and beside no
// cache at all. The node is a seed of the built binary, as operators run it.
type mirrors struct {
	dir    string
	rate   int // Mbit/s of the upstream, each way; 0: no limit
	rounds int
	span   time.Duration // of one measurement of hits

	world    *story.World
	upstream *upstream
	client   *lab.Host
	direct   *depot
	own      *depot
	nginx    *depot
}

// depot is somewhere that has the archives, or gets them.
type depot struct {
	name string
	host *lab.Host
	base string // URL; below it the archives by name
}

const (
	upstreamAddress = "192.168.42.5"
	clientAddress   = "192.168.42.6"
	cacheAddress    = "192.168.42.7"
	nodeAddress     = "192.168.42.1"
	nodePort        = "7480"
)

// mirrorTime is for one part; the slowest took 40 s at 200 Mbit/s.
const mirrorTime = 10 * time.Minute

func mirrorBench(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("mirror", flag.ContinueOnError)
	rate := flags.Int("rate", 200, "Mbit/s of the upstream, each way; 0: no limit")
	rounds := flags.Int("rounds", 5, "measurements of hits; the middle one counts")
	span := flags.Duration("span", 2*time.Second, "length of one of them")
	dir := flags.String("dir", "/dev/shm/offshoot-bench-mirror", "where files lie: memory, so that programs are measured and not this disk")
	only := flags.String("only", "", "parts, by commas: miss, hit, apt, crowd; hit needs no miss before it")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if missing := lab.Missing(lab.Wire, "tc", "nginx", "apt-get", "sfdisk", "mke2fs"); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	if err := errors.Join(lab.Sweep(filepath.Join(*dir, "lab")), os.RemoveAll(*dir)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(*dir)) }()
	b := &mirrors{dir: *dir, rate: *rate, rounds: *rounds, span: *span}
	if err := b.draw(ctx); err != nil {
		if b.world != nil {
			err = errors.Join(err, b.world.Close())
		}
		return err
	}
	defer func() { err = errors.Join(err, b.world.Close()) }()
	return b.play(ctx, *only)
}

// draw makes a seed, an upstream behind a slow link, an nginx that caches, and a client, all on one network.
func (b *mirrors) draw(ctx context.Context) error {
	binary := os.Getenv("OFFSHOOT_BIN")
	if binary == "" {
		return errors.New("run it with: make bench-mirror")
	}
	small, err := story.NewSmall(ctx, filepath.Join(b.dir, "small"))
	if err != nil {
		return err
	}
	b.world, err = story.NewWorld(story.Options{
		Binary: binary, Image: small.Image, Dir: filepath.Join(b.dir, "lab"), Say: func(line string) { fmt.Println(line) },
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})), Terse: true,
	})
	if err != nil {
		return err
	}
	for _, c := range b.world.Captures { // writing them down would slow what is measured
		if err := c.Close(); err != nil {
			return err
		}
	}
	if b.client, err = b.machine(ctx, "client", clientAddress); err != nil {
		return err
	}
	cache, err := b.machine(ctx, "cache", cacheAddress)
	if err != nil {
		return err
	}
	if b.rate > 0 {
		if err := limitLink(ctx, b.world.Operator, "lan0", b.rate); err != nil {
			return err
		}
	}
	if b.upstream, err = openUpstream(ctx, b.world.Operator, filepath.Join(b.dir, "upstream")); err != nil {
		return err
	}
	b.direct = &depot{name: "direct", host: b.world.Operator, base: b.upstream.url}
	if b.nginx, err = startCache(ctx, cache, filepath.Join(b.dir, "cache"), b.upstream.url); err != nil {
		return err
	}
	b.own = &depot{name: "offshoot", host: b.world.Seed, base: "http://" + net.JoinHostPort(nodeAddress, nodePort) + "/repo/"}
	return b.seed(ctx, small)
}

// seed starts the node that is measured, and lets it mirror the archives.
func (b *mirrors) seed(ctx context.Context, small story.Small) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	node, _, err := b.world.Seeded(ctx, small)
	if err != nil {
		return err
	}
	for _, a := range b.upstream.archives {
		args := []string{"mirror", "add", a.name, b.upstream.url + a.name + "/", "--keyring", b.upstream.keyring}
		if out, err := node.Offshoot(ctx, args...); err != nil {
			return fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	return nil
}

func (b *mirrors) machine(ctx context.Context, name, address string) (*lab.Host, error) {
	h, err := b.world.Lab.Host(name, b.world.Lan0)
	if err != nil {
		return nil, err
	}
	_, err = h.Run(ctx, "ip", "address", "add", address+"/24", "dev", "lan0")
	return h, err
}

// play measures the parts that are wanted and prints the table.
func (b *mirrors) play(ctx context.Context, only string) error {
	var all []figure
	var failed []error
	for _, part := range []struct {
		name string
		run  func(context.Context) ([]figure, error)
	}{{"miss", b.miss}, {"hit", b.hits}, {"apt", b.apt}, {"crowd", b.crowd}} {
		if only != "" && !strings.Contains(","+only+",", ","+part.name+",") {
			continue
		}
		bounded, cancel := context.WithTimeout(ctx, mirrorTime)
		got, err := part.run(bounded)
		cancel()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", part.name, err))
		}
		for _, f := range got {
			b.world.Say("%s: %s", f.what, f.got)
		}
		all = append(all, got...)
	}
	fmt.Println()
	for _, f := range all {
		fmt.Printf("%-58s %-10s %s\n", f.what, "want "+f.want, f.got)
	}
	return errors.Join(failed...)
}

// visitor is one client with connections of its own, which stay open, on a machine.
func visitor(from *lab.Host) *http.Client {
	return &http.Client{Transport: &http.Transport{DialContext: from.Dial, DisableCompression: true, ReadBufferSize: 64 << 10}}
}
