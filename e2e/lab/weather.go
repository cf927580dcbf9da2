package lab

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"time"

	"github.com/mdlayher/socket"
	"golang.org/x/sys/unix"
)

// Weather is what a cable does to the frames of one direction. The zero value is a good cable. It is done here and not by the
// kernel's netem because kernels of small virtual machines come without that, and because no netem cuts a host off from some of
// its neighbours only.
type Weather struct {
	Loss      float64            // share of frames that vanish, 0 to 1
	Duplicate float64            // share that arrives twice
	Reorder   float64            // share that overtakes those that are still delayed
	Delay     time.Duration      // of every frame
	Jitter    time.Duration      // added to Delay: anything from 0 to this; enough of it changes the order as well
	Deaf      []net.HardwareAddr // what these addresses sent, or what is sent to them alone, vanishes
}

// maxInFlight bounds the frames that one direction holds back: a second of what a busy port carries here. Beyond it frames are
// lost, as in any queue.
const maxInFlight = 8192

// storm stands between a host's port and its bridge, while a Weather is set.
type storm struct {
	cancel context.CancelFunc
	ends   [2]*socket.Conn // towards the host, towards the bridge
	veth   string
	all    sync.WaitGroup
}

// Disturb lets the cable between the host and n do this to frames that the host sends (from) and that it is sent (to), until
// the next Disturb or Calm. The choices follow from the seed and the frames. A capture of n sees what came through.
func (h *Host) Disturb(n *Network, seed uint64, from, to Weather) error {
	p, ok := portOn(h.ports, n)
	if !ok {
		return fmt.Errorf("host %s is not on network %s", h.name, n)
	}
	if err := h.Calm(n); err != nil {
		return err
	}
	w := h.lab.wires
	inner := h.lab.port()
	outer := inner + "b"
	s := &storm{veth: inner}
	err := errors.Join(
		w.ip("link", "add", inner, "type", "veth", "peer", "name", outer),
		w.ip("link", "set", p.wire, "nomaster"),
	)
	for _, name := range []string{inner, outer} {
		if err == nil {
			err = errors.Join(w.offloadsOff(name), w.ip("link", "set", name, "up"))
		}
	}
	if err == nil {
		err = w.ip("link", "set", outer, "alias", h.name+" "+n.name+" disturbed", "master", n.name)
	}
	for i, name := range []string{p.wire, inner} {
		if err == nil {
			s.ends[i], err = w.frames(name)
		}
	}
	if err != nil {
		return errors.Join(fmt.Errorf("disturb %s on %s: %w", h.name, n, err), s.close(w))
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.cancel = cancel
	s.all.Go(func() { s.carry(ctx, s.ends[0], s.ends[1], from, rand.New(rand.NewPCG(seed, 1))) })
	s.all.Go(func() { s.carry(ctx, s.ends[1], s.ends[0], to, rand.New(rand.NewPCG(seed, 2))) })
	h.lab.mu.Lock()
	defer h.lab.mu.Unlock()
	h.lab.storms[p.wire] = s
	return nil
}

// Calm makes the cable between the host and n a good one again. Frames that were held back are lost.
func (h *Host) Calm(n *Network) error {
	p, ok := portOn(h.ports, n)
	if !ok {
		return fmt.Errorf("host %s is not on network %s", h.name, n)
	}
	h.lab.mu.Lock()
	s := h.lab.storms[p.wire]
	delete(h.lab.storms, p.wire)
	h.lab.mu.Unlock()
	if s == nil {
		return nil
	}
	return errors.Join(s.close(h.lab.wires), h.lab.wires.ip("link", "set", p.wire, "master", n.name))
}

func (s *storm) close(w *namespace) error {
	var errs []error
	if s.cancel != nil {
		s.cancel()
	}
	s.all.Wait()
	for _, c := range s.ends {
		if c != nil {
			errs = append(errs, c.Close())
		}
	}
	return errors.Join(append(errs, w.ip("link", "del", s.veth))...)
}

// frames is a socket that receives what comes in at an interface, whoever it is for, and sends out of it.
func (n *namespace) frames(name string) (*socket.Conn, error) {
	index, err := n.interfaceIndex(name)
	if err != nil {
		return nil, err
	}
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet", &socket.Config{NetNS: int(n.file.Fd())})
	if err != nil {
		return nil, err
	}
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	err = errors.Join(
		conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		conn.SetsockoptInt(unix.SOL_PACKET, unix.PACKET_IGNORE_OUTGOING, 1),
		conn.SetsockoptPacketMreq(unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq),
		conn.Bind(&unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// carry moves frames in one direction until ctx ends.
func (s *storm) carry(ctx context.Context, in, out *socket.Conn, w Weather, chance *rand.Rand) {
	frame := make([]byte, captureSnap)
	held := make(chan struct{}, maxInFlight)
	var late sync.WaitGroup
	defer late.Wait()
	for {
		n, _, err := in.Recvfrom(ctx, frame, 0)
		if ctx.Err() != nil {
			return
		}
		if err != nil || n < 14 { // a port that is down for a moment says so once
			continue
		}
		for _, delay := range w.fate(frame[:n], chance) {
			if delay <= 0 {
				_, _ = out.Write(frame[:n]) // a port without carrier loses what is sent to it
				continue
			}
			select {
			case held <- struct{}{}:
			default:
				continue
			}
			copied := append([]byte(nil), frame[:n]...)
			late.Go(func() {
				defer func() { <-held }()
				t := time.NewTimer(delay)
				defer t.Stop()
				select {
				case <-ctx.Done():
				case <-t.C:
					_, _ = out.Write(copied)
				}
			})
		}
	}
}

// fate says when each copy of a frame arrives, counted from now: none, one or two.
func (w Weather) fate(frame []byte, chance *rand.Rand) []time.Duration {
	for _, mac := range w.Deaf {
		if string(frame[0:6]) == string(mac) || string(frame[6:12]) == string(mac) {
			return nil
		}
	}
	if chance.Float64() < w.Loss {
		return nil
	}
	copies := 1
	if chance.Float64() < w.Duplicate {
		copies = 2
	}
	var at []time.Duration
	for range copies {
		delay := w.Delay
		if w.Jitter > 0 {
			delay += time.Duration(chance.Int64N(int64(w.Jitter)))
		}
		if chance.Float64() < w.Reorder {
			delay = 0
		}
		at = append(at, delay)
	}
	return at
}
