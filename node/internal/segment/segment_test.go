package segment

import (
	"errors"
	"net/netip"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func prefixes(s ...string) (out []netip.Prefix) {
	for _, p := range s {
		out = append(out, netip.MustParsePrefix(p))
	}
	return out
}

func free(name string) Port {
	return Port{Name: name, MAC: "52:54:00:00:00:01", MTU: 1500, Kind: KindDevice, Up: true, Link: true}
}

func with(p Port, f func(*Port)) Port { f(&p); return p }

func TestChooseTakesTheOnlyFreePort(t *testing.T) {
	uplink := with(free("eth0"), func(p *Port) { p.Addrs = prefixes("192.0.2.2/24"); p.DefaultRoute = true })
	addressed := with(free("eth1"), func(p *Port) { p.Addrs = prefixes("198.51.100.1/24") })
	unplugged := with(free("eth2"), func(p *Port) { p.Link = false })
	down := with(free("eth3"), func(p *Port) { p.Up, p.Link = false, false })
	member := with(free("eth4"), func(p *Port) { p.Master = "br0" })
	wlan := with(free("wlan0"), func(p *Port) { p.Kind = KindWireless })
	vlan := with(free("eth9.7"), func(p *Port) { p.Kind = KindVLAN })
	others := []Port{uplink, addressed, unplugged, down, member, wlan, vlan}

	for _, c := range []struct {
		name  string
		ports []Port
		ask   string
		want  string
		err   error
		says  []string
	}{
		{"free one among others", append(others, free("eth5")), "", "eth5", nil, nil},
		{"none", nil, "", "", ErrNoChoice, []string{"no Ethernet port"}},
		{"none free", others, "", "", ErrNoChoice, []string{
			"--interface", "\n  eth0 ", "carries the default route", "has address 198.51.100.1/24", "no link",
			"ip link set eth3 up", "a member of br0", "wireless", "taken only when named",
		}},
		{"two free", []Port{free("eth5"), free("eth6"), uplink}, "", "", ErrNoChoice, []string{"2 are free", "eth5", "eth6", "eth0"}},
		{"named, though it has an address", others, "eth1", "eth1", nil, nil},
		{"named, though down", others, "eth3", "eth3", nil, nil},
		{"named VLAN", others, "eth9.7", "eth9.7", nil, nil},
		{"unknown", others, "eth7", "", ErrNoPort, []string{"eth7", "eth0, eth1, eth2"}},
		{"unknown, none there", nil, "eth7", "", ErrNoPort, []string{"eth7"}},
		{"without link", others, "eth2", "", ErrNoLink, []string{"eth2", "cable"}},
		{"member", others, "eth4", "", ErrUnfit, []string{"br0"}},
		{"wireless", others, "wlan0", "", ErrUnfit, []string{"wireless"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := Choose(c.ports, c.ask)
			if !errors.Is(err, c.err) || got.Name != c.want {
				t.Fatalf("got %q, %v; want %q, %v", got.Name, err, c.want, c.err)
			}
			for _, s := range c.says {
				if !strings.Contains(err.Error(), s) {
					t.Errorf("error does not say %q:\n%v", s, err)
				}
			}
		})
	}
}

func TestListingIsAligned(t *testing.T) {
	short := with(free("e"), func(p *Port) { p.Link = false })
	long := with(free("enp129s0f1np1"), func(p *Port) { p.DefaultRoute = true; p.Kind = KindVeth })
	want := "  e              52:54:00:00:00:01  device  no link\n" +
		"  enp129s0f1np1  52:54:00:00:00:01  veth    carries the default route"
	if got := listing([]Port{short, long}); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}

func TestNetworkInUseIsRefusedByName(t *testing.T) {
	carried := []Carried{
		{Port: "lo", Prefix: netip.MustParsePrefix("127.0.0.1/8")},
		{Port: "eth0", Prefix: netip.MustParsePrefix("192.168.42.7/25")},
		{Port: "eth1", Prefix: netip.MustParsePrefix("172.16.5.1/24")},
		{Port: "tun0", Prefix: netip.MustParsePrefix("10.0.0.0/8"), Route: true},
		{Port: "eth0", Prefix: netip.MustParsePrefix("0.0.0.0/0"), Route: true},
	}
	for _, c := range []struct {
		port, want string
		says       string // empty: allowed
	}{
		{"eth1", "192.168.42.1/24", "eth0 carries 192.168.42.7/25"},
		{"eth0", "192.168.42.1/24", "eth0 carries 192.168.42.7/25"},
		{"eth0", "192.168.42.7/25", ""},
		{"eth1", "10.42.0.1/24", "tun0 has a route to 10.0.0.0/8"},
		{"eth1", "192.168.43.1/24", ""},
		{"eth1", "172.16.5.1/24", ""},
		{"eth1", "172.16.5.2/24", "eth1 carries 172.16.5.1/24"},
		{"eth2", "172.16.5.1/24", "eth1 carries 172.16.5.1/24"},
	} {
		err := InUse(carried, c.port, netip.MustParsePrefix(c.want))
		if c.says == "" {
			if err != nil {
				t.Errorf("%s on %s: %v", c.want, c.port, err)
			}
			continue
		}
		if !errors.Is(err, ErrNetworkInUse) || !strings.Contains(err.Error(), c.says) || !strings.Contains(err.Error(), "--network") {
			t.Errorf("%s on %s: got %v, want %q", c.want, c.port, err, c.says)
		}
	}
}

func TestOnlyAHostsAddressIsAccepted(t *testing.T) {
	for s, ok := range map[string]bool{
		"192.168.42.1/24": true, "10.42.0.254/24": true, "10.0.0.1/30": true, "10.0.1.255/23": false,
		"192.168.42.0/24": false, "192.168.42.255/24": false, "10.0.0.1/31": false, "10.0.0.1/32": false,
		"10.0.0.1/7": false, "2001:db8::1/64": false, "10.0.0.255/23": true,
	} {
		if err := checkHost(netip.MustParsePrefix(s)); (err == nil) != ok {
			t.Errorf("%s: %v", s, err)
		}
	}
	if checkHost(netip.Prefix{}) == nil {
		t.Error("no address at all was accepted")
	}
}

func TestMissingCapabilitiesAreNamed(t *testing.T) {
	const all = 1<<unix.CAP_NET_ADMIN | 1<<unix.CAP_NET_RAW | 1<<unix.CAP_NET_BIND_SERVICE
	if err := rights(all, 1024); err != nil {
		t.Error(err)
	}
	if err := rights(all&^(1<<unix.CAP_NET_BIND_SERVICE), 0); err != nil {
		t.Errorf("low ports are free to all: %v", err)
	}
	err := rights(1<<unix.CAP_NET_ADMIN, 1024)
	if !errors.Is(err, ErrRights) || !strings.Contains(err.Error(), "CAP_NET_RAW, CAP_NET_BIND_SERVICE") ||
		strings.Contains(err.Error(), "CAP_NET_ADMIN") || !strings.Contains(err.Error(), "sudo") {
		t.Error(err)
	}
}
