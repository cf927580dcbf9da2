package ledger

import (
	"sync"
	"time"
)

// signal wakes everyone who waits for "something changed". The channel is taken before the state is looked at, so no
// change is missed. The zero value is ready.
type signal struct {
	mu sync.Mutex
	ch chan struct{}
}

// next returns a channel that is closed at the next announcement.
func (s *signal) next() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch == nil {
		s.ch = make(chan struct{})
	}
	return s.ch
}

func (s *signal) announce() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ch != nil {
		close(s.ch)
		s.ch = nil
	}
}

// gate counts requests under way and can be closed: no one enters any more, and the closer waits for those inside.
// (A sync.WaitGroup may not be waited for while others add.) The zero value is open.
type gate struct {
	mu     sync.Mutex
	inside int
	closed bool
	empty  chan struct{}
}

// enter refuses with ErrStopped when the gate is closed and with ErrBusy when most are inside already; 0 is no bound.
func (g *gate) enter(most int) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	switch {
	case g.closed:
		return ErrStopped
	case most > 0 && g.inside >= most:
		return ErrBusy
	}
	g.inside++
	return nil
}

func (g *gate) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.inside
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.inside--
	if g.closed && g.inside == 0 {
		close(g.empty)
	}
}

// closeAndWait is called once. It returns false if someone is still inside after bound.
func (g *gate) closeAndWait(bound time.Duration) bool {
	g.mu.Lock()
	g.closed = true
	g.empty = make(chan struct{})
	if g.inside == 0 {
		close(g.empty)
	}
	g.mu.Unlock()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	select {
	case <-g.empty:
		return true
	case <-timer.C:
		return false
	}
}
