package api

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"reflect"
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
	result swarm.Result
	err    error
	left   bool
}

var _ Desk = (*clerk)(nil)

func (c *clerk) Status(context.Context) status.Status {
	return status.Status{Swarm: "5eed", Quorum: true}
}
func (c *clerk) Machine(m swarm.MAC) (status.Machine, bool) {
	return status.Machine{MAC: string(m), Name: "m1"}, m == mac
}
func (c *clerk) Why(_ context.Context, m swarm.MAC) []status.Trace {
	return []status.Trace{{MAC: string(m), What: "DISCOVER"}}
}
func (c *clerk) Propose(_ context.Context, op swarm.Op) (swarm.Result, error) {
	c.ops = append(c.ops, op)
	return c.result, c.err
}
func (c *clerk) Leave(context.Context) error { c.left = true; return c.err }

// serve runs a clerk's socket until the test ends, and returns its data directory.
func serve(t *testing.T, c *clerk) string {
	t.Helper()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, dir, Handler(c)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Serve: %v", err)
		}
		if _, err := os.Stat(Socket(dir)); err == nil {
			t.Error("the socket is still there")
		}
	})
	answers(t, dir)
	return dir
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

func TestClientAndServerAgreeOnEveryQuestion(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	c, ctx := NewClient(serve(t, desk)), t.Context()
	if s, err := c.Status(ctx); err != nil || s.Swarm != "5eed" || !s.Quorum {
		t.Errorf("status %+v, %v", s, err)
	}
	if m, err := c.Machine(ctx, mac); err != nil || m.Name != "m1" {
		t.Errorf("machine %+v, %v", m, err)
	}
	if w, err := c.Why(ctx, mac); err != nil || len(w) != 1 || w[0].What != "DISCOVER" {
		t.Errorf("why %+v, %v", w, err)
	}
	for _, err := range []error{
		c.Arm(ctx, mac, ArmRequest{Profile: "p", Disk: "smallest", Wipe: true}), c.Name(ctx, mac, "web"), c.Hold(ctx, mac, "smells"), c.SetVoters(ctx, 3), c.Leave(ctx),
	} {
		if err != nil {
			t.Error(err)
		}
	}
	want := []swarm.Op{
		swarm.ArmMachine{MAC: mac, Profile: "p", Disk: "smallest", Wipe: true}, swarm.NameMachine{MAC: mac, Name: "web"},
		swarm.HoldMachine{MAC: mac, Reason: "smells"}, swarm.SetVoters{Voters: 3},
	}
	if !reflect.DeepEqual(desk.ops, want) || !desk.left {
		t.Errorf("decided %+v, left: %t", desk.ops, desk.left)
	}
}

func TestSocketIsForItsOwnerAndGroupOnly(t *testing.T) {
	t.Parallel()
	dir := serve(t, &clerk{})
	for deadline := time.Now().Add(5 * time.Second); ; { // it is narrowed right after it was opened
		st, err := os.Stat(Socket(dir))
		if err == nil && st.Mode().Perm() == 0o660 {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("mode %v, %v", st.Mode(), err)
		}
		<-time.After(time.Millisecond)
	}
}

func TestSocketOfADeadProcessIsReplaced(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	deadSocket(t, dir)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, dir, Handler(&clerk{})) }()
	answers(t, dir)
	if _, err := NewClient(dir).Status(t.Context()); err != nil {
		t.Error(err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// deadSocket is what a process leaves that was killed.
func deadSocket(t *testing.T, dir string) {
	t.Helper()
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: Socket(dir), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	l.SetUnlinkOnClose(false)
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestUnreachableNodeIsSaidWithTheNextStep(t *testing.T) {
	t.Parallel()
	missing, dead := t.TempDir(), t.TempDir()
	deadSocket(t, dead)
	for name, dir := range map[string]string{"no socket": missing, "no directory": filepath.Join(missing, "nowhere"), "nobody listens": dead} {
		_, err := NewClient(dir).Status(t.Context())
		if !errors.Is(err, ErrUnreachable) {
			t.Errorf("%s: got %v", name, err)
			continue
		}
		for _, word := range []string{Socket(dir), "systemctl status offshoot", "--data-dir"} {
			if !strings.Contains(err.Error(), word) {
				t.Errorf("%s: %q lacks %q", name, err, word)
			}
		}
	}
}

func TestSocketThatMayNotBeOpenedIsSaid(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may open every socket")
	}
	dir := serve(t, &clerk{})
	if err := os.Chmod(Socket(dir), 0); err != nil {
		t.Fatal(err)
	}
	if _, err := NewClient(dir).Status(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "sudo") {
		t.Errorf("got %v", err)
	}
}

// ask sends a request as a program would that is not our client.
func ask(desk Desk, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	Handler(desk).ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestBodyThatIsNotUnderstoodDecidesNothing(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"unknown field": `{"profil":"p"}`, "garbage": `wipe`, "wrong type": `{"wipe":"yes"}`, "half": `{"wipe":true`,
		"trailing": `{"disk":"smallest"}{"wipe":true}`, "oversize": `{"disk":"` + strings.Repeat("x", 64<<10) + `"}`,
	} {
		desk := &clerk{}
		w := ask(desk, http.MethodPost, "/v1/machines/"+string(mac)+"/arm", body)
		if w.Code != http.StatusBadRequest || len(desk.ops) != 0 || !strings.HasPrefix(w.Body.String(), "request: ") {
			t.Errorf("%s: answered %d %q, decided %v", name, w.Code, w.Body, desk.ops)
		}
	}
}

func TestEmptyBodyArmsWithTheDefaults(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	if w := ask(desk, http.MethodPost, "/v1/machines/"+string(mac)+"/arm", ""); w.Code != http.StatusOK || !reflect.DeepEqual(desk.ops, []swarm.Op{swarm.ArmMachine{MAC: mac}}) {
		t.Errorf("answered %d, decided %v", w.Code, desk.ops)
	}
}

func TestMACThatIsNoneIsABadRequest(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"GET /v1/machines/nonsense", "GET /v1/machines/52:54:00/why", "POST /v1/machines/x/arm", "POST /v1/machines/x/name", "POST /v1/machines/x/hold"} {
		method, path, _ := strings.Cut(call, " ")
		desk := &clerk{}
		if w := ask(desk, method, path, "{}"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "not an Ethernet address") || len(desk.ops) != 0 {
			t.Errorf("%s: answered %d %q", call, w.Code, w.Body)
		}
	}
}

func TestMACIsAcceptedInEverySpelling(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	if w := ask(desk, http.MethodPost, "/v1/machines/52-54-00-00-00-01/hold", `{"reason":"x"}`); w.Code != http.StatusOK || !reflect.DeepEqual(desk.ops, []swarm.Op{swarm.HoldMachine{MAC: mac, Reason: "x"}}) {
		t.Errorf("answered %d, decided %v", w.Code, desk.ops)
	}
}

func TestUnknownMachineIsNotFoundWithTheNextStep(t *testing.T) {
	t.Parallel()
	_, err := NewClient(serve(t, &clerk{})).Machine(t.Context(), "52:54:00:00:00:99")
	if err == nil || !strings.Contains(err.Error(), "offshoot machine list") {
		t.Errorf("got %v", err)
	}
}

func TestRefusalIsAConflictInItsOwnWords(t *testing.T) {
	t.Parallel()
	state := swarm.NewState()
	result := state.Apply(swarm.Command{ID: "1", Op: swarm.HoldMachine{MAC: mac, Reason: "x"}})
	if result.Err() == nil {
		t.Fatal("the state holds a machine that it does not know")
	}
	desk := &clerk{result: result}
	w := ask(desk, http.MethodPost, "/v1/machines/"+string(mac)+"/hold", `{"reason":"x"}`)
	if w.Code != http.StatusConflict || strings.TrimSpace(w.Body.String()) != result.Err().Error() {
		t.Errorf("answered %d %q, want %q", w.Code, w.Body, result.Err())
	}
	if err := NewClient(serve(t, desk)).Hold(t.Context(), mac, "x"); err == nil || err.Error() != result.Err().Error() {
		t.Errorf("client says %v", err)
	}
}

func TestDecisionThatCouldNotBeWrittenDownIsUnavailable(t *testing.T) {
	t.Parallel()
	desk := &clerk{err: errors.New("no majority of the voters answers")}
	for _, path := range []string{"/v1/voters", "/v1/leave", "/v1/machines/" + string(mac) + "/arm"} {
		if w := ask(desk, http.MethodPost, path, ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "no majority") {
			t.Errorf("%s: answered %d %q", path, w.Code, w.Body)
		}
	}
}

// Asked to leave, a node stops; the operator must hear the answer all the same.
func TestAnswerToLeaveArrivesAlthoughTheSocketCloses(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	handler := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		cancel()
		_, _ = io.WriteString(w, "null")
	})
	go func() { done <- Serve(ctx, dir, handler) }()
	answers(t, dir)
	if err := NewClient(dir).Leave(t.Context()); err != nil {
		t.Errorf("operator hears %v", err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestSocketThatCannotBeOpenedIsAnError(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "nowhere")
	if err := Serve(t.Context(), dir, Handler(&clerk{})); err == nil || !strings.Contains(err.Error(), "operator socket") {
		t.Errorf("got %v", err)
	}
}
