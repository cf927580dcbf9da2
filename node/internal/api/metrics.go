package api

import (
	"bytes"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"offshoot/node/status"
)

// metricsType is Prometheus' text exposition format, https://prometheus.io/docs/instrumenting/exposition_formats/.
const metricsType = "text/plain; version=0.0.4; charset=utf-8"

// document is an answer that is no JSON.
type document struct {
	kind string
	body []byte
}

func metrics(q *request) (any, error) {
	return document{metricsType, exposed(q.desk.Status(q.Context()), q.desk.Mirror())}, nil
}

// MetricsPath is where Metrics answers.
const MetricsPath = "/metrics"

// Metrics serves a node's numbers, and nothing else of it, to whoever asks.
func Metrics(d Desk) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.URL.Path != MetricsPath:
			http.NotFound(w, r)
		case r.Method != http.MethodGet && r.Method != http.MethodHead:
			w.Header().Set("Allow", "GET, HEAD")
			refuse(w, http.StatusMethodNotAllowed, "only GET and HEAD")
		default:
			w.Header().Set("Content-Type", metricsType)
			_, _ = w.Write(exposed(d.Status(r.Context()), d.Mirror())) // who asked has gone: nothing to be done
		}
	})
}

// label is a dimension of a metric.
type label struct{ name, value string }

// sample is one number of a metric.
type sample struct {
	labels []label
	value  float64
}

// exposition collects metrics as text. The names, the types and the order of labels are ours: nothing in here is read from elsewhere
// but the values of labels.
type exposition struct{ bytes.Buffer }

// metric writes one with all its samples; kind is counter or gauge.
func (e *exposition) metric(name, kind, help string, samples ...sample) {
	_, _ = fmt.Fprintf(e, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) // into memory
	for _, s := range samples {
		e.WriteString(name)
		for i, l := range s.labels {
			before := ","
			if i == 0 {
				before = "{"
			}
			e.WriteString(before + l.name + `="` + escape.Replace(strings.ToValidUTF8(l.value, "?")) + `"`)
		}
		if len(s.labels) > 0 {
			e.WriteString("}")
		}
		e.WriteString(" " + strconv.FormatFloat(s.value, 'f', -1, 64) + "\n")
	}
}

// escape is what the format asks for in the values of labels.
var escape = strings.NewReplacer(`\`, `\\`, `"`, `\"`, "\n", `\n`)

func one(v float64, labels ...label) sample { return sample{labels, v} }

func flag(on bool) sample {
	if on {
		return one(1)
	}
	return one(0)
}

// exposed is the status document for Prometheus: what this node moved, and what an alarm would ask for.
func exposed(s status.Status, m status.Mirror) []byte {
	var e exposition
	e.metric("offshoot_info", "gauge", "This node; always 1.", one(1, label{"node", s.Asked}, label{"version", s.Version}))
	in, out := s.Exchange.Bytes.Received, s.Exchange.Bytes.Sent
	moved := func(direction, source string, n int64) sample {
		return one(float64(n), label{"direction", direction}, label{"source", source})
	}
	e.metric("offshoot_artifact_bytes_total", "counter", "Bytes of artifacts received by where they came from, and sent by who got them.",
		moved("received", "disk", in.Disk), moved("received", "segment", in.Segment), moved("received", "uplink", in.Uplink), moved("received", "upstream", in.Upstream),
		moved("sent", "segment", out.Segment), moved("sent", "uplink", out.Uplink), moved("sent", "boot", out.Boot), moved("sent", "install", out.Install))
	var repos []sample
	for _, r := range m.Repos {
		from := func(source string, n int64) sample {
			return one(float64(n), label{"repo", r.Name}, label{"source", source})
		}
		repos = append(repos, from("disk", r.FromDisk), from("segment", r.FromMirrors), from("upstream", r.FromUpstreams))
	}
	e.metric("offshoot_repository_bytes_total", "counter", "Bytes of mirrored package repositories by where they came from.", repos...)
	e.metric("offshoot_bad_pieces_total", "counter", "Pieces that did not match and were thrown away.", one(float64(s.Exchange.BadPieces)))
	e.metric("offshoot_torrents_open", "gauge", "Torrents that are open now.", one(float64(s.Exchange.Open)))
	e.metric("offshoot_store_bytes", "gauge", "Bytes of artifacts on the disk.", one(float64(s.Exchange.Stored)))
	fetching, left := 0, int64(0)
	for _, a := range s.Artifacts {
		if a.Fetch != nil {
			fetching, left = fetching+1, left+max(0, a.Fetch.Size-a.Fetch.Done)
		}
	}
	e.metric("offshoot_artifacts_fetching", "gauge", "Artifacts on their way to this node.", one(float64(fetching)))
	e.metric("offshoot_artifact_bytes_missing", "gauge", "Bytes that these still lack.", one(float64(left)))
	e.metric("offshoot_quorum", "gauge", "1 while the swarm can decide.", flag(s.Quorum))
	e.metric("offshoot_problems", "gauge", "Problems that offshoot status shows.", one(float64(len(s.Problems))))
	var nodes []sample
	for _, state := range []string{status.NodeAlive, status.NodeJoining, status.NodeGone} {
		count := 0
		for _, n := range s.Nodes {
			if n.State == state {
				count++
			}
		}
		nodes = append(nodes, one(float64(count), label{"state", state}))
	}
	e.metric("offshoot_nodes", "gauge", "Nodes of the swarm as this one sees them.", nodes...)
	return e.Bytes()
}
