package task

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
)

type diary struct {
	mu    sync.Mutex
	lines []string
}

func (d *diary) add(s string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lines = append(d.lines, s)
}

type slow struct {
	name  string
	d     *diary
	ready chan struct{}
	fail  error
}

func (s *slow) String() string         { return s.name }
func (s *slow) Ready() <-chan struct{} { return s.ready }
func (s *slow) Run(ctx context.Context) error {
	s.d.add("start " + s.name)
	close(s.ready)
	if s.fail != nil {
		return s.fail
	}
	<-ctx.Done()
	s.d.add("stop " + s.name)
	return nil
}

func TestTasksStopInReverseOfTheirStart(t *testing.T) {
	d := &diary{}
	ctx, cancel := context.WithCancel(t.Context())
	a := &slow{name: "a", d: d, ready: make(chan struct{})}
	b := &slow{name: "b", d: d, ready: make(chan struct{})}
	last := Func("last", func(context.Context) error { cancel(); return nil })
	if err := Run(ctx, slog.New(slog.DiscardHandler), []Task{a}, []Task{b}, []Task{last}); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"start a", "start b", "stop b", "stop a"}, d.lines); diff != "" {
		t.Fatal(diff)
	}
}

func TestFailingTaskStopsEverythingAndIsNamed(t *testing.T) {
	d := &diary{}
	a := &slow{name: "a", d: d, ready: make(chan struct{})}
	broken := errors.New("broken")
	b := &slow{name: "b", d: d, ready: make(chan struct{}), fail: broken}
	err := Run(t.Context(), slog.New(slog.DiscardHandler), []Task{a}, []Task{b})
	if !errors.Is(err, broken) || err.Error() != "b: broken" {
		t.Fatalf("got %v", err)
	}
	if diff := cmp.Diff([]string{"start a", "start b", "stop a"}, d.lines); diff != "" {
		t.Fatal(diff)
	}
}
