package node

import (
	"encoding/binary"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
	"offshoot/swarm/swarmtest"
)

// crowd are machines that ask for an address once each, one after the other.
type crowd struct {
	port    *swarmtest.Port
	asked   uint32
	answers map[uint32][]netip.Addr // by transaction id: the addresses that were offered
	done    chan struct{}
}

func newCrowd(lan *swarmtest.Segment) *crowd {
	c := &crowd{port: lan.Join(nil, "02:00:00:00:01:00", netip.Addr{}, 68), answers: map[uint32][]netip.Addr{}, done: make(chan struct{})}
	go func() {
		defer close(c.done)
		buf := make([]byte, 1500)
		for {
			n, _, err := c.port.Receive(buf)
			if err != nil {
				return
			}
			if p, err := dhcpv4.FromBytes(buf[:n]); err == nil {
				xid := binary.BigEndian.Uint32(p.TransactionID[:])
				offered, _ := netip.AddrFromSlice(p.YourIPAddr.To4())
				c.answers[xid] = append(c.answers[xid], offered)
			}
		}
	}()
	return c
}

// ask sends the DISCOVER of the next machine, which is one of a few that come again.
func (c *crowd) ask() error {
	var xid dhcpv4.TransactionID
	binary.BigEndian.PutUint32(xid[:], c.asked)
	mac := net.HardwareAddr{2, 0, 0, 0, 1, byte(c.asked % 200)}
	p, err := dhcpv4.NewDiscovery(mac, dhcpv4.WithTransactionID(xid), dhcpv4.WithBroadcast(true))
	if err != nil {
		return err
	}
	c.asked++
	return c.port.Send(p.ToBytes(), swarmtest.Target{Port: 67})
}

// leave waits until all is answered.
func (c *crowd) leave() {
	<-time.After(time.Second)
	_ = c.port.Close()
	<-c.done
}

// peaceful is a swarm of four nodes, without faults, whose segment has its usual pool.
func peaceful(t *testing.T, seed uint64, body func(r *simRun, decide func(swarm.Op))) {
	r := newSimRun(t, seed, 4, quiet())
	defer r.end()
	r.foundSwarm(t.Context())
	if wrong := r.world.oracle.violations(); len(wrong) > 0 {
		t.Error(wrong)
		return
	}
	decide := func(op swarm.Op) {
		if err := r.world.leader().replica.decide(t.Context(), op); err != nil {
			t.Errorf("%T: %v", op, err)
		}
	}
	decide(swarm.SetPools{Segment: "s1"})
	<-time.After(time.Second)
	body(r, decide)
}

// segment is the first one, as the leader knows it.
func (r *simRun) segment() swarm.Segment {
	s, _ := r.world.leader().replica.state.View().Segment("s1")
	return s
}

// TestHandoverLosesNoPacketAndAnswersNoneTwice: machines that ask a thousand times in a second, each time once, notice nothing
// of a duty that moves from one node to another and on.
func TestHandoverLosesNoPacketAndAnswersNoneTwice(t *testing.T) {
	seeds.Run(t, 2, func(t *testing.T, seed uint64) {
		peaceful(t, seed, func(r *simRun, decide func(swarm.Op)) {
			c := newCrowd(r.world.lan)
			for range 2 {
				before, next := r.segment().Duty, r.world.nodes[1].id
				if next == before.Holder {
					next = r.world.nodes[2].id
				}
				decide(swarm.OfferDuty{Segment: "s1", Term: before.Term, To: next})
				for rest := 100; rest > 0 && !t.Failed(); <-time.After(time.Millisecond) {
					if err := c.ask(); err != nil {
						t.Error(err)
					}
					if r.segment().Duty.Holder == next {
						rest--
					}
				}
				if now := r.segment().Duty; now.Term != before.Term+1 {
					t.Errorf("%+v after %+v", now, before)
				}
			}
			c.leave()
			for xid := range c.asked {
				if n := len(c.answers[xid]); n != 1 {
					t.Errorf("packet %d of %d was answered %d times", xid, c.asked, n)
				}
			}
		})
	})
}

func TestNewPoolsAreServedInTheSameTerm(t *testing.T) {
	seeds.Run(t, 1, func(t *testing.T, seed uint64) {
		peaceful(t, seed, func(r *simRun, decide func(swarm.Op)) {
			c := newCrowd(r.world.lan)
			post := func() *post {
				s := r.segment()
				for _, n := range r.world.nodes {
					if n.id == s.Duty.Holder {
						w := n.running().watch
						w.mu.Lock()
						defer w.mu.Unlock()
						return w.posts[s.Duty.Term]
					}
				}
				return nil
			}
			before := post()
			few := swarm.AddrRange{First: netip.MustParseAddr("10.42.0.200"), Last: netip.MustParseAddr("10.42.0.219")}
			for _, pools := range [][]swarm.AddrRange{{few}, nil} {
				decide(swarm.SetPools{Segment: "s1", Pools: pools})
				<-time.After(time.Second)
				for range 10 {
					if err := c.ask(); err != nil {
						t.Error(err)
					}
				}
				<-time.After(time.Second)
			}
			c.leave()
			for xid := range c.asked {
				if a := c.answers[xid]; len(a) != 1 || few.Contains(a[0]) != (xid < 10) {
					t.Errorf("machine %d was offered %v", xid, a)
				}
			}
			if before == nil || post() != before {
				t.Error("the post was left")
			}
		})
	})
}
