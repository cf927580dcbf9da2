package node

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"offshoot/node/internal/workset"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// pantry is a package repository without a signature, that can go away.
type pantry struct {
	files map[string]string
	gone  atomic.Bool
	url   string
}

var pantryPaths = []string{"dists/stable/Release", "dists/stable/main/binary-amd64/Packages", "pool/a.deb", "pool/b.deb"}

func newPantry(t *testing.T) *pantry {
	t.Helper()
	p := &pantry{files: map[string]string{"pool/a.deb": "the bytes of a", "pool/b.deb": "the bytes of b"}}
	var list strings.Builder
	for _, name := range []string{"a", "b"} {
		path := "pool/" + name + ".deb"
		fmt.Fprintf(&list, "Package: %s\nFilename: %s\nSize: %d\nSHA256: %x\n\n", name, path, len(p.files[path]), sha256.Sum256([]byte(p.files[path])))
	}
	p.files[pantryPaths[1]] = list.String()
	p.files[pantryPaths[0]] = fmt.Sprintf("Suite: stable\nCodename: stable\nComponents: main\nDate: %s\nSHA256:\n %x %d main/binary-amd64/Packages\n",
		time.Now().UTC().Format("Mon, 02 Jan 2006 15:04:05 UTC"), sha256.Sum256([]byte(list.String())), list.Len())
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		data, ok := p.files[strings.TrimPrefix(r.URL.Path, "/")]
		if p.gone.Load() || !ok {
			http.Error(w, "no", map[bool]int{true: http.StatusBadGateway, false: http.StatusNotFound}[p.gone.Load()])
			return
		}
		_, _ = io.WriteString(w, data)
	}))
	t.Cleanup(s.Close)
	p.url = s.URL
	return p
}

// household is a node's mirror and working sets on a store of its own; all of them share one state.
type household struct {
	*repos
	*sets
}

func newHousehold(t *testing.T, l *leader, p *pantry, from *share.Store) household {
	t.Helper()
	store, err := share.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	none := func() []swarm.Node { return nil }
	h := household{repos: &repos{replica: l.replica, dir: t.TempDir(), store: store, alive: func(swarm.NodeID) bool { return false }, others: none, log: slog.New(slog.DiscardHandler)}}
	h.sets = &sets{
		replica: l.replica, store: store, mirror: h.repos.mirror.Load, wake: make(chan struct{}, 1), log: slog.New(slog.DiscardHandler),
		fetch: func(ctx context.Context, d share.Digest, _ int64, _ func(int64)) error {
			if store.Has(d) {
				return nil
			}
			f, err := from.Open(d)
			if err != nil {
				return err
			}
			defer func() { _ = f.Close() }()
			_, err = store.PublishReader(ctx, f)
			return err
		},
	}
	h.repos.served = h.sets.served
	h.repos.open([]swarm.Repo{{Name: "inhouse", Upstreams: []string{p.url + "/"}}})
	t.Cleanup(func() { h.repos.open(nil) })
	return h
}

// install asks a mirror for files as the machine at addr1 does.
func (h household) install(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		r := httptest.NewRequest("GET", "/repo/inhouse/"+path, nil)
		r.RemoteAddr = addr1.String() + ":1234"
		w := httptest.NewRecorder()
		h.wrap(http.NotFoundHandler()).ServeHTTP(w, r)
		if w.Code != http.StatusOK {
			t.Fatalf("%s: %d %s", path, w.Code, w.Body)
		}
	}
}

// during runs one of the loops of a household until the test ends.
func during(t *testing.T, run func(context.Context) error) {
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func TestWhatAnInstallFetchedIsFetchedAheadByTheNextHolder(t *testing.T) {
	t.Parallel()
	l, p := founded(t), newPantry(t)
	l.must(swarm.PutRepo{Repo: swarm.Repo{Name: "inhouse", Upstreams: []string{p.url + "/"}}})
	l.must(swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{{Addr: addr1, MAC: mac1, Class: "agent", Expires: time.Now().Add(time.Hour)}}})
	first := newHousehold(t, l, p, nil)
	first.install(t, pantryPaths[0]) // armed only: nobody's install
	l.mint()
	first.install(t, pantryPaths[:3]...)
	during(t, first.record)
	if all := l.state.View().WorkingSets(); len(all) != 0 {
		t.Fatalf("before the install has ended: %+v", all)
	}
	m, _ := l.state.View().Machine(mac1)
	l.must(swarm.ReportInstall{MAC: mac1, Install: m.Install, Phase: swarm.PhaseInstalled, Text: "done"})
	set := awaitSet(t, l, 3)
	if want := int64(len(p.files[pantryPaths[0]]) + len(p.files[pantryPaths[1]]) + len(p.files[pantryPaths[2]])); set.Bytes != want || set.Profile != "p" {
		t.Errorf("%+v, want %d bytes", set, want)
	}

	next := newHousehold(t, l, p, first.sets.store)
	if next.settled(l.state.View()) {
		t.Error("a node that has fetched nothing ahead says that it is warm")
	}
	during(t, next.ahead)
	<-next.wake
	if !next.settled(l.state.View()) {
		t.Errorf("%+v", next.sets.picture(l.state.View()))
	}
	p.gone.Store(true)
	next.install(t, pantryPaths[:3]...)
	if got := next.sets.picture(l.state.View()); len(got) != 1 || got[0].State != status.SetComplete || got[0].Here != 3 {
		t.Errorf("%+v", got)
	}

	// A later install that fetches more adds to the set, wherever it was served.
	p.gone.Store(false)
	for range 2 { // fetched less: nothing is written
		l.must(swarm.ArmMachine{MAC: mac1})
		l.mint()
		next.install(t, pantryPaths[3])
		m, _ = l.state.View().Machine(mac1)
		if len(next.recorder.Files(m.Install)) != 1 {
			t.Fatal("not recorded")
		}
		l.must(swarm.ReportInstall{MAC: mac1, Install: m.Install, Phase: swarm.PhaseInstalled, Text: "done"})
		if err := next.write(t.Context(), "p", next.recorder.Files(m.Install)); err != nil {
			t.Fatal(err)
		}
		awaitSet(t, l, 4)
	}
}

func awaitSet(t *testing.T, l *leader, files int) swarm.WorkingSet {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	if err := l.await(ctx, fmt.Sprintf("the set has %d files", files), func(v swarm.View) bool {
		s, ok := v.WorkingSet("p")
		return ok && s.Files == files
	}); err != nil {
		t.Fatal(err)
	}
	s, _ := l.state.View().WorkingSet("p")
	return s
}

func TestSetThatCannotBeFetchedKeepsNobodyColdForEver(t *testing.T) {
	t.Parallel()
	l, p := founded(t), newPantry(t)
	l.must(swarm.PutRepo{Repo: swarm.Repo{Name: "inhouse", Upstreams: []string{p.url + "/"}}})
	h := newHousehold(t, l, p, nil)
	list := workset.List{{Repo: "inhouse", Path: pantryPaths[0]}, {Repo: "inhouse", Path: "pool/replaced.deb"}}
	if err := h.write(t.Context(), "p", list); err != nil {
		t.Fatal(err)
	}
	set := awaitSet(t, l, 2)
	p.gone.Store(true)
	h.pass(t.Context(), set, nil)
	if h.settled(l.state.View()) {
		t.Error("one pass in vain: the upstream may be back in a moment")
	}
	h.pass(t.Context(), set, nil)
	if !h.settled(l.state.View()) {
		t.Error("the upstream is gone, and the node is cold for ever")
	}
	if got := h.sets.picture(l.state.View()); got[0].State != status.SetIncomplete || got[0].Problem == "" {
		t.Errorf("%+v", got)
	}

	// Of a file that the repository has replaced nothing is to be hoped.
	p.gone.Store(false)
	other := newHousehold(t, l, p, h.sets.store)
	if got := other.pass(t.Context(), set, nil); got.Here != 1 || got.Gone != 1 || got.Failed != 0 || !other.settled(l.state.View()) {
		t.Errorf("%+v", got)
	}
	l.must(swarm.DropRepo{Name: "inhouse"})
	if got := other.pass(t.Context(), set, nil); got.Gone != 2 {
		t.Errorf("a repository that is mirrored no longer: %+v", got)
	}
	nobody := newHousehold(t, l, p, other.sets.store)
	nobody.sets.fetch = func(context.Context, share.Digest, int64, func(int64)) error { return share.ErrNotFound }
	for range 2 {
		nobody.pass(t.Context(), set, nil)
	}
	if !nobody.settled(l.state.View()) {
		t.Error("the list is nowhere, and the node is cold for ever")
	}
}

func TestSeedFetchesNothingAhead(t *testing.T) {
	t.Parallel()
	l, p := founded(t), newPantry(t)
	h := newHousehold(t, l, p, nil)
	h.alone = true
	if err := h.write(t.Context(), "p", workset.List{{Repo: "inhouse", Path: "x"}}); err != nil {
		t.Fatal(err)
	}
	if err := h.ahead(t.Context()); err != nil || !h.settled(l.state.View()) {
		t.Errorf("%v", err)
	}
	if got := h.sets.picture(l.state.View()); got[0].State != status.SetLeft {
		t.Errorf("%+v", got)
	}
}
