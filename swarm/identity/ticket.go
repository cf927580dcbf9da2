package identity

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"log/slog"
	"strings"

	"offshoot/swarm"
)

const (
	ticketPrefix = "os1"
	secretSize   = 16 // 128 bits
)

// ErrTicketForm says that a text is no ticket. It never quotes the text: it could be a ticket with one letter missing.
var ErrTicketForm = errors.New("not a ticket: want os1.<id>.<secret>")

// Ticket is the one-time right of one machine to become a node: "os1.<id>.<secret>", 16 hexadecimal digits and 22
// characters of base64url. Whatever prints, logs or marshals it shows the id only; Reveal is the one way to the secret.
type Ticket struct {
	id string
	// secret is a function because fmt prints unexported fields, and behind pointers too when the verb does not fit, but
	// of a function never more than its address. nil for the zero Ticket.
	secret func() [secretSize]byte
}

// NewTicket draws a fresh id and secret.
func NewTicket() Ticket {
	var secret [secretSize]byte
	_, _ = rand.Read(secret[:]) // never fails, see its documentation
	return Ticket{id: swarm.NewID(), secret: hide(secret)}
}

// ParseTicket accepts exactly what Reveal writes.
func ParseTicket(s string) (Ticket, error) {
	parts := strings.Split(s, ".")
	if len(parts) != 3 || parts[0] != ticketPrefix || len(parts[1]) != 16 || !isHex(parts[1]) {
		return Ticket{}, ErrTicketForm
	}
	if len(parts[2]) != base64.RawURLEncoding.EncodedLen(secretSize) { // first: the decoder skips line ends
		return Ticket{}, ErrTicketForm
	}
	secret, err := base64.RawURLEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(secret) != secretSize {
		return Ticket{}, ErrTicketForm
	}
	return Ticket{id: parts[1], secret: hide([secretSize]byte(secret))}, nil
}

// hide keeps v where no print reaches it.
func hide[T any](v T) func() T { return func() T { return v } }

// ID names the ticket in the ledger, in events and in logs.
func (t Ticket) ID() string { return t.id }

// Hash is the SHA-256 of the secret in hexadecimal: what the ledger keeps. "" for the zero Ticket.
func (t Ticket) Hash() string {
	if t.secret == nil {
		return ""
	}
	secret := t.secret()
	sum := sha256.Sum256(secret[:])
	return hex.EncodeToString(sum[:])
}

// Matches says in constant time whether hash is this ticket's. The zero Ticket matches nothing.
func (t Ticket) Matches(hash string) bool {
	return t.secret != nil && subtle.ConstantTimeCompare([]byte(t.Hash()), []byte(hash)) == 1
}

// Reveal is the whole ticket with its secret: for the install configuration, join.json and the redeeming request.
func (t Ticket) Reveal() string {
	if t.secret == nil {
		return ""
	}
	secret := t.secret()
	return ticketPrefix + "." + t.id + "." + base64.RawURLEncoding.EncodeToString(secret[:])
}

// String shows the id only.
func (t Ticket) String() string { return ticketPrefix + "." + t.id + ".***" }

// GoString shows the id only.
func (t Ticket) GoString() string { return t.String() }

// LogValue shows the id only.
func (t Ticket) LogValue() slog.Value { return slog.StringValue(t.String()) }

// MarshalText shows the id only: a ticket inside something that is logged as JSON must not leak.
func (t Ticket) MarshalText() ([]byte, error) { return []byte(t.String()), nil }
