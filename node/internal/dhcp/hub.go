package dhcp

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Hub lets several servers share the one DHCP port of an interface: that of its own segment, and those of segments whose relays
// reach this node there. Safe for concurrent use.
type Hub struct {
	Open func(Config) (Link, error) // nil: Listen

	mu     sync.Mutex
	trunks map[string]*trunk // by interface
}

// trunk is an open link, read by a goroutine of its own.
type trunk struct {
	link     Link
	branches []*branch // the hub's lock guards them
	ended    chan struct{}
	err      error // why, once ended
}

// branch is the part of a trunk that one server has.
type branch struct {
	hub    *Hub
	trunk  *trunk
	cfg    Config
	in     chan heard
	closed chan struct{}
	once   sync.Once
}

// heard is one packet.
type heard struct {
	raw     []byte
	unicast bool
}

// branchMost is how many packets wait for one server: some thousand machines that ask at once. What does not fit is asked again.
const branchMost = 4096

// Listen gives a server its part of the interface. A second server for the same segment is refused.
func (h *Hub) Listen(cfg Config) (Link, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	t := h.trunks[cfg.Interface]
	if t == nil {
		open := h.Open
		if open == nil {
			open = Listen
		}
		link, err := open(cfg)
		if err != nil {
			return nil, err
		}
		t = &trunk{link: link, ended: make(chan struct{})}
		if h.trunks == nil {
			h.trunks = map[string]*trunk{}
		}
		h.trunks[cfg.Interface] = t
		go h.read(cfg.Interface, t)
	}
	for _, b := range t.branches {
		if b.cfg.Relayed == cfg.Relayed && (!cfg.Relayed || b.cfg.Subnet.Overlaps(cfg.Subnet)) {
			return nil, fmt.Errorf("%s is served on %s already", b.cfg.Subnet, cfg.Interface)
		}
	}
	b := &branch{hub: h, trunk: t, cfg: cfg, in: make(chan heard, branchMost), closed: make(chan struct{})}
	t.branches = append(slices.Clone(t.branches), b) // readers have the former list
	return b, nil
}

// read hands the packets of a trunk out until it is closed or fails.
func (h *Hub) read(name string, t *trunk) {
	buf := make([]byte, maxPacket)
	for {
		n, unicast, err := t.link.Receive(buf)
		if err != nil {
			h.mu.Lock()
			if h.trunks[name] == t {
				delete(h.trunks, name)
			}
			h.mu.Unlock()
			t.err = err
			close(t.ended)
			return
		}
		if b := h.branchFor(t, buf[:n], unicast); b != nil {
			select {
			case b.in <- heard{append([]byte(nil), buf[:n]...), unicast}:
			default: // it is asked again
			}
		}
	}
}

// branchFor is whose a packet is: that of the segment which the relay names; of the one that its sender has an address of, if it
// asks this very node to renew it; else that of the interface's own segment, which says why nobody answers.
func (h *Hub) branchFor(t *trunk, raw []byte, unicast bool) *branch {
	h.mu.Lock()
	branches := t.branches
	h.mu.Unlock()
	if len(branches) == 1 && !branches[0].cfg.Relayed {
		return branches[0] // as nearly always: nothing to look at
	}
	link, relayed := linkOf(raw, unicast)
	var other *branch
	for _, b := range branches {
		if !b.cfg.Relayed || relayed && other == nil {
			other = b
		}
		if b.cfg.Relayed && link.IsValid() && b.cfg.Subnet.Contains(link) {
			return b
		}
	}
	return other
}

// linkOf is an address of the segment that a packet comes from, and whether a relay says so; invalid: the interface's own.
func linkOf(raw []byte, unicast bool) (link netip.Addr, relayed bool) {
	var p dhcpv4.DHCPv4
	c, err := decode(raw, &p)
	switch {
	case err != nil:
		return netip.Addr{}, false
	case c.LinkSelection.IsValid():
		return c.LinkSelection, true
	case c.Relay.IsValid():
		return c.Relay, true
	case unicast:
		return c.Current, false
	}
	return netip.Addr{}, false
}

// Receive waits for a packet of this server's segment.
func (b *branch) Receive(buf []byte) (int, bool, error) {
	select {
	case p := <-b.in:
		return copy(buf, p.raw), p.unicast, nil
	case <-b.closed:
		return 0, false, net.ErrClosed
	case <-b.trunk.ended:
		return 0, false, b.trunk.err
	}
}

// Send is that of the link.
func (b *branch) Send(raw []byte, to Destination, client net.HardwareAddr) error {
	return b.trunk.link.Send(raw, to, client)
}

// Close gives the part back. The last one closes the link.
func (b *branch) Close() (err error) {
	b.once.Do(func() {
		close(b.closed)
		if b.leave() {
			err = b.trunk.link.Close()
			<-b.trunk.ended // the port is free only when nobody reads it any more
		}
	})
	return err
}

// leave takes the branch off its trunk, and tells whether it was the last one.
func (b *branch) leave() bool {
	b.hub.mu.Lock()
	defer b.hub.mu.Unlock()
	t := b.trunk
	t.branches = slices.DeleteFunc(slices.Clone(t.branches), func(other *branch) bool { return other == b })
	if len(t.branches) > 0 {
		return false
	}
	if b.hub.trunks[b.cfg.Interface] == t {
		delete(b.hub.trunks, b.cfg.Interface)
	}
	return true
}
