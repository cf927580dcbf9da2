package swarm

import "fmt"

// GrantDuty gives a segment to a node, whoever held it: the leader proposes it once the old holder's time is over. Term is
// the term that it saw; when the duty has moved since, the command is refused.
type GrantDuty struct {
	Segment string `json:"segment"`
	Term    uint64 `json:"term"`
	To      NodeID `json:"to"`
	Why     string `json:"why"`
}

func (o GrantDuty) apply(c *change) (any, error) {
	s, err := c.segment(o.Segment)
	if err != nil {
		return nil, err
	}
	if s.Duty.Term != o.Term {
		return nil, refuse(ErrConflict, "duty on %s is in term %d, not %d", s.ID, s.Duty.Term, o.Term)
	}
	return nil, c.moveDuty(s, o.To, o.Why)
}

func (c *change) moveDuty(s Segment, to NodeID, why string) error {
	n, err := c.node(to)
	if err != nil {
		return err
	}
	if !n.Eligible() {
		return refuse(ErrConflict, "node %s may not hold duty: left or in quarantine", to)
	}
	s.Duty = Duty{Holder: to, Term: c.next("term"), Since: c.Time}
	c.put("segment", &s)
	c.event(n.Machine, "duty", "%s takes duty on segment %s (term %d): %s", n.Name, s.ID, s.Duty.Term, why)
	return nil
}

// OfferDuty asks the holder to pass its duty to another node; the empty To withdraws the offer.
type OfferDuty struct {
	Segment string `json:"segment"`
	Term    uint64 `json:"term"`
	To      NodeID `json:"to"`
}

func (o OfferDuty) words() string {
	return fmt.Sprintf("move the duty on segment %s to node %s", o.Segment, firstOf(string(o.To), "nobody"))
}

func (o OfferDuty) apply(c *change) (any, error) {
	s, err := c.segment(o.Segment)
	if err != nil {
		return nil, err
	}
	if s.Duty.Term != o.Term {
		return nil, refuse(ErrConflict, "duty on %s is in term %d, not %d", s.ID, s.Duty.Term, o.Term)
	}
	if o.To != "" {
		n, err := c.node(o.To)
		if err != nil {
			return nil, err
		}
		if !n.Eligible() {
			return nil, refuse(ErrConflict, "node %s may not hold duty", o.To)
		}
	}
	s.Duty.Next = o.To
	c.put("segment", &s)
	return nil, nil
}

// PassDuty is the holder's last word in its term: it has stopped answering, and the node that it was offered to starts.
type PassDuty struct {
	Segment string `json:"segment"`
	Term    uint64 `json:"term"`
}

func (o PassDuty) apply(c *change) (any, error) {
	s, err := c.onDuty(o.Segment)
	if err != nil {
		return nil, err
	}
	if s.Duty.Term != o.Term || s.Duty.Next == "" {
		return nil, refuse(ErrConflict, "duty on %s is in term %d and offered to %q", s.ID, s.Duty.Term, s.Duty.Next)
	}
	from, err := c.node(c.By)
	if err != nil {
		return nil, err
	}
	return nil, c.moveDuty(s, s.Duty.Next, "handed over by "+from.Name)
}
