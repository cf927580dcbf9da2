package node

import (
	"net/netip"
	"testing"

	"offshoot/node/status"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

func TestBytesAreCountedByWhereTheyCameFrom(t *testing.T) {
	t.Parallel()
	places := map[string]place{"m1": beside, "machine": installing}
	f := newFreight(func(peer string) place { return places[peer] })
	f.needed("kernel", 5)
	f.moved(share.Move{Digest: "image", Peer: "m1", Received: 100, Sent: 1})
	f.moved(share.Move{Digest: "image", Peer: "m2", Received: 30, Sent: 2})
	places["m2"] = beside // it moves: what was counted stays where it is
	f.moved(share.Move{Digest: "image", Peer: "m2", Received: 3, Sent: 10})
	f.moved(share.Move{Digest: "image", Peer: "machine", Sent: 20})
	f.booted("image", 1000)
	f.needed("image", 140) // seven bytes lay on the disk
	for range 2 {          // once each, however often somebody looks
		f.needed("image", 140)
		f.needed("kernel", 5)
	}
	image := status.Traffic{Received: status.Received{Disk: 7, Segment: 103, Uplink: 30}, Sent: status.Sent{Segment: 11, Uplink: 2, Boot: 1000, Install: 20}}
	if got := f.of("image"); got != image {
		t.Errorf("the image: %+v, want %+v", got, image)
	}
	all := image
	all.Received.Disk += 5
	if got := f.total(); got != all || got.Received.Sum() != 145 || got.Sent.Sum() != 1033 {
		t.Errorf("all: %+v, want %+v", got, all)
	}
	if got := f.of("another"); got != (status.Traffic{}) {
		t.Errorf("what never moved: %+v", got)
	}
}

// TestWhoJustJoinedIsNearByItsAddress: a node fetches before it has said which ports it has.
func TestWhoJustJoinedIsNearByItsAddress(t *testing.T) {
	t.Parallel()
	segments := []swarm.Segment{{ID: "s1", Network: netip.MustParsePrefix("192.168.42.0/24")}, {ID: "s2", Network: netip.MustParsePrefix("10.42.0.0/24")}}
	at := func(n swarm.Node, address string) swarm.Node { n.Address = address; return n }
	seed, joint := at(on("seed", true, "s1"), "192.168.42.1:7400"), at(on("m1", true, "s1", "s2"), "192.168.42.17:7400")
	fresh := at(swarm.Node{ID: "m2"}, "10.42.0.10:7400")
	for name, c := range map[string]struct {
		a, b swarm.Node
		want bool
	}{
		"on one segment":            {seed, joint, true},
		"fresh, beside who has two": {fresh, joint, true},
		"the other way round":       {joint, fresh, true},
		"fresh, behind an uplink":   {fresh, seed, false},
		"ports on no segment":       {on("a", false), on("b", false), false},
		"without addresses":         {swarm.Node{}, swarm.Node{}, false},
	} {
		if got := together(segments, c.a, c.b); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}

func TestPeersAreKnownByNameOrURL(t *testing.T) {
	t.Parallel()
	b := newBook(t)
	b.apply("", swarm.ReportNode{Address: "192.168.42.1:7400", Protocol: swarm.Protocol, Ports: []swarm.Port{{MAC: "02:00:00:00:00:01", Segment: "s1"}}})
	for peer, want := range map[string]place{
		string(seedID): beside, "https://192.168.42.1:7400": beside, "https://192.168.42.9:7400": far, string(swarm.InstallerID("i")): installing,
	} {
		if got := placeOf(b.state.View(), seedID, peer); got != want {
			t.Errorf("%q: %v", peer, got)
		}
	}
	if placeOf(b.state.View(), "unknown", string(seedID)) != far {
		t.Error("who does not know itself has no neighbours")
	}
}

func TestRestOfAFetchTakesWhatIsLeftByItsRate(t *testing.T) {
	t.Parallel()
	if left, ok := (status.Fetch{Size: 100, Done: 40, Rate: 20}).Left(); !ok || left.Seconds() != 3 {
		t.Errorf("%v, %v", left, ok)
	}
	if left, ok := (status.Fetch{Size: 100, Done: 40}).Left(); ok {
		t.Errorf("nothing comes, and it ends in %v", left)
	}
}
