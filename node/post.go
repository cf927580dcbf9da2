package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"offshoot/handoff"
	"offshoot/node/internal/dhcp"
	"offshoot/node/internal/peer"
	"offshoot/swarm"
)

// watch stands on the duties of this node: it mans a post on every segment whose duty the ledger gives to this node, hands
// it over when it is offered to another, and leaves it when it was given away.
type watch struct {
	*replica
	client   calls
	service  *service
	clock    func() time.Duration
	stations func(*post) []station
	log      *slog.Logger

	notes sync.WaitGroup // warnings that are being written down

	mu        sync.Mutex
	posts     map[uint64]*post // by term
	lingering []*post          // left, and about to let go of their sockets
}

func (w *watch) String() string         { return "duties" }
func (w *watch) Ready() <-chan struct{} { return nil }

// post is the duty on one segment in one term.
type post struct {
	segment swarm.Segment
	port    swarm.Port // on the segment, or where its relay finds this node
	fence   *fence
	view    func() swarm.View
	note    func(mac swarm.MAC, kind, text string) // a warning for a timeline, without holding up who reports it
	learn   func(mac swarm.MAC, arch string)       // what a machine is, likewise
	mail    *mailbox
	stop    context.CancelFunc // of everything but what lingers
	cut     context.CancelFunc // of what lingers
	mute    context.CancelFunc // of what answers DHCP, without waiting for answers that are being prepared
	stands  chan struct{}      // it is known what may be answered
	guarded chan struct{}      // servers of others are heard
	hear    func()             // closes guarded
	muted   chan struct{}      // no packet will be answered any more
	gone    chan struct{}      // everything is released
	giving  bool
	blocked atomic.Bool // nobody may serve the segment now
	hushed  atomic.Bool // its guard says so: it counts before that is decided
}

// Run mans posts until ctx ends.
func (w *watch) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer w.notes.Wait() // last: a post may warn until it has ended
	defer all.Wait()
	ticker := time.NewTicker(servicePause) // for handovers that failed without a trace in the ledger
	defer ticker.Stop()
	for {
		changed := w.state.Changed()
		w.arrange(ctx, &all)
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		case <-ticker.C:
		}
	}
}

// arrange makes the posts what the ledger says.
func (w *watch) arrange(ctx context.Context, all *sync.WaitGroup) {
	w.mu.Lock()
	defer w.mu.Unlock()
	view := w.state.View()
	self, _ := view.Node(w.self())
	wanted := map[uint64]swarm.Segment{}
	for _, s := range view.Segments() {
		if _, ok := self.PortFor(s); s.Duty.Holder == w.self() && ok {
			wanted[s.Duty.Term] = s
		}
	}
	leaving := map[string]*post{}
	for term, p := range w.posts {
		if _, ok := wanted[term]; ok {
			continue
		}
		p.fence.shut()
		p.stop()
		leaving[p.segment.ID] = p
		delete(w.posts, term)
		w.lingering = append(w.lingering, p)
	}
	for _, p := range w.lingering {
		if leaving[p.segment.ID] == nil {
			leaving[p.segment.ID] = p
		}
	}
	w.lingering = slices.DeleteFunc(w.lingering, func(p *post) bool {
		select {
		case <-p.gone:
			return true
		default:
			return false
		}
	})
	for term, s := range wanted {
		p := w.posts[term]
		if p != nil {
			p.blocked.Store(s.Blocked != "")
		}
		switch {
		case p == nil:
			port, _ := self.PortFor(s)
			w.open(ctx, all, s, port, leaving[s.ID])
		case s.Duty.Next != "" && !p.giving:
			p.giving = true
			all.Go(func() { w.give(ctx, s, p) })
		}
	}
}

// open mans a post once the one before on that segment, if any, has let go of its sockets.
func (w *watch) open(ctx context.Context, all *sync.WaitGroup, s swarm.Segment, port swarm.Port, before *post) {
	p := &post{
		segment: s, port: port, fence: newFence(w.clock), view: w.state.View, mail: newMailbox(),
		stands: make(chan struct{}), guarded: make(chan struct{}), muted: make(chan struct{}), gone: make(chan struct{}),
	}
	p.hear = sync.OnceFunc(func() { close(p.guarded) })
	p.blocked.Store(s.Blocked != "")
	p.note = func(mac swarm.MAC, kind, text string) { w.notes.Go(func() { w.write(ctx, mac, kind, text) }) }
	p.learn = func(mac swarm.MAC, arch string) {
		op := swarm.LearnArch{MAC: mac, Arch: arch}
		if m, _ := w.state.View().Machine(mac); op.Changes(m) { // one that is bound may not be here yet
			w.notes.Go(func() { w.learn(ctx, op) })
		}
	}
	w.posts[s.Duty.Term] = p
	inner, stop := context.WithCancel(ctx)
	answering, mute := context.WithCancel(inner)
	lingering, cut := context.WithCancel(ctx)
	p.stop, p.mute, p.cut = stop, mute, cut
	all.Go(func() {
		if before != nil {
			before.cut()
			<-before.gone
		}
		w.man(inner, answering, lingering, p)
	})
}

// lingerTime is how long a former holder sends what clients have begun to fetch. Boot programs are small: a client that
// takes longer has given up.
const lingerTime = time.Minute

// man serves one segment until the duty ends.
func (w *watch) man(ctx, answering, lingering context.Context, p *post) {
	defer close(p.gone)
	defer p.stop()
	defer p.cut()
	defer p.mail.close()
	var loops sync.WaitGroup
	defer loops.Wait()
	loops.Go(func() { w.renew(ctx, p) })
	loops.Go(func() {
		<-ctx.Done()
		select {
		case <-lingering.Done():
		case <-time.After(lingerTime):
			p.cut()
		}
	})
	var answers sync.WaitGroup
	stations := w.stations(p)
	if !slices.ContainsFunc(stations, func(s station) bool { return s.guards }) {
		p.hear()
	}
	for _, s := range stations {
		switch {
		case s.answers:
			answers.Go(func() {
				p.awaitStanding(answering)
				w.keep(answering, p, s)
			})
		case s.lingers:
			loops.Go(func() { w.keep(lingering, p, s) })
		default:
			loops.Go(func() { w.keep(ctx, p, s) })
		}
	}
	answers.Wait()
	close(p.muted)
}

// awaitStanding returns when a packet could be answered, or the post is to end. Until then the former holder listens: what is
// heard before the duty is confirmed would be lost.
func (p *post) awaitStanding(ctx context.Context) {
	for _, ready := range []<-chan struct{}{p.stands, p.guarded} {
		select {
		case <-ready:
		case <-p.mail.ended:
		case <-ctx.Done():
		}
	}
}

// servicePause is the time between two attempts to open a service, for example while another program has its port.
const servicePause = 2 * time.Second

// errOutdated ends a service that was opened for what the ledger no longer says: it is opened again at once.
var errOutdated = errors.New("the ledger has changed what it was opened for")

// keep runs a service, and opens it again when it fails.
func (w *watch) keep(ctx context.Context, p *post, s station) {
	for ctx.Err() == nil {
		t, err := s.open()
		if err == nil {
			err = t.Run(ctx)
		}
		if ctx.Err() != nil || s.answers && p.mail.isKeeping() {
			return
		}
		if errors.Is(err, errOutdated) {
			w.log.Info("service is opened again", "service", s.name, "segment", p.segment.ID, "reason", err)
			continue
		}
		w.log.Warn("service ended; it will be opened again", "service", s.name, "segment", p.segment.ID, "port", p.port.Name, "error", err)
		select {
		case <-ctx.Done():
		case <-time.After(servicePause):
		}
	}
}

// renew keeps the fence open by asking the leader.
func (w *watch) renew(ctx context.Context, p *post) {
	stands := sync.OnceFunc(func() { close(p.stands) })
	ticker := time.NewTicker(dutyRenew)
	defer ticker.Stop()
	for {
		asked := w.clock()
		err := w.askLeader(ctx, p)
		switch {
		case err == nil:
			p.fence.renewed(asked)
		case errors.Is(err, peer.ErrRefused):
			w.log.Info("duty was not renewed", "segment", p.segment.ID, "term", p.segment.Duty.Term, "error", err)
		default:
			p.fence.failed(asked)
			w.log.Debug("duty could not be renewed", "segment", p.segment.ID, "error", err)
		}
		if p.fence.standing() != standingNone {
			stands()
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

func (w *watch) askLeader(ctx context.Context, p *post) error {
	ctx, cancel := context.WithTimeout(ctx, dutyTTL/2)
	defer cancel()
	if w.ledger.IsLeader() {
		return w.service.RenewDuty(ctx, w.self(), p.segment.ID, p.segment.Duty.Term)
	}
	_, leader, ok := w.ledger.Leader()
	if !ok {
		return errors.New("no leader is known")
	}
	return w.client.RenewDuty(ctx, leader, p.segment.ID, p.segment.Duty.Term)
}

// relayed says whether the post serves its segment from another one.
func (p *post) relayed() bool { return p.segment.Relayed() && p.port.Segment != p.segment.ID }

// standing is what the DHCP server may say now.
func (p *post) standing() dhcp.DutyState {
	if p.blocked.Load() || p.hushed.Load() {
		return dhcp.None
	}
	switch p.fence.standing() {
	case standingFull:
		return dhcp.Full
	case standingStale:
		return dhcp.RenewOnly
	}
	return dhcp.None
}

// now is the segment as it is served now.
func (p *post) now() swarm.Segment {
	if s, ok := p.view().Segment(p.segment.ID); ok {
		return s
	}
	return p.segment
}

// write puts a warning on a timeline.
func (w *watch) write(ctx context.Context, mac swarm.MAC, kind, text string) {
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	if err := w.decide(ctx, swarm.Note{MAC: mac, Kind: kind, Text: text, Warn: true}); err != nil && ctx.Err() == nil {
		w.log.Warn("warning is not on the timeline", "mac", mac, "kind", kind, "text", text, "error", err)
	}
}

// learn writes down what a machine is. If that fails, its next packet says it again.
func (w *watch) learn(ctx context.Context, op swarm.LearnArch) {
	ctx, cancel := context.WithTimeout(ctx, noteTime)
	defer cancel()
	if err := w.decide(ctx, op); err != nil && ctx.Err() == nil {
		w.log.Info("architecture of a machine is not written down", "mac", op.MAC, "arch", op.Arch, "error", err)
	}
}

// onDuty says whether this node may hand out boot scripts on a segment now.
func (w *watch) onDuty(segment string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, p := range w.posts {
		if p.segment.ID == segment {
			return p.standing() == dhcp.Full
		}
	}
	return false
}

// give hands a duty over. If that fails, the offer stands or was withdrawn: a fresh post on the same term answers again.
func (w *watch) give(ctx context.Context, s swarm.Segment, p *post) {
	w.log.Info("handing duty over", "segment", s.ID, "to", s.Duty.Next)
	if err := handoff.Give(ctx, &giver{w, p}, s.ID, s.Duty.Term); err != nil && ctx.Err() == nil {
		w.log.Info("duty was not handed over", "segment", s.ID, "error", err)
		w.abandon(s.Duty.Term)
	}
}

// abandon ends a post, so that arrange mans a new one if the duty is still ours.
func (w *watch) abandon(term uint64) {
	w.mu.Lock()
	p := w.posts[term]
	w.mu.Unlock()
	if p == nil {
		return
	}
	p.fence.shut()
	p.stop()
	p.cut()
	<-p.gone // the next one needs its sockets
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.posts, term)
}

// giver hands one post over.
type giver struct {
	*watch
	post *post
}

var _ handoff.Giver = (*giver)(nil)

// StopAnswering ends the DHCP server and waits until no packet is in work. What arrives from now on is kept for the next
// holder.
func (g *giver) StopAnswering(string) {
	g.post.mail.keep()
	select {
	case <-g.post.muted:
	case <-time.After(commitTime): // a packet hangs on a ledger that does not answer
		g.post.mute()
		<-g.post.muted
	}
	g.post.fence.shut()
}

// Pass writes the handover down.
func (g *giver) Pass(ctx context.Context, segment string, term uint64) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	return g.decide(ctx, swarm.PassDuty{Segment: segment, Term: term})
}

// Deliver gives the new holder the packets that nobody has answered: those of the handover, and, once it hears the segment
// itself, those until then.
func (g *giver) Deliver(ctx context.Context, segment string) {
	defer g.post.mail.close()
	for range 2 {
		view := g.state.View()
		s, _ := view.Segment(segment)
		to, ok := view.Node(s.Duty.Holder)
		if !ok || to.ID == g.self() {
			return
		}
		if err := g.client.Deliver(ctx, to.Address, segment, s.Duty.Term, g.post.mail.take()); err != nil {
			g.log.Info("packets of the handover are lost; clients will ask again", "segment", segment, "to", to.ID, "error", err)
			return
		}
	}
}

// deliver takes packets from the former holder once this node mans the post and hears the segment itself.
func (w *watch) deliver(ctx context.Context, segment string, term uint64, packets [][]byte) error {
	for {
		changed := w.state.Changed()
		w.mu.Lock()
		p := w.posts[term]
		w.mu.Unlock()
		if p != nil && p.segment.ID == segment {
			return p.mail.put(ctx, packets)
		}
		if s, ok := w.state.View().Segment(segment); ok && s.Duty.Term > term {
			return fmt.Errorf("%w: the duty has moved on", peer.ErrRefused)
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-changed:
		case <-time.After(10 * time.Millisecond): // the post is opened after the change was seen
		}
	}
}
