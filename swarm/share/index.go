package share

import (
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"
)

const (
	indexFile = "published.json"
	// maxIndex bounds the entries: more files than anyone publishes by path.
	maxIndex = 10000
	// settled is how old a file's last change has to be before its times are believed: a second write within one tick of
	// the file system's clock would not show.
	settled = 2 * time.Second
)

// index remembers which artifact a published file became, so that a start does not hash gigabytes again. It is a cache:
// lost or damaged, files are read once more.
type index struct {
	path string
	mu   sync.Mutex
	m    map[string]indexEntry
}

// indexEntry is the file as it was; ChangeNS (ctime) is there because it cannot be set back.
type indexEntry struct {
	Artifact
	ModNS    int64  `json:"mtime_ns"`
	ChangeNS int64  `json:"ctime_ns"`
	Inode    uint64 `json:"inode"`
	Device   uint64 `json:"device"`
}

func openIndex(path string) *index {
	x := &index{path: path, m: map[string]indexEntry{}}
	data, err := os.ReadFile(path)
	if err != nil {
		return x
	}
	m := map[string]indexEntry{}
	if json.Unmarshal(data, &m) != nil {
		return x
	}
	for file, e := range m {
		if _, err := ParseDigest(string(e.Digest)); err == nil {
			x.m[file] = e
		}
	}
	return x
}

func entryOf(info fs.FileInfo, a Artifact) (indexEntry, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return indexEntry{}, false
	}
	return indexEntry{
		Artifact: a, ModNS: info.ModTime().UnixNano(), ChangeNS: st.Ctim.Nano(), Inode: st.Ino, Device: st.Dev,
	}, true
}

func (x *index) lookup(path string, info fs.FileInfo) (Artifact, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	have, ok := x.m[path]
	if !ok {
		return Artifact{}, false
	}
	now, ok := entryOf(info, have.Artifact)
	return have.Artifact, ok && now == have && info.Size() == have.Size
}

// remember keeps the entry if the file has settled. A failure to write it costs time later, nothing else.
func (x *index) remember(path string, info fs.FileInfo, a Artifact) {
	e, ok := entryOf(info, a)
	if !ok || time.Since(info.ModTime()) < settled || time.Since(time.Unix(0, e.ChangeNS)) < settled {
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if len(x.m) >= maxIndex {
		clear(x.m)
	}
	x.m[path] = e
	data, err := json.Marshal(x.m)
	if err != nil {
		return
	}
	tmp := filepath.Join(filepath.Dir(x.path), tempDir, indexFile)
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		return
	}
	_ = os.Rename(tmp, x.path)
}
