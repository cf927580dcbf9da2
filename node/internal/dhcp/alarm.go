package dhcp

import (
	"sync"
	"time"
)

// alarm counts events of a kind. Safe for concurrent use.
type alarm struct {
	mu    sync.Mutex
	since time.Time
	rung  map[EventKind]int
}

// At most mostEvents of a kind in eventWindow are reported.
const (
	mostEvents  = 10
	eventWindow = time.Minute
)

func (a *alarm) ring(now time.Time, kind EventKind) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.rung == nil || now.Sub(a.since) >= eventWindow || now.Before(a.since) {
		a.since, a.rung = now, make(map[EventKind]int)
	}
	a.rung[kind]++
	return a.rung[kind] <= mostEvents
}
