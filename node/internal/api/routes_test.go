package api

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"

	"offshoot/node/status"
	"offshoot/swarm"
)

func TestClientAndServerAgreeOnEveryQuestion(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	c, ctx := NewClient(serve(t, desk)), t.Context()
	if s, err := c.Status(ctx); err != nil || s.Swarm != "5eed" || !s.Quorum {
		t.Errorf("status %+v, %v", s, err)
	}
	if m, err := c.Machine(ctx, mac); err != nil || m.Name != "m1" {
		t.Errorf("machine %+v, %v", m, err)
	}
	if w, err := c.Why(ctx, mac); err != nil || len(w) != 1 || w[0].What != "DISCOVER" {
		t.Errorf("why %+v, %v", w, err)
	}
	if l, err := c.Leases(ctx, ""); err != nil || len(l) != 2 {
		t.Errorf("leases %+v, %v", l, err)
	}
	if l, err := c.Leases(ctx, "s2"); err != nil || len(l) != 1 || l[0].Address != "10.42.0.17" {
		t.Errorf("leases of s2 %+v, %v", l, err)
	}
	if l, err := c.Leases(ctx, "s2&x=s1"); err != nil || len(l) != 0 || l == nil {
		t.Errorf("leases of no segment %+v, %v", l, err)
	}
	if l, err := c.Tickets(ctx); err != nil || len(l) != 1 || l[0].ID != "t1" {
		t.Errorf("tickets %+v, %v", l, err)
	}
	if l, err := c.Operators(ctx); err != nil || len(l) != 1 || l[0].Name != "alice" {
		t.Errorf("operators %+v, %v", l, err)
	}
	if l, err := c.Audit(ctx); err != nil || l == nil || len(l) != 0 {
		t.Errorf("audit %+v, %v: want an empty list, not none", l, err)
	}
}

func TestPrefetchIsToldInStepsAndItsFailureInTheLast(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	c, ctx := NewClient(serve(t, desk)), t.Context()
	var said []status.Prefetch
	say := func(p status.Prefetch) { said = append(said, p) }
	if err := c.Prefetch(ctx, "a profile", say); err != nil || len(said) != 2 || said[0].Done != 5 || !said[1].Ended || desk.did[0] != "prefetch a profile" {
		t.Errorf("%v: %+v, %q", err, said, desk.did)
	}
	desk.err, desk.broken = errors.New("upstream is gone; next: wait"), true
	if err := c.Prefetch(ctx, "p", say); err == nil || err.Error() != desk.err.Error() {
		t.Errorf("in the middle: %v", err)
	}
	desk.err, desk.broken = fmt.Errorf("profile: %w", swarm.ErrNotFound), false
	if err := c.Prefetch(ctx, "p", say); err == nil || !strings.Contains(err.Error(), "profile: not found; see: offshoot artifact list") {
		t.Errorf("before the first word: %v", err)
	}
}

func TestArtifactIsNamedByTheBeginningOfItsDigest(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	c, ctx := NewClient(serve(t, desk)), t.Context()
	if err := errors.Join(c.PinArtifact(ctx, "abcdef12", true), c.PinArtifact(ctx, "abcdef5678", false), c.WithdrawArtifact(ctx, "abcdef123"), c.SetStore(ctx, 1<<40)); err != nil {
		t.Fatal(err)
	}
	want := []swarm.Op{swarm.PinArtifact{Digest: "abcdef1234", Pinned: true}, swarm.PinArtifact{Digest: "abcdef5678"}, swarm.WithdrawArtifact{Digest: "abcdef1234"}, swarm.SetStore{Bytes: 1 << 40}}
	if !reflect.DeepEqual(desk.ops, want) {
		t.Errorf("%+v", desk.ops)
	}
	for begin, words := range map[string]string{"abcdef": "2 artifacts begin with abcdef", "abcd": "6 digits at least", "999999": "not known: offshoot artifact list", "ABCDEF12": "not known"} {
		if err := c.WithdrawArtifact(ctx, begin); err == nil || !strings.Contains(err.Error(), words) {
			t.Errorf("%s: %v", begin, err)
		}
	}
	if len(desk.ops) != len(want) {
		t.Errorf("%+v", desk.ops[len(want):])
	}
}

// crowd is a swarm in which m2 can be evicted, and m3 take the duty on s1.
func crowd() status.Status {
	return status.Status{
		Swarm: "5eed", Quorum: true, Asked: "m1",
		Nodes: []status.Node{
			{ID: "a1", Name: "m1", State: status.NodeAlive, Role: status.RoleLeader}, {ID: "a2", Name: "m2", State: status.NodeAlive, Role: status.RoleLearner},
			{ID: "a3", Name: "m3", State: status.NodeAlive, Role: status.RoleLearner},
		},
		Segments: []status.Segment{{ID: "s1", Holder: "m2", Term: 7, Nodes: []string{"m2", "m3"}}},
	}
}

// second is the error of a call that returns something besides.
func second[T any](_ T, err error) error { return err }

func TestClientAndServerAgreeOnEveryDecision(t *testing.T) {
	t.Parallel()
	desk := &clerk{state: crowd()}
	c, ctx := NewClient(serve(t, desk)), t.Context()
	addr, last := netip.MustParseAddr("192.168.42.60"), netip.MustParseAddr("192.168.42.99")
	for i, err := range []error{
		c.Arm(ctx, mac, ArmRequest{Profile: "p", Disk: "smallest", Wipe: true}), c.Name(ctx, mac, "web"), c.Hold(ctx, mac, "smells"), c.SetVoters(ctx, 3),
		c.Trust(ctx, "m2"), c.RevokeOperator(ctx, "alice"), c.RevokeTicket(ctx, "7c1f"), c.ReserveAddress(ctx, mac, addr), c.UnreserveAddress(ctx, mac, addr),
		c.SetPools(ctx, "s1", []Range{{addr, last}}), c.SetPools(ctx, "s/1", nil), c.MoveDuty(ctx, "s1", "m3"),
		second(c.Evict(ctx, "a2", EvictRequest{})), c.RotateKeys(ctx), c.RestoreSnapshot(ctx, strings.NewReader("all")), c.Leave(ctx),
		c.PutRepo(ctx, "debian", RepoRequest{Upstreams: []string{"http://u/"}, Keyring: []byte("k"), Unlisted: true}), c.DropRepo(ctx, "debian"),
		c.SetUplinkLimit(ctx, 20_000_000), c.SetUplinkLimit(ctx, 0), c.SetLoader(ctx, mac, swarm.LoaderSigned), c.SetLoader(ctx, "", swarm.LoaderAuto),
	} {
		if err != nil {
			t.Errorf("%d: %v", i, err)
		}
	}
	if pin, err := c.Evict(ctx, "a2", EvictRequest{RotateCA: true}); err != nil || pin != "sha256:new" {
		t.Errorf("pin %q, %v", pin, err)
	}
	if file, err := c.AddOperator(ctx, "bob", status.OperatorView); err != nil || string(file) != "the secret of bob" {
		t.Errorf("file %q, %v", file, err)
	}
	want := []swarm.Op{
		swarm.ArmMachine{MAC: mac, Profile: "p", Disk: "smallest", Wipe: true}, swarm.NameMachine{MAC: mac, Name: "web"},
		swarm.HoldMachine{MAC: mac, Reason: "smells"}, swarm.SetVoters{Voters: 3},
		swarm.TrustNode{Node: "a2"}, swarm.RevokeOperator{Name: "alice"}, swarm.RevokeTicket{ID: "7c1f"},
		swarm.ReserveAddress{MAC: mac, Addr: addr}, swarm.UnreserveAddress{MAC: mac, Addr: addr},
		swarm.SetPools{Segment: "s1", Pools: []swarm.AddrRange{{First: addr, Last: last}}}, swarm.SetPools{Segment: "s/1"},
		swarm.OfferDuty{Segment: "s1", Term: 7, To: "a3"}, swarm.DropRepo{Name: "debian"},
		swarm.SetUplinkLimit{Limit: 20_000_000}, swarm.SetUplinkLimit{},
		swarm.SetLoader{MAC: mac, Loader: swarm.LoaderSigned}, swarm.SetLoader{},
	}
	if !reflect.DeepEqual(desk.ops, want) {
		t.Errorf("decided %+v", desk.ops)
	}
	if did := []string{"evict a2", "rotate", "restore all", "leave", `mirror debian of [http://u/], keyring "k", unlisted true`, "evict a2 and replace the CA", "add bob view"}; !slices.Equal(desk.did, did) {
		t.Errorf("did %q, want %q", desk.did, did)
	}
	for _, actor := range desk.actors {
		if !strings.HasSuffix(actor, "), local socket") {
			t.Errorf("the audit log would read %q", actor)
		}
	}
}

func TestSnapshotArrivesWholeOrIsAnError(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	c := NewClient(serve(t, desk))
	var all bytes.Buffer
	if err := c.SaveSnapshot(t.Context(), &all); err != nil || all.Len() != len("everything ")*1000 {
		t.Errorf("%d bytes, %v", all.Len(), err)
	}
	desk.broken = true
	if err := c.SaveSnapshot(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "broke off") {
		t.Errorf("broken in the middle: %v", err)
	}
	desk.err = errors.New("no majority")
	if err := c.SaveSnapshot(t.Context(), io.Discard); err == nil || !strings.Contains(err.Error(), "no majority") {
		t.Errorf("refused at once: %v", err)
	}
}

// The terminal asks first, but who speaks HTTP need not: the node judges for itself.
func TestUnsafeEvictionIsRefusedByTheNodeUnlessForced(t *testing.T) {
	t.Parallel()
	state := crowd()
	state.Nodes[2].State = status.NodeGone
	desk := &clerk{state: state}
	c := NewClient(serve(t, desk))
	_, err := c.Evict(t.Context(), "a2", EvictRequest{})
	if !errors.Is(err, status.ErrUnsafe) || !strings.Contains(err.Error(), "no other living node is on it") || len(desk.did) != 0 {
		t.Errorf("got %v, did %q", err, desk.did)
	}
	if _, err := c.Evict(t.Context(), "a2", EvictRequest{Force: true}); err != nil || !slices.Equal(desk.did, []string{"evict a2"}) {
		t.Errorf("forced: %v, did %q", err, desk.did)
	}
	for _, node := range []string{"a1", "a9"} { // the last voter, and nobody
		if _, err := c.Evict(t.Context(), node, EvictRequest{Force: true}); err == nil || len(desk.did) != 1 {
			t.Errorf("%s: %v, did %q", node, err, desk.did)
		}
	}
}

func TestMoveThatCannotBeIsRefusedBeforeItIsWrittenDown(t *testing.T) {
	t.Parallel()
	desk := &clerk{state: crowd()}
	c := NewClient(serve(t, desk))
	if err := c.MoveDuty(t.Context(), "s1", "m1"); err == nil || !strings.Contains(err.Error(), "on it: m2, m3") || len(desk.ops) != 0 {
		t.Errorf("got %v, decided %v", err, desk.ops)
	}
}

func TestPoolsThatAreLeftOutAreNotTheDefault(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", "{}", `{"pools":null}`} {
		desk := &clerk{}
		if w := ask(desk, http.MethodPost, "/v1/segments/s1/pools", body); w.Code != http.StatusBadRequest || len(desk.ops) != 0 {
			t.Errorf("%q: answered %d, decided %v", body, w.Code, desk.ops)
		}
	}
}

func TestReservationNeedsAMACAndAnIPv4Address(t *testing.T) {
	t.Parallel()
	for _, body := range []string{"", `{"mac":"x","address":"192.168.42.60"}`, `{"mac":"52:54:00:00:00:01"}`, `{"mac":"52:54:00:00:00:01","address":"fd00::1"}`} {
		for _, path := range []string{"/v1/leases/reserve", "/v1/leases/unreserve"} {
			desk := &clerk{}
			if w := ask(desk, http.MethodPost, path, body); w.Code != http.StatusBadRequest || len(desk.ops) != 0 {
				t.Errorf("%s %q: answered %d, decided %v", path, body, w.Code, desk.ops)
			}
		}
	}
}

func TestBodyThatIsNotUnderstoodDecidesNothing(t *testing.T) {
	t.Parallel()
	for name, body := range map[string]string{
		"unknown field": `{"profil":"p"}`, "garbage": `wipe`, "wrong type": `{"wipe":"yes"}`, "half": `{"wipe":true`,
		"trailing": `{"disk":"smallest"}{"wipe":true}`, "oversize": `{"disk":"` + strings.Repeat("x", maxBody) + `"}`,
	} {
		desk := &clerk{}
		w := ask(desk, http.MethodPost, "/v1/machines/"+string(mac)+"/arm", body)
		if w.Code != http.StatusBadRequest || len(desk.ops) != 0 || !strings.HasPrefix(w.Body.String(), "request: ") {
			t.Errorf("%s: answered %d %q, decided %v", name, w.Code, w.Body, desk.ops)
		}
	}
}

func TestEmptyBodyArmsWithTheDefaults(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	if w := ask(desk, http.MethodPost, "/v1/machines/"+string(mac)+"/arm", ""); w.Code != http.StatusOK || !reflect.DeepEqual(desk.ops, []swarm.Op{swarm.ArmMachine{MAC: mac}}) {
		t.Errorf("answered %d, decided %v", w.Code, desk.ops)
	}
}

func TestMACThatIsNoneIsABadRequest(t *testing.T) {
	t.Parallel()
	for _, call := range []string{"GET /v1/machines/nonsense", "GET /v1/machines/52:54:00/why", "POST /v1/machines/x/arm", "POST /v1/machines/x/name", "POST /v1/machines/x/hold"} {
		method, path, _ := strings.Cut(call, " ")
		desk := &clerk{}
		if w := ask(desk, method, path, "{}"); w.Code != http.StatusBadRequest || !strings.Contains(w.Body.String(), "not an Ethernet address") || len(desk.ops) != 0 {
			t.Errorf("%s: answered %d %q", call, w.Code, w.Body)
		}
	}
}

func TestMACIsAcceptedInEverySpelling(t *testing.T) {
	t.Parallel()
	desk := &clerk{}
	if w := ask(desk, http.MethodPost, "/v1/machines/52-54-00-00-00-01/hold", `{"reason":"x"}`); w.Code != http.StatusOK || !reflect.DeepEqual(desk.ops, []swarm.Op{swarm.HoldMachine{MAC: mac, Reason: "x"}}) {
		t.Errorf("answered %d, decided %v", w.Code, desk.ops)
	}
}

func TestUnknownMachineIsNotFoundWithTheNextStep(t *testing.T) {
	t.Parallel()
	_, err := NewClient(serve(t, &clerk{})).Machine(t.Context(), "52:54:00:00:00:99")
	if err == nil || !strings.Contains(err.Error(), "offshoot machine list") {
		t.Errorf("got %v", err)
	}
}

func TestRefusalIsAConflictInItsOwnWordsWithTheNextStep(t *testing.T) {
	t.Parallel()
	state := swarm.NewState()
	result := state.Apply(swarm.Command{ID: "1", Op: swarm.HoldMachine{MAC: mac, Reason: "x"}})
	if result.Err() == nil {
		t.Fatal("the state holds a machine that it does not know")
	}
	desk := &clerk{result: result}
	w := ask(desk, http.MethodPost, "/v1/machines/"+string(mac)+"/hold", `{"reason":"x"}`)
	want := result.Err().Error() + "; see: offshoot machine list"
	if w.Code != http.StatusConflict || strings.TrimSpace(w.Body.String()) != want {
		t.Errorf("answered %d %q, want %q", w.Code, w.Body, want)
	}
	if err := NewClient(serve(t, desk)).Hold(t.Context(), mac, "x"); err == nil || err.Error() != want {
		t.Errorf("client says %v", err)
	}
}

func TestDecisionThatCouldNotBeWrittenDownIsUnavailable(t *testing.T) {
	t.Parallel()
	desk := &clerk{err: errors.New("no majority of the voters answers")}
	for _, path := range []string{"/v1/voters", "/v1/leave", "/v1/machines/" + string(mac) + "/arm", "/v1/keys/rotate", "/v1/operators"} {
		if w := ask(desk, http.MethodPost, path, ""); w.Code != http.StatusServiceUnavailable || !strings.Contains(w.Body.String(), "no majority") || !strings.Contains(w.Body.String(), "offshoot swarm status") {
			t.Errorf("%s: answered %d %q", path, w.Code, w.Body)
		}
	}
}
