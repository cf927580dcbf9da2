package mirror

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"offshoot/e2e/lab"
	"offshoot/swarm/share"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// shelf lets a real store be the mirror's.
type shelf struct{ *share.Store }

func (s shelf) Has(d string) bool { return s.Store.Has(share.Digest(d)) }

func (s shelf) Open(d string) (io.ReadSeekCloser, error) { return s.Store.Open(share.Digest(d)) }

func (s shelf) Insert(ctx context.Context, r io.Reader) (string, error) {
	a, err := s.PublishReader(ctx, r)
	return string(a.Digest), err
}

// signer is a key that was made for this test, and the keyring with its public half.
type signer struct {
	*lab.Publisher
	ring []byte
}

func newSigner(t testing.TB) signer {
	t.Helper()
	p, err := lab.NewPublisher(epoch)
	if err != nil {
		t.Fatal(err)
	}
	return signer{p, p.Keyring}
}

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

func (s signer) clear(t testing.TB, text []byte) []byte {
	t.Helper()
	return must(s.ClearSigned(text))(t)
}

func (s signer) detached(t testing.TB, text []byte) []byte {
	t.Helper()
	return must(s.Signature(text))(t)
}

func must(data []byte, err error) func(testing.TB) []byte {
	return func(t testing.TB) []byte {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
}

// pkg is one package of a fake archive.
type pkg struct {
	name string
	data []byte
}

func makePkg(name string, size int) pkg { return pkg{name, lab.NoisePackage(name, size).Data} }

func (p pkg) path() string { return lab.Package{Name: p.name}.Path() }

const suite = lab.Suite

// debian writes an archive as a publisher would, a state made at a time. Files of earlier states by hash and in the pool
// stay in files.
func debian(t testing.TB, files map[string][]byte, key signer, at time.Time, extra string, pkgs ...pkg) {
	t.Helper()
	var all []lab.Package
	for _, p := range pkgs {
		all = append(all, lab.Package{Name: p.name, Data: p.data})
	}
	if err := key.Publish(files, at, extra, all...); err != nil {
		t.Fatal(err)
	}
}

func xzOf(t testing.TB, data []byte) []byte {
	t.Helper()
	return must(lab.XZ(data))(t)
}

func gzOf(t testing.TB, data []byte) []byte {
	t.Helper()
	return must(lab.Gzip(data))(t)
}

// upstream serves files, counts what is asked, and can be made to misbehave.
type upstream struct {
	*httptest.Server
	mu     sync.Mutex
	files  map[string][]byte
	asked  map[string]int
	sent   int64
	mangle func(w http.ResponseWriter, r *http.Request, name string, data []byte) bool // true: it has answered
}

func newUpstream(t testing.TB, files map[string][]byte) *upstream {
	u := &upstream{files: files, asked: map[string]int{}}
	u.Server = httptest.NewServer(u)
	u.Server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	t.Cleanup(u.Close)
	return u
}

func (u *upstream) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	u.mu.Lock()
	data, ok := u.files[name]
	u.asked[name]++
	mangle := u.mangle
	u.mu.Unlock()
	if mangle != nil && mangle(w, r, name, data) {
		return
	}
	if !ok {
		http.NotFound(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", fmt.Sprintf(`"%x"`, sha256.Sum256(data)))
	c := &countedWriter{ResponseWriter: w}
	http.ServeContent(c, r, "", time.Time{}, bytes.NewReader(data))
	u.mu.Lock()
	u.sent += c.bytes
	u.mu.Unlock()
}

func (u *upstream) change(f func(files map[string][]byte)) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f(u.files)
}

func (u *upstream) misbehave(f func(w http.ResponseWriter, r *http.Request, name string, data []byte) bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.mangle = f
}

func (u *upstream) count(name string) int {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.asked[name]
}

func (u *upstream) total() int {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := 0
	for _, c := range u.asked {
		n += c
	}
	return n
}

// clock is a time that tests move.
type clock struct {
	mu sync.Mutex
	t  time.Time
}

func (c *clock) now() time.Time { c.mu.Lock(); defer c.mu.Unlock(); return c.t }

func (c *clock) add(d time.Duration) { c.mu.Lock(); defer c.mu.Unlock(); c.t = c.t.Add(d) }

// house is a mirror with a store, behind a server.
type house struct {
	*Mirror
	t     testing.TB
	o     Options
	l     limits
	store *share.Store
	clock *clock
	web   *httptest.Server
}

func newHouse(t testing.TB, repo Repo, change ...func(*Options, *limits)) *house {
	t.Helper()
	store, err := share.OpenStore(filepath.Join(t.TempDir(), "store"))
	if err != nil {
		t.Fatal(err)
	}
	repo.Name = "debian"
	h := &house{t: t, store: store, clock: &clock{t: epoch.Add(2 * time.Hour)}, l: defaultLimits}
	h.l.head, h.l.idle = 5*time.Second, 5*time.Second
	h.o = Options{
		Dir: t.TempDir(), Store: shelf{store}, Repos: []Repo{repo}, Now: h.clock.now, MinFree: 1,
		Logger: slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})),
	}
	for _, c := range change {
		c(&h.o, &h.l)
	}
	h.start()
	t.Cleanup(func() { h.stopAll() })
	return h
}

func (h *house) start() {
	h.t.Helper()
	m, err := newMirror(h.o, h.l)
	if err != nil {
		h.t.Fatal(err)
	}
	h.Mirror = m
	h.web = httptest.NewUnstartedServer(m.Wrap(http.NotFoundHandler()))
	h.web.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	h.web.Start()
}

func (h *house) stopAll() {
	h.web.Close()
	h.Close()
}

// restart is a new process on the same directories.
func (h *house) restart() {
	h.stopAll()
	h.start()
}

// reply is what a client got; err says that it was cut short.
type reply struct {
	code   int
	header http.Header
	body   []byte
	err    error
}

func (h *house) get(p string, headers ...string) reply {
	h.t.Helper()
	req, err := http.NewRequest(http.MethodGet, h.web.URL+"/repo/debian/"+p, nil)
	if err != nil {
		h.t.Fatal(err)
	}
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	return do(h.t, h.web.Client(), req)
}

func do(t testing.TB, c *http.Client, req *http.Request) reply {
	t.Helper()
	resp, err := c.Do(req)
	if err != nil {
		t.Fatalf("%s: %v", req.URL, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, body, err}
}

// want gets a file that has to come whole.
func (h *house) want(p string, data []byte) {
	h.t.Helper()
	r := h.get(p)
	if r.code != http.StatusOK || r.err != nil || !bytes.Equal(r.body, data) {
		h.t.Fatalf("%s: %d, %d bytes (%v), want 200 and the %d bytes that were published: %.200s", p, r.code, len(r.body), r.err, len(data), r.body)
	}
}

func (h *house) wantCode(p string, code int, says string) {
	h.t.Helper()
	r := h.get(p)
	if r.code != code || !strings.Contains(string(r.body), says) {
		h.t.Fatalf("%s: %d %.200s, want %d with %q", p, r.code, r.body, code, says)
	}
}

// settle waits until nothing is on its way: files are kept after clients have got them.
func (h *house) settle() {
	h.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); h.Status().Arriving > 0; <-time.After(time.Millisecond) {
		if time.Now().After(deadline) {
			h.t.Fatalf("still on their way: %d files", h.Status().Arriving)
		}
	}
}

// learn is what apt-get update does.
func (h *house) learn(u *upstream) {
	h.t.Helper()
	u.mu.Lock()
	in, list := u.files[suite+"/InRelease"], u.files[suite+"/main/binary-amd64/Packages.xz"]
	u.mu.Unlock()
	h.want(suite+"/InRelease", in)
	h.want(suite+"/main/binary-amd64/Packages.xz", list)
}

// scene is an archive, an upstream that has it, and a mirror of it.
func scene(t testing.TB, pkgs []pkg, change ...func(*Options, *limits)) (*house, *upstream, signer) {
	t.Helper()
	key := newSigner(t)
	files := map[string][]byte{}
	debian(t, files, key, epoch, "", pkgs...)
	u := newUpstream(t, files)
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring}, change...)
	return h, u, key
}
