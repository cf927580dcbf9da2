package node

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// Between two collections at least this much garbage may lie about, bytes: a node's state is a few megabytes, and Go would
// collect after as many again, hundreds of times a second when machines ask for addresses. It is what a node may have
// resident beyond its state.
const garbage = 64 << 20

// Bounds of the collector's percentage: Go's own default, and what keeps a node with an empty state small.
const (
	leastPercent = 100
	mostPercent  = 800
)

// keepHeap sets the collector's pace by the size of what is alive.
func keepHeap(ctx context.Context) error {
	before := debug.SetGCPercent(mostPercent)
	defer debug.SetGCPercent(before)
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	sample := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	for {
		metrics.Read(sample)
		debug.SetGCPercent(gcPercent(sample[0].Value.Uint64()))
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// gcPercent is the garbage that may lie about beside so many bytes alive, in percent of them.
func gcPercent(live uint64) int {
	if live == 0 {
		return mostPercent
	}
	return int(min(max(garbage*100/live, leastPercent), mostPercent))
}
