package swarm

import (
	"errors"
	"fmt"
)

// Refusals of State.Apply. They are part of the replicated result, so they travel by code and compare with errors.Is on
// every node.
var (
	// ErrNotFound: the command names something that is not in the state.
	ErrNotFound = errors.New("not found")
	// ErrNotHolder: the node that proposed does not hold duty on that segment, or not in that term any more.
	ErrNotHolder = errors.New("does not hold this duty")
	// ErrAddressTaken: the address is bound to another machine, or quarantined.
	ErrAddressTaken = errors.New("address is taken")
	// ErrTicket: the ticket is unknown, expired, revoked, or for another machine.
	ErrTicket = errors.New("ticket refused")
	// ErrTicketUsed: the ticket was redeemed before, by another key.
	ErrTicketUsed = errors.New("ticket was already redeemed")
	// ErrNotArmed: the machine is not to be installed.
	ErrNotArmed = errors.New("machine is not armed")
	// ErrConflict: the command does not fit the state any more; look again.
	ErrConflict = errors.New("conflicts with the present state")
	// ErrFull: nothing left of what was asked for.
	ErrFull = errors.New("exhausted")
	// ErrInvalid: the command itself makes no sense.
	ErrInvalid = errors.New("invalid command")
)

var codes = map[string]error{
	"not-found": ErrNotFound, "not-holder": ErrNotHolder, "address-taken": ErrAddressTaken, "ticket": ErrTicket,
	"ticket-used": ErrTicketUsed, "not-armed": ErrNotArmed, "conflict": ErrConflict, "full": ErrFull, "invalid": ErrInvalid,
}

// refusal keeps the words of an error and its sentinel together across the wire.
type refusal struct {
	sentinel error
	text     string
}

func (r *refusal) Error() string { return r.text }
func (r *refusal) Unwrap() error { return r.sentinel }

func refuse(sentinel error, format string, args ...any) error {
	return &refusal{sentinel, fmt.Sprintf(format, args...) + ": " + sentinel.Error()}
}
