package dhcp

import (
	"encoding/binary"
	"hash/fnv"
	"net/netip"

	"offshoot/swarm"
)

// use is how far an address is from being free.
type use uint8

const (
	free    use = iota // nobody's
	expired            // another machine's, whose time is over
	taken              // another machine's, offered, quarantined, or our own
)

// choose picks the address for a machine that has no binding: the one that it asks for if that is free, else the first
// free one from a hash of its MAC onward, so that the same machine tends to get the same address from every server. Only
// when nothing is free does it take an address whose time is over. False: the pool is exhausted.
func choose(mac swarm.MAC, wanted netip.Addr, cfg Config, useOf func(netip.Addr) use) (netip.Addr, bool) {
	if wanted.IsValid() && cfg.inPool(wanted) && useOf(wanted) == free {
		return wanted, true
	}
	first, size := addrNumber(cfg.First), cfg.poolSize()
	h := fnv.New32a()
	_, _ = h.Write([]byte(mac)) // a hash cannot fail
	start := uint64(h.Sum32()) % size
	var fallback netip.Addr
	for i := range size {
		addr := numberAddr(first + uint32((start+i)%size))
		if !cfg.inPool(addr) {
			continue
		}
		switch useOf(addr) {
		case free:
			return addr, true
		case expired:
			if !fallback.IsValid() {
				fallback = addr
			}
		}
	}
	return fallback, fallback.IsValid()
}

func (c Config) poolSize() uint64 { return uint64(addrNumber(c.Last)-addrNumber(c.First)) + 1 }

// inPool leaves out what can be nobody's address even inside a pool: ours, the router's, the network's and the broadcast.
func (c Config) inPool(a netip.Addr) bool {
	if !a.Is4() || a.Less(c.First) || c.Last.Less(a) || a == c.Server || a == c.Router {
		return false
	}
	return a != c.Subnet.Masked().Addr() && a != c.broadcast()
}

func (c Config) broadcast() netip.Addr {
	host := uint32(1)<<(32-c.Subnet.Bits()) - 1
	return numberAddr(addrNumber(c.Subnet.Masked().Addr()) | host)
}

func addrNumber(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func numberAddr(n uint32) netip.Addr {
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], n)
	return netip.AddrFrom4(b)
}
