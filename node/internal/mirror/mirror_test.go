package mirror

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"offshoot/node/internal/archive"
)

var small, big = makePkg("small", 3000), makePkg("big", 1<<20)

func TestFilesComeOnceAndAreKept(t *testing.T) {
	h, u, _ := scene(t, []pkg{small, big})
	h.learn(u)
	for range 3 {
		h.want(big.path(), big.data)
		h.want(small.path(), small.data)
	}
	if n := u.count(big.path()); n != 1 {
		t.Errorf("the upstream was asked %d times for the package, want 1", n)
	}
	h.restart()
	u.Close()
	h.want(big.path(), big.data) // the index that names it is found again, too
	h.learn(u)
}

func TestRangeAndETag(t *testing.T) {
	h, u, _ := scene(t, []pkg{big})
	h.learn(u)
	for _, state := range []string{"arriving", "kept"} {
		r := h.get(big.path(), "Range", "bytes=1000000-")
		if r.code != http.StatusPartialContent || !bytes.Equal(r.body, big.data[1000000:]) {
			t.Errorf("%s: %d, %d bytes, want the end of the file", state, r.code, len(r.body))
		}
		if r.header.Get("ETag") == "" {
			t.Errorf("%s: no ETag", state)
		}
	}
	r := h.get(big.path())
	if again := h.get(big.path(), "If-None-Match", r.header.Get("ETag")); again.code != http.StatusNotModified {
		t.Errorf("the same file: %d, want 304", again.code)
	}
}

func TestReleaseIsNotSentAgain(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	h.learn(u)
	r := h.get(suite + "/InRelease")
	at := r.header.Get("Last-Modified")
	if again := h.get(suite+"/InRelease", "If-Modified-Since", at); again.code != http.StatusNotModified {
		t.Errorf("same date: %d, want 304", again.code)
	}
	later := epoch.Add(1000 * time.Hour).Format(http.TimeFormat)
	if again := h.get(suite+"/InRelease", "If-Modified-Since", later); again.code != http.StatusOK {
		t.Errorf("a client that has a newer state than the one here: %d, want 200", again.code)
	}
}

func TestOnlyWhatMetadataNamesIsServed(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	u.change(func(files map[string][]byte) {
		files["pool/main/evil_1_amd64.deb"] = []byte("evil")
		files["ls-lR.gz"] = []byte("list")
	})
	h.wantCode(small.path(), 404, "no metadata that was read here names it")
	h.learn(u)
	before := u.total()
	h.wantCode("pool/main/evil_1_amd64.deb", 404, "names it")
	h.wantCode("ls-lR.gz", 404, "names it")
	if u.total() != before {
		t.Error("the upstream was asked for what nothing names")
	}
	h.want(suite+"/main/binary-amd64/Release", u.files[suite+"/main/binary-amd64/Release"])
}

func TestUnlistedFilesArePassedThroughIfSo(t *testing.T) {
	key := newSigner(t)
	u := newUpstream(t, map[string][]byte{"images/vmlinuz": []byte("kernel")})
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring, PassUnlisted: true})
	for range 2 {
		h.want("images/vmlinuz", []byte("kernel"))
	}
	if n := u.count("images/vmlinuz"); n != 2 {
		t.Errorf("asked %d times: what cannot be checked must not be kept", n)
	}
	h.wantCode("images/other", 404, "not there")
	h.wantCode("images/other", 404, "not there")
	if n := u.count("images/other"); n != 1 {
		t.Errorf("asked %d times for what is not there, want 1", n)
	}
}

func TestSixteenClientsCauseOneTransfer(t *testing.T) {
	h, u, _ := scene(t, []pkg{big, small})
	h.learn(u)
	hold := make(chan struct{})
	u.misbehave(func(_ http.ResponseWriter, _ *http.Request, name string, _ []byte) bool {
		if name == big.path() {
			<-hold
		}
		return false
	})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			if r := h.get(big.path()); !bytes.Equal(r.body, big.data) {
				t.Errorf("%d, %d bytes, want the package", r.code, len(r.body))
			}
		})
	}
	close(hold)
	wg.Wait()
	if n := u.count(big.path()); n != 1 {
		t.Errorf("the upstream was asked %d times, want 1", n)
	}
}

func TestEndIsHeldBackWhileTheRestStreams(t *testing.T) {
	h, u, _ := scene(t, []pkg{big})
	h.learn(u)
	last := make(chan struct{})
	u.misbehave(func(w http.ResponseWriter, r *http.Request, name string, data []byte) bool {
		if name != big.path() {
			return false
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(data)))
		_, _ = w.Write(data[:len(data)-1])
		_ = http.NewResponseController(w).Flush()
		<-last
		_, _ = w.Write(data[len(data)-1:])
		return true
	})
	resp, err := h.web.Client().Get(h.web.URL + "/repo/debian/" + big.path())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	got := make([]byte, len(big.data)-holdBack-16<<10) // less what lies in buffers on the way
	if _, err := io.ReadFull(resp.Body, got); err != nil {
		t.Fatal(err)
	}
	rest := make(chan int)
	go func() {
		n, _ := io.Copy(io.Discard, resp.Body)
		rest <- int(n)
	}()
	select {
	case <-rest:
		t.Error("the end came before the whole had matched")
	case <-time.After(100 * time.Millisecond):
	}
	close(last)
	if n := <-rest; n+len(got) != len(big.data) {
		t.Errorf("%d bytes in all, want %d", n+len(got), len(big.data))
	}
}

func TestInstallSeesOneState(t *testing.T) {
	install := "first"
	h, u, key := scene(t, []pkg{small}, func(o *Options, _ *limits) {
		o.Install = func(netip.Addr) string { return install }
	})
	h.learn(u)
	old := maps.Clone(u.files)
	u.change(func(files map[string][]byte) { debian(t, files, key, epoch.Add(time.Hour), "", small, big) })
	h.clock.add(10 * time.Minute)

	install = "second"
	h.learn(u)
	h.want(big.path(), big.data)

	install = "first"
	h.want(suite+"/InRelease", old[suite+"/InRelease"])
	h.want(suite+"/main/binary-amd64/Packages.xz", old[suite+"/main/binary-amd64/Packages.xz"])
	h.want(suite+"/main/binary-amd64/Packages.gz", old[suite+"/main/binary-amd64/Packages.gz"]) // was not here: by its hash
	if n := h.Status().Repos[0].Pins; n != 2 {
		t.Errorf("%d pins, want 2", n)
	}

	h.clock.add(time.Hour)
	h.learn(u) // nothing was asked for a while: the first install sees what is new
}

func TestPinDoesNotOutliveItsPublishersDate(t *testing.T) {
	key := newSigner(t)
	files := map[string][]byte{}
	until := "Valid-Until: " + epoch.Add(3*time.Hour).Format("Mon, 02 Jan 2006 15:04:05 UTC") + "\n"
	debian(t, files, key, epoch, until, small)
	u := newUpstream(t, files)
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring}, func(_ *Options, l *limits) { l.pinIdle, l.pinMax = 24*time.Hour, 24*time.Hour })
	h.learn(u)
	u.change(func(files map[string][]byte) { debian(t, files, key, epoch.Add(time.Hour), "", big) })
	h.clock.add(2 * time.Hour)
	h.learn(u)
}

func TestServesWithoutUpstreamAndSaysWhatIsStale(t *testing.T) {
	h, u, _ := scene(t, []pkg{small, big})
	h.learn(u)
	h.want(small.path(), small.data)
	if p := h.Status().Problems; len(p) != 0 {
		t.Errorf("problems of a healthy mirror: %q", p)
	}
	u.Close()
	h.restart()
	h.clock.add(24 * time.Hour)
	h.learn(u)
	h.want(small.path(), small.data)
	h.wantCode(big.path(), 502, "refused")
	st := h.Status()
	if len(st.Problems) != 1 || !strings.Contains(st.Problems[0], "debian/dists/stable is stale: checked 2026-01-01") {
		t.Errorf("problems %q, want that the metadata is stale", st.Problems)
	}
	if s := st.Repos[0].Sources[0]; s.Error == "" || s.Failed.IsZero() {
		t.Errorf("source %+v, want its failure", s)
	}
}

// TestWhatExpiredSinceNobodyAskedIsNoProblem: it is looked for when somebody asks. What its publisher let expire is one.
func TestWhatExpiredSinceNobodyAskedIsNoProblem(t *testing.T) {
	key := newSigner(t)
	files := map[string][]byte{}
	until := "Valid-Until: " + epoch.Add(3*time.Hour).Format("Mon, 02 Jan 2006 15:04:05 UTC") + "\n"
	debian(t, files, key, epoch, until, small)
	u := newUpstream(t, files)
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring})
	h.learn(u)
	h.clock.add(24 * time.Hour)
	if p := h.Status().Problems; len(p) != 0 {
		t.Errorf("nobody has asked since: %q", p)
	}
	h.learn(u)
	if p := h.Status().Problems; len(p) != 1 || !strings.Contains(p[0], "its publisher declared it valid until") {
		t.Errorf("there is no other one: %q", p)
	}
}

func TestUnchangedMetadataIsNotFetchedAgain(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	h.learn(u)
	h.clock.add(time.Hour)
	u.mu.Lock()
	before := u.sent
	u.mu.Unlock()
	h.learn(u)
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.asked[suite+"/InRelease"] != 2 || u.sent != before {
		t.Errorf("asked %d times, %d bytes more: want a second request that is answered with 304", u.asked[suite+"/InRelease"], u.sent-before)
	}
}

func TestDetachedSignaturesServeOldInstallers(t *testing.T) {
	for _, has := range []string{"both", "detached only"} {
		t.Run(has, func(t *testing.T) {
			h, u, _ := scene(t, []pkg{small})
			if has != "both" {
				u.change(func(files map[string][]byte) { delete(files, suite+"/InRelease") })
			} else {
				h.learn(u)
			}
			h.want(suite+"/Release", u.files[suite+"/Release"])
			h.want(suite+"/Release.gpg", u.files[suite+"/Release.gpg"])
			h.want(suite+"/main/binary-amd64/Packages.gz", u.files[suite+"/main/binary-amd64/Packages.gz"])
			h.want(small.path(), small.data)
			if has != "both" {
				h.wantCode(suite+"/InRelease", 404, "not there")
			}
		})
	}
}

func TestUnsignedRepositoryIsHeldToItsOwnSums(t *testing.T) {
	files := map[string][]byte{}
	debian(t, files, newSigner(t), epoch, "", small, big)
	u := newUpstream(t, files)
	h := newHouse(t, Repo{Upstreams: []string{u.URL}})
	h.learn(u)
	u.change(func(files map[string][]byte) { files[small.path()] = makePkg("other", 3000).data })
	h.wantCode(small.path(), 502, "do not match")
	h.want(big.path(), big.data)
	if s := h.Status().Repos[0]; s.Signed || s.Roots[0].Verified != archive.Unverified {
		t.Errorf("%+v: want it marked as unverified", s)
	}
}

func TestFlatRepository(t *testing.T) {
	key := newSigner(t)
	files := map[string][]byte{}
	p := makePkg("flat", 2000)
	list := []byte(fmt.Sprintf("Package: flat\nFilename: ./flat.deb\nSize: %d\nSHA256: %s\n", len(p.data), textSum(string(p.data))))
	rel := fmt.Sprintf("Date: Thu, 01 Jan 2026 00:00:00 UTC\nSHA256:\n %s %d Packages\n", textSum(string(list)), len(list))
	files["cuda/flat.deb"], files["cuda/Packages"], files["cuda/InRelease"] = p.data, list, key.clear(t, []byte(rel))
	u := newUpstream(t, files)
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring})
	h.want("cuda/InRelease", files["cuda/InRelease"])
	h.want("cuda/Packages", list)
	h.want("cuda/flat.deb", p.data)
}

func TestParentIsAskedAndItsClientsAreNotPinned(t *testing.T) {
	top, u, key := scene(t, []pkg{small, big})
	h := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring}, func(o *Options, _ *limits) {
		o.Parents = func() []string { return []string{top.web.URL} }
	})
	h.learn(u)
	h.want(big.path(), big.data)
	if s := top.Status().Repos[0]; s.FromUpstreams < int64(len(big.data)) || s.Pins != 0 {
		t.Errorf("top: %+v, want that it has fetched, and pins nobody: its child does", s)
	}
	if s := h.Status().Repos[0]; s.FromUpstreams != 0 || s.FromParents < int64(len(big.data)) {
		t.Errorf("child: %+v, want bytes from the parent only", s)
	}
	u.change(func(files map[string][]byte) { debian(t, files, key, epoch.Add(time.Hour), "", small) })
	top.clock.add(time.Hour)
	h.clock.add(time.Hour)
	h.learn(u)
}

func TestMirrorsBesideHaveWhatNoSourceGivesAnyMore(t *testing.T) {
	former, u, key := scene(t, []pkg{small, big})
	former.learn(u)
	former.want(big.path(), big.data)
	files := maps.Clone(u.files)
	u.Close()
	var h *house
	h = newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring}, func(o *Options, _ *limits) {
		o.Beside = func() []string { return []string{h.web.URL, former.web.URL} } // itself by mistake: no reason to run in circles
	})
	h.want(suite+"/InRelease", files[suite+"/InRelease"])
	h.want(suite+"/main/binary-amd64/Packages.xz", files[suite+"/main/binary-amd64/Packages.xz"])
	h.want(big.path(), big.data)
	if r := h.get(small.path()); r.code < 500 {
		t.Errorf("what nobody has: %d %s", r.code, r.body)
	}
	if s := h.Status().Repos[0]; s.FromUpstreams != 0 || s.FromParents < int64(len(big.data)) {
		t.Errorf("%+v", s)
	}
}

func TestCircleOfParentsEnds(t *testing.T) {
	key := newSigner(t)
	var h *house
	h = newHouse(t, Repo{Keyring: key.ring, PassUnlisted: true}, func(o *Options, l *limits) {
		o.Parents = func() []string { return []string{h.web.URL} }
		l.head = 200 * time.Millisecond
	})
	if r := h.get(suite + "/InRelease"); r.code < 400 {
		t.Errorf("metadata: %d %s", r.code, r.body)
	}
	if r := h.get("unlisted"); r.code < 400 {
		t.Errorf("file: %d %s", r.code, r.body)
	}
	if r := h.get("unlisted", hopHeader, "9"); r.code != http.StatusLoopDetected {
		t.Errorf("after nine mirrors: %d %s", r.code, r.body)
	}
}

func TestPeersAreAskedFirst(t *testing.T) {
	var h *house
	h, u, _ := scene(t, []pkg{small, big}, func(o *Options, _ *limits) {
		o.Fetch = func(ctx context.Context, digest string, size int64) error {
			if digest != textSum(string(big.data)) || size != int64(len(big.data)) {
				return fmt.Errorf("nobody has it")
			}
			_, err := h.o.Store.Insert(ctx, bytes.NewReader(big.data))
			return err
		}
	})
	h.learn(u)
	h.want(big.path(), big.data)
	h.want(small.path(), small.data)
	if u.count(big.path()) != 0 || u.count(small.path()) != 1 {
		t.Error("want the big package from peers and the small one from the upstream")
	}
}

func TestWhatWasServedIsToldAndCanBePrefetched(t *testing.T) {
	var mu sync.Mutex
	var served []Served
	h, u, key := scene(t, []pkg{small, big}, func(o *Options, _ *limits) {
		o.Install = func(a netip.Addr) string { return "install of " + a.String() }
		o.Served = func(s Served) { mu.Lock(); defer mu.Unlock(); served = append(served, s) }
	})
	h.learn(u)
	h.want(big.path(), big.data)
	h.get(small.path(), "Range", "bytes=5-")
	if len(served) != 3 || served[2].Path != big.path() || served[2].Install != "install of 127.0.0.1" || !strings.HasPrefix(served[2].Verified, "signed by ") {
		t.Fatalf("told: %+v", served)
	}
	next := newHouse(t, Repo{Upstreams: []string{u.URL}, Keyring: key.ring})
	for _, s := range served {
		if err := next.Prefetch(t.Context(), s.Repo, s.Path); err != nil {
			t.Error(err)
		}
	}
	u.Close()
	next.learn(u)
	next.want(big.path(), big.data)
	if err := next.Prefetch(t.Context(), "debian", "pool/none.deb"); err == nil {
		t.Error("prefetched what nothing names")
	}
}

func TestPathTricksAreRefusedBeforeAnything(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	h.learn(u)
	before := u.total()
	for _, p := range []string{
		"../../etc/passwd", "pool/../../x", "pool//x", "/x", "pool/%2e%2e/x", "a%2fb", "a%5cb", "a%00b", "x?y=1", "x?", "pool/", "", "a%0ab", "%ff",
		strings.Repeat("a/", 600) + "b", strings.Repeat("a", 5000),
	} {
		conn, err := net.Dial("tcp", h.web.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		fmt.Fprintf(conn, "GET /repo/debian/%s HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", p)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		_ = conn.Close()
		if resp.StatusCode != http.StatusBadRequest {
			t.Errorf("%.60q: %d, want 400", p, resp.StatusCode)
		}
	}
	h.want("./"+suite+"/./InRelease", u.files[suite+"/InRelease"]) // apt does that in flat repositories
	if u.total() != before {
		t.Error("the upstream was asked")
	}
}

func TestProxyForUpstreamsOnly(t *testing.T) {
	h, u, _ := scene(t, []pkg{small})
	proxy, _ := url.Parse(h.web.URL)
	tr := &http.Transport{Proxy: func(*http.Request) (*url.URL, error) { return proxy, nil }}
	defer tr.CloseIdleConnections()
	client := &http.Client{Transport: tr}
	ask := func(raw string) reply {
		req, err := http.NewRequest(http.MethodGet, raw, nil)
		if err != nil {
			t.Fatal(err)
		}
		return do(t, client, req)
	}
	if r := ask(u.URL + "/" + suite + "/InRelease"); r.code != 200 || !bytes.Equal(r.body, u.files[suite+"/InRelease"]) {
		t.Errorf("%d %s", r.code, r.body)
	}
	if r := ask("http://example.net/x"); r.code != http.StatusForbidden || !strings.Contains(string(r.body), "no general proxy") {
		t.Errorf("another host: %d %s", r.code, r.body)
	}
	if r := ask(h.web.URL + "/elsewhere"); r.code != http.StatusNotFound {
		t.Errorf("ourselves, named in full: %d %s", r.code, r.body)
	}
	_, err := client.Get("https://example.net/")
	if err == nil || !strings.Contains(err.Error(), "Method Not Allowed") {
		t.Errorf("CONNECT: %v, want it refused", err)
	}
	req := httptest.NewRequest(http.MethodPost, "/repo/debian/x", nil)
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, req)
	if rec.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", rec.Code)
	}
}

func TestOptionsAreChecked(t *testing.T) {
	for name, o := range map[string]Repo{
		"name": {Name: "De/bian", Upstreams: []string{"http://x"}}, "no upstream": {Name: "x"},
		"url": {Name: "x", Upstreams: []string{"file:///x"}}, "proxy": {Name: "x", Upstreams: []string{"http://x"}, Proxy: "http://a:b@c"},
		"no proxy's url": {Name: "x", Upstreams: []string{"http://x"}, Proxy: "socks5://c"}, "keyring": {Name: "x", Upstreams: []string{"http://x"}, Keyring: []byte("no keys")},
	} {
		h := newHouse(t, Repo{Upstreams: []string{"http://127.0.0.1:1"}})
		bad := h.o
		bad.Repos = []Repo{o}
		if _, err := New(bad); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
