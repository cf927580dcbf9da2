package swarm

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

func TestServersThatNobodyCouldAskAreRefused(t *testing.T) {
	h := founded(t)
	at := func(all ...string) (out []netip.Addr) {
		for _, a := range all {
			out = append(out, netip.MustParseAddr(a))
		}
		return out
	}
	before, _ := h.s.View().Settings()
	for _, bad := range []string{"0.0.0.0", "127.0.0.53", "224.0.0.1", "255.255.255.255", "2001:db8::1"} {
		h.refused(seedID, SetDNS{Servers: at(bad)}, ErrInvalid)
		h.refused(seedID, SetNTP{Servers: at(bad)}, ErrInvalid)
	}
	h.refused(seedID, SetDNS{Servers: make([]netip.Addr, 1)}, ErrInvalid)
	h.refused(seedID, SetDNS{Servers: at("192.0.2.1", "192.0.2.2", "192.0.2.3", "192.0.2.4", "192.0.2.5")}, ErrInvalid)
	h.refused(seedID, SetDNS{Servers: at("192.0.2.53"), Off: true}, ErrInvalid)
	// It would ask itself, or another node that asks it back.
	h.must(seedID, ReportNode{Address: "192.168.42.1:7400", Ports: []Port{{MAC: "02:00:00:00:00:01", Segment: "s1", Address: netip.MustParsePrefix("192.168.42.1/24")}}})
	h.refused(seedID, SetDNS{Servers: at("192.168.42.1")}, ErrConflict)
	if after, _ := h.s.View().Settings(); cmp.Diff(before, after, cmpopts.EquateComparable(netip.Addr{}, netip.Prefix{})) != "" {
		t.Errorf("a refusal changed the settings: %+v", after)
	}
	h.must(seedID, SetDNS{Servers: at("192.0.2.53")})
	h.must(seedID, SetNTP{Servers: at("192.168.42.1", "192.0.2.123")}) // a node may well run a time server of its own
	if s, _ := h.s.View().Settings(); len(s.DNS) != 1 || len(s.NTP) != 2 || s.DNSOff {
		t.Errorf("settings %+v", s)
	}
	h.must(seedID, SetDNS{Off: true})
	h.must(seedID, SetNTP{})
	if s, _ := h.s.View().Settings(); len(s.DNS) != 0 || len(s.NTP) != 0 || !s.DNSOff {
		t.Errorf("settings %+v", s)
	}
}

func TestDomainIsOfHostNames(t *testing.T) {
	h := founded(t)
	for _, bad := range []string{".", "lab.", ".lab", "a..b", "Lab.example", "a_b.example", "-a.example", strings.Repeat("a", 64), strings.Repeat("ab.", 60) + "c"} {
		h.refused(seedID, SetDomain{Domain: bad}, ErrInvalid)
	}
	domain := func() string { s, _ := h.s.View().Settings(); return s.NameDomain() }
	if domain() != DefaultDomain {
		t.Errorf("without a word: %q", domain())
	}
	for _, good := range []string{"lab", "lab-3.example.com"} {
		h.must(seedID, SetDomain{Domain: good})
		if domain() != good {
			t.Errorf("%q is %q", good, domain())
		}
	}
	h.must(seedID, SetDomain{})
	if domain() != DefaultDomain {
		t.Errorf("back to %q", domain())
	}
}
