package swarmtest

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"time"
)

// Host is one machine. It has lives: a crash ends one, a restart begins the next. Whatever was opened belongs to the life
// in which it was opened.
//
// A node that ran in a life that ended must have ended, too, before the next life begins: its goroutines cannot be killed,
// and what they open anew would belong to the new life.
type Host struct {
	net    *Network
	name   string
	addr   netip.Addr
	disk   *Disk
	life   *life // nil while crashed
	paused bool
	clock  clock
}

// life is the time between start and crash.
type life struct {
	host      *Host
	over      chan struct{}
	listeners map[uint16]*listener
	conns     map[*conn]struct{}
	handlers  map[uint16]Handler
	gossips   map[uint16]*gossip
	held      []*conn // have written while the host was paused
}

func newLife(h *Host) *life {
	return &life{
		host: h, over: make(chan struct{}), listeners: map[uint16]*listener{}, conns: map[*conn]struct{}{},
		handlers: map[uint16]Handler{}, gossips: map[uint16]*gossip{},
	}
}

// clock is guarded by Network.mu.
type clock struct {
	rate  float64
	since time.Time     // when rate was set
	base  time.Duration // what the clock showed then
	wall  time.Time     // what the wall clock shows when the other shows zero
}

func (c *clock) uptime() time.Duration {
	return c.base + time.Duration(float64(time.Since(c.since))*c.rate)
}

// Name is the host's name.
func (h *Host) Name() string { return h.name }

// Addr is the host's IP address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Address is host:port, by IP address.
func (h *Host) Address(port uint16) string { return netip.AddrPortFrom(h.addr, port).String() }

// Disk is the host's disk. It outlives the host's lives.
func (h *Host) Disk() *Disk { return h.disk }

// Clock is the host's own monotonic clock. It runs at the host's rate and goes on during a pause and across restarts.
func (h *Host) Clock() func() time.Duration {
	return func() time.Duration {
		h.net.mu.Lock()
		defer h.net.mu.Unlock()
		return h.clock.uptime()
	}
}

// Wall is the host's wall clock: the monotonic one, plus the jumps.
func (h *Host) Wall() time.Time {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.clock.wall.Add(h.clock.uptime())
}

// SetRate makes both clocks run at a multiple of true time from now on: 0.95 to 1.05 is worse than any quartz. Only who
// reads Clock and Wall notices; timers are the bubble's.
func (h *Host) SetRate(rate float64) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.clock.base, h.clock.since = h.clock.uptime(), time.Now()
	h.clock.rate = rate
}

// JumpWall sets the wall clock forward, or back.
func (h *Host) JumpWall(by time.Duration) {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.clock.wall = h.clock.wall.Add(by)
}

// Running tells whether the host is neither crashed nor paused.
func (h *Host) Running() bool {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.life != nil && !h.paused
}

// Crashed tells whether the host is between two lives.
func (h *Host) Crashed() bool {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	return h.life == nil
}

// Pause stops the host's I/O as SIGSTOP would: its reads, accepts and disk writes wait, even past their deadlines;
// what it writes to streams leaves when it resumes; its datagrams and frames are dropped, since a process that stands
// still sends none, and checks anew before it sends the next. What others send waits for it, within bounds.
func (h *Host) Pause() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	h.paused = true
	h.net.announce()
}

// Resume ends a pause.
func (h *Host) Resume() {
	h.net.mu.Lock()
	defer h.net.mu.Unlock()
	if !h.paused {
		return
	}
	h.paused = false
	if l := h.life; l != nil {
		for _, c := range l.held {
			c.release()
		}
		l.held = nil
		for _, g := range l.gossips {
			g.flush()
		}
	}
	h.net.announce()
}

// Crash ends the host's life, as a power loss or the death of the process does; by the seed the others are told by a reset
// of their connections, or hear nothing. Its disk forgets what was not synced. Everything that the old life still holds
// fails from now on, except that its disk seems to work: what it writes is gone.
func (h *Host) Crash() {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.life == nil {
		return
	}
	told := n.rng.IntN(2) == 0
	for c := range h.life.conns {
		c.vanish(told)
	}
	h.endLife()
	h.disk.crash()
	h.paused = false
	n.announce()
}

// endLife is called with mu held.
func (h *Host) endLife() {
	if h.life != nil {
		close(h.life.over)
		h.life = nil
	}
}

// Restart begins a new life with what is on the disk. Without a crash before it does nothing.
func (h *Host) Restart() {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if h.life != nil || n.closed {
		return
	}
	h.life = newLife(h)
	n.announce()
}

// alive returns the present life. Called with mu held.
func (h *Host) alive() (*life, error) {
	switch {
	case h.net.closed:
		return nil, ErrClosed
	case h.life == nil:
		return nil, fmt.Errorf("%s: %w", h.name, ErrCrashed)
	}
	return h.life, nil
}

// check says whether this life goes on. Called with mu held.
func (l *life) check() error {
	switch {
	case l.host.net.closed:
		return ErrClosed
	case l.host.life != l:
		return fmt.Errorf("%s: %w", l.host.name, ErrCrashed)
	}
	return nil
}

// awake waits while the host is paused and returns an error when this life is over, or ctx.
func (l *life) awake(ctx context.Context) error {
	n := l.host.net
	for {
		n.mu.Lock()
		err := l.check()
		paused, changed := l.host.paused, n.changed
		n.mu.Unlock()
		if err != nil {
			return err
		}
		if !paused {
			return nil
		}
		if err := wait(ctx, changed, 0); err != nil {
			return err
		}
	}
}

func split(address string) (string, uint16, error) {
	host, text, err := net.SplitHostPort(address)
	if err != nil {
		return "", 0, err
	}
	port, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return "", 0, fmt.Errorf("port of %s: %w", address, err)
	}
	return host, uint16(port), nil
}
