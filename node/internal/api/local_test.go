package api

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"offshoot/node/status"
)

func TestCallerOnTheSocketIsWhomTheKernelNames(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	if err := NewClient(serve(t, desk)).SetVoters(t.Context(), 3); err != nil {
		t.Fatal(err)
	}
	me, err := user.Current()
	if err != nil {
		t.Fatal(err)
	}
	if want := fmt.Sprintf("%s (uid %d), local socket", me.Username, os.Geteuid()); desk.actors[0] != want {
		t.Errorf("the audit log reads %q, want %q", desk.actors[0], want)
	}
}

func TestCallerWithoutTheKernelsWordIsNobody(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error { return ServeOn(ctx, l, Handler(desk, Local)) })
	c := NewRemote(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	})
	defer c.Close()
	if err := c.SetVoters(t.Context(), 3); !errors.Is(err, ErrForbidden) || len(desk.ops) != 0 {
		t.Errorf("got %v, decided %v", err, desk.ops)
	}
}

// creds asks Local about somebody whom the kernel might name.
func creds(uid, gid uint32) (Caller, error) {
	r := httptest.NewRequest(http.MethodGet, "/", nil)
	return Local(r.WithContext(context.WithValue(r.Context(), peerKey{}, &syscall.Ucred{Uid: uid, Gid: gid})))
}

func TestOnlyRootAndTheGroupAreAdmitted(t *testing.T) {
	t.Parallel()
	if c, err := creds(0, 0); err != nil || c.Role != status.OperatorAdmin || c.Name != "root (uid 0)" {
		t.Errorf("root is %+v, %v", c, err)
	}
	stranger := uint32(64999)
	if uint32(os.Geteuid()) == stranger {
		t.Skip("this is the stranger")
	}
	if c, err := creds(stranger, 64999); !errors.Is(err, ErrForbidden) || c.Role != "" || !strings.Contains(err.Error(), "usermod -aG offshoot") {
		t.Errorf("a stranger is %+v, %v", c, err)
	}
	if c, err := creds(stranger, 0); err == nil { // the group root is no right
		t.Errorf("a stranger in the group root is %+v", c)
	}
	g, err := user.LookupGroup(Group)
	if err != nil {
		t.Skip("no group " + Group + " here")
	}
	gid, err := strconv.Atoi(g.Gid)
	if err != nil {
		t.Fatal(err)
	}
	if c, err := creds(stranger, uint32(gid)); err != nil || c.Role != status.OperatorAdmin {
		t.Errorf("a member of the group is %+v, %v", c, err)
	}
}

// TestStrangerOnTheSocketIsTurnedAway is another user's process, with the way to the socket left open by mistake.
func TestStrangerOnTheSocketIsTurnedAway(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		if os.Getenv("CI") == "true" {
			t.Fatal("needs root")
		}
		t.Skip("needs root, to become somebody else")
	}
	desk := &clerk{}
	dir := serve(t, desk)
	for at := dir; at != "/" && at != os.TempDir(); at = filepath.Dir(at) {
		if err := os.Chmod(at, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(Socket(dir), 0o777); err != nil {
		t.Fatal(err)
	}
	exe, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(dir, "stranger")
	if err := os.WriteFile(copied, exe, 0o755); err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), copied, "-test.run", "^TestAsStranger$", "-test.v")
	c.Dir, c.Env = "/", append(os.Environ(), "OFFSHOOT_STRANGER="+dir)
	c.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 64999, Gid: 64999}}
	out, err := c.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "turned away: ") || len(desk.ops) != 0 {
		t.Errorf("%v, decided %v\n%s", err, desk.ops, out)
	}
}

// TestAsStranger is the other process of TestStrangerOnTheSocketIsTurnedAway.
func TestAsStranger(t *testing.T) {
	dir := os.Getenv("OFFSHOOT_STRANGER")
	if dir == "" {
		t.Skip("run by another test")
	}
	err := NewClient(dir).SetVoters(t.Context(), 3)
	if !errors.Is(err, ErrForbidden) {
		t.Fatalf("uid %d hears %v", os.Getuid(), err)
	}
	t.Logf("turned away: %v", err)
}

// TestOperatorPortTellsWhoIsAskedBehindTheHandshake: who sees the verified certificate, although the HTTP server did not do TLS.
func TestOperatorPortTellsWhoIsAskedBehindTheHandshake(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	plain, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	who := func(r *http.Request) (Caller, error) {
		if r.TLS == nil || r.TLS.NegotiatedProtocol != "offshoot-operate" {
			return Caller{}, fmt.Errorf("TLS says %+v", r.TLS)
		}
		return Caller{Name: "operator alice", Role: status.OperatorOperate, From: r.RemoteAddr}, nil
	}
	server := &tls.Config{MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{selfSigned(t)}, NextProtos: []string{"offshoot-operate"}}
	run(t, func(ctx context.Context) error {
		return ServeOn(ctx, shakenHands{plain, server}, Handler(desk, who))
	})
	c := NewRemote(func(ctx context.Context) (net.Conn, error) {
		d := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, NextProtos: []string{"offshoot-operate"}}}
		return d.DialContext(ctx, "tcp", plain.Addr().String())
	})
	defer c.Close()
	if !c.Remote() {
		t.Error("the client takes itself for a local one")
	}
	if err := c.Hold(t.Context(), mac, "x"); err != nil || !strings.HasPrefix(desk.actors[0], "operator alice, 127.0.0.1:") {
		t.Errorf("got %v, by %q", err, desk.actors)
	}
	if err := c.SetVoters(t.Context(), 3); !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), `"operate"`) || len(desk.ops) != 1 {
		t.Errorf("got %v, decided %v", err, desk.ops)
	}
}

// shakenHands is a listener as the swarm's port has them: its connections are no *tls.Conn, but have their state.
type shakenHands struct {
	net.Listener
	config *tls.Config
}

type shaken struct {
	net.Conn
	state tls.ConnectionState
}

func (s shaken) ConnectionState() tls.ConnectionState { return s.state }

func (l shakenHands) Accept() (net.Conn, error) {
	raw, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	conn := tls.Server(raw, l.config)
	if err := conn.Handshake(); err != nil {
		return nil, err
	}
	return shaken{conn, conn.ConnectionState()}, nil
}

func selfSigned(t *testing.T) tls.Certificate {
	t.Helper()
	pub, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}
}

func TestRemoteErrorsSayTheNextStep(t *testing.T) {
	t.Parallel()
	nowhere := NewRemote(func(context.Context) (net.Conn, error) {
		return nil, errors.New("call swarm 5eed: 192.0.2.1:7400: no route")
	})
	if err := nowhere.Leave(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "192.0.2.1:7400") {
		t.Errorf("got %v", err)
	}
	// A server that does not like the certificate says so with an alert, on the first read.
	l, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		MinVersion: tls.VersionTLS13, Certificates: []tls.Certificate{selfSigned(t)}, ClientAuth: tls.RequireAnyClientCert,
		VerifyConnection: func(tls.ConnectionState) error { return errors.New("revoked") },
	})
	if err != nil {
		t.Fatal(err)
	}
	run(t, func(ctx context.Context) error { return ServeOn(ctx, l, Handler(&clerk{}, as("admin"))) })
	revoked := NewRemote(func(ctx context.Context) (net.Conn, error) {
		d := &tls.Dialer{Config: &tls.Config{MinVersion: tls.VersionTLS13, InsecureSkipVerify: true, Certificates: []tls.Certificate{selfSigned(t)}}}
		return d.DialContext(ctx, "tcp", l.Addr().String())
	})
	defer revoked.Close()
	if err := revoked.SetVoters(t.Context(), 3); !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "offshoot operator add") {
		t.Errorf("got %v", err)
	}
}

func TestWordsOfTheOtherSideCannotCommandTheTerminal(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	evil := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "\x1b]0;owned\a\x1b[2J\r\nall is well", http.StatusConflict)
	})
	run(t, func(ctx context.Context) error { return ServeOn(ctx, l, evil) })
	c := NewRemote(func(ctx context.Context) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "tcp", l.Addr().String())
	})
	defer c.Close()
	if err := c.RotateKeys(t.Context()); err == nil || strings.ContainsAny(err.Error(), "\x1b\a\r\n") {
		t.Errorf("got %q", err)
	}
}
