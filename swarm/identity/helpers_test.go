package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net"
	"testing"
	"time"

	"offshoot/swarm"
)

// start is a fixed moment, so that no test depends on the day it is run.
var start = time.Date(2026, 5, 1, 12, 0, 0, 0, time.UTC)

func at(t time.Time) func() time.Time { return func() time.Time { return t } }

func newCA(t testing.TB, name string) *CA {
	t.Helper()
	ca, err := NewCA(name, start)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// member is an enrolled node of ca; opts.Dir is filled in.
func member(t testing.TB, ca *CA, opts Options) *Identity {
	t.Helper()
	opts.Dir = t.TempDir()
	if opts.Now == nil {
		opts.Now = at(start)
	}
	id, err := Open(opts)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := issue(t, ca, id, swarm.NewNodeID(), id.role, start)
	if err := id.Enroll(ca.Pin(), cert, ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	return id
}

func issue(t testing.TB, ca *CA, id *Identity, node swarm.NodeID, role Role, now time.Time) (certPEM []byte, serial string) {
	t.Helper()
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	certPEM, serial, err = ca.IssueNode(csr, node, role, now)
	if err != nil {
		t.Fatal(err)
	}
	return certPEM, serial
}

// meeting is what both sides of one connection saw. A refused client learns it on its first read, so both sides send and
// receive one byte before they report.
type meeting struct {
	client, server error
	sawClient      Peer
	sawServer      Peer
	readByServer   int // application bytes
}

func meet(t testing.TB, server, client *tls.Config) meeting {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = ln.Close() }()
	var m meeting
	done := make(chan struct{})
	go func() {
		defer close(done)
		raw, err := ln.Accept()
		if err != nil {
			m.server = err
			return
		}
		conn := tls.Server(raw, server)
		defer func() { _ = conn.Close() }()
		if m.server = conn.Handshake(); m.server != nil {
			return
		}
		m.sawClient, _ = PeerOf(conn.ConnectionState())
		m.readByServer, m.server = echo(conn)
	}()
	raw, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	conn := tls.Client(raw, client)
	if m.client = conn.Handshake(); m.client == nil {
		m.sawServer, _ = PeerOf(conn.ConnectionState())
		_, m.client = echo(conn)
	}
	_ = conn.Close()
	<-done
	return m
}

func echo(conn net.Conn) (int, error) {
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return 0, err
	}
	if _, err := conn.Write([]byte{1}); err != nil {
		return 0, err
	}
	var b [1]byte
	return io.ReadFull(conn, b[:])
}

// refusedBy wants the side with the rule to name it, and the other side to get nothing through.
func refusedBy(t *testing.T, who, other, want error) {
	t.Helper()
	if !errors.Is(who, want) {
		t.Errorf("refusing side says %v, want %v", who, want)
	}
	if other == nil {
		t.Error("refused side got through")
	}
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// runMux serves id on a loopback port until the test ends, and fails if Run does not end well.
func runMux(t *testing.T, id *Identity, tune func(*Mux)) *Mux {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	m := NewMux(ln, id, quiet())
	if tune != nil {
		tune(m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- m.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return m
}

// shown is what others read in our certificate, before they believe any of it.
func shown(id *Identity) Peer {
	p := id.Self()
	p.CA = ""
	return p
}

// nowhere is a link for a handshake whose connection no one cuts.
func nowhere() *link { return newLinks().track(nil) }
