package status

import (
	"errors"
	"fmt"
	"strings"
)

// ErrUnsafe: what was asked for could hurt more than it helps. The words say how to go on.
var ErrUnsafe = errors.New("refused for safety")

// refuse answers in words of its own.
func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

type refusal struct{ text string }

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return ErrUnsafe }

// Find returns the node that a person means: by id, or by name. Among nodes of one name those that are still in the swarm
// count: a machine that was installed again has the name of its former node.
func (s Status) Find(word string) (Node, error) {
	var present, past []Node
	for _, n := range s.Nodes {
		switch {
		case n.ID == word:
			return n, nil
		case n.Name != word:
		case n.State == NodeLeft:
			past = append(past, n)
		default:
			present = append(present, n)
		}
	}
	for _, found := range [][]Node{present, past} {
		switch len(found) {
		case 0:
			continue
		case 1:
			return found[0], nil
		}
		var ids []string
		for _, n := range found {
			ids = append(ids, n.ID)
		}
		return Node{}, fmt.Errorf("%d nodes are called %s: say which by its id, one of %s", len(found), word, strings.Join(ids, ", "))
	}
	return Node{}, fmt.Errorf("no node is called %q, nor has it as its id; the nodes are listed by: offshoot swarm members", word)
}

func (n Node) votes() bool { return n.Role == RoleVoter || n.Role == RoleLeader }

// canServe says whether a node may take duty, once it is on the segment.
func (n Node) canServe() bool { return n.State == NodeAlive && n.Quarantine == "" }

// named is the node behind a name in a list of this document, which names only nodes that are in the swarm.
func (s Status) named(name string) (Node, bool) {
	for _, n := range s.Nodes {
		if n.Name == name && n.State != NodeLeft {
			return n, true
		}
	}
	return Node{}, false
}

// wayTo says how to ask another node.
func (s Status) wayTo(name string) string {
	n, ok := s.named(name)
	if !ok {
		return ""
	}
	return fmt.Sprintf(": run this there, or: offshoot --operator FILE --endpoint %s …", n.Address)
}

// Passing is one duty of a node that goes.
type Passing struct {
	Segment string   `json:"segment"`
	Heirs   []string `json:"heirs"` // names of the nodes that can take it; empty: nobody
}

// Eviction is what happens to a swarm if a node is put out of it.
type Eviction struct {
	Node   Node      `json:"node"`
	Duties []Passing `json:"duties"`
	Voters int       `json:"voters"` // how many other nodes vote
	Living int       `json:"living"` // how many of these answer
	// RotateCA says that the swarm gets a new CA as well.
	RotateCA bool `json:"rotate_ca,omitempty"`
	// Risks are why it is refused unless the operator insists (--force).
	Risks []string `json:"risks"`
}

// PlanEviction says what evicting a node does, and with rotateCA the replacement of the swarm's CA, which can also be asked for
// when the node was put out before. An error means that it cannot be done, whoever insists.
func (s Status) PlanEviction(word string, rotateCA bool) (Eviction, error) {
	n, err := s.Find(word)
	if err != nil {
		return Eviction{}, err
	}
	plan := Eviction{Node: n, Duties: []Passing{}, Risks: []string{}, RotateCA: rotateCA}
	for _, other := range s.Nodes {
		if other.ID != n.ID && other.votes() {
			plan.Voters++
			if other.State == NodeAlive {
				plan.Living++
			}
		}
	}
	asked, _ := s.named(s.Asked)
	switch {
	case n.Ended != "" && !rotateCA:
		return plan, fmt.Errorf("%s was put out already: %s. To replace the swarm's CA as well: offshoot swarm evict --rotate-ca %s", n.Name, n.Ended, n.ID)
	case !s.Quorum:
		return plan, refuse("the swarm cannot decide anything now, so nobody can be evicted: bring voters back (offshoot swarm status names them), or if they are lost for ever: offshoot swarm recover --help")
	case !asked.votes() && asked.Role != RoleLearner:
		return plan, refuse("%s, which you ask, is no member of the ledger and does not know who votes: ask the leader, %s%s", s.Asked, s.Leader, s.wayTo(s.Leader))
	case n.votes() && plan.Voters == 0:
		return plan, refuse("%s is the last voter: without it nothing can be decided. If it runs: offshoot swarm leave, on it, hands its vote on first. If it is lost: offshoot swarm recover, on a node that is left", n.Name)
	case n.Name == s.Asked && n.State != NodeLeft:
		return plan, refuse("%s is the node that you are asking, and would be cut off before it can answer: ask another one, or take it out in peace with: offshoot swarm leave", n.Name)
	}
	if n.votes() && plan.Living <= plan.Voters/2 {
		plan.Risks = append(plan.Risks, fmt.Sprintf("of the %d other voters only %d answer, which is no majority: nothing could be decided afterwards. Bring them back, or evict those first that are gone", plan.Voters, plan.Living))
	}
	for _, seg := range s.Segments {
		if seg.Holder != n.Name || n.State == NodeLeft {
			continue
		}
		pass := Passing{Segment: seg.ID, Heirs: []string{}}
		for _, name := range seg.Nodes {
			if heir, ok := s.named(name); ok && heir.ID != n.ID && heir.canServe() {
				pass.Heirs = append(pass.Heirs, name)
			}
		}
		if len(pass.Heirs) == 0 && n.State == NodeAlive {
			plan.Risks = append(plan.Risks, fmt.Sprintf("%s serves segment %s (%s) and no other living node is on it: nobody would serve it. Connect another node to it first", n.Name, seg.ID, seg.Network))
		}
		plan.Duties = append(plan.Duties, pass)
	}
	return plan, nil
}

// Check refuses a plan with risks unless the operator insists.
func (p Eviction) Check(force bool) error {
	if len(p.Risks) == 0 || force {
		return nil
	}
	return refuse("%s; to do it all the same: offshoot swarm evict --force %s", strings.Join(p.Risks, "; "), p.Node.Name)
}

// Steps says in plain words what will happen, a line each.
func (p Eviction) Steps() []string {
	n := p.Node
	out := []string{
		"its certificate is revoked: every node ends its connections to it and speaks to it no more",
		"the gossip key is changed, so that it hears nothing new",
	}
	if n.Ended != "" {
		out = []string{"it was put out already: " + n.Ended}
	}
	for _, d := range p.Duties {
		if len(d.Heirs) == 0 {
			out = append(out, "segment "+d.Segment+": NOBODY serves it until another node is connected to it")
			continue
		}
		out = append(out, fmt.Sprintf("segment %s: %s takes over, within 10 s", d.Segment, strings.Join(d.Heirs, " or ")))
	}
	if n.votes() {
		out = append(out, fmt.Sprintf("its vote goes: %d others vote, %d of them answer; a node that is fit takes its place", p.Voters, p.Living))
	}
	switch {
	case p.RotateCA:
		out = append(out,
			"the swarm's CA is replaced, so that its key is worth nothing to whoever reads that disk: every node gets a new certificate, without a gap, and the pin changes",
			"tickets that are open are revoked: a machine that is being installed at this moment has to be armed again",
			"operators' files stop working: make new ones with offshoot operator add",
			"nodes that have left or are in quarantine are put out; it ends when every other one has its new certificate, also those that are away now")
	case n.votes() || !n.Durable:
		out = append(out, "NOT undone: its disk holds the CA's key. Whoever reads it can sign certificates; to make that worthless: offshoot swarm evict --rotate-ca "+n.Name)
	}
	out = append(out, "it never comes back as it is; to use the machine again, install it: "+armHint(n.MAC))
	return out
}

func armHint(mac string) string {
	if mac == "" {
		return "offshoot machine arm MAC"
	}
	return "offshoot machine arm --wipe " + mac
}

// Move is the handing of a duty to another node.
type Move struct {
	Segment Segment
	To      Node
}

// PlanMove says whether a node can take the duty on a segment now. The error says what to do first.
func (s Status) PlanMove(segment, word string) (Move, error) {
	var plan Move
	for _, seg := range s.Segments {
		if seg.ID == segment {
			plan.Segment = seg
		}
	}
	if plan.Segment.ID == "" {
		return plan, fmt.Errorf("no segment is called %q; they are listed by: offshoot segment list", segment)
	}
	n, err := s.Find(word)
	if err != nil {
		return plan, err
	}
	plan.To = n
	on := false
	for _, name := range plan.Segment.Nodes {
		on = on || name == n.Name
	}
	seg := plan.Segment
	switch {
	case n.State == NodeLeft:
		return plan, fmt.Errorf("%s has left the swarm; choose another node: offshoot segment list", n.Name)
	case n.Quarantine != "":
		return plan, fmt.Errorf("%s is in quarantine (%s) and may hold no duty; if you have looked at it and it is yours: offshoot swarm trust %s", n.Name, n.Quarantine, n.Name)
	case n.State != NodeAlive:
		return plan, fmt.Errorf("%s does not answer (%s): bring it back first, or choose another node: offshoot segment list", n.Name, n.State)
	case !on:
		return plan, fmt.Errorf("%s is not on segment %s; on it: %s", n.Name, seg.ID, strings.Join(seg.Nodes, ", "))
	case seg.Blocked != "":
		return plan, fmt.Errorf("segment %s is served by nobody: %s. See to that first: offshoot swarm status", seg.ID, seg.Blocked)
	case seg.Holder == n.Name:
		return plan, fmt.Errorf("%s serves segment %s already", n.Name, seg.ID)
	case seg.Next != "" && seg.Next != n.Name:
		return plan, fmt.Errorf("segment %s is being handed to %s at this moment; when that is done, ask again", seg.ID, seg.Next)
	}
	return plan, nil
}
