package segment

import (
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"golang.org/x/net/bpf"

	"offshoot/swarm"
)

const (
	dhcpServer = 67   // RFC 2131 section 4.1
	dhcpClient = 68   //
	pxeServer  = 4011 // PXE 2.1 section 2.2.3, the BINL port
	protoUDP   = 17
)

// Server is a DHCP server that was heard on a segment.
type Server struct {
	// ID is the server identifier (option 54), or the packet's source where a server leaves it out.
	ID netip.Addr
	// Addr and MAC are the source of the packet: behind a relay they differ from ID.
	Addr netip.Addr
	MAC  swarm.MAC
	// Proxy says that it was heard to offer boot programs only, no addresses (PXE 2.1).
	Proxy bool
	Offer Offer
	// Asked says that a Watcher has asked it all that a probe asks, since it first heard of it, and got an answer: what it does not
	// offer by then, to machines that boot for instance, it does not have.
	Asked bool
}

// Boots says that it is a server for machines that boot from the network, and not one that only knows where there is one.
func (s Server) Boots() bool { return s.Offer.Boot.PXE }

func (s Server) String() string { return fmt.Sprintf("%s (%s)", s.ID, s.MAC) }

// replyFilter lets IPv4 UDP to port 68 through, unfragmented, and nothing else, so that a busy port does not wake us.
var replyFilter = []bpf.Instruction{
	bpf.LoadAbsolute{Off: 12, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: etherIPv4, SkipTrue: 8},
	bpf.LoadAbsolute{Off: 23, Size: 1},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: protoUDP, SkipTrue: 6},
	bpf.LoadAbsolute{Off: 20, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: 0x1fff, SkipTrue: 4},
	bpf.LoadMemShift{Off: 14},
	bpf.LoadIndirect{Off: 16, Size: 2},
	bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: dhcpClient, SkipTrue: 1},
	bpf.RetConstant{Val: 0xffff},
	bpf.RetConstant{Val: 0},
}

// decodeReply reads a whole Ethernet frame and returns the DHCP server that it proves: any OFFER, ACK or NAK to a client,
// whoever that is. Everything else is an error that wraps ErrFrame. Checksums are not verified: on a veth or with
// offload they are filled in by hardware that does not exist.
func decodeReply(frame []byte) (Server, error) {
	if len(frame) < etherHeader+20 || binary.BigEndian.Uint16(frame[12:]) != etherIPv4 {
		return Server{}, fmt.Errorf("%w: not IPv4", ErrFrame)
	}
	ip := frame[etherHeader:]
	head, total := int(ip[0]&0x0f)*4, int(binary.BigEndian.Uint16(ip[2:]))
	if ip[0]>>4 != 4 || head < 20 || total < head+8 || total > len(ip) {
		return Server{}, fmt.Errorf("%w: IPv4 header", ErrFrame)
	}
	if ip[9] != protoUDP || binary.BigEndian.Uint16(ip[6:])&0x3fff != 0 {
		return Server{}, fmt.Errorf("%w: not an unfragmented UDP datagram", ErrFrame)
	}
	udp := ip[head:total]
	src, dst, size := binary.BigEndian.Uint16(udp), binary.BigEndian.Uint16(udp[2:]), int(binary.BigEndian.Uint16(udp[4:]))
	if dst != dhcpClient || src != dhcpServer && src != pxeServer || size < 8 || size > len(udp) {
		return Server{}, fmt.Errorf("%w: not from a DHCP server", ErrFrame)
	}
	msg, err := dhcpv4.FromBytes(udp[8:size])
	if err != nil {
		return Server{}, fmt.Errorf("%w: DHCP: %w", ErrFrame, err)
	}
	switch kind := msg.MessageType(); {
	case msg.OpCode != dhcpv4.OpcodeBootReply:
		return Server{}, fmt.Errorf("%w: DHCP opcode %d", ErrFrame, msg.OpCode)
	case kind != dhcpv4.MessageTypeOffer && kind != dhcpv4.MessageTypeAck && kind != dhcpv4.MessageTypeNak:
		return Server{}, fmt.Errorf("%w: DHCP message type %d", ErrFrame, kind)
	}
	s := Server{
		Addr:  netip.AddrFrom4([4]byte(ip[12:16])),
		MAC:   swarm.MACOf(net.HardwareAddr(frame[6:12])),
		Proxy: msg.MessageType() != dhcpv4.MessageTypeNak && msg.YourIPAddr.IsUnspecified(),
	}
	if msg.MessageType() != dhcpv4.MessageTypeNak {
		s.Offer = offerOf(msg)
	}
	s.ID = s.Addr
	if id := msg.ServerIdentifier().To4(); id != nil && !id.IsUnspecified() {
		s.ID = netip.AddrFrom4([4]byte(id))
	}
	return s, nil
}

// localMAC draws a unicast address out of the locally administered range (IEEE 802 section 8), which no card has.
func localMAC() net.HardwareAddr {
	hw := make(net.HardwareAddr, 6)
	// crypto/rand.Read never returns an error since Go 1.24.
	_, _ = rand.Read(hw)
	hw[0] = hw[0]&^0x01 | 0x02
	return hw
}

// discover is a whole Ethernet frame with a DISCOVER. mark goes into option 77, by which our own servers know a probe. As
// a PXE client it is also answered by servers that only offer boot programs.
func discover(hw net.HardwareAddr, secs uint16, mark string, pxe bool) ([]byte, error) {
	mods := []dhcpv4.Modifier{
		dhcpv4.WithMessageType(dhcpv4.MessageTypeDiscover),
		dhcpv4.WithHwAddr(hw),
		dhcpv4.WithBroadcast(true),
		// Many servers name only what they are asked for: the operator shall see whose network this is.
		dhcpv4.WithRequestedOptions(dhcpv4.OptionSubnetMask, dhcpv4.OptionRouter, dhcpv4.OptionDomainNameServer,
			dhcpv4.OptionTFTPServerName, dhcpv4.OptionBootfileName),
	}
	if mark != "" {
		mods = append(mods, dhcpv4.WithUserClass(mark, true))
	}
	if pxe {
		// Option 93 and 94 make it a PXE client to servers that look closer, dnsmasq among them (RFC 4578).
		mods = append(mods,
			dhcpv4.WithOption(dhcpv4.OptClassIdentifier("PXEClient:Arch:00000:UNDI:002001")),
			dhcpv4.WithGeneric(dhcpv4.OptionClientSystemArchitectureType, []byte{0, 0}),
			dhcpv4.WithGeneric(dhcpv4.OptionClientNetworkInterfaceIdentifier, []byte{1, 2, 1}))
	}
	msg, err := dhcpv4.New(mods...)
	if err != nil {
		return nil, fmt.Errorf("build DISCOVER: %w", err)
	}
	msg.NumSeconds = secs
	return ether(broadcast, hw, etherIPv4, datagram(msg.ToBytes())), nil
}

// datagram wraps a client's DHCP message in UDP and IPv4, from 0.0.0.0:68 to 255.255.255.255:67.
func datagram(payload []byte) []byte {
	b := make([]byte, 28+len(payload))
	ip, udp := b[:20], b[20:]
	ip[0], ip[8], ip[9] = 0x45, 64, protoUDP
	binary.BigEndian.PutUint16(ip[2:], uint16(len(b)))
	copy(ip[16:], []byte{255, 255, 255, 255})
	binary.BigEndian.PutUint16(ip[10:], ^sum(ip, 0))
	binary.BigEndian.PutUint16(udp, dhcpClient)
	binary.BigEndian.PutUint16(udp[2:], dhcpServer)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))
	copy(udp[8:], payload)
	// The pseudo header of RFC 768: addresses, protocol, length.
	pseudo := sum(ip[12:20], uint32(protoUDP)+uint32(len(udp)))
	check := ^sum(udp, uint32(pseudo))
	if check == 0 {
		check = 0xffff // zero would mean "no checksum"
	}
	binary.BigEndian.PutUint16(udp[6:], check)
	return b
}

// sum is the one's complement sum of RFC 1071, begun at from.
func sum(b []byte, from uint32) uint16 {
	for i := 0; i+1 < len(b); i += 2 {
		from += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	if len(b)%2 == 1 {
		from += uint32(b[len(b)-1]) << 8
	}
	for from > 0xffff {
		from = from>>16 + from&0xffff
	}
	return uint16(from)
}
