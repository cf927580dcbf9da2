package node

import (
	"net/netip"
	"reflect"
	"testing"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// book is a state with a founded swarm, whose operations must succeed unless they are expected to be refused.
type book struct {
	t     *testing.T
	state *swarm.State
	now   time.Time
}

func newBook(t *testing.T) *book {
	b := &book{t: t, state: swarm.NewState(), now: time.Date(2026, 11, 21, 12, 0, 0, 0, time.UTC)}
	b.apply("", swarm.Found{
		Settings: swarm.Settings{Swarm: "5eed"}, Network: netip.MustParsePrefix("192.168.42.0/24"), Profile: &swarm.Profile{Name: "p"},
		Node: swarm.Node{ID: seedID, Name: "seed", Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Link: true}}},
	})
	return b
}

func (b *book) apply(actor string, op swarm.Op) {
	b.t.Helper()
	if err := b.try(actor, op); err != nil {
		b.t.Fatalf("%T: %v", op, err)
	}
}

func (b *book) try(actor string, op swarm.Op) error {
	return b.state.Apply(swarm.Command{ID: swarm.NewID(), Time: b.now, By: seedID, Actor: actor, Op: op}).Err()
}

func TestArtifactListSaysWhoNeedsAndHasThem(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.apply("", swarm.PutArtifact{Artifact: swarm.Artifact{Digest: "d1", Name: "image", Size: 7, InfoHash: "i1"}})
	b.apply("", swarm.PutArtifact{Artifact: swarm.Artifact{Digest: "d2", Name: "former image"}})
	b.apply("", swarm.PutProfile{Profile: swarm.Profile{Name: "p", Image: "d1", Binary: "d1"}})
	b.apply("", swarm.ReportNode{Address: "192.168.42.1:7400", Warm: true, Protocol: swarm.Protocol, Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Segment: "s1"}, {MAC: "02:00:00:00:00:02"}}})
	list := func(alive bool) []status.Artifact {
		return artifactList(b.state.View(), "m9", func(swarm.NodeID) bool { return alive }, func(digest string) bool { return digest == "d2" })
	}
	want := []status.Artifact{
		{Digest: "d2", Name: "former image", Profiles: []string{}, Here: true, Warm: map[string]int{}, Nodes: []string{"m9"}},
		{Digest: "d1", Name: "image", Size: 7, InfoHash: "i1", Profiles: []string{"p"}, Warm: map[string]int{"s1": 1}, Nodes: []string{"seed"}},
	}
	if got := list(true); !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v", got)
	}
	if got := list(false); len(got[1].Warm) != 0 || len(got[1].Nodes) != 0 {
		t.Errorf("nobody is there, and has it: %+v", got[1])
	}
}

func TestLeaseListHasEveryAddressThatIsSpokenFor(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	at := func(n byte) netip.Addr { return netip.AddrFrom4([4]byte{192, 168, 42, n}) }
	b.apply("", swarm.NameMachine{MAC: mac1, Name: "m1"})
	b.apply("", swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{
		{Segment: "s1", MAC: mac1, Addr: at(100), Class: "os", Hostname: "calls-itself", Expires: b.now.Add(time.Hour)},
		{Segment: "s1", MAC: mac2, Addr: at(20), Class: "os", Expires: b.now.Add(time.Minute)},
	}})
	b.apply("", swarm.QuarantineAddress{Segment: "s1", Term: 1, Addr: at(30), Until: b.now.Add(time.Hour)})
	b.apply("root", swarm.ReserveAddress{MAC: mac1, Addr: at(100)})
	b.apply("root", swarm.ReserveAddress{MAC: "52:54:00:00:00:77", Addr: at(9)})
	b.apply("root", swarm.ReserveAddress{MAC: "52:54:00:00:00:78", Addr: at(20)}) // whose lease is another's still
	want := []status.Lease{
		{Segment: "s1", Address: "192.168.42.9", MAC: "52:54:00:00:00:77", State: status.LeaseReserved, Reserved: true},
		{Segment: "s1", Address: "192.168.42.20", MAC: string(mac2), State: status.LeaseExpired, Class: "os", Expires: b.now.Add(time.Minute)},
		{Segment: "s1", Address: "192.168.42.20", MAC: "52:54:00:00:00:78", State: status.LeaseReserved, Reserved: true},
		{Segment: "s1", Address: "192.168.42.30", State: status.LeaseQuarantined, Class: "quarantine", Expires: b.now.Add(time.Hour)},
		{Segment: "s1", Address: "192.168.42.100", MAC: string(mac1), Name: "m1", State: status.LeaseBound, Reserved: true, Class: "os", Hostname: "calls-itself", Expires: b.now.Add(time.Hour)},
	}
	got := leaseList(b.state.View(), b.now.Add(30*time.Minute))
	for i := range got {
		if m, ok := b.state.View().Machine(swarm.MAC(got[i].MAC)); ok && got[i].MAC != string(mac1) && got[i].Name == m.Name {
			got[i].Name = "" // made up by the state
		}
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestTicketThatNobodyRedeemedInTimeIsExpired(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.apply("", swarm.SeeMachine{MAC: mac1, Segment: "s1"})
	b.apply("root", swarm.ArmMachine{MAC: mac1, Profile: "p"})
	b.apply("", swarm.MintTicket{ID: "7c1f", Hash: "h", MAC: mac1, Segment: "s1", Addr: addr1, Expires: b.now.Add(time.Hour)})
	for at, want := range map[time.Duration]string{time.Hour - 1: "minted", time.Hour: status.TicketExpired} {
		got := ticketList(b.state.View(), b.now.Add(at))
		if len(got) != 1 || got[0].State != want || got[0].ID != "7c1f" || got[0].Machine != string(mac1) || got[0].Name == "" {
			t.Errorf("after %v: %+v", at, got)
		}
	}
	b.apply("root", swarm.RevokeTicket{ID: "7c1f"})
	if got := ticketList(b.state.View(), b.now.Add(2*time.Hour)); got[0].State != "revoked" {
		t.Errorf("revoked, and later over: %+v", got)
	}
}

func TestAuditNamesTheNodeThatWasAskedAndTheReasonOfARefusal(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.apply("root (uid 0), local socket", swarm.SetVoters{Voters: 3})
	if err := b.try("operator alice, 192.0.2.7", swarm.SetVoters{Voters: 4}); err == nil {
		t.Fatal("four voters were accepted")
	}
	b.apply("", swarm.SeeMachine{MAC: mac1, Segment: "s1"}) // a node's own: no entry
	got := auditList(b.state.View())
	if len(got) != 2 || got[0].Node != "seed" || got[0].Refused != "" || got[0].Actor != "root (uid 0), local socket" || got[1].Refused == "" || got[1].Op != "set-voters" {
		t.Errorf("got %+v", got)
	}
}

func TestRevokedOperatorIsListedAsSuch(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.apply("root", swarm.AddOperator{Name: "alice", Role: "view", Serial: "00ff", NotAfter: b.now.Add(time.Hour)})
	want := status.Operator{Name: "alice", Role: "view", Serial: "00ff", NotAfter: b.now.Add(time.Hour)}
	if got := operatorList(b.state.View()); len(got) != 1 || got[0] != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	b.apply("root", swarm.RevokeOperator{Name: "alice"})
	if got := operatorList(b.state.View()); !got[0].Revoked {
		t.Errorf("got %+v", got)
	}
}
