package dhcp

import (
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// maxPacket is the largest Ethernet payload without jumbo frames: no client sends more.
const maxPacket = 1500

// job is one packet in work, with the memory that it needs: it is used for many packets, one after the other.
type job struct {
	buf     [maxPacket]byte
	raw     []byte
	unicast bool
	boot    bool   // it came to the port for boot servers
	from    uint16 // then: from this port
	packet  dhcpv4.DHCPv4
	reply   []byte
}

// maxInFlight bounds the packets in work. Each holds a goroutine for at most probeTime or commitTime; a thousand machines
// that are powered on at once fit in, and what does not fit is asked again by the client.
const maxInFlight = 2048

// crew works on packets, each in a goroutine of its own. The goroutines stay, so that their stacks need not grow anew with
// every packet, and the one that was idle for the shortest time gets the next packet, so that few are in use when few are needed.
type crew struct {
	hands sync.WaitGroup

	mu    sync.Mutex
	size  int
	over  bool
	idle  []*hand
	spare []*job
}

type hand struct{ jobs chan *job }

// take has do work on j, and returns another job for the next packet. False: too many are in work, and j is given back.
func (c *crew) take(j *job, do func(*job)) (*job, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if n := len(c.idle); n > 0 {
		c.idle[n-1].jobs <- j // has room: it is idle
		c.idle = c.idle[:n-1]
	} else if c.size == maxInFlight {
		return j, false
	} else {
		c.size++
		h := &hand{jobs: make(chan *job, 1)}
		h.jobs <- j
		c.hands.Go(func() { c.work(h, do) })
	}
	if n := len(c.spare); n > 0 {
		j = c.spare[n-1]
		c.spare = c.spare[:n-1]
		return j, true
	}
	return new(job), true
}

func (c *crew) work(h *hand, do func(*job)) {
	for j := range h.jobs {
		do(j)
		c.mu.Lock()
		c.spare, c.idle = append(c.spare, j), append(c.idle, h)
		over := c.over
		c.mu.Unlock()
		if over {
			return
		}
	}
}

// dismiss waits until all that was taken is done. Nothing may be taken any more.
func (c *crew) dismiss() {
	c.mu.Lock()
	for _, h := range c.idle {
		close(h.jobs)
	}
	c.over = true
	c.mu.Unlock()
	c.hands.Wait()
}
