package node

import (
	"net/netip"
	"reflect"
	"strings"
	"testing"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

func TestEachProblemIsSaidWithItsNextStep(t *testing.T) {
	t.Parallel()
	alive := status.Node{Name: "m1", MAC: string(mac1), State: status.NodeAlive, Role: "leader"}
	gone := status.Node{Name: "m2", MAC: string(mac2), State: status.NodeGone, Role: "voter"}
	for name, c := range map[string]struct {
		s          status.Status
		what, next string
	}{
		"no quorum": {status.Status{Nodes: []status.Node{alive, gone}}, "cannot decide anything", "bring back enough of the voters"},
		"blocked": {status.Status{Quorum: true, Segments: []status.Segment{{ID: "s1", Holder: "m1", Blocked: "another DHCP server answers there: 10.0.0.9"}}},
			"segment s1 is not served: another DHCP server answers there: 10.0.0.9", "switch that server off"},
		"nobody": {status.Status{Quorum: true, Segments: []status.Segment{{ID: "s1"}}}, "segment s1 is served by nobody", "bring a node on that segment back"},
		"gone holder": {status.Status{Quorum: true, Nodes: []status.Node{alive, gone}, Segments: []status.Segment{{ID: "s1", Holder: "m2"}}},
			"m2, which serves segment s1, is gone", "takes over within seconds"},
		"held": {status.Status{Quorum: true, Machines: []status.Machine{{MAC: string(mac1), Name: "m1", State: "held", Reason: "disk: none"}}},
			"machine m1 is held: disk: none", "offshoot machine why " + string(mac1)},
		"stalled": {status.Status{Quorum: true, Time: time.Unix(1000, 0), Machines: []status.Machine{{MAC: string(mac1), Name: "m1", State: "installing", Phase: "image", Percent: 43, Stalled: true, Heard: time.Unix(277, 0), Said: "main-menu: x"}}},
			"machine m1 is stalled: no progress for 12m3s in phase image, at 43 %; the last that it said: main-menu: x", "offshoot machine log " + string(mac1) + ", offshoot machine why " + string(mac1) + ", and its console; to begin again: offshoot machine arm"},
		"quarantine": {status.Status{Quorum: true, Nodes: []status.Node{{Name: "m1", MAC: string(mac1), State: status.NodeAlive, Quarantine: "its ticket was shown a second time"}}},
			"m1 is in quarantine: its ticket", "offshoot machine arm " + string(mac1)},
		"new CA": {status.Status{Quorum: true, Nodes: []status.Node{alive, gone}, CA: &status.CAChange{Nodes: 2, Missing: []string{"m1", "m2"}}},
			"the swarm's CA is not replaced yet, because m2 is gone", "offshoot swarm evict m2"},
	} {
		got := problems(c.s)
		if len(got) != 1 || !strings.Contains(got[0].What, c.what) || !strings.Contains(got[0].Next, c.next) {
			t.Errorf("%s: got %+v", name, got)
		}
	}
	if got := problems(status.Status{Nodes: []status.Node{alive, gone}}); !strings.Contains(got[0].What, "m2") || strings.Contains(got[0].What, "m1") {
		t.Errorf("names the wrong voters: %s", got[0].What)
	}
}

func TestGoodSwarmHasNoProblems(t *testing.T) {
	t.Parallel()
	got := problems(status.Status{
		Quorum:   true,
		Nodes:    []status.Node{{Name: "m1", State: status.NodeAlive, Role: "leader"}, {Name: "seed", State: status.NodeGone, Role: "none"}, {Name: "old", State: status.NodeLeft, Quarantine: "x"}},
		Segments: []status.Segment{{ID: "s1", Holder: "m1"}},
		Machines: []status.Machine{{Name: "m1", State: "installed"}, {Name: "m2", State: "known"}},
	})
	if len(got) != 0 {
		t.Errorf("got %+v", got)
	}
}

func TestSegmentIsShownWithWhoIsOnItAndItsLiveLeases(t *testing.T) {
	t.Parallel()
	state, now := swarm.NewState(), time.Now()
	n := 0
	apply := func(op swarm.Op) {
		t.Helper()
		n++
		if err := state.Apply(swarm.Command{ID: string(rune('a' + n)), Time: now, By: seedID, Op: op}).Err(); err != nil {
			t.Fatal(err)
		}
	}
	apply(swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed"}, Network: netip.MustParsePrefix("192.168.42.0/24"), Profile: &swarm.Profile{Name: "p"},
		Node: swarm.Node{ID: seedID, Name: "seed", Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Link: true}}},
	})
	apply(swarm.SeeMachine{MAC: mac1, Segment: "s1"})
	apply(swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{{Segment: "s1", MAC: mac1, Addr: addr1, Expires: now.Add(time.Hour)}}})
	apply(swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{{Segment: "s1", MAC: mac2, Addr: addr1.Next(), Expires: now.Add(-time.Hour)}}})
	apply(swarm.QuarantineAddress{Segment: "s1", Term: 1, Addr: addr1.Next().Next(), Until: now.Add(time.Hour)})
	view := state.View()
	s, _ := view.Segment("s1")
	got := segmentStatus(view, s, namesOf(view))
	want := status.Segment{ID: "s1", Network: "192.168.42.0/24", Holder: "seed", Term: 1, Since: now, Nodes: []string{"seed"}, Leases: 1, Mode: "full", Pools: []string{"192.168.42.10-192.168.42.250"}}
	got.Since = now
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	apply(swarm.OfferDuty{Segment: "s1", Term: 1, To: seedID})
	apply(swarm.BlockSegment{Segment: "s1", Reason: "foreign"})
	apply(swarm.LeaveNode{Node: seedID})
	view = state.View()
	s, _ = view.Segment("s1")
	if got := segmentStatus(view, s, namesOf(view)); got.Next != "seed" || got.Blocked != "foreign" || len(got.Nodes) != 0 || got.Nodes == nil {
		t.Errorf("got %+v", got)
	}
	m, _ := view.Machine(mac1)
	if got := machineStatus(view, m); got.MAC != string(mac1) || got.Name != m.Name || got.State != "known" || got.Segment != "s1" || got.Address != addr1.String() {
		t.Errorf("got %+v", got)
	}
}

func TestStateOfANodeIsWhatGossipSeesAndTheLedgerKnows(t *testing.T) {
	t.Parallel()
	l := founded(t)
	view := l.state.View()
	for name, c := range map[string]struct {
		sight sight
		node  swarm.Node
		want  string
	}{
		"seen":          {seen, swarm.Node{}, status.NodeAlive},
		"lost":          {lost, swarm.Node{Joined: time.Now()}, status.NodeGone},
		"just joined":   {unseen, swarm.Node{Joined: time.Now()}, status.NodeJoining},
		"never arrived": {unseen, swarm.Node{Joined: time.Now().Add(-time.Hour)}, status.NodeGone},
		"left":          {seen, swarm.Node{Left: true}, status.NodeLeft},
	} {
		p := &picture{replica: l.replica, sees: func(swarm.NodeID) sight { return c.sight }}
		if got := p.node(view, c.node, nil); got.State != c.want || got.Role != "none" || got.Duties == nil {
			t.Errorf("%s: got %+v, want %s", name, got, c.want)
		}
	}
	p := &picture{replica: l.replica, sees: func(swarm.NodeID) sight { return seen }}
	inOffice(t, l)
	s := p.Status(t.Context())
	if !s.Quorum || s.Leader != "seed" || s.Asked != "seed" || s.Swarm != "5eed" || s.Problems == nil || len(s.Problems) != 0 {
		t.Errorf("status %+v", s)
	}
	if len(s.Nodes) != 1 || s.Nodes[0].Role != "leader" || s.Nodes[0].Duties[0] != "s1" || len(s.Segments) != 1 || len(s.Machines) != 1 {
		t.Errorf("status %+v", s)
	}
}
