package lab

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"time"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/insomniacslk/dhcp/dhcpv4"
)

// DHCPMessage is one DHCP message as it was seen on the wire.
type DHCPMessage struct {
	Time     time.Time
	Reply    bool               // BOOTREPLY, from a server
	Type     dhcpv4.MessageType // option 53; MessageTypeNone for plain BOOTP
	XID      dhcpv4.TransactionID
	MAC      net.HardwareAddr // chaddr: the client
	Your     netip.Addr       // yiaddr; invalid if zero
	ServerID netip.Addr       // option 54; invalid if missing
	SrcMAC   net.HardwareAddr // who put it on the wire
	SrcIP    netip.Addr
	DstMAC   net.HardwareAddr
	DstIP    netip.Addr
	Packet   *dhcpv4.DHCPv4 // everything else
}

// String is one line for logs and failed tests.
func (m DHCPMessage) String() string {
	return fmt.Sprintf("%s %-8s xid %s chaddr %s yiaddr %s server %s from %s %s",
		m.Time.Format("15:04:05.000"), m.Type, m.XID, m.MAC, show(m.Your), show(m.ServerID), m.SrcMAC, m.SrcIP)
}

func show(a netip.Addr) string {
	if !a.IsValid() {
		return "-"
	}
	return a.String()
}

// ReadDHCP returns the DHCP messages of a capture in the order in which they were seen. The capture may still be
// growing: a last frame that is cut short is left out. So is everything on the DHCP ports that is not DHCP.
func ReadDHCP(path string) ([]DHCPMessage, error) {
	var found []DHCPMessage
	err := readFrames(path, func(frame []byte, info gopacket.CaptureInfo) {
		if m, ok := parseDHCP(frame); ok {
			m.Time = info.Timestamp
			found = append(found, m)
		}
	})
	return found, err
}

// readFrames calls each for every complete frame; the bytes are valid during the call only.
func readFrames(path string, each func(frame []byte, info gopacket.CaptureInfo)) error {
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read capture: %w", err)
	}
	defer func() { _ = file.Close() }()
	r, err := pcapgo.NewReader(file)
	if err != nil {
		return fmt.Errorf("read capture %s: %w", path, err)
	}
	for {
		frame, info, err := r.ReadPacketData()
		switch {
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return nil
		case err != nil:
			return fmt.Errorf("read capture %s: %w", path, err)
		}
		each(frame, info)
	}
}

const (
	serverPort = 67 // RFC 2131 section 4.1
	clientPort = 68
)

func parseDHCP(frame []byte) (DHCPMessage, bool) {
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.DecodeOptions{Lazy: true, NoCopy: true})
	eth, _ := p.Layer(layers.LayerTypeEthernet).(*layers.Ethernet)
	ip, _ := p.Layer(layers.LayerTypeIPv4).(*layers.IPv4)
	udp, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	if eth == nil || ip == nil || udp == nil {
		return DHCPMessage{}, false
	}
	if udp.DstPort != serverPort && udp.DstPort != clientPort {
		return DHCPMessage{}, false
	}
	d, err := dhcpv4.FromBytes(udp.Payload)
	if err != nil {
		return DHCPMessage{}, false
	}
	return DHCPMessage{
		Reply: d.OpCode == dhcpv4.OpcodeBootReply, Type: d.MessageType(), XID: d.TransactionID, MAC: clone(d.ClientHWAddr),
		Your: addr(d.YourIPAddr), ServerID: addr(d.ServerIdentifier()), Packet: d,
		SrcMAC: clone(eth.SrcMAC), SrcIP: addrOrZero(ip.SrcIP), DstMAC: clone(eth.DstMAC), DstIP: addrOrZero(ip.DstIP),
	}, true
}

func clone(mac net.HardwareAddr) net.HardwareAddr { return append(net.HardwareAddr(nil), mac...) }

func addrOrZero(ip net.IP) netip.Addr {
	a, _ := netip.AddrFromSlice(ip)
	return a.Unmap()
}

func addr(ip net.IP) netip.Addr {
	if a := addrOrZero(ip); a.IsValid() && !a.IsUnspecified() {
		return a
	}
	return netip.Addr{}
}

// DoubleAnswers returns the replies by which a second server answered one and the same client message: the sign of two
// servers on one network. Servers are told apart by the MAC that sent the frame. A server that takes over between two
// messages of a client, or between a message and its repetition, is none.
func DoubleAnswers(messages []DHCPMessage) []DHCPMessage {
	type exchange struct{ client, xid string }
	server := map[exchange]string{} // who answered the last message of the client
	var second []DHCPMessage
	for _, m := range messages {
		key := exchange{m.MAC.String(), m.XID.String()}
		switch from := m.SrcMAC.String(); {
		case !m.Reply:
			delete(server, key)
		case server[key] == "":
			server[key] = from
		case server[key] != from:
			second = append(second, m)
		}
	}
	return second
}
