package dhcp

import (
	"testing"

	"golang.org/x/sys/unix"
)

func TestFrameChecksums(t *testing.T) {
	f := udpFrame(mac, mac, server, addr17, []byte("odd"))
	if sum(0, f[14:34]) != 0xffff {
		t.Error("IP header checksum is wrong")
	}
	udp := f[34:]
	if got := sum(uint32(sum(17+uint32(len(udp)), f[26:34])), udp); got != 0xffff {
		t.Errorf("UDP checksum is wrong: %#x", got)
	}
}

func FuzzARP(f *testing.F) {
	f.Add(arpProbe(mac, addr17))
	f.Fuzz(func(t *testing.T, frame []byte) {
		if addr, got := arpSender(frame); (got != nil) != addr.IsValid() || got != nil && len(got) != 6 {
			t.Errorf("sender %s of %s", got, addr)
		}
	})
}

func FuzzDestination(f *testing.F) {
	f.Add(unix.PktInfo4(&unix.Inet4Pktinfo{Addr: addr17.As4()}))
	f.Fuzz(func(t *testing.T, oob []byte) { _ = destination(oob) })
}

func TestDestinationIsReadFromTheKernelsMessage(t *testing.T) {
	oob := unix.PktInfo4(&unix.Inet4Pktinfo{Ifindex: 3, Spec_dst: server.As4(), Addr: addr17.As4()})
	if got := destination(oob); got != addr17 {
		t.Errorf("%s", got)
	}
	if got := destination(oob[:len(oob)-8]); got.IsValid() {
		t.Errorf("of a message that is cut: %s", got)
	}
}
