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
	// StopAnswering returns when no new packet on the segment will be answered any more.
	StopAnswering(segment string)
	// Drain returns when what was begun has ended, or ctx has.
	Drain(ctx context.Context, segment string)
	// Pass writes down that the duty has passed to whom it was offered.
	Pass(ctx context.Context, segment string, term uint64) error
}

// drainTime bounds how long a duty waits for transfers that are under way. Clients of longer ones resume elsewhere.
const drainTime = 2 * time.Second

// Give hands one duty over. Its record is the offer in the ledger: it stands until the duty has passed, so whoever holds
// the duty after a crash, or is asked again, does the same again. Nothing is answered between the first step and the last,
// so two nodes never answer at once.
func Give(ctx context.Context, g Giver, segment string, term uint64) error {
	g.StopAnswering(segment)
	bounded, cancel := context.WithTimeout(ctx, drainTime)
	g.Drain(bounded, segment)
	cancel()
	if err := g.Pass(ctx, segment, term); err != nil {
		return fmt.Errorf("hand over segment %s in term %d: %w", segment, term, err)
	}
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
