package dhcp

import (
	"context"
	"errors"
	"net/netip"
	"sync"
	"time"

	"offshoot/swarm"
)

// memory is a Ledger without a swarm. Hooks let a test look at, delay or refuse a write.
type memory struct {
	mu         sync.Mutex
	now        func() time.Time
	bindings   map[swarm.MAC]Binding
	quarantine map[netip.Addr]bool
	reserved   map[swarm.MAC]netip.Addr
	holders    map[netip.Addr]swarm.MAC // of bindings
	onBind     func(context.Context, Binding) error
}

var errTaken = errors.New("address is bound to another machine")

func newMemory(now func() time.Time) *memory {
	return &memory{now: now, bindings: make(map[swarm.MAC]Binding), quarantine: make(map[netip.Addr]bool), reserved: make(map[swarm.MAC]netip.Addr), holders: make(map[netip.Addr]swarm.MAC)}
}

func (m *memory) Binding(mac swarm.MAC) (Binding, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	b, ok := m.bindings[mac]
	return b, ok
}

func (m *memory) Holder(addr netip.Addr) (mac swarm.MAC, over, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	mac, ok = m.holder(addr)
	return mac, mac != "" && m.bindings[mac].ExpiredAt(m.now()), ok
}

func (m *memory) holder(addr netip.Addr) (swarm.MAC, bool) {
	if m.quarantine[addr] {
		return "", true
	}
	mac, ok := m.holders[addr]
	return mac, ok
}

func (m *memory) Bind(ctx context.Context, b Binding) error {
	if m.onBind != nil {
		if err := m.onBind(ctx, b); err != nil {
			return err
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if other, ok := m.holder(b.Addr); ok && other != b.MAC {
		if other == "" || !m.bindings[other].ExpiredAt(m.now()) {
			return errTaken
		}
		delete(m.bindings, other)
	}
	if mac, ok := m.reservedFor(b.Addr); ok && mac != b.MAC {
		return errTaken
	}
	delete(m.holders, m.bindings[b.MAC].Addr)
	b.Left = b.Expires.Sub(m.now())
	m.bindings[b.MAC], m.holders[b.Addr] = b, b.MAC
	return nil
}

func (m *memory) Release(_ context.Context, mac swarm.MAC, addr netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if b, ok := m.bindings[mac]; ok && b.Addr == addr {
		b.Expires = m.now()
		m.bindings[mac] = b
	}
	return nil
}

func (m *memory) Quarantine(_ context.Context, addr netip.Addr) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if mac, ok := m.holder(addr); ok && mac != "" {
		delete(m.bindings, mac)
		delete(m.holders, addr)
	}
	m.quarantine[addr] = true
	return nil
}

func (m *memory) Reserved(mac swarm.MAC) (netip.Addr, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	a, ok := m.reserved[mac]
	return a, ok
}

func (m *memory) ReservedFor(addr netip.Addr) (swarm.MAC, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.reservedFor(addr)
}

func (m *memory) reservedFor(addr netip.Addr) (swarm.MAC, bool) {
	for mac, a := range m.reserved {
		if a == addr {
			return mac, true
		}
	}
	return "", false
}
