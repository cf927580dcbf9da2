package identity

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// bans is what a test's swarm refuses, by serial.
type bans struct{ serials sync.Map }

func (b *bans) add(serial string) { b.serials.Store(serial, true) }

func (b *bans) refused(serial string, _ Peer) error {
	if _, ok := b.serials.Load(serial); ok {
		return errors.New("evicted: it was stolen")
	}
	return nil
}

// served dials the mux and returns both ends.
func served(t *testing.T, from *Identity, m *Mux, proto string) (client, server net.Conn) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	client, err := from.Dial(ctx, proto, m.ln.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	waitQueued(t, m, proto, 1)
	server, err = m.Listener(proto).Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = client.Close(), server.Close() })
	return client, server
}

// dead wants a connection to be of no use within a moment.
func dead(t *testing.T, what string, c net.Conn) {
	t.Helper()
	_ = c.SetReadDeadline(time.Now().Add(5 * time.Second))
	var b [1]byte
	if _, err := c.Read(b[:]); err == nil || isTimeout(err) {
		t.Errorf("%s: still open: %v", what, err)
	}
}

// alive wants a byte to pass both ways.
func alive(t *testing.T, what string, a, b net.Conn) {
	t.Helper()
	for _, c := range [][2]net.Conn{{a, b}, {b, a}} {
		_ = c[1].SetReadDeadline(time.Now().Add(5 * time.Second))
		var one [1]byte
		if _, err := c[0].Write([]byte{1}); err != nil {
			t.Errorf("%s: %v", what, err)
		} else if _, err := io.ReadFull(c[1], one[:]); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestEvictedIsRefusedInEveryHandshakeOfBothDirections(t *testing.T) {
	ca := newCA(t, "alpha")
	var banned bans
	a, b := member(t, ca, Options{Refused: banned.refused}), member(t, ca, Options{})
	ma, mb := runMux(t, a, nil), runMux(t, b, nil)
	banned.add(b.Self().Serial)
	for _, proto := range []string{ProtoRaft, ProtoPeer, ProtoShare} {
		if c, err := b.Dial(t.Context(), proto, ma.ln.Addr().String(), a.Node()); err == nil {
			dead(t, "evicted calls "+proto, c)
		}
		if _, err := a.Dial(t.Context(), proto, mb.ln.Addr().String(), b.Node()); !errors.Is(err, ErrRevoked) {
			t.Errorf("called the evicted by %s: %v", proto, err)
		}
	}
	for proto, q := range ma.queues {
		if len(q.conns) != 0 {
			t.Errorf("the evicted stands before %s", proto)
		}
	}
	// A certificate that it was given before has another serial, but a fresh one heals: it is asked by serial.
	cert, _ := issue(t, ca, b, b.Node(), RoleNode, start)
	if err := b.Renew(cert); err != nil {
		t.Fatal(err)
	}
	client, server := served(t, b, ma, ProtoPeer)
	alive(t, "readmitted", client, server)
}

func TestCutEndsWhatStandsInBothDirectionsAndNothingElse(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b, c := member(t, ca, Options{}), member(t, ca, Options{}), member(t, ca, Options{})
	ma, mb := runMux(t, a, nil), runMux(t, b, nil)
	client, server := served(t, b, ma, ProtoRaft)
	out, in := served(t, a, mb, ProtoPeer)
	bystander, there := served(t, c, ma, ProtoRaft)
	queued, err := b.Dial(t.Context(), ProtoPeer, ma.ln.Addr().String(), "")
	if err != nil {
		t.Fatal(err)
	}
	waitQueued(t, ma, ProtoPeer, 1) // no one has accepted it yet
	alive(t, "before", client, server)

	match := func(p Peer, serial string) bool { return p == b.Self() && serial == b.Self().Serial }
	if n := a.Cut(match); n != 3 {
		t.Errorf("cut %d connections, want 3", n)
	}
	for what, conn := range map[string]net.Conn{"client": client, "server": server, "dialed": out, "answered": in, "queued": queued} {
		dead(t, what, conn)
	}
	alive(t, "bystander", bystander, there)
	if n := a.Cut(match); n != 0 {
		t.Errorf("cut %d a second time", n)
	}
}

func waitQueued(t *testing.T, m *Mux, proto string, n int) {
	t.Helper()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for end := time.After(5 * time.Second); len(m.queues[proto].conns) < n; {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("%d queued, want %d", len(m.queues[proto].conns), n)
		}
	}
}

// The swarm changes its mind, and cuts, between the moment that a handshake asked and the moment that it is done.
func TestCutDuringAHandshakeLeavesNoGap(t *testing.T) {
	for _, direction := range []string{"accepting", "dialing"} {
		t.Run(direction, func(t *testing.T) {
			ca := newCA(t, "alpha")
			b := member(t, ca, Options{})
			asked, answer := make(chan struct{}), make(chan struct{})
			a := member(t, ca, Options{Refused: func(string, Peer) error {
				close(asked) // the answer was right when it was asked
				<-answer
				return nil
			}})
			result := make(chan net.Conn, 1)
			accepted := (<-chan net.Conn)(nil)
			if direction == "accepting" {
				m := runMux(t, a, nil)
				accepted = accept(m, ProtoPeer)
				go call(t, b, m, result)
			} else {
				m := runMux(t, b, nil)
				go call(t, a, m, result)
			}
			<-asked
			if n := a.Cut(func(p Peer, _ string) bool { return p.Node == b.Node() }); n != 1 {
				t.Errorf("cut %d connections, want the one in its handshake", n)
			}
			close(answer)
			if c := <-result; c != nil {
				dead(t, "the caller's end", c)
			}
			select {
			case c, ok := <-accepted:
				if ok {
					dead(t, "the accepted end", c)
				}
			case <-time.After(100 * time.Millisecond): // it never came out, which is as good
			}
			if n := a.Cut(func(Peer, string) bool { return true }); n != 0 {
				t.Errorf("%d connections are left", n)
			}
		})
	}
}

func accept(m *Mux, proto string) <-chan net.Conn {
	accepted := make(chan net.Conn, 1)
	go func() {
		defer close(accepted)
		if c, err := m.Listener(proto).Accept(); err == nil {
			accepted <- c
		}
	}()
	return accepted
}

// call reports nil if the handshake failed.
func call(t *testing.T, from *Identity, m *Mux, result chan<- net.Conn) {
	c, err := from.Dial(t.Context(), ProtoPeer, m.ln.Addr().String(), "")
	if err != nil {
		result <- nil
		return
	}
	result <- c
}

// The same with nothing held still: an evicted node reconnects as fast as it can while it is evicted.
func TestEvictionUnderReconnectsLeavesNothingOpen(t *testing.T) {
	ca := newCA(t, "alpha")
	b := member(t, ca, Options{})
	for round := range 20 {
		var banned bans
		a := member(t, ca, Options{Refused: banned.refused})
		m := runMux(t, a, nil)
		var wg sync.WaitGroup
		var mu sync.Mutex
		var got []net.Conn
		stop := make(chan struct{})
		go func() {
			for {
				c, err := m.Listener(ProtoPeer).Accept()
				if err != nil {
					return
				}
				mu.Lock()
				got = append(got, c)
				mu.Unlock()
			}
		}()
		for range 4 {
			wg.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					if c, err := b.Dial(t.Context(), ProtoPeer, m.ln.Addr().String(), ""); err == nil {
						defer func() { _ = c.Close() }()
					}
				}
			})
		}
		timer := time.NewTimer(time.Duration(2+round) * time.Millisecond)
		<-timer.C
		banned.add(b.Self().Serial)
		a.Cut(func(p Peer, serial string) bool { return banned.refused(serial, p) != nil })
		mu.Lock()
		before := len(got)
		mu.Unlock()
		timer.Reset(5 * time.Millisecond)
		<-timer.C
		close(stop)
		wg.Wait() // the server's ends are closed by nobody but Cut and refusals
		tick, end := time.NewTicker(time.Millisecond), time.After(5*time.Second)
		for left := standing(a); left > 0; left = standing(a) {
			select {
			case <-tick.C: // those that are being refused
				continue
			case <-end:
				t.Fatalf("round %d: %d connections of the evicted stand (%d accepted before)", round, left, before)
			}
		}
		tick.Stop()
	}
}

func standing(id *Identity) int {
	id.links.mu.Lock()
	defer id.links.mu.Unlock()
	return len(id.links.open)
}

// A resumed session shows no certificate. We give out no tickets; and if we did, the check would be made all the same.
func TestResumptionDoesNotBypassEviction(t *testing.T) {
	for _, tickets := range []bool{false, true} {
		ca := newCA(t, "alpha")
		var banned bans
		a, b := member(t, ca, Options{Refused: banned.refused}), member(t, ca, Options{})
		server := a.serverConfig(nowhere(), ProtoPeer)
		if !server.SessionTicketsDisabled || a.clientConfig(nowhere(), ProtoPeer, "").ClientSessionCache != nil {
			t.Fatal("sessions are kept")
		}
		server.SessionTicketsDisabled = !tickets
		client := b.clientConfig(nowhere(), ProtoPeer, "")
		client.ClientSessionCache = tls.NewLRUClientSessionCache(4)
		client.SessionTicketsDisabled = false
		client.ServerName = "a" // what sessions are kept by
		client.Time, server.Time = at(start), at(start)
		var resumed atomic.Int64
		inner := server.VerifyConnection
		server.VerifyConnection = func(cs tls.ConnectionState) error {
			if cs.DidResume {
				resumed.Add(1)
			}
			return inner(cs)
		}
		for range 2 {
			if m := meet(t, server, client); m.client != nil || m.server != nil {
				t.Fatalf("%v, %v", m.client, m.server)
			}
		}
		if (resumed.Load() > 0) != tickets {
			t.Fatalf("tickets %t: %d resumed; the test proves nothing", tickets, resumed.Load())
		}
		banned.add(b.Self().Serial)
		m := meet(t, server, client)
		refusedBy(t, m.server, m.client, ErrRevoked)
	}
}

func TestClosedConnectionsAreForgotten(t *testing.T) {
	ca := newCA(t, "alpha")
	a, b := member(t, ca, Options{}), member(t, ca, Options{})
	m := runMux(t, a, nil)
	for range 10 {
		client, server := served(t, b, m, ProtoPeer)
		_, _ = client.Close(), server.Close()
	}
	for _, id := range []*Identity{a, b} {
		if n := len(id.links.open); n != 0 {
			t.Errorf("%d of 10 closed connections are remembered", n)
		}
	}
}
