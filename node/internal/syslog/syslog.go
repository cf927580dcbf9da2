// Package syslog hears what machines that install themselves say of it by syslog (RFC 3164, RFC 5424, over UDP), and keeps their
// last lines in memory.
//
// It believes nobody: who a packet is from, its owner says by the address; whatever it contains becomes one printable line without
// secrets; each machine has bounded room, and a bounded rate. It sends nothing, and what it hears decides nothing. Only node imports
// it.
package syslog

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Port is where installers send to unless they are told another one.
const Port = 514

// maxPacket bounds a packet, bytes: RFC 5424 asks receivers for 2,048 at least. What is longer is cut off.
const maxPacket = 8 << 10

// Options are what a Server is made of.
type Options struct {
	Addr      string // "192.168.42.1:514"; port 0 takes any
	Interface string // "": not bound to one
	// Heard gets every packet, from one goroutine; the bytes are valid during the call only.
	Heard func(from netip.Addr, packet []byte)
	Log   *slog.Logger
}

// Server receives on one address. Run it once.
type Server struct {
	o     Options
	ready chan struct{}
	addr  netip.AddrPort
}

// New makes a server. Nothing is opened before Run.
func New(o Options) *Server { return &Server{o: o, ready: make(chan struct{})} }

func (s *Server) String() string { return "syslog on " + s.o.Addr }

// Ready is closed when the port is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// LocalAddr is the address that is served, once Ready.
func (s *Server) LocalAddr() netip.AddrPort { return s.addr }

// Run receives until ctx ends; then it returns nil.
func (s *Server) Run(ctx context.Context) error {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if s.o.Interface == "" {
			return nil
		}
		var bindErr error
		if err := c.Control(func(fd uintptr) { bindErr = unix.BindToDevice(int(fd), s.o.Interface) }); err != nil {
			return err
		}
		return os.NewSyscallError("bind to device "+s.o.Interface, bindErr)
	}}
	opened, err := lc.ListenPacket(ctx, "udp4", s.o.Addr)
	if err != nil {
		return fmt.Errorf("syslog: open %s (does a syslog daemon here receive from the network?): %w", s.o.Addr, err)
	}
	conn := opened.(*net.UDPConn)
	defer func() { _ = conn.Close() }()
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	s.addr = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	close(s.ready)
	packet := make([]byte, maxPacket)
	for {
		n, from, err := conn.ReadFromUDPAddrPort(packet)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return fmt.Errorf("syslog: %s: %w", s.addr, err)
		case err != nil: // an ICMP message about somebody: the next packet is another matter
			s.o.Log.Debug("syslog packet not read", "error", err)
			continue
		}
		s.o.Heard(from.Addr().Unmap(), packet[:n])
	}
}
