package node

import (
	"context"
	"crypto/tls"
	"net"
	"net/http"
	"slices"

	"offshoot/swarm"
	"offshoot/swarm/identity"
	"offshoot/swarm/share"
)

// sharing is how this node gets artifacts from others and gives them away: in pieces, and where that does not work as a whole,
// over the peer API.
func (s *services) sharing(l net.Listener) (*share.Torrent, error) {
	return share.NewTorrent(share.TorrentOptions{
		HTTP: share.Options{
			Store: s.store, Client: s.fetcher, Logger: s.node.log.With("part", "share"),
			Peers: func(share.Digest) (out []string) {
				for _, n := range s.holders() {
					out = append(out, baseURL(n))
				}
				return out
			},
			Caller: s.asking,
			Moved:  s.freight.moved,
		},
		Listener: metered{picky{l, s.admitsExchange}, func(c net.Conn) net.Conn { return s.metered(c, memberAt(c)) }},
		Caller:   memberAt,
		Dial: func(ctx context.Context, p share.Peer) (net.Conn, error) {
			conn, err := s.identity.Dial(ctx, identity.ProtoShare, p.Addr, swarm.NodeID(p.ID))
			if err != nil {
				return nil, err
			}
			return s.metered(conn, p.ID), nil
		},
		Peers: func(share.Digest) (out []share.Peer) {
			view := s.state.View()
			own, _ := view.Node(s.memory.Node)
			pulls := slices.ContainsFunc(view.Segments(), func(g swarm.Segment) bool { return g.Duty.Holder == own.ID })
			for _, n := range exchangers(own, s.holders(), pulls) {
				out = append(out, share.Peer{ID: string(n.ID), Addr: n.Address})
			}
			return out
		},
		InfoHash: func(d share.Digest) string {
			a, _ := s.state.View().Artifact(string(d))
			return a.InfoHash
		},
		Part: func(share.Digest) (i, n int) {
			own, _ := s.state.View().Node(s.memory.Node)
			return partOf(own, s.holders())
		},
	})
}

// uplinkLimit is what the swarm has decided, in bytes per second.
func (s *services) uplinkLimit() int64 {
	settings, _ := s.state.View().Settings()
	return int64(settings.UplinkLimit)
}

// isFar says whether what goes to and from a peer crosses an uplink, as the counters of freight see it.
func (s *services) isFar(peer string) bool {
	return placeOf(s.state.View(), s.memory.Node, peer) == far
}

// metered holds a connection to the limit of uplinks.
func (s *services) metered(c net.Conn, peer string) net.Conn {
	return s.uplink.Conn(c, func() bool { return s.isFar(peer) })
}

// fetcher is the client for whole artifacts of a node. What nodes have to say to each other on the same connections is not bounded.
func (s *services) fetcher(base string) *http.Client {
	c := *s.client.HTTP()
	c.Transport = s.uplink.RoundTripper(c.Transport, func() bool { return s.isFar(base) })
	return &c
}

// asking names the member that asks for an artifact.
func (s *services) asking(r *http.Request) string {
	if r.TLS == nil {
		return ""
	}
	id, _ := s.caller(*r.TLS) // whoever has no name was refused in the handshake
	return string(id)
}

func (s *services) asksFromAfar(r *http.Request) bool { return s.isFar(s.asking(r)) }

// metered wraps what a listener accepts.
type metered struct {
	net.Listener
	wrap func(net.Conn) net.Conn
}

// Accept implements net.Listener.
func (l metered) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return l.wrap(conn), nil
}

// memberAt names who is at the other end of a connection that the mux has let in.
func memberAt(c net.Conn) string {
	if p, ok := peerBehind(c); ok {
		return string(p.Node)
	}
	return c.RemoteAddr().String()
}

// peerBehind is what the certificate says that was shown on a connection of the mux.
func peerBehind(c net.Conn) (identity.Peer, bool) {
	proven, ok := c.(interface{ ConnectionState() tls.ConnectionState })
	if !ok {
		return identity.Peer{}, false
	}
	p, err := identity.PeerOf(proven.ConnectionState())
	return p, err == nil
}

// holders are the other nodes that may have artifacts, those that are warm first.
func (s *services) holders() []swarm.Node {
	var warm, cold []swarm.Node
	for _, n := range s.state.View().Nodes() {
		switch {
		case n.ID == s.memory.Node || n.Left || !s.alive(n.ID):
		case n.Warm:
			warm = append(warm, n)
		default:
			cold = append(cold, n)
		}
	}
	return append(warm, cold...)
}

// exchangers are those of the others to exchange pieces with: who is on a segment of this node, and everybody only if this node
// pulls, as those on duty do, or is alone there: so an artifact crosses an uplink once, and goes on from whoever pulled it.
func exchangers(own swarm.Node, others []swarm.Node, pulls bool) []swarm.Node {
	var near, far []swarm.Node
	for _, n := range others {
		if neighbours(own, n) {
			near = append(near, n)
		} else {
			far = append(far, n)
		}
	}
	if pulls || len(near) == 0 {
		return append(near, far...)
	}
	return near
}

// neighbours says whether two nodes share a segment.
func neighbours(a, b swarm.Node) bool {
	return slices.ContainsFunc(a.Ports, func(p swarm.Port) bool {
		_, on := b.On(p.Segment)
		return p.Segment != "" && on
	})
}

// partOf says that a node is the i-th of n neighbours that still fetch: each asks for other pieces first.
func partOf(own swarm.Node, others []swarm.Node) (i, n int) {
	ids := []swarm.NodeID{own.ID}
	for _, other := range others {
		if !other.Warm && neighbours(own, other) {
			ids = append(ids, other.ID)
		}
	}
	slices.Sort(ids)
	return slices.Index(ids, own.ID), len(ids)
}
