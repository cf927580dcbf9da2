package swarmtest

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/memberlist"
)

// queued bounds the datagrams that a host has received and nobody has read: a socket buffer.
const queued = 512

// gossip is memberlist's transport on a host.
type gossip struct {
	life     *life
	port     uint16
	packets  chan *memberlist.Packet
	held     []*memberlist.Packet // arrived during a pause; guarded by Network.mu
	streams  chan net.Conn
	listener *listener
	done     chan struct{}
	once     sync.Once
}

var _ memberlist.NodeAwareTransport = (*gossip)(nil)

// Gossip opens datagrams and streams at a port of the host, for memberlist, until Shutdown.
func (h *Host) Gossip(port uint16) (memberlist.NodeAwareTransport, error) {
	n := h.net
	n.mu.Lock()
	defer n.mu.Unlock()
	s, err := h.listen(port)
	if err != nil {
		return nil, err
	}
	g := &gossip{
		life: s.life, port: port, listener: s, packets: make(chan *memberlist.Packet, queued),
		streams: make(chan net.Conn), done: make(chan struct{}),
	}
	s.life.gossips[port] = g
	n.streams.Go(g.accept)
	return g, nil
}

func (g *gossip) accept() {
	for {
		c, err := g.listener.Accept()
		if err != nil {
			return
		}
		select {
		case g.streams <- c:
		case <-g.done:
			_ = c.Close() // nobody wants it
			return
		}
	}
}

func (g *gossip) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return g.life.host.addr.AsSlice(), int(g.port), nil
}

func (g *gossip) PacketCh() <-chan *memberlist.Packet { return g.packets }
func (g *gossip) StreamCh() <-chan net.Conn           { return g.streams }

// WriteTo sends a datagram. As with UDP, no error says that it arrives.
func (g *gossip) WriteTo(b []byte, to string) (time.Time, error) {
	n := g.life.host.net
	n.mu.Lock()
	defer n.mu.Unlock()
	now := time.Now()
	if err := g.life.check(); err != nil {
		return now, fmt.Errorf("send to %s: %w", to, err)
	}
	there, port, err := n.find(to)
	if err != nil {
		return now, fmt.Errorf("send to %s: %w", to, err)
	}
	here := g.life.host
	if here.paused || n.blocked(here, there) {
		return now, nil
	}
	from := &net.UDPAddr{IP: here.addr.AsSlice(), Port: int(g.port)}
	for range n.copies() {
		packet := &memberlist.Packet{Buf: bytes.Clone(b), From: from} // memberlist decrypts in place
		time.AfterFunc(n.travel(here, there), func() { n.deliver(here, there, port, packet) })
	}
	return now, nil
}

// deliver hands a datagram over, if the way is still open and somebody listens.
func (n *Network) deliver(from, to *Host, port uint16, p *memberlist.Packet) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || n.blocked(from, to) || to.life == nil {
		return
	}
	g := to.life.gossips[port]
	if g == nil {
		return
	}
	if to.paused {
		if len(g.held) < queued {
			g.held = append(g.held, p)
		}
		return
	}
	g.receive(p)
}

// receive is called with mu held.
func (g *gossip) receive(p *memberlist.Packet) {
	p.Timestamp = time.Now()
	select {
	case g.packets <- p:
	default: // the socket's buffer is full
	}
}

// flush hands over what arrived during a pause. Called with mu held.
func (g *gossip) flush() {
	for _, p := range g.held {
		g.receive(p)
	}
	g.held = nil
}

func (g *gossip) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	return g.WriteTo(b, a.Addr)
}

func (g *gossip) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	c, err := g.life.dial(ctx, addr)
	if err != nil {
		return nil, fmt.Errorf("dial %s: %w", addr, err)
	}
	return c, nil
}

func (g *gossip) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	return g.DialTimeout(a.Addr, timeout)
}

// Shutdown ends the transport; streams that were opened stay.
func (g *gossip) Shutdown() error {
	g.once.Do(func() {
		close(g.done)
		_ = g.listener.Close() // or the network did
		n := g.life.host.net
		n.mu.Lock()
		defer n.mu.Unlock()
		if g.life.gossips[g.port] == g {
			delete(g.life.gossips, g.port)
		}
	})
	return nil
}
