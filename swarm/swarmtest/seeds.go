package swarmtest

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Seeds says which stories a test tells: by flags that a test package registers once, with
//
//	var seeds = swarmtest.Flags("./node")
type Seeds struct {
	directory string
	seed      *uint64
	schedules *int
}

// Flags registers -seed and -schedules. directory is what `go test` has to be given to run the tests again.
func Flags(directory string) *Seeds {
	return &Seeds{
		directory: directory,
		seed:      flag.Uint64("seed", 0, "tell the story of this seed only"),
		schedules: flag.Int("schedules", 0, "tell that many stories instead of the usual number"),
	}
}

// hangs is how long a story may take in true time. In a bubble nothing but a goroutine that waits for a mutex whose owner
// waits for time, or one that spins, takes that long.
const hangs = 2 * time.Minute

// Run tells a story for each of the seeds 1 to usual, each in a bubble of its own, as many at once as there are
// processors. With OFFSHOOT_SOAK=1h it goes on with random seeds for that time. A story that fails ends with the one line that
// repeats it.
func (s *Seeds) Run(t *testing.T, usual int, story func(t *testing.T, seed uint64)) {
	t.Helper()
	if *s.seed != 0 {
		s.tell(t, *s.seed, story)
		return
	}
	if *s.schedules > 0 {
		usual = *s.schedules
	}
	next, told := uint64(0), 0
	more := func() bool { return told < usual }
	if text := os.Getenv("OFFSHOOT_SOAK"); text != "" {
		length, err := time.ParseDuration(text)
		if err != nil {
			t.Fatalf("OFFSHOOT_SOAK: %v", err)
		}
		end := time.Now().Add(length)
		next, more = rand.Uint64()>>16, func() bool { return time.Now().Before(end) && !t.Failed() }
	}
	start := time.Now()
	// In batches: each waits for its slowest, and a soak's stories are not all begun before the first has ended.
	for batch := 0; more(); batch++ {
		t.Run(fmt.Sprintf("batch=%d", batch), func(t *testing.T) {
			for i := 0; i < batchSize && more(); i++ {
				next++
				told++
				seed := next
				t.Run(fmt.Sprintf("seed=%d", seed), func(t *testing.T) {
					t.Parallel()
					s.tell(t, seed, story)
				})
			}
		})
	}
	took := time.Since(start)
	t.Logf("%d schedules in %v, %v each", told, took.Round(time.Millisecond), (took / time.Duration(max(told, 1))).Round(time.Millisecond))
}

const (
	batchSize = 64
	// aftermath is what goroutines get that nobody waits for, memberlist's probes among them, before their bubble calls
	// them leaked.
	aftermath = 30 * time.Second
)

func (s *Seeds) tell(t *testing.T, seed uint64, story func(t *testing.T, seed uint64)) {
	name, _, _ := strings.Cut(t.Name(), "/")
	again := fmt.Sprintf("go test %s -run '^%s$' -seed=%d", s.directory, name, seed)
	watchdog := time.AfterFunc(hangs, func() {
		stacks := make([]byte, 4<<20)
		panic(fmt.Sprintf("hangs: %s\n\n%s", again, stacks[:runtime.Stack(stacks, true)]))
	})
	defer watchdog.Stop()
	defer func() {
		if t.Failed() {
			t.Logf("again: %s", again)
		}
	}()
	synctest.Test(t, func(t *testing.T) {
		story(t, seed)
		_ = pass(context.Background(), nil, aftermath)
	})
}
