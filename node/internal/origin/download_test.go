package origin

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestBrokenDownloadGoesOnWhereItEnded(t *testing.T) {
	w := newWorld(t)
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	w.files["big.iso"] = data
	w.cut = 300_000
	f := w.fetcher()
	u, err := parseURL(w.server.URL + "/big.iso")
	if err != nil {
		t.Fatal(err)
	}
	digest := fmt.Sprintf("%x", sha256.Sum256(data))
	p, err := f.download(t.Context(), u, "big.iso", want{digest, -1})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := os.ReadFile(p); err != nil || !bytes.Equal(got, data) {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	if want := []string{"/big.iso", "/big.iso=300000-", "/big.iso=600000-", "/big.iso=900000-"}; !slices.Equal(w.asked, want) {
		t.Errorf("asked for %q, want %q", w.asked, want)
	}
	// The next run goes on as well; and what lies there and is wrong is thrown away.
	for name, part := range map[string][]byte{"the beginning": data[:500_000], "something else": make([]byte, 500_000), "too much": append(bytes.Clone(data), 1), "all": data} {
		w.cut, w.asked = 0, nil
		if err := os.WriteFile(p, part, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := f.download(t.Context(), u, "big.iso", want{digest, -1}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if name == "the beginning" && !slices.Equal(w.asked, []string{"/big.iso=500000-"}) {
			t.Errorf("%s: asked for %q", name, w.asked)
		}
	}
}

func TestDownloadThatIsCalledOffStaysForTheNextTime(t *testing.T) {
	w := newWorld(t)
	data := bytes.Repeat([]byte("0123456789"), 100_000)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	w.files["big.iso"], w.cut = data, 300_000
	f := w.fetcher()
	f.Say = func(_ string, done, _ int64) {
		if done > 100_000 {
			cancel()
		}
	}
	u, err := parseURL(w.server.URL + "/big.iso")
	if err != nil {
		t.Fatal(err)
	}
	known := want{fmt.Sprintf("%x", sha256.Sum256(data)), -1}
	if _, err := f.download(ctx, u, "big.iso", known); !errors.Is(err, context.Canceled) {
		t.Fatalf("%v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if left := w.empty(); !slices.Equal(left, []string{known.digest + ".part"}) {
		t.Fatalf("left behind: %q", left)
	}
	w.asked, w.cut = nil, 0
	f = w.fetcher()
	if _, err := f.download(t.Context(), u, "big.iso", known); err != nil || !strings.Contains(w.asked[0], "=") {
		t.Errorf("asked for %q, %v", w.asked, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	// Of a file without a digest nobody could tell whether it is the same one still: nothing stays.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	f = w.fetcher()
	f.Say = func(string, int64, int64) { cancel() }
	w.files["other.iso"], w.cut = data, 300_000
	if _, err := f.download(ctx, beside(u, "other.iso"), "other.iso", want{"", -1}); err == nil {
		t.Error("it came nevertheless")
	}
	if err := errors.Join(f.Close(), os.RemoveAll(filepath.Join(w.dir, known.digest+".part"))); err != nil || len(w.empty()) > 0 {
		t.Errorf("left behind: %q, %v", w.empty(), err)
	}
}

func TestServerThatBringsNothingIsGivenUp(t *testing.T) {
	w := newWorld(t)
	for name, answer := range map[string]func(rw http.ResponseWriter, r *http.Request) bool{
		"busy":      func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(503); return true },
		"forbidden": func(rw http.ResponseWriter, _ *http.Request) bool { rw.WriteHeader(403); return true },
		"circles": func(rw http.ResponseWriter, r *http.Request) bool {
			http.Redirect(rw, r, r.URL.Path, http.StatusFound)
			return true
		},
		"for ever": func(rw http.ResponseWriter, _ *http.Request) bool {
			_, _ = io.CopyN(rw, zeros{}, 2*maxList)
			return true
		},
		"a strange range": func(rw http.ResponseWriter, _ *http.Request) bool {
			rw.Header().Set("Content-Range", "bytes 7-9/10")
			rw.WriteHeader(206)
			return true
		},
	} {
		w.mangle, w.asked = answer, nil
		f := w.fetcher()
		u, err := parseURL(w.server.URL + "/list")
		if err != nil {
			t.Fatal(err)
		}
		if _, err := f.get(t.Context(), u); err == nil {
			t.Errorf("%s: no error", name)
		}
		if len(w.asked) > 30 {
			t.Errorf("%s: asked %d times", name, len(w.asked))
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func TestPasswordOfAMirrorIsNotShown(t *testing.T) {
	w := withInstaller(t)
	w.publish()
	d := w.debian()
	d.Archives[0].URI = strings.Replace(w.server.URL, "://", "://user:secret@", 1)
	files, err := w.fetcher().Installer(t.Context(), d)
	if err != nil || strings.Contains(files[0].Origin+files[0].Verified, "secret") {
		t.Errorf("%+v, %v", files, err)
	}
	delete(w.files, "dists/trixie/InRelease")
	if _, err := w.fetcher().Installer(t.Context(), d); err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
}
