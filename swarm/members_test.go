package swarm

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// town is a state with that many nodes on each of some segments, the first of each holds it. Node "a7" is the seventh of
// segment "sa".
func town(t testing.TB, voters int, perSegment ...int) *State {
	t.Helper()
	s := NewState()
	txn := s.db.Load().Txn(true)
	put := func(table string, row any) {
		if err := txn.Insert(table, row); err != nil {
			t.Fatal(err)
		}
	}
	put("settings", &Settings{Voters: voters})
	joined := day
	for i, count := range perSegment {
		letter := string(rune('a' + i))
		for j := range count {
			joined = joined.Add(time.Minute)
			put("node", &Node{ID: NodeID(fmt.Sprint(letter, j)), Joined: joined, Warm: true, Ports: []Port{
				{Name: "lan0", Link: true, Segment: "s" + letter, Address: netip.PrefixFrom(netip.AddrFrom4([4]byte{10, byte(i), 0, byte(j)}), 24)},
			}})
		}
		put("segment", &Segment{ID: "s" + letter, Opened: joined, Duty: Duty{Holder: NodeID(letter + "0"), Term: uint64(i + 1)}})
	}
	txn.Commit()
	return s
}

func ids(all ...NodeID) []NodeID { return all }

func TestMembersAreVotersSparesHoldersAndOneStandByEach(t *testing.T) {
	all := func(NodeID) bool { return true }
	except := func(out ...NodeID) func(NodeID) bool {
		return func(id NodeID) bool { return !slices.Contains(out, id) }
	}
	for _, c := range []struct {
		name    string
		state   *State
		members map[NodeID]bool
		alive   func(NodeID) bool
		want    []NodeID
	}{
		{"one segment: five votes, two spares", town(t, 5, 20), nil, all, ids("a0", "a1", "a2", "a3", "a4", "a5", "a6")},
		{"holders and stand-bys of others", town(t, 3, 6, 3, 1), nil, all, ids("a0", "a1", "a2", "a3", "a4", "b0", "c0", "b1")},
		{"incumbents stay", town(t, 3, 9, 4), map[NodeID]bool{"a6": true, "a7": true, "a8": true, "a5": false, "a4": false, "b3": false}, all,
			ids("a6", "a7", "a8", "a4", "a5", "a0", "b0", "b3")},
		{"a spare that is not there is replaced", town(t, 3, 9), nil, except("a3"), ids("a0", "a1", "a2", "a4", "a5")},
		{"a dead voter stays until it is demoted", town(t, 3, 9), map[NodeID]bool{"a0": true, "a1": true, "a2": true}, except("a0"),
			ids("a1", "a2", "a3", "a0", "a4", "a5")},
		{"nobody", town(t, 3), nil, all, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(c.want, Members(c.state.View(), c.members, c.alive)); diff != "" {
				t.Fatal(diff)
			}
		})
	}
}

func TestMembersAreNeverMoreThanRaftShouldCarry(t *testing.T) {
	var many []int
	for range 26 {
		many = append(many, 40)
	}
	s := town(t, 5, many...)
	v := s.View()
	all := func(NodeID) bool { return true }
	got := Members(v, nil, all)
	if len(got) != MaxMembers {
		t.Fatalf("%d members", len(got))
	}
	members := map[NodeID]bool{}
	for i, id := range got {
		if slices.Contains(got[:i], id) {
			t.Fatalf("%s twice", id)
		}
		members[id] = i < 5
	}
	// They agree with themselves: no change without a reason.
	if diff := cmp.Diff(got, Members(v, members, all)); diff != "" {
		t.Fatal(diff)
	}
}

func TestWhoIsNotEligibleTakesNoPart(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	all := func(NodeID) bool { return true }
	if got := Members(h.s.View(), nil, all); !slices.Equal(got, ids(id, seedID)) {
		t.Fatal(got)
	}
	h.must(seedID, EvictNode{Node: id})
	if got := Members(h.s.View(), map[NodeID]bool{id: true}, all); !slices.Equal(got, ids(seedID)) {
		t.Fatal(got)
	}
}

func TestWhatAMemberMayForward(t *testing.T) {
	h := founded(t)
	id := h.join(m1, "192.168.42.20")
	const ann = "ann"
	for _, c := range []struct {
		name  string
		from  NodeID
		actor string
		op    Op
		may   bool
	}{
		{"found", id, ann, Found{}, false},
		{"grant", id, ann, GrantDuty{Segment: "s1"}, false},
		{"redeem", id, ann, RedeemTicket{}, false},
		{"advance keys", id, ann, AdvanceKeys{}, false},
		{"note a certificate", id, ann, NoteCertificate{Node: id}, false},
		{"forget", id, ann, ForgetIdle{Segment: "s1"}, false},
		{"add an operator", id, ann, AddOperator{}, false},
		{"holder binds", seedID, "", BindLeases{Segment: "s1"}, true},
		{"other binds", id, "", BindLeases{Segment: "s1"}, false},
		{"other binds in the name of ann", id, ann, BindLeases{Segment: "s1"}, false},
		{"other releases", id, "", ReleaseLease{Segment: "s1"}, false},
		{"other quarantines", id, "", QuarantineAddress{Segment: "s1"}, false},
		{"other blocks", id, "", BlockSegment{Segment: "s1"}, false},
		{"other passes", id, "", PassDuty{Segment: "s1"}, false},
		{"holder offers", seedID, "", OfferDuty{Segment: "s1"}, true},
		{"other offers", id, "", OfferDuty{Segment: "s1"}, false},
		{"operator moves", id, ann, OfferDuty{Segment: "s1"}, true},
		{"unknown segment", id, "", BindLeases{Segment: "s9"}, false},
		{"reports itself", id, "", ReportNode{}, true},
		{"leaves", id, "", LeaveNode{Node: id}, true},
		{"makes another leave", id, ann, LeaveNode{Node: seedID}, false},
		{"sees", id, "", SeeMachine{}, true},
		{"mints", id, "", MintTicket{}, true},
		{"evicts by itself", id, "", EvictNode{Node: seedID}, false},
		{"evicts for an operator", id, ann, EvictNode{Node: seedID}, true},
		{"arms by itself", id, "", ArmMachine{MAC: m1}, false},
		{"rotates by itself", id, "", RotateKeys{}, false},
		{"profile by itself", id, "", PutProfile{}, false},
		{"profile by the seed", seedID, "", PutProfile{}, true},
		{"profile by an operator", id, ann, PutProfile{}, true},
		{"stranger", "nobody", ann, SeeMachine{}, false},
	} {
		if err := MayForward(h.s.View(), c.from, Command{By: c.from, Actor: c.actor, Op: c.op}); (err == nil) != c.may {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	if err := MayForward(h.s.View(), id, Command{By: seedID, Op: SeeMachine{}}); err == nil {
		t.Error("it speaks for another")
	}
	h.refused("", redeem(m1, "thief"), ErrTicketUsed)
	if err := MayForward(h.s.View(), id, Command{By: id, Op: ReportNode{}}); err == nil {
		t.Error("it is in quarantine")
	}
	h.must(seedID, EvictNode{Node: id})
	if err := MayForward(h.s.View(), id, Command{By: id, Op: ReportNode{}}); err == nil {
		t.Error("it has ended")
	}
}
