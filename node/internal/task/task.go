// Package task runs the parts of a node: they start in stages, each when the one before is ready, and stop in the reverse
// order, each stage when the one after has released everything. It knows no part by name. Only node imports it.
package task

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
)

// Task is one part. Run opens, serves until ctx ends, and has released everything when it returns; ended by ctx is nil.
// Ready is closed once Run serves; nil means at once.
type Task interface {
	Run(ctx context.Context) error
	Ready() <-chan struct{}
	String() string
}

// Func makes a task of a function that is ready at once.
func Func(name string, run func(ctx context.Context) error) Task { return fn{name, run} }

type fn struct {
	name string
	run  func(ctx context.Context) error
}

func (f fn) Run(ctx context.Context) error { return f.run(ctx) }
func (f fn) Ready() <-chan struct{}        { return nil }
func (f fn) String() string                { return f.name }

// stage is what runs of one stage.
type stage struct {
	cancel context.CancelFunc
	done   sync.WaitGroup
}

// Run runs the stages until ctx ends or a task ends with an error, which is returned with its task's name. A task that
// ends without an error while the others go on has done its work.
func Run(ctx context.Context, log *slog.Logger, stages ...[]Task) error {
	failed := make(chan error, 1)
	running := make([]*stage, 0, len(stages))
	defer func() {
		for i := len(running) - 1; i >= 0; i-- {
			running[i].cancel()
			running[i].done.Wait()
		}
	}()
	for _, tasks := range stages {
		// Not derived from ctx: a stage stops when its turn has come, not when the signal arrives.
		inner, cancel := context.WithCancel(context.WithoutCancel(ctx))
		s := &stage{cancel: cancel}
		running = append(running, s)
		for _, t := range tasks {
			s.done.Go(func() {
				err := t.Run(inner)
				log.Debug("task ended", "task", t.String(), "error", err)
				if err == nil || inner.Err() != nil {
					return
				}
				select {
				case failed <- fmt.Errorf("%s: %w", t, err):
				default: // somebody failed before
				}
			})
		}
		for _, t := range tasks {
			if t.Ready() == nil {
				continue
			}
			select {
			case <-t.Ready():
			case err := <-failed:
				return err
			case <-ctx.Done():
				return nil
			}
		}
	}
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
		return nil
	}
}
