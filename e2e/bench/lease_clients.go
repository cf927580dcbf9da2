package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"sync"
	"syscall"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"
)

// crowd is a row of clients, of which one begins at every beat. Each asks once a second until it has its lease, and says for
// how long it has asked already: pairs of servers go by that.
type crowd struct {
	conn net.PacketConn
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	open    map[string]*asker
	begun   int
	served  []served
	retries int
}

type asker struct {
	mac         net.HardwareAddr
	xid         dhcpv4.TransactionID
	began, last time.Time
	offer       *dhcpv4.DHCPv4
}

// served is a lease that a client got.
type served struct{ began, at time.Time }

const (
	// With those of perfdhcp, and the nodes, they fit into the pool.
	crowdSize  = 30
	crowdBeat  = 50 * time.Millisecond
	crowdRetry = time.Second
)

// crowdOf lets clients ask on the contender's network until it is stopped. They are so many different ones, in turns.
func (c *contender) crowdOf(ctx context.Context, machines int) (*crowd, error) {
	conn, err := c.port(ctx)
	if err != nil {
		return nil, err
	}
	ctx, stop := context.WithCancel(ctx)
	w := &crowd{conn: conn, stop: stop, open: map[string]*asker{}}
	w.wg.Go(w.listen)
	w.wg.Go(func() { w.ask(ctx, machines) })
	return w, nil
}

// port opens the port of DHCP clients, for broadcasts on the contender's network.
func (c *contender) port(ctx context.Context) (conn net.PacketConn, err error) {
	err = c.client.Do(func() (err error) {
		lc := net.ListenConfig{Control: func(_, _ string, rc syscall.RawConn) error {
			var opt error
			err := rc.Control(func(fd uintptr) {
				opt = errors.Join(os.NewSyscallError("bind to device", unix.BindToDevice(int(fd), c.network.String())),
					os.NewSyscallError("broadcast", unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_BROADCAST, 1)))
			})
			return errors.Join(err, opt)
		}}
		conn, err = lc.ListenPacket(ctx, "udp4", ":68")
		return err
	})
	return conn, err
}

// end sends the clients home.
func (w *crowd) end() {
	w.stop()
	_ = w.conn.Close() // nothing is lost with it
	w.wg.Wait()
}

func (w *crowd) ask(ctx context.Context, machines int) {
	beat := time.NewTicker(crowdBeat)
	defer beat.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-beat.C:
			w.beat(now, machines)
		}
	}
}

func (w *crowd) beat(now time.Time, machines int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	mac := machineOf(w.begun % machines)
	if w.open[mac.String()] == nil {
		w.begun++
		a := &asker{mac: mac, began: now, xid: dhcpv4.TransactionID{byte(w.begun >> 24), byte(w.begun >> 16), byte(w.begun >> 8), byte(w.begun)}}
		w.open[mac.String()] = a
		w.send(a, now)
	}
	for _, a := range w.open {
		if now.Sub(a.last) >= crowdRetry {
			w.retries++
			w.send(a, now)
		}
	}
}

// send asks for an address, or for the one that was offered. An offer that is not acknowledged is forgotten.
func (w *crowd) send(a *asker, now time.Time) {
	kind := dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover)
	mods := []dhcpv4.Modifier{dhcpv4.WithHwAddr(a.mac), dhcpv4.WithBroadcast(true), dhcpv4.WithTransactionID(a.xid), kind}
	if o := a.offer; o != nil {
		mods = append(mods, dhcpv4.WithMessageType(dhcpv4.MessageTypeRequest),
			dhcpv4.WithOption(dhcpv4.OptServerIdentifier(o.ServerIdentifier())), dhcpv4.WithOption(dhcpv4.OptRequestedIPAddress(o.YourIPAddr)))
	}
	a.offer, a.last = nil, now
	p, err := dhcpv4.New(mods...)
	if err != nil {
		return
	}
	p.NumSeconds = uint16(now.Sub(a.began) / time.Second)
	// A packet that cannot be sent is asked again, as one that is lost.
	_, _ = w.conn.WriteTo(p.ToBytes(), &net.UDPAddr{IP: net.IPv4bcast, Port: 67})
}

func (w *crowd) listen() {
	buf := make([]byte, 1500)
	for {
		n, _, err := w.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		p, err := dhcpv4.FromBytes(buf[:n])
		if err != nil {
			continue
		}
		w.hear(p, time.Now())
	}
}

func (w *crowd) hear(p *dhcpv4.DHCPv4, now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	a := w.open[p.ClientHWAddr.String()]
	if a == nil || a.xid != p.TransactionID {
		return
	}
	switch p.MessageType() {
	case dhcpv4.MessageTypeOffer:
		a.offer = p
		w.send(a, now)
	case dhcpv4.MessageTypeAck:
		w.served = append(w.served, served{a.began, now})
		delete(w.open, a.mac.String())
	}
}

// next waits for the first lease that a client got who began to ask after since, and returns how long that was after since.
func (w *crowd) next(ctx context.Context, since time.Time) (time.Duration, error) {
	tick := time.NewTicker(crowdBeat)
	defer tick.Stop()
	for {
		w.mu.Lock()
		for _, s := range w.served {
			if s.began.After(since) {
				w.mu.Unlock()
				return s.at.Sub(since), nil
			}
		}
		w.mu.Unlock()
		select {
		case <-ctx.Done():
			return 0, fmt.Errorf("no lease since %s: %w", since.Format(time.TimeOnly), ctx.Err())
		case <-tick.C:
		}
	}
}

// counts are the leases and the repeated packets so far.
func (w *crowd) counts() (leases, retries int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.served), w.retries
}
