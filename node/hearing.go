package node

import (
	"context"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"

	"offshoot/node/internal/syslog"
	"offshoot/swarm"
)

// hearing receives the syslog of machines that install themselves, on every address that this node has on a segment. It does so on
// duty or not, like the web: an installer goes on sending to whom it was told at its boot, wherever the duty has gone.
type hearing struct {
	*replica
	book  *syslog.Book
	relay *relay
	log   *slog.Logger
}

func newHearing(r *replica, log *slog.Logger) *hearing {
	return &hearing{replica: r, book: syslog.NewBook(), relay: newRelay(), log: log}
}

// ear is one address that is listened on.
type ear struct {
	mac     swarm.MAC // of our port, and its VLAN
	vlan    uint16
	segment string
	addr    netip.Addr
}

// Run listens until ctx ends.
func (h *hearing) Run(ctx context.Context) error {
	var all sync.WaitGroup
	defer all.Wait()
	all.Go(func() { h.tell(ctx) })
	open := map[ear]context.CancelFunc{}
	for {
		changed := h.state.Changed()
		self, _ := h.state.View().Node(h.self())
		wanted := map[ear]bool{}
		for _, p := range self.Ports {
			if p.Segment != "" && p.Address.IsValid() {
				wanted[ear{p.MAC, p.VLAN, p.Segment, p.Address.Addr()}] = true
			}
		}
		for e, shut := range open {
			if !wanted[e] {
				shut()
				delete(open, e)
			}
		}
		for e := range wanted {
			if open[e] == nil {
				inner, shut := context.WithCancel(ctx)
				open[e] = shut
				all.Go(func() { h.keepOpen(inner, e) })
			}
		}
		select {
		case <-ctx.Done():
			for _, shut := range open {
				shut()
			}
			return nil
		case <-changed:
		}
	}
}

// keepOpen listens on one address, again and again: it may not be there yet, or another program may have the port.
func (h *hearing) keepOpen(ctx context.Context, e ear) {
	said := false
	for ctx.Err() == nil {
		port, err := portByMAC(e.mac, e.vlan)
		if err == nil {
			err = syslog.New(syslog.Options{
				Addr: netip.AddrPortFrom(e.addr, syslog.Port).String(), Interface: port.Name, Log: h.log,
				Heard: func(from netip.Addr, packet []byte) { h.heard(e.segment, from, packet) },
			}).Run(ctx)
		}
		if ctx.Err() != nil {
			return
		}
		if !said { // every two seconds is too often to say it
			h.log.Warn("logs of machines are not received yet; it will be tried again", "address", e.addr, "segment", e.segment, "error", err)
		}
		said = true
		select {
		case <-ctx.Done():
		case <-time.After(servicePause):
		}
	}
}

// heard keeps a line of a machine that has a lease, and of nobody else. Leases that are over count as for the web: a machine in its
// installer may not renew, and nobody else has the address yet.
func (h *hearing) heard(segment string, from netip.Addr, packet []byte) {
	view := h.state.View()
	lease, ok := leaseThrough(view, segment, from)
	if !ok || lease.MAC == "" {
		h.log.Debug("syslog packet of a stranger dropped", "segment", segment, "from", from)
		return
	}
	line, ok := h.book.Hear(h.now(), lease.MAC, lease.Nonce, packet)
	if !ok {
		return
	}
	if m, known := view.Machine(lease.MAC); known && m.State == swarm.MachineInstalling {
		h.relay.add(m, line)
	}
}

// leaseThrough is the lease of an address on a segment, or on one whose relay is there.
func leaseThrough(view swarm.View, segment string, addr netip.Addr) (swarm.Lease, bool) {
	for _, s := range view.Segments() {
		if s.ID != segment && s.Relay.Segment != segment {
			continue
		}
		if l, ok := view.Lease(s.ID, addr); ok {
			return l, true
		}
	}
	return swarm.Lease{}, false
}

// tell writes down what machines said last, so that the whole swarm knows that they live.
func (h *hearing) tell(ctx context.Context) {
	ticker := time.NewTicker(time.Second)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		for _, op := range h.relay.due(h.now()) {
			bounded, cancel := context.WithTimeout(ctx, noteTime)
			err := h.decide(bounded, op)
			cancel()
			if err == nil || errors.Is(err, swarm.ErrNotArmed) || errors.Is(err, errTooNew) {
				continue // or the installation is over, or nobody could read it: the line is in the book
			}
			h.log.Debug("line of a log is not written down yet", "mac", op.MAC, "error", err)
			h.relay.again(op)
		}
	}
}
