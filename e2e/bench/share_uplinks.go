package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"offshoot/e2e/lab"
)

// uplinksBench fetches one artifact on some segments at once, each behind an uplink of its own, as nodes do: whoever holds the duty
// of a segment pulls across its uplink, the others exchange with it and among themselves. It says how much crossed each uplink.
func uplinksBench(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("uplinks", flag.ContinueOnError)
	size := flags.Int64("size", 128, "MiB of the artifact")
	segments := flags.Int("segments", 3, "behind an uplink each")
	nodes := flags.Int("nodes", 5, "on each segment, the one with the uplink among them")
	rate := flags.Int("rate", 200, "Mbit/s of each machine, each way")
	uplink := flags.Int("uplink", 100, "Mbit/s of each uplink, each way")
	dir := flags.String("dir", "/dev/shm/offshoot-bench-uplinks", "where files lie")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if missing := lab.Missing(lab.Wire, "tc"); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	if err := errors.Join(lab.Sweep(filepath.Join(*dir, "lab")), os.RemoveAll(*dir), os.MkdirAll(*dir, 0o755)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(*dir)) }()
	l, err := lab.New(lab.Options{Dir: filepath.Join(*dir, "lab"), Name: "up", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	b := &shares{dir: *dir, size: *size << 20, rate: *rate, names: map[string]string{}}
	pullers, err := b.drawSegments(ctx, l, *segments, *nodes, *uplink)
	if err != nil {
		return err
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	before, err := crossed(ctx, pullers)
	if err != nil {
		return err
	}
	took, err := b.exchange(ctx, filepath.Join(*dir, "run"), b.certs, true)
	if err != nil {
		return err
	}
	after, err := crossed(ctx, pullers)
	if err != nil {
		return err
	}
	f := float64(b.size)
	bound := f / (float64(min(*uplink, *rate)) * 1e6 / 8)
	fmt.Printf("%d MiB to %d segments of %d, uplinks of %d Mbit/s, machines of %d: %.1f s (bound %.1f s)\n", *size, *segments, *nodes, *uplink, *rate, took.Seconds(), bound)
	for i, p := range pullers {
		down, up := float64(after[i][0]-before[i][0])/f, float64(after[i][1]-before[i][1])/f
		fmt.Printf("  uplink of %s: %.3f artifacts down (with all headers, which are 0.05 of it), %.3f up; want <= 1.05\n", p, down, up)
	}
	return nil
}

// drawSegments makes the first machine, which has the artifact, and the pullers on lan0, and a network behind each puller. It
// returns the pullers.
func (b *shares) drawSegments(ctx context.Context, l *lab.Lab, segments, nodes, uplink int) (pullers []*lab.Host, err error) {
	top, err := l.Network("lan0")
	if err != nil {
		return nil, err
	}
	on := []map[int]string{} // of each machine: its addresses by segment
	add := func(nets map[int]*lab.Network, addresses map[int]string) (*lab.Host, error) {
		var all []*lab.Network
		for _, g := range slices.Sorted(maps.Keys(nets)) {
			all = append(all, nets[g])
		}
		h, err := l.Host(fmt.Sprintf("s%d", len(b.hosts)), all...)
		if err != nil {
			return nil, err
		}
		for g, address := range addresses {
			rate := b.rate
			if g == 0 && len(nets) > 1 {
				rate = uplink
			}
			if err := b.plug(ctx, h, nets[g], address, rate, len(b.hosts)); err != nil {
				return nil, err
			}
		}
		b.hosts, on = append(b.hosts, h), append(on, addresses)
		return h, nil
	}
	if _, err := add(map[int]*lab.Network{0: top}, map[int]string{0: "10.9.0.1"}); err != nil {
		return nil, err
	}
	for g := 1; g <= segments; g++ {
		lan, err := l.Network(fmt.Sprintf("lan%d", g))
		if err != nil {
			return nil, err
		}
		puller, err := add(map[int]*lab.Network{0: top, g: lan}, map[int]string{0: fmt.Sprintf("10.9.0.%d", g+1), g: fmt.Sprintf("10.9.%d.1", g)})
		if err != nil {
			return nil, err
		}
		pullers = append(pullers, puller)
		for k := 2; k <= nodes; k++ {
			if _, err := add(map[int]*lab.Network{g: lan}, map[int]string{g: fmt.Sprintf("10.9.%d.%d", g, k)}); err != nil {
				return nil, err
			}
		}
	}
	b.reach = func(from, to int) string {
		for g := range on[from] {
			if at := on[to][g]; at != "" && from != to {
				return at
			}
		}
		return ""
	}
	return pullers, nil
}

// crossed is what has come down and gone up on each uplink, bytes with all headers.
func crossed(ctx context.Context, pullers []*lab.Host) ([][2]int64, error) {
	var out [][2]int64
	for _, p := range pullers {
		text, err := p.Run(ctx, "cat", "/sys/class/net/lan0/statistics/rx_bytes", "/sys/class/net/lan0/statistics/tx_bytes")
		if err != nil {
			return nil, err
		}
		var n [2]int64
		for i, word := range strings.Fields(text) {
			if n[i], err = strconv.ParseInt(word, 10, 64); err != nil {
				return nil, err
			}
		}
		out = append(out, n)
	}
	return out, nil
}
