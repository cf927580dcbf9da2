package segment

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"offshoot/swarm"
)

func arpFrame(op uint16, from swarm.MAC, sender, target string) []byte {
	hw := from.Hardware()
	return ether(broadcast, hw, etherARP, arpPacket{
		op: op, senderMAC: hw, sender: netip.MustParseAddr(sender), targetMAC: make(net.HardwareAddr, 6), target: netip.MustParseAddr(target),
	}.encode())
}

func TestAddressIsTakenByWhoeverClaimsIt(t *testing.T) {
	const other = swarm.MAC("52:54:00:00:0d:0d")
	for _, c := range []struct {
		name  string
		frame []byte
		taken bool
	}{
		{"reply", arpFrame(arpReply, other, "192.0.2.9", "0.0.0.0"), true},
		{"request by its holder", arpFrame(arpRequest, other, "192.0.2.9", "192.0.2.1"), true},
		{"another's probe for it", arpFrame(arpRequest, other, "0.0.0.0", "192.0.2.9"), true},
		{"someone looks for it", arpFrame(arpRequest, other, "192.0.2.1", "192.0.2.9"), false},
		{"other address", arpFrame(arpReply, other, "192.0.2.8", "192.0.2.1"), false},
		{"our own", arpFrame(arpRequest, testPort.MAC, "192.0.2.9", "192.0.2.9"), false},
		{"garbage", append(arpFrame(arpReply, other, "192.0.2.9", "0.0.0.0")[:14], 1, 2, 3), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHub()
				say, stop := answerer(t, h)
				defer stop()
				time.AfterFunc(150*time.Millisecond, func() { say(c.frame) })
				start := time.Now()
				taken, by, err := probeARP(t.Context(), h.open, testPort, netip.MustParseAddr("192.0.2.9"))
				if err != nil || taken != c.taken || taken && swarm.MACOf(by) != other {
					t.Errorf("taken %v by %v, %v", taken, by, err)
				}
				if d := time.Since(start); d > 500*time.Millisecond || !taken && d < 400*time.Millisecond {
					t.Errorf("took %v", d)
				}
			})
		})
	}
}

func TestCancelledARPProbeIsAnError(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if _, _, err := probeARP(ctx, newHub().open, testPort, netip.MustParseAddr("192.0.2.9")); !errors.Is(err, context.DeadlineExceeded) {
			t.Error(err)
		}
	})
	if _, _, err := probeARP(t.Context(), newHub().open, testPort, netip.MustParseAddr("fd00::1")); err == nil {
		t.Error("IPv6 was accepted")
	}
}

func FuzzDecodeARP(f *testing.F) {
	f.Add(arpFrame(arpReply, "52:54:00:00:0d:0d", "192.0.2.9", "192.0.2.1"))
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := decodeARP(b)
		if err != nil {
			if !errors.Is(err, ErrFrame) {
				t.Error(err)
			}
			return
		}
		if got := a.encode(); string(got) != string(b[etherHeader:etherHeader+arpSize]) {
			t.Errorf("round trip: %x", got)
		}
	})
}
