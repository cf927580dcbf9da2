package node

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"offshoot/node/internal/api"
	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/identity"
)

// TestOperatorAsksOverTheNetworkUntilRevoked: file, handshake, role and request fit together.
func TestOperatorAsksOverTheNetworkUntilRevoked(t *testing.T) {
	t.Parallel()
	now := time.Now()
	ca, err := identity.NewCA("00000000000005ed", now)
	if err != nil {
		t.Fatal(err)
	}
	var revoked atomic.Pointer[string]
	id, err := identity.Open(identity.Options{Dir: t.TempDir(), Refused: func(serial string, _ identity.Peer) error {
		if r := revoked.Load(); r != nil && *r == serial {
			return errors.New("revoked")
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	csr, err := id.CSR()
	if err != nil {
		t.Fatal(err)
	}
	cert, _, err := ca.IssueNode(csr, swarm.NewNodeID(), identity.RoleNode, now)
	if err == nil {
		err = id.Enroll(ca.Pin(), cert, ca.Certificate())
	}
	if err != nil {
		t.Fatal(err)
	}
	address := operatePort(t, id)

	file, serial, err := ca.IssueOperator("alice", identity.OperatorView, now, 0)
	if err != nil {
		t.Fatal(err)
	}
	dead, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	file.Endpoints = []string{dead.Addr().String(), address}
	_ = dead.Close()
	data, err := file.Encode()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "alice.operator")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	client := func(endpoint string) *Client {
		t.Helper()
		c, err := NewOperatorClient(path, endpoint)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(c.Close)
		return c
	}
	c := client("")
	if s, err := c.Status(t.Context()); err != nil || s.Swarm != "5eed" {
		t.Errorf("got %+v, %v", s, err)
	}
	if err := c.SetVoters(t.Context(), 3); !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "operator alice has the role \"view\"") {
		t.Errorf("got %v", err)
	}
	if _, err := client(dead.Addr().String()).Status(t.Context()); !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), dead.Addr().String()) {
		t.Errorf("asked at one endpoint only: %v", err)
	}
	revoked.Store(&serial)
	if _, err := client("").Status(t.Context()); !errors.Is(err, ErrForbidden) || !strings.Contains(err.Error(), "offshoot operator add") {
		t.Errorf("revoked: %v", err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	if _, err := NewOperatorClient(path, ""); err == nil || !strings.Contains(err.Error(), "chmod 600") {
		t.Errorf("others can read the file: %v", err)
	}
}

// operatePort serves operators as a node does, until the test ends.
func operatePort(t *testing.T, id *identity.Identity) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	mux := identity.NewMux(l, id, slog.New(slog.DiscardHandler))
	who := func(r *http.Request) (api.Caller, error) {
		if r.TLS == nil {
			return api.Caller{}, errors.New("no TLS")
		}
		p, err := identity.PeerOf(*r.TLS)
		return api.Caller{Name: "operator " + p.Operator, Role: p.OperatorRole, From: r.RemoteAddr}, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 2)
	go func() { ended <- mux.Run(ctx) }()
	go func() {
		ended <- api.ServeOn(ctx, mux.Listener(identity.ProtoOperate), api.Handler(quietDesk{}, who))
	}()
	t.Cleanup(func() {
		cancel()
		if err := errors.Join(<-ended, <-ended); err != nil {
			t.Error(err)
		}
	})
	return l.Addr().String()
}

// quietDesk knows a status and nothing else.
type quietDesk struct{ api.Desk }

func (quietDesk) Status(context.Context) status.Status { return status.Status{Swarm: "5eed"} }
