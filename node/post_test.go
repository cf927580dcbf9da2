package node

import (
	"context"
	"net/netip"
	"testing"
	"time"

	"offshoot/node/internal/segment"
	"offshoot/node/internal/task"
	"offshoot/swarm"
)

// TestNodeWaitsForTheWarningsOfItsPosts: a post may warn of something while it ends, and nothing of a node goes on once its
// duties have ended.
func TestNodeWaitsForTheWarningsOfItsPosts(t *testing.T) {
	onDuty(t, func(t *testing.T, w *watch) {
		const slow = time.Minute // writing a warning down
		mine, written := *w.replica, time.Time{}
		mine.now = func() time.Time {
			<-time.After(slow)
			written = time.Now()
			return written
		}
		w.replica = &mine
		w.stations = func(p *post) []station {
			return []station{{name: "witness", open: func() (task.Task, error) {
				return task.Func("witness", func(ctx context.Context) error {
					<-ctx.Done()
					<-time.After(time.Second) // it ends slowly
					p.note("", "test", "the post ends")
					return nil
				}), nil
			}}}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		if written.IsZero() {
			t.Error("ended while a warning was being written down")
		}
	})
}

// TestNothingIsAnsweredBeforeOtherServersAreHeard: of two seeds that start at once each must hear the other's first answer, also where
// opening the socket for that takes longer than opening the one that answers.
func TestNothingIsAnsweredBeforeOtherServersAreHeard(t *testing.T) {
	onDuty(t, func(t *testing.T, w *watch) {
		const late = 3 * time.Second
		start, answers := time.Now(), time.Duration(0)
		w.stations = func(p *post) []station {
			return []station{
				{name: "dhcp", answers: true, open: func() (task.Task, error) {
					answers = time.Since(start)
					return task.Func("dhcp", func(ctx context.Context) error { <-ctx.Done(); return nil }), nil
				}},
				{name: "guard", guards: true, open: func() (task.Task, error) {
					return task.Func("guard", func(ctx context.Context) error {
						<-time.After(late)
						p.hear()
						<-ctx.Done()
						return nil
					}), nil
				}},
			}
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if err := w.Run(ctx); err != nil {
			t.Error(err)
		}
		if answers < late || answers > 2*late {
			t.Errorf("the DHCP server was opened after %v, its guard heard after %v", answers, late)
		}
	})
}

// onDuty runs fn with the watch of a node that holds the duty on its only segment, in simulated time.
func onDuty(t *testing.T, fn func(*testing.T, *watch)) {
	seeds.Run(t, 1, func(t *testing.T, seed uint64) {
		r := newSimRun(t, seed, 1, quiet())
		defer r.end()
		n := r.world.nodes[0]
		if err := n.begin(true); err != nil {
			t.Error(err)
			return
		}
		c := n.running()
		if err := c.replica.decide(t.Context(), swarm.Found{
			Settings: swarm.Settings{Swarm: "5eed", Voters: 1, Profile: "p", GossipKeys: []string{r.world.key.Encode()}},
			Node:     swarm.Node{ID: n.id, Name: n.name, Address: n.host.Address(simPeer), Ports: []swarm.Port{n.port}},
			Network:  netip.MustParsePrefix(simNetwork), Profile: &swarm.Profile{Name: "p", Driver: "image"},
		}); err != nil {
			t.Error(err)
			return
		}
		fn(t, &watch{replica: c.replica, client: c.dial, service: c.service, clock: c.clock, log: quiet(), posts: map[uint64]*post{}})
	})
}

func TestVLANIsNeverTakenForItsPort(t *testing.T) {
	t.Parallel()
	ports := []segment.Port{{Name: "eth1", MAC: mac1}, {Name: "eth1.42", MAC: mac1, VLAN: 42}, {Name: "eth2", MAC: mac2, Master: "br0"}}
	for vlan, want := range map[uint16]string{0: "eth1", 42: "eth1.42", 43: ""} {
		if p, err := portAmong(ports, mac1, vlan); p.Name != want || (err != nil) != (want == "") {
			t.Errorf("VLAN %d is on %q, want %q (%v)", vlan, p.Name, want, err)
		}
	}
	if p, err := portAmong(ports[:1], mac1, 42); err == nil {
		t.Errorf("without its device VLAN 42 is served on %s", p.Name)
	}
	if p, err := portAmong(ports, mac2, 0); err == nil {
		t.Errorf("a port of a bridge was taken: %s", p.Name)
	}
}
