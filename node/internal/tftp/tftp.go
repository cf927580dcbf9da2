// Package tftp hands out the first stage of a network boot: the boot programs and a few small scripts, and nothing else.
//
// Files are looked up in a fixed set by name, never in a directory of this machine, and nothing is ever written. It knows
// nothing of machines and boots. It may be imported by node and by tests; it imports pin/tftp only.
package tftp

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path"
	"strings"
	"syscall"
	"time"

	"github.com/pin/tftp/v3"
	"golang.org/x/sys/unix"
)

// Transfer is one request and how it ended.
type Transfer struct {
	Time   time.Time // of the request
	Client netip.AddrPort
	Name   string // as asked for
	File   string // the file that was meant; empty: there is none
	Sent   int64  // bytes
	// Probe: the client looked at the size and left, as firmware does before it loads a file. No error.
	Probe bool
	Err   error
}

// Options are what a Server is made of.
type Options struct {
	Addr      string // "192.168.42.1:69"; port 0 takes any
	Interface string // "": not bound to one
	MTU       int    // of the link; 0: 1500. Blocks are kept so small that no packet is fragmented: ROMs drop fragments
	Files     fs.FS  // every regular file at its top is served
	// More are small files made on demand, by name. They win over Files.
	More       map[string]func() ([]byte, error)
	OnTransfer func(Transfer) // called from many goroutines; may be nil
	Log        *slog.Logger   // nil: silent
}

// Server serves files by TFTP (RFC 1350, options by RFC 2347, 2348, 2349). Run it once.
type Server struct {
	o     Options
	names map[string]string // by lower case: firmware and operators are not of one mind about it
	ready chan struct{}
	addr  netip.AddrPort
}

const (
	// transferTime ends a transfer whose client asks for block after block without end, or crawls. The largest boot program
	// has 1 MB; a 1 Mbit/s management link carries that in ten seconds.
	transferTime = 2 * time.Minute
	// roundTime and rounds bound the wait for one acknowledgement: a block that was lost should not be waited for, firmware under
	// load takes seconds, a machine that was switched off never answers. A block that came twice is acknowledged twice, and the
	// second time nothing follows.
	roundTime = 300 * time.Millisecond
	rounds    = 20
	// headers of IPv4, UDP, and a TFTP data packet.
	headers = 20 + 8 + 4
	minMTU  = 576
)

// New checks the options and lists the files. Nothing is opened before Run.
func New(o Options) (*Server, error) {
	if o.Files == nil && len(o.More) == 0 {
		return nil, errors.New("tftp: no files to serve")
	}
	if o.MTU == 0 {
		o.MTU = 1500
	}
	if o.MTU < minMTU {
		return nil, fmt.Errorf("tftp: an MTU of %d is less than the %d that IPv4 asks for", o.MTU, minMTU)
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.OnTransfer == nil {
		o.OnTransfer = func(Transfer) {}
	}
	s := &Server{o: o, names: make(map[string]string), ready: make(chan struct{})}
	if o.Files != nil {
		entries, err := fs.ReadDir(o.Files, ".")
		if err != nil {
			return nil, fmt.Errorf("tftp: list files: %w", err)
		}
		for _, e := range entries {
			if e.Type().IsRegular() {
				s.names[strings.ToLower(e.Name())] = e.Name()
			}
		}
	}
	for name := range o.More {
		s.names[strings.ToLower(name)] = name
	}
	return s, nil
}

func (s *Server) String() string { return "tftp on " + s.o.Addr }

// Ready is closed when the port is open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// LocalAddr is the address that is served, once Ready.
func (s *Server) LocalAddr() netip.AddrPort { return s.addr }

// Run serves until ctx ends; then it returns nil, with the port closed and no transfer left.
func (s *Server) Run(ctx context.Context) error {
	conn, err := s.listen(ctx)
	if err != nil {
		return err
	}
	s.addr = conn.LocalAddr().(*net.UDPAddr).AddrPort()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Each transfer has its own port, as RFC 1350 has it: the library's single-port mode sends on channels that it may
	// have closed already.
	t := tftp.NewServer(func(name string, w io.ReaderFrom) error { return s.serve(ctx, name, w) }, nil)
	t.SetTimeout(roundTime)
	t.SetRetries(rounds)
	t.SetBackoff(func(int) time.Duration { return 0 }) // roundTime has passed already
	t.SetBlockSize(s.o.MTU - headers)
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		t.Shutdown() // closes conn, waits for transfers: they end with the next block
	})
	close(s.ready)
	err = t.Serve(conn)
	if stop() { // Serve gave up by itself
		t.Shutdown()
		return fmt.Errorf("tftp: serve %s: %w", s.addr, errors.Join(err, net.ErrClosed))
	}
	<-stopped
	return nil
}

func (s *Server) listen(ctx context.Context) (*net.UDPConn, error) {
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
	conn, err := lc.ListenPacket(ctx, "udp4", s.o.Addr)
	if err != nil {
		return nil, fmt.Errorf("tftp: open %s (another TFTP server here? port 69 needs CAP_NET_BIND_SERVICE): %w", s.o.Addr, err)
	}
	return conn.(*net.UDPConn), nil
}

// errNotFound is all that a client learns of what does not exist here.
var errNotFound = errors.New("no such file")

func (s *Server) serve(ctx context.Context, name string, w io.ReaderFrom) error {
	t := Transfer{Time: time.Now(), Name: name}
	out, ok := w.(tftp.OutgoingTransfer)
	if ok {
		remote := out.RemoteAddr()
		t.Client = remote.AddrPort()
		t.Client = netip.AddrPortFrom(t.Client.Addr().Unmap(), t.Client.Port())
	}
	defer func() {
		s.o.Log.Debug("tftp", "client", t.Client, "name", t.Name, "sent", t.Sent, "probe", t.Probe, "err", t.Err)
		s.o.OnTransfer(t)
	}()
	file, ok := s.names[normalise(name)]
	if !ok {
		t.Err = errNotFound
		return errNotFound
	}
	t.File = file
	data, err := s.read(file)
	if err != nil {
		t.Err = err
		return fmt.Errorf("%s cannot be read", file) // the reason is ours, not the client's
	}
	if out != nil {
		out.SetSize(int64(len(data)))
	}
	ctx, cancel := context.WithTimeout(ctx, transferTime)
	defer cancel()
	t.Sent, err = w.ReadFrom(&untilDone{ended: ctx.Err, r: bytes.NewReader(data)})
	t.Err = err
	// What is not a network error is an ERROR packet from the client: it has changed its mind. Before the first block that
	// is how firmware asks for the size (docs/booting.md).
	var network net.Error
	if err != nil && t.Sent == 0 && ctx.Err() == nil && !errors.As(err, &network) {
		t.Probe, t.Err = true, nil
	}
	return err
}

func (s *Server) read(file string) ([]byte, error) {
	if content, ok := s.o.More[file]; ok {
		return content()
	}
	return fs.ReadFile(s.o.Files, file)
}

// normalise makes a file name of what firmware makes of one: DOS separators, a leading separator, any case, and the zero
// byte or 0xff with which some ROMs end option 67.
func normalise(name string) string {
	for name != "" && (name[len(name)-1] == 0xff || name[len(name)-1] == 0) { // bytes: 0xff is no character
		name = name[:len(name)-1]
	}
	name = path.Clean("/" + strings.ReplaceAll(name, `\`, "/"))
	return strings.ToLower(strings.TrimPrefix(name, "/"))
}

// untilDone reads until something has ended, which is checked once a block.
type untilDone struct {
	ended func() error
	r     io.Reader
}

func (u *untilDone) Read(p []byte) (int, error) {
	if err := u.ended(); err != nil {
		return 0, fmt.Errorf("transfer ended: %w", err)
	}
	return u.r.Read(p)
}
