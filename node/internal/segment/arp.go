package segment

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/net/bpf"

	"offshoot/swarm"
)

// RFC 5227 section 1.1, with the waits cut: a DHCP client waits for the answer, and on a wired segment a machine that
// holds an address answers within a millisecond.
const (
	arpProbes = 3
	arpGap    = 100 * time.Millisecond // before the next probe; up to a fifth is added at random
	arpWait   = 200 * time.Millisecond // after the last one
	// Announcements are not cut: nobody waits for them. ANNOUNCE_NUM and ANNOUNCE_INTERVAL.
	arpAnnouncements = 2
	arpInterval      = 2 * time.Second
)

const (
	arpRequest = 1
	arpReply   = 2
	arpSize    = 28
)

// arpPacket is an ARP packet for IPv4 over Ethernet (RFC 826).
type arpPacket struct {
	op                   uint16
	senderMAC, targetMAC net.HardwareAddr
	sender, target       netip.Addr
}

func (a arpPacket) encode() []byte {
	b := []byte{0, 1, etherIPv4 >> 8, etherIPv4 & 0xff, 6, 4}
	b = binary.BigEndian.AppendUint16(b, a.op)
	b = append(append(b, a.senderMAC...), a.sender.AsSlice()...)
	return append(append(b, a.targetMAC...), a.target.AsSlice()...)
}

// decodeARP reads a whole Ethernet frame; bytes after the packet are Ethernet's padding.
func decodeARP(frame []byte) (arpPacket, error) {
	if len(frame) < etherHeader+arpSize || binary.BigEndian.Uint16(frame[12:]) != etherARP {
		return arpPacket{}, fmt.Errorf("%w: not ARP", ErrFrame)
	}
	b := frame[etherHeader : etherHeader+arpSize]
	if [6]byte(b) != [6]byte{0, 1, etherIPv4 >> 8, etherIPv4 & 0xff, 6, 4} {
		return arpPacket{}, fmt.Errorf("%w: ARP for other networks", ErrFrame)
	}
	a := arpPacket{
		op:        binary.BigEndian.Uint16(b[6:]),
		senderMAC: net.HardwareAddr(b[8:14]), sender: netip.AddrFrom4([4]byte(b[14:18])),
		targetMAC: net.HardwareAddr(b[18:24]), target: netip.AddrFrom4([4]byte(b[24:28])),
	}
	if a.op != arpRequest && a.op != arpReply {
		return arpPacket{}, fmt.Errorf("%w: ARP operation %d", ErrFrame, a.op)
	}
	return a, nil
}

// claims says whether the packet shows that another machine has the address or is about to take it (RFC 5227 section
// 2.1.1).
func (a arpPacket) claims(addr netip.Addr, own swarm.MAC) bool {
	if swarm.MACOf(a.senderMAC) == own {
		return false
	}
	probe := a.op == arpRequest && a.sender.IsUnspecified() && a.target == addr
	return a.sender == addr || probe
}

// arpFilter lets ARP packets that name the address through, so that many probes at once do not wake one another.
func arpFilter(addr netip.Addr) []bpf.Instruction {
	want := binary.BigEndian.Uint32(addr.AsSlice())
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: etherHeader + 14, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: want, SkipTrue: 2},
		bpf.LoadAbsolute{Off: etherHeader + 24, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: want, SkipTrue: 1},
		bpf.RetConstant{Val: 0xffff},
		bpf.RetConstant{Val: 0},
	}
}

// ProbeARP asks the segment, without taking the address, whether a machine has it; about half a second when nobody does.
// An address of this host on this port is not noticed: the kernel does not answer itself. IPv4 only. When ctx ends first,
// its error is returned.
func ProbeARP(ctx context.Context, port Port, addr netip.Addr) (taken bool, by net.HardwareAddr, err error) {
	return probeARP(ctx, openRaw, port, addr)
}

func probeARP(ctx context.Context, open opener, port Port, addr netip.Addr) (taken bool, by net.HardwareAddr, err error) {
	if !addr.Is4() {
		return false, nil, fmt.Errorf("ARP probe for %s: not IPv4", addr)
	}
	conn, err := open(port, etherARP, arpFilter(addr), false)
	if err != nil {
		return false, nil, fmt.Errorf("ARP probe for %s: %w", addr, err)
	}
	ctx, cancel := context.WithCancel(ctx)
	frames, failed := listen(ctx, conn)
	defer func() { err = errors.Join(err, hush(conn, cancel, frames)) }()

	own := port.MAC.Hardware()
	frame := ether(broadcast, own, etherARP, arpPacket{
		op: arpRequest, senderMAC: own, sender: netip.IPv4Unspecified(), targetMAC: make(net.HardwareAddr, 6), target: addr,
	}.encode())
	for n := range arpProbes {
		if err := send(conn, frame); err != nil {
			return false, nil, fmt.Errorf("ARP probe for %s: %w", addr, err)
		}
		wait := arpGap + rand.N(arpGap/5)
		if n == arpProbes-1 {
			wait = arpWait
		}
		by, err := awaitClaim(ctx, frames, failed, wait, addr, port.MAC)
		if err != nil {
			return false, nil, fmt.Errorf("ARP probe for %s: %w", addr, err)
		}
		if by != nil {
			return true, by, nil
		}
	}
	return false, nil, nil
}

func awaitClaim(ctx context.Context, frames <-chan []byte, failed <-chan error, wait time.Duration,
	addr netip.Addr, own swarm.MAC) (net.HardwareAddr, error) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-timer.C:
			return nil, nil
		case frame, ok := <-frames:
			if !ok {
				return nil, errors.Join(net.ErrClosed, <-failed)
			}
			if a, err := decodeARP(frame); err == nil && a.claims(addr, own) {
				return a.senderMAC, nil
			}
		}
	}
}

// Announce tells the segment that addr is at this port now, so that machines replace what they had cached: two ARP
// announcements, two seconds apart (RFC 5227 section 2.3). It returns when both are sent, or when ctx ends (no error:
// the first is out by then).
func Announce(ctx context.Context, port Port, addr netip.Addr) (err error) {
	if !addr.Is4() {
		return fmt.Errorf("announce %s: not IPv4", addr)
	}
	conn, err := openRaw(port, etherARP, arpFilter(addr), false)
	if err != nil {
		return fmt.Errorf("announce %s: %w", addr, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	own := port.MAC.Hardware()
	frame := ether(broadcast, own, etherARP, arpPacket{
		op: arpRequest, senderMAC: own, sender: addr, targetMAC: make(net.HardwareAddr, 6), target: addr,
	}.encode())
	for n := range arpAnnouncements {
		if n > 0 && !sleep(ctx, arpInterval) {
			return nil
		}
		if err := send(conn, frame); err != nil {
			return fmt.Errorf("announce %s: %w", addr, err)
		}
	}
	return nil
}

// ARPEntry returns the MAC that the kernel's neighbour table holds for an on-link IPv4 address; false if it holds none, or
// one that did not answer. An entry says which MAC answered last: it can be forged by a machine on the segment.
func ARPEntry(addr netip.Addr) (swarm.MAC, bool, error) {
	neighs, err := dump(func() ([]netlink.Neigh, error) { return netlink.NeighList(0, netlink.FAMILY_V4) })
	if err != nil {
		return "", false, fmt.Errorf("read neighbour table: %w", err)
	}
	const resolved = netlink.NUD_REACHABLE | netlink.NUD_STALE | netlink.NUD_DELAY | netlink.NUD_PROBE | netlink.NUD_PERMANENT
	for _, n := range neighs {
		ip, ok := addrOf(n.IP)
		if ok && ip == addr.Unmap() && n.State&resolved != 0 && len(n.HardwareAddr) == 6 {
			return swarm.MACOf(n.HardwareAddr), true, nil
		}
	}
	return "", false, nil
}
