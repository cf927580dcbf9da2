package swarmtest

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/hashicorp/raft"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world runs a story on two hosts in a bubble.
func world(t *testing.T, story func(t *testing.T, n *Network, a, b *Host)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		defer n.Close()
		story(t, n, n.Host("a"), n.Host("b"))
	})
}

// stream opens one from a to b.
func stream(t *testing.T, a, b *Host) (from, to net.Conn) {
	t.Helper()
	l, err := b.Listen(7400)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = l.Close() })
	if from, err = a.Dial(t.Context(), b.Address(7400)); err != nil {
		t.Fatal(err)
	}
	if to, err = l.Accept(); err != nil {
		t.Fatal(err)
	}
	return from, to
}

func after(d time.Duration, do func()) { time.AfterFunc(d, do) }

// let time pass.
func let(d time.Duration) { _ = pass(context.Background(), nil, d) }

func say(t *testing.T, c net.Conn, what string) {
	t.Helper()
	if _, err := c.Write([]byte(what)); err != nil {
		t.Fatalf("write %q: %v", what, err)
	}
}

func hear(t *testing.T, c net.Conn, what string) {
	t.Helper()
	b := make([]byte, len(what))
	if _, err := io.ReadFull(c, b); err != nil || string(b) != what {
		t.Fatalf("read %q, %v; want %q", b, err, what)
	}
}

func TestStreamCarriesInOrderAndEnds(t *testing.T) {
	world(t, func(t *testing.T, n *Network, a, b *Host) {
		n.SetWeather(Weather{Delay: time.Millisecond, Jitter: 50 * time.Millisecond, Loss: 1, Duplicate: 1})
		from, to := stream(t, a, b)
		for range 50 {
			say(t, from, "0123456789")
		}
		if err := from.Close(); err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(to)
		if err != nil || string(got) != strings.Repeat("0123456789", 50) {
			t.Errorf("got %q, %v", got, err)
		}
		if _, err := from.Write([]byte("x")); !errors.Is(err, net.ErrClosed) {
			t.Errorf("write after close: %v", err)
		}
		if _, err := to.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("write to whom has closed: %v", err)
		}
	})
}

func TestDeadlineEndsReadAndWrite(t *testing.T) {
	world(t, func(t *testing.T, _ *Network, a, b *Host) {
		from, to := stream(t, a, b)
		start := time.Now()
		_ = to.SetReadDeadline(start.Add(time.Second))
		if _, err := to.Read(make([]byte, 1)); !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("read: %v after %v", err, time.Since(start))
		}
		_ = from.SetWriteDeadline(time.Now().Add(time.Second))
		k, err := from.Write(make([]byte, window+1))
		if k != window || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("write: %d, %v", k, err)
		}
	})
}

func TestCutStallsStreamsUntilHealed(t *testing.T) {
	world(t, func(t *testing.T, n *Network, a, b *Host) {
		from, to := stream(t, a, b)
		n.Cut([]string{"a"}, []string{"b"})
		say(t, from, "late")
		say(t, to, "back") // the other direction is open
		hear(t, from, "back")
		start := time.Now()
		after(5*time.Second, n.Heal)
		hear(t, to, "late")
		if got := time.Since(start); got < 4*time.Second {
			t.Errorf("heard after %v through a cut", got)
		}
		n.Partition("b")
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Dial(short, b.Address(7400)); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("dial through a cut: %v", err)
		}
	})
}

func TestPausedHostNeitherReadsNorWrites(t *testing.T) {
	world(t, func(t *testing.T, _ *Network, a, b *Host) {
		from, to := stream(t, a, b)
		start := time.Now()
		b.Pause()
		after(5*time.Second, b.Resume)
		say(t, from, "to b")
		say(t, to, "from b")
		_ = to.SetReadDeadline(start.Add(time.Second)) // b's timers wait
		hear(t, to, "to b")
		if got := time.Since(start); got != 5*time.Second {
			t.Errorf("paused host read after %v", got)
		}
		hear(t, from, "from b")
		if got := time.Since(start); got <= 5*time.Second {
			t.Errorf("paused host was heard after %v", got)
		}
	})
}

func TestCrashEndsALife(t *testing.T) {
	for seed := range uint64(8) {
		synctest.Test(t, func(t *testing.T) {
			n := NewNetwork(seed)
			defer n.Close()
			a, b := n.Host("a"), n.Host("b")
			from, to := stream(t, a, b)
			b.Crash()
			if _, err := to.Read(make([]byte, 1)); !errors.Is(err, ErrCrashed) {
				t.Errorf("read of the crashed host: %v", err)
			}
			if _, err := b.Dial(t.Context(), a.Address(1)); !errors.Is(err, ErrCrashed) {
				t.Errorf("dial of the crashed host: %v", err)
			}
			if _, err := a.Dial(t.Context(), b.Address(7400)); !errors.Is(err, syscall.EHOSTUNREACH) {
				t.Errorf("dial to a crashed host: %v", err)
			}
			_ = from.SetReadDeadline(time.Now().Add(time.Second))
			_, err := from.Read(make([]byte, 1))
			if !errors.Is(err, os.ErrDeadlineExceeded) && !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("read from a crashed host: %v", err)
			}
			b.Restart()
			if _, err := from.Write([]byte("x")); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("write to a host that knows nothing of it: %v", err)
			}
			if _, err := a.Dial(t.Context(), "b:7400"); !errors.Is(err, syscall.ECONNREFUSED) {
				t.Errorf("dial to a port that nobody listens on any more: %v", err)
			}
		})
	}
}

func TestCallTravelsThereAndBack(t *testing.T) {
	world(t, func(t *testing.T, n *Network, a, b *Host) {
		calls := 0
		err := b.Handle(9, func(_ context.Context, from netip.Addr, request any) (any, error) {
			calls++
			if from != a.Addr() {
				t.Errorf("call from %v", from)
			}
			return request.(int) + 1, nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := a.Call(t.Context(), b.Address(9), 1); got != 2 || err != nil {
			t.Errorf("answer %v, %v", got, err)
		}
		n.Cut([]string{"b"}, []string{"a"}) // the request arrives, the answer does not
		short, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.Call(short, b.Address(9), 1); !errors.Is(err, context.DeadlineExceeded) || calls != 2 {
			t.Errorf("%d calls, %v", calls, err)
		}
		n.Heal()
		if _, err := a.Call(t.Context(), b.Address(10), 1); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("call to nobody: %v", err)
		}
		b.Crash()
		start := time.Now()
		if _, err := a.Call(t.Context(), b.Address(9), 1); !errors.Is(err, syscall.EHOSTUNREACH) || time.Since(start) > 4*time.Second {
			t.Errorf("call to a crashed host: %v after %v", err, time.Since(start))
		}
	})
}

func TestDatagramsAreLostDoubledAndHeldBack(t *testing.T) {
	world(t, func(t *testing.T, n *Network, a, b *Host) {
		ga, err := a.Gossip(7401)
		if err != nil {
			t.Fatal(err)
		}
		gb, err := b.Gossip(7401)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _, _ = ga.Shutdown(), gb.Shutdown() }()
		count := func(sent int) (got int) {
			for range sent {
				if _, err := ga.WriteToAddress([]byte("x"), memberlist.Address{Addr: b.Address(7401)}); err != nil {
					t.Fatal(err)
				}
			}
			let(time.Second)
			for {
				select {
				case <-gb.PacketCh():
					got++
				default:
					return got
				}
			}
		}
		if got := count(100); got != 100 {
			t.Errorf("%d of 100 arrive in fair weather", got)
		}
		n.SetWeather(Weather{Delay: time.Millisecond, Loss: 0.5})
		if got := count(200); got < 60 || got > 140 {
			t.Errorf("%d of 200 arrive with half lost", got)
		}
		n.SetWeather(Weather{Delay: time.Millisecond, Duplicate: 1})
		if got := count(10); got != 20 {
			t.Errorf("%d of 10 arrive, all doubled", got)
		}
		n.SetWeather(Fair)
		a.Pause()
		if got := count(10); got != 0 {
			t.Errorf("%d of 10 arrive from a paused host", got)
		}
		a.Resume()
		b.Pause()
		if got := count(10); got != 0 {
			t.Errorf("%d of 10 arrive at a paused host", got)
		}
		b.Resume()
		if got := count(0); got != 10 {
			t.Errorf("%d of 10 arrive after the pause", got)
		}
	})
}

func TestDiskKeepsWhatWasSynced(t *testing.T) {
	kept := 0
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			n := NewNetwork(seed)
			defer n.Close()
			a := n.Host("a")
			logs := a.Disk().Logs()
			if err := logs.StoreLog(&raft.Log{Index: 1}); err != nil {
				t.Fatal(err)
			}
			a.Disk().SetSyncDelay(time.Second)
			done := make(chan error)
			go func() { done <- logs.StoreLog(&raft.Log{Index: 2}) }()
			let(500 * time.Millisecond)
			a.Crash()
			if err := <-done; err != nil {
				t.Errorf("a node that is torn down sees %v", err)
			}
			if err := logs.StoreLog(&raft.Log{Index: 3}); err != nil {
				t.Errorf("a node that is torn down sees %v", err)
			}
			a.Restart()
			a.Disk().SetSyncDelay(0)
			last, err := a.Disk().Logs().LastIndex()
			if err != nil || last < 1 || last > 2 {
				t.Errorf("last entry %d, %v", last, err)
			}
			kept += int(last) - 1
			a.Disk().SetFull(true)
			if err := a.Disk().Logs().StoreLog(&raft.Log{Index: 3}); !errors.Is(err, syscall.ENOSPC) {
				t.Errorf("write on a full disk: %v", err)
			}
			a.Crash()
			a.Disk().Wipe()
			a.Restart()
			if last, _ := a.Disk().Logs().LastIndex(); last != 0 {
				t.Errorf("entry %d on a wiped disk", last)
			}
		})
	}
	if kept == 0 || kept == 20 {
		t.Errorf("%d of 20 unfinished writes are kept: the seed should choose", kept)
	}
}

func TestLogOnDiskIsOneRange(t *testing.T) {
	world(t, func(t *testing.T, _ *Network, a, _ *Host) {
		logs := a.Disk().Logs()
		check := func(first, last uint64) {
			t.Helper()
			f, errFirst := logs.FirstIndex()
			l, errLast := logs.LastIndex()
			if f != first || l != last || errFirst != nil || errLast != nil {
				t.Errorf("log is %d to %d, %v, %v; want %d to %d", f, l, errFirst, errLast, first, last)
			}
		}
		remove := func(from, to uint64) {
			t.Helper()
			if err := logs.DeleteRange(from, to); err != nil {
				t.Error(err)
			}
		}
		remove(0, 90) // raft does so on an empty log
		check(0, 0)
		for i := uint64(91); i <= 100; i++ {
			if err := logs.StoreLog(&raft.Log{Index: i}); err != nil {
				t.Fatal(err)
			}
		}
		remove(1, 90)
		check(91, 100)
		remove(99, 120)
		check(91, 98)
		remove(1, 92)
		check(93, 98)
		remove(0, 200)
		check(0, 0)
	})
}

func TestSegmentReachesWhomItShould(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := NewNetwork(1)
		defer n.Close()
		var frames []Frame
		s := n.Segment("lan", func(f Frame) { frames = append(frames, f) })
		server := netip.MustParseAddr("192.168.42.1")
		a := s.Join(n.Host("a"), "02:00:00:00:00:0a", server, 67)
		b := s.Join(n.Host("b"), "02:00:00:00:00:0b", netip.Addr{}, 67)
		client := s.Join(nil, "02:00:00:00:00:01", netip.Addr{}, 68)
		receive := func(p *Port, want string, wantUnicast bool) {
			t.Helper()
			buf := make([]byte, 100)
			k, unicast, err := p.Receive(buf)
			if err != nil || string(buf[:k]) != want || unicast != wantUnicast {
				t.Errorf("received %q, unicast %v, %v", buf[:k], unicast, err)
			}
		}
		send := func(p *Port, what string, to Target) {
			t.Helper()
			if err := p.Send([]byte(what), to); err != nil {
				t.Fatal(err)
			}
		}
		send(client, "all", Target{Port: 67})
		receive(a, "all", false)
		receive(b, "all", false)
		send(client, "one", Target{Addr: server, Port: 67})
		receive(a, "one", true)
		send(a, "answer", Target{MAC: "02:00:00:00:00:01", Port: 68})
		receive(client, "answer", true)

		n.Host("a").Pause()
		send(a, "never", Target{Port: 68})
		send(client, "later", Target{Port: 67})
		receive(b, "later", false)
		start := time.Now()
		after(time.Second, n.Host("a").Resume)
		receive(a, "later", false)
		if time.Since(start) != time.Second {
			t.Errorf("paused host received after %v", time.Since(start))
		}
		if len(frames) != 4 || frames[2].Host != "a" {
			t.Errorf("frames: %v", frames)
		}
		n.Host("b").Crash()
		if _, _, err := b.Receive(nil); !errors.Is(err, ErrCrashed) {
			t.Errorf("receive of a crashed host: %v", err)
		}
		if err := a.Close(); err != nil {
			t.Error(err)
		}
		if _, _, err := a.Receive(nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("receive after close: %v", err)
		}
	})
}

func TestClocksRunAtTheirOwnRate(t *testing.T) {
	world(t, func(t *testing.T, _ *Network, a, _ *Host) {
		start, clock := a.Wall(), a.Clock()
		a.SetRate(1.05)
		let(100 * time.Second)
		a.SetRate(0.95)
		let(100 * time.Second)
		a.JumpWall(-time.Hour)
		if got := clock().Round(time.Millisecond); got != 200*time.Second {
			t.Errorf("monotonic clock shows %v", got)
		}
		if got := a.Wall().Sub(start).Round(time.Millisecond); got != 200*time.Second-time.Hour {
			t.Errorf("wall clock went on by %v", got)
		}
	})
}

func TestScheduleIsChosenByItsSeedAndEndsInOrder(t *testing.T) {
	p := Plan{Hosts: []string{"a", "b", "c", "d", "e"}, Length: time.Minute, MaxWiped: 1}
	kinds := map[Kind]int{}
	for seed := range uint64(200) {
		s := Schedule(seed, p)
		if !slices.EqualFunc(s, Schedule(seed, p), func(a, b Fault) bool { return a.String() == b.String() }) {
			t.Fatalf("seed %d gives two schedules", seed)
		}
		down, paused, cut, bad := map[string]bool{}, map[string]bool{}, false, map[string]bool{}
		wiped := 0
		for i, f := range s {
			kinds[f.Kind]++
			if f.At > p.Length || i > 0 && f.At < s[i-1].At {
				t.Errorf("seed %d: out of order: %v", seed, f)
			}
			switch f.Kind {
			case KindCrash, KindPause:
				if down[f.Host] || paused[f.Host] {
					t.Errorf("seed %d: %v, but it was down", seed, f)
				}
				down[f.Host], paused[f.Host] = f.Kind == KindCrash, f.Kind == KindPause
			case KindRestart, KindWipe, KindResume:
				if f.Kind == KindWipe {
					wiped++
				}
				down[f.Host], paused[f.Host] = false, false
			case KindCut, KindHeal:
				cut = f.Kind == KindCut
			case KindFull, KindRoom, KindSync:
				bad[f.Host] = f.Kind == KindFull || f.Delay > 0
			}
		}
		for _, m := range []map[string]bool{down, paused, bad} {
			for h, still := range m {
				if still {
					t.Errorf("seed %d: %s is not well at the end", seed, h)
				}
			}
		}
		if cut || wiped > 1 {
			t.Errorf("seed %d: cut at the end: %v, wiped %d", seed, cut, wiped)
		}
	}
	for _, k := range allKinds {
		if kinds[k] == 0 {
			t.Errorf("no %s in 200 schedules", k)
		}
	}
}
