package gossip

import (
	"crypto/rand"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/memberlist"
)

// tap is a transport that remembers what was sent: what a stranger with a cable sees. It is memberlist's own below.
type tap struct {
	*sockets
	mu      sync.Mutex
	packets [][]byte
	streams []*tapped
}

// tapped is the caller's half of a stream.
type tapped struct {
	net.Conn
	tap  *tap
	sent []byte
}

func (c *tapped) Write(b []byte) (int, error) {
	c.tap.mu.Lock()
	c.sent = append(c.sent, b...)
	c.tap.mu.Unlock()
	return c.Conn.Write(b)
}

func (t *tap) WriteToAddress(b []byte, a memberlist.Address) (time.Time, error) {
	t.mu.Lock()
	t.packets = append(t.packets, slices.Clone(b))
	t.mu.Unlock()
	return t.sockets.WriteToAddress(b, a)
}

func (t *tap) WriteTo(b []byte, addr string) (time.Time, error) {
	return t.WriteToAddress(b, memberlist.Address{Addr: addr})
}

func (t *tap) DialAddressTimeout(a memberlist.Address, timeout time.Duration) (net.Conn, error) {
	c, err := t.sockets.DialAddressTimeout(a, timeout)
	if err != nil {
		return nil, err
	}
	s := &tapped{Conn: c, tap: t}
	t.mu.Lock()
	t.streams = append(t.streams, s)
	t.mu.Unlock()
	return s, nil
}

// heard is all that was sent so far.
func (t *tap) heard() (packets, streams [][]byte) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, s := range t.streams {
		streams = append(streams, slices.Clone(s.sent))
	}
	return slices.Clone(t.packets), streams
}

// wait returns the packets sent so far as soon as there are this many.
func (t *tap) wait(test *testing.T, n int) [][]byte {
	test.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(8 * time.Second); ; {
		if packets, _ := t.heard(); len(packets) >= n {
			return packets
		}
		select {
		case <-tick.C:
		case <-end:
			test.Fatalf("fewer than %d packets were sent", n)
		}
	}
}

// patient is for tests in which nobody may be taken for dead. A forged death shows at once, so that only slow answers of a
// busy machine are forgiven.
func patient(id string) Options {
	opt := options(id)
	opt.Timing.Probe, opt.Timing.Answer = 2*time.Second, 1900*time.Millisecond
	return opt
}

func startTapped(t *testing.T, id string) (*testNode, *tap) {
	t.Helper()
	opt := patient(id)
	s, hangUp, err := newSockets(opt.Bind, newMemberlistLogger(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(hangUp)
	tapped := &tap{sockets: s}
	opt.Transport = tapped
	return start(t, opt), tapped
}

// stranger sends from an address where no member ever was.
type stranger struct {
	t    *testing.T
	udp  net.Conn
	to   string
	from *net.TCPAddr
}

func newStranger(t *testing.T, victim *testNode, source string) *stranger {
	t.Helper()
	to := victim.Address().String()
	d := net.Dialer{LocalAddr: &net.UDPAddr{IP: net.ParseIP(source)}}
	udp, err := d.DialContext(t.Context(), "udp", to)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = udp.Close() })
	return &stranger{t: t, udp: udp, to: to, from: &net.TCPAddr{IP: net.ParseIP(source)}}
}

func (s *stranger) packet(b []byte) { _, _ = s.udp.Write(b) }

// stream sends b and waits until the victim hangs up or a moment is over; it returns what the victim said.
func (s *stranger) stream(b []byte) []byte {
	d := net.Dialer{LocalAddr: s.from, Timeout: time.Second}
	c, err := d.DialContext(s.t.Context(), "tcp", s.to)
	if err != nil {
		return nil
	}
	defer func() { _ = c.Close() }()
	_, _ = c.Write(b)
	_ = c.SetReadDeadline(time.Now().Add(30 * time.Millisecond))
	answer, _ := io.ReadAll(c)
	return answer
}

// known is what a node thinks of all, without what may change by itself.
func (n *testNode) known() map[string]string {
	known := map[string]string{}
	for _, m := range n.Members() {
		known[string(m.ID)] = fmt.Sprintf("%s at %s since %s: %s", m.State, m.Address, m.Since, m.Meta)
	}
	return known
}

// passes proves that news still travel.
func passes(t *testing.T, from *testNode, news string, to ...*testNode) {
	t.Helper()
	from.says(news)
	from.UpdateMeta()
	for _, n := range to {
		n.sees(string(from.opt.ID), Alive, meta(news))
	}
}

// All that was ever said, a member's end and its return among it, is said again, in order and backwards, by who has no key.
func TestReplaysChangeNothing(t *testing.T) {
	a, tapA := startTapped(t, "a")
	b, tapB := startTapped(t, "b")
	c, tapC := startTapped(t, "c")
	b.join(a)
	c.join(a)
	for i := range 3 {
		passes(t, b, fmt.Sprintf("b says %d", i), a, c)
	}
	c.stop()
	a.sees("c", Left, nil)
	b.sees("c", Left, nil)
	again, tapAgain := startTapped(t, "c") // at another address, in another session
	again.join(a)
	nodes := []*testNode{a, b, again}
	passes(t, again, "c is back", a, b)
	passes(t, b, "b says its last", a, again)
	a.sees("c", Alive, func(m Member) error {
		if m.Address != again.Address() {
			return fmt.Errorf("it is at %s", m.Address)
		}
		return nil
	})
	before := []map[string]string{a.known(), b.known(), again.known()}
	stop := noneDead(t, nodes...)
	var packets, streams [][]byte
	for _, tap := range []*tap{tapA, tapB, tapC, tapAgain} {
		p, s := tap.heard()
		packets, streams = append(packets, p...), append(streams, s...)
	}
	if len(packets) < 20 || len(streams) < 3 {
		t.Fatalf("%d packets and %d streams recorded; the test proves nothing", len(packets), len(streams))
	}
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for range 2 {
		for i, n := range nodes {
			s := newStranger(t, n, fmt.Sprintf("127.9.0.%d", i+1))
			for j, p := range packets {
				s.packet(p)
				if j%5 == 0 {
					<-pace.C
				}
			}
			for _, st := range streams {
				s.stream(st)
			}
		}
		slices.Reverse(packets)
		slices.Reverse(streams)
	}
	settle := time.NewTimer(time.Second) // longer than news take to get around
	<-settle.C
	stop()
	for i, n := range nodes {
		if diff := cmp.Diff(before[i], n.known()); diff != "" {
			t.Errorf("node %s: %s", n.opt.ID, diff)
		}
	}
	passes(t, b, "b is still heard", a, again)
}

func TestGarbageChangesNothingAndHindersNobody(t *testing.T) {
	a, tapA := startTapped(t, "a")
	b, c := start(t, patient("b")), start(t, patient("c"))
	b.join(a)
	c.join(a)
	passes(t, c, "c is known", a, b)
	stop := noneDead(t, a, b, c)
	genuine := tapA.wait(t, 5)
	label := append([]byte{244, byte(len("test-swarm"))}, "test-swarm"...) // memberlist's header, see its label.go
	garbage := func(n int) []byte {
		junk := make([]byte, n)
		_, _ = rand.Read(junk)
		return junk
	}
	s := newStranger(t, a, "127.9.1.1")
	pace := time.NewTicker(time.Millisecond)
	defer pace.Stop()
	for i := range 2000 {
		s.packet(garbage(i % 1400))
		s.packet(append(slices.Clone(label), garbage(i%1400)...))
		damaged := slices.Clone(genuine[i%len(genuine)])
		damaged[i%len(damaged)] ^= 1 << (i % 8)
		s.packet(damaged)
		s.packet(damaged[:i%len(damaged)])
		if i%5 == 0 {
			<-pace.C // 20,000 packets a second: more would only measure the processor
		}
		if i%500 == 0 {
			passes(t, b, fmt.Sprintf("in the middle of it: %d", i), a, c)
		}
	}
	for _, junk := range [][]byte{nil, {244}, label, append(slices.Clone(label), 10, 0xff, 0xff, 0xff, 0xff), garbage(5000)} {
		if answer := s.stream(junk); len(answer) > 0 && slices.ContainsFunc(a.Members(), func(m Member) bool { return contains(answer, m.Meta) }) {
			t.Errorf("a stranger is told something: %q", answer)
		}
	}
	passes(t, b, "after it", a, c)
	stop()
	if n := len(a.Members()); n != 3 {
		t.Errorf("a knows %d members", n)
	}
}

func contains(b, part []byte) bool {
	return len(part) > 0 && slices.Contains(windows(b, len(part)), string(part))
}

func windows(b []byte, n int) (all []string) {
	for i := 0; i+n <= len(b); i++ {
		all = append(all, string(b[i:i+n]))
	}
	return all
}

// memberlist would read 20 MiB from each of any number of strangers.
func TestStrangersStreamsAreBoundedAndMembersAreNot(t *testing.T) {
	a, b := start(t, options("a")), start(t, options("b"))
	b.join(a)
	dial := func(source string) net.Conn {
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: time.Second}
		c, err := d.DialContext(t.Context(), "tcp", a.Address().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = c.Close() })
		return c
	}
	for i := range 200 {
		dial(fmt.Sprintf("127.9.2.%d", i+1))
		a.transport.mu.Lock()
		n := len(a.transport.strangers)
		a.transport.mu.Unlock()
		if n > maxStrangers {
			t.Fatalf("%d strangers' streams are open", n)
		}
	}
	began := time.Now()
	b.join(a)
	if took := time.Since(began); took > time.Second {
		t.Errorf("a member's exchange took %s", took)
	}
	joiner := start(t, options("joiner"))
	joiner.join(a)

	long := dial("127.9.3.1")
	head := append([]byte{244, byte(len("test-swarm"))}, "test-swarm"...)
	head = append(head, 10, 0x01, 0x00, 0x00, 0x00) // encrypted, 16 MiB to come
	_ = long.SetDeadline(time.Now().Add(5 * time.Second))
	sent, err := long.Write(head)
	for chunk := make([]byte, 64<<10); err == nil && sent < 16<<20; {
		var n int
		n, err = long.Write(chunk)
		sent += n
	}
	if err == nil || sent > 12<<20 { // what the kernel buffers comes on top
		t.Errorf("a stranger sent %d bytes, %v", sent, err)
	}
}

func TestShutdownDoesNotWaitForStreamsThatNobodyTakes(t *testing.T) {
	s, hangUp, err := newSockets(options("a").Bind, newMemberlistLogger(quiet()))
	if err != nil {
		t.Fatal(err)
	}
	tr := newTransport(s, hangUp, noMember)
	port := s.GetAutoBindPort()
	for range 5 {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = c.Close() }()
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tr.cut()
		if err := tr.Shutdown(); err != nil {
			t.Error(err)
		}
	}()
	select {
	case <-done:
	case <-time.After(5 * time.Second):
		t.Fatal("it waits")
	}
}

func noMember(netip.Addr) bool { return false }

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }
