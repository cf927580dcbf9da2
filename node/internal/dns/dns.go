// Package dns is the name server of a segment: it answers for the swarm's own names, and passes everything else on to servers
// that the node, or an operator, knows. So an installer that insists on a name server has one.
//
// It holds two parts: answer says what is known here (pure), and Server carries the messages. It is never an open resolver: who
// is not on a network that it serves gets nothing, and what is under way is bounded, for all and for each. It keeps no answers:
// the servers behind it do. It may be imported by node and by tests; it imports nobody of ours.
package dns

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/net/netutil"
	"golang.org/x/sys/unix"
)

// Options are what a Server is made of. Its functions are called for each message, from many goroutines at once.
type Options struct {
	Addr      netip.AddrPort // our own address on the segment; port 0 takes any
	Interface string         // "": not bound to one
	// Serves says whether a client is one of ours.
	Serves func(netip.Addr) bool
	Names  Names
	// Upstreams are asked for names that are not ours, one after the other; none: such names are refused.
	Upstreams func() []netip.AddrPort
	Log       *slog.Logger // nil: silent
}

// Names are those that are answered here.
type Names interface {
	// Domain is what they end in, in lower case and without a dot at its end.
	Domain() string
	// Addresses are those of the host with this name of one label, in lower case. known tells a host without an address from a
	// name that nobody has.
	Addresses(host string) (addrs []netip.Addr, known bool)
	// Host is the name of one label of who has the address, "" if nobody has it. ours: it is for us to say.
	Host(addr netip.Addr) (host string, ours bool)
}

// Server answers names on one address, by UDP and TCP. Run it once.
type Server struct {
	o     Options
	quota quota
	ready chan struct{}
	addr  netip.AddrPort
}

// Bounds. A machine that installs itself asks a few names at once; hundreds of machines do so one after the other.
const (
	maxForwards    = 256             // under way for all clients: each holds a socket
	maxOfOne       = 32              // for one client: its own would wait behind a server that does not answer
	maxConnections = 64              // by TCP
	idleTime       = 5 * time.Second // of a TCP connection
)

// New checks the options. Nothing is opened before Run.
func New(o Options) (*Server, error) {
	if !o.Addr.IsValid() || o.Serves == nil || o.Names == nil || o.Upstreams == nil {
		return nil, errors.New("dns: an address, its clients, names and servers are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	return &Server{o: o, quota: quota{all: maxForwards, each: maxOfOne}, ready: make(chan struct{})}, nil
}

func (s *Server) String() string { return "dns on " + s.o.Addr.String() }

// Ready is closed when both ports are open.
func (s *Server) Ready() <-chan struct{} { return s.ready }

// LocalAddr is the address that is served, once Ready.
func (s *Server) LocalAddr() netip.AddrPort { return s.addr }

// Run serves until ctx ends; then it returns nil, with the ports closed and nothing under way.
func (s *Server) Run(ctx context.Context) error {
	packets, conns, err := s.listen(ctx)
	if err != nil {
		return fmt.Errorf("dns: %w", err)
	}
	s.addr = packets.LocalAddr().(*net.UDPAddr).AddrPort()
	serving, end := context.WithCancel(ctx)
	defer end()
	handler := dns.HandlerFunc(func(w dns.ResponseWriter, q *dns.Msg) { s.serve(serving, w, q) })
	servers := []*dns.Server{
		{PacketConn: packets, Handler: handler},
		{Listener: netutil.LimitListener(conns, maxConnections), Handler: handler, ReadTimeout: idleTime, WriteTimeout: idleTime, IdleTimeout: func() time.Duration { return idleTime }},
	}
	ended := make(chan error, len(servers))
	var all sync.WaitGroup
	for _, server := range servers {
		started := make(chan struct{})
		server.NotifyStartedFunc = func() { close(started) } // what has not started cannot be shut down
		all.Go(func() { ended <- server.ActivateAndServe() })
		select {
		case <-started:
		case err := <-ended:
			return errors.Join(fmt.Errorf("dns: %w", err), packets.Close(), conns.Close())
		}
	}
	close(s.ready)
	var failed error
	select {
	case <-ctx.Done():
	case err := <-ended:
		failed = fmt.Errorf("dns: serve %s: %w", s.addr, errors.Join(err, net.ErrClosed))
	}
	end()
	for _, server := range servers {
		_ = server.Shutdown() // it waits for what is under way; one that has ended by itself says so
	}
	all.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return failed
}

// listen opens UDP, and TCP on the same port.
func (s *Server) listen(ctx context.Context) (net.PacketConn, net.Listener, error) {
	lc := net.ListenConfig{Control: func(_, _ string, c syscall.RawConn) error {
		if s.o.Interface == "" {
			return nil
		}
		var bindErr error
		err := c.Control(func(fd uintptr) {
			bindErr = os.NewSyscallError("bind to device", unix.BindToDevice(int(fd), s.o.Interface))
		})
		return errors.Join(err, bindErr)
	}}
	for tries := 1; ; tries++ {
		packets, conns, err := listenBoth(ctx, lc, s.o.Addr)
		if err == nil || s.o.Addr.Port() != 0 || tries == anyPortTries {
			return packets, conns, err
		}
	}
}

// anyPortTries is how often any port is tried: one that is free for UDP may be taken for TCP.
const anyPortTries = 10

func listenBoth(ctx context.Context, lc net.ListenConfig, at netip.AddrPort) (net.PacketConn, net.Listener, error) {
	packets, err := lc.ListenPacket(ctx, "udp4", at.String())
	if err != nil {
		return nil, nil, fmt.Errorf("open port %d on %s (another name server here?): %w", at.Port(), at.Addr(), err)
	}
	conns, err := lc.Listen(ctx, "tcp4", packets.LocalAddr().String())
	if err != nil {
		return nil, nil, errors.Join(fmt.Errorf("open port %d on %s (another name server here?): %w", at.Port(), at.Addr(), err), packets.Close())
	}
	return packets, conns, nil
}

// serve answers one message.
func (s *Server) serve(ctx context.Context, w dns.ResponseWriter, q *dns.Msg) {
	from, err := netip.ParseAddrPort(w.RemoteAddr().String())
	client := from.Addr().Unmap()
	if err != nil || !s.o.Serves(client) {
		s.o.Log.Debug("name asked by a stranger", "client", client)
		_ = w.Close()
		return
	}
	r, ours := answer(q, s.o.Names)
	if !ours {
		r = s.elsewhere(ctx, client, w.RemoteAddr().Network(), q)
	}
	if w.RemoteAddr().Network() == "udp" {
		r.Truncate(room(q))
	}
	if err := w.WriteMsg(r); err != nil {
		s.o.Log.Debug("name not answered", "client", client, "error", err)
	}
}

// elsewhere passes a question on, if it is this client's turn.
func (s *Server) elsewhere(ctx context.Context, client netip.Addr, network string, q *dns.Msg) *dns.Msg {
	if !s.quota.take(client) {
		return refusal(q, dns.RcodeServerFailure)
	}
	defer s.quota.done(client)
	return forward(ctx, network, q, s.o.Upstreams())
}

// room is how long an answer by UDP may be (RFC 6891, 6.2.3).
func room(q *dns.Msg) int {
	if opt := q.IsEdns0(); opt != nil && opt.UDPSize() > dns.MinMsgSize {
		return int(opt.UDPSize())
	}
	return dns.MinMsgSize
}

// Servers reads the name servers of a resolv.conf.
func Servers(resolvConf io.Reader) ([]netip.AddrPort, error) {
	config, err := dns.ClientConfigFromReader(resolvConf)
	if err != nil {
		return nil, fmt.Errorf("read the configuration of the resolver: %w", err)
	}
	var all []netip.AddrPort
	for _, text := range config.Servers {
		if addr, err := netip.ParseAddr(text); err == nil {
			if at := netip.AddrPortFrom(addr, Port); !slices.Contains(all, at) {
				all = append(all, at)
			}
		}
	}
	return all, nil
}

// Port is where name servers are asked (RFC 1035, 4.2).
const Port = 53
