package node

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"offshoot/node/internal/workset"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// Prefetch fetches everything that a profile needs to this node.
func (d *desk) Prefetch(ctx context.Context, actor, profile string, say func(status.Prefetch)) error {
	e, err := newErrand(d.s.state.View(), profile, d.s.share.Has)
	if err != nil {
		return err
	}
	d.s.node.log.Info("fetching what a profile needs, as was asked", "profile", profile, "by", actor)
	e.fetch, e.pass = d.s.fetch, d.s.sets.pass
	return e.run(ctx, say)
}

// errand is all that a profile needs, on its way to this node.
type errand struct {
	artifacts []swarm.Artifact
	set       swarm.WorkingSet // of no files if there is none
	had       int64            // bytes of the artifacts that were here before

	fetch func(ctx context.Context, a swarm.Artifact, progress func(int64)) error
	pass  func(ctx context.Context, set swarm.WorkingSet, step func(workset.File, error)) workset.Pass

	mu   sync.Mutex
	what string
	done int64 // bytes of what has come as a whole
	part int64 // bytes of what is being fetched
}

func newErrand(view swarm.View, name string, here func(share.Digest) bool) (*errand, error) {
	p, ok := view.Profile(name)
	if !ok {
		var known []string
		for _, p := range view.Profiles() {
			known = append(known, p.Name)
		}
		return nil, fmt.Errorf("profile %q: %w; there are: %q", name, swarm.ErrNotFound, known)
	}
	e := &errand{what: "profile " + p.Name}
	seen := map[string]bool{"": true}
	for _, digest := range p.Needs() {
		if seen[digest] {
			continue
		}
		seen[digest] = true
		a, ok := view.Artifact(digest)
		if !ok {
			return nil, fmt.Errorf("artifact %s, which profile %s needs: %w; the seed that has it writes it down when it is started again", digest, p.Name, swarm.ErrNotFound)
		}
		if here(share.Digest(digest)) {
			e.had += a.Size
		}
		e.artifacts = append(e.artifacts, a)
	}
	e.set, _ = view.WorkingSet(p.Name)
	return e, nil
}

// sayPause is how often who waits hears how far it is.
const sayPause = 500 * time.Millisecond

// run fetches until all is here, and says how far it is.
func (e *errand) run(ctx context.Context, say func(status.Prefetch)) error {
	type outcome struct {
		gone int
		err  error
	}
	ended := make(chan outcome, 1)
	go func() {
		gone, err := e.bring(ctx)
		ended <- outcome{gone, err}
	}()
	tick := time.NewTicker(sayPause)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			say(e.progress())
		case o := <-ended: // also when ctx has ended: nothing of ours goes on
			last := e.progress()
			say(last)
			if o.err == nil {
				last.Ended, last.Gone = true, o.gone
				say(last)
			}
			return o.err
		}
	}
}

func (e *errand) progress() status.Prefetch {
	e.mu.Lock()
	defer e.mu.Unlock()
	p := status.Prefetch{What: e.what, Done: e.done + e.part, Had: e.had, Total: e.set.Bytes}
	for _, a := range e.artifacts {
		p.Total += a.Size
	}
	return p
}

// now is what is being fetched from here on.
func (e *errand) now(what string) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.what, e.part = what, 0
}

// came is what has come as a whole.
func (e *errand) came(bytes int64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.done, e.part = e.done+bytes, 0
}

func (e *errand) bring(ctx context.Context) (gone int, err error) {
	for _, a := range e.artifacts {
		e.now(a.Name)
		err := e.fetch(ctx, a, func(done int64) {
			e.mu.Lock()
			defer e.mu.Unlock()
			e.part = done
		})
		if err != nil {
			return 0, fmt.Errorf("artifact %s: %w; next: %s", a.Name, err, nextStep(err))
		}
		e.came(a.Size)
	}
	if e.set.Files == 0 {
		return 0, nil
	}
	e.now("working set")
	p := e.pass(ctx, e.set, func(f workset.File, err error) {
		if err == nil {
			e.came(f.Size)
		}
	})
	if p.Failed > 0 {
		return p.Gone, fmt.Errorf("%d of %d files of the working set did not come: %w; next: %s", p.Failed, p.Files, p.Err, nextStep(p.Err))
	}
	return p.Gone, nil
}

// nextStep is what an operator can do about something that did not come.
func nextStep(err error) string {
	switch {
	case errors.Is(err, share.ErrNotFound):
		return "no node that can be reached has it: bring one back that has (offshoot swarm status), then ask again"
	case errors.Is(err, share.ErrDiskFull):
		return "make room on this node's disk, then ask again"
	case errors.Is(err, context.Canceled):
		return "ask again; what has come is kept"
	}
	return "offshoot mirror status and the node's log say more; ask again when the source is back"
}
