package node

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/swarmtest"
)

var (
	seeds  = swarmtest.Flags("./node")
	simLog = flag.Bool("sim.log", false, "show what the nodes logged in a schedule that failed")
)

// usualSchedules is what the fast tests can afford; `make sim-tier` asks for more, `make soak` goes on for hours.
const usualSchedules = 6

// TestSwarmKeepsItsGuaranteesUnderFaults runs whole nodes under random schedules of faults, and judges G1, G2, G3, G6, G9
// and G10 as it goes. A seed replays the schedule; raft's own randomness it does not.
func TestSwarmKeepsItsGuaranteesUnderFaults(t *testing.T) {
	var total simTotals
	seeds.Run(t, usualSchedules, func(t *testing.T, seed uint64) {
		var log bytes.Buffer
		var handler slog.Handler = slog.DiscardHandler
		if *simLog {
			handler = slog.NewTextHandler(&lockedWriter{w: &log}, &slog.HandlerOptions{Level: slog.LevelDebug})
			defer func() {
				if t.Failed() {
					_, _ = os.Stderr.Write(log.Bytes())
				}
			}()
		}
		r := newSimRun(t, seed, 5, slog.New(handler))
		r.run()
		total.add(r)
	})
	t.Log(&total)
}

// simTotals are the figures of many schedules, which add them as they end.
type simTotals struct {
	mu                                                sync.Mutex
	schedules, faults, answers, acks, commands, moves int
	virtual                                           time.Duration
}

func (s *simTotals) add(r *simRun) {
	o := r.world.oracle
	s.mu.Lock()
	defer s.mu.Unlock()
	s.schedules++
	s.faults += len(r.told)
	s.answers += o.answers
	s.acks += o.acks
	s.commands += len(o.commands)
	s.moves += len(o.speaker)
	s.virtual += r.lasted
}

func (s *simTotals) String() string {
	return fmt.Sprintf("%d schedules, %v of virtual time: %d faults, %d DHCP answers, %d leases acknowledged, %d commands, %d changes of duty",
		s.schedules, s.virtual.Round(time.Minute), s.faults, s.answers, s.acks, s.commands, s.moves)
}

type lockedWriter struct {
	mu sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// simRun is one schedule.
type simRun struct {
	t      *testing.T
	seed   uint64
	rng    *rand.Rand
	world  *simWorld
	lives  sync.WaitGroup // machines that are being installed again, or whose node is started again
	life   chan struct{}  // filled while a host or its node begins or ends; who waits for it does not stop the bubble's time
	told   []string       // the faults, at the oracle's time
	lasted time.Duration
	over   chan struct{} // closed when the schedule has ended
}

// Times of a schedule, in virtual time.
const (
	simFaults = 60 * time.Second
	simCalm   = 2 * time.Minute // raft may wait 10 s for an answer, and 10 s before it asks again
)

func newSimRun(t *testing.T, seed uint64, nodes int, log *slog.Logger) *simRun {
	w := newSimWorld(seed, log)
	r := &simRun{t: t, seed: seed, rng: rand.New(rand.NewPCG(seed, 0x73696d)), world: w, life: make(chan struct{}, 1), over: make(chan struct{})}
	w.died = r.restart
	w.broken = func(node string, err error) { w.oracle.report("%s cannot go on: %v", node, err) }
	for i := range nodes {
		w.add(fmt.Sprintf("n%d", i+1))
	}
	return r
}

func (r *simRun) run() {
	w := r.world
	began := time.Now()
	ctx, cancel := context.WithCancel(context.Background())
	r.foundSwarm(ctx)
	clients := r.startClients(ctx)
	if len(w.oracle.violations()) == 0 {
		// Some schedules leave time to recover between two faults, some do not.
		every := time.Duration(1+r.rng.IntN(8)) * time.Second
		var hosts []string
		for _, n := range w.nodes {
			hosts = append(hosts, n.name)
		}
		faults := swarmtest.Schedule(r.seed, swarmtest.Plan{Hosts: hosts, Length: simFaults, Every: every, MaxWiped: 1})
		_ = w.net.Play(ctx, faults, r, func(f swarmtest.Fault) { // ctx goes on
			f.At = time.Since(w.oracle.began)
			r.told = append(r.told, f.String())
		})
		r.calm(ctx)
	}
	cancel()
	clients.Wait()
	r.end()
	r.lasted = time.Since(began)
	w.oracle.judgeHistory()
	if wrong := w.oracle.violations(); len(wrong) > 0 {
		r.t.Errorf("%s\nthe schedule was:\n%s\n%s", strings.Join(wrong, "\n"), strings.Join(r.told, "\n"), w.oracle.trails())
	}
}

// end stops all nodes.
func (r *simRun) end() {
	close(r.over)
	r.lives.Wait()
	for _, n := range r.world.nodes {
		n.end()
	}
	r.world.net.Close()
}

// until waits for a condition in virtual time, and makes it a violation if it does not come.
func (r *simRun) until(what string, bound time.Duration, ok func() bool) bool {
	for deadline := time.Now().Add(bound); ; {
		if ok() {
			return true
		}
		if time.Now().After(deadline) {
			r.world.oracle.report("after %v not yet: %s", bound, what)
			return false
		}
		<-time.After(50 * time.Millisecond)
	}
}

// calm heals everything and asks for what a healthy swarm owes.
func (r *simRun) calm(ctx context.Context) {
	w := r.world
	w.net.Heal()
	w.net.SetWeather(swarmtest.Fair)
	ok := r.until("somebody leads, and everybody has applied the same", simCalm, func() bool {
		c := w.leader()
		if c == nil {
			return false
		}
		for _, n := range w.nodes {
			if other := n.running(); other == nil || other.replica.ledger.Applied() != c.replica.ledger.Applied() {
				return false
			}
		}
		return true
	})
	if !ok {
		return
	}
	w.oracle.mu.Lock()
	before := w.oracle.acks
	w.oracle.mu.Unlock()
	r.until("clients get addresses again", simCalm, func() bool {
		w.oracle.mu.Lock()
		defer w.oracle.mu.Unlock()
		return w.oracle.acks >= before+5
	})
	r.until("an odd number of durable nodes votes, and one of them leads", simCalm, func() bool {
		c := w.leader()
		if c == nil || voters(c)%2 == 0 {
			return false
		}
		self, _ := c.replica.state.View().Node(c.id)
		return !self.Ephemeral
	})
	r.judgeEnd()
}

// judgeEnd compares what clients were told with what the swarm remembers. G3.
func (r *simRun) judgeEnd() {
	w := r.world
	c := w.leader()
	if c == nil {
		return
	}
	view := c.replica.state.View()
	w.oracle.mu.Lock()
	defer w.oracle.mu.Unlock()
	for addr, u := range w.oracle.using {
		if !time.Now().Before(u.until) {
			continue
		}
		if l, ok := view.Lease("s1", addr); !ok || l.MAC != u.mac {
			w.oracle.violation(addr.String(), "G3: %s was acknowledged to %s for another %v, the ledger says %q", addr, u.mac, time.Until(u.until), l.MAC)
		}
	}
}

// startClients runs ten machines that want addresses until ctx ends.
func (r *simRun) startClients(ctx context.Context) *sync.WaitGroup {
	w := r.world
	all := &sync.WaitGroup{}
	for i := range 10 {
		mac := swarm.MAC(fmt.Sprintf("02:00:00:00:01:%02x", i))
		port := w.lan.Join(nil, string(mac), netip.Addr{}, 68)
		c := &simClient{mac: mac, rng: rand.New(rand.NewPCG(r.seed, uint64(i))), oracle: w.oracle, heard: make(chan []byte, 16)}
		c.send = func(b []byte, to netip.Addr) {
			port.SetAddr(c.addr)
			_ = port.Send(b, swarmtest.Target{Addr: to, Port: 67}) // lost, like any packet
		}
		all.Go(func() {
			for {
				buf := make([]byte, 1500)
				n, _, err := port.Receive(buf)
				if err != nil {
					return
				}
				select {
				case c.heard <- buf[:n]:
				default:
				}
			}
		})
		all.Go(func() {
			defer func() { _ = port.Close() }()
			c.run(ctx)
		})
	}
	return all
}
