package mirror

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"path"
	"slices"
	"sync"
	"time"

	"offshoot/node/internal/archive"
)

const (
	// maxMutable bounds InRelease and repomd.xml; Ubuntu's has 300 KB.
	maxMutable = 8 << 20
	// keepSnapshots is how many states of a root stay known beside those that are pinned, so that a client finds what it
	// read about some hours ago.
	keepSnapshots = 3
)

// errOlder: a source is behind what we have already.
var errOlder = errors.New("it has an older state of the repository than the one that is here")

// root is a directory with mutable metadata: dists/trixie, or repodata.
type root struct {
	repo *repo
	dir  string

	// one refreshes at a time; held without mu.
	refreshing chan struct{}

	mu       sync.Mutex
	snaps    []*snapshot // newest first
	held     map[string]bool
	detached bool // someone asked for Release or Release.gpg
	suspect  bool // sources have other files than the newest state names
	checked  time.Time
	tried    time.Time
	tries    int
	// triedDetached says that the last try looked for Release and Release.gpg, too.
	triedDetached bool
	err           error // of the last try
	from          *source
	etag          string
	modified      string // as the source said it
}

func newRoot(r *repo, dir string) *root {
	return &root{repo: r, dir: dir, refreshing: make(chan struct{}, 1), held: map[string]bool{}}
}

func (rt *root) isRPM() bool { return path.Base(rt.dir) == "repodata" }

// isIdle says whether a root is nothing but the memory of a failure that is over.
func (rt *root) isIdle() bool {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return len(rt.snaps) == 0 && rt.repo.m.o.Now().Sub(rt.tried).Abs() >= rt.repo.m.limits.retry
}

// newest is the latest snapshot, nil if there is none, and when it was last found to be so.
func (rt *root) newest() (*snapshot, time.Time) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if len(rt.snaps) == 0 {
		return nil, rt.checked
	}
	return rt.snaps[0], rt.checked
}

// states are the snapshots that are known, newest first.
func (rt *root) states() []*snapshot {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return slices.Clone(rt.snaps)
}

// current is the newest snapshot that can be had: revalidated unless that happened a moment ago. Who waits for a
// source waits for as long as limits say; then he gets what is here, and the revalidation goes on behind him.
func (rt *root) current(ctx context.Context, name string, hops int) (*snapshot, error) {
	m := rt.repo.m
	if tries, ok := rt.wants(name); ok {
		done := make(chan error, 1)
		if !m.spawn(func(ctx context.Context) { done <- rt.refresh(ctx, hops, tries) }) {
			done <- errClosed
		}
		patience := time.NewTimer(m.limits.patience)
		defer patience.Stop()
		late := patience.C
		if s, _ := rt.newest(); s == nil || s.files[name] == nil {
			late = nil // nothing to give instead
		}
		select {
		case err := <-done:
			if s, _ := rt.newest(); s == nil {
				return nil, err
			}
		case <-late:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	s, _ := rt.newest()
	if s == nil {
		rt.mu.Lock()
		defer rt.mu.Unlock()
		return nil, cmpErr(rt.err, errMissing)
	}
	return s, nil
}

func cmpErr(err, other error) error {
	if err != nil {
		return err
	}
	return other
}

// wants says whether it is time to ask a source, and how often that was done before.
func (rt *root) wants(name string) (tries int, ok bool) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	l := rt.repo.m.limits
	now := rt.repo.m.o.Now()
	if (name == releaseTxt || name == releaseGPG) && !rt.detached {
		rt.detached = true
		return rt.tries, len(rt.snaps) == 0 || rt.snaps[0].files[name] == nil
	}
	if len(rt.snaps) == 0 {
		return rt.tries, rt.err == nil || now.Sub(rt.tried).Abs() >= l.retry // who comes while one asks joins him
	}
	return rt.tries, (rt.suspect || now.Sub(rt.checked).Abs() >= l.fresh) && now.Sub(rt.tried).Abs() >= l.retry
}

// refresh asks the sources in order until one has a state that is not older than ours. Who has waited for another's try
// takes what that brought: a rack that starts at once does not ask a rack's worth of questions.
func (rt *root) refresh(ctx context.Context, hops, seen int) error {
	select {
	case rt.refreshing <- struct{}{}:
		defer func() { <-rt.refreshing }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	m := rt.repo.m
	rt.mu.Lock()
	if rt.tries != seen && rt.triedDetached == rt.detached {
		defer rt.mu.Unlock()
		return rt.err
	}
	rt.tried, rt.triedDetached = m.o.Now(), rt.detached
	rt.mu.Unlock()
	defer func() {
		rt.mu.Lock()
		defer rt.mu.Unlock()
		rt.tries++ // now, so that who came meanwhile sees that it has ended
	}()
	var errs []error
	missing := true
	for _, s := range rt.repo.sources() {
		err := rt.refreshFrom(ctx, s, hops)
		if err == nil {
			return nil
		}
		missing = missing && errors.Is(err, errMissing)
		errs = append(errs, err)
		if ctx.Err() != nil {
			break
		}
		m.log.Debug("metadata not taken", "repo", rt.repo.Name, "root", rt.dir, "source", s.base.Redacted(), "error", err)
	}
	if first, _ := rt.newest(); first == nil && !missing && ctx.Err() == nil { // what is old is better than nothing
		for _, s := range rt.repo.beside(hops) {
			if err := rt.refreshFrom(ctx, s, hops); err == nil {
				m.log.Info("metadata comes from a mirror beside this one", "repo", rt.repo.Name, "root", rt.dir, "mirror", s.base.Redacted())
				return nil
			}
		}
	}
	err := errors.Join(errs...)
	switch {
	case len(errs) == 0:
		err = errors.New("no source is configured")
	case missing:
		err = errMissing
	}
	rt.mu.Lock()
	rt.err = err
	rt.mu.Unlock()
	return err
}

func (rt *root) refreshFrom(ctx context.Context, s *source, hops int) error {
	rt.mu.Lock()
	etag, modified := rt.etag, rt.modified
	detached := rt.detached
	complete := len(rt.snaps) > 0 && (!detached || rt.isRPM() || rt.snaps[0].files[releaseTxt] != nil)
	if rt.from != s || !complete {
		etag, modified = "", ""
	}
	rt.mu.Unlock()
	head := inRelease
	if rt.isRPM() {
		head = repomdXML
	}
	files := map[string][]byte{}
	first, err := rt.fetch(ctx, s, head, etag, modified, hops)
	switch {
	case errors.Is(err, errUnchanged):
		return rt.accept(s, nil, nil)
	case errors.Is(err, errMissing) && !rt.isRPM():
		detached = true
	case err != nil:
		return err
	default:
		files[head] = first.data
	}
	var more []string
	if rt.isRPM() {
		more = []string{repomdASC}
	} else if detached {
		more = []string{releaseTxt, releaseGPG}
	}
	for _, name := range more {
		f, err := rt.fetch(ctx, s, name, "", "", hops)
		if errors.Is(err, errMissing) {
			continue
		}
		if err != nil {
			return err
		}
		files[name] = f.data
		if first == nil {
			first = f
			first.etag, first.modified = "", "" // of Release; InRelease may appear
		}
	}
	if len(files) == 0 {
		return errMissing
	}
	snap, err := newSnapshot(files, rt.repo.keys)
	if err != nil && files[inRelease] != nil && len(files) > 1 {
		// Release is of another state, or badly signed: then it is not given out. Who asked for it must not keep others
		// from what is good.
		rt.repo.m.log.Debug("Release is left out", "repo", rt.repo.Name, "root", rt.dir, "error", err)
		snap, err = newSnapshot(map[string][]byte{inRelease: files[inRelease]}, rt.repo.keys)
	}
	if err != nil {
		err = fmt.Errorf("%s: %w", s.base.Redacted(), err)
		s.note(err)
		return err
	}
	return rt.accept(s, snap, first)
}

var errUnchanged = errors.New("not modified")

// fetched is a mutable file with what its source said of it.
type fetched struct {
	data           []byte
	etag, modified string
}

func (rt *root) fetch(ctx context.Context, s *source, name, etag, modified string, hops int) (*fetched, error) {
	p := name
	if rt.dir != "." {
		p = rt.dir + "/" + name
	}
	// Without a keyring nothing checks this answer, so it must come from where the operator said.
	a, err := s.get(ctx, question{path: p, etag: etag, modified: modified, checked: rt.repo.keys != nil, hops: hops})
	if err != nil {
		return nil, err
	}
	defer func() { _ = a.Close() }()
	if a.StatusCode == http.StatusNotModified {
		return nil, errUnchanged
	}
	data, err := archive.ReadAll(a, maxMutable)
	if err != nil {
		err = fmt.Errorf("%s, %s: %w", s.base.Redacted(), p, err)
		s.note(err)
		return nil, err
	}
	rt.repo.count(s, int64(len(data)))
	return &fetched{data, a.Header.Get("ETag"), a.Header.Get("Last-Modified")}, nil
}

// accept makes a snapshot the newest; nil says that the newest still is.
func (rt *root) accept(s *source, snap *snapshot, f *fetched) error {
	m := rt.repo.m
	rt.mu.Lock()
	now := m.o.Now()
	if snap != nil {
		if len(rt.snaps) > 0 {
			old := rt.snaps[0]
			// A mirror that is behind, or somebody who replays: only a signature makes the date worth believing.
			if rt.repo.keys != nil && !snap.date.IsZero() && snap.date.Before(old.date) {
				rt.mu.Unlock()
				return fmt.Errorf("%s: %w", s.base.Redacted(), errOlder)
			}
			snap = old.merge(snap)
		}
		if t, err := http.ParseTime(f.modified); err == nil && snap.modified.IsZero() {
			snap.modified = t
		}
		if snap.modified.IsZero() {
			snap.modified = now.Truncate(time.Second)
		}
		rt.from, rt.etag, rt.modified = s, f.etag, f.modified
		if len(rt.snaps) == 0 || rt.snaps[0] != snap {
			rt.snaps = rt.repo.keep(rt.dir, append([]*snapshot{snap}, rt.snaps...))
		}
	}
	rt.checked, rt.err, rt.suspect = now, nil, false
	rt.mu.Unlock()
	rt.repo.prune()
	rt.persist()
	return nil
}

// merge returns old if the new files say nothing new, so that pins and indexes stay.
func (s *snapshot) merge(next *snapshot) *snapshot {
	same := maps.EqualFunc(s.files, next.files, func(a, b []byte) bool { return string(a) == string(b) })
	if same {
		return s
	}
	return next
}

// persist writes the newest state down. A disk that is full is said, and no reason to stop.
func (rt *root) persist() {
	rt.mu.Lock()
	if len(rt.snaps) == 0 {
		rt.mu.Unlock()
		return
	}
	s := rt.snaps[0]
	saved := savedRoot{Dir: rt.dir, Files: s.files, Modified: s.modified, Checked: rt.checked, Held: slices.Sorted(maps.Keys(rt.held))}
	rt.mu.Unlock()
	m := rt.repo.m
	m.saving.Lock()
	defer m.saving.Unlock()
	m.disk.note("write metadata down", save(rootFile(m.o.Dir, rt.repo.Name, rt.dir), saved))
}

// hold remembers an index that a client has asked for: packages are looked up in it, also after a restart.
func (rt *root) hold(name string) {
	rt.mu.Lock()
	known := rt.held[name]
	rt.held[name] = true
	rt.mu.Unlock()
	if !known {
		rt.persist()
	}
}
