// Package handoff is all that turns a freshly installed machine into a node that carries duty, and lets the older node go.
//
// Both sides are plans: written down before they start, carried out in steps that may be repeated, so that a loss of power
// at any moment resumes where it was. What a step does is given by the caller; this package knows the order, the record
// and the bounds. It opens no socket. Only node imports it.
package handoff

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// Step is one idempotent piece of a plan: doing it twice is the same as once.
type Step struct {
	Name string
	// Do is called again after an error, with growing pauses, unless the error is Final. It must return when ctx ends.
	Do func(ctx context.Context) error
}

// Final marks an error that no retry can mend.
func Final(err error) error { return &final{err} }

type final struct{ error }

func (f *final) Unwrap() error { return f.error }

// Plan is a sequence of steps whose progress is kept in a file.
type Plan struct {
	Path   string // of the record
	Steps  []Step
	Logger *slog.Logger
}

// record is what the file holds: the steps that are done.
type record struct {
	Version int      `json:"version"`
	Done    []string `json:"done"`
}

const recordVersion = 1

// Pauses between the attempts of one step.
const (
	firstPause = 200 * time.Millisecond
	maxPause   = 5 * time.Second
)

// Execute carries out the steps that the record does not hold yet. It returns nil when all are done, the context's error
// when it was cut off, or the first final error.
func (p Plan) Execute(ctx context.Context) error {
	r, err := p.load()
	if err != nil {
		return err
	}
	for _, s := range p.Steps {
		if slices.Contains(r.Done, s.Name) {
			continue
		}
		if err := p.attempt(ctx, s); err != nil {
			return fmt.Errorf("%s: %w", s.Name, err)
		}
		r.Done = append(r.Done, s.Name)
		if err := p.save(r); err != nil {
			return err
		}
		p.Logger.Debug("handoff step done", "step", s.Name)
	}
	return nil
}

func (p Plan) attempt(ctx context.Context, s Step) error {
	pause := firstPause
	for {
		err := s.Do(ctx)
		var f *final
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.As(err, &f):
			return err
		}
		p.Logger.Info("handoff step will be tried again", "step", s.Name, "error", err, "in", pause)
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(pause + rand.N(pause/2)): // jitter: machines that start together must not ask together
		}
		pause = min(2*pause, maxPause)
	}
}

// Pending says whether a record exists whose plan has not been finished and forgotten.
func (p Plan) Pending() bool {
	_, err := os.Stat(p.Path)
	return err == nil
}

// Begin writes the empty record, so that a crash before the first step is done resumes the plan all the same.
func (p Plan) Begin() error {
	if p.Pending() {
		return nil
	}
	return p.save(record{})
}

// Forget removes the record: the plan is over.
func (p Plan) Forget() error {
	if err := os.Remove(p.Path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget %s: %w", p.Path, err)
	}
	return nil
}

func (p Plan) load() (record, error) {
	var r record
	data, err := os.ReadFile(p.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err == nil {
		err = json.Unmarshal(data, &r)
	}
	if err != nil {
		return r, fmt.Errorf("read the record of the handoff %s: %w", p.Path, err)
	}
	if r.Version != recordVersion {
		return r, fmt.Errorf("read the record of the handoff %s: version %d, this offshoot knows %d", p.Path, r.Version, recordVersion)
	}
	return r, nil
}

func (p Plan) save(r record) error {
	r.Version = recordVersion
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("write the record of the handoff: %w", err)
	}
	return WriteFile(p.Path, data)
}

// WriteFile replaces a file so that a loss of power leaves the old or the new content, never a part, readable by its
// owner only.
func WriteFile(path string, data []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // gone already after the rename
	_, err = tmp.Write(data)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), path)
	}
	if err == nil {
		err = syncDir(filepath.Dir(path))
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
