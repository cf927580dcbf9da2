// Package api is the operator's way into a node: HTTP on a unix socket in the data directory, for root and the group offshoot,
// or on the operator port, for operators with a certificate. The command line is its client; server and client stand side by
// side here. It knows who asks and what each role may ask for, and refuses the rest; apart from that it decides nothing: what an
// operator asks for becomes a command of the ledger, with the operator's name on it. Only node imports it, and hands the client
// to cmd.
package api

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"offshoot/node/status"
	"offshoot/swarm"
)

// Desk is what operators can ask a node for; node implements it. Its methods are called from many goroutines. actor says who
// asked and from where, for the audit log. An error that matches a refusal of package swarm, or status.ErrUnsafe, or was
// made by Refused, means that nothing was changed; after any other one nobody knows.
type Desk interface {
	Status(ctx context.Context) status.Status
	// Machine returns one machine with its timeline; ok is false if it is not known.
	Machine(mac swarm.MAC) (m status.Machine, ok bool)
	// Why gathers the traces of a machine from every node that can be reached.
	Why(ctx context.Context, mac swarm.MAC) []status.Trace
	// Log gathers a machine's lines of syslog from every node that can be reached.
	Log(ctx context.Context, mac swarm.MAC) []status.LogLine
	// Leases, Tickets, Operators and Audit read lists out of this node's copy of the state. Audit is in the order of time.
	Leases() []status.Lease
	Tickets() []status.Ticket
	Operators() []status.Operator
	Audit() []status.AuditEntry
	// Mirror is this node's mirror of package repositories.
	Mirror() status.Mirror
	Artifacts() []status.Artifact
	// Medium is what an artifact is for that is an ISO image, as far as it is here; nil if it is none.
	Medium(digest string) *status.Medium
	// AddArtifact stores bytes under their digest, and writes them down with what the operator says of them. size is -1 if he does not
	// know it.
	AddArtifact(ctx context.Context, actor string, u Upload, size int64, r io.Reader) (status.Artifact, error)
	// VerifyArtifact hashes this node's bytes again. Damaged ones are thrown away.
	VerifyArtifact(ctx context.Context, actor string, a status.Artifact) (status.Verification, error)
	// Prefetch fetches what a profile needs to this node, now. say is called in order, from one goroutine; before it was called
	// for the first time nothing was done. It ends with ctx, and what has come by then stays.
	Prefetch(ctx context.Context, actor, profile string, say func(status.Prefetch)) error

	Profiler

	// Propose writes an operator's decision down.
	Propose(ctx context.Context, actor string, op swarm.Op) (swarm.Result, error)
	// Leave begins to hand everything over and to stop; it returns when that is done, or cannot be.
	Leave(ctx context.Context, actor string) error
	// Evict puts a node out for good: certificate revoked, gossip key changed. With rotateCA the swarm gets a new CA as well,
	// with this pin. The caller has checked that it is safe.
	Evict(ctx context.Context, actor string, node swarm.NodeID, rotateCA bool) (pin string, err error)
	// AddOperator makes a certificate with its key. The file is the secret; it is kept nowhere.
	AddOperator(ctx context.Context, actor, name, role string) (file []byte, err error)
	// Wake sends a magic packet to a machine, on the segment where it was seen last.
	Wake(ctx context.Context, actor string, mac swarm.MAC) (segment string, err error)
	// PutRepo has a repository mirrored, after a look at its keyring.
	PutRepo(ctx context.Context, actor string, repo swarm.Repo) error
	// RotateKeys begins to change the gossip key.
	RotateKeys(ctx context.Context, actor string) error
	// SaveSnapshot writes the whole state, secrets of the swarm included. If it errs after its first byte, what was written
	// is worth nothing.
	SaveSnapshot(ctx context.Context, w io.Writer) error
	// RestoreSnapshot replaces the whole state. Garbage is refused before anything changes.
	RestoreSnapshot(ctx context.Context, actor string, r io.Reader) error
}

// Caller is who asks: proven by the kernel on the socket, by a certificate on the operator port.
type Caller struct {
	Name string // "root (uid 0)", "operator alice"
	Role string // view, operate, admin (package status)
	From string // an address, or "local socket"
}

// What the audit log has room for, bytes; package swarm refuses more than both with what is between.
const (
	maxName = 120
	maxFrom = 70 // an IPv6 address with zone and port fits
)

// Actor is the caller as the audit log knows it.
func (c Caller) Actor() string { return printable(c.Name, maxName) + ", " + printable(c.From, maxFrom) }

// printable keeps to one line of at most so many bytes.
func printable(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) || r == utf8.RuneError {
			return '?'
		}
		return r
	}, s)
	for len(s) > most {
		_, last := utf8.DecodeLastRuneInString(s)
		s = s[:len(s)-last]
	}
	return s
}

// ranks orders the roles: each may do what those before it may. A role that is not here may do nothing.
var ranks = []string{status.OperatorView, status.OperatorOperate, status.OperatorAdmin}

func (c Caller) may(least string) bool {
	has, needs := slices.Index(ranks, c.Role), slices.Index(ranks, least)
	return has >= 0 && needs >= 0 && has >= needs
}

// ErrForbidden: the caller is known, and its role does not allow what it asked for; or it is not known.
var ErrForbidden = errors.New("not allowed")

// errBad is a request that makes no sense, errMissing one about something that is not there.
var (
	errBad     = errors.New("request")
	errMissing = errors.New("not known")
)

// request is one question of a caller.
type request struct {
	*http.Request
	desk   Desk
	caller Caller
	w      http.ResponseWriter
}

// stream is an answer that is written as it is made.
type stream func(w io.Writer) error

// route is one thing that can be asked for.
type route struct {
	role string // the least that may ask
	look string // command that shows what a refusal is about: the operator's next step
	long bool   // moves a snapshot
	do   func(*request) (any, error)
}

// Handler serves a desk to whom who knows. An error of who is told to the caller.
func Handler(d Desk, who func(*http.Request) (Caller, error)) http.Handler {
	mux := http.NewServeMux()
	for pattern, r := range routes() {
		mux.Handle(pattern, r.handler(d, who))
	}
	return mux
}

// Bounds of one request: a caller that neither sends nor reads does not hold us. Long ones move a snapshot over a bad line.
const (
	requestTime = time.Minute
	longTime    = time.Hour
)

func (rt route) handler(d Desk, who func(*http.Request) (Caller, error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		caller, err := who(r)
		if err != nil {
			refuse(w, http.StatusForbidden, err.Error())
			return
		}
		if !caller.may(rt.role) {
			refuse(w, http.StatusForbidden, fmt.Sprintf("%s has the role %q, and this takes %q; an admin can give you that: offshoot operator add NAME --role %s -o FILE", caller.Name, caller.Role, rt.role, rt.role))
			return
		}
		bound := requestTime
		if rt.long {
			bound = longTime
		}
		// Not every writer has deadlines: those of tests have none.
		control, until := http.NewResponseController(w), time.Now().Add(bound)
		_, _ = control.SetReadDeadline(until), control.SetWriteDeadline(until)
		value, err := rt.do(&request{r, d, caller, w})
		if err != nil {
			rt.fail(w, err)
			return
		}
		if write, ok := value.(stream); ok {
			rt.pour(w, write)
			return
		}
		if text, ok := value.(document); ok {
			w.Header().Set("Content-Type", text.kind)
			_, _ = w.Write(text.body) // as below
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(value) // the operator has gone: nothing to be done
	})
}

// pour writes a stream. After its first byte an error can only be told by breaking off, which the client notices.
func (rt route) pour(w http.ResponseWriter, write stream) {
	counted := &counter{w: w}
	w.Header().Set("Content-Type", "application/octet-stream")
	switch err := write(counted); {
	case err == nil:
	case counted.n == 0:
		rt.fail(w, err)
	default:
		panic(http.ErrAbortHandler) // net/http's own way to say so
	}
}

type counter struct {
	w io.Writer
	n int64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += int64(n)
	return n, err
}

// refusals are what the state answers when it changes nothing.
var refusals = []error{
	swarm.ErrNotFound, swarm.ErrNotHolder, swarm.ErrAddressTaken, swarm.ErrTicket, swarm.ErrTicketUsed, swarm.ErrNotArmed,
	swarm.ErrConflict, swarm.ErrFull, swarm.ErrInvalid, errRefused,
}

// errRefused marks a result of the ledger that is a refusal of no known kind: of a newer leader, perhaps.
var errRefused = errors.New("refused")

// fail answers an error, with the next step where the error does not say one.
func (rt route) fail(w http.ResponseWriter, err error) {
	code, text := http.StatusServiceUnavailable, err.Error()
	switch {
	case errors.Is(err, errBad):
		code = http.StatusBadRequest
	case errors.Is(err, errMissing):
		code = http.StatusNotFound
	case errors.Is(err, status.ErrUnsafe):
		code = http.StatusPreconditionFailed
	case slices.ContainsFunc(refusals, func(is error) bool { return errors.Is(err, is) }):
		code = http.StatusConflict
		if rt.look != "" {
			text += "; see: " + rt.look
		}
	default:
		text += "; see: offshoot swarm status"
	}
	refuse(w, code, text)
}

func refuse(w http.ResponseWriter, code int, text string) { http.Error(w, text, code) }
