package share_test

import (
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
