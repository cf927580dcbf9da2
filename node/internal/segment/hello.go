package segment

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"offshoot/swarm"
)

// HelloConfig is what a Hello needs from its caller. Its functions are called from Run's goroutines, several at once, and
// must not block.
type HelloConfig struct {
	// Swarm is 1 to 64 printable bytes; it travels in clear.
	Swarm string
	Node  swarm.NodeID
	// Ports names the ports to speak and listen on now; asked each Every. Ports that do not exist or have no link are
	// waited for.
	Ports func() []string
	// Say is what this node believes about a port: the segment behind it, empty if nobody serves it, and its own address
	// there, invalid if it has none.
	Say func(port string) (segment string, addr netip.Addr)
	// Seal encrypts and authenticates under the swarm's key; Open reverses it and fails for everything else.
	Seal, Open func([]byte) ([]byte, error)
	// Every is the time between two hellos, 1 s by default, up to a fifth more or less at random. Expire is how long a
	// silent neighbour stays, five times Every by default.
	Every, Expire time.Duration
	Log           *slog.Logger
}

// HelloStats counts frames since Run started.
type HelloStats struct {
	Sent, Heard uint64
	// Strange are of other swarms. Dropped were malformed, did not open with our key, or were played back.
	Strange, Dropped uint64
}

// Hello tells the other nodes on each port's layer 2 that we are here, and keeps a table of who told us. Safe for
// concurrent use; Run may be called once.
type Hello struct {
	cfg    HelloConfig
	open   opener
	linked func([]string) ([]Port, error)

	changed chan struct{}
	poke    chan struct{}

	sent, heard, strange, dropped atomic.Uint64

	mu    sync.Mutex
	table *table
	since map[string]time.Time
}

// NewHello checks the configuration.
func NewHello(cfg HelloConfig) (*Hello, error) {
	if !validSwarmID(cfg.Swarm) {
		return nil, fmt.Errorf("hello: swarm id %q: want 1 to %d printable characters", cfg.Swarm, maxSwarmID)
	}
	if cfg.Node == "" || cfg.Ports == nil || cfg.Say == nil || cfg.Seal == nil || cfg.Open == nil || cfg.Log == nil {
		return nil, errors.New("hello: incomplete configuration")
	}
	cfg.Every = cmp.Or(cfg.Every, time.Second)
	cfg.Expire = cmp.Or(cfg.Expire, 5*cfg.Every)
	return &Hello{
		cfg: cfg, open: openRaw, linked: linked,
		changed: make(chan struct{}, 1), poke: make(chan struct{}, 1),
		table: newTable(), since: make(map[string]time.Time),
	}, nil
}

// Neighbours lists the nodes heard lately on one port, or on all if port is empty.
func (h *Hello) Neighbours(port string) []Neighbour {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.table.on(port)
}

// Strangers lists the other swarms heard lately on one port, or on all if port is empty.
func (h *Hello) Strangers(port string) []Stranger {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.table.strange(port)
}

// Listening says since when the port has been heard without a break; false while it has no link. An empty table proves
// nothing before that is a while: a switch port with spanning tree passes no frame for its first 30 seconds.
func (h *Hello) Listening(port string) (since time.Time, ok bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	since, ok = h.since[port]
	return since, ok
}

// Changed delivers after the answer of Neighbours, Strangers or Listening changed; several changes may be one delivery.
// There is one channel: one reader.
func (h *Hello) Changed() <-chan struct{} { return h.changed }

// Poke sends a hello now, because what Say or Ports answer has changed.
func (h *Hello) Poke() { signal(h.poke) }

// Stats reads the counters.
func (h *Hello) Stats() HelloStats {
	return HelloStats{Sent: h.sent.Load(), Heard: h.heard.Load(), Strange: h.strange.Load(), Dropped: h.dropped.Load()}
}

// speaker is one port that Run speaks on.
type speaker struct {
	port Port
	conn net.PacketConn
	done chan struct{} // closed when the reader has ended
}

// Run speaks and listens until ctx is done, which is no error. All sockets are opened by this goroutine, so on its thread.
func (h *Hello) Run(ctx context.Context) error {
	speakers := make(map[string]*speaker)
	defer func() {
		for name := range speakers {
			h.silence(speakers, name)
		}
	}()
	seq := uint64(0)
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-timer.C:
			fifth := h.cfg.Every / 5
			timer.Reset(h.cfg.Every - fifth + rand.N(2*fifth+1))
		case <-h.poke:
		}
		if err := h.refresh(speakers); err != nil {
			return err
		}
		seq = max(seq+1, uint64(time.Now().UnixNano()))
		for name, s := range speakers {
			if err := h.speak(s, seq); err != nil {
				h.cfg.Log.Debug("hello not sent", "port", name, "err", err)
				h.silence(speakers, name)
			}
		}
		h.mu.Lock()
		changed := h.table.expire(time.Now().Add(-h.cfg.Expire))
		h.mu.Unlock()
		if changed {
			signal(h.changed)
		}
	}
}

// refresh opens sockets on ports that came and closes those of ports that went. Only missing rights end Run: everything
// else may pass, and is tried again with the next hello.
func (h *Hello) refresh(speakers map[string]*speaker) error {
	ports, err := h.linked(h.cfg.Ports())
	if err != nil {
		h.cfg.Log.Debug("ports not read", "err", err)
		return nil
	}
	here := make(map[string]Port, len(ports))
	for _, p := range ports {
		here[p.Name] = p
	}
	for name, s := range speakers {
		p, ok := here[name]
		ended := false
		select {
		case <-s.done:
			ended = true
		default:
		}
		if !ok || ended || p.Index != s.port.Index || p.MAC != s.port.MAC {
			h.silence(speakers, name)
		}
	}
	for _, p := range ports {
		if speakers[p.Name] != nil {
			continue
		}
		conn, err := h.open(p, HelloEtherType, nil, false)
		if errors.Is(err, ErrRights) {
			return fmt.Errorf("hello: %w", err)
		}
		if err != nil {
			h.cfg.Log.Debug("hello cannot listen", "port", p.Name, "err", err)
			continue
		}
		s := &speaker{port: p, conn: conn, done: make(chan struct{})}
		speakers[p.Name] = s
		h.mu.Lock()
		h.since[p.Name] = time.Now()
		h.mu.Unlock()
		signal(h.changed)
		go h.read(s)
	}
	return nil
}

// silence closes a port's socket, waits for its reader and forgets who was heard there.
func (h *Hello) silence(speakers map[string]*speaker, name string) {
	s := speakers[name]
	delete(speakers, name)
	if err := s.conn.Close(); err != nil {
		h.cfg.Log.Debug("hello socket not closed", "port", name, "err", err)
	}
	<-s.done
	h.mu.Lock()
	h.table.drop(name)
	delete(h.since, name)
	h.mu.Unlock()
	signal(h.changed)
}

func (h *Hello) speak(s *speaker, seq uint64) error {
	segment, addr := h.cfg.Say(s.port.Name)
	frame, err := hello{
		Swarm: h.cfg.Swarm, Node: h.cfg.Node, MAC: s.port.MAC, Segment: segment, Addr: addr, Seq: seq,
	}.encode(h.cfg.Seal)
	if err != nil {
		return err
	}
	if err := send(s.conn, frame); err != nil {
		return err
	}
	h.sent.Add(1)
	return nil
}

func (h *Hello) read(s *speaker) {
	defer close(s.done)
	buf := make([]byte, readBuffer)
	for {
		n, _, err := s.conn.ReadFrom(buf)
		if err != nil {
			if !errors.Is(err, net.ErrClosed) {
				h.cfg.Log.Debug("hello socket failed", "port", s.port.Name, "err", err)
			}
			return
		}
		if err := h.receive(s.port, buf[:n]); err != nil {
			h.dropped.Add(1)
			h.cfg.Log.Debug("hello dropped", "port", s.port.Name, "reason", err)
		}
	}
}

// receive takes one frame into the table, or says why not.
func (h *Hello) receive(port Port, frame []byte) error {
	g, err := decodeGreeting(frame)
	if err != nil {
		return err
	}
	if g.swarm != h.cfg.Swarm {
		h.strange.Add(1)
		h.mu.Lock()
		changed := h.table.meet(port.Name, g, time.Now())
		h.mu.Unlock()
		if changed {
			h.cfg.Log.Info("another swarm speaks here", "port", port.Name, "swarm", g.swarm, "mac", g.from, "served", g.served)
			signal(h.changed)
		}
		return nil
	}
	in, err := g.unseal(h.cfg.Open)
	if err != nil {
		return err
	}
	if in.Node == h.cfg.Node && in.MAC == port.MAC {
		return errors.New("our own hello came back: is there a loop behind the port?")
	}
	h.mu.Lock()
	changed, err := h.table.hear(port.Name, in, time.Now())
	h.mu.Unlock()
	if err != nil {
		return fmt.Errorf("hello of %s: %w", in.Node, err)
	}
	h.heard.Add(1)
	if changed {
		signal(h.changed)
	}
	return nil
}

// signal never blocks: who reads later sees one delivery for many.
func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
