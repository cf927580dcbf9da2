package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"

	"offshoot/node/internal/archive"
)

const (
	// rounds is how often each source is asked for a file before it is given up.
	rounds = 2
	// copySize is one step of a file on its way. Readers are woken once for each.
	copySize = 128 << 10
)

// errBusy: a bound of ours, not the source's fault.
var errBusy = errors.New("too many files are on their way: ask again")

// flightKey keeps repositories apart, so that one with bad sources spoils no file of another.
type flightKey struct {
	repo *repo
	file archive.File
}

// join takes part in the flight of a file, which begins if there is none. The caller is counted as a user, and has to
// close a reader in the end.
func (m *Mirror) join(t *target, hops int) (*flight, error) {
	key := flightKey{t.repo, t.File}
	m.mu.Lock()
	defer m.mu.Unlock()
	if f := m.flights[key]; f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.users++
		return f, nil
	}
	if len(m.flights) >= m.limits.flights {
		return nil, errBusy
	}
	f := newFlight(t.File)
	started := m.spawn(func(ctx context.Context) {
		err := m.fill(ctx, f, t, hops)
		// Only now: who comes later finds it in the store.
		m.mu.Lock()
		delete(m.flights, key)
		m.mu.Unlock()
		f.end(err)
	})
	if !started {
		return nil, errClosed
	}
	f.users++
	m.flights[key] = f
	return f, nil
}

// fill brings a file: from the store, from peers, or from the sources; and keeps it.
func (m *Mirror) fill(ctx context.Context, f *flight, t *target, hops int) error {
	digest := t.Sum.String()
	if m.o.Store.Has(digest) {
		f.inStore()
		return nil
	}
	if m.o.Fetch != nil {
		err := m.o.Fetch(ctx, digest, t.Size)
		if err == nil && m.o.Store.Has(digest) {
			t.repo.fromPeers.Add(t.Size)
			f.inStore()
			return nil
		}
		m.log.Debug("peers did not bring a file", "digest", digest, "error", err)
	}
	release, err := m.disk.reserve(t.Size)
	if err != nil {
		return err
	}
	defer release()
	scratch, err := m.disk.scratch(t.Size)
	if err != nil {
		m.disk.note("keep files", err)
		return err
	}
	f.open(scratch)
	p := pull{m: m, f: f, t: t, hops: hops, from: map[*source]bool{}}
	if err := p.run(ctx); err != nil {
		return err
	}
	if err := m.keep(ctx, f, digest); err != nil {
		m.disk.note("keep files", err) // whoever waits gets it all the same
		return nil
	}
	m.disk.note("keep files", nil)
	f.inStore()
	return nil
}

func (m *Mirror) keep(ctx context.Context, f *flight, digest string) error {
	whole, err := f.scratch.whole()
	if err != nil {
		return err
	}
	// It has cost a transfer, and clients may have it already: Close waits for these last steps.
	got, err := m.o.Store.Insert(context.WithoutCancel(ctx), whole)
	if err == nil && got != digest {
		err = fmt.Errorf("%s became %s between disk and store", digest, got)
	}
	return noRoom(err)
}

// pull is one file on its way from the sources.
type pull struct {
	m    *Mirror
	f    *flight
	t    *target
	hops int
	from map[*source]bool // whose bytes the flight has
	// alone is set after a mismatch that could not be blamed on one source: from then on the file comes from one only.
	alone bool
}

func (p *pull) run(ctx context.Context) error {
	if p.f.Size == 0 && p.f.prove() {
		return nil
	}
	var errs []error
	wrong := false
	for range rounds {
		missing := true
		sources := p.t.repo.sources()
		for i, s := range append(sources, p.t.repo.beside(p.hops)...) {
			err := p.try(ctx, s)
			if err == nil {
				return nil
			}
			if ctx.Err() != nil || errors.Is(err, errNoRoom) {
				if errors.Is(err, errNoRoom) {
					p.m.disk.note("keep files", err)
				}
				return err
			}
			wrong = wrong || errors.Is(err, errWrongBytes)
			missing = missing && (i >= len(sources) || errors.Is(err, errMissing))
			errs = append(errs, err)
			p.m.log.Debug("file did not come", "repo", p.t.repo.Name, "path", p.t.paths[0], "source", s.base.Redacted(), "error", err)
		}
		if missing {
			errs = []error{errMissing}
			break
		}
	}
	if wrong {
		p.t.repo.wrong.Add(1)
		p.t.repo.doubt()
	}
	return errors.Join(errs...)
}

// try takes from one source what is missing, and looks at the whole.
func (p *pull) try(ctx context.Context, s *source) error {
	if p.alone && p.f.have > 0 {
		p.restart()
	}
	err := p.take(ctx, s)
	if err == nil {
		if p.f.prove() {
			return nil
		}
		err = fmt.Errorf("%s: %w", s.base.Redacted(), errWrongBytes)
	}
	if errors.Is(err, errWrongBytes) {
		if len(p.from) > 1 {
			p.alone = true
		} else {
			p.m.log.Warn("source sends wrong bytes", "repo", p.t.repo.Name, "path", p.t.paths[0], "source", s.base.Redacted(), "error", err)
			s.note(err)
		}
		p.restart()
	}
	return err
}

func (p *pull) restart() {
	clear(p.from)
	p.f.restart()
}

// take appends what s has from where the flight stands.
func (p *pull) take(ctx context.Context, s *source) error {
	for _, path := range p.t.paths {
		a, err := s.get(ctx, question{path: path, from: p.f.have, checked: true, hops: p.hops})
		if errors.Is(err, errMissing) {
			continue
		}
		if err != nil {
			return err
		}
		before := p.f.have
		err = p.copy(a)
		_ = a.Close()
		p.t.repo.count(s, p.f.have-before)
		if p.f.have > before {
			p.from[s] = true
		}
		if err != nil && ctx.Err() == nil && !errors.Is(err, errNoRoom) {
			err = fmt.Errorf("%s: %w", s.base.Redacted(), err)
			s.note(err)
		}
		return err
	}
	return fmt.Errorf("%s: %w", s.base.Redacted(), errMissing)
}

func (p *pull) copy(a *answer) error {
	skip := int64(0)
	if a.StatusCode == http.StatusOK {
		skip = p.f.have // it does not know ranges, and begins again
	}
	if err := announced(a, p.f.Size-p.f.have+skip); err != nil {
		return err
	}
	if _, err := io.CopyN(io.Discard, a, skip); err != nil {
		return noEOF(err)
	}
	if _, err := io.CopyBuffer(onlyWriter{p.f}, a, make([]byte, copySize)); err != nil {
		return err
	}
	if p.f.have < p.f.Size {
		return io.ErrUnexpectedEOF
	}
	return nil
}

// announced compares the length that a source names with the one that metadata names.
func announced(a *answer, want int64) error {
	if a.ContentLength >= 0 && a.ContentLength != want {
		return fmt.Errorf("%w: it announces %d bytes where %d belong", errWrongBytes, a.ContentLength, want)
	}
	return nil
}

type onlyWriter struct{ io.Writer }
