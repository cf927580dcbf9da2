package share

import (
	"bytes"
	"errors"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"
)

// need skips without root, except in CI, which promises it.
func need(t *testing.T, ok bool, what string) {
	t.Helper()
	if ok {
		return
	}
	if os.Getenv("CI") == "true" {
		t.Fatalf("needs %s", what)
	}
	t.Skipf("needs %s", what)
}

func TestCrashLeavesTemporaryFilesThatAreSwept(t *testing.T) {
	s := newStore(t)
	a, err := s.PublishReader(t.Context(), bytes.NewReader(someBytes(1000)))
	if err != nil {
		t.Fatal(err)
	}
	old, young := DigestOf([]byte("old")), DigestOf([]byte("young"))
	for _, path := range []string{filepath.Join(s.dir, tempDir, "123"), s.partial(old), s.partial(young)} {
		if err := os.WriteFile(path, []byte("half"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// A clock that was set back must not save a temporary file.
	if err := os.Chtimes(filepath.Join(s.dir, tempDir, "123"), time.Time{}, time.Now().Add(time.Hour)); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(s.partial(old), time.Time{}, time.Now().Add(-25*time.Hour)); err != nil {
		t.Fatal(err)
	}
	s, err = OpenStore(s.dir)
	if err != nil {
		t.Fatal(err)
	}
	left, err := filepath.Glob(filepath.Join(s.dir, "*", "*"))
	if err != nil || len(left) != 2 || !slices.Contains(left, s.file(a.Digest)) || !slices.Contains(left, s.partial(young)) {
		t.Errorf("left: %v, %v", left, err)
	}
	if all, err := s.List(); err != nil || !slices.Equal(all, []Artifact{a}) {
		t.Errorf("List: %v, %v", all, err)
	}
}

func TestUnchangedFileIsNotReadAgain(t *testing.T) {
	s := newStore(t)
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, someBytes(1000), 0o600); err != nil {
		t.Fatal(err)
	}
	// Its times are a minute old, except that ctime cannot be set: tell the index by hand that it has settled.
	a, err := s.Publish(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.index.m) != 0 {
		t.Error("a file that was just written is believed by its times")
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	entry, _ := entryOf(info, a)
	s.index.m[path] = entry
	if got, ok := s.index.lookup(path, info); !ok || got != a {
		t.Fatalf("not remembered: %v", got)
	}
	for name, change := range map[string]func(*indexEntry){
		"mtime": func(e *indexEntry) { e.ModNS++ }, "ctime": func(e *indexEntry) { e.ChangeNS++ },
		"inode": func(e *indexEntry) { e.Inode++ }, "device": func(e *indexEntry) { e.Device++ },
	} {
		changed := entry
		change(&changed)
		s.index.m[path] = changed
		if _, ok := s.index.lookup(path, info); ok {
			t.Errorf("another %s is not noticed", name)
		}
	}
	// An entry is trusted no further than the store: the entry names another artifact that is here.
	other, err := s.PublishReader(t.Context(), bytes.NewReader(someBytes(1000)[:999]))
	if err != nil {
		t.Fatal(err)
	}
	other.Size = 1000
	entry.Artifact = other
	s.index.m[path] = entry
	if got, err := s.Publish(t.Context(), path); err != nil || got != a {
		t.Errorf("an artifact of another size was taken for it: %v, %v", got, err)
	}
	entry.Artifact = a
	s.index.m[path] = entry
	if err := s.Remove(a.Digest); err != nil {
		t.Fatal(err)
	}
	if got, err := s.Publish(t.Context(), path); err != nil || got != a || !s.Has(a.Digest) {
		t.Errorf("remembered, but no longer here: %v, %v", got, err)
	}
	if err := os.Truncate(path, 10); err != nil {
		t.Fatal(err)
	}
	s.index.m[path] = entry
	if got, err := s.Publish(t.Context(), path); err != nil || got.Size != 10 {
		t.Errorf("changed file: %v, %v", got, err)
	}
}

func TestIndexSurvivesRestartAndDamage(t *testing.T) {
	s := newStore(t)
	path := "/bin/sh" // long settled
	a, err := s.Publish(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	st, _ := entryOf(info, a)
	need(t, time.Since(time.Unix(0, st.ChangeNS)) > settled, "a system that was not installed just now")
	again := openIndex(s.index.path)
	if got, ok := again.lookup(path, info); !ok || got != a {
		t.Errorf("lost over a restart: %v", got)
	}
	for _, text := range []string{"", "rubbish", `{"/bin/sh":{"digest":"../../x"}}`, "[]"} {
		if err := os.WriteFile(s.index.path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if x := openIndex(s.index.path); len(x.m) != 0 {
			t.Errorf("%q is believed: %v", text, x.m)
		}
	}
}

func TestFullDiskIsSaidBeforeTheTransfer(t *testing.T) {
	data := someBytes(1000)
	s := newStore(t)
	s.free = func(string) (int64, error) { return 999, nil }
	p := holder(t, data)
	h, _ := fetcher(t, s, p)
	if err := h.Fetch(t.Context(), DigestOf(data), 1000, nil); !errors.Is(err, ErrDiskFull) {
		t.Errorf("Fetch: %v", err)
	}
	if len(p.asked()) != 0 {
		t.Error("asked a peer for what cannot be stored")
	}
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Publish(t.Context(), path); !errors.Is(err, ErrDiskFull) {
		t.Errorf("Publish: %v", err)
	}
	wantNoLeftovers(t, s)
}

// A real full file system, whose free space lied.
func TestFullDiskEndsTheTransferAndIsLeftFree(t *testing.T) {
	need(t, os.Geteuid() == 0, "root, to mount a small file system")
	dir := t.TempDir()
	if err := syscall.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		need(t, false, "the right to mount a tmpfs: "+err.Error())
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(dir, 0); err != nil {
			t.Errorf("unmount: %v", err)
		}
	})
	s, err := OpenStore(dir)
	if err != nil {
		t.Fatal(err)
	}
	s.free = func(string) (int64, error) { return 1 << 40, nil }
	data := someBytes(2 << 20)
	p, other := holder(t, data), holder(t, data)
	h, _ := fetcher(t, s, p, other)
	if err := h.Fetch(t.Context(), DigestOf(data), int64(len(data)), nil); !errors.Is(err, ErrDiskFull) {
		t.Errorf("Fetch: %v", err)
	}
	if len(p.asked()) != 1 || len(other.asked()) != 0 {
		t.Errorf("asked %d and %d times: another peer does not make room", len(p.asked()), len(other.asked()))
	}
	if _, err := s.PublishReader(t.Context(), bytes.NewReader(data)); !errors.Is(err, ErrDiskFull) {
		t.Errorf("PublishReader: %v", err)
	}
	wantNoLeftovers(t, s)
	if _, err := s.PublishReader(t.Context(), bytes.NewReader(data[:1000])); err != nil {
		t.Errorf("no room after the failure: %v", err)
	}
}

func TestReaderOutlivesRemoval(t *testing.T) {
	data := someBytes(1000)
	s := newStore(t)
	a, err := s.PublishReader(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	f, err := s.Open(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	for range 2 {
		if err := s.Remove(a.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if s.Has(a.Digest) {
		t.Error("still here")
	}
	if got, err := io.ReadAll(f); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if err := s.Remove("../x"); err == nil {
		t.Error("removed a path")
	}
}

func TestNewHTTPRefusesHalfOptions(t *testing.T) {
	for name, opts := range map[string]Options{
		"no store":  {Client: func(string) *http.Client { return nil }},
		"no client": {Store: newStore(t), Peers: func(Digest) []string { return nil }},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: accepted", name)
				}
			}()
			NewHTTP(opts)
		}()
	}
}
