package segment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"slices"
	"time"
)

// Schedule says when a probe sends its DISCOVERs, counted from its start, and how long it listens in all.
type Schedule struct {
	Sends  []time.Duration
	Listen time.Duration
}

// DefaultSchedule outlasts slow servers (some ping an address for seconds before they offer it) and a lost packet.
func DefaultSchedule() Schedule {
	return Schedule{Sends: []time.Duration{0, 2 * time.Second, 4 * time.Second, 8 * time.Second}, Listen: 10 * time.Second}
}

// linger is how long a probe goes on after the first foreign answer, so that a second server is named as well.
const linger = 300 * time.Millisecond

// Prober looks for DHCP servers of others.
type Prober struct {
	// Schedule defaults to DefaultSchedule.
	Schedule Schedule
	// Mine says whether a server belongs to the swarm; nil means that none does. Called from the goroutine of Probe or Run.
	Mine func(Server) bool
	// Mark is the user class (option 77) of our DISCOVERs. Our own servers stay silent when they hear it, so that a probe
	// takes no lease and makes no machine; it should name the swarm, so that another swarm does answer.
	Mark string
	// Whole hears the schedule out although a server has answered, so that all of them say all that they offer.
	Whole bool
	Log   *slog.Logger

	open opener // openRaw, unless a test sets it
}

// Probe sends DISCOVERs as a client that nobody knows, and returns the foreign servers that it heard: answers to itself,
// and what servers said to others meanwhile. It ends early once one answered, unless Whole. No error and no server means that the whole
// schedule passed in silence; every other way to end is an error, that of ctx included.
//
// Every second DISCOVER claims to be a PXE client, because servers that only offer boot programs answer no others.
func (p Prober) Probe(ctx context.Context, port Port) ([]Server, error) {
	t := newSightings()
	err := p.with(ctx, port, func(r *round) error {
		return r.run(ctx, func(s Server) {
			if t.note(s, time.Now()) && !p.Whole {
				r.shorten(linger)
			}
		})
	})
	if err != nil {
		return nil, fmt.Errorf("probe %s for DHCP servers: %w", port.Name, err)
	}
	return t.list(), nil
}

// with opens the port's socket for the time of fn.
func (p Prober) with(ctx context.Context, port Port, fn func(*round) error) (err error) {
	if p.Schedule.Listen == 0 {
		p.Schedule = DefaultSchedule()
	}
	open := p.open
	if open == nil {
		open = openRaw
	}
	// Promiscuous, because a server that ignores the broadcast flag answers to a MAC that our card does not have.
	conn, err := open(port, etherIPv4, replyFilter, true)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	frames, failed := listen(ctx, conn)
	defer func() { err = errors.Join(err, hush(conn, cancel, frames)) }()
	return fn(&round{prober: p, conn: conn, frames: frames, failed: failed, hw: localMAC()})
}

// round is one pass of the schedule over an open socket.
type round struct {
	prober Prober
	conn   net.PacketConn
	frames <-chan []byte
	failed <-chan error
	hw     net.HardwareAddr
	end    time.Time
}

// shorten lets the round end after d, unless it ends sooner.
func (r *round) shorten(d time.Duration) {
	if end := time.Now().Add(d); end.Before(r.end) {
		r.end = end
	}
}

// run sends by the schedule and hands every foreign server that it hears to hear. A DISCOVER that could not be sent ends
// it: silence would then prove nothing.
func (r *round) run(ctx context.Context, hear func(Server)) error {
	start, sends := time.Now(), r.prober.Schedule.Sends
	r.end = start.Add(r.prober.Schedule.Listen)
	for sent := 0; ; {
		next := r.end
		if sent < len(sends) {
			if due := start.Add(sends[sent]); due.Before(next) {
				next = due
			}
		}
		if err := r.listen(ctx, next, hear); err != nil {
			return err
		}
		if !time.Now().Before(r.end) {
			return nil
		}
		if sent < len(sends) && !time.Now().Before(start.Add(sends[sent])) {
			frame, err := discover(r.hw, uint16(sends[sent]/time.Second), r.prober.Mark, sent%2 == 1)
			if err != nil {
				return err
			}
			if err := send(r.conn, frame); err != nil {
				return fmt.Errorf("send DISCOVER: %w", err)
			}
			sent++
		}
	}
}

// listen hears until the given time or, when hear shortened the round, its new end.
func (r *round) listen(ctx context.Context, until time.Time, hear func(Server)) error {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case err := <-r.failed:
			return cmp.Or(err, net.ErrClosed)
		case <-timer.C:
			return nil
		case frame, ok := <-r.frames:
			if !ok {
				return cmp.Or(<-r.failed, net.ErrClosed)
			}
			s, err := decodeReply(frame)
			if err != nil {
				r.prober.Log.Debug("frame ignored", "reason", err)
				continue
			}
			if r.prober.Mine != nil && r.prober.Mine(s) {
				r.prober.Log.Debug("DHCP server of our own", "server", s.ID, "mac", s.MAC)
				continue
			}
			hear(s)
			if r.end.Before(until) {
				until = r.end
				timer.Reset(time.Until(until))
			}
		}
	}
}

// WatchInterval is the usual time between two probes of a segment that is being served.
const WatchInterval = 3 * time.Minute

// reopen is how long a watcher waits after its socket failed, for example because the link went away.
const reopen = 2 * time.Second

// Watcher guards a segment that is being served: it probes again and again, and listens for foreign servers in between.
type Watcher struct {
	Prober
	Port Port
	// Every is the time between two probes, WatchInterval by default; up to a tenth is added at random.
	Every time.Duration
	// Changed is told all foreign servers there now are, whenever one appeared, was asked or vanished, and that there are none once two probes
	// have passed without any: one may have been there before the watch. Called from Run's goroutine.
	Changed func([]Server)
	// Hears, if set, is called when the watch begins, and again after every failure of its socket: from now on no answer of another server
	// is missed. Called from Run's goroutine.
	Hears func()

	probes int // whole ones, up to maxMissed
}

// Run watches until ctx is done, which is no error. A link that goes away is waited for. A server that appears is asked at once, by a
// whole probe. It vanishes from the list when it answered neither of two.
func (w *Watcher) Run(ctx context.Context) error {
	every := cmp.Or(w.Every, WatchInterval)
	t := newSightings()
	w.probes = 0
	for {
		err := w.with(ctx, w.Port, func(r *round) error {
			if w.Hears != nil {
				w.Hears()
			}
			return w.watch(ctx, r, t, every)
		})
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, ErrRights):
			return err
		}
		w.Log.Debug("watch for foreign DHCP servers interrupted", "port", w.Port.Name, "err", err)
		if !sleep(ctx, reopen) {
			return nil
		}
		// The name may stand for a new interface by now.
		if w.open == nil {
			if p, err := PortByName(w.Port.Name); err == nil {
				w.Port = p
			}
		}
	}
}

func (w *Watcher) watch(ctx context.Context, r *round, t *sightings, every time.Duration) error {
	pausing := false
	hear := func(s Server) {
		if t.note(s, time.Now()) {
			w.Log.Warn("foreign DHCP server heard", "port", w.Port.Name, "server", s.ID, "mac", s.MAC, "proxy", s.Proxy)
			w.Changed(t.list())
		}
		if pausing && t.unasked() {
			r.shorten(0)
		}
	}
	for {
		start := time.Now()
		if err := r.run(ctx, hear); err != nil {
			return err
		}
		asked, gone := t.asked(start), t.sweep(start)
		if len(gone) > 0 {
			w.Log.Info("foreign DHCP server vanished", "port", w.Port.Name, "servers", gone)
		}
		if w.probes = min(w.probes+1, maxMissed+1); asked || len(gone) > 0 || w.probes == maxMissed && len(t.seen) == 0 {
			w.Changed(t.list())
		}
		pause := every + rand.N(every/10+1)
		if t.unasked() {
			pause = 0
		}
		r.end = time.Now().Add(pause)
		pausing = true
		if err := r.listen(ctx, r.end, hear); err != nil {
			return err
		}
		pausing = false
		r.hw = localMAC()
	}
}

const (
	// maxServers bounds what a forger can make us remember; a segment with more servers has other worries.
	maxServers = 64
	// maxMissed probes in a row without an answer mean that a server is gone; one may be lost.
	maxMissed = 2
)

// sightings is when each foreign server was last heard. Not safe for concurrent use.
type sightings struct{ seen map[string]*sighting }

type sighting struct {
	server Server
	first  time.Time
	last   time.Time
	missed int
}

func newSightings() *sightings { return &sightings{seen: make(map[string]*sighting)} }

// note records a server; true if it is new, or now known to give out addresses, which ones, or boot programs.
func (t *sightings) note(s Server, now time.Time) bool {
	key := s.String()
	old, known := t.seen[key]
	if !known {
		if len(t.seen) >= maxServers {
			return false
		}
		t.seen[key] = &sighting{server: s, first: now, last: now}
		return true
	}
	old.last, old.missed = now, 0
	before := old.server
	old.server.Offer = before.Offer.and(s.Offer)
	old.server.Proxy = before.Proxy && s.Proxy
	after := old.server
	return before.Proxy != after.Proxy || before.Boots() != after.Boots() || before.Offer.Address.IsValid() != after.Offer.Address.IsValid()
}

// asked ends a probe that began at start: servers that were known before and answered have been asked. True if there is one more.
func (t *sightings) asked(start time.Time) (more bool) {
	for _, s := range t.seen {
		if !s.server.Asked && !s.first.After(start) && !s.last.Before(start) {
			s.server.Asked, more = true, true
		}
	}
	return more
}

// unasked says whether a server waits to be asked that has not missed a probe yet.
func (t *sightings) unasked() bool {
	for _, s := range t.seen {
		if !s.server.Asked && s.missed == 0 {
			return true
		}
	}
	return false
}

// sweep ends a probe that began at start, and removes and returns the servers that missed too many.
func (t *sightings) sweep(start time.Time) (gone []Server) {
	for key, s := range t.seen {
		if !s.last.Before(start) {
			continue
		}
		if s.missed++; s.missed >= maxMissed {
			gone = append(gone, s.server)
			delete(t.seen, key)
		}
	}
	return gone
}

// list is every server, ordered by id.
func (t *sightings) list() []Server {
	var out []Server
	for _, s := range t.seen {
		out = append(out, s.server)
	}
	slices.SortFunc(out, func(a, b Server) int {
		return cmp.Or(a.ID.Compare(b.ID), cmp.Compare(a.MAC, b.MAC))
	})
	return out
}
