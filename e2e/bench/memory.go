package main

import (
	"context"
	"crypto/tls"
	"encoding/binary"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"offshoot/swarm/share"
)

// holdings measures what it costs a node to have very many artifacts: a process of its own with the store and the exchange of a
// node, and nothing else, first left alone and then asked by many peers. The peers live in this process.
type holdings struct {
	dir       string
	count     int
	size      int64
	peers     int
	fetches   int // of each peer
	certs     *tls.Config
	artifacts []share.Artifact
	holder    *holder
}

func memoryBench(ctx context.Context, args []string) (err error) {
	flags := flag.NewFlagSet("memory", flag.ContinueOnError)
	count := flags.Int("artifacts", 10_000, "artifacts that the node has")
	size := flags.Int64("size", 5, "MiB of each; all but the first page is a hole")
	peers := flags.Int("peers", 30, "machines that fetch")
	fetches := flags.Int("fetches", 20, "artifacts that each of them fetches")
	dir := flags.String("dir", "/dev/shm/offshoot-bench-memory", "where files lie: holes take no room, neither in memory")
	hold := flags.String("hold", "", "for this program itself: hold the store in this directory")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *hold != "" {
		return holdStore(ctx, *hold)
	}
	if err := os.RemoveAll(*dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(*dir)) }()
	b := &holdings{dir: *dir, count: *count, size: *size << 20, peers: *peers, fetches: *fetches}
	if err := b.publish(ctx); err != nil {
		return err
	}
	if b.holder, err = b.startHolder(ctx); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.holder.stop()) }()
	return b.measure(ctx)
}

func (b *holdings) store() string { return filepath.Join(b.dir, "store") }

// publish fills the store. The bytes of an artifact are a number and zeros; the zeros are given back once they are hashed.
func (b *holdings) publish(ctx context.Context) error {
	store, err := share.OpenStore(b.store())
	if err != nil {
		return err
	}
	path := filepath.Join(b.dir, "artifact")
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }() // it is thrown away
	if err := f.Truncate(b.size); err != nil {
		return err
	}
	began := time.Now()
	for i := range b.count {
		if _, err := f.WriteAt(binary.BigEndian.AppendUint64(nil, uint64(i)), 0); err != nil {
			return err
		}
		if _, err := f.Seek(0, 0); err != nil {
			return err
		}
		a, err := store.PublishReader(ctx, f)
		if err != nil {
			return err
		}
		if err := dig(store, a); err != nil {
			return err
		}
		b.artifacts = append(b.artifacts, a)
	}
	fmt.Printf("%d artifacts of %d MiB, published in %.0f s\n", b.count, b.size>>20, time.Since(began).Seconds())
	return nil
}

// dig makes a hole where an artifact is zero, which changes nothing for readers.
func dig(store *share.Store, a share.Artifact) error {
	const page = 4 << 10
	path, err := store.Path(a.Digest)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return errors.Join(unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, page, a.Size-page), f.Close())
}

// burden is what a process takes.
type burden struct {
	rss                      int64
	files, goroutines, opens int
}

func (l burden) String() string {
	return fmt.Sprintf("%d MB, %d files, %d goroutines, %d torrents open", l.rss>>20, l.files, l.goroutines, l.opens)
}

// most takes the larger of each.
func (l burden) most(o burden) burden {
	return burden{max(l.rss, o.rss), max(l.files, o.files), max(l.goroutines, o.goroutines), max(l.opens, o.opens)}
}

// settle is how long the process is left alone before it counts as idle.
const settle = 5 * time.Second

func (b *holdings) measure(ctx context.Context) error {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return ctx.Err()
	}
	idle, err := b.holder.load()
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	began := time.Now()
	go func() { done <- b.fetch(ctx) }()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	busy := idle
	for running := true; running; {
		select {
		case err := <-done:
			if err != nil {
				return err
			}
			running = false
		case <-tick.C:
		}
		now, err := b.holder.load()
		if err != nil {
			return err
		}
		busy = busy.most(now)
	}
	fmt.Printf("%d peers fetched %d artifacts each in %.0f s; %d MB went by pieces\n\n", b.peers, b.fetches, time.Since(began).Seconds(), b.holder.served>>20)
	for _, f := range []figure{{"idle", idle.String(), "< 300 MB"}, {"most while peers fetch", busy.String(), "< 300 MB"}} {
		fmt.Printf("%-24s want %-10s %s\n", f.what, f.want, f.got)
	}
	return nil
}

// abreast is how many artifacts a peer fetches at a time, as nodes do.
const abreast = 4

// fetch lets all peers fetch at once, each what chance gives it.
func (b *holdings) fetch(ctx context.Context) error {
	infoHash := make(map[share.Digest]string, len(b.artifacts))
	for _, a := range b.artifacts {
		infoHash[a.Digest] = a.InfoHash
	}
	errs := make([]error, b.peers)
	var wg sync.WaitGroup
	for i := range b.peers {
		wg.Go(func() { errs[i] = b.fetchAs(ctx, i, infoHash) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

func (b *holdings) fetchAs(ctx context.Context, i int, infoHash map[share.Digest]string) error {
	store, x, err := b.peer(i, infoHash)
	if err != nil {
		return err
	}
	chance := rand.New(rand.NewPCG(uint64(i), 0)).Perm(len(b.artifacts))
	errs := make([]error, abreast)
	var wg sync.WaitGroup
	for k := range abreast {
		wg.Go(func() {
			for n := k; n < min(b.fetches, len(chance)) && errs[k] == nil; n += abreast {
				a := b.artifacts[chance[n]]
				errs[k] = errors.Join(x.Fetch(ctx, a.Digest, a.Size, nil), store.Remove(a.Digest))
			}
		})
	}
	wg.Wait()
	return errors.Join(errors.Join(errs...), x.Close())
}

// peer is one who fetches, with an address of its own.
func (b *holdings) peer(i int, infoHash map[share.Digest]string) (*share.Store, *share.Torrent, error) {
	own := net.IPv4(127, 0, 1, byte(i+1))
	store, err := share.OpenStore(filepath.Join(b.dir, "peers", strconv.Itoa(i)))
	if err != nil {
		return nil, nil, err
	}
	ln, err := net.Listen("tcp4", net.JoinHostPort(own.String(), "0"))
	if err != nil {
		return nil, nil, err
	}
	dialer := &net.Dialer{LocalAddr: &net.TCPAddr{IP: own}}
	web := &http.Client{Transport: &http.Transport{DialContext: dialer.DialContext}}
	x, err := share.NewTorrent(share.TorrentOptions{
		HTTP: share.Options{
			Store: store, Client: func(string) *http.Client { return web }, Peers: func(share.Digest) []string { return []string{"http://" + b.holder.Web} },
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		},
		Listener: ln,
		Dial: func(ctx context.Context, p share.Peer) (net.Conn, error) {
			conn, err := dialer.DialContext(ctx, "tcp4", p.Addr)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(conn, b.certs)
			return secure, secure.HandshakeContext(ctx)
		},
		Peers:    func(share.Digest) []share.Peer { return []share.Peer{{ID: "holder", Addr: b.holder.Pieces}} },
		InfoHash: func(d share.Digest) string { return infoHash[d] },
		Patience: time.Minute, // pieces are to be measured, however busy this machine is
	})
	return store, x, err
}

// startHolder starts this program again as the one that has everything.
func (b *holdings) startHolder(ctx context.Context) (*holder, error) {
	own, err := os.Executable()
	if err != nil {
		return nil, err
	}
	member, err := newMember()
	if err != nil {
		return nil, err
	}
	if b.certs, err = member.config(); err != nil {
		return nil, err
	}
	h := &holder{cmd: exec.CommandContext(ctx, own, "memory", "-hold", b.store())}
	h.cmd.Stderr = os.Stderr
	in, err := h.cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := h.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := h.cmd.Start(); err != nil {
		return nil, err
	}
	h.in, h.ask, h.answers = in, json.NewEncoder(in), json.NewDecoder(out)
	if err := errors.Join(h.ask.Encode(member), h.answers.Decode(h)); err != nil {
		return nil, errors.Join(err, h.stop())
	}
	return h, nil
}
