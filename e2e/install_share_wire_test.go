//go:build wire

package e2e

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestInstallingMachinesExchangeTheImage: six machines install themselves at the same time beside one node, whose link carries the
// image about once, and not six times.
func TestInstallingMachinesExchangeTheImage(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	w, small := world(t)
	seed, _, err := w.Seeded(ctx, small)
	if err != nil {
		t.Fatal(err)
	}
	const machines = 6
	living, off := context.WithCancel(ctx)
	var lives sync.WaitGroup
	t.Cleanup(func() {
		off()
		lives.Wait()
	})
	for i := range machines {
		b := bareAndArmed(ctx, t, w, seed, small, fmt.Sprintf("m%d", i+1))
		lives.Go(func() { _ = b.Life(living) }) // how it ends is not of interest here
	}
	accounts := map[string]string{}
	installed, err := w.Until(ctx, seed, "all have installed themselves", func(s status.Status) string {
		done := 0
		for _, m := range s.Machines {
			if m.State == "installed" {
				done++
			}
		}
		if done < machines {
			return fmt.Sprintf("%d of %d", done, machines)
		}
		return ""
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range installed.Machines {
		out, err := seed.Offshoot(ctx, "machine", "show", m.MAC)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(out) {
			if _, account, ok := strings.Cut(line, "image: "); ok {
				accounts[m.Name] = strings.TrimSpace(account)
			}
		}
	}
	byPieces := 0
	for name, account := range accounts {
		t.Logf("%s: %s", name, account)
		if strings.Contains(account, "in pieces, 0 B by HTTP") {
			byPieces++
		}
	}
	if byPieces < machines-1 {
		t.Errorf("%d of %d machines got the whole image in pieces", byPieces, machines)
	}
	image := storedImage(t, small)
	t.Logf("the seed has sent %.2f images in pieces", float64(installed.Exchange.Served)/float64(image))
	// Who begins late finds others that have it; how much the seed is spared is measured where links are slow (make bench-install).
	if spared := image*int64(byPieces) - installed.Exchange.Bytes.Sent.Install; spared < image {
		t.Errorf("of %d images the machines gave each other %d bytes, less than one: they do not exchange it", byPieces, spared)
	}
}

// bareAndArmed draws a machine that will be installed as soon as it is switched on.
func bareAndArmed(ctx context.Context, t *testing.T, w *story.World, via commander, small story.Small, name string, also ...*lab.Network) *story.Bare {
	t.Helper()
	b, err := w.NewBare(name, small, also...)
	if err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"machine", "name", b.MAC.String(), name}, {"machine", "arm", b.MAC.String()}} {
		if out, err := via.Offshoot(ctx, args...); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	return b
}

// commander is a daemon or a machine whose node takes commands.
type commander interface {
	Offshoot(ctx context.Context, args ...string) (string, error)
}

// storedImage is the size of what travels, bytes.
func storedImage(t *testing.T, small story.Small) int64 {
	t.Helper()
	info, err := os.Stat(small.Image)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}
