package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"time"

	"offshoot/e2e/lab"
)

// aria2 is a swarm of aria2c around a tracker of ours, which knows nothing but who has asked.
func (b *shares) aria2(ctx context.Context, dir string) (took time.Duration, err error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	ln, err := listenOn(b.hosts[0], net.JoinHostPort(b.address(0), "6969"))
	if err != nil {
		return 0, err
	}
	srv := &http.Server{Handler: &tracker{}, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	defer func() { err = errors.Join(err, srv.Close()) }()
	hook := filepath.Join(dir, "done.sh")
	if err := os.WriteFile(hook, []byte("#!/bin/sh\ntouch \"$(dirname \"$3\")/done\"\n"), 0o755); err != nil {
		return 0, err
	}
	var done []string
	var running sync.WaitGroup
	defer running.Wait()
	defer stop() // before the wait
	start := func(i int) error {
		own := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(own, 0o755); err != nil {
			return err
		}
		if i == 0 {
			if err := os.Link(b.file, filepath.Join(own, string(b.artifact.Digest))); err != nil {
				return err
			}
		}
		c := b.hosts[i].Command(ctx, "aria2c", "-q", "--no-conf", "--dir="+own, "--seed-ratio=0.0", "--seed-time=100000", "--file-allocation=none",
			"--enable-dht=false", "--enable-dht6=false", "--bt-enable-lpd=false", "--enable-peer-exchange=false", "--bt-tracker-interval=1",
			"--check-integrity=true", "--bt-max-peers=50", "--disable-ipv6=true", "--listen-port="+strconv.Itoa(piecePort+i),
			"--bt-external-ip="+b.address(i), "--on-bt-download-complete="+hook, b.torrent)
		if err := c.Start(); err != nil {
			return err
		}
		running.Go(func() { _ = c.Wait() }) // killed
		done = append(done, filepath.Join(own, "done"))
		return nil
	}
	if err := start(0); err != nil {
		return 0, err
	}
	if err := appear(ctx, done); err != nil {
		return 0, fmt.Errorf("seed: %w", err)
	}
	began := time.Now()
	for i := 1; i < len(b.hosts); i++ {
		if err := start(i); err != nil {
			return 0, err
		}
	}
	err = appear(ctx, done)
	return time.Since(began), err
}

// appear waits until all these files are there.
func appear(ctx context.Context, files []string) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for _, f := range files {
		for {
			if _, err := os.Stat(f); err == nil {
				break
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return fmt.Errorf("wait for %s: %w", f, ctx.Err())
			}
		}
	}
	return nil
}

// tracker answers an announce with everybody who announced (BEP 3, 23).
type tracker struct {
	mu    sync.Mutex
	peers []byte
}

// ServeHTTP implements http.Handler.
func (t *tracker) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	query, err := url.ParseQuery(r.URL.RawQuery)
	from, ferr := netip.ParseAddrPort(r.RemoteAddr)
	port, perr := strconv.ParseUint(query.Get("port"), 10, 16)
	if err := errors.Join(err, ferr, perr); err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	ip := from.Addr().Unmap().As4()
	own := append(ip[:], byte(port>>8), byte(port))
	t.mu.Lock()
	defer t.mu.Unlock()
	known := false
	for p := range slices.Chunk(t.peers, len(own)) {
		known = known || slices.Equal(p, own)
	}
	if !known {
		t.peers = append(t.peers, own...)
	}
	_, _ = fmt.Fprintf(w, "d8:intervali1e5:peers%d:%se", len(t.peers), t.peers)
}

// nginx serves the file, and curl fetches it on each machine.
func (b *shares) nginx(ctx context.Context, dir string) (took time.Duration, err error) {
	ctx, stop := context.WithCancel(ctx)
	at := b.port(webPort, 0)
	conf := filepath.Join(dir, "nginx.conf")
	text := fmt.Sprintf(`daemon off; user root; pid %[1]s/pid; error_log %[1]s/error.log;
events {}
http { access_log off; sendfile on; tcp_nopush on; server { listen %[2]s; root %[3]s; } }
`, dir, at, b.dir)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		stop()
		return 0, err
	}
	server := b.hosts[0].Command(ctx, "nginx", "-c", conf, "-e", filepath.Join(dir, "error.log"))
	if err := server.Start(); err != nil {
		stop()
		return 0, err
	}
	defer func() {
		stop()
		_ = server.Wait() // killed
	}()
	if err := answers(ctx, b.hosts[0], at); err != nil {
		return 0, err
	}
	began := time.Now()
	errs := make([]error, len(b.hosts))
	var wg sync.WaitGroup
	for i := 1; i < len(b.hosts); i++ {
		wg.Go(func() {
			_, errs[i] = b.hosts[i].Run(ctx, "curl", "-sSf", "-o", filepath.Join(dir, strconv.Itoa(i)), "http://"+at+"/"+filepath.Base(b.file))
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}

// answers waits until someone listens there.
func answers(ctx context.Context, h *lab.Host, at string) error {
	for {
		conn, err := h.Dial(ctx, "tcp4", at)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return err
		}
	}
}
