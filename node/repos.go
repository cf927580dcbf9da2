package node

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"offshoot/node/internal/mirror"
	"offshoot/node/internal/web"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// repos is this node's mirror of the swarm's package repositories. It follows what operators say about them.
type repos struct {
	replica *replica
	dir     string
	store   *share.Store
	alive   func(swarm.NodeID) bool
	others  func() []swarm.Node // that are alive, those that are warm first
	served  func(mirror.Served) // may be nil
	log     *slog.Logger

	mirror atomic.Pointer[mirror.Mirror] // nil while there is no repository
}

// Run keeps the mirror as the ledger says until ctx ends.
func (r *repos) Run(ctx context.Context) error {
	var have []swarm.Repo
	defer r.open(nil)
	for {
		changed := r.replica.state.Changed()
		if want := r.replica.state.View().Repos(); !slices.EqualFunc(have, want, swarm.Repo.Equal) {
			r.open(want)
			have = want
		}
		select {
		case <-ctx.Done():
			return nil
		case <-changed:
		}
	}
}

// open replaces the mirror by one of these repositories. What clients are getting from the former one breaks off; they ask
// again.
func (r *repos) open(all []swarm.Repo) {
	if former := r.mirror.Swap(nil); former != nil {
		former.Close()
	}
	if len(all) == 0 {
		return
	}
	o := mirror.Options{
		Dir: filepath.Join(r.dir, "mirror"), Store: shelf{r.store}, Logger: r.log, Parents: r.above, Beside: r.beside, Install: r.install,
		Served: r.served,
	}
	for _, repo := range all {
		o.Repos = append(o.Repos, mirror.Repo{
			Name: repo.Name, Upstreams: repo.Upstreams, Keyring: repo.Keyring, PassUnlisted: repo.Unlisted, Proxy: repo.Proxy,
			Rate: int64(repo.Limit),
		})
	}
	m, err := mirror.New(o)
	if err != nil {
		r.log.Error("no repository is mirrored here", "error", err)
		return
	}
	r.mirror.Store(m)
}

// wrap answers what is for the mirror, and leaves the rest to next.
func (r *repos) wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if m := r.mirror.Load(); m != nil {
			m.Wrap(next).ServeHTTP(w, q)
			return
		}
		next.ServeHTTP(w, q)
	})
}

// install names the installation that an address belongs to, "" for none.
func (r *repos) install(addr netip.Addr) string {
	view := r.replica.state.View()
	for _, s := range view.Segments() {
		if !s.Network.Contains(addr) {
			continue
		}
		if l, ok := view.Lease(s.ID, addr); ok {
			if m, ok := view.Machine(l.MAC); ok && m.State == swarm.MachineInstalling {
				return m.Install
			}
		}
	}
	return ""
}

// above is the mirror that this node asks instead of the upstreams, if there is one: that of the node on duty where this node
// has its address, which is nearer to the uplink.
func (r *repos) above() []string {
	view := r.replica.state.View()
	holder := func(id swarm.NodeID) swarm.NodeID {
		n, _ := view.Node(id)
		s, ok := view.Segment(homeOf(n))
		if !ok || s.Duty.Holder == id || !r.alive(s.Duty.Holder) {
			return ""
		}
		return s.Duty.Holder
	}
	self := r.replica.self()
	parent, ok := view.Node(parentOf(self, holder))
	if !ok {
		return nil
	}
	own, _ := view.Node(self)
	if base := mirrorOn(parent, homeOf(own)); base != "" {
		return []string{base}
	}
	return nil
}

// parentOf is who stands above a node, "" if nobody does. above may lead in a circle, when two nodes serve each other's segments:
// then the least of those on it stands at the top.
func parentOf(self swarm.NodeID, above func(swarm.NodeID) swarm.NodeID) swarm.NodeID {
	parent, least := above(self), self
	for at, seen := parent, []swarm.NodeID{self}; at != "" && !slices.Contains(seen[1:], at); at = above(at) {
		if at == self && least == self {
			return ""
		}
		least, seen = min(least, at), append(seen, at)
	}
	return parent
}

// homeOf is the segment on which a node has the address that others call it by.
func homeOf(n swarm.Node) string {
	home, err := netip.ParseAddrPort(n.Address)
	if err != nil {
		return ""
	}
	for _, p := range n.Ports {
		if p.Address.IsValid() && p.Address.Addr() == home.Addr() {
			return p.Segment
		}
	}
	return ""
}

// mostBeside bounds how many are asked for what no source has.
const mostBeside = 3

// beside are the mirrors of nodes that serve the same segments or could: one of them had the duty before.
func (r *repos) beside() []string {
	own, _ := r.replica.state.View().Node(r.replica.self())
	var out []string
	for _, n := range r.others() {
		at := slices.IndexFunc(own.Ports, func(p swarm.Port) bool { return p.Segment != "" && mirrorOn(n, p.Segment) != "" })
		if at >= 0 && len(out) < mostBeside {
			out = append(out, mirrorOn(n, own.Ports[at].Segment))
		}
	}
	return out
}

// mirrorOn is where a node's mirror is on a segment, "" if it is not there.
func mirrorOn(n swarm.Node, segment string) string {
	p, on := n.On(segment)
	if !on || !p.Address.IsValid() {
		return ""
	}
	return "http://" + netip.AddrPortFrom(p.Address.Addr(), web.Port).String()
}

// shelf lets the node's store be the mirror's.
type shelf struct{ *share.Store }

var _ mirror.Store = shelf{}

func (s shelf) Has(digest string) bool { return s.Store.Has(share.Digest(digest)) }

func (s shelf) Open(digest string) (io.ReadSeekCloser, error) {
	f, err := s.Store.Open(share.Digest(digest))
	if err != nil {
		return nil, err // not f: a nil file in the interface would not be nil
	}
	return f, nil
}

func (s shelf) Insert(ctx context.Context, in io.Reader) (string, error) {
	a, err := s.PublishReader(ctx, in)
	return string(a.Digest), err
}

// picture is the mirror for people and programs.
func (r *repos) picture() status.Mirror {
	out := status.Mirror{Repos: []status.Repo{}, Problems: []string{}}
	known := map[string]mirror.RepoStatus{}
	if m := r.mirror.Load(); m != nil {
		st := m.Status()
		out.Problems = st.Problems
		for _, repo := range st.Repos {
			known[repo.Name] = repo
		}
	}
	for _, repo := range r.replica.state.View().Repos() {
		s, here := known[repo.Name]
		line := status.Repo{
			Name: repo.Name, Upstreams: repo.Upstreams, Signed: len(repo.Keyring) > 0, Unlisted: repo.Unlisted, Proxy: repo.Proxy, Limit: int64(repo.Limit), Above: []string{}, Pins: s.Pins,
			FromDisk: s.FromStore, FromMirrors: s.FromParents + s.FromPeers, FromUpstreams: s.FromUpstreams, Mismatches: s.Mismatches,
		}
		if !here {
			out.Problems = append(out.Problems, repo.Name+" is not mirrored by this node yet; its log says why")
		}
		for _, source := range s.Sources {
			if source.Parent {
				line.Above = append(line.Above, strings.TrimSuffix(source.URL, "/repo/"+repo.Name+"/"))
			}
			if source.Error != "" {
				out.Problems = append(out.Problems, repo.Name+": "+source.Error)
			}
		}
		for _, root := range s.Roots {
			line.States = append(line.States, status.RepoState{Dir: root.Dir, Verified: root.Verified, Checked: root.Checked, ValidUntil: root.ValidUntil, Stale: root.Stale})
		}
		out.Repos = append(out.Repos, line)
	}
	return out
}
