package peer

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

const caller1 = swarm.NodeID("00000000000000aa")

// far is the service of another node: it says what it was asked, and answers with err.
type far struct {
	asked []string
	err   error
}

var _ Service = (*far)(nil)

func (f *far) note(format string, args ...any) ([]byte, error) {
	f.asked = append(f.asked, fmt.Sprintf(format, args...))
	if f.err != nil {
		return nil, f.err
	}
	return []byte("answer to " + f.asked[len(f.asked)-1]), nil
}

func (f *far) Propose(_ context.Context, from swarm.NodeID, command []byte) ([]byte, error) {
	return f.note("propose %s %d", from, len(command))
}
func (f *far) Admit(_ context.Context, request []byte) ([]byte, error) {
	return f.note("admit %s", request)
}
func (f *far) Redeem(_ context.Context, request []byte) ([]byte, error) {
	return f.note("redeem %s", request)
}
func (f *far) RenewDuty(_ context.Context, from swarm.NodeID, segment string, term uint64) error {
	_, err := f.note("duty %s %s %d", from, segment, term)
	return err
}
func (f *far) RenewCertificate(_ context.Context, from swarm.NodeID, csr []byte) ([]byte, error) {
	return f.note("certificate %s %s", from, csr)
}
func (f *far) Authority(_ context.Context, from swarm.NodeID, key []byte) error {
	_, err := f.note("authority %s %s", from, key)
	return err
}
func (f *far) ReplaceAuthority(_ context.Context, from swarm.NodeID, r AuthorityRequest) ([]byte, error) {
	return f.note("replace authority %s %s %s", from, r.Actor, r.Reason)
}
func (f *far) IssueOperator(_ context.Context, from swarm.NodeID, r OperatorRequest) ([]byte, error) {
	return f.note("operator %s %s %s %s", from, r.Actor, r.Name, r.Role)
}
func (f *far) Feed(_ context.Context, from swarm.NodeID, after uint64, w io.Writer, flush func()) error {
	answer, err := f.note("feed %s %d", from, after)
	if err == nil {
		_, err = w.Write(answer)
		flush()
	}
	return err
}
func (f *far) Deliver(_ context.Context, from swarm.NodeID, segment string, term uint64, packets [][]byte) error {
	_, err := f.note("deliver %s %s %d %q", from, segment, term, packets)
	return err
}
func (f *far) Pulse() ([]byte, error) { return f.note("pulse") }
func (f *far) Wake(_ context.Context, from swarm.NodeID, segment string, mac swarm.MAC) error {
	_, err := f.note("wake %s %s %s", from, segment, mac)
	return err
}

func (f *far) Log(mac swarm.MAC) []status.LogLine {
	return []status.LogLine{{Seq: 7, Text: "of " + string(mac)}}
}

func (f *far) Traces(mac swarm.MAC) []status.Trace {
	_, _ = f.note("traces %s", mac)
	return []status.Trace{{MAC: string(mac), What: "DISCOVER"}}
}

// wire carries the calls of a client to a handler within this process, as if TLS had verified the caller, or had not.
type wire struct{ http.Handler }

func (w wire) RoundTrip(r *http.Request) (*http.Response, error) {
	if err := r.Context().Err(); err != nil {
		return nil, err
	}
	in := r.Clone(r.Context())
	if in.URL.Scheme == "https" {
		in.TLS = &tls.ConnectionState{HandshakeComplete: true, ServerName: "known"}
	}
	in.RequestURI = r.URL.RequestURI()
	if in.Body == nil {
		in.Body = http.NoBody
	}
	rec := httptest.NewRecorder()
	w.ServeHTTP(rec, in)
	return rec.Result(), nil
}

func who(cs tls.ConnectionState) (swarm.NodeID, error) {
	if cs.ServerName != "known" {
		return "", errors.New("not a member of this swarm")
	}
	return caller1, nil
}

func artifacts(w http.ResponseWriter, r *http.Request) {
	_, _ = io.WriteString(w, "bytes of "+r.URL.Path)
}

func pair(f *far) *Client {
	return &Client{&http.Client{Transport: wire{Handler(f, who, http.HandlerFunc(artifacts))}}}
}

func TestEveryCallArrivesWithItsVerifiedCaller(t *testing.T) {
	t.Parallel()
	f := &far{}
	c, ctx := pair(f), t.Context()
	answered := func(answer []byte, err error) {
		t.Helper()
		if want := "answer to " + f.asked[len(f.asked)-1]; err != nil || string(answer) != want {
			t.Errorf("got %q, %v; want %q", answer, err, want)
		}
	}
	done := func(err error) {
		t.Helper()
		if err != nil {
			t.Error(err)
		}
	}
	answered(c.Propose(ctx, "node", []byte("cmd")))
	answered(c.Redeem(ctx, "node", []byte("request")))
	answered(c.Admit(ctx, "node", []byte("request")))
	done(c.RenewDuty(ctx, "node", "s1", 7))
	answered(c.RenewCertificate(ctx, "node", []byte("csr")))
	done(c.Authority(ctx, "node", []byte("key")))
	answered(c.Pulse(ctx, "node"))
	answered(c.IssueOperator(ctx, "node", OperatorRequest{Actor: "root", Name: "alice", Role: "view"}))
	done(c.Deliver(ctx, "node", "s1", 7, [][]byte{[]byte("a"), []byte("b")}))
	done(c.Wake(ctx, "node", "s1", "52:54:00:00:00:01"))
	feed, err := c.Feed(ctx, "node", 12)
	if err != nil {
		t.Fatal(err)
	}
	answered(io.ReadAll(feed))
	if lines, err := c.Log(ctx, "node", "52:54:00:00:00:01"); err != nil || len(lines) != 1 || lines[0].Seq != 7 || lines[0].Text != "of 52:54:00:00:00:01" {
		t.Errorf("log: %+v, %v", lines, err)
	}
	traces, err := c.Traces(ctx, "node", "52:54:00:00:00:01")
	if err != nil || len(traces) != 1 || traces[0].What != "DISCOVER" {
		t.Errorf("traces %v, %v", traces, err)
	}
	want := []string{
		"propose 00000000000000aa 3", "redeem request", "admit request", "duty 00000000000000aa s1 7", "certificate 00000000000000aa csr",
		"authority 00000000000000aa key", "pulse", "operator 00000000000000aa root alice view", `deliver 00000000000000aa s1 7 ["a" "b"]`, "wake 00000000000000aa s1 52:54:00:00:00:01",
		"feed 00000000000000aa 12", "traces 52:54:00:00:00:01",
	}
	if got := strings.Join(f.asked, "\n"); got != strings.Join(want, "\n") {
		t.Errorf("asked:\n%s\nwant:\n%s", got, strings.Join(want, "\n"))
	}
}

func TestErrorsKeepTheirMeaningAcrossTheWire(t *testing.T) {
	t.Parallel()
	other := errors.New("disk is full")
	for name, c := range map[string]struct {
		err           error
		leader, final bool
		words         string
	}{
		"not leader": {fmt.Errorf("%w: confirmed 3s ago", ErrNotLeader), true, false, ErrNotLeader.Error()},
		"refused":    {fmt.Errorf("%w: ticket 1a is not known", ErrRefused), false, true, "ticket 1a is not known"},
		"other":      {other, false, false, "disk is full"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			client := pair(&far{err: c.err})
			_, byPropose := client.Propose(t.Context(), "node", []byte("x"))
			for call, err := range map[string]error{
				"propose": byPropose, "duty": client.RenewDuty(t.Context(), "node", "s1", 1), "authority": client.Authority(t.Context(), "node", nil),
			} {
				if err == nil || errors.Is(err, ErrNotLeader) != c.leader || errors.Is(err, ErrRefused) != c.final || !strings.Contains(err.Error(), c.words) {
					t.Errorf("%s: got %v", call, err)
				}
			}
		})
	}
}

func TestStrangerIsRefusedBeforeAnythingIsDone(t *testing.T) {
	t.Parallel()
	f := &far{}
	handler := Handler(f, who, http.HandlerFunc(artifacts))
	for _, state := range []*tls.ConnectionState{nil, {ServerName: "stranger"}} {
		for _, call := range []string{
			"POST /v1/propose", "POST /v1/redeem", "POST /v1/duty", "POST /v1/certificate", "PUT /v1/authority", "GET /v1/pulse",
			"GET /v1/traces/52:54:00:00:00:01", "GET /v1/artifact/00",
			"POST /v1/operator", "POST /v1/deliver", "GET /v1/feed?after=0",
		} {
			method, path, _ := strings.Cut(call, " ")
			body := &countingReader{}
			r := httptest.NewRequest(method, path, body)
			r.TLS = state
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, r)
			if w.Code != http.StatusForbidden || len(f.asked) != 0 || body.read != 0 {
				t.Errorf("%s: answered %d, asked %q, read %d bytes", call, w.Code, f.asked, body.read)
			}
		}
	}
}

// countingReader never ends.
type countingReader struct{ read int }

func (c *countingReader) Read(p []byte) (int, error) { c.read += len(p); return len(p), nil }

func TestOversizeRequestIsRefusedWithoutReadingItAll(t *testing.T) {
	t.Parallel()
	f := &far{}
	if _, err := pair(f).Propose(t.Context(), "node", make([]byte, maxRequest)); err != nil {
		t.Errorf("the largest request: %v", err)
	}
	f.asked = nil
	if _, err := pair(f).Propose(t.Context(), "node", make([]byte, maxRequest+1)); err == nil || !strings.Contains(err.Error(), "413") {
		t.Errorf("got %v", err)
	}
	body := &countingReader{}
	r := httptest.NewRequest(http.MethodPost, "/v1/redeem", body)
	w := httptest.NewRecorder()
	JoinHandler(func(context.Context, []byte) ([]byte, error) { return f.note("redeemed") }, nil, 100).ServeHTTP(w, r)
	if w.Code != http.StatusRequestEntityTooLarge || len(f.asked) != 0 || body.read > 4096 {
		t.Errorf("join door answered %d, asked %q, read %d bytes", w.Code, f.asked, body.read)
	}
}

func TestOversizeAnswerIsAnError(t *testing.T) {
	t.Parallel()
	resp := &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(bytes.NewReader(make([]byte, maxAnswer+1)))}
	if _, err := Answer(resp); err == nil || !strings.Contains(err.Error(), "more than") {
		t.Errorf("got %v", err)
	}
}

func TestGarbageIsRefusedForGood(t *testing.T) {
	t.Parallel()
	c := pair(&far{})
	if _, err := c.Traces(t.Context(), "node", "nonsense"); !errors.Is(err, ErrRefused) {
		t.Errorf("traces of nonsense: %v", err)
	}
	if _, err := c.call(t.Context(), "node", http.MethodPost, "/v1/duty", []byte("{")); !errors.Is(err, ErrRefused) {
		t.Errorf("half a duty: %v", err)
	}
}

func TestJoinDoorOpensForTicketsOnly(t *testing.T) {
	t.Parallel()
	var redeemed, admitted string
	keep := func(in *string) Passed {
		return func(_ context.Context, request []byte) ([]byte, error) {
			*in = string(request)
			return []byte("welcome"), nil
		}
	}
	door := JoinHandler(keep(&redeemed), keep(&admitted), 100)
	for call, want := range map[string]int{
		"POST /v1/redeem": http.StatusOK, "POST /v1/admit": http.StatusOK, "GET /v1/redeem": http.StatusMethodNotAllowed, "POST /v1/propose": http.StatusNotFound,
		"PUT /v1/authority": http.StatusNotFound, "GET /v1/pulse": http.StatusNotFound, "GET /v1/artifact/00": http.StatusNotFound,
	} {
		method, path, _ := strings.Cut(call, " ")
		w := httptest.NewRecorder()
		door.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader("ticket for "+path)))
		if w.Code != want {
			t.Errorf("%s: answered %d, want %d", call, w.Code, want)
		}
	}
	if redeemed != "ticket for /v1/redeem" || admitted != "ticket for /v1/admit" {
		t.Errorf("redeemed %q, admitted %q", redeemed, admitted)
	}
}

func TestMemberFetchesArtifacts(t *testing.T) {
	t.Parallel()
	resp, err := pair(&far{}).HTTP().Get("https://node/v1/artifact/1a")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = resp.Body.Close() }()
	if data, err := io.ReadAll(resp.Body); err != nil || string(data) != "bytes of /v1/artifact/1a" {
		t.Errorf("%q, %v", data, err)
	}
}

func TestCallEndsWithItsContext(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	dialled := make(chan struct{})
	c := NewClient(func(ctx context.Context, addr string) (net.Conn, error) {
		close(dialled)
		<-ctx.Done() // a node that is switched off
		return nil, ctx.Err()
	})
	defer c.Close()
	done := make(chan error, 1)
	go func() {
		_, err := c.Pulse(ctx, "10.0.0.1:7400")
		done <- err
	}()
	<-dialled
	cancel()
	select {
	case err := <-done:
		if !errors.Is(err, context.Canceled) || !strings.Contains(err.Error(), "10.0.0.1:7400/v1/pulse") {
			t.Errorf("got %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("the call goes on")
	}
}

// The client's own dialer ends with a verified connection; here it is a plain one to a real server.
func TestClientSpeaksOverTheConnectionsThatItIsGiven(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		reply(w, []byte(r.Method+" "+r.URL.Path), nil)
	}))
	defer server.Close()
	var asked string
	c := NewClient(func(ctx context.Context, addr string) (net.Conn, error) {
		asked = addr
		var d net.Dialer
		return d.DialContext(ctx, "tcp", server.Listener.Addr().String())
	})
	defer c.Close()
	if got, err := c.Pulse(t.Context(), "10.0.0.1:7400"); err != nil || string(got) != "GET /v1/pulse" || asked != "10.0.0.1:7400" {
		t.Errorf("%q, %v, dialled %q", got, err, asked)
	}
}

func TestServerBoundsHeaders(t *testing.T) {
	t.Parallel()
	s := NewServer(http.NotFoundHandler(), 0)
	if s.ReadHeaderTimeout <= 0 || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 || s.MaxHeaderBytes > 64<<10 {
		t.Errorf("%+v", s)
	}
}

func FuzzHandler(f *testing.F) {
	f.Add("POST", "/v1/duty", []byte(`{"segment":"s1","term":1}`))
	f.Add("GET", "/v1/traces/52:54:00:00:00:01", []byte{})
	f.Fuzz(func(t *testing.T, method, path string, body []byte) {
		r, err := http.NewRequest(method, "https://node"+path, bytes.NewReader(body))
		if err != nil {
			return
		}
		resp, err := pair(&far{}).http.Transport.RoundTrip(r)
		if err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode == http.StatusInternalServerError {
			t.Errorf("%d %s %v", resp.StatusCode, data, err)
		}
	})
}
