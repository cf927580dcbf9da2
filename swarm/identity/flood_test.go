package identity

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// dialFrom uses a loopback address of its own as source: 127.0.0.0/8 has enough for thousands of strangers.
func dialFrom(ctx context.Context, source string, to net.Addr) (net.Conn, error) {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(source)}, Timeout: 2 * time.Second}
	return d.DialContext(ctx, "tcp", to.String())
}

// askFrom is one member's exchange of a byte over ProtoPeer from this source.
func askFrom(ctx context.Context, id *Identity, source string, to net.Addr) error {
	ctx, cancel := context.WithTimeout(ctx, 4*time.Second)
	defer cancel()
	raw, err := dialFrom(ctx, source, to)
	if err != nil {
		return err
	}
	c := tls.Client(raw, id.clientConfig(nowhere(), ProtoPeer, ""))
	defer func() { _ = raw.Close() }()
	if err := c.HandshakeContext(ctx); err != nil {
		return err
	}
	_, err = echo(c)
	return err
}

// echoing serves a protocol until the mux ends; a joiner's connection is held for a second, as a slow request would be.
func echoing(m *Mux, proto string) {
	for {
		c, err := m.Listener(proto).Accept()
		if err != nil {
			return
		}
		go func() {
			defer func() { _ = c.Close() }()
			_, _ = echo(c)
		}()
	}
}

// attack is one connection of a stranger; it may hold it until ctx ends.
type attack func(ctx context.Context, c net.Conn)

// hold waits until the other side hangs up, or the attack is over.
func hold(ctx context.Context, c net.Conn) {
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	_, _ = io.Copy(io.Discard, c)
}

var attacks = map[string]attack{
	"silence": hold,
	"half a hello": func(ctx context.Context, c net.Conn) {
		_, _ = c.Write([]byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3}) // and no more of it
		hold(ctx, c)
	},
	"a hello byte by byte": func(ctx context.Context, c net.Conn) {
		tick := time.NewTicker(100 * time.Millisecond)
		defer tick.Stop()
		for _, b := range []byte{22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0} {
			if _, err := c.Write([]byte{b}); err != nil {
				return
			}
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			}
		}
	},
	"garbage": func(_ context.Context, c net.Conn) {
		b := make([]byte, 4096)
		for i := range b {
			b[i] = byte(rand.Uint32())
		}
		_, _ = c.Write(b)
		_, _ = c.Read(b)
	},
	"http": func(_ context.Context, c net.Conn) {
		_, _ = io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		_, _ = io.Copy(io.Discard, c)
	},
	"joins that never end": func(ctx context.Context, c net.Conn) {
		cfg := base([]string{ProtoJoin})
		cfg.InsecureSkipVerify = true
		t := tls.Client(c, cfg)
		if t.HandshakeContext(ctx) == nil {
			hold(ctx, t)
		}
	},
	"raft without a certificate": func(ctx context.Context, c net.Conn) {
		cfg := base([]string{ProtoRaft})
		cfg.InsecureSkipVerify = true
		t := tls.Client(c, cfg)
		if t.HandshakeContext(ctx) == nil {
			hold(ctx, t)
		}
	},
}

// Two thousand sources, 200 connections at a time, try to keep members out. A member that was here before must get
// through always, and so must one that the ledger knows but nobody has seen.
func TestFloodsLeaveMembersServed(t *testing.T) {
	for name, attack := range attacks {
		t.Run(name, func(t *testing.T) {
			ca := newCA(t, "alpha")
			expected := func(a netip.Addr) bool { return a == netip.MustParseAddr("127.0.0.3") }
			a, b := member(t, ca, Options{Member: expected}), member(t, ca, Options{})
			m := runMux(t, a, nil)
			go echoing(m, ProtoPeer)
			go echoing(m, ProtoJoin)
			if err := askFrom(t.Context(), b, "127.0.0.2", m.ln.Addr()); err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(t.Context())
			var begun atomic.Int64
			var wg sync.WaitGroup
			for i := range 200 {
				wg.Go(func() {
					for n := 0; ctx.Err() == nil; n++ {
						source := fmt.Sprintf("127.%d.%d.1", 10+n%10, i+1)
						if c, err := dialFrom(ctx, source, m.ln.Addr()); err == nil {
							begun.Add(1)
							attack(ctx, c)
							_ = c.Close()
						}
					}
				})
			}
			for begun.Load() < 200 {
				if err := askFrom(t.Context(), b, "127.0.0.2", m.ln.Addr()); err != nil {
					t.Errorf("a member while the flood rises: %v", err)
				}
			}
			var slowest time.Duration
			for range 5 {
				began := time.Now()
				if err := askFrom(t.Context(), b, "127.0.0.2", m.ln.Addr()); err != nil {
					t.Errorf("a member: %v", err)
				}
				slowest = max(slowest, time.Since(began))
			}
			if err := askFrom(t.Context(), b, "127.0.0.3", m.ln.Addr()); err != nil {
				t.Errorf("a member at an address that only the ledger knows: %v", err)
			}
			m.door.mu.Lock()
			places := m.door.strangers.order.Len() + m.door.joining.order.Len()
			m.door.mu.Unlock()
			if places > maxStrangers+maxJoining {
				t.Errorf("strangers hold %d places", places)
			}
			cancel()
			wg.Wait()
			t.Logf("%d connections of strangers; a member's slowest exchange took %s", begun.Load(), slowest.Round(time.Millisecond))
		})
	}
}
