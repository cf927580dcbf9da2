package main

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"time"
)

// tftpMany is how many clients load at once.
const tftpMany = 200

// tftp loads the program of 1 MB by one client, and by many at once, with the window that EDK2 asks for and without one, as BIOS
// and iPXE ask. The peers know no windows.
func (b *boots) tftp(ctx context.Context) error {
	want, err := os.ReadFile(filepath.Join(b.peers.files, program))
	if err != nil {
		return err
	}
	servers := []string{nodeAddress, masqAddress, tftpdAddress}
	for _, s := range servers {
		for _, window := range []int{0, edk2Window} {
			if err := b.loaderFor(s, window).ready(ctx, program, want); err != nil {
				return err
			}
		}
	}
	for _, by := range []struct {
		who    string
		window int
		reach  [2]float64
	}{{"EDK2", edk2Window, [2]float64{1, 2}}, {"BIOS, iPXE", 0, [2]float64{1, 2}}} {
		var one, many []func(context.Context) (float64, error)
		for _, s := range servers {
			l := b.loaderFor(s, by.window)
			one = append(one, func(context.Context) (float64, error) { return l.pace(b.span) })
			many = append(many, func(context.Context) (float64, error) { return l.crowd(tftpMany) })
		}
		peers := []string{"dnsmasq", "tftpd-hpa"}
		alone, err := b.inTurns(ctx, one)
		if err != nil {
			return err
		}
		b.tell(alone.judge("TFTP 1 MB, one client, "+by.who, "%.1f MB/s", peers, by.reach[0])...)
		crowd, err := b.inTurns(ctx, many)
		if err != nil {
			return err
		}
		b.tell(crowd.judge("TFTP 1 MB, 200 at once, "+by.who, "%.1f MB/s", peers, by.reach[1])...)
	}
	return nil
}

// pace loads again and again, and returns MB/s.
func (l *loader) pace(span time.Duration) (float64, error) {
	began, total := time.Now(), int64(0)
	for time.Since(began) < span {
		n, err := l.load(program, nil)
		if err != nil {
			return 0, err
		}
		total += n
	}
	return float64(total) / 1e6 / time.Since(began).Seconds(), nil
}

// crowd has many clients load at once, once each. One that fails is an error.
func (l *loader) crowd(clients int) (float64, error) {
	errs, sizes := make([]error, clients), make([]int64, clients)
	var wg sync.WaitGroup
	began := time.Now()
	for i := range clients {
		wg.Go(func() { sizes[i], errs[i] = l.load(program, nil) })
	}
	wg.Wait()
	took := time.Since(began)
	total := int64(0)
	for _, n := range sizes {
		total += n
	}
	return float64(total) / 1e6 / took.Seconds(), errors.Join(errs...)
}
