package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

// transmission is a swarm of transmission-cli around our tracker. It connects whoever comes later to all who came before.
func (b *shares) transmission(ctx context.Context, dir string) (took time.Duration, err error) {
	ctx, stop := context.WithCancel(ctx)
	ln, err := listenOn(b.hosts[0], net.JoinHostPort(b.address(0), "6969"))
	if err != nil {
		stop()
		return 0, err
	}
	srv := &http.Server{Handler: &tracker{}, ReadHeaderTimeout: time.Minute}
	go func() { _ = srv.Serve(ln) }() // ends with Close
	var running sync.WaitGroup
	defer func() {
		stop()
		running.Wait()
		err = errors.Join(err, srv.Close())
	}()
	var done []string
	start := func(i int) error {
		own := filepath.Join(dir, strconv.Itoa(i))
		if err := os.MkdirAll(filepath.Join(own, "config"), 0o755); err != nil {
			return err
		}
		if i == 0 {
			if err := os.Link(b.file, filepath.Join(own, string(b.artifact.Digest))); err != nil {
				return err
			}
		}
		settings, err := json.Marshal(map[string]any{
			"dht-enabled": false, "lpd-enabled": false, "pex-enabled": false, "utp-enabled": false, "port-forwarding-enabled": false,
			"encryption": 0, "peer-port": piecePort + i, "bind-address-ipv4": b.address(i), "preallocation": 0, "peer-limit-per-torrent": 50,
			"upload-slots-per-torrent": 50,
		})
		if err != nil {
			return err
		}
		finished := filepath.Join(own, "done")
		hook := filepath.Join(own, "done.sh")
		err = errors.Join(os.WriteFile(filepath.Join(own, "config", "settings.json"), settings, 0o644),
			os.WriteFile(hook, []byte("#!/bin/sh\ntouch "+finished+"\n"), 0o755))
		if err != nil {
			return err
		}
		c := b.hosts[i].Command(ctx, "transmission-cli", "--config-dir", filepath.Join(own, "config"), "--download-dir", own, "--finish", hook,
			"--port", strconv.Itoa(piecePort+i), b.torrent)
		if err := c.Start(); err != nil {
			return err
		}
		running.Go(func() { _ = c.Wait() }) // killed
		if i > 0 {
			done = append(done, finished)
		}
		return nil
	}
	if err := start(0); err != nil {
		return 0, err
	}
	if err := answers(ctx, b.hosts[0], net.JoinHostPort(b.address(0), strconv.Itoa(piecePort))); err != nil {
		return 0, err
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

// udpcast sends it to all at once by multicast, once each of them has called. It needs a rate that no link on the way exceeds:
// what a full queue drops has to be sent again.
func (b *shares) udpcast(ctx context.Context, dir string) (time.Duration, error) {
	n := len(b.hosts) - 1
	errs := make([]error, len(b.hosts))
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		_, errs[0] = b.hosts[0].Run(ctx, "udp-sender", "--interface", "lan0", "--file", b.file, "--nokbd", "--full-duplex",
			"--min-receivers", strconv.Itoa(n), "--max-bitrate", fmt.Sprintf("%dm", b.rate*95/100))
	})
	for { // a receiver calls once
		out, err := b.hosts[0].Run(ctx, "ss", "-Huln", "sport = :9001")
		if err != nil {
			return 0, err
		}
		if out != "" {
			break
		}
	}
	began := time.Now()
	for i := 1; i <= n; i++ {
		wg.Go(func() {
			_, errs[i] = b.hosts[i].Run(ctx, "udp-receiver", "--interface", "lan0", "--file", filepath.Join(dir, strconv.Itoa(i)), "--nokbd")
		})
	}
	wg.Wait()
	return time.Since(began), errors.Join(errs...)
}
