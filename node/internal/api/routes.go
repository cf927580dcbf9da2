package api

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// routes is everything that can be asked for, and by whom: looking; deciding about machines, tickets, leases and duties;
// deciding who belongs to the swarm.
func routes() map[string]route {
	const view, operate, admin = status.OperatorView, status.OperatorOperate, status.OperatorAdmin
	const machines, members, segments, repos, artifacts, profiles = "offshoot machine list", "offshoot swarm members", "offshoot segment list", "offshoot mirror status", "offshoot artifact list", "offshoot profile list"
	return map[string]route{
		"GET /v1/status":               {role: view, do: func(q *request) (any, error) { return q.desk.Status(q.Context()), nil }},
		"GET /v1/machines/{mac}":       {role: view, do: onMachine(machine)},
		"GET /v1/machines/{mac}/why":   {role: view, do: onMachine(why)},
		"GET /v1/machines/{mac}/log":   {role: view, do: onMachine(log)},
		"GET /v1/leases":               {role: view, do: leases},
		"GET /v1/tickets":              {role: view, do: func(q *request) (any, error) { return orEmpty(q.desk.Tickets()), nil }},
		"GET /v1/operators":            {role: view, do: func(q *request) (any, error) { return orEmpty(q.desk.Operators()), nil }},
		"GET /v1/audit":                {role: view, do: func(q *request) (any, error) { return orEmpty(q.desk.Audit()), nil }},
		"GET /v1/artifacts":            {role: view, do: func(q *request) (any, error) { return orEmpty(q.desk.Artifacts()), nil }},
		"GET /v1/artifacts/{digest}":   {role: view, look: artifacts, do: showArtifact},
		"GET /v1/mirror":               {role: view, do: func(q *request) (any, error) { return q.desk.Mirror(), nil }},
		"GET /v1/profiles":             {role: view, do: func(q *request) (any, error) { return orEmpty(q.desk.Profiles()), nil }},
		"GET /v1/profiles/{name}/lint": {role: view, do: lintProfile},
		"GET /v1/metrics":              {role: view, do: metrics},

		"POST /v1/machines/{mac}/arm":        {role: operate, look: machines, do: onMachine(arm)},
		"POST /v1/machines/{mac}/name":       {role: operate, look: machines, do: onMachine(name)},
		"POST /v1/machines/{mac}/hold":       {role: operate, look: machines, do: onMachine(hold)},
		"POST /v1/machines/{mac}/release":    {role: operate, look: machines, do: onMachine(release)},
		"POST /v1/machines/{mac}/wake":       {role: operate, look: machines, do: onMachine(wake)},
		"POST /v1/machines/{mac}/reserve":    {role: operate, look: machines, do: onMachine(reserveMachine)},
		"POST /v1/machines/{mac}/label":      {role: operate, look: machines, do: onMachine(labelMachine)},
		"POST /v1/machines/{mac}/own-disk":   {role: operate, look: machines, do: onMachine(ownDisk)},
		"POST /v1/machines/{mac}/boot":       {role: operate, look: machines, do: onMachine(setLoader)},
		"POST /v1/tickets/{id}/revoke":       {role: operate, look: "offshoot ticket list", do: revokeTicket},
		"POST /v1/leases/reserve":            {role: operate, look: "offshoot lease list", do: reserve},
		"POST /v1/leases/unreserve":          {role: operate, look: "offshoot lease list", do: unreserve},
		"POST /v1/segments/{segment}/pools":  {role: operate, look: segments, do: pools},
		"POST /v1/segments":                  {role: operate, look: segments, do: addSegment},
		"DELETE /v1/segments/{segment}":      {role: operate, look: segments, do: removeSegment},
		"POST /v1/segments/{segment}/move":   {role: operate, look: segments, do: move},
		"POST /v1/profiles/{name}/prefetch":  {role: operate, look: artifacts, long: true, do: prefetch},
		"POST /v1/artifacts/{digest}/pin":    {role: operate, look: artifacts, do: onArtifact(func(digest string) swarm.Op { return swarm.PinArtifact{Digest: digest, Pinned: true} })},
		"POST /v1/artifacts/{digest}/unpin":  {role: operate, look: artifacts, do: onArtifact(func(digest string) swarm.Op { return swarm.PinArtifact{Digest: digest} })},
		"POST /v1/artifacts/{digest}/verify": {role: operate, look: artifacts, long: true, do: verify},
		"DELETE /v1/artifacts/{digest}":      {role: operate, look: artifacts, do: onArtifact(func(digest string) swarm.Op { return swarm.WithdrawArtifact{Digest: digest} })},
		"PUT /v1/artifacts":                  {role: operate, look: artifacts, long: true, do: upload},
		"GET /v1/profiles/{name}":            {role: operate, do: profile}, // password hashes stand in it
		"PUT /v1/profiles/{name}":            {role: operate, look: profiles, do: putProfile},
		"DELETE /v1/profiles/{name}":         {role: operate, look: profiles, do: dropProfile},
		"GET /v1/machines/{mac}/render":      {role: operate, look: profiles, do: onMachine(render)}, // as well
		"PUT /v1/repos/{name}":               {role: operate, look: repos, do: putRepo},
		"DELETE /v1/repos/{name}":            {role: operate, look: repos, do: dropRepo},

		"POST /v1/unknown":                 {role: admin, look: machines, do: unknown},
		"POST /v1/console-installs":        {role: admin, look: machines, do: consoleInstalls},
		"POST /v1/voters":                  {role: admin, look: members, do: voters},
		"POST /v1/boot":                    {role: admin, look: "offshoot swarm status", do: func(q *request) (any, error) { return setLoader(q, "") }},
		"POST /v1/store":                   {role: admin, look: artifacts, do: setStore},
		"POST /v1/stall-after":             {role: admin, look: "offshoot swarm status", do: stallAfter},
		"POST /v1/uplink-limit":            {role: admin, look: "offshoot swarm status", do: uplinkLimit},
		"POST /v1/domain":                  {role: admin, look: "offshoot swarm status", do: domain},
		"POST /v1/dns":                     {role: admin, look: "offshoot swarm status", do: nameServers},
		"POST /v1/ntp":                     {role: admin, look: "offshoot swarm status", do: timeServers},
		"POST /v1/leave":                   {role: admin, look: members, do: func(q *request) (any, error) { return nil, q.desk.Leave(q.Context(), q.caller.Actor()) }},
		"POST /v1/nodes/{node}/evict":      {role: admin, look: members, do: evict},
		"POST /v1/nodes/{node}/trust":      {role: admin, look: members, do: trust},
		"POST /v1/operators/{name}/revoke": {role: admin, look: "offshoot operator list", do: revokeOperator},
		"POST /v1/keys/rotate":             {role: admin, look: members, do: func(q *request) (any, error) { return nil, q.desk.RotateKeys(q.Context(), q.caller.Actor()) }},
		"POST /v1/operators":               {role: admin, look: "offshoot operator list", do: addOperator},
		"GET /v1/snapshot":                 {role: admin, long: true, do: saveSnapshot},
		"PUT /v1/snapshot":                 {role: admin, long: true, do: restoreSnapshot},
	}
}

// orEmpty makes an empty list of none: programs that read JSON want [], not null.
func orEmpty[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

// maxBody bounds a request other than a snapshot, bytes: the largest carries a keyring.
const maxBody = 256 << 10

// read takes the body apart; an empty one leaves into as it is.
func (q *request) read(into any) error {
	in := json.NewDecoder(http.MaxBytesReader(q.w, q.Body, maxBody))
	in.DisallowUnknownFields()
	err := in.Decode(into)
	if errors.Is(err, io.EOF) {
		return nil
	}
	if err == nil && in.More() {
		err = errors.New("data after the document")
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errBad, err)
	}
	return nil
}

// decide reads the body, makes a decision of it and writes that down.
func decide[T any](q *request, op func(T) (swarm.Op, error)) (any, error) {
	var body T
	if err := q.read(&body); err != nil {
		return nil, err
	}
	decision, err := op(body)
	if err != nil {
		return nil, err
	}
	result, err := q.desk.Propose(q.Context(), q.caller.Actor(), decision)
	if err != nil {
		return nil, err
	}
	if err := result.Err(); err != nil {
		return nil, Refused(err)
	}
	return result.Value, nil
}

// Refused marks an error of a Desk as a refusal, if it matches none of package swarm's: nothing was changed.
func Refused(err error) error { return &refused{err} }

// refused is a refusal in the words of the state.
type refused struct{ error }

func (r *refused) Unwrap() error     { return r.error }
func (r *refused) Is(err error) bool { return err == errRefused }

func onMachine(do func(*request, swarm.MAC) (any, error)) func(*request) (any, error) {
	return func(q *request) (any, error) {
		mac, err := swarm.ParseMAC(q.PathValue("mac"))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBad, err)
		}
		return do(q, mac)
	}
}

func machine(q *request, mac swarm.MAC) (any, error) {
	m, ok := q.desk.Machine(mac)
	if !ok {
		return nil, fmt.Errorf("machine %s is %w: offshoot machine list", mac, errMissing)
	}
	return m, nil
}

func why(q *request, mac swarm.MAC) (any, error) {
	return orEmpty(q.desk.Why(q.Context(), mac)), nil
}

func log(q *request, mac swarm.MAC) (any, error) {
	return orEmpty(q.desk.Log(q.Context(), mac)), nil
}

// RepoRequest is the body of PUT /v1/repos/{name}.
type RepoRequest struct {
	Upstreams []string `json:"upstreams"`
	Keyring   []byte   `json:"keyring,omitempty"`
	Unlisted  bool     `json:"unlisted,omitempty"`
	Proxy     string   `json:"proxy,omitempty"`
	Limit     int64    `json:"limit,omitempty"` // bytes per second
}

// Repo is the repository that the request describes.
func (r RepoRequest) Repo(name string) swarm.Repo {
	return swarm.Repo{Name: name, Upstreams: r.Upstreams, Keyring: r.Keyring, Unlisted: r.Unlisted, Proxy: r.Proxy, Limit: swarm.Rate(r.Limit)}
}

func putRepo(q *request) (any, error) {
	var b RepoRequest
	if err := q.read(&b); err != nil {
		return nil, err
	}
	return nil, q.desk.PutRepo(q.Context(), q.caller.Actor(), b.Repo(q.PathValue("name")))
}

// StoreRequest is the body of POST /v1/store.
type StoreRequest struct {
	Bytes int64 `json:"bytes"`
}

func setStore(q *request) (any, error) {
	return decide(q, func(b StoreRequest) (swarm.Op, error) { return swarm.SetStore{Bytes: b.Bytes}, nil })
}

// prefetch answers with a line of JSON whenever there is something to say, so that who waits can see that it goes on, and for as long
// as that takes. What went wrong stands in the last line: the answer has begun.
func prefetch(q *request) (any, error) {
	control := http.NewResponseController(q.w)
	return stream(func(w io.Writer) error {
		_ = control.SetReadDeadline(time.Time{}) // nothing more is read, and the deadline of a read would end the request
		said, out := false, json.NewEncoder(w)
		say := func(p status.Prefetch) {
			said = true
			_ = control.SetWriteDeadline(time.Now().Add(requestTime))
			_ = out.Encode(p) // who has hung up ends the context
			_ = control.Flush()
		}
		err := q.desk.Prefetch(q.Context(), q.caller.Actor(), q.PathValue("name"), say)
		if err != nil && said {
			say(status.Prefetch{Ended: true, Error: err.Error()})
			return nil
		}
		return err
	}), nil
}

func dropRepo(q *request) (any, error) {
	return decide(q, func(struct{}) (swarm.Op, error) { return swarm.DropRepo{Name: q.PathValue("name")}, nil })
}

// NameRequest is the body of POST /v1/machines/{mac}/name.
type NameRequest struct {
	Name string `json:"name"`
}

func name(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b NameRequest) (swarm.Op, error) { return swarm.NameMachine{MAC: mac, Name: b.Name}, nil })
}

// HoldRequest is the body of POST /v1/machines/{mac}/hold.
type HoldRequest struct {
	Reason string `json:"reason"`
}

func hold(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b HoldRequest) (swarm.Op, error) { return swarm.HoldMachine{MAC: mac, Reason: b.Reason}, nil })
}

// LoaderRequest is the body of POST /v1/machines/{mac}/boot and /v1/boot.
type LoaderRequest struct {
	Loader swarm.Loader `json:"loader"` // empty: auto
}

func setLoader(q *request, mac swarm.MAC) (any, error) {
	return decide(q, func(b LoaderRequest) (swarm.Op, error) { return swarm.SetLoader{MAC: mac, Loader: b.Loader}, nil })
}

// leases answers with all, or with those of one segment (?segment=).
func leases(q *request) (any, error) {
	all, segment := q.desk.Leases(), q.URL.Query().Get("segment")
	if segment == "" {
		return orEmpty(all), nil
	}
	out := []status.Lease{}
	for _, l := range all {
		if l.Segment == segment {
			out = append(out, l)
		}
	}
	return out, nil
}

// AddressRequest is the body of POST /v1/leases/reserve and /v1/leases/unreserve.
type AddressRequest struct {
	MAC     swarm.MAC  `json:"mac"`
	Address netip.Addr `json:"address"`
}

// check reads the MAC in every spelling.
func (b AddressRequest) check() (swarm.MAC, error) {
	mac, err := swarm.ParseMAC(string(b.MAC))
	if err == nil && !b.Address.Is4() {
		err = fmt.Errorf("%q is not an IPv4 address", b.Address)
	}
	if err != nil {
		return "", fmt.Errorf("%w: %w", errBad, err)
	}
	return mac, nil
}

func reserve(q *request) (any, error) {
	return decide(q, func(b AddressRequest) (swarm.Op, error) {
		mac, err := b.check()
		return swarm.ReserveAddress{MAC: mac, Addr: b.Address}, err
	})
}

func unreserve(q *request) (any, error) {
	return decide(q, func(b AddressRequest) (swarm.Op, error) {
		mac, err := b.check()
		return swarm.UnreserveAddress{MAC: mac, Addr: b.Address}, err
	})
}

func revokeTicket(q *request) (any, error) {
	return decide(q, func(struct{}) (swarm.Op, error) { return swarm.RevokeTicket{ID: q.PathValue("id")}, nil })
}

// PoolsRequest is the body of POST /v1/segments/{segment}/pools. None is the default again.
type PoolsRequest struct {
	Pools []Range `json:"pools"`
}

// Range is a run of addresses, both ends included.
type Range struct {
	First netip.Addr `json:"first"`
	Last  netip.Addr `json:"last"`
}

func pools(q *request) (any, error) {
	return decide(q, func(b PoolsRequest) (swarm.Op, error) {
		if b.Pools == nil { // left out is a slip, not the wish for the default
			return nil, fmt.Errorf("%w: pools are missing; [] is the default", errBad)
		}
		op := swarm.SetPools{Segment: q.PathValue("segment")}
		for _, r := range b.Pools {
			op.Pools = append(op.Pools, swarm.AddrRange(r))
		}
		return op, nil
	})
}

// MoveRequest is the body of POST /v1/segments/{segment}/move.
type MoveRequest struct {
	Node string `json:"node"` // name or id
}

// move offers a duty to another node. What cannot be is said before it is written down; the ledger checks the term.
func move(q *request) (any, error) {
	return decide(q, func(b MoveRequest) (swarm.Op, error) {
		plan, err := q.desk.Status(q.Context()).PlanMove(q.PathValue("segment"), b.Node)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBad, err)
		}
		return swarm.OfferDuty{Segment: plan.Segment.ID, Term: plan.Segment.Term, To: swarm.NodeID(plan.To.ID)}, nil
	})
}

// VotersRequest is the body of POST /v1/voters.
type VotersRequest struct {
	Voters int `json:"voters"`
}

func voters(q *request) (any, error) {
	return decide(q, func(b VotersRequest) (swarm.Op, error) { return swarm.SetVoters{Voters: b.Voters}, nil })
}

// UplinkLimitRequest is the body of POST /v1/uplink-limit.
type UplinkLimitRequest struct {
	Limit *int64 `json:"limit"` // bytes per second, 0: none
}

func uplinkLimit(q *request) (any, error) {
	return decide(q, func(b UplinkLimitRequest) (swarm.Op, error) {
		if b.Limit == nil { // left out is a slip, not the wish for none
			return nil, fmt.Errorf("%w: limit is missing; 0 is none", errBad)
		}
		return swarm.SetUplinkLimit{Limit: swarm.Rate(*b.Limit)}, nil
	})
}

// StallAfterRequest is the body of POST /v1/stall-after.
type StallAfterRequest struct {
	Seconds *int `json:"seconds"` // 0: what each phase says
}

func stallAfter(q *request) (any, error) {
	return decide(q, func(b StallAfterRequest) (swarm.Op, error) {
		if b.Seconds == nil { // left out is a slip, not the wish for the default
			return nil, fmt.Errorf("%w: seconds are missing; 0 is the default", errBad)
		}
		return swarm.SetStallAfter{Seconds: *b.Seconds}, nil
	})
}

// EvictRequest is the body of POST /v1/nodes/{node}/evict.
type EvictRequest struct {
	Force    bool `json:"force,omitempty"`     // the operator has seen the risks
	RotateCA bool `json:"rotate_ca,omitempty"` // replace the swarm's CA too, because its key went with the node
}

// evictAnswer says what the swarm is known by afterwards.
type evictAnswer struct {
	Pin string `json:"pin,omitempty"` // of the new CA
}

// evict checks again what the operator's terminal has shown: the swarm may have changed since, and other clients may not have looked.
func evict(q *request) (any, error) {
	var body EvictRequest
	if err := q.read(&body); err != nil {
		return nil, err
	}
	plan, err := q.desk.Status(q.Context()).PlanEviction(q.PathValue("node"), body.RotateCA)
	switch {
	case errors.Is(err, status.ErrUnsafe):
		return nil, err
	case err != nil:
		return nil, fmt.Errorf("%w: %w", errBad, err)
	}
	if err := plan.Check(body.Force); err != nil {
		return nil, err
	}
	pin, err := q.desk.Evict(q.Context(), q.caller.Actor(), swarm.NodeID(plan.Node.ID), body.RotateCA)
	return evictAnswer{pin}, err
}

func trust(q *request) (any, error) {
	return decide(q, func(struct{}) (swarm.Op, error) {
		n, err := q.desk.Status(q.Context()).Find(q.PathValue("node"))
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errBad, err)
		}
		return swarm.TrustNode{Node: swarm.NodeID(n.ID)}, nil
	})
}

func revokeOperator(q *request) (any, error) {
	return decide(q, func(struct{}) (swarm.Op, error) { return swarm.RevokeOperator{Name: q.PathValue("name")}, nil })
}

// OperatorRequest is the body of POST /v1/operators.
type OperatorRequest struct {
	Name string `json:"name"`
	Role string `json:"role"`
}

// operatorAnswer carries the secret file of a new operator.
type operatorAnswer struct {
	File []byte `json:"file"`
}

func addOperator(q *request) (any, error) {
	var body OperatorRequest
	if err := q.read(&body); err != nil {
		return nil, err
	}
	file, err := q.desk.AddOperator(q.Context(), q.caller.Actor(), body.Name, body.Role)
	return operatorAnswer{file}, err
}

func saveSnapshot(q *request) (any, error) {
	return stream(func(w io.Writer) error { return q.desk.SaveSnapshot(q.Context(), w) }), nil
}

// maxSnapshot bounds what a snapshot may have, bytes: a hundred thousand leases have some 40 MB.
const maxSnapshot = 1 << 30

func restoreSnapshot(q *request) (any, error) {
	return nil, q.desk.RestoreSnapshot(q.Context(), q.caller.Actor(), http.MaxBytesReader(q.w, q.Body, maxSnapshot))
}
