package node

import (
	"context"
	"fmt"
	"net/netip"
	"runtime/debug"
	"runtime/pprof"
	"strings"
	"syscall"
	"testing"
	"time"

	"offshoot/swarm"
)

// What a measured swarm does: nobody comes or goes, and machines renew their leases.
const (
	scaleSegments = 10
	scaleRenewals = 20 // per second, in the whole swarm
	scaleTime     = 30 * time.Second
	scaleSettle   = 20 * time.Second // news of the beginning, after all are there
)

// BenchmarkLeaderOfASwarm is what the leader of a quiet swarm does, in real time: processor, bytes and calls per second. It
// compares larger swarms with one of 100, so the layout is the same: ten segments, of which each has its holder and a
// stand-by in raft. A leader that holds a duty as well feeds the followers of its segment.
//
// All nodes are in one process, so the leader's goroutines wear a label, by which a profile tells them from the others'. The
// collector has no label: its work is in process-ms/s only. Network and disks are in memory; a call counts with the bytes of
// its content, without HTTP and TLS. 1,000 nodes are more than two processors can carry: they come to an end, but late, and nodes
// are taken for dead.
func BenchmarkLeaderOfASwarm(b *testing.B) {
	for _, duty := range []bool{false, true} {
		for _, nodes := range []int{100, 400, scaleNodes} {
			b.Run(fmt.Sprintf("duty=%v/nodes=%d", duty, nodes), func(b *testing.B) {
				for b.Loop() {
					measureLeader(b, nodes, duty)
				}
			})
		}
	}
}

func measureLeader(b *testing.B, nodes int, duty bool) {
	defer debug.SetGCPercent(debug.SetGCPercent(leastPercent)) // as of a node with much in it (heap.go)
	w := newScaleSwarm(b, nodes)
	defer w.end()
	w.begin(duty)
	w.settle(scaleSettle)
	stop := w.renewals(b.Context())
	defer stop()
	w.wait(2 * time.Second)
	leader := w.leader()
	if leader == nil {
		b.Fatal("nobody leads")
	}
	sent, began, cpu := leader.traffic.read(), time.Now(), processTime(b)
	own, total := w.profile(leader.name, func() { w.wait(scaleTime) })
	took := time.Since(began).Seconds()
	now := leader.traffic.read()
	b.ReportMetric(own.Seconds()*1e3/took, "leader-ms/s")
	b.ReportMetric((processTime(b)-cpu).Seconds()*1e3/took, "process-ms/s")
	bytes := 0.0
	for kind, name := range kinds {
		if kind == calling {
			b.ReportMetric(float64(now.count[kind]-sent.count[kind])/took, "calls/s")
		}
		bytes += float64(now.bytes[kind] - sent.bytes[kind])
		b.Logf("%d nodes, leader's %s: %.1f KB/s, %.1f/s", nodes, name, float64(now.bytes[kind]-sent.bytes[kind])/took/1e3, float64(now.count[kind]-sent.count[kind])/took)
	}
	b.ReportMetric(bytes/took/1e3, "KB/s")
	b.Logf("%d nodes: %s of %s in the profile is the leader's", nodes, own, total)
	stop()
	w.check(leader, duty)
}

// processTime is the processor time that this process has used.
func processTime(b *testing.B) time.Duration {
	b.Helper()
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		b.Fatal(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// profile runs something and returns the processor time of the goroutines that wear a node's label, and of all.
func (w *scaleSwarm) profile(node string, run func()) (own, total time.Duration) {
	w.tb.Helper()
	var out strings.Builder
	if err := pprof.StartCPUProfile(&out); err != nil {
		w.tb.Fatal(err)
	}
	run()
	pprof.StopCPUProfile()
	p, err := readProfile(strings.NewReader(out.String()))
	if err != nil {
		w.tb.Fatal(err)
	}
	return p.labelled(nodeLabel, node), p.total()
}

// found writes the whole swarm down, before any but the first node is there.
func (w *scaleSwarm) found() {
	first := w.nodes[0]
	w.decide(first.id, swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed", Voters: 3, Profile: "p", Range: netip.MustParsePrefix("10.42.0.0/16"), GossipKeys: []string{w.key.Encode()}, KeyGeneration: 1},
		Node:     swarm.Node{ID: first.id, Name: first.name, Address: first.host.Address(simPeer), Ports: first.ports[:1], Protocol: swarm.Protocol, Warm: true},
		Network:  netip.MustParsePrefix("192.168.42.0/24"), Profile: &swarm.Profile{Name: "p", Driver: "image"},
	})
	for i, n := range w.nodes[1:] {
		mac, ticket := n.ports[0].MAC, fmt.Sprintf("t%d", i)
		w.decide(first.id, swarm.ArmMachine{MAC: mac})
		w.decide(first.id, swarm.MintTicket{ID: ticket, Hash: "h", MAC: mac, Segment: n.ports[0].Segment, Addr: n.ports[0].Address.Addr(), Expires: time.Now().Add(time.Hour)})
		w.decide(first.id, swarm.RedeemTicket{ID: ticket, Hash: "h", Key: "k", MACs: []swarm.MAC{mac}, Node: n.id, Address: n.host.Address(simPeer)})
		w.decide(n.id, swarm.ReportNode{Address: n.host.Address(simPeer), Version: "bench", Ports: n.ports, Warm: true, Protocol: swarm.Protocol})
		if len(n.ports) > 1 {
			w.decide(n.id, swarm.OpenSegment{Port: n.ports[1].MAC})
		}
	}
}

// ports are those of the i-th node. The first ten open a segment each; all others are on these segments in turns.
func scalePorts(i int) []swarm.Port {
	home := swarm.Port{Name: "eth0", MAC: scaleMAC(i), Link: true, Segment: "s1"}
	switch {
	case i == 0:
		home.Address = netip.MustParsePrefix("192.168.42.1/24")
		return []swarm.Port{home}
	case i < scaleSegments:
		home.Address = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 42, byte(i + 1)}), 24)
		return []swarm.Port{home, {Name: "eth1", MAC: scaleMAC(1<<16 + i), Link: true}}
	case i%scaleSegments == 0:
		home.Address = netip.PrefixFrom(netip.AddrFrom4([4]byte{192, 168, 42, byte(100 + i/scaleSegments)}), 24)
	default:
		home.Segment = fmt.Sprintf("s%d", i%scaleSegments+1)
		home.Address = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(i%scaleSegments - 1), byte(100 + i/scaleSegments)}), 24)
	}
	return []swarm.Port{home}
}

// renewals lets the machines of all segments renew in turns, each at the holder of its segment, until stop.
func (w *scaleSwarm) renewals(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(time.Second / scaleRenewals)
		defer tick.Stop()
		for i := 0; ; i++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				w.all.Go(func() { w.renew(ctx, i) })
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// renew has the i-th machine renew its lease.
func (w *scaleSwarm) renew(ctx context.Context, i int) {
	segment, ok := w.view().Segment(fmt.Sprintf("s%d", i%scaleSegments+1))
	holder := w.byID[segment.Duty.Holder]
	if !ok || holder == nil || holder.core == nil {
		w.tb.Errorf("segment %s is held by %q, which could not serve it", segment.ID, segment.Duty.Holder)
		return
	}
	holder.wear()
	machine := i / scaleSegments % 40
	base := segment.Network.Addr().As4()
	_, err := holder.core.replica.propose(ctx, swarm.BindLeases{Segment: segment.ID, Term: segment.Duty.Term, Leases: []swarm.Lease{{
		Segment: segment.ID, MAC: scaleMAC(1<<17 + i%scaleSegments<<8 + machine), Class: "os", Expires: time.Now().Add(time.Hour),
		Addr: netip.AddrFrom4([4]byte{base[0], base[1], base[2], byte(210 + machine)}),
	}}})
	if err != nil && ctx.Err() == nil {
		w.tb.Errorf("renew a lease on %s: %v", segment.ID, err)
	}
}

// check says whether the swarm was what it should be until now.
func (w *scaleSwarm) check(leader *scaleNode, duty bool) {
	w.tb.Helper()
	if !leader.ledger.IsLeader() {
		w.tb.Error("somebody else leads now")
	}
	if text := w.membersMissing(scaleWhole); text != "" {
		w.tb.Error(text)
	}
	if got := w.alive(leader); got != len(w.nodes) {
		w.tb.Errorf("the leader sees %d of %d nodes", got, len(w.nodes))
	}
	holds := false
	for _, s := range leader.segments() {
		holds = holds || s.Duty.Holder == leader.id
	}
	if holds != duty {
		w.tb.Errorf("the leader holds a duty: %v, want %v", holds, duty)
	}
	decided := leader.ledger.Applied()
	w.until("everyone has seen what was decided", func() string {
		for _, n := range w.nodes {
			if at := n.ledger.Applied(); at < decided {
				return fmt.Sprintf("%s has applied %d of %d", n.name, at, decided)
			}
		}
		return ""
	})
}
