package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
)

// shop is a stock that runs in a synctest bubble, over a pool whose addresses a test can take.
type shop struct {
	*stock
	mu     sync.Mutex
	uses   map[netip.Addr]use
	users  map[netip.Addr]net.HardwareAddr
	probes map[netip.Addr]int
	looks  int // at addresses
	inUse  []netip.Addr
	broken error
}

func withStock(t *testing.T, pools []Range, body func(*shop)) {
	synctest.Test(t, func(t *testing.T) {
		cfg := testConfig()
		cfg.Subnet, cfg.Pools = netip.MustParsePrefix("192.168.0.0/16"), pools
		s := &shop{
			stock: newStock(&cfg), uses: make(map[netip.Addr]use), users: make(map[netip.Addr]net.HardwareAddr), probes: make(map[netip.Addr]int),
		}
		s.now, s.may = time.Now, func() bool { return true }
		s.useOf = func(_ time.Time, _ swarm.MAC, a netip.Addr) use {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.looks++
			return s.uses[a]
		}
		s.probe = func(_ context.Context, a netip.Addr) (net.HardwareAddr, error) {
			<-time.After(probeTime)
			s.mu.Lock()
			defer s.mu.Unlock()
			s.probes[a]++
			return s.users[a], s.broken
		}
		s.stock.inUse = func(a netip.Addr, _ net.HardwareAddr) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.inUse = append(s.inUse, a)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { s.run(ctx); close(done) }()
		<-time.After(probeTime)
		synctest.Wait()
		body(s)
		cancel()
		<-done
	})
}

// buy takes an address for good.
func (s *shop) buy(mac swarm.MAC) (addr netip.Addr, waited time.Duration, err error) {
	began := time.Now()
	addr, err = s.take(context.Background(), mac, func(a netip.Addr) bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.uses[a] == taken {
			return false
		}
		s.uses[a] = taken
		return true
	})
	return addr, time.Since(began), err
}

func (s *shop) look() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
}

func (s *shop) probed(a netip.Addr) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.probes[a]
}

func pool(first string, more int) []Range {
	a := netip.MustParseAddr(first)
	return []Range{{a, numberAddr(addrNumber(a) + uint32(more))}}
}

func TestAFewAddressesAreReadyBeforeAnyoneAsks(t *testing.T) {
	withStock(t, pool("192.168.1.0", 999), func(s *shop) {
		for range leastStock {
			if addr, waited, err := s.buy("x"); err != nil || waited != 0 || s.probed(addr) != 1 {
				t.Errorf("%s after %s, %d probes, %v", addr, waited, s.probed(addr), err)
			}
		}
	})
}

func TestEmptyStockWaitsForOneProbe(t *testing.T) {
	withStock(t, pool("192.168.1.0", 4999), func(s *shop) {
		const machines = 1000
		var all sync.WaitGroup
		for i := range machines {
			all.Go(func() {
				if addr, waited, err := s.buy(swarm.MAC(fmt.Sprint(i))); err != nil || waited > probeTime {
					t.Errorf("%s after %s, %v", addr, waited, err)
				}
			})
		}
		all.Wait()
		synctest.Wait()
		<-time.After(probeTime)
		if _, waited, err := s.buy("y"); err != nil || waited != 0 {
			t.Errorf("after a rush the stock is empty: waited %s, %v", waited, err)
		}
		<-time.After(5 * time.Minute)
		s.stock.mu.Lock()
		defer s.stock.mu.Unlock()
		if s.target != leastStock || len(s.ready) != leastStock {
			t.Errorf("long after a rush %d are wanted and %d ready", s.target, len(s.ready))
		}
	})
}

func TestOldProbesDoNotCount(t *testing.T) {
	withStock(t, pool("192.168.1.0", 999), func(s *shop) {
		for range 20 {
			<-time.After(17 * time.Second)
			s.stock.mu.Lock()
			for _, r := range s.ready {
				if time.Since(r.at) >= freshTime {
					t.Errorf("%s was probed %s ago", r.addr, time.Since(r.at))
				}
			}
			s.stock.mu.Unlock()
		}
		if _, waited, err := s.buy("x"); err != nil || waited != 0 {
			t.Errorf("waited %s, %v", waited, err)
		}
	})
}

func TestAddressTakenWhileItLayReadyIsNotHandedOut(t *testing.T) {
	withStock(t, pool("192.168.1.0", 999), func(s *shop) {
		s.mu.Lock()
		stolen := make(map[netip.Addr]bool)
		for a := range s.probes {
			s.uses[a], stolen[a] = taken, true
		}
		s.mu.Unlock()
		if addr, _, err := s.buy("x"); err != nil || stolen[addr] {
			t.Errorf("%s, %v", addr, err)
		}
	})
}

func TestExhaustedPoolCostsNoWalkPerPacket(t *testing.T) {
	const size = 16384
	withStock(t, pool("192.168.64.0", size-1), func(s *shop) {
		s.mu.Lock()
		for i := range size {
			s.uses[s.cfg.nth(i)] = taken
		}
		s.mu.Unlock()
		before := s.look()
		for range 10_000 {
			if addr, waited, err := s.buy("x"); !errors.Is(err, errExhausted) || waited > probeTime {
				t.Fatalf("%s after %s, %v", addr, waited, err)
			}
		}
		if looks := s.look() - before; looks > 2*size {
			t.Errorf("10,000 packets looked at %d addresses of a pool of %d", looks, size)
		}
		<-time.After(time.Minute + stockTick/2)
		freed := s.cfg.nth(size / 2)
		s.mu.Lock()
		s.uses[freed] = free
		s.mu.Unlock()
		if addr, _, err := s.buy("x"); err != nil || addr != freed {
			t.Errorf("%s, %v; %s is free again", addr, err, freed)
		}
	})
}

func TestGivenBackAddressIsHadAtOnce(t *testing.T) {
	withStock(t, pool("192.168.1.7", 0), func(s *shop) {
		addr, _, err := s.buy("x")
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := s.buy("y"); !errors.Is(err, errExhausted) {
			t.Fatalf("the only address was given twice: %v", err)
		}
		s.mu.Lock()
		s.uses[addr] = free
		s.mu.Unlock()
		s.giveBack(addr)
		if again, waited, err := s.buy("y"); again != addr || waited > probeTime {
			t.Errorf("%s after %s, %v", again, waited, err)
		}
	})
}

func TestFreeAddressesGoBeforeThoseWhoseTimeIsOver(t *testing.T) {
	withStock(t, pool("192.168.1.0", 99), func(s *shop) {
		s.mu.Lock()
		for i := range 98 {
			s.uses[s.cfg.nth(i)] = expired
		}
		s.mu.Unlock()
		s.stock.mu.Lock()
		s.ready, s.onShelf = nil, make(map[netip.Addr]bool)
		s.stock.mu.Unlock()
		seen := make(map[netip.Addr]bool)
		for i := range 100 {
			addr, _, err := s.buy("x")
			if err != nil || seen[addr] {
				t.Fatalf("number %d is %s, %v", i, addr, err)
			}
			seen[addr] = true
		}
		if _, _, err := s.buy("x"); !errors.Is(err, errExhausted) {
			t.Errorf("the hundred and first: %v", err)
		}
	})
}

func TestRouterThatAnswersForEveryAddressDoesNotEmptyThePool(t *testing.T) {
	withStock(t, pool("192.168.1.0", 4999), func(s *shop) {
		s.mu.Lock()
		for i := range 5000 {
			s.users[s.cfg.nth(i)] = net.HardwareAddr{2, 0, 0, 0, 0, 9}
		}
		s.mu.Unlock()
		for range 200 { // what was ready runs out; then each asks again and again for a minute
			_, _, _ = s.buy("x")
			<-time.After(probeTime)
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if len(s.inUse) == 0 || len(s.inUse) > 1000 {
			t.Errorf("%d addresses were found in use", len(s.inUse))
		}
	})
}

func TestBrokenProbesAreSaid(t *testing.T) {
	withStock(t, pool("192.168.1.0", 4999), func(s *shop) {
		s.mu.Lock()
		s.broken = errors.New("network is down")
		s.mu.Unlock()
		var err error
		for range 2 * leastStock {
			if _, _, err = s.buy("x"); err != nil {
				break
			}
		}
		if !errors.Is(err, s.broken) {
			t.Errorf("%v", err)
		}
		<-time.After(probeTime) // what was ready runs out
		s.mu.Lock()
		s.broken = nil
		s.mu.Unlock()
		<-time.After(stockTick)
		if _, _, err := s.buy("x"); err != nil {
			t.Errorf("after the repair: %v", err)
		}
	})
}

func TestWithoutDutyNothingIsProbed(t *testing.T) {
	var probes int
	withServer(t, func(b *bench) {
		b.duty = RenewOnly
		b.o.Probe = func(context.Context, netip.Addr) (net.HardwareAddr, error) { probes++; return nil, nil }
	}, func(b *bench) {
		<-time.After(time.Hour)
		if probes != 0 {
			t.Errorf("%d probes", probes)
		}
	})
}

func TestDiscoverDoesNotWaitForAProbe(t *testing.T) {
	withServer(t, func(b *bench) {
		b.o.Probe = func(context.Context, netip.Addr) (net.HardwareAddr, error) { <-time.After(probeTime); return nil, nil }
	}, func(b *bench) {
		<-time.After(time.Second)
		if b.say(b.packet(discover)) == nil {
			t.Errorf("no offer at once: %s", b.lastReason())
		}
	})
}

func TestSeveralPoolsAreUsedToTheLastAddress(t *testing.T) {
	addr20, addr99 := netip.MustParseAddr("192.168.42.20"), netip.MustParseAddr("192.168.42.99")
	withServer(t, func(b *bench) { b.o.Config.Pools = []Range{{addr17, addr17}, {addr99, addr99}, {addr20, addr20}} }, func(b *bench) {
		seen := make(map[string]bool)
		for i := range 3 {
			seen[b.lease(dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, byte(i)})).YourIPAddr.String()] = true
		}
		if len(seen) != 3 || !seen[addr17.String()] || !seen[addr20.String()] || !seen[addr99.String()] {
			t.Errorf("gave %v", seen)
		}
		if b.say(b.packet(discover)) != nil {
			t.Error("a fourth address came out of three")
		}
	})
}

func TestFloodOfTroubleIsNotAFloodOfEvents(t *testing.T) {
	withServer(t, func(b *bench) { b.o.Config.Pools = nil }, func(b *bench) {
		for range 100 {
			b.say(b.packet(discover))
		}
		if len(b.events) != mostEvents || b.events[0].Kind != EventExhausted {
			t.Errorf("%d events", len(b.events))
		}
		<-time.After(eventWindow)
		b.say(b.packet(discover))
		if len(b.events) != mostEvents+1 {
			t.Errorf("%d events a minute later", len(b.events))
		}
	})
}

func TestReleasedAddressIsNotGivenAwayWhileOthersAreFree(t *testing.T) {
	withServer(t, nil, func(b *bench) {
		ack := b.lease()
		b.say(b.packet(dhcpv4.MessageTypeRelease, chose(server.String()), has(ack.YourIPAddr.String())))
		for i := range 200 {
			if got := b.lease(dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 1, byte(i)})); got.YourIPAddr.Equal(ack.YourIPAddr) {
				t.Fatalf("%s was given to number %d", got.YourIPAddr, i)
			}
		}
	})
}

func TestGivenBackAddressOfAnotherWaitsWhileOthersAreFree(t *testing.T) {
	withStock(t, pool("192.168.1.0", 99), func(s *shop) {
		old := s.cfg.nth(50)
		s.mu.Lock()
		s.uses[old] = expired
		s.mu.Unlock()
		s.giveBack(old)
		for i := range 99 {
			if addr, _, err := s.buy("x"); err != nil || addr == old {
				t.Fatalf("number %d is %s, %v", i, addr, err)
			}
		}
		if addr, _, err := s.buy("x"); err != nil || addr != old {
			t.Errorf("the last one is %s, %v", addr, err)
		}
	})
}

func TestOffersThatNobodyRequestsAreTakenBackWhenThePoolIsEmpty(t *testing.T) {
	late := dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 1, 0})
	few := func(b *bench) {
		b.o.Config.Pools = []Range{{numberAddr(addrNumber(server) + 20), numberAddr(addrNumber(server) + 22)}}
	}
	withServer(t, few, func(b *bench) {
		for i := range 3 {
			if b.say(b.packet(discover, dhcpv4.WithHwAddr(net.HardwareAddr{2, 0, 0, 0, 0, byte(i)}))) == nil {
				t.Fatalf("offer %d: %s", i, b.lastReason())
			}
		}
		if b.say(b.packet(discover, late)) != nil {
			t.Error("an offer was taken back at once: its machine had no time to ask")
		}
		<-time.After(patience + time.Second)
		b.lease(late)
	})
}
