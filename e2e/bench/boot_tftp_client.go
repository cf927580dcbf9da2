package main

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strconv"
	"time"
)

// loader is a TFTP client by the rules of EDK2's UefiPxeBcDxe and Mtftp4Dxe: it asks for the size first and leaves with error 0,
// each request comes from a port of its own, what is not the next block has the last packet sent again, and silence does too.
type loader struct {
	open    func() (*net.UDPConn, error) // a port of the client
	server  netip.AddrPort
	window  int           // blocks without an acknowledgement between them (RFC 7440); 0 is not asked for
	timeout time.Duration // before the last packet is sent again
	tries   int
}

// What EDK2 uses: PXEBC_MTFTP_TIMEOUT, PXEBC_MTFTP_RETRIES, PcdPxeTftpWindowSize, and blocks that fill an Ethernet frame.
const (
	edk2Timeout = 4 * time.Second
	edk2Tries   = 6
	edk2Window  = 4
	edk2Block   = 1468
)

// Opcodes (RFC 1350, RFC 2347).
const (
	opRead  = 1
	opData  = 3
	opAck   = 4
	opError = 5
	opOack  = 6
)

// load asks for the size of a file and then for the file, as firmware does.
func (l *loader) load(name string, into io.Writer) (int64, error) {
	size, err := l.request(name, true, nil)
	if err != nil {
		return 0, fmt.Errorf("ask for the size of %s: %w", name, err)
	}
	got, err := l.request(name, false, into)
	if err == nil && got != size {
		err = fmt.Errorf("%d bytes of %d", got, size)
	}
	if err != nil {
		err = fmt.Errorf("load %s: %w", name, err)
	}
	return got, err
}

// request does one of the two. It returns the size that the server said, or what was loaded.
func (l *loader) request(name string, probe bool, into io.Writer) (int64, error) {
	conn, err := l.open()
	if err != nil {
		return 0, err
	}
	if probe {
		// Servers may answer an abort, which must not meet another transfer on the same port.
		defer time.AfterFunc(time.Second, func() { _ = conn.Close() })
	} else {
		defer func() { _ = conn.Close() }() // nothing is lost with it
	}
	options := []string{"blksize", strconv.Itoa(edk2Block)}
	if probe {
		options = append([]string{"tsize", "0"}, options...)
	}
	if l.window > 1 {
		options = append(options, "windowsize", strconv.Itoa(l.window))
	}
	first := []byte{0, opRead}
	for _, s := range append([]string{name, "octet"}, options...) {
		first = append(append(first, s...), 0)
	}
	t := &transfer{conn: conn, to: l.server, last: first, block: 512, window: 1, next: 1, probe: probe, into: into}
	buf := make([]byte, 2048)
	for silent := 0; ; {
		if err := t.send(l.timeout, t.last); err != nil {
			return 0, err
		}
		for {
			n, from, err := conn.ReadFromUDPAddrPort(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				break
			}
			if err != nil {
				return 0, err
			}
			if from.Addr() != l.server.Addr() || n < 4 || (t.heard && from.Port() != t.to.Port()) {
				continue
			}
			t.to, t.heard, silent = from, true, 0
			if done, err := t.hear(l.timeout, buf[:n]); done || err != nil {
				return t.got, err
			}
		}
		if silent++; silent > l.tries {
			return 0, fmt.Errorf("silence after block %d", t.next-1)
		}
	}
}

// transfer is one request under way.
type transfer struct {
	conn   *net.UDPConn
	to     netip.AddrPort
	heard  bool // the server's port is known
	last   []byte
	block  int
	window int
	next   uint16 // block
	since  int    // blocks since the last acknowledgement
	got    int64
	probe  bool
	into   io.Writer
}

func (t *transfer) send(timeout time.Duration, packet []byte) error {
	t.last = packet
	if err := t.conn.SetReadDeadline(time.Now().Add(timeout)); err != nil {
		return err
	}
	_, err := t.conn.WriteToUDPAddrPort(packet, t.to)
	return err
}

// hear takes one packet of the server.
func (t *transfer) hear(timeout time.Duration, p []byte) (done bool, err error) {
	number := binary.BigEndian.Uint16(p[2:])
	switch binary.BigEndian.Uint16(p) {
	case opError:
		return false, fmt.Errorf("the server says: %d %s", number, bytes.TrimRight(p[4:], "\x00"))
	case opOack:
		if t.got > 0 || t.next != 1 {
			return false, nil
		}
		if t.options(p[2:]); t.probe {
			return true, t.send(timeout, append([]byte{0, opError, 0, 0}, "User aborted the transfer\x00"...))
		}
		return false, t.send(timeout, []byte{0, opAck, 0, 0})
	case opData:
		if t.probe {
			return false, errors.New("the server knows no tsize")
		}
		if number != t.next {
			return false, t.send(timeout, t.last)
		}
		data := p[4:]
		t.got, t.next, t.since = t.got+int64(len(data)), t.next+1, t.since+1
		if t.into != nil {
			if _, err := t.into.Write(data); err != nil {
				return false, err
			}
		}
		if done = len(data) < t.block; done || t.since >= t.window {
			t.since = 0
			err = t.send(timeout, []byte{0, opAck, p[2], p[3]})
		}
		return done, err
	}
	return false, nil
}

func (t *transfer) options(p []byte) {
	fields := bytes.Split(p, []byte{0})
	for i := 0; i+1 < len(fields); i += 2 {
		n, err := strconv.Atoi(string(fields[i+1]))
		if err != nil {
			continue
		}
		switch string(bytes.ToLower(fields[i])) {
		case "blksize":
			t.block = n
		case "windowsize":
			t.window = n
		case "tsize":
			if t.probe {
				t.got = int64(n)
			}
		}
	}
}
