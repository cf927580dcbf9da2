package swarm

import (
	"bytes"
	"fmt"
	"net/netip"
	"syscall"
	"testing"
	"time"
)

// crowd is a swarm with that many machines and leases, 240 on a segment.
func crowd(tb testing.TB, count int) *State {
	tb.Helper()
	s := NewState()
	n := 0
	apply := func(op Op) {
		tb.Helper()
		n++
		if err := s.Apply(Command{ID: fmt.Sprint("crowd", n), Time: day, By: seedID, Op: op}).Err(); err != nil {
			tb.Fatal(err)
		}
	}
	var ports []Port
	segments := (count + 239) / 240
	for i := range segments {
		ports = append(ports, Port{Name: fmt.Sprint("lan", i), MAC: MAC(fmt.Sprintf("02:00:00:01:%02x:%02x", i>>8, i&255)), Link: true})
	}
	apply(Found{
		Settings: Settings{Swarm: "abc", Range: netip.MustParsePrefix("10.0.0.0/8"), Voters: 5, Profile: "p"},
		Node:     Node{ID: seedID, Name: "seed", Ports: ports, Warm: true},
		Network:  netip.MustParsePrefix("192.168.42.0/24"),
		Profile:  &Profile{Name: "p"},
	})
	for _, p := range ports[1:] {
		apply(OpenSegment{Port: p.MAC})
	}
	for i, seg := range s.View().Segments() {
		var leases []Lease
		for j := 0; j < 240 && i*240+j < count; j++ {
			leases = append(leases, lease240(seg, i, j, day))
		}
		apply(BindLeases{Segment: seg.ID, Term: seg.Duty.Term, Leases: leases})
	}
	return s
}

func lease240(s Segment, i, j int, now time.Time) Lease {
	return Lease{
		Segment: s.ID, Addr: offset(s.Network, uint32(10+j)), MAC: MAC(fmt.Sprintf("52:54:%02x:%02x:00:%02x", i>>8, i&255, j)), Class: "os",
		Nonce: fmt.Sprintf("nonce-of-%06d-%06d", i, j), Hostname: fmt.Sprintf("host-%d-%d", i, j), Expires: now.Add(time.Hour),
	}
}

// cpu is what this process has used: the figures are looked at on machines that have other work.
func cpu(tb testing.TB) time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// BenchmarkBindLeases renews 100 leases with one command, as a busy holder does, decoding included.
func BenchmarkBindLeases(b *testing.B) {
	s := crowd(b, 100_000)
	segments := s.View().Segments()
	for _, kind := range []string{"renewal", "new"} {
		b.Run(kind, func(b *testing.B) {
			var wires [][]byte
			for k := range b.N {
				i := k % (len(segments) - 1)
				seg := segments[i]
				o := BindLeases{Segment: seg.ID, Term: seg.Duty.Term}
				for j := range 100 {
					l := lease240(seg, i, j, day.Add(time.Duration(k)*time.Second))
					if kind == "new" { // other machines, once all leases are over
						l.MAC = MAC(fmt.Sprintf("52:55:%02x:%02x:%02x:%02x", k>>16, k>>8&255, k&255, j))
						l.Nonce = fmt.Sprintf("nonce-of-%06d+%06d", k, j)
						l.Expires = l.Expires.Add(100000 * time.Hour)
					}
					o.Leases = append(o.Leases, l)
				}
				at := day.Add(time.Duration(k) * time.Second)
				if kind == "new" {
					at = at.Add(100000*time.Hour + time.Duration(k)*2*time.Hour)
				}
				wire, err := Command{ID: fmt.Sprint(kind, b.N, "-", k), Time: at, By: seedID, Op: o}.Encode()
				if err != nil {
					b.Fatal(err)
				}
				wires = append(wires, wire)
			}
			refused := 0
			b.ReportAllocs()
			before := cpu(b)
			b.ResetTimer()
			for _, wire := range wires {
				c, err := DecodeCommand(wire)
				if err != nil {
					b.Fatal(err)
				}
				r := s.Apply(c)
				if r.Err() != nil {
					b.Fatal(r.Err())
				}
				if !bytes.Equal(r.Value[:3], []byte(`["`+`"`)) {
					refused++
				}
			}
			b.ReportMetric(float64((cpu(b)-before).Microseconds())/float64(b.N)/100, "cpu-µs/lease")
			if refused > 0 {
				b.Fatalf("%d refused", refused)
			}
		})
	}
}

func BenchmarkSnapshot(b *testing.B) {
	s := crowd(b, 100_000)
	var size bytes.Buffer
	if err := s.Snapshot()(&size); err != nil {
		b.Fatal(err)
	}
	b.Run("write", func(b *testing.B) {
		for b.Loop() {
			var out bytes.Buffer
			if err := s.Snapshot()(&out); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(size.Len())/1e6, "MB")
	})
	b.Run("restore", func(b *testing.B) {
		b.ReportAllocs()
		before, count := cpu(b), 0
		for b.Loop() {
			if err := NewState().Restore(bytes.NewReader(size.Bytes())); err != nil {
				b.Fatal(err)
			}
			count++
		}
		b.ReportMetric(float64((cpu(b)-before).Milliseconds())/float64(count), "cpu-ms/op")
	})
}

func BenchmarkView(b *testing.B) {
	s := crowd(b, 100_000)
	v := s.View()
	segment := v.Segments()[7]
	l := lease240(segment, 7, 3, day)
	b.Run("take", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			_ = s.View()
		}
	})
	b.Run("lease", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, ok := s.View().Lease(segment.ID, l.Addr); !ok {
				b.Fatal("gone")
			}
		}
	})
	b.Run("count of a segment", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			count := 0
			for range v.LeasesOn(segment.ID) {
				count++
			}
			if count != 240 {
				b.Fatal(count)
			}
		}
	})
}
