package segment

import (
	"cmp"
	"net"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"
)

// Offer is what a server said that it gives. What it did not say is zero. The texts are the server's own: whoever shows them
// must not believe that they can be printed.
type Offer struct {
	Address netip.Addr // to the client that asked
	Network netip.Prefix
	Router  netip.Addr
	DNS     []netip.Addr
	Lease   time.Duration
	Boot    BootOffer
}

// BootOffer is what a server tells machines that boot from the network.
type BootOffer struct {
	Server string // where to load from, an address or a name
	File   string
	PXE    bool // it calls itself a server of boot programs (option 60)
}

// Named says whether the server sends machines that boot anywhere. siaddr alone does not: many servers fill themselves in.
func (b BootOffer) Named() bool { return b.Server != "" || b.File != "" || b.PXE }

// offerOf reads an OFFER or ACK.
func offerOf(msg *dhcpv4.DHCPv4) Offer {
	o := Offer{Address: known(msg.YourIPAddr), Lease: msg.IPAddressLeaseTime(0)}
	if bits, size := msg.SubnetMask().Size(); size == 32 && o.Address.IsValid() {
		o.Network = netip.PrefixFrom(o.Address, bits).Masked()
	}
	for _, ip := range msg.Router() {
		o.Router = cmp.Or(o.Router, known(ip))
	}
	for _, ip := range msg.DNS() {
		if a := known(ip); a.IsValid() {
			o.DNS = append(o.DNS, a)
		}
	}
	class := msg.ClassIdentifier()
	o.Boot = BootOffer{
		Server: cmp.Or(msg.TFTPServerName(), msg.ServerHostName),
		File:   cmp.Or(msg.BootFileNameOption(), msg.BootFileName),
		PXE:    strings.HasPrefix(class, "PXEClient") || strings.HasPrefix(class, "HTTPClient"),
	}
	if next := known(msg.ServerIPAddr); next.IsValid() && o.Boot.Named() {
		o.Boot.Server = next.String() // what firmware goes by; the name is often that of the DHCP server
	}
	return o
}

func known(ip net.IP) netip.Addr {
	a, ok := netip.AddrFromSlice(ip)
	if !ok || a.Unmap().IsUnspecified() || !a.Unmap().Is4() {
		return netip.Addr{}
	}
	return a.Unmap()
}

// and fills in what o leaves out: a server says one thing to a PXE client and another to everybody else.
func (o Offer) and(more Offer) Offer {
	if !o.Address.IsValid() {
		o.Address, o.Network = more.Address, more.Network
	}
	o.Router, o.Lease = cmp.Or(o.Router, more.Router), cmp.Or(o.Lease, more.Lease)
	if len(o.DNS) == 0 {
		o.DNS = slices.Clone(more.DNS)
	}
	if o.Boot.File == "" && more.Boot.Named() || more.Boot.PXE && !o.Boot.PXE {
		o.Boot = more.Boot
	}
	return o
}
