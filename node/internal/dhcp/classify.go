package dhcp

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// Client is what one packet says about its sender.
type Client struct {
	MAC      swarm.MAC
	Class    boot.Class
	Firmware boot.Firmware
	Arch     int // first code of option 93, -1 if there was none

	Message   dhcpv4.MessageType
	Exchange  dhcpv4.TransactionID // the same when a client repeats itself
	Requested netip.Addr           // option 50, or invalid
	ServerID  netip.Addr           // option 54, or invalid
	Current   netip.Addr           // ciaddr, or invalid
	Relay     netip.Addr           // giaddr, or invalid

	LinkSelection netip.Addr // option 82.5 (RFC 3527), or invalid
	ServerIDAs    netip.Addr // option 82.11 (RFC 5107), or invalid
}

// Classify reads the packet of a client. It refuses packets that no rule of ours could answer: replies, hardware other than
// Ethernet, BOOTP without a DHCP message type. The fields that identify a boot client are those of docs/booting.md.
func Classify(p *dhcpv4.DHCPv4) (Client, error) {
	if p.OpCode != dhcpv4.OpcodeBootRequest {
		return Client{}, fmt.Errorf("opcode %d is not a request", p.OpCode)
	}
	if p.HWType != iana.HWTypeEthernet || len(p.ClientHWAddr) != 6 {
		return Client{}, fmt.Errorf("hardware type %d with %d address bytes is not Ethernet", p.HWType, len(p.ClientHWAddr))
	}
	if p.ClientHWAddr[0]&1 != 0 || [6]byte(p.ClientHWAddr) == [6]byte{} {
		return Client{}, fmt.Errorf("%s cannot be the address of a machine", p.ClientHWAddr)
	}
	c := Client{
		MAC:       swarm.MACOf(p.ClientHWAddr),
		Arch:      -1,
		Message:   p.MessageType(),
		Exchange:  p.TransactionID,
		Requested: addrOption(p, dhcpv4.OptionRequestedIPAddress),
		ServerID:  addrOption(p, dhcpv4.OptionServerIdentifier),
		Current:   headerAddr(p.ClientIPAddr),
		Relay:     headerAddr(p.GatewayIPAddr),
	}
	if c.Message == dhcpv4.MessageTypeNone {
		return c, fmt.Errorf("no DHCP message type: plain BOOTP is not served")
	}
	if archs := p.Options.Get(dhcpv4.OptionClientSystemArchitectureType); len(archs) >= 2 {
		c.Arch = int(binary.BigEndian.Uint16(archs))
		c.Firmware = boot.FirmwareOf(uint16(c.Arch))
	}
	c.Class = classOf(p)
	if c.Firmware == boot.EFIarm64 && strings.HasPrefix(string(p.Options.Get(dhcpv4.OptionClassIdentifier)), ubootForEFI) {
		c.Firmware = boot.UBootArm64
	}
	if c.Class == boot.Ordinary && c.Firmware.UBoot() {
		c.Class = boot.PXE // option 60 is a board's own word there
	}
	if relay := p.Options.Get(dhcpv4.OptionRelayAgentInformation); relay != nil {
		sub := make(dhcpv4.Options)
		if err := sub.FromBytes(relay); err != nil {
			return c, fmt.Errorf("relay agent option: %w", err)
		}
		c.LinkSelection = bytesAddr(sub.Get(dhcpv4.LinkSelectionSubOption))
		c.ServerIDAs = bytesAddr(sub.Get(dhcpv4.ServerIdentifierOverrideSubOption))
	}
	return c, nil
}

// ubootForEFI begins option 60 where U-Boot asks for an EFI program in the name of UEFI firmware. It writes the architecture in
// hexadecimal (seen of 2025.01), and everybody else in decimal: 00011.
const ubootForEFI = "PXEClient:Arch:0000b"

// classOf goes by iPXE's own marks first: iPXE also says PXEClient in option 60.
func classOf(p *dhcpv4.DHCPv4) boot.Class {
	// RFC 3004 wants a length byte before the user class; iPXE sends the bare text, other builds follow the RFC.
	switch string(p.Options.Get(dhcpv4.OptionUserClassInformation)) {
	case "iPXE", "\x04iPXE":
		return boot.IPXE
	}
	if p.Options.Has(optionEtherboot) {
		return boot.IPXE
	}
	switch vendor := string(p.Options.Get(dhcpv4.OptionClassIdentifier)); {
	case strings.HasPrefix(vendor, "PXEClient"):
		return boot.PXE
	case strings.HasPrefix(vendor, "HTTPClient"):
		return boot.HTTPBoot
	}
	return boot.Ordinary
}

// asked is the address that a REQUEST is about. Some firmware that has just been offered one names it in ciaddr.
func (c Client) asked() netip.Addr {
	if c.Requested.IsValid() {
		return c.Requested
	}
	return c.Current
}

// optionEtherboot is the encapsulated option that only iPXE sends and reads (ipxe.org/howto/dhcpd).
const optionEtherboot = dhcpv4.GenericOptionCode(175)

// String describes the asking program: "iPXE BIOS", "firmware EFI x64", "client".
func (c Client) String() string {
	switch {
	case c.Class == boot.Ordinary:
		return "client"
	case c.Firmware == boot.Unknown && c.Arch >= 0:
		return fmt.Sprintf("%s of architecture %d", c.Class, c.Arch)
	default:
		return fmt.Sprintf("%s %s", c.Class, c.Firmware)
	}
}

func addrOption(p *dhcpv4.DHCPv4, code dhcpv4.OptionCode) netip.Addr {
	return bytesAddr(p.Options.Get(code))
}

func bytesAddr(b []byte) netip.Addr {
	if len(b) != 4 {
		return netip.Addr{}
	}
	return headerAddr(b)
}

// headerAddr is invalid for 0.0.0.0, which means "none" in every field that we read.
func headerAddr(b []byte) netip.Addr {
	a, ok := netip.AddrFromSlice(b)
	if !ok || a.Unmap().IsUnspecified() {
		return netip.Addr{}
	}
	return a.Unmap()
}
