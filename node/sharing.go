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
			Store: s.store, Client: func(string) *http.Client { return s.client.HTTP() }, Logger: s.node.log.With("part", "share"),
			Peers: func(share.Digest) (out []string) {
				for _, n := range s.holders() {
					out = append(out, baseURL(n))
				}
				return out
			},
			Caller: func(r *http.Request) string {
				if r.TLS == nil {
					return ""
				}
				id, _ := s.caller(*r.TLS) // whoever has no name was refused in the handshake
				return string(id)
			},
			Moved: s.freight.moved,
		},
		Listener: near{l, s.state.View, s.memory.Node},
		Caller:   memberAt,
		Dial: func(ctx context.Context, p share.Peer) (net.Conn, error) {
			return s.identity.Dial(ctx, identity.ProtoShare, p.Addr, swarm.NodeID(p.ID))
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
