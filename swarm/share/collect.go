package share

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Rank says how dear an artifact is to its node: what the store throws away first has the least.
type Rank int

// The ranks. What is Kept never goes: it is pinned, a profile needs it, or somebody is about to use it.
const (
	Rest   Rank = iota
	Recent      // part of a working set, or used a short time ago
	Kept
)

// Holding is an artifact of the store as whoever collects garbage sees it.
type Holding struct {
	Artifact
	Used time.Time // when it came, or was last opened; not exact, see touchPause
	Open bool      // somebody reads it now
	Rank Rank
}

// Garbage picks what goes so that this many bytes become free, or as many as can: Rest before Recent, and of each what was not used
// the longest. What is Kept or open stays, whatever is missing.
func Garbage(all []Holding, excess int64) []Artifact {
	all = slices.DeleteFunc(slices.Clone(all), func(h Holding) bool { return h.Open || h.Rank >= Kept })
	slices.SortFunc(all, func(a, b Holding) int {
		return cmp.Or(cmp.Compare(a.Rank, b.Rank), a.Used.Compare(b.Used), cmp.Compare(b.Size, a.Size), cmp.Compare(a.Digest, b.Digest))
	})
	var out []Artifact
	for _, h := range all {
		if excess <= 0 {
			break
		}
		out = append(out, h.Artifact)
		excess -= h.Size
	}
	return out
}

// Room is a store beside the rest of its file system, bytes.
type Room struct {
	Stored int64 // by the artifacts
	Free   int64 // of the file system
	Size   int64 // of the file system
}

// Floor is what stays free: 2 GiB or a tenth, whichever is more, since the ledger, the logs and the mirror's metadata lie beside the
// artifacts; of a small disk a quarter at most. An operator's budget says what the store may take, and then only what the mirror
// leaves free stays so too: a tenth, at most 512 MiB.
func (r Room) Floor(budget int64) int64 {
	if budget > 0 {
		return r.least()
	}
	return min(max(2<<30, r.Size/10), r.Size/4)
}

// least is what the mirror leaves free.
func (r Room) least() int64 { return min(512<<20, r.Size/10) }

// Excess is how many bytes are to be thrown away before this many more can come; 0 or less is what can still come. budget is the
// most that artifacts may take, 0 for no such bound.
func (r Room) Excess(budget, more int64) int64 {
	excess := r.Floor(budget) + more - r.Free
	if budget > 0 {
		excess = max(excess, r.Stored+more-budget)
	}
	return excess
}

// Slack is what is thrown away beyond the excess, and what must be free before something is fetched ahead: else each file that comes
// would drive out another.
func (r Room) Slack(budget int64) int64 { return r.Floor(budget) / 8 }

// Want is how many bytes are missing so badly that somebody has to act: a budget is exceeded, or less is free than the mirror leaves.
func (r Room) Want(budget, more int64) int64 {
	want := r.least() + more - r.Free
	if budget > 0 {
		want = max(want, r.Stored+more-budget)
	}
	return want
}

// Room measures the file system. What is stored is left to the caller, who may know it: it takes a look at each file.
func (s *Store) Room() (Room, error) {
	free, err := s.free(s.dir)
	if err != nil {
		return Room{}, err
	}
	size, err := wholeBytes(s.dir)
	return Room{Free: free, Size: size}, err
}

func wholeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("size of the file system of %s: %w", dir, err)
	}
	return int64(st.Blocks) * st.Bsize, nil
}

// touchPause is how exact the time of an artifact's last use is. It stands on the file itself, where a restart finds it; noted at
// each opening it would be a write for each read.
const touchPause = 10 * time.Minute

// touch notes that an artifact was used. A failure makes it look older than it is, nothing else.
func (s *Store) touch(f *os.File) {
	info, err := f.Stat()
	if err != nil || time.Since(info.ModTime()).Abs() < touchPause {
		return
	}
	now := time.Now()
	_ = os.Chtimes(f.Name(), now, now)
}

// Holdings are all artifacts here, without their ranks, which are the caller's to give.
func (s *Store) Holdings() ([]Holding, error) {
	all, err := s.List()
	if err != nil {
		return nil, err
	}
	open, err := s.opened()
	if err != nil {
		return nil, fmt.Errorf("which artifacts are open: %w", err)
	}
	out := make([]Holding, 0, len(all))
	for _, a := range all {
		info, err := os.Stat(s.file(a.Digest))
		if err != nil {
			continue // removed meanwhile
		}
		out = append(out, Holding{Artifact: a, Used: info.ModTime(), Open: open[a.Digest]})
	}
	return out, nil
}

// opened are the artifacts that this process has open. The kernel knows: readers get the file itself, so that it is sent without
// copying, and close it when they like.
func (s *Store) opened() (map[Digest]bool, error) {
	const fds = "/proc/self/fd"
	entries, err := os.ReadDir(fds)
	if err != nil {
		return nil, err
	}
	dir, err := filepath.EvalSymlinks(s.dir)
	if err != nil {
		return nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return nil, err
	}
	out := map[Digest]bool{}
	for _, e := range entries {
		target, err := os.Readlink(filepath.Join(fds, e.Name()))
		if err != nil {
			if os.IsNotExist(err) {
				continue // closed meanwhile
			}
			return nil, err
		}
		if rest, ok := strings.CutPrefix(target, dir+string(filepath.Separator)); ok {
			if d, err := ParseDigest(filepath.Base(rest)); err == nil {
				out[d] = true
			}
		}
	}
	return out, nil
}
