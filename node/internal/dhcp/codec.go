package dhcp

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	"net"

	"github.com/insomniacslk/dhcp/dhcpv4"
	"github.com/insomniacslk/dhcp/iana"
)

// This codec reads and writes what the library's does, byte for byte (the tests hold one against the other), without copying:
// a server under load spends most of its time in the library's allocations.

// Offsets of the fixed fields (RFC 2131, section 2), and the least length of a BOOTP message (RFC 951), below which some relays
// drop packets.
const (
	atAddresses  = 12
	atHardware   = 28
	atServerName = 44
	atFile       = 108
	atCookie     = 236
	atOptions    = 240
	leastLength  = 300
)

const magicCookie = "\x63\x82\x53\x63" // RFC 2132, section 2

// usualOptions are as many as most packets have, and as fit in the smallest map of Go, which is five times as fast as the next.
const usualOptions = 8

var errShort = errors.New("it is cut short")

// parse reads raw into p, whose slices point into raw afterwards. p may have been used before.
func parse(raw []byte, p *dhcpv4.DHCPv4) error {
	if len(raw) < atOptions {
		return errShort
	}
	if string(raw[atCookie:atOptions]) != magicCookie {
		return fmt.Errorf("it has %x instead of the DHCP cookie", raw[atCookie:atOptions])
	}
	address := func(i int) net.IP { at := atAddresses + 4*i; return net.IP(raw[at : at+4 : at+4]) }
	hardware := min(int(raw[2]), 16)
	options := p.Options
	if options == nil {
		options = make(dhcpv4.Options, usualOptions)
	}
	clear(options)
	*p = dhcpv4.DHCPv4{
		OpCode: dhcpv4.OpcodeType(raw[0]), HWType: iana.HWType(raw[1]), HopCount: raw[3], TransactionID: dhcpv4.TransactionID(raw[4:8]),
		NumSeconds: binary.BigEndian.Uint16(raw[8:]), Flags: binary.BigEndian.Uint16(raw[10:]),
		ClientIPAddr: address(0), YourIPAddr: address(1), ServerIPAddr: address(2), GatewayIPAddr: address(3),
		ClientHWAddr:   net.HardwareAddr(raw[atHardware : atHardware+hardware : atHardware+hardware]),
		ServerHostName: untilZero(raw[atServerName:atFile]), BootFileName: untilZero(raw[atFile:atCookie]),
		Options: options,
	}
	return parseOptions(raw[atOptions:], options)
}

func untilZero(b []byte) string {
	if i := bytes.IndexByte(b, 0); i >= 0 {
		b = b[:i]
	}
	return string(b)
}

// parseOptions joins what comes in several parts (RFC 3396).
func parseOptions(b []byte, options dhcpv4.Options) error {
	if len(b) == 0 {
		return nil
	}
	for len(b) > 0 {
		code := b[0]
		if code == optionPad {
			b = b[1:]
			continue
		}
		if code == optionEnd {
			return nil
		}
		if len(b) < 2 || len(b)-2 < int(b[1]) {
			return errShort
		}
		end := 2 + int(b[1])
		value := b[2:end:end]
		if old, again := options[code]; again {
			value = append(old, value...)
		} else if len(value) == 0 {
			value = nil
		}
		options[code] = value
		b = b[end:]
	}
	return io.ErrUnexpectedEOF
}

const (
	optionPad   = 0
	optionRelay = 82
	optionEnd   = 255
)

// encode appends the packet to b.
func encode(b []byte, p *dhcpv4.DHCPv4) []byte {
	start := len(b)
	var fixed [atOptions]byte
	fixed[0], fixed[1], fixed[2], fixed[3] = byte(p.OpCode), byte(p.HWType), byte(len(p.ClientHWAddr)), p.HopCount
	copy(fixed[4:], p.TransactionID[:])
	binary.BigEndian.PutUint16(fixed[8:], p.NumSeconds)
	binary.BigEndian.PutUint16(fixed[10:], p.Flags)
	for i, ip := range [...]net.IP{p.ClientIPAddr, p.YourIPAddr, p.ServerIPAddr, p.GatewayIPAddr} {
		copy(fixed[atAddresses+4*i:], ip.To4())
	}
	copy(fixed[atHardware:atHardware+16], p.ClientHWAddr)
	copy(fixed[atServerName:atFile-1], p.ServerHostName)
	copy(fixed[atFile:atCookie-1], p.BootFileName)
	copy(fixed[atCookie:], magicCookie)
	b = append(b, fixed[:]...)
	var set [4]uint64 // of option codes, in order
	for code := range p.Options {
		set[code/64] |= 1 << (code % 64)
	}
	for i, word := range set {
		for ; word != 0; word &= word - 1 {
			if code := byte(64*i + bits.TrailingZeros64(word)); code != optionPad && code != optionRelay && code != optionEnd {
				b = encodeOption(b, code, p.Options[code])
			}
		}
	}
	if value, ok := p.Options[optionRelay]; ok { // RFC 3046, 2.1: the last one
		b = encodeOption(b, optionRelay, value)
	}
	b = append(b, optionEnd)
	for len(b)-start < leastLength {
		b = append(b, optionPad)
	}
	return b
}

// encodeOption splits what is longer than an option can be (RFC 3396).
func encodeOption(b []byte, code byte, value []byte) []byte {
	for {
		n := min(len(value), 255)
		b = append(append(b, code, byte(n)), value[:n]...)
		if value = value[n:]; len(value) == 0 {
			return b
		}
	}
}

// asksFor tells whether a client wants an option. One that does not say what it wants gets everything (RFC 2131, 3.5).
func asksFor(p *dhcpv4.DHCPv4, code dhcpv4.OptionCode) bool {
	list := p.Options[dhcpv4.OptionParameterRequestList.Code()]
	return list == nil || bytes.IndexByte(list, code.Code()) >= 0
}
