package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// probeTime is how long an ARP probe waits for an answer. RFC 5227 waits for seconds; a client that is offered nothing for
// so long repeats itself, and the user of an address on the same link answers within a millisecond or two.
const probeTime = 300 * time.Millisecond

// arp asks on one interface who uses an address. Any number of questions may be open at once: they share one socket.
type arp struct {
	ifi  *net.Interface
	conn *packet.Conn
	done chan struct{}

	mu   sync.Mutex
	open map[netip.Addr][]chan net.HardwareAddr
}

func openARP(iface string) (*arp, error) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", iface, err)
	}
	a := &arp{ifi: ifi, conn: conn, done: make(chan struct{}), open: make(map[netip.Addr][]chan net.HardwareAddr)}
	go a.hear()
	return a, nil
}

// close ends open questions' hope of an answer.
func (a *arp) close() {
	_ = a.conn.Close() // nothing is lost with it
	<-a.done
}

// hear reads answers until the socket is closed.
func (a *arp) hear() {
	defer close(a.done)
	buf := make([]byte, maxPacket)
	for {
		n, _, err := a.conn.ReadFrom(buf)
		switch {
		case errors.Is(err, unix.ENETDOWN):
			continue // said once when the link goes down; it comes back with the link
		case err != nil:
			return
		}
		addr, user := arpSender(buf[:n])
		if user == nil {
			continue
		}
		a.mu.Lock()
		for _, c := range a.open[addr] {
			select {
			case c <- user:
			default: // answered already
			}
		}
		a.mu.Unlock()
	}
}

// probe asks twice within probeTime who uses addr, without claiming any address for us (RFC 5227, 2.1.1). It returns nil if
// nobody answers.
func (a *arp) probe(ctx context.Context, addr netip.Addr) (net.HardwareAddr, error) {
	answer := make(chan net.HardwareAddr, 1)
	a.mu.Lock()
	a.open[addr] = append(a.open[addr], answer)
	a.mu.Unlock()
	defer a.forget(addr, answer)
	question := arpProbe(a.ifi.HardwareAddr, addr)
	everyone := &packet.Addr{HardwareAddr: net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}}
	timer := time.NewTimer(probeTime / 2)
	defer timer.Stop()
	for range 2 {
		if _, err := a.conn.WriteTo(question, everyone); err != nil {
			return nil, fmt.Errorf("send ARP on %s: %w", a.ifi.Name, err)
		}
		select {
		case user := <-answer:
			return user, nil
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			timer.Reset(probeTime / 2)
		}
	}
	return nil, nil
}

func (a *arp) forget(addr netip.Addr, answer chan net.HardwareAddr) {
	a.mu.Lock()
	defer a.mu.Unlock()
	left := slices.DeleteFunc(a.open[addr], func(c chan net.HardwareAddr) bool { return c == answer })
	if len(left) == 0 {
		delete(a.open, addr)
		return
	}
	a.open[addr] = left
}

// arpProbe is a request for addr with an empty sender address, as a frame.
func arpProbe(from net.HardwareAddr, addr netip.Addr) []byte {
	f := make([]byte, 0, 60)
	f = append(f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff)
	f = append(f, from...)
	f = append(f, 0x08, 0x06 /* ARP */, 0, 1 /* Ethernet */, 8, 0 /* IPv4 */, 6, 4, 0, 1 /* request */)
	f = append(f, from...)
	f = append(f, 0, 0, 0, 0)
	f = append(f, 0, 0, 0, 0, 0, 0)
	f = append(f, addr.AsSlice()...)
	return f[:60] // the smallest frame
}

// arpSender is the address that an ARP packet claims, and for whom; nil if it claims none.
func arpSender(f []byte) (netip.Addr, net.HardwareAddr) {
	if len(f) < 42 || binary.BigEndian.Uint16(f[12:]) != unix.ETH_P_ARP || string(f[14:20]) != "\x00\x01\x08\x00\x06\x04" {
		return netip.Addr{}, nil
	}
	addr := netip.AddrFrom4([4]byte(f[28:32]))
	if addr.IsUnspecified() {
		return netip.Addr{}, nil // a probe, like ours
	}
	return addr, net.HardwareAddr(append([]byte(nil), f[22:28]...))
}
