package dhcp

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// pxeDiscoveryOff is option 43 for BIOS firmware: PXE_DISCOVERY_CONTROL (6) = 8, "use the boot file of this very answer and
// look for no boot server" (PXE 2.1, 2.2.3). Some ROMs search for seconds without it. EFI firmware is better off without.
const pxeDiscoveryOff = "\x06\x01\x08\xff"

// ipxeNoProxy is iPXE's setting no-pxedhcp = 1 inside option 175: do not wait two seconds for a proxy's offer.
const ipxeNoProxy = "\xb0\x01\x01"

// grant builds an OFFER or ACK. An invalid addr means INFORM: no address and no times.
func (d decision) grant(t dhcpv4.MessageType, addr netip.Addr, nonce string, lease time.Duration) Plan {
	file, err := d.bootFile(nonce)
	if err != nil {
		return silence("%v", err)
	}
	r := d.header(t)
	if addr.IsValid() {
		r.YourIPAddr = addr.AsSlice()
	}
	if d.c.Current.IsValid() && t == dhcpv4.MessageTypeAck {
		r.ClientIPAddr = d.c.Current.AsSlice()
	}
	d.addNetwork(r)
	if addr.IsValid() {
		d.addTimes(r, lease)
	}
	if file != "" {
		d.addBoot(r, file)
	}
	plan := Plan{Reply: r, To: d.destination(addr), Answer: t.String()}
	if addr.IsValid() {
		plan.Answer += " " + addr.String()
	}
	if file != "" {
		plan.Answer += " file=" + withoutNonce(file, nonce)
	}
	return d.inVain(plan, t)
}

// inVain says what becomes of a machine whose firmware was sent to load programs that never asked for anything.
func (d decision) inVain(plan Plan, t dhcpv4.MessageType) Plan {
	signed, ok := boot.Signed(d.c.Firmware)
	usual, _ := boot.Program(d.c.Firmware)
	// Who gets GRUB is never heard of by iPXE.
	if !d.c.Class.Firmware() || d.v.Fetches == 0 || boot.StartsGRUB(usual) || d.v.Loader == swarm.LoaderSigned && !d.cfg.Proxy {
		return plan
	}
	switch name, _ := d.program(); {
	case ok && name == signed:
		plan.Event = EventRefused
		plan.Reason = fmt.Sprintf("%s was sent, and iPXE never asked: Secure Boot, which refuses unsigned programs? Debian's signed shim is next", usual)
	case name != usual:
		plan.Event = EventChainLoop
		plan.Reason = fmt.Sprintf("%d boot programs in an hour and iPXE never asked: another program", d.v.Fetches)
	case ok && d.cfg.Proxy:
		plan.Event = EventRefused
		plan.Reason = fmt.Sprintf("%s was sent, and iPXE never asked: Secure Boot? That is not served beside another DHCP server", usual)
	}
	if t != dhcpv4.MessageTypeAck { // said once for each exchange
		plan.Event = ""
	}
	return plan
}

// nak refuses an address. It is broadcast, since the client must not be believed about the one that it has (RFC 2131, 4.3.2).
func (d decision) nak(why string) Plan {
	r := d.header(dhcpv4.MessageTypeNak)
	r.ServerIPAddr = net.IPv4zero
	put(r, dhcpv4.OptionMessage, []byte(why))
	plan := Plan{Reply: r, Answer: "NAK", Reason: why, DropOffer: true}
	if d.c.Relay.IsValid() {
		r.SetBroadcast() // towards the client, by the relay
		plan.To.Relay = d.c.Relay
	}
	return plan
}

// header copies what every reply repeats, and says who we are.
func (d decision) header(t dhcpv4.MessageType) *dhcpv4.DHCPv4 {
	r := &dhcpv4.DHCPv4{
		OpCode:        dhcpv4.OpcodeBootReply,
		HWType:        d.p.HWType,
		TransactionID: d.p.TransactionID,
		NumSeconds:    d.p.NumSeconds,
		Flags:         d.p.Flags,
		ServerIPAddr:  d.cfg.Server.AsSlice(),
		GatewayIPAddr: d.p.GatewayIPAddr,
		ClientHWAddr:  d.p.ClientHWAddr,
		Options:       make(dhcpv4.Options, usualOptions),
	}
	put(r, dhcpv4.OptionDHCPMessageType, []byte{byte(t)})
	put(r, dhcpv4.OptionServerIdentifier, serverID(d.c, d.cfg).AsSlice())
	// 61 by RFC 6842, 82 by RFC 3046, 97 by RFC 4578: repeated exactly as they came, or not at all.
	for _, code := range []dhcpv4.OptionCode{
		dhcpv4.OptionClientIdentifier, dhcpv4.OptionRelayAgentInformation, dhcpv4.OptionClientMachineIdentifier,
	} {
		if v := d.p.Options.Get(code); len(v) > 0 {
			put(r, code, v)
		}
	}
	return r
}

// addNetwork says where the client is. Boot firmware gets mask and router unasked: not all of it asks for what it needs.
func (d decision) addNetwork(r *dhcpv4.DHCPv4) {
	always := d.c.Class != boot.Ordinary
	add := func(code dhcpv4.OptionCode, unasked bool, value []byte) {
		if len(value) > 0 && (unasked || asksFor(d.p, code)) {
			put(r, code, value)
		}
	}
	add(dhcpv4.OptionSubnetMask, always, net.CIDRMask(d.cfg.Subnet.Bits(), 32))
	if d.cfg.Router.IsValid() {
		add(dhcpv4.OptionRouter, always, d.cfg.Router.AsSlice())
	}
	add(dhcpv4.OptionDomainNameServer, always, addresses(d.cfg.DNS))
	add(dhcpv4.OptionNTPServers, false, addresses(d.cfg.NTP))
	if asksFor(d.p, dhcpv4.OptionHostName) {
		add(dhcpv4.OptionHostName, true, []byte(d.hostname()))
	}
	add(dhcpv4.OptionDomainName, false, []byte(d.cfg.Domain))
	add(dhcpv4.OptionBroadcastAddress, false, d.cfg.broadcast().AsSlice())
}

func addresses(all []netip.Addr) (out []byte) {
	for _, a := range all {
		out = append(out, a.AsSlice()...)
	}
	return out
}

func (d decision) addTimes(r *dhcpv4.DHCPv4, lease time.Duration) {
	seconds := func(t time.Duration) []byte {
		return binary.BigEndian.AppendUint32(nil, uint32(t/time.Second))
	}
	put(r, dhcpv4.OptionIPAddressLeaseTime, seconds(lease))
	if asksFor(d.p, dhcpv4.OptionRenewTimeValue) {
		put(r, dhcpv4.OptionRenewTimeValue, seconds(lease/2)) // RFC 2131, 4.4.5: 0.5 and 0.875 of the lease
	}
	if asksFor(d.p, dhcpv4.OptionRebindingTimeValue) {
		put(r, dhcpv4.OptionRebindingTimeValue, seconds(lease*7/8))
	}
}

// addBoot names the boot file twice: U-Boot and some ROMs read only the header, others only option 67.
func (d decision) addBoot(r *dhcpv4.DHCPv4, file string) {
	r.BootFileName = file
	put(r, dhcpv4.OptionBootfileName, []byte(file))
	switch d.c.Class {
	case boot.IPXE:
		if d.cfg.Sole {
			put(r, optionEtherboot, []byte(ipxeNoProxy))
		}
	case boot.PXE:
		r.ServerHostName = d.cfg.Server.String()
		put(r, dhcpv4.OptionTFTPServerName, []byte(d.cfg.Server.String()))
		if d.c.Firmware == boot.BIOS {
			put(r, dhcpv4.OptionClassIdentifier, []byte("PXEClient"))
			put(r, dhcpv4.OptionVendorSpecificInformation, []byte(pxeDiscoveryOff))
		}
	case boot.HTTPBoot:
		// Without it EDK2 takes the answer for one to an ordinary client, and goes on looking (UEFI 2.10, 24.7).
		put(r, dhcpv4.OptionClassIdentifier, []byte("HTTPClient"))
	}
}

// bootFile is what the client shall load next, "" for clients that load nothing.
func (d decision) bootFile(nonce string) (file string, err error) {
	switch d.c.Class {
	case boot.IPXE:
		file = d.cfg.ScriptURL(nonce)
	case boot.PXE, boot.HTTPBoot:
		name, ok := d.program()
		if !ok {
			return "", errors.New(noProgram(d.c, d.cfg.Proxy))
		}
		file = name
		if d.c.Class == boot.HTTPBoot {
			file = d.cfg.ProgramURL(name)
		}
	}
	// The library would cut it silently, and a cut address leads nowhere.
	if len(file) > MaxFile {
		return "", fmt.Errorf("boot file %s is longer than %d bytes", file, MaxFile)
	}
	return file, nil
}

// program is what the firmware shall load. Beside the server of others there is iPXE only: shim looks for GRUB at the server that the
// other one's ACK names, if that names a file.
func (d decision) program() (string, bool) {
	return program(d.c, d.v.Loader, d.v.Fetches, d.cfg.Proxy)
}

// program is what boot.Choose names for firmware, if it can load that: by HTTP come EFI programs only. For a BIOS that boots by
// HTTP (code 20 of option 93) there is none.
func program(c Client, l swarm.Loader, vain int, proxy bool) (string, bool) {
	if proxy {
		l = swarm.LoaderIPXE
	}
	name, ok := boot.Choose(c.Firmware, l, vain)
	if c.Class == boot.HTTPBoot && !boot.LoadedByHTTP(name) || proxy && boot.StartsGRUB(name) {
		return "", false
	}
	return name, ok
}

// noProgram says to whom nothing can be named.
func noProgram(c Client, proxy bool) string {
	if _, ok := program(c, swarm.LoaderAuto, 0, false); ok && proxy {
		return fmt.Sprintf("there is only GRUB for %s, which cannot be started beside another DHCP server", c)
	}
	return fmt.Sprintf("there is no boot program for %s", c)
}

// withoutNonce shortens the nonce of a script address to what tells boots apart: answers are logged and shown, and with the
// whole nonce anyone could fetch what is meant for the machine alone.
func withoutNonce(file, nonce string) string {
	const shown = 4
	if len(nonce) <= shown {
		return file
	}
	return strings.ReplaceAll(file, nonce, nonce[:shown]+"...")
}

// destination follows RFC 2131, 4.1: the relay, else the client's address if it has one, else by the broadcast flag.
func (d decision) destination(addr netip.Addr) Destination {
	switch {
	case d.c.Relay.IsValid():
		return Destination{Relay: d.c.Relay}
	case d.c.Current.IsValid():
		return Destination{Addr: d.c.Current}
	case d.p.IsBroadcast() || !addr.IsValid():
		return Destination{}
	default:
		return Destination{Addr: addr, Frame: true}
	}
}

func put(p *dhcpv4.DHCPv4, code dhcpv4.OptionCode, value []byte) {
	p.Options[code.Code()] = value
}
