package dhcp

import (
	"cmp"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"syscall"

	"github.com/mdlayher/packet"
	"golang.org/x/sys/unix"
)

// Link carries packets on one interface. One goroutine receives; Send and Close may be called by any, also meanwhile.
type Link interface {
	// Receive reads one packet into buf, cutting what does not fit. unicast: it was sent to our own address. io.EOF says
	// that no more will come: the server then answers what it has, and ends. After Close it returns an error.
	Receive(buf []byte) (n int, unicast bool, err error)
	// Send carries a reply to a client whose hardware address is client. It keeps neither slice.
	Send(b []byte, to Destination, client net.HardwareAddr) error
	Close() error
}

// BootLink is the link of port 4011. Its clients ask from port 68 or from 4011, as OVMF does, and hear the answer only there.
type BootLink interface {
	Link
	// From is the port that the packet received last came from. Called by the goroutine that receives.
	From() uint16
}

const (
	serverPort = 67
	clientPort = 68
	bootPort   = 4011 // PXE 2.1, 2.2.3
)

// wire is a real link: a UDP socket bound to the interface, so that nothing is heard from or said to another one, and a
// packet socket for clients that cannot answer ARP yet.
type wire struct {
	udp    *net.UDPConn
	raw    *packet.Conn
	ifi    *net.Interface
	server netip.Addr
	source []byte // control message that sends from server: an interface may have several addresses
	heard  []byte // the control message of what is received
	from   uint16 // the port that it came from
}

// receiveBuffer is what the socket may hold while we are busy: some thousand packets. By default it is a hundred.
const receiveBuffer = 8 << 20

// Listen opens port 67 on the interface of cfg, and nothing else: the Link that a Server uses if it is not told another.
func Listen(cfg Config) (Link, error) { return listen(cfg, serverPort) }

// ListenBoot opens port 4011, for a proxy.
func ListenBoot(cfg Config) (BootLink, error) { return listen(cfg, bootPort) }

func listen(cfg Config, port int) (*wire, error) {
	ifi, err := net.InterfaceByName(cfg.Interface)
	if err != nil {
		return nil, fmt.Errorf("interface %s: %w", cfg.Interface, err)
	}
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		var optErr error
		err := c.Control(func(fd uintptr) { optErr = prepare(int(fd), ifi.Name) })
		return errors.Join(err, optErr)
	}}
	conn, err := lc.ListenPacket(context.Background(), "udp4", fmt.Sprintf(":%d", port))
	if err != nil {
		return nil, fmt.Errorf("open port %d on %s (another DHCP server here? needs CAP_NET_BIND_SERVICE and CAP_NET_RAW): %w",
			port, ifi.Name, err)
	}
	raw, err := packet.Listen(ifi, packet.Raw, 0, nil) // protocol 0: for sending only
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open packet socket on %s (needs CAP_NET_RAW): %w", ifi.Name, err), conn.Close())
	}
	return &wire{
		udp: conn.(*net.UDPConn), raw: raw, ifi: ifi, server: cfg.Server, heard: make([]byte, 256),
		source: unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: int32(ifi.Index), Spec_dst: cfg.Server.As4()}),
	}, nil
}

func prepare(fd int, iface string) error {
	if err := unix.BindToDevice(fd, iface); err != nil {
		return os.NewSyscallError("bind to device", err)
	}
	// The destination tells who asks this server (RENEWING) from who asks everyone (REBINDING).
	if err := unix.SetsockoptInt(fd, unix.IPPROTO_IP, unix.IP_PKTINFO, 1); err != nil {
		return os.NewSyscallError("ask for destinations", err)
	}
	if unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, receiveBuffer) != nil {
		_ = unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF, receiveBuffer) // as much as we may: better than nothing
	}
	return nil
}

func (w *wire) Receive(buf []byte) (int, bool, error) {
	for {
		n, oobn, _, from, err := w.udp.ReadMsgUDPAddrPort(buf, w.heard)
		if err != nil {
			// Queued ICMP errors of earlier answers, and a link that is down for a moment, are no reason to end.
			if errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ENETDOWN) || errors.Is(err, unix.EHOSTUNREACH) {
				continue
			}
			return 0, false, err
		}
		w.from = from.Port()
		return n, destination(w.heard[:oobn]) == w.server, nil
	}
}

func (w *wire) From() uint16 { return w.from }

// destination is where a packet was sent to, by its control messages; invalid if they do not say.
func destination(oob []byte) netip.Addr {
	for len(oob) >= unix.CmsgLen(0) {
		h, data, rest, err := unix.ParseOneSocketControlMessage(oob)
		if err != nil {
			return netip.Addr{}
		}
		if h.Level == unix.IPPROTO_IP && h.Type == unix.IP_PKTINFO && len(data) >= unix.SizeofInet4Pktinfo {
			return netip.AddrFrom4([4]byte(data[8:12])) // struct in_pktinfo: interface, local address, destination
		}
		oob = rest
	}
	return netip.Addr{}
}

func (w *wire) Send(b []byte, to Destination, client net.HardwareAddr) error {
	if to.Frame {
		frame := udpFrame(w.ifi.HardwareAddr, client, w.server, to.Addr, b)
		if _, err := w.raw.WriteTo(frame, &packet.Addr{HardwareAddr: client}); err != nil {
			return fmt.Errorf("send frame to %s: %w", client, err)
		}
		return nil
	}
	dst := netip.AddrPortFrom(netip.AddrFrom4([4]byte{255, 255, 255, 255}), clientPort)
	switch {
	case to.Relay.IsValid():
		dst = netip.AddrPortFrom(to.Relay, serverPort)
	case to.Addr.IsValid():
		dst = netip.AddrPortFrom(to.Addr, cmp.Or(to.Port, clientPort))
	}
	if _, _, err := w.udp.WriteMsgUDPAddrPort(b, w.source, dst); err != nil {
		return fmt.Errorf("send to %s: %w", dst, err)
	}
	return nil
}

func (w *wire) Close() error { return errors.Join(w.udp.Close(), w.raw.Close()) }

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
