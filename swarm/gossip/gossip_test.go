package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"
	"go.uber.org/goleak"

	"offshoot/swarm"
)

func TestMain(m *testing.M) {
	// memberlist waits for nobody: a probe under way ends by its own timer, see Run.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

var (
	keyA = bytes.Repeat([]byte{'a'}, KeySize)
	keyB = bytes.Repeat([]byte{'b'}, KeySize)
	// fast finds the dead within about half a second.
	fast = Timing{Probe: 100 * time.Millisecond, Answer: 80 * time.Millisecond, Gossip: 10 * time.Millisecond,
		Exchange: time.Second, Rejoin: 100 * time.Millisecond, Stream: time.Second, LeaveWait: 300 * time.Millisecond}
)

type testNode struct {
	*Gossip
	t     *testing.T
	stop  func()
	saysA atomic.Pointer[string] // meta
}

func options(id string) Options {
	return Options{Swarm: "test-swarm", ID: swarm.NodeID(id), Keys: [][]byte{keyA}, Timing: fast,
		Bind: netip.MustParseAddrPort("127.0.0.1:0")}
}

func start(t *testing.T, opt Options) *testNode {
	t.Helper()
	n := &testNode{t: t}
	n.says(string(opt.ID) + " is here")
	opt.Meta = func() []byte { return []byte(*n.saysA.Load()) }
	if os.Getenv("GOSSIP_TEST_LOG") != "" {
		opt.Logger = slog.New(slog.NewTextHandler(t.Output(), &slog.HandlerOptions{Level: slog.LevelDebug})).With("node", opt.ID)
	}
	g, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	n.Gossip = g
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- g.Run(ctx) }()
	var stopped atomic.Bool
	n.stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		select {
		case err := <-ended:
			if err != nil {
				t.Errorf("node %s ended with %v", opt.ID, err)
			}
		case <-time.After(5 * time.Second):
			t.Errorf("node %s does not end", opt.ID)
		}
	}
	t.Cleanup(n.stop)
	select {
	case <-g.Ready():
	case err := <-ended:
		ended <- err
		t.Fatalf("node %s: %v", opt.ID, err)
	}
	return n
}

// kill silences a node at once, without a word to the others.
func (n *testNode) kill() {
	_ = n.transport.Shutdown() // never returns an error
}

func (n *testNode) says(s string) { n.saysA.Store(&s) }

func (n *testNode) join(others ...*testNode) {
	n.t.Helper()
	for _, o := range others {
		if err := n.Join(n.t.Context(), []string{o.Address().String()}); err != nil {
			n.t.Fatal(err)
		}
	}
}

// sees waits until n takes id for being in state, and whatever else check asks.
func (n *testNode) sees(id string, state State, check func(Member) error) {
	n.t.Helper()
	deadline := time.After(20 * time.Second)
	for {
		changed := n.Watch()
		err := fmt.Errorf("%s is unknown", id)
		for _, m := range n.Members() {
			if m.ID != swarm.NodeID(id) {
				continue
			}
			if err = nil; m.State != state {
				err = fmt.Errorf("%s is %s", id, m.State)
			} else if check != nil {
				err = check(m)
			}
		}
		if err == nil {
			return
		}
		select {
		case <-changed:
		case <-deadline:
			n.t.Fatalf("node %s does not see %s %s: %v", n.opt.ID, id, state, err)
		}
	}
}

func meta(want string) func(Member) error {
	return func(m Member) error {
		if string(m.Meta) != want {
			return fmt.Errorf("it says %q", m.Meta)
		}
		return nil
	}
}

func TestMembersSeeEachOtherAndWhatTheySay(t *testing.T) {
	a, b := start(t, options("a")), start(t, options("b"))
	b.join(a)
	a.sees("b", Alive, meta("b is here"))
	b.sees("a", Alive, meta("a is here"))
	a.sees("a", Alive, nil)
	b.says("b has news")
	b.UpdateMeta()
	a.sees("b", Alive, meta("b has news"))
	a.sees("b", Alive, func(m Member) error {
		if m.Address != b.Address() {
			return fmt.Errorf("its address is %s, want %s", m.Address, b.Address())
		}
		return nil
	})
}

func TestStrangersAreRefused(t *testing.T) {
	a := start(t, options("a"))
	otherKey, otherSwarm := options("key"), options("label")
	otherKey.Keys = [][]byte{keyB}
	otherSwarm.Swarm = "another-swarm"
	for _, opt := range []Options{otherKey, otherSwarm} {
		s := start(t, opt)
		if err := s.Join(t.Context(), []string{a.Address().String()}); !errors.Is(err, ErrNobody) {
			t.Errorf("%s joins: %v", opt.ID, err)
		}
		if err := a.Join(t.Context(), []string{s.Address().String()}); !errors.Is(err, ErrNobody) {
			t.Errorf("joining %s: %v", opt.ID, err)
		}
		if n := len(s.Members()); n != 1 {
			t.Errorf("%s knows %d members", opt.ID, n)
		}
	}
	c := memberlist.DefaultLANConfig() // speaks plain text, with the right label
	c.Name, c.Label, c.BindAddr, c.BindPort, c.AdvertisePort = "plain", "test-swarm", "127.0.0.1", 0, 0
	c.Logger = newMemberlistLogger(slog.New(slog.DiscardHandler))
	g, err := New(options("plain"))
	if err != nil {
		t.Fatal(err)
	}
	g.queue = &memberlist.TransmitLimitedQueue{NumNodes: g.table.alive, RetransmitMult: 1}
	c.Delegate = &delegate{g} // its state is as good as any, but for the key
	plain, err := memberlist.Create(c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := plain.Join([]string{a.Address().String()}); err == nil {
		t.Error("a node that speaks plain text joins")
	}
	if err := plain.Shutdown(); err != nil {
		t.Error(err)
	}
	if n := len(a.Members()); n != 1 {
		t.Errorf("a knows %+v", a.Members())
	}
}

func TestLeftIsToldFromDead(t *testing.T) {
	a, b, c := start(t, options("a")), start(t, options("b")), start(t, options("c"))
	b.join(a)
	c.join(a)
	b.sees("c", Alive, nil)
	b.stop()
	a.sees("b", Left, meta("b is here")) // what it said is remembered
	c.kill()
	a.sees("c", Dead, nil)
}

func TestDeadMemberIsFoundAgainWithoutBeingAsked(t *testing.T) {
	a, b := start(t, options("a")), start(t, options("b"))
	b.join(a)
	a.sees("b", Alive, nil)
	opt := options("b")
	opt.Bind = b.Address()
	b.kill()
	a.sees("b", Dead, nil)
	b.stop()
	b = start(t, opt) // joins nobody
	a.sees("b", Alive, nil)
	b.sees("a", Alive, nil)
}

func TestSeedsAreTriedUntilTheyAnswer(t *testing.T) {
	a := start(t, options("a"))
	opt := options("b")
	opt.Seeds = func() []string { return []string{"127.0.0.1:9", a.Address().String()} }
	b := start(t, opt)
	a.sees("b", Alive, nil)
	b.sees("a", Alive, nil)
}

func TestRestartedNodeTakesItsNameToAnotherAddress(t *testing.T) {
	a, b := start(t, options("a")), start(t, options("b"))
	b.join(a)
	a.sees("b", Alive, nil)
	b.kill()
	opt := options("b")
	opt.Seeds = func() []string { return []string{a.Address().String()} }
	again := start(t, opt)
	a.sees("b", Alive, func(m Member) error {
		if m.Address != again.Address() {
			return fmt.Errorf("it is at %s, want %s", m.Address, again.Address())
		}
		return nil
	})
}

func TestTooMuchMetaIsNotSaid(t *testing.T) {
	a, b := start(t, options("a")), start(t, options("b"))
	b.join(a)
	b.says(string(bytes.Repeat([]byte{'x'}, MaxMeta)))
	b.UpdateMeta()
	a.sees("b", Alive, func(m Member) error {
		if len(m.Meta) != MaxMeta {
			return fmt.Errorf("it says %d bytes", len(m.Meta))
		}
		return nil
	})
	b.says(string(bytes.Repeat([]byte{'x'}, MaxMeta+1)))
	b.UpdateMeta()
	a.sees("b", Alive, meta(""))
}

func TestPortThatIsTakenIsAnError(t *testing.T) {
	a := start(t, options("a"))
	opt := options("b")
	opt.Bind = a.Address()
	g, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Run(t.Context()); err == nil {
		t.Error("ran on a port that is taken")
	}
	if err := g.Join(t.Context(), nil); !errors.Is(err, ErrStopped) {
		t.Errorf("join after that: %v", err)
	}
}

func TestJoinEndsWithItsContext(t *testing.T) {
	a := start(t, options("a"))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := a.Join(ctx, []string{"127.0.0.1:9"}); err == nil {
		t.Error("joined nobody")
	}
	a.stop()
	if err := a.Join(t.Context(), []string{"127.0.0.1:9"}); !errors.Is(err, ErrStopped) {
		t.Errorf("join after the end: %v", err)
	}
}

func TestOptionsThatWouldHurtAreRefused(t *testing.T) {
	for name, spoil := range map[string]func(*Options){
		"no key":       func(o *Options) { o.Keys = nil },
		"short key":    func(o *Options) { o.Keys = [][]byte{keyA[:16]} },
		"no swarm":     func(o *Options) { o.Swarm = "" },
		"no id":        func(o *Options) { o.ID = "" },
		"no bind":      func(o *Options) { o.Bind = netip.AddrPort{} },
		"no advertise": func(o *Options) { o.Bind = netip.MustParseAddrPort("0.0.0.0:7401") },
	} {
		opt := options("a")
		spoil(&opt)
		if _, err := New(opt); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}
