package node

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"offshoot/node/internal/workset"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

func TestPrefetchSaysHowFarItIsAndWhatIsMissing(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	for _, name := range []string{"kernel", "image"} {
		b.apply("", swarm.PutArtifact{Artifact: swarm.Artifact{Digest: name, Name: name, Size: 100}})
	}
	b.apply("", swarm.PutProfile{Profile: swarm.Profile{Name: "p", Kernel: "kernel", Initrd: "kernel", Image: "image"}})
	here := func(d share.Digest) bool { return d == "kernel" }
	if _, err := newErrand(b.state.View(), "q", here); !errors.Is(err, swarm.ErrNotFound) || !strings.Contains(err.Error(), `["p"]`) {
		t.Errorf("%v", err)
	}
	down := errors.New("no route to host")
	for name, c := range map[string]struct {
		fails string
		pass  workset.Pass
		files int
		words string
		ended status.Prefetch
	}{
		"all":                 {"", workset.Pass{Files: 2, Here: 2}, 2, "", status.Prefetch{What: "working set", Done: 220, Had: 100, Total: 220, Ended: true}},
		"no working set":      {"", workset.Pass{}, 0, "", status.Prefetch{What: "image", Done: 200, Had: 100, Total: 200, Ended: true}},
		"files that are gone": {"", workset.Pass{Files: 2, Here: 1, Gone: 1}, 2, "", status.Prefetch{What: "working set", Done: 220, Had: 100, Total: 220, Gone: 1, Ended: true}},
		"an artifact":         {"image", workset.Pass{}, 0, "artifact image: artifact not found; next: no node that can be reached has it", status.Prefetch{}},
		"upstream":            {"", workset.Pass{Files: 2, Failed: 2, Err: down}, 2, "2 of 2 files of the working set did not come: no route to host; next: offshoot mirror status", status.Prefetch{}},
	} {
		t.Run(name, func(t *testing.T) {
			e, err := newErrand(b.state.View(), "p", here)
			if err != nil {
				t.Fatal(err)
			}
			e.set = swarm.WorkingSet{Files: c.files, Bytes: int64(c.files) * 10}
			e.fetch = func(_ context.Context, a swarm.Artifact, progress func(int64)) error {
				progress(a.Size / 2)
				if a.Name == c.fails {
					return fmt.Errorf("fetch: %w", share.ErrNotFound)
				}
				return nil
			}
			e.pass = func(_ context.Context, _ swarm.WorkingSet, step func(workset.File, error)) workset.Pass {
				for range c.files {
					step(workset.File{Size: 10}, nil)
				}
				return c.pass
			}
			var last status.Prefetch
			err = e.run(t.Context(), func(p status.Prefetch) { last = p })
			if (err == nil) != (c.words == "") || err != nil && !strings.Contains(strings.ReplaceAll(err.Error(), "fetch: ", ""), c.words) {
				t.Fatalf("%v", err)
			}
			if err == nil && last != c.ended {
				t.Errorf("%+v, want %+v", last, c.ended)
			}
		})
	}
	b.apply("", swarm.PutProfile{Profile: swarm.Profile{Name: "p", Kernel: "elsewhere"}})
	if _, err := newErrand(b.state.View(), "p", here); !errors.Is(err, swarm.ErrNotFound) || !strings.Contains(err.Error(), "elsewhere") {
		t.Errorf("%v", err)
	}
}
