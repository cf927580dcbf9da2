package ledger

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"offshoot/swarm"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// fast are the periods of clusters on loopback: short, but not so short that two busy processors lose elections.
var fast = Timing{Heartbeat: 500 * time.Millisecond, Election: 500 * time.Millisecond,
	Lease: 400 * time.Millisecond, Commit: 10 * time.Millisecond}

// journal is a state machine that keeps what it was told, once per id. A command is "id=text".
type journal struct {
	mu      sync.Mutex
	seen    map[string]int // id -> position
	entries []string
	twice   int // commands that came again
	last    uint64
	wrong   int // commands whose index was not above the one before
}

func (j *journal) Apply(index uint64, command []byte) []byte {
	j.mu.Lock()
	defer j.mu.Unlock()
	if index <= j.last && index > 0 {
		j.wrong++
	}
	j.last = index
	id, _, _ := strings.Cut(string(command), "=")
	if j.seen == nil {
		j.seen = map[string]int{}
	}
	if at, ok := j.seen[id]; ok {
		j.twice++
		return fmt.Appendf(nil, "%d", at)
	}
	j.entries = append(j.entries, string(command))
	j.seen[id] = len(j.entries)
	return fmt.Appendf(nil, "%d", len(j.entries))
}

func (j *journal) Snapshot() (func(io.Writer) error, error) {
	captured := j.all()
	return func(w io.Writer) error { return json.NewEncoder(w).Encode(captured) }, nil
}

func (j *journal) Restore(r io.Reader) error {
	var entries []string
	if err := json.NewDecoder(r).Decode(&entries); err != nil {
		return err
	}
	fresh := &journal{}
	for _, e := range entries {
		fresh.Apply(0, []byte(e))
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries, j.seen, j.last = fresh.entries, fresh.seen, 0
	return nil
}

func (j *journal) all() []string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return append([]string{}, j.entries...)
}

// cluster is several ledgers in this process, talking over loopback and a stand-in for the peer API.
type cluster struct {
	t     *testing.T
	mu    sync.Mutex
	nodes map[swarm.NodeID]*testNode
	at    map[string]*testNode // by address
	cut   map[swarm.NodeID]bool
	conns map[net.Conn][2]swarm.NodeID
}

type testNode struct {
	*Ledger
	id      swarm.NodeID
	dir     string
	journal *journal
	cancel  context.CancelFunc
	ended   chan error
}

func newCluster(t *testing.T) *cluster {
	return &cluster{t: t, nodes: map[swarm.NodeID]*testNode{}, at: map[string]*testNode{},
		cut: map[swarm.NodeID]bool{}, conns: map[net.Conn][2]swarm.NodeID{}}
}

// reach tells whether from can talk to the node at address now.
func (c *cluster) reach(from swarm.NodeID, address string) (*testNode, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	to, ok := c.at[address]
	if !ok || c.cut[from] || c.cut[to.id] {
		return nil, fmt.Errorf("no way from %s to %s", from, address)
	}
	return to, nil
}

// isolate cuts a node off in both directions: streams break, and calls fail.
func (c *cluster) isolate(id swarm.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut[id] = true
	for conn, ends := range c.conns {
		if ends[0] == id || ends[1] == id {
			_ = conn.Close()
			delete(c.conns, conn)
		}
	}
}

func (c *cluster) heal(id swarm.NodeID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.cut, id)
}

func (c *cluster) options(id swarm.NodeID, dir string, timing Timing) Options {
	c.t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		c.t.Fatal(err)
	}
	var dialer net.Dialer
	return Options{
		Dir: dir, ID: id, Address: listener.Addr().String(), Listener: listener, Timing: timing,
		FSM: &journal{}, Compaction: Compaction{Interval: 20 * time.Millisecond, Threshold: 1 << 20},
		Logger: testLogger(c.t, id),
		Check:  func(r io.Reader) error { return new(journal).Restore(r) },
		Dial: func(ctx context.Context, want swarm.NodeID, address string) (net.Conn, error) {
			to, err := c.reach(id, address)
			if err != nil {
				return nil, err
			}
			if to.id != want {
				return nil, fmt.Errorf("node %s answers at %s, not %s", to.id, address, want)
			}
			conn, err := dialer.DialContext(ctx, "tcp", address)
			if err != nil {
				return nil, err
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			if c.cut[id] || c.cut[to.id] { // while we dialled
				return nil, errors.Join(fmt.Errorf("no way from %s to %s", id, address), conn.Close())
			}
			c.conns[conn] = [2]swarm.NodeID{id, to.id}
			return conn, nil
		},
		Peers: Peers{
			Forward: func(ctx context.Context, address string, command []byte) ([]byte, error) {
				to, err := c.reach(id, address)
				if err != nil {
					return nil, err
				}
				return to.Accept(ctx, command)
			},
			Pulse: func(_ context.Context, address string) (Pulse, error) {
				to, err := c.reach(id, address)
				if err != nil {
					return Pulse{}, err
				}
				return to.Pulse(), nil
			},
		},
	}
}

// start runs a node and stops it at the end of the test, if the test has not.
func (c *cluster) start(opt Options, found bool) *testNode {
	c.t.Helper()
	l, err := Open(opt)
	if err != nil {
		c.t.Fatal(err)
	}
	if found {
		if err := l.Found(); err != nil {
			c.t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	n := &testNode{Ledger: l, id: opt.ID, dir: opt.Dir, journal: opt.FSM.(*journal), cancel: cancel, ended: make(chan error, 1)}
	c.mu.Lock()
	c.nodes[n.id], c.at[opt.Address] = n, n
	c.mu.Unlock()
	go func() { n.ended <- l.Run(ctx) }()
	c.t.Cleanup(func() { c.stop(n) })
	return n
}

func (c *cluster) node(id swarm.NodeID, timing Timing, found bool) *testNode {
	return c.start(c.options(id, scratch(c.t), timing), found)
}

// scratch is a directory in memory if there is one: these tests prove rules, not that the disk syncs, and a disk that
// others keep busy makes leaders lose their lease.
func scratch(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "offshoot-ledger-")
	if err != nil {
		return t.TempDir()
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "ledger") // a recovery leaves the former one beside it
}

// stop ends a node in good order and checks that it does.
func (c *cluster) stop(n *testNode) {
	c.t.Helper()
	c.mu.Lock()
	gone := c.nodes[n.id] != n
	if !gone {
		delete(c.nodes, n.id)
	}
	c.mu.Unlock()
	if gone {
		return
	}
	n.cancel()
	select {
	case err := <-n.ended:
		if err != nil {
			c.t.Errorf("node %s ended with %v", n.id, err)
		}
		n.journal.mu.Lock()
		if n.journal.wrong > 0 {
			c.t.Errorf("node %s: %d commands out of order, or twice", n.id, n.journal.wrong)
		}
		n.journal.mu.Unlock()
	case <-time.After(10 * time.Second):
		c.t.Errorf("node %s does not end", n.id)
	}
	c.mu.Lock()
	if c.at[n.opt.Address] == n {
		delete(c.at, n.opt.Address)
	}
	c.mu.Unlock()
}

// kill ends a node without anyone hearing of it.
func (c *cluster) kill(n *testNode) {
	c.t.Helper()
	c.isolate(n.id)
	c.stop(n)
	c.heal(n.id)
}

// restart runs a stopped node again, from its directory, at a new address.
func (c *cluster) restart(n *testNode) *testNode {
	c.t.Helper()
	return c.start(c.options(n.id, n.dir, n.opt.Timing), false)
}

// voters makes a swarm of n voters, the first of which leads.
func (c *cluster) voters(n int) []*testNode {
	c.t.Helper()
	nodes := []*testNode{c.node("node-0", fast, true)}
	c.leads(nodes[0])
	for i := 1; i < n; i++ {
		m := c.node(swarm.NodeID(fmt.Sprintf("node-%d", i)), fast, false)
		c.change(func() error { return nodes[0].AddLearner(c.ctx(), m.id, m.opt.Address) })
		c.change(func() error { return nodes[0].Promote(c.ctx(), m.id) })
		nodes = append(nodes, m)
	}
	c.caughtUp(nodes)
	return nodes
}

// caughtUp waits until all know what the first one, which leads, knows: a voter that has not heard yet of another one would not
// vote for it.
func (c *cluster) caughtUp(nodes []*testNode) {
	c.t.Helper()
	for _, m := range nodes[1:] {
		c.change(func() error { return nodes[0].CaughtUp(c.ctx(), m.id) })
	}
}

func (c *cluster) leads(n *testNode) {
	c.t.Helper()
	c.eventually(string(n.id)+" leads", func() error { return n.Verify(context.Background()) })
}

func (c *cluster) must(err error) {
	c.t.Helper()
	if err != nil {
		c.t.Fatal(err)
	}
}

// change carries out a change of members as a caller would: again, until it succeeds. A busy machine may lose a lease.
func (c *cluster) change(do func() error) {
	c.t.Helper()
	c.eventually("change of members", do)
}

func (c *cluster) propose(n *testNode, command string) string {
	c.t.Helper()
	answer, err := n.Propose(c.ctx(), []byte(command))
	if err != nil {
		c.t.Fatalf("propose %q on %s: %v", command, n.id, err)
	}
	return string(answer)
}

func (c *cluster) ctx() context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	c.t.Cleanup(cancel)
	return ctx
}

func (c *cluster) within(d time.Duration) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), d)
	c.t.Cleanup(cancel)
	return ctx
}

// eventually waits for a condition and tells its last error.
func (c *cluster) eventually(what string, condition func() error) {
	c.t.Helper()
	// raft lets a member that was away wait for up to 10 s before it tries it again (replication.go, maxFailureScale).
	deadline := time.After(30 * time.Second)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := condition()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline:
			c.t.Fatalf("%s: not within 30 s: %v", what, err)
		}
	}
}

func (c *cluster) holds(n *testNode, want ...string) {
	c.t.Helper()
	c.eventually(fmt.Sprintf("%s holds %q", n.id, want), func() error {
		if got := n.journal.all(); strings.Join(got, " ") != strings.Join(want, " ") {
			return fmt.Errorf("it holds %q", got)
		}
		return nil
	})
}

func want(t *testing.T, err, target error) {
	t.Helper()
	if !errors.Is(err, target) {
		t.Errorf("got error %v, want one that is %q", err, target)
	}
}

func testLogger(t *testing.T, id swarm.NodeID) *slog.Logger {
	if os.Getenv("LEDGER_TEST_LOG") == "" {
		return slog.New(slog.DiscardHandler)
	}
	return slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", id)
}
