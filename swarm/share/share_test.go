package share_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"offshoot/swarm/share"
	"offshoot/swarm/share/sharetest"
)

func TestMemoryKeepsTheRules(t *testing.T) {
	sharetest.Run(t, func(*testing.T) (holder, fetcher share.Share) {
		h := share.NewMemory()
		return h, share.NewMemory(h)
	})
}

func TestHTTPKeepsTheRules(t *testing.T) {
	sharetest.Run(t, func(t *testing.T) (holder, fetcher share.Share) {
		store := func() *share.Store {
			s, err := share.OpenStore(t.TempDir())
			if err != nil {
				t.Fatal(err)
			}
			return s
		}
		h := share.NewHTTP(share.Options{Store: store()})
		srv := httptest.NewServer(h.Handler())
		t.Cleanup(srv.Close)
		return h, share.NewHTTP(share.Options{
			Store: store(), Backoff: time.Millisecond,
			Peers:  func(share.Digest) []string { return []string{srv.URL} },
			Client: func(string) *http.Client { return srv.Client() },
		})
	})
}

// The index of the swarm is what the holder has published; pieces come from it, and what is too small by HTTP.
func TestTorrentKeepsTheRules(t *testing.T) {
	sharetest.Run(t, func(t *testing.T) (holder, fetcher share.Share) { return pairOfTorrents(t, true) })
}

// The fetcher's index knows no infohash: all goes by HTTP.
func TestTorrentWithoutInfoHashesKeepsTheRules(t *testing.T) {
	sharetest.Run(t, func(t *testing.T) (holder, fetcher share.Share) { return pairOfTorrents(t, false) })
}

func pairOfTorrents(t *testing.T, indexed bool) (holder, fetcher *share.Torrent) {
	t.Helper()
	start := func(httpPeer, peer func() string, infoHash func(share.Digest) string) (*share.Torrent, *share.Store, string, string) {
		s, err := share.OpenStore(t.TempDir())
		if err != nil {
			t.Fatal(err)
		}
		ln, err := net.Listen("tcp4", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		x, err := share.NewTorrent(share.TorrentOptions{
			HTTP: share.Options{
				Store: s, Backoff: time.Millisecond,
				Peers:  func(share.Digest) []string { return []string{httpPeer()} },
				Client: func(string) *http.Client { return http.DefaultClient }, //nolint:forbidigo // both ends are this test
			},
			Listener: ln, InfoHash: infoHash,
			Dial: func(ctx context.Context, p share.Peer) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "tcp4", p.Addr)
			},
			Peers: func(share.Digest) []share.Peer { return []share.Peer{{ID: "the other", Addr: peer()}} },
		})
		if err != nil {
			t.Fatal(err)
		}
		srv := httptest.NewServer(x.Handler())
		t.Cleanup(func() {
			srv.Close()
			if err := x.Close(); err != nil {
				t.Error(err)
			}
		})
		return x, s, srv.URL, ln.Addr().String()
	}
	nobody := func() string { return "" }
	h, store, url, addr := start(nobody, nobody, func(share.Digest) string { return "" })
	f, _, _, _ := start(func() string { return url }, func() string { return addr }, func(d share.Digest) string {
		if !indexed {
			return ""
		}
		return store.InfoHash(d)
	})
	return h, f
}

func FuzzParseDigest(f *testing.F) {
	f.Add(string(share.DigestOf(nil)))
	f.Add("../../etc/passwd")
	f.Fuzz(func(t *testing.T, s string) {
		d, err := share.ParseDigest(s)
		if err != nil {
			return
		}
		if string(d) != s || len(s) != 64 {
			t.Errorf("%q became %q", s, d)
		}
		for _, c := range s {
			if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
				t.Errorf("%q is taken for a digest", s)
			}
		}
	})
}
