package segment

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/packet"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	etherHeader = 14
	etherIPv4   = 0x0800
	etherARP    = 0x0806
	// readBuffer holds any frame of a standard Ethernet; larger ones are none of ours and arrive cut.
	readBuffer = 2048
)

var broadcast = net.HardwareAddr{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}

// opener opens a raw socket on a port for one EtherType. Whole Ethernet frames are read and written; the address of
// WriteTo must be a *packet.Addr and is not looked at further. Tests put a segment in memory in its place.
type opener func(port Port, etherType int, filter []bpf.Instruction, promiscuous bool) (net.PacketConn, error)

// openRaw opens an AF_PACKET socket on the calling thread, and therefore in its namespace. Such a socket does not hear
// what this host itself sends on the port.
func openRaw(port Port, etherType int, filter []bpf.Instruction, promiscuous bool) (net.PacketConn, error) {
	var cfg packet.Config
	if filter != nil {
		raw, err := bpf.Assemble(filter)
		if err != nil {
			return nil, fmt.Errorf("assemble filter: %w", err)
		}
		cfg.Filter = raw
	}
	conn, err := packet.Listen(&net.Interface{Index: port.Index, Name: port.Name}, packet.Raw, etherType, &cfg)
	switch {
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("raw socket on %s: %w: CAP_NET_RAW: run with sudo, or grant it", port.Name, ErrRights)
	case errors.Is(err, unix.ENODEV), errors.Is(err, unix.ENXIO):
		return nil, fmt.Errorf("raw socket on %s: %w", port.Name, ErrNoPort)
	case err != nil:
		return nil, fmt.Errorf("raw socket on %s: %w", port.Name, err)
	}
	if promiscuous {
		if err := conn.SetPromiscuous(true); err != nil {
			return nil, errors.Join(fmt.Errorf("promiscuous mode on %s: %w", port.Name, err), conn.Close())
		}
	}
	return conn, nil
}

func send(conn net.PacketConn, frame []byte) error {
	_, err := conn.WriteTo(frame, &packet.Addr{HardwareAddr: net.HardwareAddr(frame[:6])})
	return err
}

// listen reads frames from conn in a goroutine of its own until conn is closed or ctx is done, so that the loop that
// acts can wait for frames and timers at once. Both channels are closed at the end, after at most one error.
func listen(ctx context.Context, conn net.PacketConn) (frames <-chan []byte, failed <-chan error) {
	in, bad := make(chan []byte), make(chan error, 1)
	go func() {
		defer close(in)
		defer close(bad)
		buf := make([]byte, readBuffer)
		for {
			n, _, err := conn.ReadFrom(buf)
			if err != nil {
				bad <- err
				return
			}
			select {
			case in <- append([]byte(nil), buf[:n]...):
			case <-ctx.Done():
				return
			}
		}
	}()
	return in, bad
}

// hush ends a listener: it closes the socket and waits for the goroutine.
func hush(conn net.PacketConn, cancel context.CancelFunc, frames <-chan []byte) error {
	cancel()
	err := conn.Close()
	for range frames { // the goroutine closes it as its last act
	}
	return err
}

// sleep waits for d; false if ctx ended first.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func ether(dst, src net.HardwareAddr, etherType uint16, payload []byte) []byte {
	f := make([]byte, 0, etherHeader+len(payload))
	f = append(f, dst...)
	f = append(f, src...)
	f = append(f, byte(etherType>>8), byte(etherType))
	return append(f, payload...)
}
