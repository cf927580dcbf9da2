package dhcp

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/ipv4"
	"golang.org/x/sys/unix"
)

// link carries packets on one interface.
type link interface {
	// receive reads one packet. unicast: it was sent to our own address.
	receive(buf []byte) (n int, unicast bool, err error)
	send(b []byte, to Destination, client net.HardwareAddr) error
	close() error
}

const (
	serverPort = 67
	clientPort = 68
)

// wire is the real link: a UDP socket bound to the interface, so that nothing is heard from or said to another one, and a
// packet socket for clients that cannot answer ARP yet.
type wire struct {
	udp    *ipv4.PacketConn
	raw    *packet.Conn
	ifi    *net.Interface
	server netip.Addr
}

func listen(cfg Config) (link, error) {
	ifi, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", cfg.Interface, err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var bindErr error
		if err := c.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), ifi.Name) }); err != nil {
			return err
		}
		return os.NewSyscallError("bind to device", bindErr)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", serverPort))
	if err != nil {
		return nil, fmt.Errorf("open port %d on %s (another DHCP server here? needs CAP_NET_BIND_SERVICE and CAP_NET_RAW): %w",
			serverPort, ifi.Name, err)
	}
	udp := ipv4.NewPacketConn(conn)
	// The destination tells who asks this server (RENEWING) from who asks everyone (REBINDING).
	if err := udp.SetControlMessage(ipv4.FlagDst, true); err != nil {
		return nil, errors.Join(fmt.Errorf("ask for destinations on %s: %w", ifi.Name, err), conn.Close())
	}
	raw, err := packet.Listen(ifi, packet.Raw, 0, nil) // protocol 0: for sending only
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open packet socket on %s (needs CAP_NET_RAW): %w", ifi.Name, err), conn.Close())
	}
	return &wire{udp: udp, raw: raw, ifi: ifi, server: cfg.Server}, nil
}

func (w *wire) receive(buf []byte) (int, bool, error) {
	for {
		n, cm, _, err := w.udp.ReadFrom(buf)
		if err != nil {
			// Queued ICMP errors of earlier answers, and a link that is down for a moment, are no reason to end.
			if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EHOSTUNREACH) {
				continue
			}
			return 0, false, err
		}
		unicast := false
		if cm != nil {
			dst, ok := netip.AddrFromSlice(cm.Dst)
			unicast = ok && dst.Unmap() == w.server
		}
		return n, unicast, nil
	}
}

func (w *wire) send(b []byte, to Destination, client net.HardwareAddr) error {
	if to.Frame {
		frame := udpFrame(w.ifi.HardwareAddr, client, w.server, to.Addr, b)
		if _, err := w.raw.WriteTo(frame, &packet.Addr{HardwareAddr: client}); err != nil {
			return fmt.Errorf("send frame to %s: %w", client, err)
		}
		return nil
	}
	dst := &net.UDPAddr{IP: net.IPv4bcast, Port: clientPort}
	switch {
	case to.Relay.IsValid():
		dst = &net.UDPAddr{IP: to.Relay.AsSlice(), Port: serverPort}
	case to.Addr.IsValid():
		dst.IP = to.Addr.AsSlice()
	}
	// An interface may have several addresses: clients must see the one that we name as server identifier.
	cm := &ipv4.ControlMessage{Src: w.server.AsSlice(), IfIndex: w.ifi.Index}
	if _, err := w.udp.WriteTo(b, cm, dst); err != nil {
		return fmt.Errorf("send to %s: %w", dst, err)
	}
	return nil
}

func (w *wire) close() error { return errors.Join(w.udp.Close(), w.raw.Close()) }

// udpFrame is an Ethernet frame with payload from the server's to the client's port.
func udpFrame(from, to net.HardwareAddr, src, dst netip.Addr, payload []byte) []byte {
	be := binary.BigEndian
	const ethernet, ip, udp = 14, 20, 8
	f := make([]byte, ethernet+ip+udp+len(payload))
	copy(f, to)
	copy(f[6:], from)
	be.PutUint16(f[12:], unix.ETH_P_IP)

	h := f[ethernet : ethernet+ip]
	h[0] = 0x45 // version 4, five words of header
	h[1] = 0x10 // low delay, as other DHCP servers mark it
	be.PutUint16(h[2:], uint16(len(f)-ethernet))
	h[8] = 64 // TTL
	h[9] = unix.IPPROTO_UDP
	copy(h[12:], src.AsSlice())
	copy(h[16:], dst.AsSlice())
	be.PutUint16(h[10:], ^sum(0, h))

	u := f[ethernet+ip:]
	be.PutUint16(u, serverPort)
	be.PutUint16(u[2:], clientPort)
	be.PutUint16(u[4:], uint16(len(u)))
	copy(u[udp:], payload)
	// RFC 768: pseudo header of addresses, protocol and length; an all-zero sum is sent as all ones.
	pseudo := sum(uint32(unix.IPPROTO_UDP)+uint32(len(u)), h[12:20])
	check := ^sum(uint32(pseudo), u)
	if check == 0 {
		check = 0xffff
	}
	be.PutUint16(u[6:], check)
	return f
}

// sum is the ones' complement sum of RFC 1071.
func sum(start uint32, b []byte) uint16 {
	s := start
	for ; len(b) >= 2; b = b[2:] {
		s += uint32(binary.BigEndian.Uint16(b))
	}
	if len(b) == 1 {
		s += uint32(b[0]) << 8
	}
	for s > 0xffff {
		s = s>>16 + s&0xffff
	}
	return uint16(s)
}

// probeTime is how long an ARP probe waits for an answer. RFC 5227 waits for seconds; a client that is offered nothing for
// so long repeats itself, and the user of an address on the same link answers within a millisecond or two.
const probeTime = 300 * time.Millisecond

// ARPProbe asks on the interface who uses addr, twice within 300 ms, without claiming any address for us (RFC 5227, 2.1.1).
// It returns nil if nobody answers.
func ARPProbe(ctx context.Context, iface string, addr netip.Addr) (net.HardwareAddr, error) {
	ifi, err := net.InterfaceByName(iface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", iface, err)
	}
	conn, err := packet.Listen(ifi, packet.Raw, unix.ETH_P_ARP, nil)
	if err != nil {
		return nil, fmt.Errorf("open packet socket on %s: %w", iface, err)
	}
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	probe := arpProbe(ifi.HardwareAddr, addr)
	buf := make([]byte, maxPacket)
	for range 2 {
		everyone := net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		if _, err := conn.WriteTo(probe, &packet.Addr{HardwareAddr: everyone}); err != nil {
			return nil, fmt.Errorf("send ARP on %s: %w", iface, err)
		}
		if err := conn.SetReadDeadline(time.Now().Add(probeTime / 2)); err != nil {
			return nil, fmt.Errorf("set deadline: %w", err)
		}
		for {
			n, _, err := conn.ReadFrom(buf)
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("receive ARP on %s: %w", iface, err)
			}
			if user := arpSender(buf[:n], addr); user != nil {
				return user, nil
			}
		}
	}
	return nil, nil
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

// arpSender is the hardware address of an ARP packet that claims addr; nil if it does not.
func arpSender(f []byte, addr netip.Addr) net.HardwareAddr {
	if len(f) < 42 || binary.BigEndian.Uint16(f[12:]) != unix.ETH_P_ARP || string(f[14:20]) != "\x00\x01\x08\x00\x06\x04" {
		return nil
	}
	if sender := netip.AddrFrom4([4]byte(f[28:32])); sender != addr {
		return nil
	}
	return net.HardwareAddr(append([]byte(nil), f[22:28]...))
}
