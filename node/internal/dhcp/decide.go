package dhcp

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// Offer is an address that we keep for a machine between our OFFER and its REQUEST. It lives in memory only: when it is lost
// the client starts anew.
type Offer struct {
	Addr  netip.Addr
	Nonce string
	Class string
	Until time.Time
}

// View is what is known about the sender of a packet when it is decided upon.
type View struct {
	Duty     DutyState
	Unicast  bool     // the packet was sent to our address, not to everyone
	Hostname string   // that the machine was given, "" if none
	Binding  *Binding // committed, expired or not; nil: none, or one that someone else has been offered meanwhile
	// BindingKept says that an operator keeps the binding's address for another machine.
	BindingKept bool
	Reserved    netip.Addr // what an operator keeps for this machine; invalid: nothing
	Offer       *Offer     // pending; nil: none
	Candidate   netip.Addr // an address reserved for this packet; invalid: none was needed, or none could be had
	Trouble     string     // why none could be had
	Exhausted   bool       // because none is left
	Fetches     int        // boot programs named to this machine within the last hour, by TFTP or HTTP, without iPXE asking afterwards
	Loader      swarm.Loader
	NewNonce    string // to use if a new boot begins with this packet
	BootServer  bool   // of a proxy: the packet came to port 4011
	From        uint16 // with BootServer: from this port
	Begun       string // of a proxy: the nonce of the boot that iPXE began a moment ago
}

// Plan is what to do about one packet: commit, forget, then send, in this order; a step that fails ends it.
type Plan struct {
	Bind       *Binding   // commit before anything is sent
	Release    netip.Addr // end the machine's binding to this address
	Quarantine netip.Addr // keep this address from everyone
	DropOffer  bool
	Offer      *Offer // keep this one
	Fetches    bool   // the machine fetches a boot program now
	Begin      string // of a proxy: the nonce of the boot that begins
	NewBoot    bool   // of a proxy: what iPXE began before is over

	Reply  *dhcpv4.DHCPv4 // nil: silence
	To     Destination
	Answer string // the reply in short
	Reason string // why there is none, or what is remarkable about it
	Why    string // on what the reply rests
	Event  EventKind
}

// Destination is how a reply travels. The zero value broadcasts to clients.
type Destination struct {
	Relay netip.Addr // valid: to this relay's server port
	Addr  netip.Addr // valid: to this address's client port
	Port  uint16     // with Addr, not 0: to this port
	// Frame sends to Addr in a frame made for the client's MAC: it has no address yet and cannot answer ARP.
	Frame bool
}

// own is the binding that the machine may go on with. What an operator keeps for one machine goes before it, but not before
// an address without an end: that is a node's own.
func (v *View) own() *Binding {
	b := v.Binding
	if b == nil || b.Expires.IsZero() {
		return b
	}
	if v.BindingKept || v.Reserved.IsValid() && v.Reserved != b.Addr {
		return nil
	}
	return b
}

// pending is the offer that the machine may take up.
func (v *View) pending() *Offer {
	if v.Offer != nil && v.Reserved.IsValid() && v.Reserved != v.Offer.Addr && v.own() == nil {
		return nil
	}
	return v.Offer
}

// needsAddress tells whether an address must be found before Decide can answer, and which: an invalid one is any.
func needsAddress(c Client, v View, cfg *Config) (netip.Addr, bool) {
	if cfg.Proxy || v.Duty != Full || v.own() != nil || v.pending() != nil || servable(c, cfg) != "" {
		return netip.Addr{}, false
	}
	switch c.Message {
	case dhcpv4.MessageTypeDiscover:
		switch {
		case v.Reserved.IsValid():
			return v.Reserved, true
		case cfg.inPool(c.Requested):
			return c.Requested, true
		}
		return netip.Addr{}, true
	case dhcpv4.MessageTypeRequest:
		asked := c.asked()
		if v.Reserved.IsValid() {
			return asked, asked == v.Reserved && (!c.ServerID.IsValid() || c.ServerID == serverID(c, cfg))
		}
		// We restarted, or took over, between OFFER and REQUEST.
		return asked, c.ServerID.IsValid() && c.ServerID == serverID(c, cfg) && cfg.inPool(asked)
	}
	return netip.Addr{}, false
}

// Decide chooses the answer to a packet of which Classify made c. Pure; docs/booting.md and RFC 2131 section 4.3 are its
// specification.
func Decide(now time.Time, p *dhcpv4.DHCPv4, c Client, v View, cfg Config) Plan {
	cfg = cfg.withDefaults()
	d := decision{now: now, p: p, c: c, v: v, cfg: &cfg}
	switch {
	case v.Duty == None:
		return silence("this node does not hold duty on the segment")
	case v.Duty == RenewOnly && !cfg.Proxy:
		return d.renewOnly()
	}
	if why := servable(c, &cfg); why != "" {
		return silence("%s", why)
	}
	// RFC 3004: each user class is preceded by its length.
	if class := p.Options.Get(dhcpv4.OptionUserClassInformation); cfg.Mark != "" && string(class) == string(rune(len(cfg.Mark)))+cfg.Mark {
		return silence("a probe for foreign servers by a node of this swarm")
	}
	if cfg.Proxy {
		return d.proxy()
	}
	switch c.Message {
	case dhcpv4.MessageTypeDiscover:
		return d.discover()
	case dhcpv4.MessageTypeRequest:
		return d.request()
	case dhcpv4.MessageTypeDecline:
		return d.decline()
	case dhcpv4.MessageTypeRelease:
		return d.release()
	case dhcpv4.MessageTypeInform:
		return d.inform()
	default:
		return silence("%s is not a message for servers", c.Message)
	}
}

// servable tells why a client gets nothing whatever it says; "": it is one of ours.
func servable(c Client, cfg *Config) string {
	link := c.Relay
	if c.LinkSelection.IsValid() {
		link = c.LinkSelection
	}
	if link.IsValid() && !cfg.Subnet.Contains(link) {
		return fmt.Sprintf("relayed for %s, which is not in our subnet %s", link, cfg.Subnet)
	}
	if c.Message == dhcpv4.MessageTypeRelease || c.Message == dhcpv4.MessageTypeDecline {
		return ""
	}
	if c.Class.Firmware() {
		if _, ok := program(c, swarm.LoaderAuto, 0, cfg.Proxy); !ok {
			return noProgram(c, cfg.Proxy)
		}
	}
	return ""
}

type decision struct {
	now time.Time
	p   *dhcpv4.DHCPv4
	c   Client
	v   View
	cfg *Config
}

func silence(format string, args ...any) Plan { return Plan{Reason: fmt.Sprintf(format, args...)} }

// discover offers what the machine has, else what was reserved for it.
func (d decision) discover() Plan {
	addr, why, nonce := d.v.Candidate, "a free address of the pool", d.nonce()
	switch {
	case d.v.own() != nil:
		addr, why = d.v.Binding.Addr, "its address"
	case d.v.pending() != nil:
		addr, why = d.v.Offer.Addr, "offered to it a moment ago"
	case d.v.Reserved.IsValid():
		why = "kept for it by an operator"
	case addr == d.c.Requested:
		why = "it asks for that one, and it is free"
	}
	if !addr.IsValid() {
		plan := silence("no address: %s", d.v.Trouble)
		if d.v.Exhausted {
			plan.Event = EventExhausted
		}
		return plan
	}
	plan := d.grant(dhcpv4.MessageTypeOffer, addr, nonce, d.leaseTime())
	plan.Why = why
	plan.Offer = &Offer{
		Addr: addr, Nonce: nonce, Class: classOfBinding(d.c.Class), Until: d.now.Add(offerTime),
	}
	return plan
}

// offerTime is how long an offer waits for its REQUEST: firmware collects offers for 4, 8, 16, then 32 seconds.
const offerTime = time.Minute

// request sorts a REQUEST by the state that its sender is in (RFC 2131, table 4).
func (d decision) request() Plan {
	switch {
	case d.c.ServerID.IsValid():
		return d.selecting()
	case d.c.Requested.IsValid():
		return d.initReboot()
	case d.c.Current.IsValid():
		return d.renewing()
	default:
		return silence("REQUEST names no address")
	}
}

func (d decision) selecting() Plan {
	if d.c.ServerID != serverID(d.c, d.cfg) {
		plan := silence("chose the server %s", d.c.ServerID)
		plan.DropOffer = true
		return plan
	}
	wanted := d.c.asked()
	var ours netip.Addr
	switch {
	case d.v.pending() != nil:
		ours = d.v.Offer.Addr
	case d.v.own() != nil:
		ours = d.v.Binding.Addr
	default:
		ours = d.v.Candidate
	}
	if !wanted.IsValid() || wanted != ours {
		return d.nak(fmt.Sprintf("asks for %s, which is not what we offered", text(wanted)))
	}
	return d.bind(wanted)
}

func (d decision) initReboot() Plan {
	wanted := d.c.Requested
	switch {
	case !d.cfg.Subnet.Contains(wanted):
		return d.nak(fmt.Sprintf("%s is an address of another network", wanted))
	case d.mayHave(wanted):
		return d.bind(wanted)
	case d.mayNotHave(wanted) != "":
		return d.nak(fmt.Sprintf("asks for %s, but %s", wanted, d.mayNotHave(wanted)))
	case d.cfg.Authoritative:
		return d.nak(fmt.Sprintf("nothing is known of its %s", wanted))
	default:
		return silence("asks for %s, of which nothing is known here: another server may know (RFC 2131, 4.3.2)", wanted)
	}
}

func (d decision) renewing() Plan {
	current := d.c.Current
	switch {
	case !d.cfg.Subnet.Contains(current):
		return d.nak(fmt.Sprintf("%s is an address of another network", current))
	case d.mayHave(current):
		return d.bind(current)
	case d.mayNotHave(current) != "":
		return d.nak(fmt.Sprintf("renews %s, but %s", current, d.mayNotHave(current)))
	case d.cfg.Authoritative || d.v.Unicast:
		return d.nak(fmt.Sprintf("renews %s, of which nothing is known", current))
	default:
		return silence("renews %s, of which nothing is known here: another server may know", current)
	}
}

// mayHave tells whether the machine may go on with an address that it says it has.
func (d decision) mayHave(addr netip.Addr) bool {
	if b := d.v.own(); b != nil {
		return b.Addr == addr
	}
	if o := d.v.pending(); o != nil && o.Addr == addr && d.v.Reserved == addr {
		return true
	}
	return d.v.Reserved == addr && d.v.Candidate == addr
}

// mayNotHave tells what we know that speaks against an address; "": nothing is known.
func (d decision) mayNotHave(addr netip.Addr) string {
	b := d.v.own()
	switch {
	case b != nil:
		return fmt.Sprintf("has %s", b.Addr)
	case d.v.Reserved == addr:
		return d.v.Trouble
	case d.v.Reserved.IsValid():
		return fmt.Sprintf("%s is kept for it", d.v.Reserved)
	case d.v.BindingKept:
		return fmt.Sprintf("%s is kept for another machine", d.v.Binding.Addr)
	}
	return ""
}

// renewOnly answers with what is left of a committed binding, and to no one who did not ask this server by its address:
// whoever holds duty now answers all others.
func (d decision) renewOnly() Plan {
	const fenced = "without quorum only committed addresses are renewed, for those who ask this node by its address"
	b := d.v.Binding
	switch {
	case d.c.Message != dhcpv4.MessageTypeRequest || !d.v.Unicast || d.c.Relay.IsValid():
		return silence(fenced)
	case d.c.ServerID.IsValid() || d.c.Requested.IsValid() || !d.c.Current.IsValid():
		return silence(fenced)
	case b == nil || b.Addr != d.c.Current:
		return silence("%s is not its committed address; %s", d.c.Current, fenced)
	}
	left := d.leaseTime()
	if !b.Expires.IsZero() {
		left = min(left, b.Left, b.Expires.Sub(d.now))
	}
	if left < time.Second {
		return silence("its binding to %s is over, for all that is known here; %s", b.Addr, fenced)
	}
	plan := d.grant(dhcpv4.MessageTypeAck, b.Addr, b.Nonce, left)
	plan.Reason = "no quorum: renewed for the remaining time only"
	return plan
}

// bind commits an address and acknowledges it.
func (d decision) bind(addr netip.Addr) Plan {
	nonce := d.nonce()
	plan := d.grant(dhcpv4.MessageTypeAck, addr, nonce, d.leaseTime())
	if plan.Reply == nil {
		return plan
	}
	plan.Why = "its address"
	b := &Binding{
		MAC: d.c.MAC, Addr: addr, Nonce: nonce, Expires: d.now.Add(d.leaseTime()),
		Class: classOfBinding(d.c.Class), Hostname: d.hostname(),
	}
	if old := d.v.Binding; old != nil && old.Addr == addr && old.Expires.IsZero() {
		b.Expires = time.Time{}
	}
	plan.Bind, plan.Fetches = b, d.c.Class.Firmware()
	return plan
}

// nonce decides which boot a packet belongs to. Within one exchange it is the offer's. Firmware always begins a new boot.
// iPXE carries on the boot of the firmware or iPXE that bound before it, as long as that short lease lasts. Everything else
// runs inside the boot that started it, and never changes the nonce.
func (d decision) nonce() string {
	class := classOfBinding(d.c.Class)
	// iPXE tries several times, with a new transaction each: one boot. What firmware was offered is told to nobody before its
	// REQUEST, so a repeated DISCOVER may well change it.
	if o := d.v.Offer; o != nil && o.Class == class && (class != ClassFirmware || d.c.Message == dhcpv4.MessageTypeRequest) {
		return o.Nonce
	}
	b := d.v.Binding
	if b == nil || b.Nonce == "" {
		return d.v.NewNonce
	}
	switch class {
	case ClassOS:
		return b.Nonce
	case ClassIPXE:
		if (b.Class == ClassFirmware || b.Class == ClassIPXE) && !b.Expires.IsZero() && !b.ExpiredAt(d.now) {
			return b.Nonce
		}
	}
	return d.v.NewNonce
}

// decline keeps an address that the machine found in use from everyone. Only the machine's own address: anyone can send a
// DECLINE, and the pool would soon be empty.
func (d decision) decline() Plan {
	if d.c.ServerID.IsValid() && d.c.ServerID != serverID(d.c, d.cfg) {
		return silence("declines an address of the server %s", d.c.ServerID)
	}
	b, o := d.v.Binding, d.v.Offer
	switch {
	case b != nil && b.Addr == d.c.Requested && b.Expires.IsZero():
		plan := silence("declines %s, which is its own for ever: find the other user of that address", b.Addr)
		plan.Event = EventConflict
		return plan
	case b != nil && b.Addr == d.c.Requested, o != nil && o.Addr == d.c.Requested:
		plan := silence("found %s in use by another machine: quarantined", d.c.Requested)
		plan.Quarantine, plan.DropOffer, plan.Event = d.c.Requested, true, EventConflict
		if b != nil && b.Addr == d.c.Requested {
			plan.Release = b.Addr
		}
		return plan
	default:
		return silence("declines %s, which we did not give to it", text(d.c.Requested))
	}
}

func (d decision) release() Plan {
	if d.c.ServerID.IsValid() && d.c.ServerID != serverID(d.c, d.cfg) {
		return silence("releases an address of the server %s", d.c.ServerID)
	}
	b := d.v.Binding
	switch {
	case b == nil || b.Addr != d.c.Current:
		return silence("releases %s, which it does not have", text(d.c.Current))
	case b.Expires.IsZero():
		return silence("releases %s, which is its own for ever", b.Addr)
	}
	plan := silence("released %s (RELEASE has no answer)", b.Addr)
	plan.Release, plan.DropOffer = b.Addr, true
	return plan
}

// inform tells a machine that has an address by other means everything but an address (RFC 2131, 4.3.5).
func (d decision) inform() Plan {
	if !d.c.Current.IsValid() || !d.cfg.Subnet.Contains(d.c.Current) {
		return silence("INFORM from %s, which is not in our subnet", text(d.c.Current))
	}
	if d.c.Class == boot.IPXE {
		return silence("INFORM from iPXE: it gets its script with a lease")
	}
	plan := d.grant(dhcpv4.MessageTypeAck, netip.Addr{}, "", 0)
	plan.Why = "it has an address and asks for the rest"
	return plan
}

func (d decision) leaseTime() time.Duration {
	switch d.c.Class {
	case boot.PXE, boot.HTTPBoot:
		if name, _ := d.program(); boot.StartsGRUB(name) {
			return d.cfg.IPXELease // GRUB asks for none of its own, and may wait as long as iPXE
		}
		return d.cfg.FirmwareLease
	case boot.IPXE:
		return d.cfg.IPXELease
	default:
		return d.cfg.Lease
	}
}

// hostname is the name that the machine was given, else the one that it had.
func (d decision) hostname() string {
	if d.v.Hostname != "" {
		return d.v.Hostname
	}
	if d.v.Binding != nil {
		return d.v.Binding.Hostname
	}
	return ""
}

func classOfBinding(c boot.Class) string {
	switch c {
	case boot.PXE, boot.HTTPBoot:
		return ClassFirmware
	case boot.IPXE:
		return ClassIPXE
	default:
		return ClassOS
	}
}

// serverID is how we call ourselves towards this client: a relay may want to stand for us (RFC 5107).
func serverID(c Client, cfg *Config) netip.Addr {
	if c.ServerIDAs.IsValid() {
		return c.ServerIDAs
	}
	// It chose the offer of whoever held this duty a moment ago. Firmware takes an ACK from nobody else.
	if c.Message == dhcpv4.MessageTypeRequest && c.ServerID.IsValid() && c.ServerID != cfg.Server && cfg.Former != nil && cfg.Former(c.ServerID) {
		return c.ServerID
	}
	return cfg.Server
}

func text(a netip.Addr) string {
	if !a.IsValid() {
		return "no address"
	}
	return a.String()
}
