package mirror

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"offshoot/node/internal/archive"
)

// repo is one repository at work.
type repo struct {
	Repo
	m         *Mirror
	keys      *archive.Keyring
	upstreams []*source
	misses    *misses
	luck      *bucket // requests upstream that may turn out to be in vain

	fromStore, fromPeers, fromParents, fromUpstreams, wrong atomic.Int64 // bytes; wrong counts files

	mu     sync.Mutex
	roots  map[string]*root
	pins   map[string]*pin
	parsed map[archive.Sum]*parsed
}

// pin holds an installation to one state of each root.
type pin struct {
	states      map[string]*snapshot // by directory
	began, used time.Time
}

func (m *Mirror) newRepo(o Repo) (*repo, error) {
	if !repoName.MatchString(o.Name) {
		return nil, errors.New("its name has to be lower case letters, digits, dots and hyphens")
	}
	if slices.ContainsFunc(m.repos, func(r *repo) bool { return r.Name == o.Name }) {
		return nil, errors.New("it is configured twice")
	}
	if len(o.Upstreams) == 0 && m.o.Parents == nil {
		return nil, errors.New("it has no upstream")
	}
	r := &repo{
		Repo: o, m: m, roots: map[string]*root{}, pins: map[string]*pin{}, parsed: map[archive.Sum]*parsed{},
		misses: newMisses(4096, m.limits.missLife, m.o.Now), luck: newBucket(m.limits.missRate, m.limits.missFree, m.o.Now),
	}
	var err error
	if r.keys, err = archive.ReadKeyring(o.Keyring, m.o.Now); err != nil {
		return nil, err
	}
	proxy, err := proxyOf(o)
	if err != nil {
		return nil, err
	}
	client := &http.Client{Transport: transport(proxy, true), CheckRedirect: noRedirect}
	strange := &http.Client{Transport: transport(proxy, false), CheckRedirect: noRedirect}
	pace := newBucket(float64(o.Rate), float64(o.Rate), m.o.Now)
	for _, u := range o.Upstreams {
		s, err := m.newSource(u, pace, client, strange)
		if err != nil {
			return nil, err
		}
		r.upstreams = append(r.upstreams, s)
	}
	r.restore()
	return r, nil
}

// proxyOf reads the proxy's URL, nil if there is none. Its error does not repeat it: a password may be in it.
func proxyOf(o Repo) (*url.URL, error) {
	if o.Proxy == "" {
		return nil, nil
	}
	u, err := url.Parse(o.Proxy)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.User != nil {
		return nil, errors.New("its proxy is no URL as in http://host:3128, or has a password in it")
	}
	return u, nil
}

// restore reads what an earlier run wrote down, and checks it again: the keyring may have changed.
func (r *repo) restore() {
	files, _ := filepath.Glob(filepath.Join(r.m.o.Dir, "repos", r.Name, "*.json")) // the pattern is good
	for _, p := range files {
		saved, err := load(p)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		var snap *snapshot
		if err == nil {
			snap, err = newSnapshot(saved.Files, r.keys)
		}
		if err != nil {
			r.m.log.Warn("metadata of an earlier run is not used", "repo", r.Name, "file", p, "error", err)
			continue
		}
		if snap.modified.IsZero() {
			snap.modified = saved.Modified
		}
		rt := newRoot(r, saved.Dir)
		rt.snaps, rt.checked = []*snapshot{snap}, saved.Checked
		rt.detached = saved.Files[releaseTxt] != nil
		for _, name := range saved.Held {
			rt.held[name] = true
		}
		r.roots[saved.Dir] = rt
	}
}

// sources are who is asked, in order; who has failed a moment ago comes last.
func (r *repo) sources() []*source {
	out := r.m.others(r.m.o.Parents, r.Name)
	if len(out) == 0 {
		out = slices.Clone(r.upstreams)
	}
	now := r.m.o.Now()
	down := func(s *source) int {
		if at, err := s.downSince(); err != nil && now.Sub(at).Abs() < r.m.limits.down {
			return 1
		}
		return 0
	}
	slices.SortStableFunc(out, func(a, b *source) int { return cmp.Compare(down(a), down(b)) })
	return out
}

// beside are mirrors that may have what no source gives. Who asks for his own clients only asks them: else two that lack
// something would ask each other.
func (r *repo) beside(hops int) []*source {
	if hops > 0 {
		return nil
	}
	return r.m.others(r.m.o.Beside, r.Name)
}

func (r *repo) count(s *source, n int64) {
	if s.parent {
		r.fromParents.Add(n)
	} else {
		r.fromUpstreams.Add(n)
	}
}

// allRoots are the roots, those deepest in the tree first.
func (r *repo) allRoots() []*root {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := make([]*root, 0, len(r.roots))
	for _, rt := range r.roots {
		out = append(out, rt)
	}
	slices.SortFunc(out, func(a, b *root) int {
		return cmp.Or(cmp.Compare(len(b.dir), len(a.dir)), cmp.Compare(a.dir, b.dir))
	})
	return out
}

// root finds or makes one. Made ones have to be dropped again if nothing is there; those that could not be asked for
// stay for a while, with the reason.
func (r *repo) root(dir string) (*root, error) {
	if rt, full := r.findRoot(dir); rt != nil || !full {
		return rt, nil
	}
	for _, rt := range r.allRoots() { // not under r.mu: a root that is being refreshed takes it
		if rt.isIdle() {
			r.drop(rt)
		}
	}
	rt, full := r.findRoot(dir)
	if full {
		return nil, fmt.Errorf("%w: more than %d directories with metadata", errBusy, r.m.limits.roots)
	}
	return rt, nil
}

func (r *repo) findRoot(dir string) (rt *root, full bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if rt := r.roots[dir]; rt != nil {
		return rt, false
	}
	if len(r.roots) >= r.m.limits.roots {
		return nil, true
	}
	rt = newRoot(r, dir)
	r.roots[dir] = rt
	return rt, false
}

func (r *repo) hasRoot(dir string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.roots[dir] != nil
}

// adopt brings a root back that somebody dropped while another found something in it.
func (r *repo) adopt(rt *root) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roots[rt.dir] == nil {
		r.roots[rt.dir] = rt
	}
}

// drop forgets a root that turned out to be empty.
func (r *repo) drop(rt *root) {
	if s, _ := rt.newest(); s != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.roots[rt.dir] == rt {
		delete(r.roots, rt.dir)
	}
}

// pinned is the state that a key is held to; nil if it is free. A state that its publisher has limited in time is not
// held longer than that: clients would refuse it.
func (r *repo) pinned(key, dir string) *snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, now := r.pins[key], r.m.o.Now()
	if p == nil {
		return nil
	}
	if now.Sub(p.used) > r.m.limits.pinIdle || now.Sub(p.began) > r.m.limits.pinMax {
		delete(r.pins, key)
		return nil
	}
	p.used = now
	s := p.states[dir]
	if s != nil && !s.until.IsZero() && now.After(s.until) {
		delete(p.states, dir)
		return nil
	}
	return s
}

// pin holds a key to a state, unless it is held already. No key, no pin.
func (r *repo) pin(key, dir string, s *snapshot) {
	if key == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	now := r.m.o.Now()
	p := r.pins[key]
	if p == nil {
		if len(r.pins) >= r.m.limits.pins {
			r.unpinOldest()
		}
		p = &pin{states: map[string]*snapshot{}, began: now}
		r.pins[key] = p
	}
	p.used = now
	p.states[dir] = s
}

// unpinOldest makes room. The caller holds mu.
func (r *repo) unpinOldest() {
	oldest := ""
	for key, p := range r.pins {
		if oldest == "" || p.used.Before(r.pins[oldest].used) {
			oldest = key
		}
	}
	delete(r.pins, oldest)
}

// preferred are the states of a root in the order in which a client is to see them.
func (r *repo) preferred(key string, rt *root) []*snapshot {
	states := rt.states()
	if s := r.pinned(key, rt.dir); s != nil {
		states = slices.DeleteFunc(states, func(o *snapshot) bool { return o == s })
		states = slices.Insert(states, 0, s)
	}
	return states
}

// keep is what stays known of a root's states: the newest, and those that someone is held to.
func (r *repo) keep(dir string, states []*snapshot) []*snapshot {
	r.mu.Lock()
	defer r.mu.Unlock()
	held := map[*snapshot]bool{}
	now := r.m.o.Now()
	for key, p := range r.pins {
		if now.Sub(p.used) > r.m.limits.pinIdle {
			delete(r.pins, key)
			continue
		}
		held[p.states[dir]] = true
	}
	var out []*snapshot
	for i, s := range states {
		if i < keepSnapshots || held[s] {
			out = append(out, s)
		}
	}
	return out
}

// prune forgets parsed indexes that no known state lists.
func (r *repo) prune() {
	listed := map[archive.Sum]bool{}
	for _, rt := range r.allRoots() {
		for _, s := range rt.states() {
			for _, name := range rt.indexes(s) {
				if f, ok := s.names[name]; ok {
					listed[f.Sum] = true
				}
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	for digest := range r.parsed {
		if !listed[digest] {
			delete(r.parsed, digest)
		}
	}
}

// doubt makes the next new client ask for metadata again: sources have other files than it says.
func (r *repo) doubt() {
	for _, rt := range r.allRoots() {
		rt.mu.Lock()
		rt.suspect = true
		rt.mu.Unlock()
	}
}
