package mirror

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"sync"

	"offshoot/node/internal/archive"
)

// target is a file that verified metadata names.
type target struct {
	archive.File
	repo  *repo
	paths []string // where a source has it, best first
	by    string   // who vouches for it
	// root and name are set for metadata.
	root    *root
	name    string
	isIndex bool
}

// bases are the directories that names of packages in a root's indexes may be relative to: what stands before dists, or
// before repodata. In a flat repository that is any directory above, depending on how sources.list is written.
func (rt *root) bases() []string {
	if rt.isRPM() {
		return []string{path.Dir(rt.dir)}
	}
	if before, _, ok := strings.Cut("/"+rt.dir, "/dists/"); ok {
		return []string{path.Clean("." + before)}
	}
	out := []string{rt.dir}
	for d := rt.dir; d != "."; {
		d = path.Dir(d)
		out = append(out, d)
	}
	return out
}

// namesBase is what the names that the root itself gives are relative to.
func (rt *root) namesBase() string {
	if rt.isRPM() {
		return path.Dir(rt.dir)
	}
	return rt.dir
}

// lookupMetadata finds what the mutable files themselves name: lists of packages and what else lies beside them, first
// in what the client is pinned to, then in newer and older states.
func (r *repo) lookupMetadata(key, p string) *target {
	for _, rt := range r.allRoots() {
		rel, ok := below(rt.namesBase(), p)
		if !ok {
			continue
		}
		for _, s := range r.preferred(key, rt) {
			if f, name, ok := s.named(rel); ok {
				return r.metadata(rt, s, f, name, p)
			}
		}
	}
	return nil
}

// lookup finds what a path stands for. nil without an error: nothing names it.
func (r *repo) lookup(ctx context.Context, key, p string, hops int) (*target, error) {
	if t := r.lookupMetadata(key, p); t != nil {
		return t, nil
	}
	roots := r.allRoots()
	// What has been read already answers nearly always; only then the others are brought.
	var errs []error
	for _, bring := range []bool{false, true} {
		errs = nil
		for _, rt := range roots {
			if !rt.mayName(p) {
				continue
			}
			t, err := r.lookupPackage(ctx, rt, key, p, hops, bring)
			if t != nil {
				return t, nil
			}
			errs = append(errs, err)
		}
	}
	return nil, errors.Join(errs...) // with an index missing nobody can say that nothing names it
}

func (r *repo) metadata(rt *root, s *snapshot, f archive.File, name, asked string) *target {
	t := &target{File: f, repo: r, by: s.by, root: rt, name: name, isIndex: s.isIndex(name)}
	plain := path.Join(rt.namesBase(), name)
	if s.primary == "" {
		hashed := path.Join(path.Dir(plain), "by-hash/SHA256", f.Sum.String())
		if s.byHash || strings.Contains(asked, "/by-hash/") || len(r.m.others(r.m.o.Parents, r.Name)) > 0 { // a mirror of ours knows it always
			t.paths = append(t.paths, hashed)
		}
	}
	t.paths = append(t.paths, plain)
	return t
}

func (r *repo) lookupPackage(ctx context.Context, rt *root, key, p string, hops int, bring bool) (*target, error) {
	var errs []error
	for _, s := range r.preferred(key, rt) {
		for _, name := range rt.indexes(s) {
			f, ok := s.names[name]
			if !ok {
				continue
			}
			x, err := r.index(ctx, r.metadata(rt, s, f, name, name), hops, bring)
			if err != nil {
				errs = append(errs, err)
				continue
			}
			for _, base := range rt.bases() {
				rel, ok := below(base, p)
				if !ok {
					continue
				}
				if f, ok := x[rel]; ok {
					return &target{File: f, repo: r, paths: []string{p}, by: s.by}, nil
				}
			}
		}
	}
	return nil, errors.Join(errs...)
}

// mayName keeps a repository with many roots from looking where nothing can be.
func (rt *root) mayName(p string) bool {
	return slices.ContainsFunc(rt.bases(), func(base string) bool { _, ok := below(base, p); return ok })
}

// indexes are the lists of packages that count in a snapshot: those that clients have asked for. dnf may have taken
// another form of primary, and there is only one.
func (rt *root) indexes(s *snapshot) []string {
	if s.primary != "" {
		return []string{s.primary}
	}
	rt.mu.Lock()
	defer rt.mu.Unlock()
	var out []string
	for name := range rt.held {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// parsed is an index in memory; those of one digest are read once, also if that fails.
type parsed struct {
	mu   sync.Mutex
	done bool
	x    index
	err  error
}

func (p *parsed) isDone() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.done
}

// index returns the packages that an index lists; with bring it is fetched if it is not here, else then it is empty.
func (r *repo) index(ctx context.Context, t *target, hops int, bring bool) (index, error) {
	r.mu.Lock()
	p := r.parsed[t.Sum]
	if p == nil {
		p = &parsed{}
		r.parsed[t.Sum] = p
	}
	r.mu.Unlock()
	if bring && !p.isDone() {
		if err := r.bring(ctx, t, hops); err != nil {
			return nil, fmt.Errorf("index %s: %w", t.name, err)
		}
	}
	p.mu.Lock() // held for seconds at most: nothing is fetched under it
	defer p.mu.Unlock()
	if p.done {
		return p.x, p.err
	}
	c, err := r.m.o.Store.Open(t.Sum.String())
	if err != nil {
		if bring {
			return nil, fmt.Errorf("index %s: %w", t.name, err)
		}
		return nil, nil
	}
	defer func() { _ = c.Close() }()
	r.m.reading.Lock() // one at a time: that bounds the memory which decompression takes
	defer r.m.reading.Unlock()
	p.x, p.err = readIndex(t.name, c)
	p.done = true
	if p.err != nil {
		r.m.log.Warn("index cannot be read", "repo", r.Name, "index", t.name, "digest", t.Sum.String(), "error", p.err)
	}
	return p.x, p.err
}

// bring fetches an index into the store.
func (r *repo) bring(ctx context.Context, t *target, hops int) error {
	if r.m.o.Store.Has(t.Sum.String()) {
		return nil
	}
	f, err := r.m.join(t, hops)
	if err != nil {
		return err
	}
	reader := f.reader(ctx)
	defer reader.close()
	return f.landed(ctx)
}
