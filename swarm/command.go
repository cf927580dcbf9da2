package swarm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"
	"unicode/utf8"
)

// Protocol is what this offshoot speaks: it understands every command up to this number. A node proposes only what all
// others understand: see Command.Protocol and View.Protocol.
const Protocol = 3

// commandVersion is written into every command; a node that meets a higher one stops loudly instead of guessing.
const commandVersion = 1

// maxCommand bounds an encoded command, bytes, as the ledger does. The largest carries a machine's inventory.
const maxCommand = 256 << 10

// maxID bounds a command's id, bytes; ours have 16.
const maxID = 64

// Command is one decision to be written down. ID makes a retry harmless: the second Apply of an ID returns the first
// one's result.
type Command struct {
	ID    string
	Time  time.Time // the proposer's clock; State never reads one
	By    NodeID    // the node that proposes
	Actor string    // the operator who asked, and from where, at most 200 bytes; "" for what nodes decide themselves
	Op    Op
}

// Protocol is the least that a node must speak to understand the command; 0 if the operation is none of this package.
func (c Command) Protocol() int {
	since := ops[opName(c.Op)].since
	if o, ok := c.Op.(newer); ok {
		since = max(since, o.since())
	}
	return since
}

// newer is an operation that has got fields since: which protocol it takes depends on what it says. An older node would refuse
// a field that it does not know, and stop.
type newer interface{ since() int }

// Op is what a command does. The implementations are the exported structs of this package; their names on the wire are
// in the table below.
type Op interface {
	apply(tx *change) (any, error)
}

// operation is an Op, the protocol since which it exists, and who may forward it to the leader.
type operation struct {
	op    Op
	since int
	who   right
}

var ops = map[string]operation{
	"found": {Found{}, 1, byLeader}, "report-node": {ReportNode{}, 1, bySelf}, "leave-node": {LeaveNode{}, 1, bySelf},
	"evict-node": {EvictNode{}, 1, byOperator}, "trust-node": {TrustNode{}, 1, byOperator},
	"note-certificate": {NoteCertificate{}, 1, byLeader}, "set-voters": {SetVoters{}, 1, byOperator},
	"set-uplink-limit": {SetUplinkLimit{}, 2, byOperator},
	"rotate-keys":      {RotateKeys{}, 1, byOperator}, "advance-keys": {AdvanceKeys{}, 1, byLeader},
	"replace-ca": {ReplaceCA{}, 1, byLeader}, "advance-ca": {AdvanceCA{}, 1, byLeader},
	"add-operator": {AddOperator{}, 1, byLeader}, "revoke-operator": {RevokeOperator{}, 1, byOperator},

	"open-segment": {OpenSegment{}, 1, byMember}, "block-segment": {BlockSegment{}, 1, byHolder}, "set-mode": {SetMode{}, 3, byHolder}, "set-pools": {SetPools{}, 1, byOperator},
	"add-segment": {AddSegment{}, 3, byOperator}, "remove-segment": {RemoveSegment{}, 3, byOperator},
	"grant-duty": {GrantDuty{}, 1, byLeader}, "offer-duty": {OfferDuty{}, 1, byHolder}, "pass-duty": {PassDuty{}, 1, byHolder},

	"see-machine": {SeeMachine{}, 1, byMember}, "name-machine": {NameMachine{}, 1, byOperator}, "arm-machine": {ArmMachine{}, 1, byOperator},
	"hold-machine": {HoldMachine{}, 1, byMember}, "report-install": {ReportInstall{}, 1, byMember},
	"report-free": {ReportFree{}, 3, byMember}, "begin-boot": {BeginBoot{}, 3, byMember}, "request-install": {RequestInstall{}, 3, byMember},
	"release-machine": {ReleaseMachine{}, 3, byOperator}, "reserve-machine": {ReserveMachine{}, 3, byOperator}, "label-machine": {LabelMachine{}, 3, byOperator},
	"set-own-disk": {SetOwnDisk{}, 3, byOperator}, "set-unknown": {SetUnknown{}, 3, byOperator}, "set-console-installs": {SetConsoleInstalls{}, 3, byOperator},
	"hear-machine": {HearMachine{}, lifeSince, byMember}, "note-stall": {NoteStall{}, lifeSince, byLeader},
	"begin-install": {BeginInstall{}, 3, byMember},
	"mint-ticket":   {MintTicket{}, 1, byMember}, "fetch-ticket": {FetchTicket{}, 1, byMember},
	"redeem-ticket": {RedeemTicket{}, 1, byLeader}, "revoke-ticket": {RevokeTicket{}, 1, byOperator},

	"learn-address": {LearnAddress{}, 3, byMember},
	"bind-leases":   {BindLeases{}, 1, byHolder}, "release-lease": {ReleaseLease{}, 1, byHolder},
	"quarantine-address": {QuarantineAddress{}, 1, byHolder}, "forget-idle": {ForgetIdle{}, 1, byLeader},
	"reserve-address": {ReserveAddress{}, 1, byOperator}, "unreserve-address": {UnreserveAddress{}, 1, byOperator},

	"put-profile": {PutProfile{}, 1, byCaller}, "drop-profile": {DropProfile{}, 3, byOperator}, "put-artifact": {PutArtifact{}, 1, byCaller}, "note": {Note{}, 1, byMember},
	"put-repo": {PutRepo{}, 1, byOperator}, "drop-repo": {DropRepo{}, 1, byOperator},
	"put-working-set": {PutWorkingSet{}, 1, byMember}, "pin-artifact": {PinArtifact{}, 1, byOperator}, "withdraw-artifact": {WithdrawArtifact{}, 1, byOperator},
	"set-store": {SetStore{}, 1, byOperator}, "set-stall-after": {SetStallAfter{}, lifeSince, byOperator},
	"set-loader": {SetLoader{}, 3, byOperator}, "learn-loader": {LearnLoader{}, 3, byMember},
	"learn-arch": {LearnArch{}, 3, byMember},
	"set-domain": {SetDomain{}, 3, byOperator}, "set-dns": {SetDNS{}, 3, byOperator}, "set-ntp": {SetNTP{}, 3, byOperator},
}

var opNames = func() map[reflect.Type]string {
	names := make(map[reflect.Type]string, len(ops))
	for name, known := range ops {
		names[reflect.TypeOf(known.op)] = name
	}
	return names
}()

// opName is the name of an operation on the wire; "" for what is none.
func opName(op Op) string { return opNames[reflect.TypeOf(op)] }

type wireCommand[A any] struct {
	Version int       `json:"v"`
	ID      string    `json:"id"`
	Time    time.Time `json:"time"`
	By      NodeID    `json:"by"`
	Actor   string    `json:"actor,omitempty"`
	Op      string    `json:"op"`
	Args    A         `json:"args"`
}

// Encode renders a command for the ledger.
func (c Command) Encode() ([]byte, error) {
	name := opName(c.Op)
	if name == "" {
		return nil, fmt.Errorf("encode command: %T is not an operation", c.Op)
	}
	// What could not be decoded again would stop every node. (JSON replaces invalid UTF-8, which makes it longer.)
	if c.ID == "" || len(c.ID) > maxID || !utf8.ValidString(c.ID) {
		return nil, fmt.Errorf("encode %s: an id of %d bytes, want 1 to %d", name, len(c.ID), maxID)
	}
	if len(c.Actor) > maxActor || !utf8.ValidString(c.Actor) {
		return nil, fmt.Errorf("encode %s: an actor of %d bytes, want at most %d of UTF-8", name, len(c.Actor), maxActor)
	}
	data, err := json.Marshal(wireCommand[any]{commandVersion, c.ID, c.Time, c.By, c.Actor, name, c.Op})
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	if len(data) > maxCommand {
		return nil, fmt.Errorf("encode %s: %d bytes, at most %d", name, len(data), maxCommand)
	}
	return data, nil
}

// DecodeCommand reads what Encode wrote. Unknown operations, unknown fields, trailing data and a higher version are
// errors: a node that cannot apply a command must not go on as if it had.
func DecodeCommand(data []byte) (Command, error) {
	if len(data) > maxCommand {
		return Command{}, fmt.Errorf("decode command: %d bytes, at most %d", len(data), maxCommand)
	}
	var w wireCommand[json.RawMessage]
	if err := decodeStrict(data, &w); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	if w.Version > commandVersion {
		return Command{}, fmt.Errorf("decode command: version %d, this offshoot knows up to %d: upgrade this node", w.Version, commandVersion)
	}
	if w.ID == "" || len(w.ID) > maxID {
		return Command{}, fmt.Errorf("decode command: an id of %d bytes, want 1 to %d", len(w.ID), maxID)
	}
	if len(w.Actor) > maxActor {
		return Command{}, fmt.Errorf("decode command: an actor of %d bytes, at most %d", len(w.Actor), maxActor)
	}
	known, ok := ops[w.Op]
	if !ok {
		return Command{}, fmt.Errorf("decode command: unknown operation %q: upgrade this node", w.Op)
	}
	op := reflect.New(reflect.TypeOf(known.op))
	if err := decodeStrict(w.Args, op.Interface()); err != nil {
		return Command{}, fmt.Errorf("decode command %s: %w", w.Op, err)
	}
	return Command{w.ID, w.Time, w.By, w.Actor, op.Elem().Interface().(Op)}, nil
}

func decodeStrict(data []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(into); err != nil {
		return err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return errors.New("trailing data")
	}
	return nil
}

// Result is the outcome of a command, the same on every node.
type Result struct {
	Value json.RawMessage `json:"value,omitempty"`
	Code  string          `json:"code,omitempty"`
	Text  string          `json:"text,omitempty"`
}

// Err returns the refusal, which matches one of the sentinels of this package, or nil.
func (r Result) Err() error {
	if r.Text == "" {
		return nil
	}
	sentinel, ok := codes[r.Code]
	if !ok {
		return errors.New(r.Text)
	}
	return &refusal{sentinel, r.Text}
}

// Decode stores the command's value in into, which stays as it is if there is none, or returns the refusal.
func (r Result) Decode(into any) error {
	if err := r.Err(); err != nil || len(r.Value) == 0 {
		return err
	}
	return json.Unmarshal(r.Value, into)
}

func resultOf(value any, err error) Result {
	if err != nil {
		r := Result{Text: err.Error()}
		for code, sentinel := range codes {
			if errors.Is(err, sentinel) {
				r.Code = code
			}
		}
		return r
	}
	if value == nil {
		return Result{}
	}
	data, err := json.Marshal(value)
	if err != nil {
		return Result{Text: err.Error()}
	}
	return Result{Value: data}
}
