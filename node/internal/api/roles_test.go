package api

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"
)

// rights is what each role may ask for, written down a second time: a new route needs a decision here as well.
var rights = map[string]string{
	"GET /v1/status": "view", "GET /v1/machines/{mac}": "view", "GET /v1/machines/{mac}/why": "view", "GET /v1/machines/{mac}/log": "view", "GET /v1/leases": "view",
	"GET /v1/tickets": "view", "GET /v1/operators": "view", "GET /v1/audit": "view", "GET /v1/mirror": "view", "GET /v1/artifacts": "view",
	"GET /v1/metrics": "view", "GET /v1/profiles": "view", "GET /v1/profiles/{name}/lint": "view",
	"GET /v1/artifacts/{digest}": "view", "POST /v1/artifacts/{digest}/verify": "operate",

	"POST /v1/machines/{mac}/arm": "operate", "POST /v1/machines/{mac}/name": "operate", "POST /v1/machines/{mac}/hold": "operate", "POST /v1/machines/{mac}/boot": "operate",
	"POST /v1/machines/{mac}/release": "operate", "POST /v1/machines/{mac}/wake": "operate", "POST /v1/machines/{mac}/reserve": "operate",
	"POST /v1/machines/{mac}/label": "operate", "POST /v1/machines/{mac}/own-disk": "operate",
	"POST /v1/tickets/{id}/revoke": "operate", "POST /v1/leases/reserve": "operate", "POST /v1/leases/unreserve": "operate",
	"POST /v1/segments": "operate", "DELETE /v1/segments/{segment}": "operate", "POST /v1/segments/{segment}/pools": "operate", "POST /v1/segments/{segment}/move": "operate",
	"PUT /v1/artifacts": "operate", "GET /v1/profiles/{name}": "operate", "PUT /v1/profiles/{name}": "operate", "DELETE /v1/profiles/{name}": "operate",
	"GET /v1/machines/{mac}/render": "operate",
	"PUT /v1/repos/{name}":          "operate", "POST /v1/profiles/{name}/prefetch": "operate",
	"POST /v1/artifacts/{digest}/pin": "operate", "POST /v1/artifacts/{digest}/unpin": "operate", "DELETE /v1/artifacts/{digest}": "operate", "POST /v1/store": "admin", "DELETE /v1/repos/{name}": "operate",

	"POST /v1/unknown": "admin", "POST /v1/console-installs": "admin",
	"POST /v1/domain": "admin", "POST /v1/dns": "admin", "POST /v1/ntp": "admin",
	"POST /v1/boot": "admin", "POST /v1/voters": "admin", "POST /v1/stall-after": "admin", "POST /v1/uplink-limit": "admin", "POST /v1/leave": "admin", "POST /v1/nodes/{node}/evict": "admin", "POST /v1/nodes/{node}/trust": "admin",
	"POST /v1/keys/rotate": "admin", "POST /v1/operators": "admin", "POST /v1/operators/{name}/revoke": "admin",
	"GET /v1/snapshot": "admin", "PUT /v1/snapshot": "admin",
}

func TestEveryRouteRefusesTheRolesBelowItsOwn(t *testing.T) {
	t.Parallel()
	got := map[string]string{}
	for pattern, r := range routes() {
		got[pattern] = r.role
	}
	if !maps.Equal(got, rights) {
		t.Fatalf("the routes have the roles %v, want %v", got, rights)
	}
	fill := strings.NewReplacer("{mac}", string(mac), "{id}", "7c1f", "{segment}", "s1", "{node}", "a2", "{name}", "alice", "{digest}", "abcdef12", "PUT /v1/artifacts", "PUT /v1/artifacts?name=x")
	bodies := map[string]string{
		"POST /v1/leases/reserve": `{"mac":"52:54:00:00:00:01","address":"192.168.42.60"}`, "POST /v1/segments/{segment}/pools": `{"pools":[]}`,
		"POST /v1/segments/{segment}/move": `{"node":"m3"}`, "POST /v1/uplink-limit": `{"limit":0}`, "POST /v1/stall-after": `{"seconds":0}`,
		"POST /v1/segments": `{"network":"10.9.0.0/24","relay":"10.9.0.1","via":"192.168.42.254"}`,
		"POST /v1/domain":   `{"domain":""}`, "POST /v1/dns": `{"servers":[]}`, "POST /v1/ntp": `{"servers":["192.0.2.123"]}`,
	}
	bodies["POST /v1/leases/unreserve"] = bodies["POST /v1/leases/reserve"]
	order := []string{"", "superuser", "View", "view", "operate", "admin"} // those that are none come first
	for pattern, least := range rights {
		for at, role := range order {
			desk := &clerk{state: crowd()}
			method, path, _ := strings.Cut(fill.Replace(pattern), " ")
			if pattern == "PUT /v1/artifacts" {
				path += "?name=image"
			}
			w := httptest.NewRecorder()
			Handler(desk, as(role)).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(bodies[pattern])))
			allowed := at >= slices.Index(order, least)
			switch {
			case allowed && w.Code != http.StatusOK:
				t.Errorf("%s as %q: %d %s", pattern, role, w.Code, w.Body)
			case allowed:
			case w.Code != http.StatusForbidden || len(desk.ops)+len(desk.did) != 0:
				t.Errorf("%s as %q: %d, decided %v %q", pattern, role, w.Code, desk.ops, desk.did)
			case !strings.Contains(w.Body.String(), "offshoot operator add NAME --role "+least):
				t.Errorf("%s as %q: %q does not say the next step", pattern, role, w.Body)
			}
		}
	}
}

// TestNoRouteIsOutsideOfTheTable: what is served is what stands in routes(), where each entry has a role.
func TestNoRouteIsOutsideOfTheTable(t *testing.T) {
	t.Parallel()
	packages, err := parser.ParseDir(token.NewFileSet(), ".", func(f fs.FileInfo) bool { return !strings.HasSuffix(f.Name(), "_test.go") }, 0) //nolint:staticcheck // no build tags here
	if err != nil {
		t.Fatal(err)
	}
	handles := 0
	for _, p := range packages {
		ast.Inspect(p, func(n ast.Node) bool {
			if sel, ok := n.(*ast.SelectorExpr); ok && (sel.Sel.Name == "Handle" || sel.Sel.Name == "HandleFunc") {
				handles++
			}
			return true
		})
	}
	if handles != 1 {
		t.Errorf("routes are added at %d places, want one: the loop over routes()", handles)
	}
	for _, path := range []string{"/", "/v1", "/v1/", "/v1/nothing", "/v2/status", "/v1/status/", "/debug/pprof/"} {
		if w := ask(&clerk{}, http.MethodGet, path, ""); w.Code != http.StatusNotFound {
			t.Errorf("%s: answered %d", path, w.Code)
		}
	}
	for _, call := range []string{"POST /v1/status", "GET /v1/voters", "DELETE /v1/snapshot", "GET /v1/machines/" + string(mac) + "/arm"} {
		method, path, _ := strings.Cut(call, " ")
		desk := &clerk{}
		if w := ask(desk, method, path, ""); w.Code != http.StatusMethodNotAllowed || len(desk.ops)+len(desk.did) != 0 {
			t.Errorf("%s: answered %d", call, w.Code)
		}
	}
}

func TestCallerWhoIsNotKnownIsToldWhy(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	nobody := func(*http.Request) (Caller, error) {
		return Caller{Role: "admin"}, errors.New("operator mallory was revoked")
	}
	for pattern := range rights {
		method, path, _ := strings.Cut(pattern, " ")
		w := httptest.NewRecorder()
		Handler(desk, nobody).ServeHTTP(w, httptest.NewRequest(method, path, nil))
		if w.Code != http.StatusForbidden || !strings.Contains(w.Body.String(), "mallory was revoked") || len(desk.ops)+len(desk.did) != 0 {
			t.Errorf("%s: answered %d %s", pattern, w.Code, w.Body)
		}
	}
}

func TestActorFitsTheAuditLogWhateverTheCallerIsCalled(t *testing.T) {
	t.Parallel()
	if got := (Caller{Name: "operator alice", From: "192.0.2.7"}).Actor(); got != "operator alice, 192.0.2.7" {
		t.Errorf("got %q", got)
	}
	for _, name := range []string{strings.Repeat("ä", 500), "a\nb\x1b[2J", "\xff\xfe", strings.Repeat("x", 1000)} {
		got := Caller{Name: name, From: "192.0.2.7"}.Actor()
		if len(got) > 200 || got == "" || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\x1b") {
			t.Errorf("%q becomes %q, %d bytes", name, got, len(got))
		}
		if !strings.Contains(got, "192.0.2.7") {
			t.Errorf("%q: the address is lost in %q", name, got)
		}
	}
}

// FuzzViewerDecidesNothing: whatever a viewer sends, nothing changes and nothing falls over.
func FuzzViewerDecidesNothing(f *testing.F) {
	for pattern := range rights {
		method, path, _ := strings.Cut(pattern, " ")
		f.Add(method, path, `{"wipe":true}`)
	}
	f.Add("POST", "/v1/machines/%2e%2e/arm", "")
	f.Add("GET", "//v1/../v1/snapshot", "{")
	f.Fuzz(func(t *testing.T, method, path, body string) {
		r, err := http.NewRequest(method, "http://offshoot/", strings.NewReader(body))
		if err != nil {
			return
		}
		r.URL.Path = path
		desk := &clerk{state: crowd()}
		Handler(desk, as("view")).ServeHTTP(httptest.NewRecorder(), r)
		if len(desk.ops)+len(desk.did) != 0 {
			t.Errorf("%s %q decided %v %q", method, path, desk.ops, desk.did)
		}
		admin := &clerk{state: crowd()}
		Handler(admin, as("admin")).ServeHTTP(httptest.NewRecorder(), r) // must not panic
	})
}
