package mirror

import (
	"fmt"
	"time"
)

// Status is the mirror seen from outside.
type Status struct {
	Repos []RepoStatus `json:"repos"`
	// Problems are sentences for people: a disk that is full, metadata that is stale.
	Problems []string `json:"problems"`
	// Arriving is the number of files on their way.
	Arriving int `json:"arriving"`
}

// RepoStatus is one repository.
type RepoStatus struct {
	Name string `json:"name"`
	// Signed says whether a keyring vouches for it; else it is held to its own sums only.
	Signed  bool           `json:"signed"`
	Roots   []RootStatus   `json:"roots"`
	Sources []SourceStatus `json:"sources"`
	// Pins is how many installations or clients are held to one state.
	Pins int `json:"pins"`
	// Bytes by where they came from: the disk, peers, parents' mirrors, upstreams.
	FromStore     int64 `json:"from_store"`
	FromPeers     int64 `json:"from_peers"`
	FromParents   int64 `json:"from_parents"`
	FromUpstreams int64 `json:"from_upstreams"`
	// Mismatches counts files that no source had as the metadata names them.
	Mismatches int64 `json:"mismatches"`
}

// RootStatus is the newest state of one directory with metadata.
type RootStatus struct {
	Dir        string    `json:"dir"`
	Verified   string    `json:"verified"` // "signed by <key>" or "unverified"
	Date       time.Time `json:"date,omitzero"`
	ValidUntil time.Time `json:"valid_until,omitzero"`
	// Checked is when a source last said that this is the newest.
	Checked time.Time `json:"checked"`
	// Stale says why it may be out of date, "" if it is not.
	Stale  string `json:"stale,omitempty"`
	States int    `json:"states"`
}

// SourceStatus is one upstream or parent.
type SourceStatus struct {
	URL    string    `json:"url"`
	Parent bool      `json:"parent,omitempty"`
	Bytes  int64     `json:"bytes"`
	Failed time.Time `json:"failed,omitzero"`
	Error  string    `json:"error,omitempty"`
}

// Status looks at all repositories. It asks nobody.
func (m *Mirror) Status() Status {
	m.mu.Lock()
	st := Status{Arriving: len(m.flights), Problems: []string{}, Repos: []RepoStatus{}}
	m.mu.Unlock()
	st.Problems = append(st.Problems, m.disk.problems()...)
	for _, r := range m.repos {
		rs := r.status()
		for _, root := range rs.Roots {
			if root.Stale != "" {
				st.Problems = append(st.Problems, fmt.Sprintf("%s/%s is stale: %s", r.Name, root.Dir, root.Stale))
			}
		}
		st.Repos = append(st.Repos, rs)
	}
	return st
}

func (r *repo) status() RepoStatus {
	rs := RepoStatus{
		Name: r.Name, Signed: r.keys != nil, Roots: []RootStatus{}, Sources: []SourceStatus{},
		FromStore: r.fromStore.Load(), FromPeers: r.fromPeers.Load(), FromParents: r.fromParents.Load(),
		FromUpstreams: r.fromUpstreams.Load(), Mismatches: r.wrong.Load(),
	}
	for _, rt := range r.allRoots() {
		if s, ok := rt.status(); ok {
			rs.Roots = append(rs.Roots, s)
		}
	}
	for _, s := range r.sources() {
		ss := SourceStatus{URL: s.base.Redacted(), Parent: s.parent, Bytes: s.bytes.Load()}
		if at, err := s.downSince(); err != nil {
			ss.Failed, ss.Error = at, err.Error()
		}
		rs.Sources = append(rs.Sources, ss)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	rs.Pins = len(r.pins)
	return rs
}

func (rt *root) status() (RootStatus, bool) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if len(rt.snaps) == 0 {
		return RootStatus{}, false
	}
	s := rt.snaps[0]
	out := RootStatus{Dir: rt.dir, Verified: s.by, Date: s.date, ValidUntil: s.until, Checked: rt.checked, States: len(rt.snaps)}
	switch {
	case !s.until.IsZero() && rt.checked.After(s.until): // what expired since nobody asked for it is looked for when somebody does
		out.Stale = "its publisher declared it valid until " + s.until.Format(time.DateTime) + " only: clients will refuse it"
	case rt.err != nil:
		out.Stale = fmt.Sprintf("checked %s, since then: %v", rt.checked.Format(time.DateTime), rt.err)
	case rt.suspect:
		out.Stale = "sources have other files than it names"
	}
	return out, true
}
