package node

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"offshoot/node/internal/mirror"
	"offshoot/node/internal/workset"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// sets keeps the working sets of the profiles: it writes down what installs fetched here, and fetches ahead what any node wrote
// down.
type sets struct {
	*replica
	store    *share.Store
	fetch    func(ctx context.Context, d share.Digest, size int64, progress func(int64)) error
	mirror   func() *mirror.Mirror   // nil while there is no repository
	fits     func(bytes int64) error // says that there is no room to fetch ahead; nil: there is
	alone    bool                    // this node fetches nothing ahead: it expects to leave
	recorder workset.Recorder
	wake     chan struct{} // has room for one: who waits for the sets may look again
	log      *slog.Logger

	kept setStates
}

// setStates is how far this node is with each working set, by the digest of its list: a list that has grown is another one.
type setStates struct {
	mu  sync.Mutex
	all map[string]*setState
}

// setState is one of them.
type setState struct {
	progress workset.Progress
	digests  []string // of its files, once the list was here
	lost     int      // files that were thrown away since
	under    bool     // a pass is under way
	here     int      // files, of the pass under way
}

// with runs f on the state of a list, under the lock.
func (k *setStates) with(digest string, f func(*setState)) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.all == nil {
		k.all = map[string]*setState{}
	}
	if k.all[digest] == nil {
		k.all[digest] = &setState{}
	}
	f(k.all[digest])
}

func (k *setStates) get(digest string) setState {
	k.mu.Lock()
	defer k.mu.Unlock()
	if st := k.all[digest]; st != nil {
		return *st
	}
	return setState{}
}

// only forgets lists that are no profile's any more.
func (k *setStates) only(sets []swarm.WorkingSet) {
	wanted := map[string]bool{}
	for _, set := range sets {
		wanted[set.Digest] = true
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	maps.DeleteFunc(k.all, func(digest string, _ *setState) bool { return !wanted[digest] })
}

// The pauses between two passes over a list that is not complete: while the node is kept cold for it, and afterwards.
const (
	passPause = 10 * time.Second
	latePause = 5 * time.Minute
)

// ahead fetches the working sets of all profiles, now and whenever they change.
func (s *sets) ahead(ctx context.Context) error {
	if s.alone {
		return nil
	}
	for {
		changed := s.state.Changed()
		all := s.state.View().WorkingSets()
		s.kept.only(all)
		var pause time.Duration
		for _, set := range all {
			st := s.kept.get(set.Digest)
			if !st.progress.Complete() {
				s.pass(ctx, set, nil)
				st = s.kept.get(set.Digest)
				s.note()
			}
			switch {
			case !st.progress.Settled():
				pause = passPause
			case !st.progress.Complete() && pause == 0:
				pause = latePause
			}
		}
		if !s.rest(ctx, changed, all, pause) {
			return nil
		}
	}
}

// rest waits for other working sets than these, or until it is time to try them again, never if pause is 0. The state changes
// often, and a source that is gone must not be asked each time. It is false when ctx has ended.
func (s *sets) rest(ctx context.Context, changed <-chan struct{}, tried []swarm.WorkingSet, pause time.Duration) bool {
	var retry <-chan time.Time
	if pause > 0 {
		retry = time.After(pause)
	}
	for {
		select {
		case <-ctx.Done():
			return false
		case <-retry:
			return true
		case <-changed:
		}
		changed = s.state.Changed()
		if !slices.Equal(s.state.View().WorkingSets(), tried) {
			return true
		}
	}
}

// note wakes who waits for the sets.
func (s *sets) note() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// settled says that no working set keeps this node from being warm.
func (s *sets) settled(view swarm.View) bool {
	if s.alone {
		return true
	}
	for _, set := range view.WorkingSets() {
		if !s.kept.get(set.Digest).progress.Settled() {
			return false
		}
	}
	return true
}

// errNoMirror: a repository of the set is not mirrored by this node yet.
var errNoMirror = errors.New("this node does not mirror repositories yet")

// errDropped: a repository of the set is not mirrored by the swarm any more.
var errDropped = errors.New("its repository is no longer mirrored")

// pass tries once to have all files of a working set here. step, if set, hears of each of them.
func (s *sets) pass(ctx context.Context, set swarm.WorkingSet, step func(workset.File, error)) workset.Pass {
	started := time.Now()
	l, err := s.list(ctx, set)
	if err != nil {
		p := workset.Pass{Files: set.Files, Failed: set.Files, Err: fmt.Errorf("its list: %w", err)}
		s.ended(ctx, set, p, started)
		return p
	}
	var digests []string
	for _, f := range l {
		if f.Digest != "" {
			digests = append(digests, f.Digest)
		}
	}
	s.kept.with(set.Digest, func(st *setState) { st.under, st.here, st.lost, st.digests = true, 0, 0, digests })
	gone := func(err error) bool { return mirror.Missing(err) || errors.Is(err, errDropped) }
	p := workset.Walk(ctx, l, s.bring, gone, func(f workset.File, err error) {
		if err == nil {
			s.kept.with(set.Digest, func(st *setState) { st.here++ })
		}
		if step != nil {
			step(f, err)
		}
	})
	s.ended(ctx, set, p, started)
	return p
}

func (s *sets) ended(ctx context.Context, set swarm.WorkingSet, p workset.Pass, started time.Time) {
	s.kept.with(set.Digest, func(st *setState) {
		if st.under = false; ctx.Err() == nil { // a pass that was broken off says nothing
			st.progress.Add(p)
		}
	})
	s.log.Info("working set was fetched ahead", "profile", set.Profile, "files", p.Files, "here", p.Here, "gone", p.Gone, "failed", p.Failed, "took", time.Since(started), "error", p.Err)
}

// bring has one file here.
func (s *sets) bring(ctx context.Context, f workset.File) error {
	if _, ok := s.state.View().Repo(f.Repo); !ok {
		return errDropped
	}
	m := s.mirror()
	if m == nil {
		return errNoMirror
	}
	if s.fits != nil && (f.Digest == "" || !s.store.Has(share.Digest(f.Digest))) {
		if err := s.fits(f.Size); err != nil {
			return err
		}
	}
	return m.Prefetch(ctx, f.Repo, f.Path)
}

// digests are the lists of all working sets, and their files as far as this node has read the lists.
func (s *sets) digests(view swarm.View) (lists, files []string) {
	for _, set := range view.WorkingSets() {
		lists = append(lists, set.Digest)
		files = append(files, s.kept.get(set.Digest).digests...)
	}
	return lists, files
}

// lost hears of files that were thrown away to make room. They are not fetched again by themselves: there was no room for them.
func (s *sets) lost(gone map[string]bool) {
	s.kept.mu.Lock()
	defer s.kept.mu.Unlock()
	for _, st := range s.kept.all {
		for _, digest := range st.digests {
			if gone[digest] {
				st.lost++
			}
		}
	}
}

// picture is the working sets for people and programs.
func (s *sets) picture(view swarm.View) []status.WorkingSet {
	out := []status.WorkingSet{}
	for _, set := range view.WorkingSets() {
		st := s.kept.get(set.Digest)
		line := status.WorkingSet{Profile: set.Profile, Digest: set.Digest, Files: set.Files, Bytes: set.Bytes, Here: st.progress.Last.Here, Gone: st.progress.Last.Gone}
		switch {
		case st.under:
			line.State, line.Here = status.SetFetching, st.here
		case st.progress.Complete():
			line.State = status.SetComplete
		case s.alone:
			line.State = status.SetLeft
		default:
			line.State = status.SetIncomplete
		}
		if err := st.progress.Last.Err; err != nil {
			line.Problem = err.Error()
		}
		if st.lost > 0 && !st.under {
			line.State, line.Here = status.SetIncomplete, max(0, line.Here-st.lost)
			line.Problem = fmt.Sprintf("%d files were thrown away to make room", st.lost)
		}
		out = append(out, line)
	}
	return out
}
