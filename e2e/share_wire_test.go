//go:build wire

package e2e

import (
	"context"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"offshoot/node/status"
)

// TestNodesFetchArtifactsInPieces: three machines become nodes at the same time, and get what the profile needs by BitTorrent, from the
// seed and from each other; HTTP is for what has no pieces, and for when they do not come. What each counted adds up: to the size
// of what it needed, and to what the others sent.
func TestNodesFetchArtifactsInPieces(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	_, _, trio := threeVoters(ctx, t)
	served, received, sent := int64(0), int64(0), trio.Seed.Exchange.Bytes.Sent.Segment
	for _, b := range trio.Machines {
		s, err := b.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		t.Logf("%s: %+v", b.Host, s.Exchange)
		if s.Exchange.Fetched < 1<<20 || s.Exchange.BadPieces > 0 {
			t.Errorf("%s is warm, and has fetched %d bytes in pieces, %d of them wrong", b.Host, s.Exchange.Fetched, s.Exchange.BadPieces)
		}
		served += s.Exchange.Served
		received += s.Exchange.Bytes.Received.Segment
		sent += s.Exchange.Bytes.Sent.Segment
		wantSources(t, b.Host.String(), s)
		numbers, err := b.Offshoot(ctx, "metrics")
		if want := `offshoot_artifact_bytes_total{direction="received",source="segment"} `; err != nil || !strings.Contains(numbers, want) {
			t.Errorf("%s: its metrics say nothing of %s: %v\n%s", b.Host, want, err, numbers)
		}
	}
	if served == 0 {
		t.Error("the seed alone has sent pieces")
	}
	t.Logf("seed: %+v", trio.Seed.Exchange)
	// The seed was asked before it was killed, and its peers some time later; a chunk that came twice is sent twice and received once.
	if sent < received*9/10 || sent > 2*received {
		t.Errorf("%d bytes were received from nodes, and %d sent to them", received, sent)
	}
	needs := int64(0)
	for _, a := range trio.Seed.Artifacts {
		needs += a.Size
	}
	if got := trio.Seed.Exchange.Bytes; got.Received != (status.Received{Disk: needs}) || got.Sent.Uplink != 0 || got.Sent.Boot+got.Sent.Install < smallest(trio.Seed) {
		t.Errorf("the seed has %d bytes of artifacts, and counted %+v", needs, got)
	}
}

// wantSources holds a node that fetched everything from its own segment to the sizes of what it fetched. A fetch that went on by
// HTTP may have thrown some pieces away: up to a tenth more.
func wantSources(t *testing.T, name string, s status.Status) {
	t.Helper()
	var sum status.Received
	for _, a := range s.Artifacts {
		got := a.Bytes.Received
		if got.Disk+got.Segment < a.Size || got.Disk+got.Segment > a.Size*11/10 || got.Uplink != 0 || got.Upstream != 0 || got.Disk != 0 && got.Segment != 0 {
			t.Errorf("%s: %s has %d bytes, of which were counted %+v", name, a.Name, a.Size, got)
		}
		if !a.Here || len(a.Nodes) < 3 || a.Fetch != nil {
			t.Errorf("%s: all three are warm, and it says of %s: here %v, held by %v, fetched %+v", name, a.Name, a.Here, a.Nodes, a.Fetch)
		}
		sum.Disk, sum.Segment = sum.Disk+got.Disk, sum.Segment+got.Segment
	}
	if len(s.Artifacts) == 0 || s.Exchange.Bytes.Received != sum || s.Exchange.Stored < sum.Sum()*9/10 {
		t.Errorf("%s: counted %+v in all, by artifact %+v, and has stored %d", name, s.Exchange.Bytes.Received, sum, s.Exchange.Stored)
	}
}

// smallest is the least that an installing machine gets by HTTP: its image.
func smallest(s status.Status) int64 {
	least := int64(0)
	for _, a := range s.Artifacts {
		if len(a.Profiles) > 0 && (least == 0 || a.Size < least) {
			least = a.Size
		}
	}
	return least
}

// TestMetricsAreServedWhereTheyWereAskedFor: --metrics opens one more port, which gives the numbers and nothing else.
func TestMetricsAreServedWhereTheyWereAskedFor(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, small := world(t)
	seed, s, err := w.Seeded(ctx, small, "--metrics", "127.0.0.1:7490")
	if err != nil {
		t.Fatal(err)
	}
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: seed.Host.Dial}}
	get := func(path string) (int, string) {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://127.0.0.1:7490"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = resp.Body.Close() }()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return resp.StatusCode, string(body)
	}
	code, numbers := get("/metrics")
	if want := `offshoot_info{node="seed",version="` + s.Version + `"} 1`; code != http.StatusOK || !strings.Contains(numbers, want) {
		t.Errorf("%d, without %s:\n%s", code, want, numbers)
	}
	if said, err := seed.Offshoot(ctx, "metrics"); err != nil || said != numbers {
		t.Errorf("offshoot metrics says something else: %v\n%s", err, said)
	}
	for _, path := range []string{"/", "/v1/status", "/v1/snapshot", "/debug/pprof/"} {
		if code, body := get(path); code != http.StatusNotFound {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}
