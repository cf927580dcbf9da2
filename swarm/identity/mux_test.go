package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

func dialMux(t *testing.T, m *Mux, cfg *tls.Config) (net.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	d := tls.Dialer{Config: cfg}
	conn, err := d.DialContext(ctx, "tcp", m.ln.Addr().String())
	if err == nil {
		t.Cleanup(func() { _ = conn.Close() })
	}
	return conn, err
}

func TestMuxLeadsEachProtocolToItsListener(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	m := runMux(t, a, nil)
	join, err := JoinConfig(ca.Pin())
	if err != nil {
		t.Fatal(err)
	}
	for proto, cfg := range map[string]*tls.Config{
		ProtoRaft: b.clientConfig(nowhere(), ProtoRaft, a.Node()), ProtoPeer: b.clientConfig(nowhere(), ProtoPeer, a.Node()), ProtoJoin: join,
	} {
		client, err := dialMux(t, m, cfg)
		if err != nil {
			t.Fatalf("%s: %v", proto, err)
		}
		server, err := m.Listener(proto).Accept()
		if err != nil {
			t.Fatalf("%s: %v", proto, err)
		}
		cs := server.(interface{ ConnectionState() tls.ConnectionState }).ConnectionState()
		peer, err := PeerOf(cs)
		if proto == ProtoJoin {
			if !errors.Is(err, ErrNoCertificate) {
				t.Errorf("join: %v, %v", peer, err)
			}
		} else if peer != shown(b) {
			t.Errorf("%s: peer %+v, %v", proto, peer, err)
		}
		if _, err := client.Write([]byte(proto)); err != nil {
			t.Fatal(err)
		}
		got := make([]byte, len(proto))
		if _, err := io.ReadFull(server, got); err != nil || string(got) != proto {
			t.Errorf("%s: read %q, %v", proto, got, err)
		}
		_ = server.Close()
	}
}

// What the peer API needs: net/http over the mux, with the caller's name in the request.
func TestMuxCarriesHTTPWithThePeersName(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	m := runMux(t, a, nil)
	srv := &http.Server{ReadHeaderTimeout: time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.TLS == nil {
			t.Error("no TLS state in the request")
			return
		}
		peer, err := PeerOf(*r.TLS)
		if err != nil {
			t.Error(err)
		}
		_, _ = fmt.Fprint(w, peer.Node)
	})}
	done := make(chan error, 1)
	go func() { done <- srv.Serve(m.Listener(ProtoPeer)) }()
	tr := &http.Transport{DialTLSContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
		return b.Dial(ctx, ProtoPeer, addr, a.Node())
	}}
	resp, err := (&http.Client{Transport: tr}).Get("https://" + m.ln.Addr().String() + "/")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil || string(body) != string(b.Node()) {
		t.Errorf("server saw %q, %v", body, err)
	}
	tr.CloseIdleConnections()
	if err := srv.Close(); err != nil {
		t.Error(err)
	}
	if err := <-done; !errors.Is(err, http.ErrServerClosed) {
		t.Errorf("Serve: %v", err)
	}
}

func TestMuxKeepsStrangersOut(t *testing.T) {
	ca := newCA(t, "alpha")
	a, other := member(t, ca, Options{}), member(t, newCA(t, "alpha"), Options{})
	m := runMux(t, a, nil)
	bare := func(protos ...string) *tls.Config {
		cfg := base(protos)
		cfg.InsecureSkipVerify = true
		return cfg
	}
	trusting := func(proto string) *tls.Config {
		cfg := other.clientConfig(nowhere(), proto, "")
		cfg.VerifyConnection = nil
		return cfg
	}
	for name, cfg := range map[string]*tls.Config{
		"no certificate on raft":        bare(ProtoRaft),
		"no certificate on peer":        bare(ProtoPeer),
		"no certificate on share":       bare(ProtoShare),
		"foreign certificate on share":  trusting(ProtoShare),
		"foreign certificate on raft":   trusting(ProtoRaft),
		"foreign certificate on peer":   trusting(ProtoPeer),
		"no protocol":                   bare(),
		"h2":                            bare("h2"),
		"join and peer at once":         bare(ProtoJoin, ProtoPeer),
		"peer and join with a stranger": trusting(ProtoPeer),
	} {
		conn, err := dialMux(t, m, cfg)
		if err != nil {
			continue
		}
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		var b [1]byte
		_, err = conn.Read(b[:])
		if err == nil || errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: not hung up on", name)
		}
	}
	for proto, q := range m.queues {
		if len(q.conns) != 0 {
			t.Errorf("a stranger stands before %s", proto)
		}
	}
}

func TestMuxHangsUpOnSilence(t *testing.T) {
	a := member(t, newCA(t, "alpha"), Options{})
	m := runMux(t, a, func(m *Mux) { m.handshakeTime = 20 * time.Millisecond })
	conn, err := net.Dial("tcp", m.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
	_, err = io.Copy(io.Discard, conn)
	if ne := net.Error(nil); errors.As(err, &ne) && ne.Timeout() {
		t.Error("a silent stranger keeps its place")
	}
}

func TestMuxBoundsHandshakesPerAddress(t *testing.T) {
	a := member(t, newCA(t, "alpha"), Options{})
	m := runMux(t, a, func(m *Mux) { m.door.strangers.each = 2; m.handshakeTime = time.Minute })
	var first []net.Conn
	for range 2 {
		conn, err := net.Dial("tcp", m.ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }()
		first = append(first, conn)
	}
	third, err := net.Dial("tcp", m.ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = third.Close() }()
	_ = third.SetReadDeadline(time.Now().Add(5 * time.Second))
	var b [1]byte
	if _, err := third.Read(b[:]); err == nil || isTimeout(err) {
		t.Errorf("third handshake from one address: %v, want it closed", err)
	}
	_ = first[0].SetReadDeadline(time.Now().Add(time.Millisecond))
	if _, err := first[0].Read(b[:]); !isTimeout(err) {
		t.Errorf("first handshake: %v, want it pending", err)
	}
}

func isTimeout(err error) bool {
	var ne net.Error
	return errors.As(err, &ne) && ne.Timeout()
}

func TestMuxClosedListenerRefusesItsProtocolOnly(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	m := runMux(t, a, nil)
	if err := m.Listener(ProtoRaft).Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Listener(ProtoRaft).Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("closed listener: %v", err)
	}
	if conn, err := dialMux(t, m, b.clientConfig(nowhere(), ProtoRaft, "")); err == nil {
		_ = conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		var one [1]byte
		if _, err := conn.Read(one[:]); err == nil || isTimeout(err) {
			t.Error("raft is still served")
		}
	}
	if _, err := dialMux(t, m, b.clientConfig(nowhere(), ProtoPeer, "")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Listener(ProtoPeer).Accept(); err != nil {
		t.Errorf("peer: %v", err)
	}
}

func TestMuxReleasesEverythingWhenItEnds(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMux(ln, a, quiet())
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	silent, err := net.Dial("tcp", ln.Addr().String()) // in its handshake
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = silent.Close() }()
	queued, err := dialMux(t, m, b.clientConfig(nowhere(), ProtoPeer, "")) // never accepted
	if err != nil {
		t.Fatal(err)
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := m.Listener(ProtoRaft).Accept()
		waiting <- err
	}()
	cancel()
	select {
	case err := <-done:
		if err != nil {
			t.Errorf("Run: %v", err)
		}
	case <-time.After(5 * time.Second):
		t.Fatal("Run does not end")
	}
	if err := <-waiting; !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept: %v", err)
	}
	for _, c := range []net.Conn{silent, queued} {
		_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
		var one [1]byte
		if _, err := c.Read(one[:]); err == nil || isTimeout(err) {
			t.Errorf("connection left open: %v", err)
		}
	}
	if _, err := net.Dial("tcp", ln.Addr().String()); err == nil {
		t.Error("the port is still open")
	}
}

func TestMuxSaysWhenItsListenerIsTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMux(ln, member(t, newCA(t, "alpha"), Options{}), quiet())
	_ = ln.Close()
	if err := m.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Run on a closed listener: %v", err)
	}
}
