package segment

import (
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offshoot/swarm"
)

type places = map[swarm.NodeID]map[string]netip.Addr

func at(pairs ...string) map[string]netip.Addr {
	m := make(map[string]netip.Addr)
	for i := 0; i < len(pairs); i += 2 {
		m[pairs[i]] = netip.MustParseAddr(pairs[i+1])
	}
	return m
}

func show(routes []Route) (out []string) {
	for _, r := range routes {
		out = append(out, r.Dst.String()+" via "+r.Via.String())
	}
	return out
}

func TestRoutesTakeTheFewestNodes(t *testing.T) {
	segs := map[string]netip.Prefix{
		"a": netip.MustParsePrefix("192.168.42.0/24"), "b": netip.MustParsePrefix("10.42.0.0/24"),
		"c": netip.MustParsePrefix("10.42.1.0/24"), "d": netip.MustParsePrefix("10.42.2.0/24"),
		"island": netip.MustParsePrefix("10.42.9.0/24"),
	}
	chain := places{
		"seed": at("a", "192.168.42.1"),
		"m1":   at("a", "192.168.42.10", "b", "10.42.0.1"),
		"m2":   at("b", "10.42.0.10", "c", "10.42.1.1"),
		"m3":   at("c", "10.42.1.10", "d", "10.42.2.1"),
		"far":  at("island", "10.42.9.1"),
	}
	ring := places{ // a and d are joined by m9 too: shorter
		"seed": at("a", "192.168.42.1"),
		"m1":   at("a", "192.168.42.10", "b", "10.42.0.1"),
		"m2":   at("b", "10.42.0.10", "c", "10.42.1.1"),
		"m3":   at("c", "10.42.1.10", "d", "10.42.2.1"),
		"m9":   at("a", "192.168.42.19", "d", "10.42.2.9"),
	}
	twins := places{
		"seed": at("a", "192.168.42.1"),
		"m7":   at("a", "192.168.42.17", "b", "10.42.0.7"),
		"m4":   at("a", "192.168.42.14", "b", "10.42.0.4"),
	}
	double := places{ // both ends join both segments: the first segment by name
		"seed": at("a", "192.168.42.1", "c", "10.42.1.1"),
		"m1":   at("a", "192.168.42.10", "c", "10.42.1.10", "b", "10.42.0.1"),
	}
	liar := places{
		"seed": at("a", "192.168.42.1"),
		"m1":   at("a", "10.42.0.1", "b", "10.42.0.1"), // its address in a is not of a
	}
	for _, c := range []struct {
		name  string
		self  swarm.NodeID
		nodes places
		want  []string
	}{
		{"chain from its end", "seed", chain, []string{
			"10.42.0.0/24 via 192.168.42.10", "10.42.1.0/24 via 192.168.42.10", "10.42.2.0/24 via 192.168.42.10"}},
		{"chain from its middle", "m2", chain, []string{"10.42.2.0/24 via 10.42.1.10", "192.168.42.0/24 via 10.42.0.1"}},
		{"the short way round", "seed", ring, []string{
			"10.42.0.0/24 via 192.168.42.10", "10.42.1.0/24 via 192.168.42.10", "10.42.2.0/24 via 192.168.42.19"}},
		{"equal ways, lowest id", "seed", twins, []string{"10.42.0.0/24 via 192.168.42.14"}},
		{"two common segments", "seed", double, []string{"10.42.0.0/24 via 192.168.42.10"}},
		{"address outside its segment", "seed", liar, nil},
		{"unknown self", "nobody", chain, nil},
		{"no way", "far", chain, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			for range 20 { // map order must not show
				if d := cmp.Diff(c.want, show(Routes(c.self, Topology{Segments: segs, Nodes: c.nodes}))); d != "" {
					t.Fatal(d)
				}
			}
		})
	}
}

func TestOnlyTheDifferenceIsApplied(t *testing.T) {
	r := func(dst, via string) Route {
		return Route{Dst: netip.MustParsePrefix(dst), Via: netip.MustParseAddr(via)}
	}
	have := []Route{r("10.42.0.0/24", "192.0.2.1"), r("10.42.1.0/24", "192.0.2.1"), r("10.42.2.0/24", "192.0.2.1")}
	want := []Route{r("10.42.0.0/24", "192.0.2.1"), r("10.42.1.0/24", "192.0.2.9"), r("10.42.3.0/24", "192.0.2.1")}
	set, remove := diffRoutes(have, want)
	if d := cmp.Diff([]string{"10.42.1.0/24 via 192.0.2.9", "10.42.3.0/24 via 192.0.2.1"}, show(set)); d != "" {
		t.Error("set", d)
	}
	if d := cmp.Diff([]string{"10.42.2.0/24 via 192.0.2.1"}, show(remove)); d != "" {
		t.Error("remove", d)
	}
}
