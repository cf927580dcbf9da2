package node

import (
	"context"
	"io"
	"net"
	"net/http"
	"testing"
	"testing/synctest"
	"time"

	"offshoot/node/internal/peer"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

// TestLimitOfUplinksIsReadFromTheLedger: how large it is and whom it concerns was decided there, and holds for pieces and for HTTP.
func TestLimitOfUplinksIsReadFromTheLedger(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		b := newBook(t)
		b.apply("", swarm.ReportNode{Address: "192.168.42.1:7400", Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Segment: "s1"}}})
		const size = 1_000_000
		whole := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write(make([]byte, size)) })
		s := &services{state: b.state, memory: memory{Node: seedID}}
		s.uplink = share.NewUplink(s.uplinkLimit)
		s.client = peer.NewClient(func(context.Context, string) (net.Conn, error) {
			raw, other := net.Pipe()
			go func() { _ = (&http.Server{Handler: whole, ReadHeaderTimeout: time.Minute}).Serve(newOneConn(other)) }()
			return raw, nil
		})
		defer s.client.Close()
		pieces := func(peer string) io.ReadCloser {
			raw, other := net.Pipe()
			go func() { _, _ = other.Write(make([]byte, size)); _ = other.Close() }()
			ours, err := metered{newOneConn(raw), func(c net.Conn) net.Conn { return s.metered(c, peer) }}.Accept()
			if err != nil {
				t.Fatal(err)
			}
			return ours
		}
		http := func(base string) io.ReadCloser {
			resp, err := s.fetcher(base).Get(base + "/v1/artifact/x")
			if err != nil {
				t.Fatal(err)
			}
			return resp.Body
		}
		const behind, beside = "https://10.42.0.9:7400", "https://192.168.42.1:7400"
		for name, c := range map[string]struct {
			limit swarm.Rate
			open  func(string) io.ReadCloser
			peer  string
			least time.Duration
		}{
			"far":                    {100_000, pieces, behind, 9800 * time.Millisecond},
			"far, a larger limit":    {500_000, pieces, behind, 1900 * time.Millisecond},
			"far, no limit":          {0, pieces, behind, 0},
			"far, by HTTP":           {100_000, http, behind, 9800 * time.Millisecond},
			"far, by HTTP, no limit": {0, http, behind, 0},
			"beside":                 {100_000, pieces, beside, 0},
			"beside, by its name":    {100_000, pieces, string(seedID), 0},
			"beside, by HTTP":        {100_000, http, beside, 0},
			"installs itself":        {100_000, pieces, string(swarm.InstallerID("i")), 0},
		} {
			b.apply("", swarm.SetUplinkLimit{Limit: c.limit})
			<-time.After(time.Minute) // the bucket is full
			began := time.Now()
			body := c.open(c.peer)
			if n, err := io.Copy(io.Discard, body); n != size || err != nil {
				t.Errorf("%s: %d bytes, %v", name, n, err)
			}
			_ = body.Close()
			if took := time.Since(began); took < c.least || took > c.least+c.least/20 {
				t.Errorf("%s: %d bytes at %s took %v, want %v", name, size, c.limit, took, c.least)
			}
		}
	})
}

// oneConn is a listener that gives one connection.
type oneConn chan net.Conn

func newOneConn(c net.Conn) oneConn {
	l := make(oneConn, 1)
	l <- c
	return l
}

func (l oneConn) Accept() (net.Conn, error) {
	select {
	case c := <-l:
		return c, nil
	default:
		return nil, net.ErrClosed
	}
}
func (l oneConn) Close() error   { return nil }
func (l oneConn) Addr() net.Addr { return &net.TCPAddr{} }
