package dhcp

import (
	"sync"
	"time"

	"offshoot/swarm"
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

// event reports what an operator should see, but not each of a flood: every one may become a write to the ledger.
func (s *Server) event(now time.Time, mac swarm.MAC, kind EventKind, text string) {
	if !s.alarm.ring(now, kind) {
		s.o.Log.Debug("dhcp, one of many", "kind", kind, "mac", mac, "text", text)
		return
	}
	s.o.Log.Warn("dhcp", "kind", kind, "mac", mac, "text", text)
	s.o.OnEvent(Event{Time: now, MAC: mac, Kind: kind, Text: text})
}
