package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strconv"
	"sync"
	"time"
)

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
