package mirror

import (
	"context"
	"sync"
	"time"
)

// bucket is a token bucket that may go into debt: who takes more than there is waits until it is paid.
type bucket struct {
	rate  float64 // tokens a second; 0: no limit
	burst float64
	now   func() time.Time

	mu   sync.Mutex
	have float64
	at   time.Time
}

func newBucket(rate, burst float64, now func() time.Time) *bucket {
	return &bucket{rate: rate, burst: burst, now: now, have: burst, at: now()}
}

func (b *bucket) fill() {
	now := b.now()
	b.have = min(b.burst, b.have+b.rate*max(0, now.Sub(b.at).Seconds()))
	b.at = now
}

// try takes one token if there is one.
func (b *bucket) try() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.fill()
	if b.have < 1 {
		return false
	}
	b.have--
	return true
}

// wait takes n tokens, and returns when they are paid for.
func (b *bucket) wait(ctx context.Context, n int) error {
	if b.rate == 0 {
		return nil
	}
	b.mu.Lock()
	b.fill()
	b.have -= float64(n)
	debt := time.Duration(max(0, -b.have) / b.rate * float64(time.Second))
	b.mu.Unlock()
	if debt == 0 {
		return nil
	}
	t := time.NewTimer(debt)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// misses remembers what was not there, for a while and up to a number: the oldest is forgotten first.
type misses struct {
	life time.Duration
	now  func() time.Time

	mu    sync.Mutex
	until map[string]time.Time
	ring  []string
	next  int
}

func newMisses(size int, life time.Duration, now func() time.Time) *misses {
	return &misses{life: life, now: now, until: map[string]time.Time{}, ring: make([]string, size)}
}

func (m *misses) add(name string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, ok := m.until[name]; !ok {
		delete(m.until, m.ring[m.next])
		m.ring[m.next] = name
		m.next = (m.next + 1) % len(m.ring)
	}
	m.until[name] = m.now().Add(m.life)
}

func (m *misses) has(name string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	until, ok := m.until[name]
	return ok && m.now().Before(until)
}
