package swarmtest

import (
	"bytes"
	"net"
	"net/netip"
	"time"
)

// Segment is a layer-2 broadcast domain for small packets, DHCP's. Cuts between hosts do not touch it: it has its own.
type Segment struct {
	net     *Network
	name    string
	ports   []*Port // guarded by Network.mu, as everything here
	cuts    map[[2]*Port]bool
	onFrame func(Frame)
}

// Frame is one packet that was sent on a segment.
type Frame struct {
	Segment string
	At      time.Time
	Host    string // who sent it; "" for a port without a host
	From    string // MAC
	To      Target
	Payload []byte // not to be changed
}

// Target says who receives a packet: who has the MAC, else who has the address, else everyone; at that UDP port.
type Target struct {
	MAC  string
	Addr netip.Addr
	Port uint16
}

// Segment makes a broadcast domain. onFrame gets every packet at the moment when it is sent, from the sender's goroutine;
// it may be nil, and must not block.
func (n *Network) Segment(name string, onFrame func(Frame)) *Segment {
	return &Segment{net: n, name: name, onFrame: onFrame, cuts: map[[2]*Port]bool{}}
}

// Port is one network card on a segment, bound to one UDP port.
type Port struct {
	segment *Segment
	host    *Host // nil for one that no fault touches
	life    *life
	mac     string
	addr    netip.Addr
	port    uint16
	arrived []arrival
	closed  bool
	changed chan struct{}
}

type arrival struct {
	payload []byte
	unicast bool
}

// Join plugs a host in: what is sent to its MAC, its address or to everyone at the UDP port is received here. host may be
// nil for a client that is never paused and never crashes; addr may be invalid for one that has none yet. A host that has
// crashed gets a port that is closed already.
func (s *Segment) Join(host *Host, mac string, addr netip.Addr, port uint16) *Port {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	p := &Port{segment: s, host: host, mac: mac, addr: addr, port: port, changed: make(chan struct{})}
	if host != nil {
		p.life = host.life
		if host.life == nil {
			p.closed = true
			return p
		}
	}
	s.ports = append(s.ports, p)
	return p
}

// SetAddr changes the port's IP address.
func (p *Port) SetAddr(addr netip.Addr) {
	p.segment.net.mu.Lock()
	defer p.segment.net.mu.Unlock()
	p.addr = addr
}

// Cut lets no packet through from one port to the other. A port that joins later is not cut off.
func (s *Segment) Cut(from, to *Port) {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	s.cuts[[2]*Port{from, to}] = true
}

// Heal ends all cuts of this segment.
func (s *Segment) Heal() {
	s.net.mu.Lock()
	defer s.net.mu.Unlock()
	clear(s.cuts)
}

// check is called with mu held.
func (p *Port) check() error {
	switch {
	case p.closed:
		return net.ErrClosed
	case p.segment.net.closed:
		return ErrClosed
	case p.life != nil:
		return p.life.check()
	}
	return nil
}

func (p *Port) paused() bool { return p.host != nil && p.host.paused }

// Receive waits for a packet. unicast: it was sent to this port's address or MAC, not to everyone.
func (p *Port) Receive(buf []byte) (k int, unicast bool, err error) {
	n := p.segment.net
	for {
		n.mu.Lock()
		if err := p.check(); err != nil {
			n.mu.Unlock()
			return 0, false, err
		}
		if len(p.arrived) > 0 && !p.paused() {
			a := p.arrived[0]
			p.arrived = p.arrived[1:]
			n.mu.Unlock()
			return copy(buf, a.payload), a.unicast, nil
		}
		changed, fault := p.changed, n.changed
		n.mu.Unlock()
		select {
		case <-changed:
		case <-fault:
		}
	}
}

// Send sends a packet. Of a paused host it is dropped: see Host.Pause. No error says that it arrives.
func (p *Port) Send(b []byte, to Target) error {
	n, s := p.segment.net, p.segment
	n.mu.Lock()
	if err := p.check(); err != nil {
		n.mu.Unlock()
		return err
	}
	if p.paused() {
		n.mu.Unlock()
		return nil
	}
	payload := bytes.Clone(b)
	frame := Frame{Segment: s.name, At: time.Now(), From: p.mac, To: to, Payload: payload}
	if p.host != nil {
		frame.Host = p.host.name
	}
	unicast := to.MAC != "" || to.Addr.IsValid()
	for _, other := range s.ports {
		if other == p || other.port != to.Port || (to.MAC != "" && to.MAC != other.mac) ||
			(to.MAC == "" && to.Addr.IsValid() && to.Addr != other.addr) {
			continue
		}
		for range n.copies() {
			d := n.weather.Delay
			if n.weather.Jitter > 0 {
				d += time.Duration(n.rng.Int64N(int64(n.weather.Jitter)))
			}
			time.AfterFunc(d, func() { p.deliver(other, arrival{payload, unicast}) })
		}
	}
	n.mu.Unlock()
	if s.onFrame != nil {
		s.onFrame(frame)
	}
	return nil
}

// deliver hands a packet over, if the way is open and the other is there.
func (p *Port) deliver(to *Port, a arrival) {
	n := p.segment.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if to.check() != nil || p.segment.cuts[[2]*Port{p, to}] || len(to.arrived) >= queued {
		return
	}
	to.arrived = append(to.arrived, a)
	close(to.changed)
	to.changed = make(chan struct{})
}

// Close unplugs the port; Receive returns net.ErrClosed.
func (p *Port) Close() error {
	n := p.segment.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if p.closed {
		return net.ErrClosed
	}
	p.closed = true
	for i, other := range p.segment.ports {
		if other == p {
			p.segment.ports = append(p.segment.ports[:i:i], p.segment.ports[i+1:]...)
			break
		}
	}
	close(p.changed)
	p.changed = make(chan struct{})
	return nil
}
