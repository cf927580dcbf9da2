package dhcp

import (
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/swarm"
)

// TestMachineIsToldItsName: the name that an operator gave is asked for once per packet, told to who wants it, and written down with
// the binding, so that it is told still when the name has gone.
func TestMachineIsToldItsName(t *testing.T) {
	asked, name := 0, "rack1-3"
	withServer(t, func(b *bench) {
		b.o.Config.Hostname = func(swarm.MAC) string { asked++; return name }
	}, func(b *bench) {
		ack := b.lease()
		if got := string(ack.Options.Get(dhcpv4.OptionHostName)); got != "rack1-3" {
			t.Errorf("told %q", got)
		}
		if asked != 2 {
			t.Errorf("asked %d times for two packets", asked)
		}
		if l, ok := b.ledger.Binding(swarm.MACOf(ack.ClientHWAddr)); !ok || l.Hostname != "rack1-3" {
			t.Errorf("written down %+v", l)
		}
		name = ""
		if got := string(b.lease().Options.Get(dhcpv4.OptionHostName)); got != "rack1-3" {
			t.Errorf("then told %q", got)
		}
	})
}
