package mirror

import (
	"crypto/tls"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"sync"
	"testing"
)

// forward is a foreign HTTP proxy that knows one host: others, and those that ask it as if it were a server, are refused.
type forward struct {
	*httptest.Server
	host string       // that it knows
	to   http.Handler // is behind it
	ends string       // address that CONNECT leads to

	mu    sync.Mutex
	asked []string
}

func (f *forward) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	f.asked = append(f.asked, r.Method+" "+r.URL.String())
	f.mu.Unlock()
	switch {
	case r.Method == http.MethodConnect && r.Host == f.host:
		f.tunnel(w)
	case r.URL.Scheme == "http" && r.URL.Host == f.host:
		f.to.ServeHTTP(w, r)
	default:
		http.Error(w, "not of mine", http.StatusForbidden)
	}
}

func (f *forward) tunnel(w http.ResponseWriter) {
	up, err := net.Dial("tcp", f.ends)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer func() { _ = up.Close() }()
	w.WriteHeader(http.StatusOK)
	down, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer func() { _ = down.Close() }()
	var both sync.WaitGroup
	both.Go(func() {
		_, _ = io.Copy(up, buffered) // either side ends it
		_ = up.Close()
	})
	_, _ = io.Copy(down, up)
	_ = down.Close()
	both.Wait()
}

func (f *forward) requests() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.asked)
}

// outside is where nobody listens: the only way to it is a proxy.
const outside = "127.0.0.1:1"

// behindProxy is a repository with two packages that only a proxy leads to.
func behindProxy(t *testing.T) (Repo, *upstream, *forward) {
	t.Helper()
	key, files := newSigner(t), map[string][]byte{}
	debian(t, files, key, epoch, "", small, big)
	u := newUpstream(t, maps.Clone(files))
	f := &forward{host: outside, to: u.Config.Handler}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Close)
	return Repo{Upstreams: []string{"http://" + outside}, Keyring: key.ring, Proxy: f.URL}, u, f
}

func TestUpstreamIsReachedThroughTheProxyOnly(t *testing.T) {
	repo, u, proxy := behindProxy(t)
	h := newHouse(t, repo)
	h.learn(u)
	h.want(big.path(), big.data)
	if n := u.total(); n == 0 || proxy.requests() != n {
		t.Errorf("the upstream got %d requests, the proxy %d", n, proxy.requests())
	}
	repo.Proxy = ""
	direct := newHouse(t, repo)
	if r := direct.get(suite + "/InRelease"); r.code < 500 {
		t.Errorf("without the proxy: %d %s", r.code, r.body)
	}
}

func TestOtherMirrorsAreAskedWithoutTheProxy(t *testing.T) {
	repo, u, proxy := behindProxy(t)
	top := newHouse(t, repo)
	below := newHouse(t, repo, func(o *Options, _ *limits) { o.Parents = func() []string { return []string{top.web.URL} } })
	former := newHouse(t, repo, func(o *Options, _ *limits) {
		o.Beside = func() []string { return []string{top.web.URL} }
	})
	below.learn(u)
	below.want(big.path(), big.data)
	if n := u.total(); proxy.requests() != n {
		t.Errorf("the upstream got %d requests, the proxy %d", n, proxy.requests())
	}
	if s := below.Status().Repos[0]; s.FromUpstreams != 0 || s.FromParents == 0 {
		t.Errorf("%+v", s)
	}
	proxy.Close() // what is beside is left
	former.want(suite+"/InRelease", u.files[suite+"/InRelease"])
	if s := former.Status().Repos[0]; s.FromUpstreams != 0 || s.FromParents == 0 {
		t.Errorf("%+v", s)
	}
}

// TestUpstreamBehindTLSIsReachedThroughEveryProxy: by CONNECT, also where the proxy itself stands behind TLS and speaks HTTP/2.
func TestUpstreamBehindTLSIsReachedThroughEveryProxy(t *testing.T) {
	for _, scheme := range []string{"http", "https"} {
		t.Run(scheme, func(t *testing.T) {
			secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, r.URL.Path) }))
			t.Cleanup(secure.Close)
			f := &forward{host: outside, ends: secure.Listener.Addr().String()}
			f.Server = httptest.NewUnstartedServer(f)
			f.EnableHTTP2 = true
			if scheme == "https" {
				f.StartTLS()
			} else {
				f.Start()
			}
			t.Cleanup(f.Close)
			at, err := url.Parse(f.URL)
			if err != nil || at.Scheme != scheme {
				t.Fatal(at, err)
			}
			tr := transport(at, false)
			tr.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} // both certificates are the test's
			t.Cleanup(tr.CloseIdleConnections)
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "https://"+outside+"/file", nil)
			if err != nil {
				t.Fatal(err)
			}
			if r := do(t, &http.Client{Transport: tr}, req); r.code != http.StatusOK || string(r.body) != "/file" {
				t.Errorf("%d %q %v", r.code, r.body, r.err)
			}
			if f.requests() != 1 {
				t.Errorf("the proxy was asked for %q", f.asked)
			}
		})
	}
}
