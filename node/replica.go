package node

import (
	"context"
	"encoding/json"
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
	log    *slog.Logger
}

var _ ledger.StateMachine = (*replica)(nil)

// Apply carries out a committed command.
func (r *replica) Apply(index uint64, command []byte) []byte {
	c, err := swarm.DecodeCommand(command)
	if err != nil {
		r.broken(fmt.Errorf("ledger entry %d: %w", index, err))
		return nil
	}
	result, err := json.Marshal(r.state.Apply(c))
	if err != nil {
		r.broken(fmt.Errorf("ledger entry %d: %w", index, err))
		return nil
	}
	return result
}

// Snapshot captures the state.
func (r *replica) Snapshot() (func(w io.Writer) error, error) { return r.state.Snapshot(), nil }

// Restore replaces the state.
func (r *replica) Restore(in io.Reader) error { return r.state.Restore(in) }

// propose writes one decision down and returns its result, whose refusal is in the result. An error means that nobody
// knows whether it was written.
func (r *replica) propose(ctx context.Context, op swarm.Op) (swarm.Result, error) {
	var result swarm.Result
	command, err := swarm.Command{ID: swarm.NewID(), Time: time.Now().UTC(), By: r.self(), Op: op}.Encode()
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

// decideHere writes a decision down that is this leader's alone: in one attempt, never forwarded, so that it cannot come
// true under a later leader who has told somebody otherwise meanwhile.
func (r *replica) decideHere(ctx context.Context, op swarm.Op) error {
	command, err := swarm.Command{ID: swarm.NewID(), Time: time.Now().UTC(), By: r.self(), Op: op}.Encode()
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
