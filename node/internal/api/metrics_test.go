package api

import (
	"bytes"
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"offshoot/node/status"
)

func TestMetricsAreTheNumbersOfTheStatus(t *testing.T) {
	t.Parallel()
	s := status.Status{
		Asked: "m1", Version: "v1", Quorum: true, Problems: []status.Problem{{}, {}},
		Nodes: []status.Node{{State: status.NodeAlive}, {State: status.NodeAlive}, {State: status.NodeGone}, {State: status.NodeLeft}},
		Exchange: status.Exchange{BadPieces: 3, Open: 4, Stored: 123456789012, Bytes: status.Traffic{
			Received: status.Received{Disk: 10, Segment: 20, Uplink: 30, Upstream: 40}, Sent: status.Sent{Segment: 50, Uplink: 60, Boot: 70, Install: 80},
		}},
		Artifacts: []status.Artifact{{}, {Fetch: &status.Fetch{Size: 100, Done: 40}}, {Fetch: &status.Fetch{Size: 10, Done: 1}}},
	}
	m := status.Mirror{Repos: []status.Repo{{Name: "debian", FromDisk: 1, FromMirrors: 2, FromUpstreams: 3}}}
	got := string(exposed(s, m))
	for _, want := range []string{
		`offshoot_info{node="m1",version="v1"} 1`,
		`offshoot_artifact_bytes_total{direction="received",source="disk"} 10`,
		`offshoot_artifact_bytes_total{direction="received",source="segment"} 20`,
		`offshoot_artifact_bytes_total{direction="received",source="uplink"} 30`,
		`offshoot_artifact_bytes_total{direction="received",source="upstream"} 40`,
		`offshoot_artifact_bytes_total{direction="sent",source="segment"} 50`,
		`offshoot_artifact_bytes_total{direction="sent",source="uplink"} 60`,
		`offshoot_artifact_bytes_total{direction="sent",source="boot"} 70`,
		`offshoot_artifact_bytes_total{direction="sent",source="install"} 80`,
		`offshoot_repository_bytes_total{repo="debian",source="disk"} 1`,
		`offshoot_repository_bytes_total{repo="debian",source="segment"} 2`,
		`offshoot_repository_bytes_total{repo="debian",source="upstream"} 3`,
		`offshoot_bad_pieces_total 3`, `offshoot_torrents_open 4`, `offshoot_store_bytes 123456789012`, `offshoot_artifacts_fetching 2`,
		`offshoot_artifact_bytes_missing 69`, `offshoot_quorum 1`, `offshoot_problems 2`,
		`offshoot_nodes{state="alive"} 2`, `offshoot_nodes{state="joining"} 0`, `offshoot_nodes{state="gone"} 1`,
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("%s is missing in\n%s", want, got)
		}
	}
}

// The format as Prometheus reads it; a value of a label has no raw quote, backslash or end of line.
var (
	metricName = regexp.MustCompile(`^[a-zA-Z_:][a-zA-Z0-9_:]*$`)
	sampleLine = regexp.MustCompile(`^([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{((?:[a-zA-Z_][a-zA-Z0-9_]*="(?:[^"\\\n]|\\["\\n])*",?)+)\})? (\S+)$`)
)

// readMetrics holds an exposition to the rules of the format: each metric says once what it is, before its samples, which stand
// together and differ in their labels; counters end in _total.
func readMetrics(text string) error {
	if !strings.HasSuffix(text, "\n") {
		return fmt.Errorf("the last line has no end")
	}
	kinds, seen, current := map[string]string{}, map[string]bool{}, ""
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		words := strings.SplitN(line, " ", 4)
		switch {
		case words[0] == "#" && len(words) == 4 && words[1] == "HELP" && metricName.MatchString(words[2]):
			if _, twice := kinds[words[2]]; twice {
				return fmt.Errorf("%q: a second time", line)
			}
			current, kinds[words[2]] = words[2], ""
		case words[0] == "#" && len(words) == 4 && words[1] == "TYPE" && words[2] == current && kinds[current] == "":
			kinds[current] = words[3]
			if words[3] != "gauge" && words[3] != "counter" || (words[3] == "counter") != strings.HasSuffix(current, "_total") {
				return fmt.Errorf("%q: the name does not fit", line)
			}
		default:
			m := sampleLine.FindStringSubmatch(line)
			if m == nil || m[1] != current || kinds[current] == "" {
				return fmt.Errorf("%q is no sample of %q", line, current)
			}
			if _, err := strconv.ParseFloat(m[3], 64); err != nil {
				return err
			}
			if seen[m[1]+m[2]] {
				return fmt.Errorf("%q: a second time", line)
			}
			seen[m[1]+m[2]] = true
		}
	}
	return nil
}

func TestMetricsKeepTheFormatWhateverThingsAreCalled(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"m1", `a"b`, `a\b`, "a\nb", `a",x="`, "\xff", "}\n# TYPE x y\nz 1\n", ""} {
		text := string(exposed(status.Status{Asked: name, Version: name}, status.Mirror{Repos: []status.Repo{{Name: name}, {Name: name + "2"}}}))
		if err := readMetrics(text); err != nil {
			t.Errorf("%q: %v in\n%s", name, err, text)
		}
	}
}

func TestMetricsAreServedAsTextOnBothWays(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	w := ask(desk, http.MethodGet, "/v1/metrics", "")
	if w.Code != http.StatusOK || w.Header().Get("Content-Type") != metricsType || readMetrics(w.Body.String()) != nil {
		t.Errorf("%d %v %s", w.Code, w.Header(), w.Body)
	}
	var out bytes.Buffer
	client := NewClient(serve(t, desk))
	defer client.Close()
	if err := client.Metrics(t.Context(), &out); err != nil || out.String() != w.Body.String() {
		t.Errorf("the client got %q, %v", out.String(), err)
	}
	for call, code := range map[string]int{
		"GET /metrics": 200, "HEAD /metrics": 200, "POST /metrics": 405, "GET /": 404, "GET /v1/metrics": 404, "GET /v1/status": 404, "GET /metrics/": 404, "GET /debug/pprof/": 404,
	} {
		method, path, _ := strings.Cut(call, " ")
		plain := httptest.NewRecorder()
		Metrics(desk).ServeHTTP(plain, httptest.NewRequest(method, path, nil))
		if plain.Code != code || method == http.MethodGet && code == 200 && plain.Body.String() != w.Body.String() {
			t.Errorf("%s: %d %s", call, plain.Code, plain.Body)
		}
	}
}
