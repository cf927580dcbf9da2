package handoff

import (
	"context"
	"fmt"
	"log/slog"
	"path/filepath"
	"time"
)

// Taker is what the take side does with, implemented by node. Every method may be called again after a crash.
type Taker interface {
	// Redeem turns the ticket into a certificate and keeps it on disk, together with what is needed to find the swarm.
	Redeem(ctx context.Context) error
	// ForgetTicket removes the ticket's secret from the disk.
	ForgetTicket(ctx context.Context) error
	// JoinLedger returns when this node's copy of the ledger knows this node.
	JoinLedger(ctx context.Context) error
	// Warm fetches every artifact that the profiles need, and says so in the ledger.
	Warm(ctx context.Context) error
}

// Take is the plan of a machine that becomes a node. It ends warm: from then on the leader may hand duty to it.
func Take(dir string, t Taker, log *slog.Logger) Plan {
	return Plan{Path: filepath.Join(dir, "take.json"), Logger: log, Steps: []Step{
		{"redeem", t.Redeem},
		{"forget-ticket", t.ForgetTicket},
		{"join-ledger", t.JoinLedger},
		{"warm", t.Warm},
	}}
}

// Giver is what the give side of one duty does with, implemented by node.
type Giver interface {
	// StopAnswering returns when no new packet on the segment will be answered any more. What arrives is kept.
	StopAnswering(segment string)
	// Pass writes down that the duty has passed to whom it was offered.
	Pass(ctx context.Context, segment string, term uint64) error
	// Deliver gives the new holder what arrived meanwhile. It may fail: clients ask again.
	Deliver(ctx context.Context, segment string)
}

// deliverTime bounds the delivery. A packet that is older helps nobody: its sender has repeated it.
const deliverTime = 2 * time.Second

// Give hands one duty over. Its record is the offer in the ledger: it stands until the duty has passed, so whoever holds
// the duty after a crash, or is asked again, does the same again. Nothing is answered between the first step and the
// second, so two nodes never answer at once; nothing is lost either, because the third brings it to the new holder.
// Downloads need no step: the old holder goes on sending what it has begun.
func Give(ctx context.Context, g Giver, segment string, term uint64) error {
	g.StopAnswering(segment)
	if err := g.Pass(ctx, segment, term); err != nil {
		return fmt.Errorf("hand over segment %s in term %d: %w", segment, term, err)
	}
	ctx, cancel := context.WithTimeout(ctx, deliverTime)
	defer cancel()
	g.Deliver(ctx, segment)
	return nil
}

// Leaver is what a node that leaves does with, implemented by node.
type Leaver interface {
	// HandOverDuties returns when this node holds none.
	HandOverDuties(ctx context.Context) error
	// SayGoodbye writes into the ledger that this node has left.
	SayGoodbye(ctx context.Context) error
	// GiveUpVote returns when this node neither leads nor votes, or nobody else could.
	GiveUpVote(ctx context.Context) error
}

// Leave is the plan of a node that leaves for good.
func Leave(dir string, l Leaver, log *slog.Logger) Plan {
	return Plan{Path: filepath.Join(dir, "leave.json"), Logger: log, Steps: []Step{
		{"hand-over-duties", l.HandOverDuties},
		{"say-goodbye", l.SayGoodbye},
		{"give-up-vote", l.GiveUpVote},
	}}
}
