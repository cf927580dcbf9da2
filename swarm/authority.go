package swarm

import "fmt"

// right says who may propose a kind of command. State.Apply holds commands to the state; what a member may say at all, the
// leader asks MayForward.
type right int

const (
	byMember   right = iota // any member that is not in quarantine
	byLeader                // decided by the leader itself; forwarded by nobody
	byHolder                // of the segment; Apply asks again
	bySelf                  // a node of itself
	byOperator              // a node may forward what an operator asked for, in its name
	byCaller                // the founder's laptop when it starts, or an operator
)

// MayForward says whether the leader takes a command from another node: nil, or why not. It is no shield against a member
// that invents an operator: what that member forwards is in the audit log with its id.
func MayForward(v View, from NodeID, c Command) error {
	if c.By != from {
		return fmt.Errorf("node %s proposes in the name of %s", from, c.By)
	}
	n, ok := v.Node(from)
	switch {
	case !ok:
		return fmt.Errorf("node %s is not known to this swarm", from)
	case n.Ended != "":
		return fmt.Errorf("node %s has ended: %s", from, n.Ended)
	case n.Quarantine != "":
		return fmt.Errorf("node %s is in quarantine: %s", from, n.Quarantine)
	}
	name := opName(c.Op)
	switch ops[name].who {
	case byLeader:
		return fmt.Errorf("%s is decided by the leader itself", name)
	case byHolder:
		return mayOnSegment(v, n, c)
	case bySelf:
		if op, ok := c.Op.(LeaveNode); ok && op.Node != from {
			return fmt.Errorf("node %s can only leave by itself", op.Node)
		}
	case byOperator:
		if c.Actor == "" {
			return fmt.Errorf("%s is for operators", name)
		}
	case byCaller:
		if c.Actor == "" && !n.Ephemeral {
			return fmt.Errorf("%s is for operators and for the seed", name)
		}
	case byMember:
	}
	return nil
}

// mayOnSegment admits the holder. An operator may ask for a duty to be moved, through any node.
func mayOnSegment(v View, n Node, c Command) error {
	var id string
	switch op := c.Op.(type) {
	case OfferDuty:
		if c.Actor != "" {
			return nil
		}
		id = op.Segment
	case PassDuty:
		id = op.Segment
	case BlockSegment:
		id = op.Segment
	case BindLeases:
		id = op.Segment
	case ReleaseLease:
		id = op.Segment
	case QuarantineAddress:
		id = op.Segment
	}
	if s, ok := v.Segment(id); !ok || s.Duty.Holder != n.ID {
		return fmt.Errorf("node %s does not hold duty on segment %q", n.ID, clip(id, maxWord))
	}
	return nil
}
