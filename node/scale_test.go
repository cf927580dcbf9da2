package node

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"offshoot/swarm"
)

// The size of a datacentre, for the benchmarks: `make bench-lease` prints them beside their limits.
const (
	scaleNodes    = 1000
	scaleMachines = 10_000
	scaleLeases   = 100_000
)

// datacentre fills a state through its own commands.
func datacentre(tb testing.TB, apply func(swarm.Op)) {
	tb.Helper()
	port := func(i int, segment string) swarm.Port {
		return swarm.Port{
			Name: "eth0", MAC: scaleMAC(i), Link: true, Segment: segment,
			Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 64, byte(i >> 8), byte(i)}), 10),
		}
	}
	apply(swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed", Voters: 3, Profile: "p", Range: netip.MustParsePrefix("10.128.0.0/16")},
		Node:     swarm.Node{ID: seedID, Name: "first", Address: "10.64.0.0:7400", Ports: []swarm.Port{port(0, "s1")}},
		Network:  netip.MustParsePrefix("10.64.0.0/10"), Profile: &swarm.Profile{Name: "p", Driver: "image"},
	})
	for i := 1; i < scaleNodes; i++ {
		mac := scaleMAC(i)
		ticket := fmt.Sprintf("t%d", i)
		apply(swarm.ArmMachine{MAC: mac})
		apply(swarm.MintTicket{ID: ticket, Hash: "h", MAC: mac, Segment: "s1", Addr: port(i, "s1").Address.Addr(), Expires: time.Now().Add(time.Hour)})
		apply(swarm.RedeemTicket{
			ID: ticket, Hash: "h", Key: "k", MACs: []swarm.MAC{mac}, Node: swarm.NodeID(fmt.Sprintf("%016x", i)),
			Address: netip.AddrPortFrom(port(i, "s1").Address.Addr(), PeerPort).String(),
		})
	}
	for i := scaleNodes; i < scaleMachines; i++ {
		apply(swarm.NameMachine{MAC: scaleMAC(i), Name: fmt.Sprintf("machine-%d", i)})
	}
}

func scaleMAC(i int) swarm.MAC {
	return swarm.MAC(fmt.Sprintf("02:00:00:%02x:%02x:%02x", byte(i>>16), byte(i>>8), byte(i)))
}

// bind gives the first machines, and many that nobody knows, an address each.
func bind(apply func(swarm.Op)) {
	var batch []swarm.Lease
	for i := range scaleLeases {
		at := i + 1<<16
		batch = append(batch, swarm.Lease{
			Segment: "s1", MAC: scaleMAC(at), Addr: netip.AddrFrom4([4]byte{10, 64 + byte(at>>16), byte(at >> 8), byte(at)}), Class: "os",
			Expires: time.Now().Add(time.Hour),
		})
		if len(batch) == batchMost || i == scaleLeases-1 {
			apply(swarm.BindLeases{Segment: "s1", Term: 1, Leases: batch})
			batch = nil
		}
	}
}

// BenchmarkStatusOfADatacentre is one `offshoot swarm status` with 1,000 nodes and 10,000 machines, without printing it.
func BenchmarkStatusOfADatacentre(b *testing.B) {
	l := founded(b)
	state := swarm.NewState()
	at := time.Now()
	datacentre(b, func(op swarm.Op) {
		if err := state.Apply(swarm.Command{ID: swarm.NewID(), Time: at, By: seedID, Op: op}).Err(); err != nil {
			b.Fatalf("%T: %v", op, err)
		}
	})
	l.state = state
	p := &picture{replica: l.replica, version: "bench", sees: func(swarm.NodeID) sight { return seen }}
	b.ReportAllocs()
	for b.Loop() {
		if s := p.Status(context.Background()); len(s.Nodes) != scaleNodes || len(s.Machines) < scaleMachines-1 {
			b.Fatalf("%d nodes, %d machines", len(s.Nodes), len(s.Machines))
		}
	}
	b.StopTimer()
	b.ReportMetric(residentMB(b), "MB-resident") // garbage and the test itself included
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	b.ReportMetric(float64(m.HeapInuse)/1e6, "MB-heap")
}

// residentMB is the memory of this process.
func residentMB(b *testing.B) float64 {
	b.Helper()
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		b.Fatal(err)
	}
	var size, resident int
	if _, err := fmt.Sscan(string(data), &size, &resident); err != nil {
		b.Fatal(err)
	}
	return float64(resident*os.Getpagesize()) / 1e6
}

// BenchmarkRestartWithManyLeases is the time from opening the ledger to its first new decision, with 100,000 leases in it.
func BenchmarkRestartWithManyLeases(b *testing.B) {
	dir := b.TempDir()
	first := foundedIn(b, dir)
	network := netip.MustParsePrefix("10.64.0.0/10")
	first.must(swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed", Voters: 3, Profile: "p", Range: netip.MustParsePrefix("10.128.0.0/16")},
		Node:     swarm.Node{ID: seedID, Name: "first", Address: "10.64.0.1:7400", Ports: []swarm.Port{{Name: "eth0", MAC: mac1, Link: true, Address: netip.PrefixFrom(network.Addr().Next(), 10)}}},
		Network:  network,
	})
	bind(first.must)
	first.end()
	for b.Loop() {
		again := resumedIn(b, dir)
		again.must(swarm.Note{Kind: "bench", Text: "a first decision"})
		b.StopTimer()
		if _, ok := again.state.View().LeaseOf("s1", scaleMAC(scaleLeases/2+1<<16)); !ok {
			b.Fatal("a lease is gone")
		}
		again.end()
		b.StartTimer()
	}
}
