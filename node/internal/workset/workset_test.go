package workset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// listOf makes a list of words "path" or "path=digest".
func listOf(words string) List {
	var l List
	for _, w := range strings.Fields(words) {
		path, digest, _ := strings.Cut(w, "=")
		if digest != "" {
			digest = strings.Repeat(digest, 64)
		}
		l = append(l, File{Repo: "debian", Path: path, Digest: digest, Size: 10})
	}
	return l
}

func TestMergeKeepsWhatWasFetchedLastAndAddsTheRest(t *testing.T) {
	for name, c := range map[string]struct {
		former, latest, want string
		more                 bool
	}{
		"the first":                   {"", "Release a=1", "Release a=1", true},
		"the same again":              {"Release a=1", "Release a=1", "Release a=1", false},
		"less":                        {"Release a=1 b=2", "Release b=2", "Release a=1 b=2", false},
		"more":                        {"Release a=1", "Release a=1 b=2", "Release a=1 b=2", true},
		"both have some":              {"Release a=1", "Release b=2", "Release b=2 a=1", true},
		"another file under its name": {"Release Packages=1", "Release Packages=2", "Release Packages=2", true},
		"nothing was fetched":         {"Release a=1", "", "Release a=1", false},
	} {
		t.Run(name, func(t *testing.T) {
			got, more := Merge(listOf(c.former), listOf(c.latest))
			if diff := cmp.Diff(listOf(c.want), got); diff != "" || more != c.more {
				t.Errorf("more %v: %s", more, diff)
			}
		})
	}
}

func TestMergeIsBoundedAndDropsWhatWasNotAskedForTheLongest(t *testing.T) {
	var former List
	for i := range MaxFiles {
		former = append(former, File{Repo: "debian", Path: fmt.Sprint("old", i), Size: 1})
	}
	got, more := Merge(former, listOf("new=1"))
	if !more || len(got) != MaxFiles || got[0].Path != "new" || got[1].Path != "old0" || got[MaxFiles-1].Path == former[MaxFiles-1].Path {
		t.Errorf("%v, %d files, %v … %v", more, len(got), got[:2], got[len(got)-1])
	}
}

func TestListIsReadAsItWasWritten(t *testing.T) {
	l := listOf("dists/stable/InRelease pool/a.deb=1")
	data, err := l.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(data)
	if diff := cmp.Diff(l, got); err != nil || diff != "" || got.Bytes() != 20 {
		t.Errorf("%v %s", err, diff)
	}
	for name, text := range map[string]string{
		"not a list":     `{}`,
		"trailing data":  `[] []`,
		"unknown field":  `[{"repo":"r","path":"p","size":1,"x":1}]`,
		"no path":        `[{"repo":"r","size":1}]`,
		"no repository":  `[{"path":"p","size":1}]`,
		"less than none": `[{"repo":"r","path":"p","size":-1}]`,
		"no digest":      `[{"repo":"r","path":"p","size":1,"sha256":"12"}]`,
		"twice":          `[{"repo":"r","path":"p","size":1},{"repo":"r","path":"p","size":2}]`,
		"long path":      `[{"repo":"r","path":"` + strings.Repeat("p", maxPath+1) + `","size":1}]`,
		"too long":       `[` + strings.Repeat(" ", MaxBytes) + `]`,
	} {
		t.Run(name, func(t *testing.T) {
			if l, err := Decode([]byte(text)); err == nil {
				t.Errorf("%+v", l)
			}
		})
	}
	var many strings.Builder
	for i := range MaxFiles + 1 {
		fmt.Fprintf(&many, `,{"repo":"r","path":"%d","size":1}`, i)
	}
	if _, err := Decode([]byte("[" + many.String()[1:] + "]")); err == nil {
		t.Error("an endless list")
	}
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`[{"repo":"r","path":"p","size":1}]`))
	f.Fuzz(func(t *testing.T, data []byte) {
		l, err := Decode(data)
		if err != nil {
			return
		}
		again, err := l.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if got, err := Decode(again); err == nil && !slices.Equal(l, got) {
			t.Errorf("%v became %v", l, got)
		}
	})
}

func TestRecorderKeepsTheOrderOfEachInstall(t *testing.T) {
	var r Recorder
	for _, f := range listOf("Release Packages=1 a=2 Release a=2") {
		r.Note("m1", f)
	}
	r.Note("m2", listOf("b=3")[0])
	r.Note("", listOf("nobody=4")[0])
	r.Note("m2", File{Repo: "debian", Path: strings.Repeat("x", maxPath+1)})
	if diff := cmp.Diff(listOf("Release Packages=1 a=2"), r.Files("m1")); diff != "" {
		t.Error(diff)
	}
	if got := r.Digests(); len(got) != 3 {
		t.Errorf("%d digests", len(got))
	}
	r.Forget("m1")
	if got := r.Installs(); !slices.Equal(got, []string{"m2"}) || r.Files("m1") != nil {
		t.Errorf("%v", got)
	}
}

func TestRecorderIsBounded(t *testing.T) {
	var r Recorder
	r.Note("first", listOf("a=1")[0])
	r.Note("second", listOf("a=1")[0])
	r.Note("first", listOf("b=1")[0]) // so that the second is the idle one
	for i := range maxInstalls - 1 {
		r.Note(fmt.Sprint(i), listOf("a=1")[0])
	}
	if all := r.Installs(); len(all) != maxInstalls || slices.Contains(all, "second") || !slices.Contains(all, "first") {
		t.Errorf("%d installs", len(all))
	}
	for i := range MaxFiles + 5 {
		r.Note("first", File{Repo: "debian", Path: fmt.Sprint(i)})
	}
	if n := len(r.Files("first")); n != MaxFiles {
		t.Errorf("%d files", n)
	}
}

func TestWalkGivesUpOnASourceThatIsGone(t *testing.T) {
	var (
		gone = errors.New("nothing names it")
		down = errors.New("no route to host")
	)
	for name, c := range map[string]struct {
		answers string // + here, g gone, x failed
		want    Pass
		tried   int
	}{
		"all":                      {"+++", Pass{Files: 3, Here: 3}, 3},
		"replaced upstream":        {"++gggg+", Pass{Files: 7, Here: 3, Gone: 4}, 7},
		"one fails":                {"+x+", Pass{Files: 3, Here: 2, Failed: 1, Err: down}, 3},
		"never three in a row":     {"xx+xx+", Pass{Files: 6, Here: 2, Failed: 4, Err: down}, 6},
		"upstream is gone":         {"xxx+++++", Pass{Files: 8, Failed: 8, Err: down}, 3},
		"gone amid what is down":   {"xgxgx++", Pass{Files: 7, Failed: 5, Gone: 2, Err: down}, 5},
		"nothing is to be fetched": {"", Pass{}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var l List
			for i := range c.answers {
				l = append(l, File{Repo: "debian", Path: fmt.Sprint(i)})
			}
			tried := 0
			bring := func(_ context.Context, f File) error {
				var i int
				_, _ = fmt.Sscan(f.Path, &i)
				return map[byte]error{'+': nil, 'g': gone, 'x': down}[c.answers[i]]
			}
			got := Walk(t.Context(), l, bring, func(err error) bool { return errors.Is(err, gone) }, func(File, error) { tried++ })
			if got != c.want || tried != c.tried {
				t.Errorf("%+v after %d files, want %+v after %d", got, tried, c.want, c.tried)
			}
		})
	}
}

func TestNodeIsNotKeptColdForEver(t *testing.T) {
	pass := func(here, failed int) Pass { return Pass{Files: here + failed, Here: here, Failed: failed} }
	for name, c := range map[string]struct {
		passes            []Pass
		settled, complete bool
	}{
		"never tried":                     {nil, false, false},
		"complete":                        {[]Pass{pass(9, 0)}, true, true},
		"some are gone for good":          {[]Pass{{Files: 9, Here: 7, Gone: 2}}, true, true},
		"some came, some did not yet":     {[]Pass{pass(5, 4)}, false, false},
		"each pass brings some":           {[]Pass{pass(1, 8), pass(2, 7), pass(3, 6), pass(4, 5)}, false, false},
		"one pass brings nothing":         {[]Pass{pass(5, 4), pass(5, 4)}, false, false},
		"two passes bring nothing":        {[]Pass{pass(5, 4), pass(5, 4), pass(5, 4)}, true, false},
		"upstream never answered":         {[]Pass{pass(0, 9), pass(0, 9)}, true, false},
		"it comes back":                   {[]Pass{pass(0, 9), pass(0, 9), pass(9, 0)}, true, true},
		"less than before is no progress": {[]Pass{pass(5, 4), pass(3, 6), pass(4, 5)}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			var p Progress
			for _, one := range c.passes {
				p.Add(one)
			}
			if p.Settled() != c.settled || p.Complete() != c.complete {
				t.Errorf("settled %v, complete %v", p.Settled(), p.Complete())
			}
		})
	}
}
