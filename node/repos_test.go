package node

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/share"
)

func TestMirrorsStandInATree(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		above, want string // pairs: a node and who is above it
	}{
		"chain":            {"c>b b>a", "a> b>a c>b"},
		"two":              {"a>b b>a", "a> b>a"},
		"three":            {"a>b b>c c>a", "a> b>c c>a"},
		"behind a circle":  {"a>b b>a d>b", "a> b>a d>b"},
		"before a circle":  {"0>b a>b b>a", "0>b a> b>a"},
		"nobody above":     {"", "a>"},
		"one that is left": {"b>a c>b d>", "b>a c>b d>"},
	} {
		t.Run(name, func(t *testing.T) {
			pairs := func(text string) map[swarm.NodeID]swarm.NodeID {
				out := map[swarm.NodeID]swarm.NodeID{}
				for _, pair := range strings.Fields(text) {
					from, to, _ := strings.Cut(pair, ">")
					out[swarm.NodeID(from)] = swarm.NodeID(to)
				}
				return out
			}
			above := pairs(c.above)
			for self, want := range pairs(c.want) {
				if got := parentOf(self, func(id swarm.NodeID) swarm.NodeID { return above[id] }); got != want {
					t.Errorf("above %s is %q, want %q", self, got, want)
				}
			}
		})
	}
}

func TestMirrorFollowsTheLedger(t *testing.T) {
	t.Parallel()
	upstream := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "bytes") }))
	t.Cleanup(upstream.Close)
	l := founded(t)
	dir := t.TempDir()
	store, err := share.OpenStore(dir + "/artifacts")
	if err != nil {
		t.Fatal(err)
	}
	r := &repos{replica: l.replica, dir: dir, store: store, alive: func(swarm.NodeID) bool { return true }, others: func() []swarm.Node { return nil }, log: slog.New(slog.DiscardHandler)}
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- r.Run(ctx) }()
	t.Cleanup(func() {
		stop()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	until := func(what string, ok func() bool) {
		t.Helper()
		for late := time.After(10 * time.Second); !ok(); {
			select {
			case <-late:
				t.Fatalf("wait until %s", what)
			case <-time.After(time.Millisecond):
			}
		}
	}
	own := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "own", http.StatusTeapot) })
	get := func(path string) int {
		w := httptest.NewRecorder()
		r.wrap(own).ServeHTTP(w, httptest.NewRequest("GET", path, nil))
		return w.Code
	}
	until("repositories are not the mirror's business while there are none", func() bool { return get("/repo/x/file") == http.StatusTeapot })
	l.must(swarm.PutRepo{Repo: swarm.Repo{Name: "x", Upstreams: []string{upstream.URL}, Unlisted: true}})
	until("the file comes from upstream", func() bool { return get("/repo/x/file") == http.StatusOK })
	if code := get("/artifact/x/y"); code != http.StatusTeapot {
		t.Errorf("what is not the mirror's: %d", code)
	}
	if p := r.picture(); len(p.Repos) != 1 || p.Repos[0].Name != "x" || p.Repos[0].Signed || p.Repos[0].FromUpstreams == 0 || len(p.Problems) != 0 {
		t.Errorf("%+v", p)
	}
	hidden := swarm.Repo{Name: "x", Upstreams: []string{"http://127.0.0.1:1"}, Unlisted: true, Proxy: upstream.URL} // where nobody listens
	if err := l.decide(ctx, swarm.PutRepo{Repo: hidden}); !errors.Is(err, errTooNew) {
		t.Errorf("a node that has not said what it understands would have to read of a proxy: %v", err)
	}
	l.must(swarm.ReportNode{Address: "192.168.42.1:7400", Protocol: swarm.Protocol})
	l.must(swarm.PutRepo{Repo: hidden})
	until("the file comes through the proxy", func() bool { return get("/repo/x/file") == http.StatusOK })
	if p := r.picture(); len(p.Repos) != 1 || p.Repos[0].Proxy != upstream.URL {
		t.Errorf("%+v", p)
	}
	l.must(swarm.DropRepo{Name: "x"})
	until("the mirror is closed", func() bool { return get("/repo/x/file") == http.StatusTeapot })
}
