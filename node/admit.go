package node

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"offshoot/node/internal/peer"
	"offshoot/swarm"
	"offshoot/swarm/identity"
)

// admit answers a machine that installs itself and wants to exchange artifacts: it passes the request on to the leader, or
// answers it if this node leads.
func (s *service) admit(ctx context.Context, request []byte) ([]byte, error) {
	return s.byLeader(ctx, request, s.Admit, calls.Admit)
}

// Admit signs a certificate of an hour for the machine that a ticket was minted for. The ticket is not used up, and nothing is
// written: the certificate names the arming, and is worth nothing once that is over.
func (s *service) Admit(_ context.Context, request []byte) ([]byte, error) {
	ca, err := s.signer()
	if err != nil {
		return nil, err
	}
	req, err := identity.DecodeAdmitRequest(bytes.NewReader(request))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	ticket, err := s.shown(req.Ticket)
	if err != nil {
		return nil, err
	}
	view, now := s.state.View(), s.now()
	m, ok := view.Machine(ticket.Machine)
	switch {
	case ticket.State != swarm.TicketMinted && ticket.State != swarm.TicketFetched:
		return nil, fmt.Errorf("%w: ticket %s is %s", peer.ErrRefused, ticket.ID, ticket.State)
	case now.After(ticket.Expires):
		return nil, fmt.Errorf("%w: ticket %s has expired", peer.ErrRefused, ticket.ID)
	case !ok || m.State != swarm.MachineInstalling || m.Install != ticket.Install:
		return nil, fmt.Errorf("%w: the installation that ticket %s is for is over", peer.ErrRefused, ticket.ID)
	}
	cert, _, err := ca.IssueNode(req.CSR, swarm.InstallerID(ticket.Install), identity.RoleInstall, now)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", peer.ErrRefused, err)
	}
	return identity.AdmitResponse{Certificate: cert, CA: ca.Certificate(), Time: now}.Encode()
}

// installer finds the machine that has this name while it installs itself.
func installer(view swarm.View, id swarm.NodeID) (swarm.Machine, bool) {
	all := view.Machines()
	i := slices.IndexFunc(all, func(m swarm.Machine) bool {
		return m.State == swarm.MachineInstalling && swarm.InstallerID(m.Install) == id
	})
	if i < 0 {
		return swarm.Machine{}, false
	}
	return all[i], true
}

// refusedInstaller says why the certificate of a machine that installs itself is not accepted; "" is good standing.
func refusedInstaller(view swarm.View, p identity.Peer) string {
	settings, _ := view.Settings()
	if p.CA != settings.Pin {
		return "it is of an authority that was replaced: a certificate of an hour is not renewed"
	}
	if _, ok := installer(view, p.Node); !ok {
		return fmt.Sprintf("no installation %s is under way", p.Node)
	}
	return ""
}

// picky is a listener that hangs up on whom it does not admit.
type picky struct {
	net.Listener
	admits func(net.Conn) bool
}

// Accept implements net.Listener.
func (l picky) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil || l.admits(conn) {
			return conn, err
		}
		_ = conn.Close()
	}
}

// admitsExchange lets a machine that installs itself in from the address that is leased to it on one of our segments, and from
// nowhere else. Nodes come from everywhere.
func (s *services) admitsExchange(conn net.Conn) bool {
	p, ok := peerBehind(conn)
	if !ok {
		return false
	}
	return p.Role != identity.RoleInstall || nearby(s.state.View(), s.memory.Node, p.Node, callerOf(conn))
}

// callerOf is where a connection comes from.
func callerOf(conn net.Conn) netip.Addr {
	at, err := netip.ParseAddrPort(conn.RemoteAddr().String())
	if err != nil {
		return netip.Addr{}
	}
	return at.Addr().Unmap()
}

// nearby says whether a machine that installs itself has this address, on a segment that a node has a port on.
func nearby(view swarm.View, self, installing swarm.NodeID, addr netip.Addr) bool {
	m, ok := installer(view, installing)
	own, known := view.Node(self)
	return ok && known && slices.ContainsFunc(own.Ports, func(p swarm.Port) bool {
		lease, ok := view.Lease(p.Segment, addr)
		return ok && p.Segment != "" && lease.MAC == m.MAC
	})
}
