package share

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// members are nodes on one loopback network, where each has an address of its own: that is its name.
type members struct {
	mu    sync.Mutex
	all   []*node
	infos map[Digest]string
}

// lastAddress is shared by all tests of a process.
var lastAddress atomic.Uint32

func nextIP() string {
	k := lastAddress.Add(1)
	return fmt.Sprintf("127.7.%d.%d", k/250, k%250+1)
}

// node is one member: a Torrent, its HTTP side and its log.
type node struct {
	*Torrent
	members *members
	store   *Store
	ip      string
	ln      net.Listener
	srv     *httptest.Server
	mu      sync.Mutex
	logged  bytes.Buffer
}

// Write is where the node logs to.
func (n *node) Write(b []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.logged.Write(b)
}

func (n *node) log() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.logged.String()
}

func newMembers() *members { return &members{infos: map[Digest]string{}} }

func (m *members) index(a Artifact) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.infos[a.Digest] = a.InfoHash
}

func (m *members) infoHash(d Digest) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.infos[d]
}

func (m *members) others(of *node) (out []*node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, n := range m.all {
		if n != of {
			out = append(out, n)
		}
	}
	return out
}

// leave takes a node off the list that the others see.
func (m *members) leave(gone *node) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var rest []*node
	for _, n := range m.all {
		if n != gone {
			rest = append(rest, n)
		}
	}
	m.all = rest
}

// join starts a member on a store; change, if not nil, has the last word on its options.
func (m *members) join(t *testing.T, s *Store, change func(*TorrentOptions)) *node {
	t.Helper()
	n := &node{members: m, store: s}
	n.ip = nextIP()
	var err error
	if n.ln, err = net.Listen("tcp4", n.ip+":0"); err != nil {
		t.Fatal(err)
	}
	opts := TorrentOptions{
		HTTP: Options{
			Store: s, Backoff: time.Millisecond, Idle: 5 * time.Second, Logger: slog.New(slog.NewTextHandler(n, nil)),
			Peers: func(Digest) (urls []string) {
				for _, o := range m.others(n) {
					urls = append(urls, o.srv.URL)
				}
				return urls
			},
			Client: func(string) *http.Client { return n.srv.Client() },
		},
		Listener: n.ln,
		Dial: func(ctx context.Context, p Peer) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(n.ip)}}
			return d.DialContext(ctx, "tcp4", p.Addr)
		},
		Peers: func(Digest) (peers []Peer) {
			for _, o := range m.others(n) {
				peers = append(peers, Peer{ID: o.ip, Addr: o.ln.Addr().String()})
			}
			return peers
		},
		InfoHash: m.infoHash,
	}
	if change != nil {
		change(&opts)
	}
	if n.Torrent, err = NewTorrent(opts); err != nil {
		t.Fatal(err)
	}
	n.srv = httptest.NewServer(n.Handler())
	t.Cleanup(func() { n.stop(t) })
	m.mu.Lock()
	m.all = append(m.all, n)
	m.mu.Unlock()
	return n
}

// stop ends the node as a whole; it may be called again.
func (n *node) stop(t *testing.T) {
	t.Helper()
	n.members.leave(n)
	n.srv.Close()
	if err := n.Close(); err != nil {
		t.Error(err)
	}
}

// seed is a node that has data, which the index knows.
func (m *members) seed(t *testing.T, data []byte, change func(*TorrentOptions)) (*node, Artifact) {
	t.Helper()
	s := newStore(t)
	a, err := s.PublishReader(t.Context(), bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	m.index(a)
	return m.join(t, s, change), a
}

func TestPiecesTravelByBitTorrent(t *testing.T) {
	m, data := newMembers(), someBytes(5<<20+4711)
	seed, a := m.seed(t, data, nil)
	n := m.join(t, newStore(t), nil)
	var last int64
	start := time.Now()
	if err := n.Fetch(t.Context(), a.Digest, a.Size, func(done int64) { last = done }); err != nil {
		t.Fatal(err)
	}
	t.Log(time.Since(start))
	wantHere(t, n.store, data)
	if last != a.Size {
		t.Errorf("progress ended at %d of %d", last, a.Size)
	}
	if got := n.Stats(); got.Fetched != a.Size || got.BadPieces != 0 {
		t.Errorf("%+v: not all came as pieces", got)
	}
	if got := seed.Stats(); got.Open != 1 {
		t.Errorf("the seed: %+v", got)
	}
	t.Log(n.log(), seed.log())
}
