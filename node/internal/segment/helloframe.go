package segment

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"

	"offshoot/swarm"
)

// HelloEtherType marks hello frames: IEEE 802 Local Experimental EtherType 1 (IEEE 802-2014 section 9.2.4). They are sent
// to the broadcast address, because a segment is defined by who hears DHCP, which is broadcast too: a switch that filters
// unknown groups would otherwise cut one and not the other.
const HelloEtherType = 0x88b5

// On the wire, after the Ethernet header:
//
//	magic "ofsh" · version (1) · flags · length of swarm id · swarm id · length of body (2, big endian) · sealed body
//
// followed by nothing but Ethernet's zero padding. The swarm id and the flag stand in clear so that two swarms on one
// segment can tell; both are repeated inside the sealed body, and must agree.
const (
	helloMagic   = "ofsh"
	helloVersion = 1
	flagServed   = 1 << 0 // a segment is known here
	// maxSwarmID and maxSealed keep a hello far below the smallest Ethernet MTU.
	maxSwarmID = 64
	maxSealed  = 1024
)

// greeting is the clear part of a hello.
type greeting struct {
	swarm  string
	served bool
	sealed []byte
	from   swarm.MAC
}

// hello is the sealed part. Seq grows with every frame of one node, over restarts too: it is nanoseconds since 1970 where
// the clock allows.
type hello struct {
	Swarm   string       `json:"swarm"`
	Node    swarm.NodeID `json:"node"`
	MAC     swarm.MAC    `json:"mac"`
	Segment string       `json:"segment,omitempty"`
	Addr    netip.Addr   `json:"addr,omitzero"`
	Seq     uint64       `json:"seq"`
}

func (h hello) encode(seal func([]byte) ([]byte, error)) ([]byte, error) {
	plain, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode hello: %w", err)
	}
	sealed, err := seal(plain)
	if err != nil {
		return nil, fmt.Errorf("seal hello: %w", err)
	}
	if len(sealed) > maxSealed || len(h.Swarm) > maxSwarmID {
		return nil, fmt.Errorf("encode hello: too long: %d bytes sealed", len(sealed))
	}
	b := append([]byte(helloMagic), helloVersion, 0, byte(len(h.Swarm)))
	if h.Segment != "" {
		b[5] |= flagServed
	}
	b = append(b, h.Swarm...)
	b = binary.BigEndian.AppendUint16(b, uint16(len(sealed)))
	return ether(broadcast, h.MAC.Hardware(), HelloEtherType, append(b, sealed...)), nil
}

// decodeGreeting reads a whole Ethernet frame. Nothing in it is authenticated yet.
func decodeGreeting(frame []byte) (greeting, error) {
	if len(frame) < etherHeader+7 || binary.BigEndian.Uint16(frame[12:]) != HelloEtherType {
		return greeting{}, fmt.Errorf("%w: not a hello", ErrFrame)
	}
	b := frame[etherHeader:]
	if string(b[:4]) != helloMagic {
		return greeting{}, fmt.Errorf("%w: someone else's use of EtherType %#x", ErrFrame, HelloEtherType)
	}
	if b[4] != helloVersion {
		return greeting{}, fmt.Errorf("%w: hello version %d, want %d", ErrFrame, b[4], helloVersion)
	}
	flags, size := b[5], int(b[6])
	b = b[7:]
	if flags&^flagServed != 0 {
		return greeting{}, fmt.Errorf("%w: hello flags %#x", ErrFrame, flags)
	}
	if size > maxSwarmID || len(b) < size+2 || !validSwarmID(string(b[:size])) {
		return greeting{}, fmt.Errorf("%w: hello swarm id", ErrFrame)
	}
	g := greeting{swarm: string(b[:size]), served: flags&flagServed != 0, from: swarm.MACOf(net.HardwareAddr(frame[6:12]))}
	n := int(binary.BigEndian.Uint16(b[size:]))
	b = b[size+2:]
	if n == 0 || n > maxSealed || n > len(b) {
		return greeting{}, fmt.Errorf("%w: hello body of %d bytes", ErrFrame, n)
	}
	g.sealed = b[:n]
	if len(bytes.Trim(b[n:], "\x00")) > 0 {
		return greeting{}, fmt.Errorf("%w: trailing data after hello", ErrFrame)
	}
	return g, nil
}

// unseal authenticates a greeting of our own swarm and reads what was sealed.
func (g greeting) unseal(open func([]byte) ([]byte, error)) (hello, error) {
	plain, err := open(g.sealed)
	if err != nil {
		return hello{}, fmt.Errorf("%w: hello does not open with our key: %w", ErrFrame, err)
	}
	h, err := decodeHello(plain)
	if err != nil {
		return hello{}, err
	}
	switch {
	case h.Swarm != g.swarm:
		return hello{}, fmt.Errorf("%w: hello of swarm %q under the name of %q", ErrFrame, h.Swarm, g.swarm)
	case h.MAC != g.from:
		return hello{}, fmt.Errorf("%w: hello of %s sent by %s", ErrFrame, h.MAC, g.from)
	case g.served != (h.Segment != ""):
		return hello{}, fmt.Errorf("%w: hello flags were changed", ErrFrame)
	}
	return h, nil
}

func decodeHello(plain []byte) (hello, error) {
	var h hello
	dec := json.NewDecoder(bytes.NewReader(plain))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&h); err != nil {
		return hello{}, fmt.Errorf("%w: hello body: %w", ErrFrame, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return hello{}, fmt.Errorf("%w: hello body: trailing data", ErrFrame)
	}
	mac, err := swarm.ParseMAC(string(h.MAC))
	switch {
	case err != nil || mac != h.MAC:
		return hello{}, fmt.Errorf("%w: hello body: MAC %q", ErrFrame, h.MAC)
	case !validSwarmID(h.Swarm), h.Node == "" || len(h.Node) > maxSwarmID, len(h.Segment) > maxSwarmID, h.Seq == 0:
		return hello{}, fmt.Errorf("%w: hello body: incomplete or oversize", ErrFrame)
	case h.Addr.IsValid() && !h.Addr.Is4():
		return hello{}, fmt.Errorf("%w: hello body: address %s is not IPv4", ErrFrame, h.Addr)
	}
	return h, nil
}

// validSwarmID keeps what is shown to operators, and comes from anybody, printable.
func validSwarmID(s string) bool {
	for _, c := range []byte(s) {
		if c <= ' ' || c >= 0x7f {
			return false
		}
	}
	return s != "" && len(s) <= maxSwarmID
}
