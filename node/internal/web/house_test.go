package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"offshoot/node/internal/boot"
	"offshoot/node/internal/install"
	"offshoot/swarm"
	"offshoot/swarm/identity"
)

const (
	seedID = swarm.NodeID("5eed5eed5eed5eed")
	mac1   = swarm.MAC("52:54:00:00:00:01")
	mac2   = swarm.MAC("52:54:00:00:00:02")
	nonce1 = "AAAAAAAAAAAAAAAAAAAAAA"
	nonce2 = "BBBBBBBBBBBBBBBBBBBBBB"
)

var (
	day    = time.Date(2026, 11, 21, 0, 0, 0, 0, time.UTC)
	addr1  = netip.MustParseAddr("192.168.42.17")
	addr2  = netip.MustParseAddr("192.168.42.18")
	self   = netip.MustParseAddr("192.168.42.1")
	image  = strings.Repeat("1a", 32)
	kernel = strings.Repeat("2b", 32)
	initrd = strings.Repeat("3c", 32)
	binary = strings.Repeat("4d", 32)
)

// house is a web server on a real state, whose ledger applies at once.
type house struct {
	t       *testing.T
	state   *swarm.State
	handler http.Handler
	log     bytes.Buffer

	mu        sync.Mutex
	now       time.Time
	commands  int
	ops       []swarm.Op
	traces    []string
	minted    []identity.Ticket
	refuse    func(swarm.Op) error // what the ledger fails with
	duty      bool
	begun     map[string]swarm.MAC // boots by nonce that a proxy has begun
	neighbour swarm.MAC
	sent      map[string]int64 // bytes by digest
	noted     chan struct{}    // a token for each note on a timeline
	learned   chan struct{}    // and for each machine that was seen to need something
}

func newHouse(t *testing.T) *house {
	t.Helper()
	h := emptyHouse(t, swarm.ModeFull)
	for mac, lease := range map[swarm.MAC]swarm.Lease{
		mac1: {Addr: addr1, Nonce: nonce1}, mac2: {Addr: addr2, Nonce: nonce2},
	} {
		h.must(swarm.SeeMachine{MAC: mac, Segment: "s1"})
		lease.Segment, lease.MAC, lease.Class, lease.Expires = "s1", mac, "ipxe", day.Add(time.Hour)
		h.must(swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{lease}})
	}
	return h
}

// emptyHouse knows no machine.
func emptyHouse(t *testing.T, mode swarm.Mode) *house {
	t.Helper()
	h := &house{t: t, state: swarm.NewState(), now: day, duty: true, sent: map[string]int64{}, noted: make(chan struct{}, 100), learned: make(chan struct{}, 100)}
	h.must(swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed", Pin: "sha256:" + strings.Repeat("ee", 32), Range: netip.MustParsePrefix("10.42.0.0/16"), Voters: 5, Profile: "p"},
		Node:     swarm.Node{ID: seedID, Name: "seed", Ephemeral: true, Ports: []swarm.Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true}}},
		Network:  netip.MustParsePrefix("192.168.42.0/24"),
		Mode:     mode,
		Profile: &swarm.Profile{
			Name: "p", Driver: "image", Image: image, Format: install.FormatRawZstd, DiskSize: 1 << 30, Kernel: kernel, Initrd: initrd, Binary: binary,
			Args: "console=ttyS0  quiet", RootHash: "$6$salt$0123456789abcdef", SSHKeys: []string{"ssh-ed25519 AAAA me"}, Disk: "smallest",
		},
	})
	h.must(swarm.ReportNode{Address: "192.168.42.1:7400", Protocol: swarm.Protocol, Ports: []swarm.Port{{Name: "lan0", MAC: "02:00:00:00:00:01", Link: true, Segment: "s1"}}})
	h.must(swarm.PutArtifact{Artifact: swarm.Artifact{Digest: image, Size: 4711, Name: "image"}})
	h.handler = New(Options{
		View: h.state.View, Changed: h.state.Changed, Propose: h.propose,
		OnDuty:    func(segment string) bool { return h.duty && segment == "s1" },
		Programs:  fstest.MapFS{"snponly.efi": {Data: snponly}, "ipxe.efi": {Data: snponly}, "undionly.kpxe": {Data: snponly}, "shimx64.efi": {Data: snponly}, "grubx64.efi": {Data: snponly}},
		Artifact:  artifact,
		Sent:      func(digest string, n int64) { h.mu.Lock(); defer h.mu.Unlock(); h.sent[digest] += n },
		Mint:      h.mint,
		Endpoints: func(_ string, self netip.Addr) []string { return []string{netip.AddrPortFrom(self, 7400).String()} },
		Exchangers: func(segment string) []install.Neighbour {
			return []install.Neighbour{{ID: "node-on-" + segment, Address: netip.AddrPortFrom(self, 7400)}}
		},
		Begun:        func(nonce string) (swarm.MAC, bool) { mac, ok := h.begun[nonce]; return mac, ok },
		NeighbourMAC: func(netip.Addr) swarm.MAC { return h.neighbour },
		Firmware:     func(swarm.MAC) boot.Firmware { return boot.Unknown },
		Trace: func(mac swarm.MAC, what, answer, reason string) {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.traces = append(h.traces, fmt.Sprintf("%s %s | %s | %s", mac, what, answer, reason))
		},
		Now:    func() time.Time { h.mu.Lock(); defer h.mu.Unlock(); return h.now },
		Logger: slog.New(slog.NewTextHandler(&h.log, &slog.HandlerOptions{Level: slog.LevelDebug})),
	}).Handler()
	return h
}

func (h *house) mint() (id, hash, secret string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	ticket := identity.NewTicket()
	h.minted = append(h.minted, ticket)
	return ticket.ID(), ticket.Hash(), ticket.Reveal()
}

func (h *house) propose(_ context.Context, op swarm.Op) (swarm.Result, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		if err := h.refuse(op); err != nil {
			return swarm.Result{}, err
		}
	}
	h.commands++
	h.ops = append(h.ops, op)
	result := h.state.Apply(swarm.Command{ID: fmt.Sprintf("c%d", h.commands), Time: h.now, By: seedID, Op: op})
	switch op.(type) {
	case swarm.Note:
		h.noted <- struct{}{}
	case swarm.LearnLoader:
		h.learned <- struct{}{}
	}
	return result, nil
}

func (h *house) must(op swarm.Op) {
	h.t.Helper()
	result, err := h.propose(h.t.Context(), op)
	if err := errors.Join(err, result.Err()); err != nil {
		h.t.Fatalf("%T: %v", op, err)
	}
}

// request is what a machine sends.
type request struct {
	method, path string
	body         string
	from         netip.Addr // "" is that of the first machine
	at           netip.Addr // our address that it asks
	header       map[string]string
}

func (h *house) ask(q request) *http.Response {
	h.t.Helper()
	if q.method == "" {
		q.method = http.MethodGet
	}
	if !q.from.IsValid() {
		q.from = addr1
	}
	if !q.at.IsValid() {
		q.at = self
	}
	r := httptest.NewRequest(q.method, q.path, strings.NewReader(q.body))
	for k, v := range q.header {
		r.Header.Set(k, v)
	}
	r.RemoteAddr = netip.AddrPortFrom(q.from, 40000).String()
	// Listeners on all addresses hand IPv4 out in its IPv6 form.
	local := &net.TCPAddr{IP: net.IP(q.at.AsSlice()).To16(), Port: Port}
	w := httptest.NewRecorder()
	h.handler.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), http.LocalAddrContextKey, local)))
	if strings.HasSuffix(q.path, "/boot.ipxe") && w.Code == http.StatusOK {
		select { // written beside the answer: wait, so that no test ends before it
		case <-h.noted:
		case <-time.After(10 * time.Second):
			h.t.Fatalf("no note of the answer, as if it were the same as before:\n%s", w.Body)
		}
	}
	return w.Result()
}

func text(t *testing.T, r *http.Response) string {
	t.Helper()
	data, err := io.ReadAll(r.Body)
	if err := errors.Join(err, r.Body.Close()); err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// want holds an answer to its status and to words in its body.
func (h *house) want(r *http.Response, code int, words ...string) string {
	h.t.Helper()
	body := text(h.t, r)
	if r.StatusCode != code {
		h.t.Fatalf("answered %d %q, want %d", r.StatusCode, body, code)
	}
	for _, word := range words {
		if !strings.Contains(body, word) {
			h.t.Errorf("answer lacks %q:\n%s", word, body)
		}
	}
	return body
}

func (h *house) script(words ...string) string {
	h.t.Helper()
	return h.want(h.ask(request{path: "/b/" + nonce1 + "/boot.ipxe"}), http.StatusOK, words...)
}

// config fetches the first machine's install config as the agent does.
func (h *house) config() install.Config {
	h.t.Helper()
	r := h.ask(request{path: "/b/" + nonce1 + "/install"})
	if cc := r.Header.Get("Cache-Control"); cc != "no-store" {
		h.t.Errorf("a config with a secret may be stored: Cache-Control %q", cc)
	}
	c, err := install.DecodeConfig(strings.NewReader(h.want(r, http.StatusOK)))
	if err != nil {
		h.t.Fatalf("the agent would refuse the config: %v", err)
	}
	return c
}

func (h *house) event(e install.Event) *http.Response {
	h.t.Helper()
	body, err := json.Marshal(e)
	if err != nil {
		h.t.Fatal(err)
	}
	return h.ask(request{method: http.MethodPost, path: "/b/" + nonce1 + "/event", body: string(body)})
}

func (h *house) arm() { h.t.Helper(); h.must(swarm.ArmMachine{MAC: mac1}) }

func (h *house) machine() swarm.Machine {
	h.t.Helper()
	m, ok := h.state.View().Machine(mac1)
	if !ok {
		h.t.Fatal("machine is not known")
	}
	return m
}

func (h *house) ticket(i int) swarm.Ticket {
	h.t.Helper()
	ticket, ok := h.state.View().Ticket(h.minted[i].ID())
	if !ok {
		h.t.Fatalf("ticket %d is not in the ledger", i)
	}
	return ticket
}

func (h *house) pass(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now = h.now.Add(d)
}

// reports are what was written down of an installation.
func (h *house) reports() []swarm.ReportInstall {
	h.mu.Lock()
	defer h.mu.Unlock()
	var out []swarm.ReportInstall
	for _, op := range h.ops {
		if r, ok := op.(swarm.ReportInstall); ok {
			out = append(out, r)
		}
	}
	return out
}

// content is what every known artifact holds.
const content = "0123456789"

type closer struct{ io.ReadSeeker }

func (closer) Close() error { return nil }

func artifact(digest string) (io.ReadSeekCloser, error) {
	if digest != image {
		return nil, errors.New("not here")
	}
	return closer{strings.NewReader(content)}, nil
}
