package identity

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"strings"
	"testing"
	"time"
)

func operator(t testing.TB, ca *CA, endpoints ...string) OperatorFile {
	t.Helper()
	f, _, err := ca.IssueOperator("alice", OperatorOperate, time.Now(), 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Endpoints = endpoints
	return f
}

// as calls with the operator's certificate by any protocol, trusting whoever answers.
func as(t *testing.T, f OperatorFile, proto string) *tls.Config {
	t.Helper()
	if len(f.Endpoints) == 0 {
		f.Endpoints = []string{"127.0.0.1:9"}
	}
	cfg, err := f.ClientConfig(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	cfg.NextProtos, cfg.VerifyConnection = []string{proto}, nil
	return cfg
}

func TestOperatorIsServedAtItsOwnDoorOnly(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{Now: time.Now}), member(t, ca, Options{Now: time.Now})
	renew(t, ca, a, b)
	m := runMux(t, a, nil)
	f := operator(t, ca, m.ln.Addr().String())
	client, err := f.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	waitQueued(t, m, ProtoOperate, 1)
	server, err := m.Listener(ProtoOperate).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = server.Close() }()
	peer, err := PeerOf(server.(muxConn).ConnectionState())
	want := Peer{Swarm: "alpha", Role: RoleOperator, Operator: "alice", OperatorRole: OperatorOperate, Serial: peer.Serial, Key: f.Key()}
	if err != nil || peer != want || len(peer.Serial) != 32 {
		t.Errorf("saw %+v, %v", peer, err)
	}
	alive(t, "operator", client, server)

	for _, proto := range []string{ProtoRaft, ProtoPeer, ProtoShare} {
		r := meet(t, a.serverConfig(nowhere(), proto), as(t, f, proto))
		refusedBy(t, r.server, r.client, ErrWrongRole)
	}
	r := meet(t, a.serverConfig(nowhere(), ProtoOperate), b.clientConfig(nowhere(), ProtoOperate, ""))
	refusedBy(t, r.server, r.client, ErrWrongRole)
}

func renew(t *testing.T, ca *CA, ids ...*Identity) {
	t.Helper()
	for _, id := range ids {
		cert, _ := issue(t, ca, id, id.Node(), RoleNode, time.Now())
		if err := id.Renew(cert); err != nil {
			t.Fatal(err)
		}
	}
}

func TestOperatorCannotAnswerAsNode(t *testing.T) {
	ca := newCA(t, "alpha")
	a := member(t, ca, Options{})
	f := operator(t, ca, "127.0.0.1:9")
	creds, err := f.check()
	if err != nil {
		t.Fatal(err)
	}
	for _, proto := range []string{ProtoRaft, ProtoPeer, ProtoShare, ProtoOperate, ProtoJoin} {
		server := base([]string{proto})
		chain := [][]byte{creds.leaf.Raw, creds.ca.Raw}
		server.Certificates = []tls.Certificate{{Certificate: chain, PrivateKey: f.key()}}
		client := a.clientConfig(nowhere(), proto, "")
		switch proto {
		case ProtoOperate:
			client, err = f.ClientConfig(time.Now())
		case ProtoJoin:
			client, err = JoinConfig(ca.Pin())
		}
		if err != nil {
			t.Fatal(err)
		}
		m := meet(t, server, client)
		refusedBy(t, m.client, m.server, ErrWrongRole)
	}
}

func TestOperatorOfOtherSwarmExpiredOrRevokedIsRefused(t *testing.T) {
	ca := newCA(t, "alpha")
	f, serial, err := ca.IssueOperator("bob", OperatorAdmin, start, 0)
	if err != nil {
		t.Fatal(err)
	}
	f.Endpoints = []string{"127.0.0.1:9"}
	config := func(f OperatorFile) *tls.Config {
		cfg, err := f.ClientConfig(start)
		if err != nil {
			t.Fatal(err)
		}
		cfg.VerifyConnection = nil
		return cfg
	}
	refusals := func(now time.Time, banned *bans, f OperatorFile, want error) {
		t.Helper()
		a := member(t, ca, Options{Now: at(now), Refused: banned.refused})
		m := meet(t, a.serverConfig(nowhere(), ProtoOperate), config(f))
		refusedBy(t, m.server, m.client, want)
	}
	for name, want := range map[string]error{"beta": ErrOtherSwarm, "alpha": ErrNotMember} {
		stranger, _, err := newCA(t, name).IssueOperator("bob", OperatorAdmin, start, 0)
		if err != nil {
			t.Fatal(err)
		}
		stranger.Endpoints = f.Endpoints
		refusals(start, &bans{}, stranger, want)
	}
	refusals(start.Add(90*24*time.Hour+time.Second), &bans{}, f, ErrExpired)
	var banned bans
	banned.add(serial)
	refusals(start, &banned, f, ErrRevoked)
	if _, err := f.ClientConfig(start.Add(91 * 24 * time.Hour)); !errors.Is(err, ErrExpired) {
		t.Errorf("the operator's own side does not notice: %v", err)
	}
	// A node whose clock is behind serves: see verify.
	a := member(t, ca, Options{Now: at(time.Unix(0, 0))})
	if m := meet(t, a.serverConfig(nowhere(), ProtoOperate), config(f)); m.client != nil || m.server != nil {
		t.Errorf("clock behind: %v, %v", m.client, m.server)
	}
}

func TestRevokedOperatorIsCut(t *testing.T) {
	ca := newCA(t, "alpha")
	a := member(t, ca, Options{Now: time.Now})
	renew(t, ca, a)
	m := runMux(t, a, nil)
	client, err := operator(t, ca, m.ln.Addr().String()).Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = client.Close() }()
	waitQueued(t, m, ProtoOperate, 1)
	if n := a.Cut(func(p Peer, _ string) bool { return p.Operator == "alice" }); n != 1 {
		t.Errorf("cut %d", n)
	}
	dead(t, "operator", client)
}

func TestOperatorDialSkipsTheDeadTheSilentAndImpostors(t *testing.T) {
	ca := newCA(t, "alpha")
	impostors := newCA(t, "alpha")
	a, thief := member(t, ca, Options{Now: time.Now}), member(t, impostors, Options{Now: time.Now})
	renew(t, ca, a)
	renew(t, impostors, thief)
	m, other := runMux(t, a, nil), runMux(t, thief, nil)
	silent, err := net.Listen("tcp", "127.0.0.1:0") // the kernel accepts, and nothing more
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	f := operator(t, ca, "127.0.0.1:9", other.ln.Addr().String(), silent.Addr().String(), m.ln.Addr().String())
	c, err := f.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if c.RemoteAddr().String() != m.ln.Addr().String() {
		t.Errorf("reached %s", c.RemoteAddr())
	}
	_ = c.Close()
	f.Endpoints = f.Endpoints[:2]
	if _, err := f.Dial(t.Context()); !errors.Is(err, ErrNotMember) || !strings.Contains(err.Error(), "127.0.0.1:9: ") {
		t.Errorf("no endpoint is left: %v", err)
	}
	f.Endpoints = []string{silent.Addr().String()}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := f.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody speaks: %v", err)
	}
}

func TestIssueOperatorRefuses(t *testing.T) {
	ca := newCA(t, "alpha")
	for _, c := range []struct {
		name, role string
		life       time.Duration
	}{
		{"", OperatorView, 0}, {"../node/x", OperatorView, 0}, {"Alice", OperatorView, 0}, {"a/admin", OperatorView, 0},
		{strings.Repeat("a", 64), OperatorView, 0}, {"alice", "", 0}, {"alice", "root", 0}, {"alice", "view/admin", 0},
		{"alice", OperatorView, -time.Hour}, {"alice", OperatorView, 367 * 24 * time.Hour},
	} {
		if _, _, err := ca.IssueOperator(c.name, c.role, start, c.life); err == nil {
			t.Errorf("%+v: issued", c)
		}
	}
	f, _, err := ca.IssueOperator("alice", OperatorView, start, 0)
	if err != nil || !f.NotAfter().Equal(start.Add(90*24*time.Hour)) {
		t.Errorf("ends at %s, %v", f.NotAfter(), err)
	}
}

func TestOperatorFileRoundTripsAndIsStrict(t *testing.T) {
	ca := newCA(t, "alpha")
	f := operator(t, ca, "10.0.0.1:7400", "seed.example:7400")
	good, err := f.Encode()
	if err != nil {
		t.Fatal(err)
	}
	got, err := DecodeOperatorFile(bytes.NewReader(good))
	if err != nil || got.String() != f.String() || !got.key().Equal(f.key()) || got.Pin != f.Pin {
		t.Fatalf("%v, %v", got, err)
	}
	foreign, err := operator(t, newCA(t, "alpha"), "10.0.0.1:7400").Encode()
	if err != nil {
		t.Fatal(err)
	}
	var theirs map[string]any
	if err := json.Unmarshal(foreign, &theirs); err != nil {
		t.Fatal(err)
	}
	with := func(key string, value any) string {
		var m map[string]any
		if err := json.Unmarshal(good, &m); err != nil {
			t.Fatal(err)
		}
		m[key] = value
		data, err := json.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return string(data)
	}
	key, err := encodeKey(f.key())
	if err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{
		"nothing": "", "null": "null", "trailing data": string(good) + "{}", "unknown field": with("admin", true),
		"too large":    string(good) + strings.Repeat(" ", MaxOperatorFile),
		"greater role": with("role", OperatorAdmin), "other name": with("name", "bob"), "other swarm": with("swarm", "beta"),
		"other pin": with("pin", theirs["pin"]), "other key": with("key", theirs["key"]), "other authority": with("ca", theirs["ca"]),
		"other certificate": with("certificate", theirs["certificate"]), "no key": with("key", ""),
		"broken key": with("key", strings.Replace(string(key), "M", "N", 1)), "two keys": with("key", string(key)+string(key)),
		"no endpoint": with("endpoints", []string{}), "endpoint without port": with("endpoints", []string{"seed"}),
		"65 endpoints": with("endpoints", make([]string, 65)), "node's certificate": with("certificate", nodeCert(t, ca)),
	} {
		if _, err := DecodeOperatorFile(strings.NewReader(text)); err == nil {
			t.Errorf("%s: accepted", name)
		} else if leaks(err.Error(), f) {
			t.Errorf("%s: the error shows the key", name)
		}
	}
	f.Endpoints = nil
	if _, err := f.Encode(); err == nil {
		t.Error("a file that leads nowhere was written")
	}
}

func nodeCert(t *testing.T, ca *CA) string {
	t.Helper()
	return string(encodeCert(member(t, ca, Options{}).current.Load().leaf.Raw))
}

// leaks looks for the private key in whatever form: PEM, base64, hexadecimal, bytes in decimal.
func leaks(text string, f OperatorFile) bool {
	seed := f.key().Seed()
	var decimal []string
	for _, b := range seed[:8] {
		decimal = append(decimal, fmt.Sprint(b))
	}
	return strings.Contains(text, "BEGIN PRIVATE") || strings.Contains(text, string(seed[:8])) ||
		strings.Contains(strings.ToLower(text), fmt.Sprintf("%x", seed[:8])) ||
		strings.Contains(text, strings.Join(decimal, " ")) || strings.Contains(text, strings.Join(decimal, ", "))
}

func TestOperatorFileIsPrintedWithoutItsKey(t *testing.T) {
	f := operator(t, newCA(t, "alpha"), "10.0.0.1:7400")
	var out bytes.Buffer
	for _, v := range []any{f, &f, []OperatorFile{f}, map[string]OperatorFile{"f": f}, struct{ F OperatorFile }{f}, struct{ f *OperatorFile }{&f}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%d", "%x", "%X"} {
			fmt.Fprintf(&out, verb+"\n", v)
		}
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		out.Write(data)
		slog.New(slog.NewTextHandler(&out, nil)).Info("text", "file", v)
		slog.New(slog.NewJSONHandler(&out, nil)).Info("json", "file", v)
	}
	if leaks(out.String(), f) {
		t.Error("the key is shown")
	}
	if !strings.Contains(out.String(), "operator alice of alpha") {
		t.Error("nothing is shown; the test proves nothing")
	}
	encoded, err := f.Encode()
	if err != nil || !leaks(string(encoded), f) {
		t.Errorf("the file lacks its key: %v", err)
	}
}

func FuzzDecodeOperatorFile(f *testing.F) {
	good, err := operator(f, newCA(f, "alpha"), "10.0.0.1:7400").Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add([]byte(`{"swarm":"alpha","endpoints":["a:1"],"key":"","certificate":"","ca":""}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := DecodeOperatorFile(bytes.NewReader(data))
		if err != nil {
			return
		}
		again, err := file.Encode()
		if err != nil {
			return // a shorter spelling may be over the limit in ours
		}
		if _, err := DecodeOperatorFile(bytes.NewReader(again)); err != nil {
			t.Errorf("what was accepted once is refused the second time: %v", err)
		}
	})
}

// FuzzPeerIn looks for a second spelling of a name.
func FuzzPeerIn(f *testing.F) {
	ca := newCA(f, "alpha")
	for _, s := range []string{nodeURI, operatorURI, "offshoot://alpha/operator/alice/admin/", "offshoot://alpha/operator/a%2fb/view"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, name string) {
		cert := *ca.cert
		cert.IsCA = false
		u, err := parseURL(name)
		if err != nil {
			return
		}
		cert.URIs = u
		peer, err := peerIn(&cert)
		if err == nil && peer.uri().String() != name {
			t.Errorf("%q is read as %+v", name, peer)
		}
		if err == nil && (peer.Role == RoleOperator) == (peer.Node != "") {
			t.Errorf("%q is both or neither: %+v", name, peer)
		}
	})
}

const (
	nodeURI     = "offshoot://alpha/node/0123456789abcdef"
	operatorURI = "offshoot://alpha/operator/alice/admin"
)

func parseURL(s string) ([]*url.URL, error) {
	u, err := url.Parse(s)
	return []*url.URL{u}, err
}
