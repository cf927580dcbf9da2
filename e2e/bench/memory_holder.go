package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"offshoot/swarm/share"
)

// holder is the process that has the artifacts, as this one sees it.
type holder struct {
	Pieces, Web string // where it listens

	cmd     *exec.Cmd
	in      io.Closer
	ask     *json.Encoder
	answers *json.Decoder
	served  int64
}

// holding is what the holder says of itself.
type holding struct {
	Goroutines, Open int
	Served           int64
}

// load asks the holder what only it knows, and the kernel the rest.
func (h *holder) load() (l burden, err error) {
	var own holding
	if err := errors.Join(h.ask.Encode(struct{}{}), h.answers.Decode(&own)); err != nil {
		return l, err
	}
	h.served = own.Served
	l.goroutines, l.opens = own.Goroutines, own.Open
	proc := filepath.Join("/proc", strconv.Itoa(h.cmd.Process.Pid))
	files, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return l, err
	}
	l.files = len(files)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return l, err
	}
	for line := range bytes.Lines(status) {
		var kb int64
		if n, _ := fmt.Sscanf(string(line), "VmRSS: %d kB", &kb); n == 1 {
			l.rss = kb << 10
			return l, nil
		}
	}
	return l, fmt.Errorf("%s has no VmRSS", proc)
}

// stop lets the holder end, by the end of its input.
func (h *holder) stop() error { return errors.Join(h.in.Close(), h.cmd.Wait()) }

// holdStore is the holder itself: it reads the certificate, says where it listens, and then what it is asked.
func holdStore(ctx context.Context, dir string) (err error) {
	in, out := json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)
	var m member
	if err := in.Decode(&m); err != nil {
		return err
	}
	certs, err := m.config()
	if err != nil {
		return err
	}
	store, err := share.OpenStore(dir)
	if err != nil {
		return err
	}
	pieces, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	web, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	x, err := share.NewTorrent(share.TorrentOptions{
		HTTP: share.Options{
			Store: store, Client: func(string) *http.Client { return &http.Client{Timeout: time.Minute} }, Peers: func(share.Digest) []string { return nil },
			Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
		},
		Listener: &provenListener{Listener: pieces, config: certs},
		Dial: func(context.Context, share.Peer) (net.Conn, error) {
			return nil, errors.New("it calls nobody")
		},
		Peers: func(share.Digest) []share.Peer { return nil }, InfoHash: store.InfoHash,
	})
	if err != nil {
		return err
	}
	server := &http.Server{Handler: x.Handler(), ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(web) }() // ends with Close
	defer func() { err = errors.Join(err, server.Close(), x.Close()) }()
	if err := out.Encode(holder{Pieces: pieces.Addr().String(), Web: web.Addr().String()}); err != nil {
		return err
	}
	for {
		if err := in.Decode(&struct{}{}); errors.Is(err, io.EOF) || ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		s := x.Stats()
		if err := out.Encode(holding{runtime.NumGoroutine(), s.Open, s.Served}); err != nil {
			return err
		}
	}
}
