//go:build wire

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// archive is a package repository on the operator's machine that counts what it is asked for.
type archive struct {
	files  map[string][]byte
	server http.Server

	mu    sync.Mutex
	asked map[string]int
	hosts map[string]int // that it was asked for as a proxy
}

const (
	archiveAddress = "192.168.42.5:8000"
	archiveRelease = lab.Suite + "/Release"
	archiveList    = lab.Suite + "/main/binary-amd64/Packages"
	helloSize      = 300_000
)

var archiveDeb = lab.Package{Name: "hello"}.Path()

func newArchive(t *testing.T, by *lab.Publisher) *archive {
	t.Helper()
	a := &archive{files: map[string][]byte{}, asked: map[string]int{}, hosts: map[string]int{}}
	hello, err := lab.RealPackage("hello", helloSize)
	if err == nil {
		err = by.Publish(a.files, time.Now(), "", hello)
	}
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (a *archive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := r.URL.Path[1:]
	a.mu.Lock()
	data, ok := a.files[name]
	a.asked[name]++
	a.hosts[r.URL.Host]++ // "" unless it is asked as a proxy
	a.mu.Unlock()
	if !ok {
		http.NotFound(w, r)
		return
	}
	_, _ = w.Write(data) // who asked has gone
}

func (a *archive) count(name string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.asked[name]
}

// through is how often it was asked as a proxy for a host.
func (a *archive) through(host string) int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.hosts[host]
}

// openOn serves the archive on a host until the test ends, or it is closed.
func (a *archive) openOn(t *testing.T, h *lab.Host) {
	t.Helper()
	var l net.Listener
	if err := h.Do(func() (err error) {
		l, err = net.Listen("tcp", archiveAddress)
		return err
	}); err != nil {
		t.Fatal(err)
	}
	a.server.Handler, a.server.ReadHeaderTimeout = a, 10*time.Second
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = a.server.Serve(l) // it ends with an error always
	}()
	t.Cleanup(func() {
		_ = a.server.Close()
		<-ended
	})
}

// roomyWorld is a world whose nodes have room to mirror: a mirror leaves a tenth of the disk free.
func roomyWorld(ctx context.Context, t *testing.T) (*story.World, story.Small) {
	t.Helper()
	w, small := world(t)
	small, err := small.Roomy(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return w, small
}

// addMirror has the swarm mirror a repository.
func addMirror(ctx context.Context, t *testing.T, via *story.Bare, args ...string) {
	t.Helper()
	if out, err := via.Offshoot(ctx, append([]string{"mirror", "add"}, args...)...); err != nil {
		t.Fatal(err, out)
	}
}

// awaitMirrors waits until every node has heard of n repositories by the ledger.
func awaitMirrors(ctx context.Context, t *testing.T, n int, all []*story.Bare) {
	t.Helper()
	for _, b := range all {
		for m := mirrorOf(ctx, t, b); len(m.Repos) < n || len(m.Problems) > 0; m = mirrorOf(ctx, t, b) {
			select {
			case <-ctx.Done():
				t.Fatalf("%s does not mirror the repositories", b.Host)
			case <-time.After(100 * time.Millisecond):
			}
		}
	}
}

// TestPackagesCrossTheUplinkOnceAndOutliveIt: whichever node a machine asks, a package comes from upstream once; and with the
// upstream gone, a node that never fetched anything has it from those beside it.
func TestPackagesCrossTheUplinkOnceAndOutliveIt(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	w, small := roomyWorld(ctx, t)
	trio := trioOf(ctx, t, w, small)
	a := newArchive(t, new(lab.Publisher))
	a.openOn(t, w.Operator)
	s, err := trio.Status(ctx)
	if err != nil {
		t.Fatal(err)
	}
	holder := trio.Machine(s.Segments[0].Holder)
	others := trio.Others(holder)
	addMirror(ctx, t, holder, "inhouse", "http://"+archiveAddress+"/", "--unsigned")
	// No node can reach this one, or find its name: the archive is the proxy that leads to it.
	addMirror(ctx, t, holder, "outside", "http://archive.invalid/", "--unsigned", "--limit", "50MB/s", "--proxy", "http://"+archiveAddress)
	direct := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			return w.Operator.Dial(ctx, network, address)
		},
	}
	fetch := func(by *http.Transport, from string) ([]byte, error) {
		req, err := http.NewRequestWithContext(ctx, "GET", from, nil)
		if err != nil {
			return nil, err
		}
		resp, err := by.RoundTrip(req)
		if err != nil {
			return nil, err
		}
		defer func() { _ = resp.Body.Close() }()
		data, err := io.ReadAll(resp.Body)
		if err == nil && resp.StatusCode != http.StatusOK {
			err = fmt.Errorf("%s: %s", resp.Status, data)
		}
		return data, err
	}
	door := func(b *story.Bare) string { return "http://" + net.JoinHostPort(hostOf(s, b), "7480") }
	get := func(from *story.Bare, path string) ([]byte, error) {
		return fetch(direct, door(from)+"/repo/inhouse/"+path)
	}
	// apt's order: what is signed, what that names, what that names.
	install := func(from *story.Bare) {
		t.Helper()
		for _, path := range []string{archiveRelease, archiveList, archiveDeb} {
			data, err := get(from, path)
			if err != nil || !bytes.Equal(data, a.files[path]) {
				t.Errorf("%s from %s: %d bytes, %v", path, from.Host, len(data), err)
			}
		}
	}
	awaitMirrors(ctx, t, 2, trio.Machines)
	install(holder)
	install(others[0])
	for _, path := range []string{archiveRelease, archiveList} {
		if data, err := fetch(direct, door(others[0])+"/repo/outside/"+path); err != nil || !bytes.Equal(data, a.files[path]) {
			t.Errorf("%s through the proxy: %d bytes, %v", path, len(data), err)
		}
	}
	if n := a.through("archive.invalid"); n < 2 {
		t.Errorf("the proxy was asked %d times", n)
	}
	if n := a.count(archiveDeb); n != 1 {
		t.Errorf("the package crossed the uplink %d times", n)
	}
	if m := mirrorOf(ctx, t, others[0]).Repos[0]; m.FromUpstreams != 0 || m.FromMirrors < int64(len(a.files[archiveDeb])) {
		t.Errorf("a node below the holder: %+v", m)
	}
	proxied := direct.Clone()
	proxied.Proxy = func(*http.Request) (*url.URL, error) { return url.Parse(door(holder)) }
	if data, err := fetch(proxied, "http://"+archiveAddress+"/"+archiveDeb); err != nil || !bytes.Equal(data, a.files[archiveDeb]) || a.count(archiveDeb) != 1 {
		t.Errorf("by the node as a proxy: %d bytes, %v, asked upstream %d times", len(data), err, a.count(archiveDeb))
	}
	if data, err := fetch(proxied, "http://192.168.42.5:9/"); err == nil {
		t.Errorf("a proxy to anywhere: %s", data)
	}
	_ = a.server.Close()
	if out, err := holder.Offshoot(ctx, "segment", "move", "s1", others[1].Host.String()); err != nil {
		t.Fatal(err, out)
	}
	install(others[1]) // at the top now, with an upstream that is gone, and empty until now
	if m := mirrorOf(ctx, t, others[1]).Repos[0]; m.FromUpstreams != 0 || m.FromMirrors < int64(len(a.files[archiveDeb])) {
		t.Errorf("the new holder: %+v", m)
	}
	if data, err := get(others[1], "pool/main/h/another_1_amd64.deb"); err == nil {
		t.Errorf("%d bytes of a package that nothing names", len(data))
	}
}

// hostOf is the address of a machine's node.
func hostOf(s status.Status, b *story.Bare) string {
	for _, n := range s.Nodes {
		if n.Name == b.Host.String() {
			host, _, _ := net.SplitHostPort(n.Address)
			return host
		}
	}
	return ""
}

// mirrorOf is what a node's mirror says.
func mirrorOf(ctx context.Context, t *testing.T, b *story.Bare) (m status.Mirror) {
	t.Helper()
	out, err := b.Offshoot(ctx, "mirror", "status", "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &m)
	}
	if err != nil {
		t.Fatalf("mirror status on %s: %v: %s", b.Host, err, out)
	}
	return m
}
