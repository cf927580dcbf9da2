package mirror

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"offshoot/swarm/share"
)

// only makes an upstream misbehave for one file.
func only(name string, f func(w http.ResponseWriter, r *http.Request, data []byte)) func(http.ResponseWriter, *http.Request, string, []byte) bool {
	return func(w http.ResponseWriter, r *http.Request, asked string, data []byte) bool {
		if asked != name {
			return false
		}
		f(w, r, data)
		return true
	}
}

// spoil is data with its last byte changed.
func spoil(data []byte) []byte {
	out := bytes.Clone(data)
	out[len(out)-1] ^= 1
	return out
}

func abort() { panic(http.ErrAbortHandler) }

// wantNotWhole asks for a file that must not come: refused, or cut short of its length.
func (h *house) wantNotWhole(p string, size int) reply {
	h.t.Helper()
	r := h.get(p)
	if r.code == http.StatusOK && (r.err == nil || len(r.body) >= size) {
		h.t.Fatalf("%s: 200 with %d bytes and %v, want it refused or cut short of %d bytes", p, len(r.body), r.err, size)
	}
	return r
}

func TestWrongBytesNeverPassForWhole(t *testing.T) {
	lies := map[string]func(w http.ResponseWriter, r *http.Request, data []byte){
		"one bit": func(w http.ResponseWriter, _ *http.Request, data []byte) { _, _ = w.Write(spoil(data)) },
		"too short, and says so": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			_, _ = w.Write(data[:len(data)/2])
		},
		"too short, no length": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			_, _ = w.Write(data[:len(data)/2])
			_ = http.NewResponseController(w).Flush()
		},
		"too long, no length": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			_, _ = w.Write(data)
			_ = http.NewResponseController(w).Flush()
			_, _ = w.Write([]byte("more"))
		},
		"less than announced": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:len(data)/2])
			abort()
		},
		"changed in mid-download": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Header().Set("Content-Length", fmt.Sprint(len(data)))
			_, _ = w.Write(data[:len(data)/2])
			_, _ = w.Write(bytes.Repeat([]byte("x"), len(data)-len(data)/2))
		},
		"a portal's page": func(w http.ResponseWriter, _ *http.Request, _ []byte) {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<html>Log in")
		},
		"a portal's page as long as the file": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			_, _ = w.Write(append([]byte("<html>"), data[6:]...))
		},
		"encoded": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Header().Set("Content-Encoding", "gzip")
			_, _ = w.Write(data)
		},
		"another range": func(w http.ResponseWriter, _ *http.Request, data []byte) {
			w.Header().Set("Content-Range", fmt.Sprintf("bytes 5-%d/%d", len(data)-1, len(data)))
			w.WriteHeader(http.StatusPartialContent)
			_, _ = w.Write(data[5:])
		},
		"an error": func(w http.ResponseWriter, _ *http.Request, _ []byte) { w.WriteHeader(http.StatusTeapot) },
	}
	for name, lie := range lies {
		for _, p := range []pkg{small, big} {
			t.Run(name+"/"+p.name, func(t *testing.T) {
				h, u, key := scene(t, []pkg{small, big})
				h.learn(u)
				u.misbehave(only(p.path(), lie))
				if r := h.wantNotWhole(p.path(), len(p.data)); p.name == "small" && r.code != http.StatusBadGateway {
					t.Errorf("%d: a small file is held back as a whole, so want 502", r.code)
				}
				if h.store.Has(share.Digest(textSum(string(p.data)))) || h.store.Has(share.Digest(textSum(string(spoil(p.data))))) {
					t.Error("it was kept")
				}
				// With a good source behind it a small file comes whole at once, a big one when it is asked for again.
				good := newUpstream(t, u.files)
				two := newHouse(t, Repo{Upstreams: []string{u.URL, good.URL}, Keyring: key.ring})
				two.learn(u)
				r := two.get(p.path())
				if !bytes.Equal(r.body, p.data) {
					if p.name == "small" || r.err == nil {
						t.Fatalf("from the second source: %d, %d bytes, %v", r.code, len(r.body), r.err)
					}
					two.want(p.path(), p.data)
				}
				u.misbehave(nil)
				h.want(p.path(), p.data)
			})
		}
	}
}

func TestTransferIsResumedFromTheNextSource(t *testing.T) {
	h, u, key := scene(t, []pkg{big})
	u.misbehave(only(big.path(), func(w http.ResponseWriter, _ *http.Request, data []byte) {
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)/2])
		abort()
	}))
	second := newUpstream(t, u.files)
	from := ""
	second.misbehave(func(_ http.ResponseWriter, r *http.Request, name string, _ []byte) bool {
		if name == big.path() {
			from = r.Header.Get("Range")
		}
		return false
	})
	h.o.Repos[0].Upstreams, h.o.Repos[0].Keyring = []string{u.URL, second.URL}, key.ring
	h.restart()
	h.learn(u)
	h.want(big.path(), big.data)
	if !strings.HasPrefix(from, "bytes=") || from == "bytes=0-" {
		t.Errorf("the second source was asked for %q, want the rest only", from)
	}
	if s := h.Status().Repos[0]; s.FromUpstreams > int64(len(big.data))+100_000 {
		t.Errorf("%d bytes from upstreams for a file of %d", s.FromUpstreams, len(big.data))
	}
}

func TestStallingSourceIsLeft(t *testing.T) {
	for _, where := range []string{"header", "body", "drip"} {
		t.Run(where, func(t *testing.T) {
			h, u, _ := scene(t, []pkg{big}, func(_ *Options, l *limits) { l.head, l.idle = 200*time.Millisecond, 200*time.Millisecond })
			h.learn(u)
			good := newUpstream(t, u.files)
			stop := make(chan struct{})
			defer close(stop)
			u.misbehave(only(big.path(), func(w http.ResponseWriter, r *http.Request, data []byte) {
				if where != "header" {
					w.Header().Set("Content-Length", fmt.Sprint(len(data)))
					_, _ = w.Write(data[:1000])
					_ = http.NewResponseController(w).Flush()
				}
				for i := 1000; ; i++ {
					select {
					case <-stop:
						return
					case <-r.Context().Done():
						return
					case <-time.After(20 * time.Millisecond):
						if where == "drip" {
							_, _ = w.Write(data[i : i+1])
							_ = http.NewResponseController(w).Flush()
						}
					}
				}
			}))
			h.o.Repos[0].Upstreams = []string{u.URL, good.URL}
			h.restart()
			h.want(big.path(), big.data)
			if s := h.Status().Repos[0].Sources; !strings.Contains(s[0].Error+s[1].Error, "stalled") {
				t.Errorf("%+v: want that it is said to have stalled", s)
			}
		})
	}
}

func TestMetadataThatIsNotSignedIsNotTaken(t *testing.T) {
	other := newSigner(t)
	for name, change := range map[string]func(t *testing.T, files map[string][]byte, key signer){
		"not signed":  func(_ *testing.T, f map[string][]byte, _ signer) { f[suite+"/InRelease"] = f[suite+"/Release"] },
		"another key": func(t *testing.T, f map[string][]byte, _ signer) { debian(t, f, other, epoch.Add(time.Hour), "", big) },
		"tampered": func(_ *testing.T, f map[string][]byte, _ signer) {
			f[suite+"/InRelease"] = bytes.Replace(f[suite+"/InRelease"], []byte("Codename: stable"), []byte("Codename: stabel"), 1)
		},
		"text before": func(_ *testing.T, f map[string][]byte, _ signer) {
			f[suite+"/InRelease"] = append([]byte("SHA256:\n"), f[suite+"/InRelease"]...)
		},
		"text behind": func(_ *testing.T, f map[string][]byte, _ signer) {
			f[suite+"/InRelease"] = append(f[suite+"/InRelease"], "SHA256:\n"...)
		},
		"portal": func(_ *testing.T, f map[string][]byte, _ signer) {
			f[suite+"/InRelease"] = []byte("<html>Log in</html>")
		},
		"empty":     func(_ *testing.T, f map[string][]byte, _ signer) { f[suite+"/InRelease"] = nil },
		"truncated": func(_ *testing.T, f map[string][]byte, _ signer) { f[suite+"/InRelease"] = f[suite+"/InRelease"][:300] },
		"huge":      func(_ *testing.T, f map[string][]byte, _ signer) { f[suite+"/InRelease"] = make([]byte, maxMutable+1) },
		"older":     func(t *testing.T, f map[string][]byte, key signer) { debian(t, f, key, epoch.Add(-time.Hour), "", big) },
	} {
		t.Run(name, func(t *testing.T) {
			h, u, key := scene(t, []pkg{small})
			h.learn(u)
			good := u.files[suite+"/InRelease"]
			u.change(func(f map[string][]byte) { change(t, f, key) })
			h.clock.add(time.Hour)
			h.want(suite+"/InRelease", good)
			if p := h.Status().Problems; len(p) != 1 || !strings.Contains(p[0], "stale") {
				t.Errorf("problems %q, want that the metadata is stale", p)
			}
			if name == "older" {
				return // a mirror that knows nothing cannot know that
			}
			fresh := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring})
			fresh.wantCode(suite+"/InRelease", 502, suite)
		})
	}
}

func TestUpstreamBetweenTwoStatesDoesNotMixThem(t *testing.T) {
	h, u, key := scene(t, []pkg{small})
	release, gpg := u.files[suite+"/Release"], u.files[suite+"/Release.gpg"]
	debian(t, u.files, key, epoch.Add(time.Hour), "", small)
	u.change(func(f map[string][]byte) { f[suite+"/Release"], f[suite+"/Release.gpg"] = release, gpg })
	h.wantCode(suite+"/Release", 404, "not there") // the half that does not fit is not given out
	h.learn(u)
	h.clock.add(time.Hour)
	u.change(func(f map[string][]byte) { debian(t, f, key, epoch.Add(2*time.Hour), "", small, big) })
	h.learn(u) // nor does it keep others from what is new
	h.want(suite+"/Release", u.files[suite+"/Release"])
}

func TestManyWhoStartAtOnceAskOnce(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	begun, hold := make(chan struct{}), make(chan struct{})
	var once sync.Once
	u.misbehave(func(w http.ResponseWriter, _ *http.Request, _ string, _ []byte) bool {
		once.Do(func() { close(begun) })
		<-hold
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	})
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() { h.wantCode(suite+"/InRelease", 502, "503") })
	}
	<-begun
	close(hold)
	wg.Wait()
	if n := u.count(suite + "/InRelease"); n != 1 {
		t.Errorf("50 clients: %d requests to a source that fails", n)
	}
}

func TestRedirects(t *testing.T) {
	h, u, _ := scene(t, []pkg{small, big})
	h.learn(u)
	inner := newUpstream(t, u.files)
	target := ""
	u.misbehave(only(small.path(), func(w http.ResponseWriter, r *http.Request, _ []byte) {
		http.Redirect(w, r, target+r.URL.Path, http.StatusFound)
	}))
	for _, to := range []string{"", "ftp://example.net", "http://169.254.169.254", "http://[::1]:1"} {
		target = to
		h.wantCode(small.path(), 502, "redirect")
	}
	target = inner.URL
	h.wantCode(small.path(), 502, "an address of this machine")
	if inner.total() != 0 {
		t.Error("a redirect to another server of this machine was followed")
	}
	h.repos[0].upstreams[0].strange.Transport = h.repos[0].upstreams[0].client.Transport // as if it were elsewhere
	h.want(small.path(), small.data)
}

func TestRedirectOfWhatCannotBeCheckedIsNotFollowed(t *testing.T) {
	other := newUpstream(t, map[string][]byte{"x": []byte("x")})
	u := newUpstream(t, nil)
	u.misbehave(func(w http.ResponseWriter, r *http.Request, _ string, _ []byte) bool {
		http.Redirect(w, r, other.URL+r.URL.Path, http.StatusFound)
		return true
	})
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, PassUnlisted: true})
	h.repos[0].upstreams[0].strange.Transport = h.repos[0].upstreams[0].client.Transport
	h.wantCode("x", 502, "can be checked")
}

func TestFullDiskStreamsThroughAndSaysSo(t *testing.T) {
	h, u, _ := scene(t, []pkg{small, big})
	h.learn(u)
	h.want(small.path(), small.data)
	h.settle()
	free := h.disk.free
	h.disk.free = func(string) (int64, error) { return 1000, nil }
	for range 2 {
		h.want(big.path(), big.data)
	}
	h.want(small.path(), small.data)
	if n := u.count(big.path()); n != 2 {
		t.Errorf("asked %d times, want 2: nothing was kept", n)
	}
	if p := h.Status().Problems; len(p) != 1 || !strings.Contains(p[0], "no room") {
		t.Errorf("problems %q, want that the disk is full", p)
	}
	u.misbehave(only(big.path(), func(w http.ResponseWriter, _ *http.Request, data []byte) { _, _ = w.Write(spoil(data)) }))
	h.wantNotWhole(big.path(), len(big.data))
	u.misbehave(nil)
	h.disk.free = free
	h.want(big.path(), big.data)
	h.Close() // waits for what comes after the client has been served
	if p := h.Status().Problems; len(p) != 0 {
		t.Errorf("problems %q, want none: there is room again", p)
	}
}

// fullStore is a store that has no room left when it comes to it.
type fullStore struct{ Store }

func (fullStore) Insert(context.Context, io.Reader) (string, error) {
	return "", fmt.Errorf("write: %w", syscall.ENOSPC)
}

func TestStoreThatIsFullKeepsNobodyWaiting(t *testing.T) {
	h, u, _ := scene(t, []pkg{small, big})
	h.learn(u)
	h.want(small.path(), small.data)
	h.o.Store = fullStore{h.o.Store}
	h.restart()
	h.want(big.path(), big.data)
	h.want(small.path(), small.data)
	h.Close() // waits for what comes after the client has been served
	if p := h.Status().Problems; len(p) != 1 || !strings.Contains(p[0], "no room") {
		t.Errorf("problems %q, want that the disk is full", p)
	}
}

func TestClosedMirrorServesWhatItHas(t *testing.T) {
	h, u, _ := scene(t, []pkg{small, big})
	h.learn(u)
	h.want(small.path(), small.data)
	h.Close()
	h.want(small.path(), small.data)
	h.wantCode(big.path(), 503, "closed")
}

func TestCloseEndsWhatIsOnItsWay(t *testing.T) {
	h, u, _ := scene(t, []pkg{big})
	h.learn(u)
	arrived := make(chan struct{})
	u.misbehave(only(big.path(), func(_ http.ResponseWriter, r *http.Request, _ []byte) {
		close(arrived)
		<-r.Context().Done()
	}))
	got := make(chan reply, 1)
	go func() { got <- h.get(big.path()) }()
	<-arrived
	h.Close()
	if r := <-got; r.code != http.StatusServiceUnavailable {
		t.Errorf("%d %s, want 503", r.code, r.body)
	}
}

func TestRestoredMetadataIsCheckedAgain(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	h.learn(u)
	u.Close()
	h.o.Repos[0].Keyring = newSigner(t).ring
	h.restart()
	if r := h.get(suite + "/InRelease"); r.code == 200 {
		t.Error("metadata was served that the new keyring does not vouch for")
	}
}
