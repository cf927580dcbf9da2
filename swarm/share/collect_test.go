package share

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestGarbageGoesInTheOrderOfRankAndAge(t *testing.T) {
	t.Parallel()
	ago := func(hours int) time.Time {
		return time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC).Add(-time.Duration(hours) * time.Hour)
	}
	holding := func(name string, rank Rank, hours int) Holding {
		return Holding{Artifact: Artifact{Digest: Digest(name), Size: 10}, Used: ago(hours), Rank: rank}
	}
	all := []Holding{
		holding("set-new", Recent, 1), holding("rest-new", Rest, 2), holding("kept", Kept, 900), holding("set-old", Recent, 800),
		holding("rest-old", Rest, 700), holding("open", Rest, 999),
	}
	all[5].Open = true
	for name, c := range map[string]struct {
		excess int64
		want   string
	}{
		"enough room":                 {0, ""},
		"more than enough":            {-50, ""},
		"one byte":                    {1, "rest-old"},
		"exactly one":                 {10, "rest-old"},
		"one and a bit":               {11, "rest-old rest-new"},
		"working sets after the rest": {21, "rest-old rest-new set-old"},
		"never what is kept or open":  {1000, "rest-old rest-new set-old set-new"},
	} {
		t.Run(name, func(t *testing.T) {
			before := slices.Clone(all)
			var got []string
			for _, a := range Garbage(all, c.excess) {
				got = append(got, string(a.Digest))
			}
			if diff := cmp.Diff(strings.Fields(c.want), got, cmp.Transformer("none", func(s []string) string { return fmt.Sprint(s) })); diff != "" {
				t.Error(diff)
			}
			if diff := cmp.Diff(before, all); diff != "" {
				t.Error("the caller's list was changed", diff)
			}
		})
	}
}

func TestRoomThatStaysFree(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for name, c := range map[string]struct {
		room         Room
		budget, more int64
		want         int64
	}{
		"a large disk keeps a tenth":              {Room{Free: 90 * gib, Size: 1000 * gib}, 0, 0, 10 * gib},
		"a common disk keeps 2 GiB":               {Room{Free: 3 * gib, Size: 18 * gib}, 0, 0, -1 * gib},
		"a small disk keeps a quarter":            {Room{Free: 1 * gib, Size: 4 * gib}, 0, 0, 0},
		"what is to come counts":                  {Room{Free: 3 * gib, Size: 18 * gib}, 0, 5 * gib, 4 * gib},
		"a budget is kept":                        {Room{Stored: 12 * gib, Free: 900 * gib, Size: 1000 * gib}, 10 * gib, 0, 2 * gib},
		"a budget that is not used up":            {Room{Stored: 7 * gib, Free: 900 * gib, Size: 1000 * gib}, 10 * gib, 1 * gib, -2 * gib},
		"a budget larger than the disk":           {Room{Stored: 7 * gib, Free: gib / 4, Size: 20 * gib}, 100 * gib, 0, gib / 4},
		"a budget may leave less free than 2 GiB": {Room{Stored: 7 * gib, Free: gib, Size: 18 * gib}, 8 * gib, 0, -gib / 2},
	} {
		t.Run(name, func(t *testing.T) {
			if got := c.room.Excess(c.budget, c.more); got != c.want {
				t.Errorf("%d MiB are too much, want %d", got>>20, c.want>>20)
			}
		})
	}
}

func TestStoreKnowsWhatIsOpenAndWhenItWasUsed(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	var all []Artifact
	long := time.Now().Add(-48 * time.Hour)
	for _, text := range []string{"used", "open", "neither"} {
		a, err := s.PublishReader(t.Context(), strings.NewReader(text))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Chtimes(s.file(a.Digest), long, long); err != nil {
			t.Fatal(err)
		}
		all = append(all, a)
	}
	holdings := func() map[Digest]Holding {
		t.Helper()
		list, err := s.Holdings()
		if err != nil {
			t.Fatal(err)
		}
		out := map[Digest]Holding{}
		for _, h := range list {
			out[h.Digest] = h
		}
		return out
	}
	for i, a := range all[:2] {
		f, err := s.Open(a.Digest)
		if err != nil {
			t.Fatal(err)
		}
		if i == 1 {
			defer func() { _ = f.Close() }()
		} else if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	got := holdings()
	for i, want := range []struct{ recent, open bool }{{true, false}, {true, true}, {false, false}} {
		h := got[all[i].Digest]
		if recent := h.Used.After(long.Add(time.Hour)); recent != want.recent || h.Open != want.open || h.Size != all[i].Size {
			t.Errorf("artifact %d: %+v, want %+v", i, h, want)
		}
	}
	if err := s.Remove(all[1].Digest); err != nil {
		t.Fatal(err)
	}
	if _, ok := holdings()[all[1].Digest]; ok {
		t.Error("removed, and still here")
	}
}

func TestRoomIsMeasured(t *testing.T) {
	t.Parallel()
	s := newStore(t)
	s.free = func(string) (int64, error) { return 77, nil }
	if r, err := s.Room(); err != nil || r.Free != 77 || r.Size <= 77 || r.Stored != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	s.free = func(string) (int64, error) { return 0, errors.New("no disk") }
	if _, err := s.Room(); err == nil {
		t.Error("no error")
	}
}
