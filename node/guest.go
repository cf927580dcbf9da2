package node

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"offshoot/node/internal/agent"
	"offshoot/node/internal/install"
	"offshoot/node/internal/peer"
	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/share"
)

// meetPause is how often a machine that installs itself says where it is, and hears who is around.
const meetPause = 2 * time.Second

// guest is the exchange of a machine that installs itself: its certificate of an hour, its listener, and who is around.
type guest struct {
	*share.Guest
	artifact share.Artifact
	dir      string // of its key
	meet     agent.Meet
	port     int
	end      context.CancelFunc
	running  sync.WaitGroup
	around   atomic.Pointer[install.Neighbours]
	done     atomic.Bool
}

var _ agent.Exchange = (*guest)(nil)

// joinExchange implements agent.Join: the ticket gets the machine a certificate, and the node that serves it says who is around.
func joinExchange(ctx context.Context, cfg install.Config, meet agent.Meet) (_ agent.Exchange, err error) {
	g := &guest{
		artifact: share.Artifact{Digest: share.Digest(cfg.Image.SHA256), Size: cfg.Image.Size, InfoHash: cfg.Image.InfoHash}, meet: meet,
	}
	if g.dir, err = os.MkdirTemp("", "offshoot-guest-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(g.dir))
		}
	}()
	id, err := admitted(ctx, cfg.Join, g.dir)
	if err != nil {
		return nil, fmt.Errorf("no admission: %w", err)
	}
	l, err := new(net.ListenConfig).Listen(ctx, "tcp4", ":0")
	if err != nil {
		return nil, err
	}
	g.port = l.Addr().(*net.TCPAddr).Port
	mux := identity.NewMux(l, id, slog.New(slog.DiscardHandler))
	g.around.Store(&install.Neighbours{})
	segment := cfg.Join.Address.Masked()
	g.Guest, err = share.NewGuest(share.GuestOptions{
		Listener: picky{mux.Listener(identity.ProtoShare), func(c net.Conn) bool { return segment.Contains(callerOf(c)) }},
		Caller:   memberAt,
		Dial: func(ctx context.Context, p share.Peer) (net.Conn, error) {
			return id.Dial(ctx, identity.ProtoShare, p.Addr, swarm.NodeID(p.ID))
		},
		Peers: g.peers,
		Part:  func() (i, n int) { a := g.around.Load(); return a.Part, a.Parts },
	})
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	ctx, g.end = context.WithCancel(ctx)
	g.look(ctx)
	g.running.Go(func() { _ = mux.Run(ctx) }) // a listener that fails leaves us with those that we call
	g.running.Go(func() { g.keepLooking(ctx) })
	return g, nil
}

// admitted is an identity that has shown the ticket.
func admitted(ctx context.Context, join install.Join, dir string) (*identity.Identity, error) {
	var ahead atomic.Int64 // of the answering node's clock: ours may stand anywhere
	id, err := identity.Open(identity.Options{
		Dir: dir, Role: identity.RoleInstall, Now: func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) },
	})
	if err != nil {
		return nil, err
	}
	csr, err := id.CSR()
	if err != nil {
		return nil, err
	}
	ticket, err := identity.ParseTicket(join.Ticket)
	if err != nil {
		return nil, err
	}
	body, err := identity.AdmitRequest{Ticket: ticket, CSR: csr}.Encode()
	if err != nil {
		return nil, err
	}
	var tried []error
	for _, endpoint := range join.Endpoints {
		answer, err := knock(ctx, join.Pin, endpoint, "/v1/admit", body)
		if err == nil {
			a, err := identity.DecodeAdmitResponse(bytes.NewReader(answer))
			if err != nil {
				return nil, err
			}
			ahead.Store(int64(time.Until(a.Time)))
			return id, id.Enroll(join.Pin, a.Certificate, a.CA)
		}
		tried = append(tried, fmt.Errorf("%s: %w", endpoint, err))
		if errors.Is(err, peer.ErrRefused) {
			break
		}
	}
	return nil, errors.Join(tried...)
}

// look says where we are and learns who is around. What cannot be asked now stays as it was.
func (g *guest) look(ctx context.Context) {
	if n, err := g.meet(ctx, install.Presence{Port: g.port, Done: g.done.Load()}); err == nil {
		g.around.Store(&n)
	}
}

func (g *guest) keepLooking(ctx context.Context) {
	ticker := time.NewTicker(meetPause)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			g.look(ctx)
		}
	}
}

func (g *guest) peers() []share.Peer {
	var out []share.Peer
	for _, n := range g.around.Load().Peers {
		out = append(out, share.Peer{ID: n.ID, Addr: n.Address.String()})
	}
	return out
}

// Fetch implements agent.Exchange.
func (g *guest) Fetch(ctx context.Context, disk agent.Spare, resume bool, progress func(int64)) error {
	defer g.done.Store(true)
	return g.Guest.Fetch(ctx, g.artifact, disk, resume, progress)
}

// Moved implements agent.Exchange.
func (g *guest) Moved() (fetched, given int64) {
	s := g.Stats()
	return s.Fetched, s.Served
}

// Close implements agent.Exchange.
func (g *guest) Close() error {
	g.end()
	err := g.Guest.Close()
	g.running.Wait()
	return errors.Join(err, os.RemoveAll(g.dir))
}

// exchangersOn are the nodes that have a port on a segment and hold what is installed there, this node first. Each answers on its
// one address, to which its machines on every segment have a way.
func (s *services) exchangersOn(segment string) []install.Neighbour {
	own, _ := s.state.View().Node(s.memory.Node)
	var out []install.Neighbour
	for _, n := range append([]swarm.Node{own}, s.holders()...) {
		_, on := n.On(segment)
		at, err := netip.ParseAddrPort(n.Address)
		if on && err == nil && n.Warm {
			out = append(out, install.Neighbour{ID: string(n.ID), Address: at})
		}
	}
	return out
}
