package node

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"offshoot/swarm"
	"offshoot/swarm/ledger"
)

// replica is this node's copy of the swarm's state, and its way to change it. It is the ledger's state machine.
type replica struct {
	state  *swarm.State
	ledger *ledger.Ledger // set before anything proposes
	self   func() swarm.NodeID
	broken func(error) // called once when a command cannot be understood: the node must stop, not guess
	now    func() time.Time
	ages   *ages // of the bindings

	applied func(index uint64, command []byte) // may be nil
	log     *slog.Logger
}

var _ ledger.StateMachine = (*replica)(nil)

// Apply carries out a committed command.
func (r *replica) Apply(index uint64, command []byte) []byte {
	c, err := swarm.DecodeCommand(command)
	if err != nil {
		r.broken(fmt.Errorf("ledger entry %d: %w", index, err))
		return nil
	}
	outcome := r.state.Apply(c)
	if r.applied != nil {
		r.applied(index, command)
	}
	if bound, ok := c.Op.(swarm.BindLeases); ok {
		r.ages.note(bound.Leases)
	}
	result, err := json.Marshal(outcome)
	if err != nil {
		r.broken(fmt.Errorf("ledger entry %d: %w", index, err))
		return nil
	}
	return result
}

// Snapshot captures the state.
func (r *replica) Snapshot() (func(w io.Writer) error, error) { return r.state.Snapshot(), nil }

// Restore replaces the state.
func (r *replica) Restore(in io.Reader) error {
	r.ages.restart()
	return r.state.Restore(in)
}

// propose writes one decision down and returns its result, whose refusal is in the result. An error means that nobody
// knows whether it was written.
func (r *replica) propose(ctx context.Context, op swarm.Op) (swarm.Result, error) {
	return r.proposeAs(ctx, "", op)
}

// proposeAs does the same for an operator, whom the audit log names.
func (r *replica) proposeAs(ctx context.Context, actor string, op swarm.Op) (swarm.Result, error) {
	var result swarm.Result
	command, err := r.encode(actor, op)
	if err != nil {
		return result, err
	}
	answer, err := r.ledger.Propose(ctx, command)
	if err != nil {
		return result, fmt.Errorf("%T: %w", op, err)
	}
	if err := json.Unmarshal(answer, &result); err != nil {
		return result, fmt.Errorf("%T: read its result: %w", op, err)
	}
	return result, nil
}

// errTooNew: somebody would not understand.
var errTooNew = errors.New("not every node of the swarm can do this yet")

// encode makes a command that every node understands.
func (r *replica) encode(actor string, op swarm.Op) ([]byte, error) {
	c := swarm.Command{ID: swarm.NewID(), Time: r.now().UTC(), By: r.self(), Actor: actor, Op: op}
	if spoken := r.state.View().Protocol(); c.Protocol() > spoken {
		return nil, fmt.Errorf("%T: %w: upgrade those that speak protocol %d", op, errTooNew, spoken)
	}
	return c.Encode()
}

// decideHere writes a decision down that is this leader's alone: in one attempt, never forwarded, so that it cannot come
// true under a later leader who has told somebody otherwise meanwhile.
func (r *replica) decideHere(ctx context.Context, op swarm.Op) error {
	command, err := r.encode("", op)
	if err != nil {
		return err
	}
	answer, err := r.ledger.Commit(ctx, command)
	if err != nil {
		return fmt.Errorf("%T: %w", op, err)
	}
	var result swarm.Result
	if err := json.Unmarshal(answer, &result); err != nil {
		return fmt.Errorf("%T: read its result: %w", op, err)
	}
	return result.Err()
}

// decide proposes and turns a refusal into an error.
func (r *replica) decide(ctx context.Context, op swarm.Op) error {
	result, err := r.propose(ctx, op)
	if err != nil {
		return err
	}
	return result.Err()
}

// await returns when the state satisfies a condition, or ctx ends.
func (r *replica) await(ctx context.Context, what string, ok func(swarm.View) bool) error {
	for {
		changed := r.state.Changed()
		if ok(r.state.View()) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("wait until %s: %w", what, ctx.Err())
		}
	}
}

// eachChange calls look now, and after each change of the state until ctx ends.
func (r *replica) eachChange(ctx context.Context, look func()) {
	for {
		changed := r.state.Changed()
		look()
		select {
		case <-ctx.Done():
			return
		case <-changed:
		}
	}
}
