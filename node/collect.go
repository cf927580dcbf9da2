package node

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"offshoot/node/internal/mirror"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

const (
	// collectPause is how often the room is looked at. A gigabit brings a gigabyte meanwhile, and 2 are kept free.
	collectPause = 10 * time.Second
	// recentUse is how long what was used is as dear as what is in a working set.
	recentUse = 24 * time.Hour
)

// collector throws away what the store has no room for.
type collector struct {
	*replica
	store   *share.Store
	disk    func() (share.Room, error)
	sets    *sets
	mirror  func() *mirror.Mirror
	stocked func() []string // what a seed is about to write down
	log     *slog.Logger

	one   sync.Mutex   // collection at a time
	came  atomic.Int64 // bytes that have come since the store was measured, about
	held  atomic.Int64 // bytes of the store when it was measured; with a budget only
	short atomic.Int64 // bytes that could not be had, because all that is left is needed
}

// run collects whenever there is too little room.
func (c *collector) run(ctx context.Context) error {
	tick := time.NewTicker(collectPause)
	defer tick.Stop()
	for {
		if err := c.makeRoom(0); err != nil {
			c.log.Warn("nothing can be thrown away", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// measure looks at the disk. The store itself is walked through only for a budget.
func (c *collector) measure(budget int64, afresh bool) (share.Room, error) {
	r, err := c.disk()
	if err != nil || budget == 0 {
		return r, err
	}
	if afresh {
		all, err := c.store.List()
		if err != nil {
			return r, err
		}
		var held int64
		for _, a := range all {
			held += a.Size
		}
		c.held.Store(held)
		c.came.Store(0)
	}
	r.Stored = c.held.Load() + c.came.Load()
	return r, nil
}

// fits says whether so many bytes may come that are only fetched ahead: nothing is thrown away for them, or one working set would
// drive out another for ever.
func (c *collector) fits(bytes int64) error {
	settings, _ := c.state.View().Settings()
	r, err := c.measure(settings.StoreBudget, false)
	if err != nil {
		return err
	}
	if excess := r.Excess(settings.StoreBudget, bytes+r.Slack(settings.StoreBudget)); excess > 0 {
		return fmt.Errorf("%w: %d MiB are free, and %d MiB more would be needed to fetch it ahead", share.ErrDiskFull, r.Free>>20, excess>>20+1)
	}
	c.came.Add(bytes)
	return nil
}

// makeRoom throws away what it takes for so many bytes more to have room.
func (c *collector) makeRoom(more int64) error {
	c.one.Lock()
	defer c.one.Unlock()
	view := c.state.View()
	settings, arrived := view.Settings()
	if !arrived {
		return nil // nobody knows yet what is needed
	}
	budget := settings.StoreBudget
	r, err := c.measure(budget, true)
	if err != nil {
		return err
	}
	excess := r.Excess(budget, more)
	if excess <= 0 {
		c.short.Store(0)
		return nil
	}
	all, err := c.store.Holdings()
	if err != nil {
		return err
	}
	rank := c.ranks(view, time.Now())
	for i := range all {
		all[i].Rank = rank(all[i])
	}
	freed := c.remove(view, share.Garbage(all, excess+r.Slack(budget)))
	c.short.Store(max(0, r.Want(budget, more)-freed))
	return nil
}

func (c *collector) remove(view swarm.View, garbage []share.Artifact) (freed int64) {
	gone := map[string]bool{}
	for _, g := range garbage {
		if err := c.store.Remove(g.Digest); err != nil {
			c.log.Warn("artifact is not thrown away", "digest", g.Digest, "error", err)
			continue
		}
		freed += g.Size
		gone[string(g.Digest)] = true
		if a, known := view.Artifact(string(g.Digest)); known {
			c.log.Info("artifact is thrown away to make room", "artifact", a.Name, "digest", g.Digest, "bytes", g.Size)
		} else {
			c.log.Debug("file is thrown away to make room", "digest", g.Digest, "bytes", g.Size)
		}
	}
	if len(gone) > 0 {
		c.log.Info("room is made in the store", "files", len(gone), "bytes", freed)
		c.sets.lost(gone)
	}
	return freed
}

// ranks says how dear each holding is to this node now.
func (c *collector) ranks(view swarm.View, now time.Time) func(share.Holding) share.Rank {
	lists, files := c.sets.digests(view)
	kept := [][]string{view.Needs(), view.PinnedArtifacts(), lists, c.sets.recorder.Digests(), c.stocked()}
	if m := c.mirror(); m != nil {
		kept = append(kept, m.Keeps())
	}
	ranks := map[share.Digest]share.Rank{}
	for _, digest := range files {
		ranks[share.Digest(digest)] = share.Recent
	}
	for _, digests := range kept {
		for _, digest := range digests {
			ranks[share.Digest(digest)] = share.Kept
		}
	}
	return func(h share.Holding) share.Rank {
		if rank := ranks[h.Digest]; rank != share.Rest || now.Sub(h.Used).Abs() >= recentUse {
			return rank
		}
		return share.Recent
	}
}
