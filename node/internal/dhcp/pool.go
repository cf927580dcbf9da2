package dhcp

import (
	"encoding/binary"
	"net/netip"
)

// use is how far an address is from being free.
type use uint8

const (
	free    use = iota // nobody's
	expired            // another machine's, whose time is over
	taken              // another machine's, kept for one, offered, quarantined, or our own
)

// inPool tells whether an address may be given to a machine for which none is reserved.
func (c *Config) inPool(a netip.Addr) bool {
	for _, r := range c.Pools {
		if r.contains(a) {
			return c.usable(a)
		}
	}
	return false
}

// usable leaves out what can be no machine's address: ours, the router's, the network's and the broadcast.
func (c *Config) usable(a netip.Addr) bool {
	if !c.Subnet.Contains(a) || a == c.Server || a == c.Router {
		return false
	}
	return a != c.Subnet.Masked().Addr() && a != c.broadcast()
}

func (c *Config) broadcast() netip.Addr {
	host := uint32(1)<<(32-c.Subnet.Bits()) - 1
	return numberAddr(addrNumber(c.Subnet.Masked().Addr()) | host)
}

// poolSize is how many addresses the pools have, those counted twice that lie in two.
func (c *Config) poolSize() int {
	size := 0
	for _, r := range c.Pools {
		size += r.size()
	}
	return size
}

func (r Range) size() int { return int(addrNumber(r.Last)-addrNumber(r.First)) + 1 }

// nth is an address of the pools by its place, from 0 to poolSize.
func (c *Config) nth(i int) netip.Addr {
	for _, r := range c.Pools {
		if i < r.size() {
			return numberAddr(addrNumber(r.First) + uint32(i))
		}
		i -= r.size()
	}
	return netip.Addr{}
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
