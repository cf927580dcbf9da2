package tenant

import (
	"net"
	"testing"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

func TestLeaseIsRenewedAtHalfOfWhatIsLeft(t *testing.T) {
	t.Parallel()
	got := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, c := range []struct {
		after, lease, next time.Duration
		over               bool
	}{
		{0, time.Hour, 30 * time.Minute, false},
		{30 * time.Minute, time.Hour, 15 * time.Minute, false},
		{59*time.Minute + 50*time.Second, time.Hour, 10 * time.Second, false},
		{59*time.Minute + 58*time.Second, time.Hour, 2 * time.Second, false}, // not later than its end
		{time.Hour, time.Hour, 0, true},
		{2 * time.Hour, time.Hour, 0, true},
		{0, 8 * time.Second, 8 * time.Second, false},
		{0, 0, 0, true},
	} {
		if next, over := renewal(got.Add(c.after), got, c.lease); next != c.next || over != c.over {
			t.Errorf("%v after %v: %v, %v; want %v, %v", c.lease, c.after, next, over, c.next, c.over)
		}
	}
}

func TestAddressOfAnACKIsTakenAsItIsOrNotAtAll(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		your, mask net.IP
		want       string // "" is refused
	}{
		{net.IPv4(10, 1, 2, 3), net.IPv4(255, 255, 0, 0), "10.1.2.3/16"},
		{net.IPv4(10, 1, 2, 3), nil, "10.1.2.3/8"}, // by its class, as RFC 950 has it
		{net.IPv4(10, 1, 2, 3), net.IPv4(255, 0, 255, 0), ""},
		{net.IPv4zero, net.IPv4(255, 255, 0, 0), ""},
	} {
		ack := &dhcpv4.DHCPv4{YourIPAddr: c.your.To4(), Options: dhcpv4.Options{}}
		if c.mask != nil {
			ack.Options.Update(dhcpv4.OptSubnetMask(net.IPMask(c.mask.To4())))
		}
		if got, err := given(ack); (err != nil) != (c.want == "") || err == nil && got.String() != c.want {
			t.Errorf("%s, mask %s: %s, %v; want %q", c.your, c.mask, got, err, c.want)
		}
	}
}
