package lab

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"
	"unsafe"

	"github.com/gopacket/gopacket"
	"github.com/gopacket/gopacket/layers"
	"github.com/gopacket/gopacket/pcapgo"
	"github.com/mdlayher/socket"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

const (
	// captureSnap is more than any frame here, since offloads that would make longer ones are off.
	captureSnap = 9216
	// captureBuffer holds about two seconds of the fastest transfer seen under TCG, in case we are not scheduled.
	captureBuffer = 16 << 20
)

// Capture writes the frames of a network to a file in pcap format: everything but the inside of TCP connections, of which it
// keeps the beginnings and the ends. Images travel over TCP faster than a busy machine can write them down, and a capture
// that misses frames proves nothing. The file may be read while it grows.
type Capture struct {
	path   string
	conn   *socket.Conn
	file   *os.File
	cancel context.CancelFunc
	done   chan struct{}
	runErr error

	once     sync.Once
	closeErr error
}

// Capture starts to record the network into a new file. Close, or the lab's, ends it.
func (n *Network) Capture(path string) (*Capture, error) {
	conn, err := n.rawSocket()
	if err != nil {
		return nil, fmt.Errorf("capture %s: %w", n.name, err)
	}
	file, err := os.Create(path)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("capture %s: %w", n.name, err), conn.Close())
	}
	out := bufio.NewWriter(file)
	w := pcapgo.NewWriterNanos(out)
	if err := errors.Join(w.WriteFileHeader(captureSnap, layers.LinkTypeEthernet), out.Flush()); err != nil {
		return nil, errors.Join(fmt.Errorf("capture %s: %w", n.name, err), conn.Close(), file.Close())
	}
	ctx, cancel := context.WithCancel(context.Background())
	c := &Capture{path: path, conn: conn, file: file, cancel: cancel, done: make(chan struct{})}
	n.lab.mu.Lock()
	n.lab.captures = append(n.lab.captures, c)
	n.lab.mu.Unlock()
	go func() {
		defer close(c.done)
		c.runErr = c.record(ctx, w, out)
	}()
	return c, nil
}

// rawSocket hears everything that crosses the bridge: in promiscuous mode a bridge passes all frames up to itself.
func (n *Network) rawSocket() (*socket.Conn, error) {
	index, err := n.lab.wires.interfaceIndex(n.name)
	if err != nil {
		return nil, err
	}
	// Protocol 0 hears nothing until Bind, so no frame comes in unfiltered.
	conn, err := socket.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0, "packet", &socket.Config{NetNS: int(n.lab.wires.file.Fd())})
	if err != nil {
		return nil, err
	}
	filter, err := bpf.Assemble(leaveOutStreams())
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	mreq := unix.PacketMreq{Ifindex: int32(index), Type: unix.PACKET_MR_PROMISC}
	err = errors.Join(
		conn.SetBPF(filter),
		conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, captureBuffer),
		conn.SetsockoptInt(unix.SOL_SOCKET, unix.SO_TIMESTAMPNS, 1),
		conn.SetsockoptInt(unix.SOL_PACKET, unix.PACKET_AUXDATA, 1),
		conn.SetsockoptPacketMreq(unix.SOL_PACKET, unix.PACKET_ADD_MEMBERSHIP, &mreq),
		conn.Bind(&unix.SockaddrLinklayer{Protocol: htons(unix.ETH_P_ALL), Ifindex: index}),
	)
	if err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// leaveOutStreams is a filter that accepts everything but IPv4 TCP segments without SYN, FIN or RST (RFC 9293, 3.1).
func leaveOutStreams() []bpf.Instruction {
	const ethernet, flags, synFinRst = 14, 13, 0x07
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: 12, Size: 2},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.ETH_P_IP, SkipTrue: 6},
		bpf.LoadAbsolute{Off: ethernet + 9, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.IPPROTO_TCP, SkipTrue: 4},
		bpf.LoadMemShift{Off: ethernet}, // length of the IP header
		bpf.LoadIndirect{Off: ethernet + flags, Size: 1},
		bpf.JumpIf{Cond: bpf.JumpBitsSet, Val: synFinRst, SkipTrue: 1},
		bpf.RetConstant{Val: 0},
		bpf.RetConstant{Val: captureSnap},
	}
}

func (c *Capture) record(ctx context.Context, w *pcapgo.Writer, out *bufio.Writer) error {
	frame := make([]byte, captureSnap)
	control := make([]byte, 128)
	for {
		kept, controlled, _, _, err := c.conn.Recvmsg(ctx, frame, control, 0)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("capture to %s: %w", c.path, err)
		}
		info := gopacket.CaptureInfo{Timestamp: time.Now(), CaptureLength: kept, Length: kept}
		readControl(control[:controlled], &info)
		if err := errors.Join(w.WritePacket(info, frame[:kept]), out.Flush()); err != nil {
			return fmt.Errorf("capture to %s: %w", c.path, err)
		}
	}
}

// readControl takes over what the kernel knows better: when the frame came (we may have been late by however long we
// were not scheduled) and how long it was before the filter cut it.
func readControl(control []byte, info *gopacket.CaptureInfo) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_SOCKET && m.Header.Type == unix.SCM_TIMESTAMPNS && len(m.Data) >= int(unsafe.Sizeof(unix.Timespec{})):
			ts := (*unix.Timespec)(unsafe.Pointer(&m.Data[0]))
			info.Timestamp = time.Unix(ts.Unix())
		case m.Header.Level == unix.SOL_PACKET && m.Header.Type == unix.PACKET_AUXDATA && len(m.Data) >= 8:
			info.Length = int(binary.NativeEndian.Uint32(m.Data[4:])) // tpacket_auxdata.tp_len, packet(7)
		}
	}
}

// Path is the file that Capture writes.
func (c *Capture) Path() string { return c.path }

// Close ends the capture and says whether it is complete: dropped frames are an error.
func (c *Capture) Close() error {
	c.once.Do(func() {
		c.cancel()
		<-c.done
		errs := []error{c.runErr}
		if stats, err := c.conn.GetsockoptTpacketStats(unix.SOL_PACKET, unix.PACKET_STATISTICS); err != nil {
			errs = append(errs, fmt.Errorf("capture to %s: statistics: %w", c.path, err))
		} else if stats.Drops > 0 {
			errs = append(errs, fmt.Errorf("capture to %s: %d frames are missing", c.path, stats.Drops))
		}
		c.closeErr = errors.Join(append(errs, c.conn.Close(), c.file.Close())...)
	})
	return c.closeErr
}

func htons(v uint16) uint16 { return v<<8 | v>>8 }
