package handoff

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// errPower is a loss of power in the middle of a plan.
var errPower = errors.New("power lost")

// house is what survives a loss of power: the record of a plan, and what its steps have done to the world.
type house struct {
	path string
	done []string
}

// plan is a life of the process: it has nothing but the file. crash is called before and after each step's work.
func (h *house) plan(names []string, crash func(at string) error) Plan {
	p := Plan{Path: h.path, Logger: quiet()}
	for _, name := range names {
		p.Steps = append(p.Steps, Step{name, func(context.Context) error {
			if err := crash("before " + name); err != nil {
				return err
			}
			h.done = append(h.done, name)
			return crash("after " + name)
		}})
	}
	return p
}

func never(string) error { return nil }

func TestPlanInterruptedAnywhereResumesAndRepeatsNoFinishedStep(t *testing.T) {
	t.Parallel()
	names := []string{"redeem", "forget-ticket", "join-ledger", "warm"}
	for i, name := range names {
		for _, moment := range []string{"before ", "after "} {
			t.Run(moment+name, func(t *testing.T) {
				t.Parallel()
				h := &house{path: filepath.Join(t.TempDir(), "take.json")}
				err := h.plan(names, func(at string) error {
					if at == moment+name {
						return Final(errPower) // ends this life at once, as a loss of power does
					}
					return nil
				}).Execute(t.Context())
				if !errors.Is(err, errPower) {
					t.Fatalf("first life ended with %v", err)
				}
				if err := h.plan(names, never).Execute(t.Context()); err != nil {
					t.Fatalf("second life: %v", err)
				}
				want := slices.Clone(names)
				if moment == "after " { // it was done, but not written down: only this one may be done twice
					want = slices.Insert(want, i, name)
				}
				if !slices.Equal(h.done, want) {
					t.Errorf("done %q, want %q", h.done, want)
				}
			})
		}
	}
}

func TestPlanCutOffByItsContextResumes(t *testing.T) {
	t.Parallel()
	names := []string{"one", "two", "three"}
	for _, at := range names {
		h := &house{path: filepath.Join(t.TempDir(), "plan.json")}
		ctx, cancel := context.WithCancel(t.Context())
		err := h.plan(names, func(moment string) error {
			if moment == "before "+at {
				cancel()
				return ctx.Err()
			}
			return nil
		}).Execute(ctx)
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), at) {
			t.Fatalf("cut off at %s: %v", at, err)
		}
		if err := h.plan(names, never).Execute(t.Context()); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(h.done, names) {
			t.Errorf("cut off at %s: done %q", at, h.done)
		}
	}
}

func TestFinishedPlanDoesNothing(t *testing.T) {
	t.Parallel()
	h := &house{path: filepath.Join(t.TempDir(), "plan.json")}
	for range 2 {
		if err := h.plan([]string{"one", "two"}, never).Execute(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if len(h.done) != 2 {
		t.Errorf("done %q", h.done)
	}
}

func TestStepIsWrittenDownBeforeTheNextOneBegins(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "plan.json")
	look := func(name string, want bool) {
		r, err := Plan{Path: path}.load()
		if err != nil || slices.Contains(r.Done, name) != want {
			t.Errorf("record %v (%v), want %s in it: %t", r.Done, err, name, want)
		}
	}
	err := Plan{Path: path, Logger: quiet(), Steps: []Step{
		{"one", func(context.Context) error { look("one", false); return nil }},
		{"two", func(context.Context) error { look("one", true); return nil }},
	}}.Execute(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	look("two", true)
}

func TestOrdinaryErrorIsTriedAgainWithGrowingPauses(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var at []time.Time
		err := Plan{Path: filepath.Join(t.TempDir(), "p"), Logger: quiet(), Steps: []Step{{"one", func(context.Context) error {
			if at = append(at, time.Now()); len(at) < 12 {
				return errors.New("not yet")
			}
			return nil
		}}}}.Execute(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for i := 1; i < len(at); i++ {
			low := min(firstPause<<(i-1), maxPause)
			if p := at[i].Sub(at[i-1]); p < low || p >= low+low/2 {
				t.Errorf("pause %d is %v, want %v and at most half more", i, p, low)
			}
		}
	})
}

func TestPauseEndsWithTheContext(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), firstPause/2)
		defer cancel()
		began := time.Now()
		err := Plan{Path: filepath.Join(t.TempDir(), "p"), Logger: quiet(), Steps: []Step{
			{"one", func(context.Context) error { return errors.New("not yet") }},
		}}.Execute(ctx)
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(began) != firstPause/2 {
			t.Errorf("%v after %v", err, time.Since(began))
		}
	})
}

func TestFinalErrorEndsThePlanAndNamesTheStep(t *testing.T) {
	t.Parallel()
	cause := errors.New("ticket was revoked")
	tried, later := 0, false
	err := Plan{Path: filepath.Join(t.TempDir(), "p"), Logger: quiet(), Steps: []Step{
		{"redeem", func(context.Context) error { tried++; return fmt.Errorf("ask: %w", Final(cause)) }},
		{"warm", func(context.Context) error { later = true; return nil }},
	}}.Execute(t.Context())
	if !errors.Is(err, cause) || !strings.HasPrefix(err.Error(), "redeem: ") {
		t.Errorf("got %v", err)
	}
	if tried != 1 || later {
		t.Errorf("tried %d times, later step done: %t", tried, later)
	}
}

func TestRecordThatCannotBeUnderstoodIsRefusedAndKept(t *testing.T) {
	t.Parallel()
	for name, content := range map[string]string{
		"damaged": `{"version":1,"done":["redeem"`, "empty": ``, "other kind": `[]`, "trailing": `{"version":1,"done":[]}{}`,
		"foreign version": `{"version":2,"done":["redeem"]}`, "no version": `{"done":["redeem"]}`,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := filepath.Join(t.TempDir(), "take.json")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			p := Plan{Path: path, Logger: quiet(), Steps: []Step{
				{"redeem", func(context.Context) error { t.Error("a step was done"); return nil }},
			}}
			if err := p.Execute(t.Context()); err == nil || !strings.Contains(err.Error(), path) {
				t.Errorf("got %v, want an error that names %s", err, path)
			}
			if err := p.Begin(); err != nil {
				t.Error(err)
			}
			if now, err := os.ReadFile(path); err != nil || string(now) != content {
				t.Errorf("the record is now %q (%v)", now, err)
			}
		})
	}
}

func TestBegunPlanIsPendingUntilForgotten(t *testing.T) {
	t.Parallel()
	h := &house{path: filepath.Join(t.TempDir(), "leave.json")}
	p := h.plan([]string{"one"}, never)
	if p.Pending() {
		t.Error("pending before it began")
	}
	if err := p.Begin(); err != nil || !p.Pending() {
		t.Fatalf("begun: %v, pending: %t", err, p.Pending())
	}
	if err := p.Execute(t.Context()); err != nil || !p.Pending() {
		t.Fatalf("executed: %v, pending: %t", err, p.Pending())
	}
	if err := p.Begin(); err != nil { // again, after a crash: must not forget what is done
		t.Fatal(err)
	}
	if err := p.Execute(t.Context()); err != nil || len(h.done) != 1 {
		t.Fatalf("executed again: %v, done %q", err, h.done)
	}
	for range 2 { // forgetting twice is the same as once
		if err := p.Forget(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(h.path); !errors.Is(err, fs.ErrNotExist) || p.Pending() {
		t.Errorf("the record is still there: %v", err)
	}
	if err := p.Execute(t.Context()); err != nil || len(h.done) != 2 {
		t.Errorf("a forgotten plan must begin anew: %v, done %q", err, h.done)
	}
}

func TestRecordThatCannotBeWrittenStopsThePlan(t *testing.T) {
	t.Parallel()
	h := &house{path: filepath.Join(t.TempDir(), "missing", "take.json")}
	if err := h.plan([]string{"one", "two"}, never).Execute(t.Context()); err == nil {
		t.Error("went on without a record")
	}
	if !slices.Equal(h.done, []string{"one"}) {
		t.Errorf("done %q: nothing may follow a step that is not written down", h.done)
	}
}

func TestWriteFileLeavesOldOrNewForItsOwnerOnly(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "node.json")
	if err := os.WriteFile(path, []byte("old"), 0o644); err != nil {
		t.Fatal(err)
	}
	old, err := os.Open(path) // whoever reads while it is written
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = old.Close() }()
	if err := WriteFile(path, []byte("new and longer")); err != nil {
		t.Fatal(err)
	}
	seen := make([]byte, 20)
	if n, _ := old.Read(seen); string(seen[:n]) != "old" {
		t.Errorf("the old file was written over: %q", seen[:n])
	}
	if data, err := os.ReadFile(path); err != nil || string(data) != "new and longer" {
		t.Errorf("%q, %v", data, err)
	}
	if st, err := os.Stat(path); err != nil || st.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", st.Mode(), err)
	}
	alone(t, dir, "node.json")
}

func TestWriteFileThatFailsLeavesTheOldAndNoLitter(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "node.json")
	if err := os.MkdirAll(filepath.Join(path, "full"), 0o700); err != nil { // a directory cannot be replaced by a file
		t.Fatal(err)
	}
	if err := WriteFile(path, []byte("new")); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v", err)
	}
	alone(t, dir, "node.json")
}

func alone(t *testing.T, dir, name string) {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 1 || entries[0].Name() != name {
		t.Errorf("directory holds %v (%v), want only %s", entries, err, name)
	}
}
