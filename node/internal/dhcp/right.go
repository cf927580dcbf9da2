package dhcp

import (
	"context"
	"sync"
	"time"
)

// right is this node's right to commit, which it has while its duty is full. A commit that waits for a majority is given up when
// that ends, so that its machine does not wait in vain: asked again, this node may renew what is bound. The zero value is ready.
type right struct {
	mu    sync.Mutex
	held  bool // as of the last look
	count int
	ends  map[int]func() // commits under way
}

// rightTick is how late the end of a duty is noticed.
const rightTick = 100 * time.Millisecond

// watch looks at the duty until ctx ends.
func (r *right) watch(ctx context.Context, duty func() DutyState) {
	tick := time.NewTicker(rightTick)
	defer tick.Stop()
	for {
		r.look(duty() == Full)
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (r *right) look(full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held && !full {
		for _, end := range r.ends {
			end()
		}
		clear(r.ends)
	}
	r.held = full
}

// whileHeld has end called when the right ends, unless forget is called before.
func (r *right) whileHeld(end func()) (forget func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.ends == nil {
		r.ends = map[int]func(){}
	}
	r.count++
	id := r.count
	r.ends[id] = end
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.ends, id)
	}
}
