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
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestNextHolderInstallsWhatTheFirstOneFetched: what an installing machine gets with apt from one node is fetched ahead by the others.
// With the upstream and that node cut off, the next machine installs the same from the node that took over.
func TestNextHolderInstallsWhatTheFirstOneFetched(t *testing.T) {
	t.Parallel()
	lab.Need(t, "apt-get")
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
	first := trio.Machine(s.Segments[0].Holder)
	others := trio.Others(first)
	addMirror(ctx, t, first, "inhouse", "http://"+archiveAddress+"/", "--unsigned")
	awaitMirrors(ctx, t, 1, trio.Machines)

	// The wire tier's agent fetches no packages, so the machine's part is played: its orders are the real ones.
	m4 := newInstallation(ctx, t, w, small, "m4", first)
	apt(ctx, t, m4.bare.Host, sourceLine(hostOf(s, first), "trusted=yes"))
	m4.done(ctx, t)
	for _, b := range others {
		set := awaitSet(ctx, t, b)
		if set.Files < 3 || set.Bytes < int64(len(a.files[archiveDeb])) || set.Problem != "" {
			t.Errorf("%s: %+v", b.Host, set)
		}
	}
	if n := a.count(archiveDeb); n != 1 {
		t.Errorf("the package crossed the uplink %d times", n)
	}
	if out, err := others[0].Offshoot(ctx, "artifact", "prefetch", "default"); err != nil {
		t.Errorf("%v: %s", err, out)
	}

	_ = a.server.Close()
	if err := first.Host.SetLink(w.Lan0, false); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = first.Host.SetLink(w.Lan0, true) })
	var next *story.Bare
	for {
		now, err := others[0].Status(ctx)
		if err == nil && now.Quorum && now.Segments[0].Holder != first.Host.String() {
			next, s = trio.Machine(now.Segments[0].Holder), now
			break
		}
		select {
		case <-ctx.Done():
			t.Fatalf("nobody took over: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
	m5 := newInstallation(ctx, t, w, small, "m5", next)
	apt(ctx, t, m5.bare.Host, sourceLine(hostOf(s, next), "trusted=yes"))
	if m := mirrorOf(ctx, t, next).Repos[0]; m.FromDisk < int64(len(a.files[archiveDeb])) {
		t.Errorf("it had to ask others: %+v", m)
	}
	m5.done(ctx, t) // what an install under way has fetched is kept
	fullDisk(ctx, t, next)
}

// fullDisk leaves less than a quarter of the disk of a node that has a working set: the set goes, and what the profile needs stays.
func fullDisk(ctx context.Context, t *testing.T, b *story.Bare) {
	t.Helper()
	if out, err := b.OnDisk(ctx, "sh", "-c", "fallocate -l $(($(df --output=avail -B1 . | tail -1) - 80000000)) filler"); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for mirrorOf(ctx, t, b).Sets[0].State != status.SetIncomplete {
		select {
		case <-ctx.Done():
			t.Fatalf("a full disk, and nothing is thrown away; its log is %s", b.Log())
		case <-time.After(100 * time.Millisecond):
		}
	}
	if set := mirrorOf(ctx, t, b).Sets[0]; !strings.Contains(set.Problem, "thrown away to make room") {
		t.Errorf("%+v", set)
	}
	out, err := b.Offshoot(ctx, "artifact", "list", "-o", "json")
	var all []status.Artifact
	if err == nil {
		err = json.Unmarshal([]byte(out), &all)
	}
	if err != nil || len(all) == 0 {
		t.Fatalf("%v: %s", err, out)
	}
	for _, a := range all {
		if !a.Here {
			t.Errorf("%s is thrown away, and profiles %q need it", a.Name, a.Profiles)
		}
		if out, err := b.Offshoot(ctx, "artifact", "remove", a.Digest); err == nil || !strings.Contains(out+err.Error(), "is needed by profile default") {
			t.Errorf("remove %s: %v: %s", a.Name, err, out)
		}
	}
}

// awaitSet waits until a node has the whole working set of the only profile, and says so.
func awaitSet(ctx context.Context, t *testing.T, b *story.Bare) status.WorkingSet {
	t.Helper()
	for {
		m := mirrorOf(ctx, t, b)
		s, err := b.Status(ctx)
		if err != nil {
			t.Fatal(err)
		}
		warm := false
		for _, n := range s.Nodes {
			warm = warm || n.Name == b.Host.String() && n.Warm
		}
		if len(m.Sets) == 1 && m.Sets[0].State == status.SetComplete && warm {
			return m.Sets[0]
		}
		select {
		case <-ctx.Done():
			t.Fatalf("%s has not fetched the working set: %+v, warm %v", b.Host, m.Sets, warm)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// installation is a machine that was told to install, in the hands of the test.
type installation struct {
	bare *story.Bare
	url  string // where its orders are
	id   string
	by   *http.Client
}

// newInstallation arms a machine, boots it from the network and fetches its orders: from then on it counts as installing.
func newInstallation(ctx context.Context, t *testing.T, w *story.World, small story.Small, name string, via *story.Bare) *installation {
	t.Helper()
	b := bareAndArmed(ctx, t, w, via, small, name)
	i := &installation{bare: b, by: &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true, DialContext: b.Host.Dial}}}
	for i.url == "" {
		script, err := b.Script(ctx)
		if i.url = story.AgentURL(script); i.url != "" {
			break
		}
		select { // a node that has just taken over may not listen yet
		case <-ctx.Done():
			t.Fatalf("%s is not told to install: %v: %s", name, err, script)
		case <-time.After(100 * time.Millisecond):
		}
	}
	var config struct {
		Install string `json:"install"`
	}
	if err := json.Unmarshal(i.ask(ctx, t, http.MethodGet, "/install", nil), &config); err != nil || config.Install == "" {
		t.Fatalf("the orders of %s: %v", name, err)
	}
	i.id = config.Install
	return i
}

func (i *installation) ask(ctx context.Context, t *testing.T, method, path string, body []byte) []byte {
	t.Helper()
	q, err := http.NewRequestWithContext(ctx, method, i.url+path, bytes.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := i.by.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	data, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != http.StatusOK {
		t.Fatalf("%s %s: %s, %v: %s", method, path, resp.Status, err, data)
	}
	return data
}

// done says that the machine is installed.
func (i *installation) done(ctx context.Context, t *testing.T) {
	t.Helper()
	i.ask(ctx, t, http.MethodPost, "/event", fmt.Appendf(nil, `{"install":%q,"phase":"installed","text":"by hand","final":true}`, i.id))
}

// sourceLine is the line of sources.list for a node's mirror of inhouse.
func sourceLine(node, options string) string {
	return fmt.Sprintf("deb [%s arch=amd64] http://%s/repo/inhouse stable main", options, net.JoinHostPort(node, "7480"))
}

// apt updates and downloads hello, with lists and cache of its own.
func apt(ctx context.Context, t *testing.T, on *lab.Host, source string) {
	t.Helper()
	dir := t.TempDir()
	for _, d := range []string{"state/lists/partial", "cache/archives/partial", "etc/apt.conf.d", "etc/preferences.d", "etc/sources.list.d"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for name, text := range map[string]string{"etc/sources.list": source + "\n", "state/status": ""} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	opts := []string{
		"-o", "Dir::Etc=" + dir + "/etc", "-o", "Dir::State=" + dir + "/state", "-o", "Dir::Cache=" + dir + "/cache", "-o", "Dir::State::status=" + dir + "/state/status",
		"-o", "APT::Sandbox::User=root", "-o", "APT::Architecture=amd64", "-o", "Acquire::http::Proxy=false", "-o", "APT::Update::Error-Mode=any", "-o", "Acquire::Languages=none",
	}
	for _, args := range [][]string{{"update"}, {"-y", "--download-only", "install", "hello"}} {
		if out, err := on.Run(ctx, "apt-get", append(opts[:len(opts):len(opts)], args...)...); err != nil {
			t.Fatalf("apt-get %v on %s: %v\n%s", args, on, err, out)
		}
	}
	if debs, _ := filepath.Glob(dir + "/cache/archives/*.deb"); len(debs) != 1 {
		t.Errorf("%s got %d packages", on, len(debs))
	}
}
