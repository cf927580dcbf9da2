//go:build wire && soak

package e2e

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"
)

// TestSoakOfFaults goes on with random faults for as long as OFFSHOOT_SOAK says. OFFSHOOT_SEED repeats the order of a run.
// It is in no tier: `make soak` runs it.
func TestSoakOfFaults(t *testing.T) {
	length, err := time.ParseDuration(os.Getenv("OFFSHOOT_SOAK"))
	if err != nil || length <= 0 {
		t.Fatalf("OFFSHOOT_SOAK=%q: want how long to go on, for example 1h", os.Getenv("OFFSHOOT_SOAK"))
	}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv("OFFSHOOT_SEED"); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("OFFSHOOT_SEED=%q: %v", text, err)
		}
	}
	t.Logf("repeat with OFFSHOOT_SEED=%d", seed)
	chance := rand.New(rand.NewPCG(seed, 0))
	all := slices.Concat(processFaults, powerFaults, networkFaults)
	end, rounds := time.Now().Add(length), 0
	for time.Now().Before(end) && !t.Failed() {
		rounds++
		// A new world now and then: captures and diaries must not outgrow what can be judged.
		t.Run(fmt.Sprintf("world-%d", rounds), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 15*time.Minute)
			defer cancel()
			c := newCrisis(ctx, t)
			for range 20 {
				if f := all[chance.IntN(len(all))]; !c.suffer(ctx, f) || time.Now().After(end) {
					break
				}
			}
			c.judge(ctx)
		})
	}
}
