package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"sync"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/sys/unix"

	"offshoot/e2e/lab"
)

// rack is many machines behind one port of a network, each with a MAC of its own, over a cable that loses frames. Their sockets
// are those of one host: a TUN device carries packets between them and the port, and frames get the MAC of the machine whose address
// they have. Kernels of small virtual machines have neither netem nor a thousand network cards.
type rack struct {
	host   *lab.Host
	server net.HardwareAddr
	loss   float64
	port   *os.File // frames
	tun    *os.File // packets
	done   sync.WaitGroup

	mu     sync.Mutex
	chance *rand.Rand
	byMAC  map[string]*rackMachine
	byAddr map[netip.Addr]*rackMachine
}

// rackMachine is one of them.
type rackMachine struct {
	rack *rack
	mac  net.HardwareAddr
	dhcp chan *dhcpv4.DHCPv4 // what it hears
	addr netip.Addr
}

// rackDevice is the TUN device's name.
const rackDevice = "rack0"

// newRack plugs a rack of machines into a network whose only server has this MAC.
func newRack(ctx context.Context, h *lab.Host, n *lab.Network, server net.HardwareAddr, machines int, loss float64) (*rack, error) {
	r := &rack{
		host: h, server: server, loss: loss, chance: rand.New(rand.NewPCG(5, 5)), byMAC: map[string]*rackMachine{}, byAddr: map[netip.Addr]*rackMachine{},
	}
	for i := range machines {
		m := &rackMachine{rack: r, mac: machineOf(i), dhcp: make(chan *dhcpv4.DHCPv4, 16)}
		r.byMAC[string(m.mac)] = m
	}
	err := h.Do(func() (err error) {
		if r.port, err = framesOf(n.String()); err == nil {
			r.tun, err = openTUN(rackDevice)
		}
		return err
	})
	// All addresses of the network are this host's, but the server's; the port itself answers nobody.
	for _, args := range [][]string{
		{"link", "set", n.String(), "arp", "off", "promisc", "on"}, {"link", "set", rackDevice, "up", "txqueuelen", "10000"},
		{"route", "add", nodeAddress, "dev", rackDevice, "table", "local"},
		{"route", "add", "local", netip.MustParsePrefix(nodeAddress + segmentPrefix).Masked().String(), "dev", "lo"},
	} {
		if err == nil {
			_, err = h.Run(ctx, "ip", args...)
		}
	}
	if err != nil {
		return nil, errors.Join(err, r.close())
	}
	r.done.Go(r.in)
	r.done.Go(r.out)
	return r, nil
}

func (r *rack) close() error {
	var errs []error
	for _, f := range []*os.File{r.port, r.tun} {
		if f != nil {
			errs = append(errs, f.Close())
		}
	}
	r.done.Wait()
	return errors.Join(errs...)
}

// framesOf is a socket for all frames of a port.
func framesOf(name string) (*os.File, error) {
	ifi, err := net.InterfaceByName(name)
	if err != nil {
		return nil, err
	}
	protocol := binary.NativeEndian.Uint16([]byte{0, unix.ETH_P_ALL})
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), name)
	return f, errors.Join(
		unix.SetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, 64<<20), unix.SetsockoptInt(fd, unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: protocol, Ifindex: ifi.Index}),
	)
}

// openTUN makes a device whose packets are read and written here.
func openTUN(name string) (*os.File, error) {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err != nil {
		return nil, err
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return nil, errors.Join(fmt.Errorf("make %s: %w", name, err), unix.Close(fd))
	}
	return os.NewFile(uintptr(fd), name), nil // only now: before, it cannot be waited for
}

const (
	ethernetHeader = 14
	ipHeader       = 20
	udpHeader      = 8
	longestFrame   = 2048
)

// lost tells whether the next frame is.
func (r *rack) lost() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.chance.Float64() < r.loss
}

// send puts a frame on the cable. What the port does not take is lost, too.
func (r *rack) send(frame []byte) {
	if !r.lost() {
		_, _ = r.port.Write(frame)
	}
}

// in brings frames to machines until the rack is closed.
func (r *rack) in() {
	buf := make([]byte, longestFrame)
	for {
		n, err := r.port.Read(buf)
		if err != nil {
			return
		}
		if n < ethernetHeader+ipHeader || r.lost() {
			continue
		}
		switch binary.BigEndian.Uint16(buf[12:]) {
		case unix.ETH_P_ARP:
			r.arp(buf[:n])
		case unix.ETH_P_IP:
			r.packet(buf[:n])
		}
	}
}

// packet brings an IPv4 packet to its machine: DHCP by the machine's MAC, all else by the address.
func (r *rack) packet(frame []byte) {
	p := frame[ethernetHeader:]
	head := int(p[0]&15) * 4
	if p[9] == unix.IPPROTO_UDP && len(p) > head+udpHeader && binary.BigEndian.Uint16(p[head+2:]) == 68 {
		d, err := dhcpv4.FromBytes(p[head+udpHeader:])
		if err != nil {
			return
		}
		r.mu.Lock()
		m := r.byMAC[string(d.ClientHWAddr)]
		r.mu.Unlock()
		if m != nil {
			select {
			case m.dhcp <- d:
			default: // it listens no more
			}
		}
		return
	}
	if m := r.at(netip.AddrFrom4([4]byte(p[16:20]))); m != nil && string(frame[:6]) == string(m.mac) {
		_, _ = r.tun.Write(p) // a full queue loses it
	}
}

// arp answers for the machines.
func (r *rack) arp(frame []byte) {
	if len(frame) < ethernetHeader+28 || binary.BigEndian.Uint16(frame[20:]) != 1 {
		return
	}
	m := r.at(netip.AddrFrom4([4]byte(frame[38:42])))
	if m == nil {
		return
	}
	reply := make([]byte, ethernetHeader+28)
	copy(reply, frame[6:12])
	copy(reply[6:], m.mac)
	copy(reply[12:], frame[12:20])
	reply[21] = 2
	copy(reply[22:], m.mac)
	copy(reply[28:], frame[38:42])
	copy(reply[32:], frame[22:32])
	r.send(reply)
}

// out brings the machines' packets to the server until the rack is closed.
func (r *rack) out() {
	buf := make([]byte, longestFrame)
	copy(buf, r.server)
	binary.BigEndian.PutUint16(buf[12:], unix.ETH_P_IP)
	for {
		n, err := r.tun.Read(buf[ethernetHeader:])
		if err != nil {
			return
		}
		p := buf[ethernetHeader : ethernetHeader+n]
		if n < ipHeader || p[0]>>4 != 4 {
			continue
		}
		if m := r.at(netip.AddrFrom4([4]byte(p[12:16]))); m != nil {
			copy(buf[6:], m.mac)
			r.send(buf[:ethernetHeader+n])
		}
	}
}

func (r *rack) at(addr netip.Addr) *rackMachine {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.byAddr[addr]
}

// settle gives a machine the address that it was leased.
func (m *rackMachine) settle(addr netip.Addr) {
	m.rack.mu.Lock()
	defer m.rack.mu.Unlock()
	if m.addr != addr {
		delete(m.rack.byAddr, m.addr)
	}
	m.addr, m.rack.byAddr[addr] = addr, m
}

// broadcast sends a DHCP message as a machine without an address does.
func (m *rackMachine) broadcast(d *dhcpv4.DHCPv4) {
	payload := d.ToBytes()
	f := make([]byte, ethernetHeader+ipHeader+udpHeader+len(payload))
	copy(f, net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	copy(f[6:], m.mac)
	be := binary.BigEndian
	be.PutUint16(f[12:], unix.ETH_P_IP)
	ip := f[ethernetHeader:]
	ip[0], ip[8], ip[9] = 0x45, 64, unix.IPPROTO_UDP
	be.PutUint16(ip[2:], uint16(len(ip)))
	be.PutUint32(ip[16:], 0xffffffff)
	sum := uint32(0)
	for i := 0; i < ipHeader; i += 2 {
		sum += uint32(be.Uint16(ip[i:]))
	}
	be.PutUint16(ip[10:], ^uint16(sum+sum>>16))
	udp := ip[ipHeader:] // without a checksum, which IPv4 allows
	be.PutUint16(udp, 68)
	be.PutUint16(udp[2:], 67)
	be.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[udpHeader:], payload)
	m.rack.send(f)
}
