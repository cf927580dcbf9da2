package node

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offshoot/node/internal/segment"
	"offshoot/swarm"
)

func prefix(s string) netip.Prefix { return netip.MustParsePrefix(s) }

// others are servers that offer these addresses, "" for one that has not said which.
func others(addrs ...string) (out []segment.Server) {
	for _, a := range addrs {
		s := segment.Server{Asked: true, ID: netip.MustParseAddr("192.0.2.1"), MAC: "52:54:00:00:0d:0d"}
		if a != "" {
			s.Offer.Address = netip.MustParseAddr(a)
			s.Offer.Network = netip.PrefixFrom(s.Offer.Address, 24).Masked()
		}
		out = append(out, s)
	}
	return out
}

func booting(s []segment.Server) []segment.Server {
	s[0].Offer.Boot = segment.BootOffer{Server: "192.0.2.1", File: "pxelinux.0", PXE: true}
	return s
}

// TestSeedIsFullOnlyWhereNobodyAnswers: want is the mode and address, or part of the error behind a dash.
func TestSeedIsFullOnlyWhereNobodyAnswers(t *testing.T) {
	t.Parallel()
	bare, own := segment.Port{Name: "eth1"}, segment.Port{Name: "eth1", Addrs: []netip.Prefix{prefix("fd00::1/64"), prefix("192.0.2.9/24")}}
	named := others("192.0.2.77")
	named[0].Offer.Boot.File = "old.kpxe"
	for _, c := range []struct {
		name    string
		seed    Seed
		port    segment.Port
		servers []segment.Server
		want    string
		foreign bool // it is a foreign server that is in the way
	}{
		{"auto, alone", Seed{}, bare, nil, "full 192.168.42.1/24", false},
		{"auto, alone, on a port with an address", Seed{}, own, nil, "full 192.168.42.1/24", false},
		{"full, alone", Seed{Mode: ModeFull, Network: prefix("10.1.0.1/24")}, bare, nil, "full 10.1.0.1/24", false},
		{"full beside a server", Seed{Mode: ModeFull}, own, others("192.0.2.77"), "- Two would break that network: unplug it", true},
		{"auto beside a server", Seed{Mode: ModeAuto}, own, others("192.0.2.77"), "proxy 192.0.2.9/24", false},
		{"auto beside two", Seed{}, own, others("192.0.2.77", "192.0.2.78"), "proxy 192.0.2.9/24", false},
		{"auto beside two of two networks", Seed{}, own, others("192.0.2.77", "10.0.0.78"), "- needs an address of that network", true},
		{"auto beside a server, without an address", Seed{}, bare, others("192.0.2.77"), "- (192.0.2.0/24): get one first (dhclient eth1)", true},
		{"auto beside a server of another network", Seed{}, own, others("10.0.0.5"), "- (10.0.0.0/24): get one first", true},
		{"with an address that was set aside", Seed{Network: prefix("192.0.2.5/24")}, bare, others("192.0.2.77"), "proxy 192.0.2.5/24", false},
		{"with one of another network", Seed{Network: prefix("10.1.0.1/24")}, bare, others("192.0.2.77"), "- which --network 10.1.0.1/24 does not reach", true},
		{"with a second one", Seed{Network: prefix("192.0.2.5/24")}, own, others("192.0.2.77"), "- leave --network out", false},
		{"with that of the port", Seed{Network: prefix("192.0.2.9/24")}, own, others("192.0.2.77"), "proxy 192.0.2.9/24", false},
		{"proxy, and nobody answers now", Seed{Mode: ModeProxy}, own, nil, "proxy 192.0.2.9/24", false},
		{"proxy, and nobody answers, without an address", Seed{Mode: ModeProxy}, bare, nil, "- a proxy needs an address on eth1", false},
		{"beside a server that names a boot file only", Seed{}, own, named, "proxy 192.0.2.9/24", false},
		{"beside a boot server", Seed{}, own, booting(others("192.0.2.77")), "- tells machines what to boot", true},
		{"proxy beside a boot server", Seed{Mode: ModeProxy}, own, booting(others("")), "- tells machines what to boot", true},
	} {
		at, err := c.seed.stand(c.port, c.servers)
		got := at.mode.String() + " " + at.address.String()
		if err != nil {
			got = "- " + err.Error()
		}
		text, dash := strings.CutPrefix(c.want, "- ")
		if dash != (err != nil) || !strings.Contains(got, text) || errors.Is(err, ErrForeignDHCP) != c.foreign {
			t.Errorf("%s: %s; want %s", c.name, got, c.want)
		}
		if err == nil && at.mode == swarm.ModeFull && len(c.servers) > 0 {
			t.Errorf("%s: full beside a server", c.name)
		}
	}
}

func TestFurtherSegmentsHideNothingThatTheLaptopReaches(t *testing.T) {
	at := func(p string) segment.Carried { return segment.Carried{Port: "wlan0", Prefix: prefix(p)} }
	way := func(p string) segment.Carried {
		return segment.Carried{Port: "tun0", Prefix: prefix(p), Route: true}
	}
	for _, c := range []struct {
		name    string
		told    string
		reached []segment.Carried
		want    string // the range, or what the error says
		why     string
	}{
		{"nothing in the way", "", []segment.Carried{at("192.168.1.7/24"), way("172.16.0.0/12")}, "10.42.0.0/16", ""},
		{"a network inside", "", []segment.Carried{at("10.42.7.20/24")}, "10.193.0.0/16", "10.42.0.0/16 overlaps: wlan0 carries 10.42.7.20/24"},
		{"a VPN around", "", []segment.Carried{way("10.0.0.0/8")}, "172.29.0.0/16", "10.42.0.0/16 overlaps: tun0 has a route to 10.0.0.0/8"},
		{"every private network", "", []segment.Carried{way("10.0.0.0/8"), way("172.16.0.0/12"), way("192.168.0.0/16")}, "choose another with --range", ""},
		{"our own address, from the last time", "", []segment.Carried{at("10.42.0.1/24")}, "10.42.0.0/16", ""},
		{"told, nothing in the way", "10.9.0.0/16", []segment.Carried{at("10.42.7.20/24")}, "10.9.0.0/16", ""},
		{"told, a route around", "10.9.0.0/16", []segment.Carried{way("10.0.0.0/8")}, "10.9.0.0/16", ""},
		{"told, a route to it", "10.9.0.0/16", []segment.Carried{way("10.9.0.0/16")}, "10.9.0.0/16 overlaps: tun0 has a route to 10.9.0.0/16", ""},
		{"told, a route into it", "10.9.0.0/16", []segment.Carried{way("10.9.8.0/24")}, "choose another with --range", ""},
		{"told, a network around", "10.9.0.0/16", []segment.Carried{at("10.1.2.3/8")}, "wlan0 carries 10.1.2.3/8", ""},
	} {
		s := Seed{Network: prefix("10.42.0.1/24")}
		if c.told != "" {
			s.Range = prefix(c.told)
		}
		within, why, err := s.within(c.reached)
		switch {
		case err != nil && !errors.Is(err, segment.ErrNetworkInUse):
			t.Errorf("%s: %v", c.name, err)
		case err != nil && !strings.Contains(err.Error(), c.want):
			t.Errorf("%s: %v, want %q", c.name, err, c.want)
		case err == nil && (within.String() != c.want || why != c.why):
			t.Errorf("%s: %s, %q; want %s, %q", c.name, within, why, c.want, c.why)
		}
	}
}

func TestHolderYieldsToServersOfOthers(t *testing.T) {
	t.Parallel()
	ours := swarm.Segment{ID: "s1", Network: prefix("192.0.2.0/24")}
	yielding, blocked, theirs := ours, ours, ours
	yielding.Mode, yielding.Beside = swarm.ModeProxy, "another DHCP server answers there: 192.0.2.1 (52:54:00:00:0d:0d)"
	blocked.Blocked = "another DHCP server answers there: 192.0.2.1 (52:54:00:00:0d:0d)"
	theirs.Mode = swarm.ModeProxy
	unasked := others("192.0.2.77")
	unasked[0].Asked = false
	const elsewhere = "another DHCP server answers there: 192.0.2.1 (52:54:00:00:0d:0d). It gives addresses of 10.0.0.0/24, from which machines do not reach a node on 192.0.2.0/24"
	const boots = "another server tells machines there what to boot: 192.0.2.1 (52:54:00:00:0d:0d)"
	for _, c := range []struct {
		name    string
		segment swarm.Segment
		servers []segment.Server
		want    swarm.Op
	}{
		{"nobody is there", ours, nil, nil},
		{"one of our network appears", ours, others("192.0.2.77"), swarm.SetMode{Segment: "s1", Mode: swarm.ModeProxy, Reason: yielding.Beside}},
		{"one that was not asked yet", ours, unasked, swarm.BlockSegment{Segment: "s1", Reason: blocked.Blocked}},
		{"it is there still", yielding, others("192.0.2.77"), nil},
		{"it has gone", yielding, nil, swarm.SetMode{Segment: "s1"}},
		{"one of another network appears", ours, others("10.0.0.5"), swarm.BlockSegment{Segment: "s1", Reason: elsewhere}},
		{"one appears beside the first", yielding, others("192.0.2.77", "10.0.0.5"), swarm.BlockSegment{Segment: "s1", Reason: elsewhere}},
		{"one that has not said what it gives", ours, others(""), swarm.BlockSegment{Segment: "s1", Reason: blocked.Blocked}},
		{"it has said it now", blocked, others("192.0.2.77"), swarm.SetMode{Segment: "s1", Mode: swarm.ModeProxy, Reason: yielding.Beside}},
		{"what blocked has gone", blocked, nil, swarm.SetMode{Segment: "s1"}},
		{"a boot server", ours, booting(others("192.0.2.77")), swarm.BlockSegment{Segment: "s1", Reason: boots}},
		{"founded as a proxy: its server", theirs, others("192.0.2.77"), nil},
		{"founded as a proxy: one that has not said what it gives", theirs, others(""), nil},
		{"founded as a proxy: its server has gone", theirs, nil, nil},
		{"founded as a proxy: a boot server", theirs, booting(others("")), swarm.BlockSegment{Segment: "s1", Reason: boots}},
	} {
		if diff := cmp.Diff(c.want, yield(c.segment, c.servers)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
	}
}
