package node

import (
	"net/netip"
	"slices"
	"strings"
	"sync"

	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// freight counts the bytes of artifacts by where they came from and where they went. A byte is sorted when it is counted: a node
// that moves to another segment later takes nothing along, so that no counter ever falls.
type freight struct {
	place func(peer string) place

	mu         sync.Mutex
	all        status.Traffic
	byArtifact map[string]*status.Traffic
	settled    map[string]bool // digests that were needed, and are here
}

// place is where a peer stands, seen from this node.
type place int

const (
	far    place = iota
	beside       // shares a segment with this node
	installing
)

func newFreight(place func(peer string) place) *freight {
	return &freight{place: place, byArtifact: map[string]*status.Traffic{}, settled: map[string]bool{}}
}

func (t *freight) count(digest string, add func(*status.Traffic)) {
	of := t.byArtifact[digest]
	if of == nil {
		of = &status.Traffic{}
		t.byArtifact[digest] = of
	}
	add(of)
	add(&t.all)
}

// moved counts what went between this node and another one.
func (t *freight) moved(m share.Move) {
	place := t.place(m.Peer)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(string(m.Digest), func(s *status.Traffic) {
		switch place {
		case beside:
			s.Received.Segment += m.Received
			s.Sent.Segment += m.Sent
		case installing: // it is not asked
			s.Sent.Install += m.Sent
		default:
			s.Received.Uplink += m.Received
			s.Sent.Uplink += m.Sent
		}
	})
}

// booted counts what a machine that boots or installs got.
func (t *freight) booted(digest string, n int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.count(digest, func(s *status.Traffic) { s.Sent.Boot += n })
}

// needed is called for an artifact that this node needs and has. What of it has not come from elsewhere was on the disk.
func (t *freight) needed(digest string, size int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.settled[digest] {
		disk := size
		if of := t.byArtifact[digest]; of != nil {
			disk = max(0, size-of.Received.Segment-of.Received.Uplink)
		}
		t.count(digest, func(s *status.Traffic) { s.Received.Disk += disk })
	}
	t.settled[digest] = true
}

func (t *freight) total() status.Traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all
}

func (t *freight) of(digest string) status.Traffic {
	t.mu.Lock()
	defer t.mu.Unlock()
	if s := t.byArtifact[digest]; s != nil {
		return *s
	}
	return status.Traffic{}
}

// baseURL is where a node's peer API is.
func baseURL(n swarm.Node) string { return "https://" + n.Address }

// placeOf says where a peer stands that share knows by its name or its URL. A name that is no node's is that of a machine which
// installs itself, or has done so since: only these two are let in. What is not known otherwise is not near.
func placeOf(view swarm.View, self swarm.NodeID, peer string) place {
	own, known := view.Node(self)
	other, ok := view.Node(swarm.NodeID(peer))
	if !ok && !strings.Contains(peer, "://") {
		return installing
	}
	if !ok {
		all := view.Nodes()
		at := slices.IndexFunc(all, func(n swarm.Node) bool { return !n.Left && baseURL(n) == peer })
		if at < 0 {
			return far
		}
		other = all[at]
	}
	if known && together(view.Segments(), own, other) {
		return beside
	}
	return far
}

// together says whether two nodes sit on one of these segments.
func together(all []swarm.Segment, a, b swarm.Node) bool {
	return slices.ContainsFunc(all, func(g swarm.Segment) bool { return sits(a, g) && sits(b, g) })
}

// sits says whether a node is on a segment. A node that has just joined fetches before it has said where its ports are, so its
// address counts as well.
func sits(n swarm.Node, g swarm.Segment) bool {
	if _, on := n.On(g.ID); on {
		return true
	}
	home, err := netip.ParseAddrPort(n.Address)
	return err == nil && g.Network.Contains(home.Addr())
}

// fetches are the artifacts on their way here, with their names.
func (s *services) fetches() []status.Fetch {
	view := s.state.View()
	var out []status.Fetch
	for _, t := range s.share.Transfers() {
		a, _ := view.Artifact(string(t.Digest))
		f := status.Fetch{Digest: string(t.Digest), Name: a.Name, Size: t.Size, Done: t.Done, Rate: t.Rate, Peers: t.Peers, Began: t.Began}
		if left, ok := f.Left(); ok {
			f.ETA = left.Seconds()
		}
		out = append(out, f)
	}
	return out
}

// exchange is what this node has moved.
func (s *services) exchange() status.Exchange {
	moved := s.share.Stats()
	out := status.Exchange{Fetched: moved.Fetched, Served: moved.Served, BadPieces: moved.BadPieces, Open: moved.Open, Stored: s.store.Size(), Bytes: s.freight.total()}
	for _, r := range s.repos.picture().Repos {
		out.Repositories.Disk += r.FromDisk
		out.Repositories.Segment += r.FromMirrors // a mirror asks those of its own segments only: repos.above, repos.beside
		out.Repositories.Upstream += r.FromUpstreams
	}
	return out
}

// Fetching are the artifacts that are on their way to this node now.
func (n *Node) Fetching() []status.Fetch {
	s := n.services.Load()
	if s == nil {
		return nil
	}
	return s.fetches()
}
