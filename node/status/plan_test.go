package status

import (
	"errors"
	"slices"
	"strings"
	"testing"
)

// three is a swarm of three voters: m1 leads and is asked, m2 serves s1 and s2, m3 is on s1 as well; the seed has left.
func three() Status {
	return Status{
		Quorum: true, Asked: "m1", Leader: "m1",
		Nodes: []Node{
			{ID: "a0", Name: "seed", State: NodeLeft, Role: RoleNone},
			{ID: "a1", Name: "m1", State: NodeAlive, Durable: true, Role: RoleLeader, Address: "192.168.42.17:7400"},
			{ID: "a2", Name: "m2", State: NodeAlive, Durable: true, Role: RoleVoter, MAC: "52:54:00:00:00:02"},
			{ID: "a3", Name: "m3", State: NodeAlive, Durable: true, Role: RoleVoter, Warm: true},
			{ID: "a4", Name: "m4", State: NodeAlive, Durable: true, Role: RoleFollower},
		},
		Segments: []Segment{
			{ID: "s1", Network: "192.168.42.0/24", Holder: "m2", Term: 7, Nodes: []string{"m2", "m3"}},
			{ID: "s2", Network: "10.42.0.0/24", Holder: "m2", Term: 8, Nodes: []string{"m2", "m4"}},
		},
	}
}

// edit changes one node of a status.
func (s Status) edit(name string, change func(*Node)) Status {
	s.Nodes = slices.Clone(s.Nodes)
	for i := range s.Nodes {
		if s.Nodes[i].Name == name {
			change(&s.Nodes[i])
		}
	}
	return s
}

func asked(s Status, name string) Status {
	s.Asked = name
	for i := range s.Nodes {
		if s.Nodes[i].Role != RoleFollower {
			s.Nodes[i].Role = RoleUnknown
		}
	}
	return s
}

func gone(n *Node) { n.State = NodeGone }

func TestNodeIsFoundByIDAndByTheNameOfWhoIsStillThere(t *testing.T) {
	t.Parallel()
	s := three()
	s.Nodes = append([]Node{{ID: "old", Name: "m2", State: NodeLeft}}, s.Nodes...)
	for word, want := range map[string]string{"m2": "a2", "a2": "a2", "old": "old", "seed": "a0"} {
		if n, err := s.Find(word); err != nil || n.ID != want {
			t.Errorf("%s: %s, %v", word, n.ID, err)
		}
	}
	if _, err := s.Find("m9"); err == nil || !strings.Contains(err.Error(), "offshoot swarm members") {
		t.Errorf("got %v", err)
	}
	s.Nodes = append(s.Nodes, Node{ID: "twin", Name: "m2", State: NodeGone})
	if n, err := s.Find("m2"); err == nil || !strings.Contains(err.Error(), "a2, twin") {
		t.Errorf("two nodes called m2: chose %v, %v", n.ID, err)
	}
}

func TestEvictionIsRefusedWhateverTheOperatorInsists(t *testing.T) {
	t.Parallel()
	alone := three().edit("m1", func(n *Node) { n.Role = RoleLearner }).edit("m2", func(n *Node) { n.Role = RoleLearner })
	stuck := three()
	stuck.Quorum = false
	for name, c := range map[string]struct {
		s          Status
		node, says string
		unsafe     bool
	}{
		"the last voter":                             {alone, "m3", "offshoot swarm recover", true},
		"the last voter, gone":                       {alone.edit("m3", gone), "m3", "the last voter", true},
		"without quorum":                             {stuck, "m4", "cannot decide anything now", true},
		"a follower is asked, which knows no voters": {asked(three(), "m4"), "m3", "--endpoint 192.168.42.17:7400", true},
		"the node that is asked":                     {three(), "m1", "offshoot swarm leave", true},
		"a node that nobody knows":                   {three(), "m9", "offshoot swarm members", false},
		"evicted before":                             {three().edit("m4", func(n *Node) { n.State, n.Ended = NodeLeft, "evicted: stolen" }), "m4", "already: evicted: stolen", false},
	} {
		_, err := c.s.PlanEviction(c.node, false)
		if err == nil || errors.Is(err, ErrUnsafe) != c.unsafe || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestEvictionWithRisksNeedsForce(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		s     Status
		node  string
		risks []string
	}{
		"everything passes on":                        {three(), "m2", nil},
		"a follower":                                  {three(), "m4", nil},
		"who has left, and kept its certificate":      {three(), "seed", nil},
		"nobody else is on s2":                        {three().edit("m4", gone), "m2", []string{"serves segment s2 (10.42.0.0/24) and no other living node is on it"}},
		"the other one is in quarantine":              {three().edit("m4", func(n *Node) { n.Quarantine = "thief" }), "m2", []string{"serves segment s2"}},
		"nobody else, but it serves no longer":        {three().edit("m4", gone).edit("m2", gone), "m2", nil},
		"the others could not decide":                 {three().edit("m1", gone), "m2", []string{"of the 2 other voters only 1 answer"}},
		"who is gone is evicted before who is alive":  {three().edit("m3", gone), "m3", nil},
		"neither decisions nor service would be left": {three().edit("m3", gone).edit("m4", gone), "m2", []string{"only 1 answer", "segment s1", "segment s2"}},
		"a name is not enough: the namesake has left": {withNamesakeOfM4(), "m2", []string{"segment s2"}},
	} {
		plan, err := c.s.PlanEviction(c.node, false)
		if err != nil || len(plan.Risks) != len(c.risks) {
			t.Errorf("%s: risks %q, %v", name, plan.Risks, err)
			continue
		}
		for i, want := range c.risks {
			if !strings.Contains(plan.Risks[i], want) {
				t.Errorf("%s: risk %q lacks %q", name, plan.Risks[i], want)
			}
		}
		refusal := plan.Check(false)
		if (refusal != nil) != (len(c.risks) > 0) || refusal != nil && (!errors.Is(refusal, ErrUnsafe) || !strings.Contains(refusal.Error(), "offshoot swarm evict --force "+c.node)) {
			t.Errorf("%s: without --force: %v", name, refusal)
		}
		if err := plan.Check(true); err != nil {
			t.Errorf("%s: with --force: %v", name, err)
		}
	}
}

func withNamesakeOfM4() Status {
	s := three().edit("m4", gone)
	s.Nodes = append([]Node{{ID: "b4", Name: "m4", State: NodeLeft}}, s.Nodes...)
	return s
}

func TestStepsOfAnEvictionSayWhatItDoesAndWhatItDoesNotUndo(t *testing.T) {
	t.Parallel()
	plan, err := three().edit("m4", gone).PlanEviction("m2", false)
	if err != nil {
		t.Fatal(err)
	}
	all := strings.Join(plan.Steps(), "\n")
	for _, want := range []string{
		"certificate is revoked", "gossip key is changed", "segment s1: m3 takes over", "segment s2: NOBODY serves it", "2 others vote, 2 of them answer",
		"NOT undone: its disk holds the CA's key", "offshoot machine arm --wipe 52:54:00:00:00:02",
	} {
		if !strings.Contains(all, want) {
			t.Errorf("%q is missing in\n%s", want, all)
		}
	}
	if plan, err = three().PlanEviction("m4", false); err != nil || strings.Contains(strings.Join(plan.Steps(), "\n"), "vote") {
		t.Errorf("a follower has no vote: %v, %v", plan.Steps(), err)
	}
}

func TestDutyIsMovedOnlyToWhoCanTakeItNow(t *testing.T) {
	t.Parallel()
	with := func(change func(*Segment)) Status {
		s := three()
		s.Segments = slices.Clone(s.Segments)
		change(&s.Segments[0])
		return s
	}
	for name, c := range map[string]struct {
		s                   Status
		segment, node, says string
	}{
		"unknown segment": {three(), "s9", "m3", "offshoot segment list"},
		"unknown node":    {three(), "s1", "m9", "offshoot swarm members"},
		"not on it":       {three(), "s1", "m4", "m4 is not on segment s1; on it: m2, m3"},
		"has it":          {three(), "s1", "m2", "m2 serves segment s1 already"},
		"has left":        {three(), "s1", "seed", "has left"},
		"is gone":         {three().edit("m3", gone), "s1", "m3", "m3 does not answer (gone)"},
		"is joining":      {three().edit("m3", func(n *Node) { n.State = NodeJoining }), "s1", "m3", "does not answer (joining)"},
		"in quarantine":   {three().edit("m3", func(n *Node) { n.Quarantine = "two keys" }), "s1", "m3", "offshoot swarm trust m3"},
		"blocked":         {with(func(g *Segment) { g.Blocked = "another DHCP server" }), "s1", "m3", "another DHCP server"},
		"on its way":      {with(func(g *Segment) { g.Next = "m5" }), "s1", "m3", "being handed to m5"},
	} {
		if _, err := c.s.PlanMove(c.segment, c.node); err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	for _, s := range []Status{three(), with(func(g *Segment) { g.Next = "m3" })} {
		if plan, err := s.PlanMove("s1", "a3"); err != nil || plan.Segment.Term != 7 || plan.To.Name != "m3" {
			t.Errorf("plan %+v, %v", plan, err)
		}
	}
}

func TestEvictionWithANewCASaysWhatThatMeansAndMayComeAfterwards(t *testing.T) {
	t.Parallel()
	plan, err := three().PlanEviction("seed", false)
	if err != nil || !strings.Contains(strings.Join(plan.Steps(), "\n"), "NOT undone: its disk holds the CA's key") {
		t.Errorf("a seed has the key, with or without a vote: %v, %v", plan.Steps(), err)
	}
	put := func(n *Node) { n.Ended, n.State = "stolen", NodeLeft }
	if _, err := three().edit("m2", put).PlanEviction("m2", false); err == nil || !strings.Contains(err.Error(), "offshoot swarm evict --rotate-ca a2") {
		t.Errorf("put out already: %v", err)
	}
	for _, s := range []Status{three(), three().edit("m2", put)} {
		plan, err := s.PlanEviction("m2", true)
		steps := strings.Join(plan.Steps(), "\n")
		if err != nil || !plan.RotateCA || strings.Contains(steps, "NOT undone") || !strings.Contains(steps, "the swarm's CA is replaced") || !strings.Contains(steps, "operators' files") {
			t.Errorf("%v, %v", steps, err)
		}
	}
}
