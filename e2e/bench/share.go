package main

import (
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"offshoot/e2e/lab"
	"offshoot/swarm/share"
)

// shares measures how one artifact gets from one machine to all others, by us and by the programs that people use for it, on
// the same links in the same run.
type shares struct {
	dir   string
	file  string // the artifact's bytes
	size  int64
	rate  int // Mbit/s of each machine, each way; 0: no links, one fetcher on the loopback
	certs *tls.Config

	artifact share.Artifact
	torrent  string // a .torrent for foreign programs
	hosts    []*lab.Host
	names    map[string]string         // of machines, by address
	reach    func(from, to int) string // where a machine finds another, "" if it does not exchange with it
}

// courier is a way to bring the artifact to all machines but the first. run says how long that took, without its preparations.
type courier struct {
	name string
	need string // the program, "" for ourselves
	run  func(*shares, context.Context, string) (time.Duration, error)
}

var couriers = []courier{
	{"offshoot", "", (*shares).pieces},
	{"offshoot, TLS", "", (*shares).piecesOverTLS},
	{"offshoot, HTTP only", "", (*shares).overHTTP},
	{"aria2c", "aria2c", (*shares).aria2},
	{"nginx and curl", "nginx", (*shares).nginx},
	{"udpcast", "udp-sender", (*shares).udpcast},
}

func shareBench(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("share", flag.ContinueOnError)
	size := flags.Int64("size", 128, "MiB of the artifact")
	nodes := flags.Int("nodes", 8, "machines that fetch")
	rate := flags.Int("rate", 200, "Mbit/s of each machine, each way; 0: one fetcher on the loopback")
	only := flags.String("only", "", "this one way alone, by its name in the table")
	dir := flags.String("dir", "/dev/shm/offshoot-bench-share", "where files lie: memory, so that links are measured and not this disk")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if missing := lab.Missing(lab.Wire, "tc", "curl"); len(missing) > 0 {
		return fmt.Errorf("this machine lacks: %v", missing)
	}
	if err := errors.Join(lab.Sweep(filepath.Join(*dir, "lab")), os.RemoveAll(*dir)); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(*dir)) }()
	b := &shares{dir: *dir, size: *size << 20, rate: *rate, names: map[string]string{}}
	if *rate == 0 {
		*nodes = 1
	}
	l, err := lab.New(lab.Options{Dir: filepath.Join(*dir, "lab"), Name: "share", Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	if err := b.draw(ctx, l, *nodes); err != nil {
		return err
	}
	if err := b.prepare(ctx); err != nil {
		return err
	}
	return b.race(ctx, *only)
}

// draw makes the machines. The first has the artifact. Without links they are one.
func (b *shares) draw(ctx context.Context, l *lab.Lab, nodes int) error {
	lan, err := l.Network("lan0")
	if err != nil {
		return err
	}
	count := nodes + 1
	if b.rate == 0 {
		count = 1
	}
	for i := range count {
		h, err := l.Host(fmt.Sprintf("s%d", i), lan)
		if err != nil {
			return err
		}
		if err := b.plug(ctx, h, lan, fmt.Sprintf("10.9.0.%d", i+1), b.rate, i); err != nil {
			return err
		}
		b.hosts = append(b.hosts, h)
	}
	if b.rate == 0 {
		b.hosts = append(b.hosts, b.hosts[0])
	}
	b.reach = func(from, to int) string {
		if from == to {
			return ""
		}
		return b.address(to)
	}
	return nil
}

// plug gives the i-th machine an address on a network, and its link a rate in Mbit/s.
func (b *shares) plug(ctx context.Context, h *lab.Host, n *lab.Network, address string, rate, i int) error {
	b.names[address] = strconv.Itoa(i)
	if _, err := h.Run(ctx, "ip", "address", "add", address+"/24", "brd", "+", "dev", n.String()); err != nil || rate == 0 {
		return err
	}
	return limitLink(ctx, h, n.String(), rate)
}

// limitLink limits what leaves a machine by an interface, and what the switch sends to it, in Mbit/s.
func limitLink(ctx context.Context, h *lab.Host, name string, rate int) error {
	limit := []string{"root", "tbf", "rate", fmt.Sprintf("%dmbit", rate), "burst", "64kb", "latency", "50ms"}
	if _, err := h.Run(ctx, "tc", append([]string{"qdisc", "add", "dev", name}, limit...)...); err != nil {
		return err
	}
	wires := strings.TrimSuffix(h.Namespace(), h.String()) + "wires"
	links, err := h.Run(ctx, "ip", "-n", wires, "-o", "link", "show")
	if err != nil {
		return err
	}
	for line := range strings.Lines(links) { // "7: p3@if2: <…> … alias s1 lan0"
		if _, alias, ok := strings.Cut(line, "alias "); !ok || strings.TrimSpace(alias) != h.String()+" "+name {
			continue
		}
		port, _, _ := strings.Cut(strings.Fields(line)[1], "@")
		_, err = h.Run(ctx, "tc", append([]string{"-n", wires, "qdisc", "add", "dev", port}, limit...)...)
		return err
	}
	return fmt.Errorf("no port of %s among:\n%s", h, links)
}

func (b *shares) address(i int) string {
	if b.rate == 0 {
		return "127.0.0.1"
	}
	return fmt.Sprintf("10.9.0.%d", i+1)
}

// prepare makes the artifact, and a .torrent of it for foreign programs.
func (b *shares) prepare(ctx context.Context) error {
	b.file = filepath.Join(b.dir, "artifact")
	f, err := os.Create(b.file)
	if err != nil {
		return err
	}
	if _, err = io.CopyN(f, rand.NewChaCha8([32]byte{3}), b.size); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Close(); err != nil {
		return err
	}
	store, err := b.seedStore(ctx, "prepare")
	if err != nil {
		return err
	}
	if b.artifact, err = store.Publish(ctx, b.file); err != nil {
		return err
	}
	info, err := os.ReadFile(filepath.Join(b.dir, "prepare", "info", string(b.artifact.Digest)+"."+b.artifact.InfoHash))
	if err != nil {
		return err
	}
	announce := "http://" + net.JoinHostPort(b.address(0), "6969") + "/announce"
	b.torrent = filepath.Join(b.dir, "artifact.torrent")
	m, err := newMember()
	if err != nil {
		return err
	}
	if b.certs, err = m.config(); err != nil {
		return err
	}
	return os.WriteFile(b.torrent, fmt.Appendf(nil, "d8:announce%d:%s4:info%se", len(announce), announce, info), 0o644)
}

func (b *shares) seedStore(ctx context.Context, name string) (*share.Store, error) {
	store, err := share.OpenStore(filepath.Join(b.dir, name))
	if err != nil {
		return nil, err
	}
	_, err = store.Publish(ctx, b.file)
	return store, err
}

// race runs the contenders one after the other and prints the table.
func (b *shares) race(ctx context.Context, only string) error {
	n := len(b.hosts) - 1
	var bound float64
	if b.rate > 0 {
		u := float64(b.rate) * 1e6 / 8
		f := float64(b.size)
		bound = max(f/u, float64(n)*f/(u*float64(n+1)))
	}
	out := func(format string, args ...any) { _, _ = fmt.Fprintf(os.Stdout, format, args...) }
	out("%d MiB, 1 -> %d, %s; bound %.2f s\n\n", b.size>>20, n, map[bool]string{true: "loopback", false: fmt.Sprintf("%d Mbit/s per machine", b.rate)}[b.rate == 0], bound)
	out("%-24s %9s %9s %9s %22s\n", "", "s", "x bound", "MB/s each", "sent by the seed / size")
	var failed []error
	for _, c := range couriers {
		if only != "" && c.name != only {
			continue
		}
		if c.name == "udpcast" && b.rate == 0 { // it is for networks
			continue
		}
		if c.need != "" && len(lab.Missing(c.need)) > 0 {
			out("%-24s %s\n", c.name, "not here")
			continue
		}
		dir := filepath.Join(b.dir, "run")
		if err := errors.Join(os.RemoveAll(dir), os.MkdirAll(dir, 0o755)); err != nil {
			return err
		}
		before, err := sent(ctx, b.hosts[0])
		if err != nil {
			return err
		}
		limited, cancel := context.WithTimeout(ctx, 10*time.Minute)
		took, err := c.run(b, limited, dir)
		cancel()
		if err != nil {
			failed = append(failed, fmt.Errorf("%s: %w", c.name, err))
			out("%-24s %v\n", c.name, err)
			continue
		}
		after, err := sent(ctx, b.hosts[0])
		if err != nil {
			return err
		}
		ratio := "-"
		if bound > 0 {
			ratio = fmt.Sprintf("%.2f", took.Seconds()/bound)
		}
		out("%-24s %9.2f %9s %9.1f %22.2f\n", c.name, took.Seconds(), ratio, float64(b.size)/1e6/took.Seconds(), float64(after-before)/float64(b.size))
	}
	return errors.Join(failed...)
}

// sent is what has left a machine, in bytes on the wire.
func sent(ctx context.Context, h *lab.Host) (int64, error) {
	text, err := h.Run(ctx, "cat", "/sys/class/net/lan0/statistics/tx_bytes")
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(text), 10, 64)
}
