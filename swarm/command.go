package swarm

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"time"
)

// commandVersion is written into every command; a node that meets a higher one stops loudly instead of guessing.
const commandVersion = 1

// maxCommand bounds an encoded command, bytes, as the ledger does. The largest carries a machine's inventory.
const maxCommand = 256 << 10

// maxID bounds a command's id, bytes; ours have 16.
const maxID = 64

// Command is one decision to be written down. ID makes a retry harmless: the second Apply of an ID returns the first
// one's result.
type Command struct {
	ID   string
	Time time.Time // the proposer's clock; State never reads one
	By   NodeID    // the node that proposes
	Op   Op
}

// Op is what a command does. The implementations are the exported structs of this package; their names on the wire are
// in the table below.
type Op interface {
	apply(tx *change) (any, error)
}

var ops = map[string]Op{
	"found": Found{}, "report-node": ReportNode{}, "leave-node": LeaveNode{}, "set-voters": SetVoters{},
	"open-segment": OpenSegment{}, "block-segment": BlockSegment{},
	"grant-duty": GrantDuty{}, "offer-duty": OfferDuty{}, "pass-duty": PassDuty{},
	"see-machine": SeeMachine{}, "name-machine": NameMachine{}, "arm-machine": ArmMachine{}, "hold-machine": HoldMachine{},
	"report-install": ReportInstall{},
	"mint-ticket":    MintTicket{}, "fetch-ticket": FetchTicket{}, "redeem-ticket": RedeemTicket{},
	"bind-lease": BindLease{}, "release-lease": ReleaseLease{}, "quarantine-address": QuarantineAddress{},
	"put-profile": PutProfile{}, "put-artifact": PutArtifact{}, "note": Note{},
}

var opNames = func() map[reflect.Type]string {
	names := make(map[reflect.Type]string, len(ops))
	for name, op := range ops {
		names[reflect.TypeOf(op)] = name
	}
	return names
}()

type wireCommand struct {
	Version int             `json:"v"`
	ID      string          `json:"id"`
	Time    time.Time       `json:"time"`
	By      NodeID          `json:"by"`
	Op      string          `json:"op"`
	Args    json.RawMessage `json:"args"`
}

// Encode renders a command for the ledger.
func (c Command) Encode() ([]byte, error) {
	name, ok := opNames[reflect.TypeOf(c.Op)]
	if !ok {
		return nil, fmt.Errorf("encode command: %T is not an operation", c.Op)
	}
	args, err := json.Marshal(c.Op)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", name, err)
	}
	return json.Marshal(wireCommand{commandVersion, c.ID, c.Time, c.By, name, args})
}

// DecodeCommand reads what Encode wrote. Unknown operations, unknown fields, trailing data and a higher version are
// errors: a node that cannot apply a command must not go on as if it had.
func DecodeCommand(data []byte) (Command, error) {
	if len(data) > maxCommand {
		return Command{}, fmt.Errorf("decode command: %d bytes, at most %d", len(data), maxCommand)
	}
	var w wireCommand
	if err := decodeStrict(data, &w); err != nil {
		return Command{}, fmt.Errorf("decode command: %w", err)
	}
	if w.Version > commandVersion {
		return Command{}, fmt.Errorf("decode command: version %d, this offshoot knows up to %d: upgrade this node", w.Version, commandVersion)
	}
	if w.ID == "" || len(w.ID) > maxID {
		return Command{}, fmt.Errorf("decode command: an id of %d bytes, want 1 to %d", len(w.ID), maxID)
	}
	proto, ok := ops[w.Op]
	if !ok {
		return Command{}, fmt.Errorf("decode command: unknown operation %q: upgrade this node", w.Op)
	}
	op := reflect.New(reflect.TypeOf(proto))
	if err := decodeStrict(w.Args, op.Interface()); err != nil {
		return Command{}, fmt.Errorf("decode command %s: %w", w.Op, err)
	}
	return Command{w.ID, w.Time, w.By, op.Elem().Interface().(Op)}, nil
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

// Decode stores the command's value in into, or returns the refusal.
func (r Result) Decode(into any) error {
	if err := r.Err(); err != nil {
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
