package dhcp

import (
	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/boot"
)

// proxy answers beside the server of others (PXE 2.1, 2.2.3): what to boot, and never an address or anything else that a lease
// has. Columns B, C, D and E of docs/booting.md.
func (d decision) proxy() Plan {
	switch {
	case d.v.Duty != Full:
		return silence("without quorum no boot is begun")
	case d.v.BootServer:
		return d.bootServer()
	case d.c.Message != dhcpv4.MessageTypeDiscover:
		return silence("%s is for the server that gives the addresses here", d.c.Message)
	case d.c.Class == boot.Ordinary:
		return silence("wants an address only, which another server gives here")
	}
	return d.direct(dhcpv4.MessageTypeOffer)
}

// bootServer answers on port 4011, by which EFI firmware takes the offer of a proxy up (BINL). Its client has an address already.
func (d decision) bootServer() Plan {
	current := d.c.Current
	switch {
	case d.c.Message != dhcpv4.MessageTypeRequest && d.c.Message != dhcpv4.MessageTypeInform:
		return silence("%s is not a message for boot servers", d.c.Message)
	case d.c.Class != boot.PXE && d.c.Class != boot.IPXE:
		return silence("%s asks port 4011, which is for PXE", d.c)
	case !current.IsValid() || !d.cfg.Subnet.Contains(current):
		return silence("asks port 4011 from %s, which is not in our subnet %s", text(current), d.cfg.Subnet)
	}
	plan := d.direct(dhcpv4.MessageTypeAck)
	plan.Fetches = plan.Reply != nil && d.c.Class.Firmware()
	return plan
}

// direct says what to boot and from where.
func (d decision) direct(t dhcpv4.MessageType) Plan {
	nonce := ""
	if d.c.Class == boot.IPXE {
		if nonce = d.v.Begun; nonce == "" {
			nonce = d.v.NewNonce
		}
	}
	file, err := d.bootFile(nonce)
	if err != nil {
		return silence("%v", err)
	}
	r := d.header(t)
	r.BootFileName = file
	put(r, dhcpv4.OptionBootfileName, []byte(file))
	vendor := "PXEClient" // what makes it a proxy's offer
	if d.c.Class == boot.HTTPBoot {
		vendor = "HTTPClient"
	}
	put(r, dhcpv4.OptionClassIdentifier, []byte(vendor))
	if d.c.Class == boot.PXE {
		r.ServerHostName = d.cfg.Server.String()
		put(r, dhcpv4.OptionTFTPServerName, []byte(d.cfg.Server.String()))
		if d.c.Firmware == boot.BIOS && !d.v.BootServer {
			put(r, dhcpv4.OptionVendorSpecificInformation, []byte(pxeDiscoveryOff))
		}
	}
	plan := Plan{
		Reply: r, Answer: t.String() + " file=" + withoutNonce(file, nonce), Why: "what to boot; its address is from another server",
		Begin: nonce, NewBoot: d.c.Class.Firmware(),
	}
	if d.v.BootServer {
		r.ClientIPAddr = d.c.Current.AsSlice()
		plan.To.Addr, plan.To.Port = d.c.Current, d.v.From
	} else {
		plan.To.Relay = d.c.Relay // else a broadcast: we do not know the address that it will have
	}
	return d.inVain(plan, t)
}
