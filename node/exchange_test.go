package node

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/dhcp"
	"offshoot/swarm"
)

// loadLink is a segment whose machines ask as fast as they are answered.
type loadLink struct {
	in   chan []byte
	done chan struct{}
	once sync.Once
	wait sync.Map // transaction id to the channel of who waits for the answer
}

func (l *loadLink) Receive(buf []byte) (int, bool, error) {
	select {
	case b := <-l.in:
		return copy(buf, b), false, nil
	case <-l.done:
		return 0, false, io.EOF
	}
}

func (l *loadLink) Send(b []byte, _ dhcp.Destination, _ net.HardwareAddr) error {
	if ch, ok := l.wait.Load([4]byte(b[4:8])); ok {
		ch.(chan []byte) <- append([]byte(nil), b...)
	}
	return nil
}

func (l *loadLink) Close() error { l.once.Do(func() { close(l.done) }); return nil }

// BenchmarkExchanges is DISCOVER, OFFER, REQUEST, ACK by the server of a post, with every lease on the disk of one voter,
// asked for by 64 machines at once.
func BenchmarkExchanges(b *testing.B) {
	l := founded(b)
	segment, _ := l.state.View().Segment("s1")
	self, _ := l.state.View().Node(seedID)
	port, _ := self.On("s1")
	link := &loadLink{in: make(chan []byte), done: make(chan struct{})}
	p := &post{segment: segment, port: port, fence: newFence(uptime), view: l.state.View, mail: newMailbox(), note: func(swarm.MAC, string, string) {}}
	p.fence.renewed(uptime() + 1<<50)
	server, err := giving(p, l.replica, dhcp.Options{
		Config: dhcp.Config{Interface: "load"}, Listen: func(dhcp.Config) (dhcp.Link, error) { return link, nil },
		Probe: func(context.Context, netip.Addr) (net.HardwareAddr, error) { return nil, nil },
	})
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx) }()
	const machines = 64
	work := make(chan int)
	var all sync.WaitGroup
	for m := range machines {
		all.Go(func() {
			answers := make(chan []byte, 4)
			hw := net.HardwareAddr{2, 0, 0, 0, 1, byte(m)}
			for i := range work {
				xid := dhcpv4.TransactionID{byte(i >> 24), byte(i >> 16), byte(i >> 8), byte(i)}
				link.wait.Store([4]byte(xid), answers)
				discover, _ := dhcpv4.New(dhcpv4.WithHwAddr(hw), dhcpv4.WithTransactionID(xid), dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover))
				link.in <- discover.ToBytes()
				offer, err := dhcpv4.FromBytes(<-answers)
				if err != nil {
					panic(fmt.Sprintf("offer: %v", err))
				}
				request, _ := dhcpv4.NewRequestFromOffer(offer)
				link.in <- request.ToBytes()
				<-answers
				link.wait.Delete([4]byte(xid))
			}
		})
	}
	var commands atomic.Int64
	l.replica.applied = func(uint64, []byte) { commands.Add(1) }
	b.ResetTimer()
	for i := range b.N {
		work <- i
	}
	close(work)
	all.Wait()
	b.StopTimer()
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "exchanges/s")
	b.ReportMetric(float64(b.N)/float64(commands.Load()), "leases/command")
	cancel()
	if err := <-ended; err != nil {
		b.Error(err)
	}
}
