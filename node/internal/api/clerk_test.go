package api

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

const mac = swarm.MAC("52:54:00:00:00:01")

// clerk is a desk that writes down what operators decide.
type clerk struct {
	ops    []swarm.Op
	did    []string // everything else that changes something
	actors []string // who was behind it
	result swarm.Result
	err    error // of whatever can fail
	state  status.Status
	broken bool // snapshots break off after their first bytes
}

var _ Desk = (*clerk)(nil)

func (c *clerk) note(actor, format string, args ...any) {
	c.did, c.actors = append(c.did, fmt.Sprintf(format, args...)), append(c.actors, actor)
}

func (c *clerk) Status(context.Context) status.Status {
	if c.state.Swarm == "" {
		return status.Status{Swarm: "5eed", Quorum: true}
	}
	return c.state
}

func (c *clerk) Machine(m swarm.MAC) (status.Machine, bool) {
	return status.Machine{MAC: string(m), Name: "m1"}, m == mac
}

func (c *clerk) Why(_ context.Context, m swarm.MAC) []status.Trace {
	return []status.Trace{{MAC: string(m), What: "DISCOVER"}}
}

func (c *clerk) Log(_ context.Context, m swarm.MAC) []status.LogLine {
	return []status.LogLine{{Seq: 1, Text: "of " + string(m)}}
}

func (c *clerk) Leases() []status.Lease {
	return []status.Lease{{Segment: "s1", Address: "192.168.42.17"}, {Segment: "s2", Address: "10.42.0.17"}}
}
func (c *clerk) Tickets() []status.Ticket     { return []status.Ticket{{ID: "t1"}} }
func (c *clerk) Operators() []status.Operator { return []status.Operator{{Name: "alice"}} }
func (c *clerk) Audit() []status.AuditEntry   { return nil }

func (c *clerk) Propose(_ context.Context, actor string, op swarm.Op) (swarm.Result, error) {
	c.ops, c.actors = append(c.ops, op), append(c.actors, actor)
	return c.result, c.err
}

func (c *clerk) Leave(_ context.Context, actor string) error { c.note(actor, "leave"); return c.err }

func (c *clerk) Evict(_ context.Context, actor string, n swarm.NodeID, rotateCA bool) (string, error) {
	if rotateCA {
		c.note(actor, "evict %s and replace the CA", n)
		return "sha256:new", c.err
	}
	c.note(actor, "evict %s", n)
	return "", c.err
}

func (c *clerk) AddOperator(_ context.Context, actor, name, role string) ([]byte, error) {
	c.note(actor, "add %s %s", name, role)
	return []byte("the secret of " + name), c.err
}

func (c *clerk) PutRepo(_ context.Context, actor string, r swarm.Repo) error {
	c.note(actor, "mirror %s of %s, keyring %q, unlisted %v", r.Name, r.Upstreams, r.Keyring, r.Unlisted)
	return c.err
}

func (c *clerk) Artifacts() []status.Artifact {
	return []status.Artifact{{Name: "image", Digest: "abcdef1234"}, {Digest: "abcdef5678"}}
}

func (c *clerk) Medium(string) *status.Medium { return &status.Medium{Distribution: "Debian"} }

func (c *clerk) AddArtifact(_ context.Context, actor string, u Upload, size int64, r io.Reader) (status.Artifact, error) {
	data, err := io.ReadAll(r)
	c.note(actor, "store %+v: %q of %d bytes", u, data, size)
	return status.Artifact{Name: u.Name, Digest: "abcdef1234"}, errors.Join(c.err, err)
}

func (c *clerk) VerifyArtifact(_ context.Context, actor string, a status.Artifact) (status.Verification, error) {
	c.note(actor, "verify %s", a.Digest)
	return status.Verification{Artifact: a, Good: true}, c.err
}

func (c *clerk) Profiles() []status.Profile { return []status.Profile{{Name: "web"}} }

func (c *clerk) Profile(name string) (status.Profile, bool, error) {
	return status.Profile{Name: name, Document: "driver: debian"}, name != "nobody", c.err
}

func (c *clerk) PutProfile(_ context.Context, actor, name string, document []byte, how PutHow) error {
	c.note(actor, "put profile %s: %q %+v", name, document, how)
	return c.err
}

func (c *clerk) LintProfile(name string) ([]string, bool) { return nil, name != "nobody" }

func (c *clerk) Render(m swarm.MAC, profile string) (status.Rendered, error) {
	return status.Rendered{Profile: profile, Files: []status.RenderedFile{{Name: "boot.ipxe"}}}, c.err
}

func (c *clerk) Mirror() status.Mirror { return status.Mirror{Repos: []status.Repo{{Name: "debian"}}} }

func (c *clerk) Prefetch(_ context.Context, actor, profile string, say func(status.Prefetch)) error {
	c.note(actor, "prefetch %s", profile)
	if c.err != nil && !c.broken {
		return c.err
	}
	say(status.Prefetch{What: "image", Done: 5, Had: 1, Total: 10})
	if c.err == nil {
		say(status.Prefetch{Done: 10, Had: 1, Total: 10, Ended: true})
	}
	return c.err
}

func (c *clerk) Wake(_ context.Context, actor string, m swarm.MAC) (string, error) {
	c.note(actor, "wake %s", m)
	return "s1", c.err
}

func (c *clerk) RotateKeys(_ context.Context, actor string) error {
	c.note(actor, "rotate")
	return c.err
}

func (c *clerk) SaveSnapshot(_ context.Context, w io.Writer) error {
	if c.err != nil {
		return c.err
	}
	if _, err := io.WriteString(w, strings.Repeat("everything ", 1000)); err != nil || !c.broken {
		return err
	}
	return errors.New("disk error in the middle")
}

func (c *clerk) RestoreSnapshot(_ context.Context, actor string, r io.Reader) error {
	data, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	c.note(actor, "restore %s", data)
	return c.err
}

// as is a way to know callers that always names the same one.
func as(role string) func(*http.Request) (Caller, error) {
	return func(*http.Request) (Caller, error) {
		return Caller{Name: "operator alice", Role: role, From: "192.0.2.7"}, nil
	}
}

// serve runs a clerk's socket until the test ends, and returns its data directory.
func serve(t *testing.T, c *clerk) string {
	t.Helper()
	dir := t.TempDir()
	run(t, func(ctx context.Context) error { return Serve(ctx, dir, Handler(c, Local)) })
	t.Cleanup(func() { // runs before the end of run
		if _, err := os.Stat(Socket(dir)); err != nil {
			t.Errorf("the socket has gone while it is served: %v", err)
		}
	})
	answers(t, dir)
	return dir
}

// run runs a service until the test ends.
func run(t *testing.T, service func(context.Context) error) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- service(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("it ended with %v", err)
		}
	})
}

// answers waits until somebody listens.
func answers(t *testing.T, dir string) {
	t.Helper()
	for deadline := time.Now().Add(5 * time.Second); ; {
		conn, err := net.Dial("unix", Socket(dir))
		if err == nil {
			_ = conn.Close()
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("nobody listens: %v", err)
		}
		<-time.After(time.Millisecond)
	}
}

// ask sends a request as a program would that is not our client.
func ask(desk Desk, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	Handler(desk, as(status.OperatorAdmin)).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}
