// Package dhcp gives the machines of one segment their addresses and tells those that boot from the network what to boot.
//
// It holds three parts: Classify reads a packet, Decide chooses the answer (both pure; docs/booting.md is their
// specification), and Server carries the packets. A binding is committed through the Ledger before it is acknowledged, and
// nothing is sent unless the Duty function allows it at the arrival of the packet and again before the answer leaves.
//
// A Server serves one subnet, that of its interface or one behind a relay; a Hub lets several share an interface. Beside the server
// of others it is a proxy: it says what to boot, and gives nothing. It refuses to give addresses there, and to believe a
// client-id: a machine is its MAC. It may be imported by node and by tests; it imports boot and swarm.
package dhcp

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"time"

	"offshoot/node/internal/boot"
	"offshoot/swarm"
)

// Binding ties one address to one machine, whichever of its programs asks.
type Binding struct {
	MAC      swarm.MAC
	Addr     netip.Addr
	Nonce    string    // 22 characters base64url, names one boot of the machine in URLs
	Expires  time.Time // zero: never; such a binding is kept as it is, whatever the machine sends
	Class    string    // who asked last: one of the Class constants, or whatever else the ledger keeps there
	Hostname string
	// Left is how long an expiring binding lasts at least, for all that this node knows: so long it may renew it without the
	// others.
	Left time.Duration
}

// Classes of bindings. They decide which requests belong to one boot.
const (
	ClassFirmware = "firmware"
	ClassIPXE     = "ipxe"
	ClassOS       = "os" // the agent, an installer, an operating system: everything that does not load a boot program
)

// ExpiredAt tells whether the binding no longer keeps its address from others.
func (b Binding) ExpiredAt(now time.Time) bool { return !b.Expires.IsZero() && !now.Before(b.Expires) }

// Ledger is where bindings live. Reads come from a local copy and are quick; writes are replicated, may take seconds, and
// fail when there is no quorum: then the client gets no answer. Safe for concurrent use.
type Ledger interface {
	// Binding is the last binding of mac on this segment, expired or not.
	Binding(mac swarm.MAC) (Binding, bool)
	// Holder tells to whom addr belongs, and whether that is over: nobody can be using it by that right any more. The
	// empty MAC holds what is kept from everyone.
	Holder(addr netip.Addr) (mac swarm.MAC, over, ok bool)
	// Bind commits b. It replaces the machine's own binding, and a binding of another machine to the same address that is
	// over; it fails if that is not over.
	Bind(ctx context.Context, b Binding) error
	// Release ends the binding of mac to addr, if that is what it has.
	Release(ctx context.Context, mac swarm.MAC, addr netip.Addr) error
	// Quarantine keeps addr from being given to anyone for a time that the ledger chooses.
	Quarantine(ctx context.Context, addr netip.Addr) error
	// Reserved is the address of the subnet that an operator keeps for mac, inside the pools or not.
	Reserved(mac swarm.MAC) (netip.Addr, bool)
	// ReservedFor is the machine that an operator keeps addr for.
	ReservedFor(addr netip.Addr) (swarm.MAC, bool)
}

// DutyState is how much this node may say on the segment.
type DutyState uint8

const (
	// None: another node answers here. Complete silence.
	None DutyState = iota
	// RenewOnly: the duty may have been given away, and nothing can be committed. Only committed bindings are prolonged,
	// and only for their remaining time, and only for clients that ask this very server.
	RenewOnly
	// Full duty.
	Full
)

// Config is one segment as its duty holder serves it.
type Config struct {
	// Proxy serves beside the server of others, on ports 67 and 4011 (PXE 2.1, 2.2.3): what to boot is said, and no address given.
	// Pools, Router, DNS, Domain and the times are not used then.
	Proxy bool

	Interface string     // the only interface that is listened on and answered to
	Server    netip.Addr // our own address there: server identifier, next server, source of every answer
	Subnet    netip.Prefix
	Relayed   bool       // Subnet is reached through a relay: Server is an address elsewhere
	Pools     []Range    // what machines without a reservation get their addresses from; may be empty
	Router    netip.Addr // invalid: none is announced
	Services

	// Former says whether an address is that of a node which may have held this duty before us: a REQUEST that chose its
	// offer is answered in its name. May be nil.
	Former func(netip.Addr) bool

	// ScriptURL is where iPXE finds its script for one boot; at most MaxFile bytes long.
	ScriptURL func(nonce string) string
	// ProgramURL is where firmware that boots by HTTP finds a boot program: http with a literal address; at most MaxFile bytes
	// long.
	ProgramURL func(name string) string
	// Hostname is the name of a machine, "" if it has none. May be nil.
	Hostname func(swarm.MAC) string

	// Loader is which boot programs the firmware of a machine gets. May be nil.
	Loader func(swarm.MAC) swarm.Loader

	// Mark is the user class of our own probes for foreign servers: they get no answer. Empty: none.
	Mark string

	FirmwareLease time.Duration // 0: 2 minutes. Firmware forgets its address as soon as the boot program runs
	IPXELease     time.Duration // 0: 10 minutes
	Lease         time.Duration // 0: 1 hour

	// Sole says that no other DHCP server, proxies included, is on the segment: iPXE need not wait for one.
	Sole bool
	// Authoritative answers NAK, instead of nothing, to a client that insists on an address of which we know nothing.
	Authoritative bool
}

// Services are what clients are told of besides boot: all of it may be empty.
type Services struct {
	DNS    []netip.Addr
	Domain string
	NTP    []netip.Addr
}

// Range is the addresses from First to Last, both included.
type Range struct{ First, Last netip.Addr }

// String is "192.168.42.10 to 192.168.42.250".
func (r Range) String() string { return fmt.Sprintf("%s to %s", r.First, r.Last) }

func (r Range) contains(a netip.Addr) bool { return !a.Less(r.First) && !r.Last.Less(a) }

// MaxFile is the longest boot file name or URL: the header field holds 128 bytes and firmware wants the last to be zero.
const MaxFile = 127

func (c Config) withDefaults() Config {
	set := func(d *time.Duration, to time.Duration) {
		if *d <= 0 {
			*d = to
		}
	}
	set(&c.FirmwareLease, 2*time.Minute)
	set(&c.IPXELease, 10*time.Minute)
	set(&c.Lease, time.Hour)
	return c
}

// Check reports the first setting with which no segment could be served.
func (c Config) Check() error {
	switch {
	case c.Interface == "":
		return errors.New("no interface is named")
	case !c.Subnet.IsValid() || !c.Subnet.Addr().Is4() || c.Subnet.Bits() > 30:
		return fmt.Errorf("subnet %s is not an IPv4 network with room for machines", c.Subnet)
	case !c.Server.Is4():
		return fmt.Errorf("our address %s is not one of IPv4", c.Server)
	case !c.Relayed && !c.Subnet.Contains(c.Server):
		return fmt.Errorf("our address %s is not in the subnet %s", c.Server, c.Subnet)
	case c.ScriptURL == nil:
		return errors.New("no script address is given")
	case c.ProgramURL == nil:
		return errors.New("no program address is given")
	case c.Router.IsValid() && !c.Subnet.Contains(c.Router):
		return fmt.Errorf("router %s is not in the subnet %s", c.Router, c.Subnet)
	}
	for _, r := range c.Pools {
		if !c.Subnet.Contains(r.First) || !c.Subnet.Contains(r.Last) || r.Last.Less(r.First) {
			return fmt.Errorf("pool %s is not a range of the subnet %s", r, c.Subnet)
		}
	}
	for _, d := range c.DNS {
		if !d.Is4() {
			return fmt.Errorf("name server %s is not an IPv4 address", d)
		}
	}
	if url := c.ScriptURL("0123456789012345678901"); len(url) > MaxFile {
		return fmt.Errorf("script address %s is longer than the %d bytes of a boot file name", url, MaxFile)
	}
	for _, name := range boot.ProgramNames() {
		if url := c.ProgramURL(name); len(url) > MaxFile {
			return fmt.Errorf("program address %s is longer than the %d bytes of a boot file name", url, MaxFile)
		}
	}
	return nil
}

// Trace is one packet and what became of it, for `machine why`.
type Trace struct {
	Time   time.Time
	MAC    swarm.MAC // empty if the packet could not be read
	What   string    // "DISCOVER from firmware EFI x64 xid 5ef2a1c0"
	Answer string    // "OFFER 192.168.42.17 file=snponly.efi"; empty: silence
	Reason string    // why there was no answer, or what is remarkable about this one
	Why    string    // on what an answer rests, also where nothing is remarkable
}

// EventKind names what Event reports.
type EventKind string

// The things that belong on a timeline because someone may have to act.
const (
	EventExhausted EventKind = "pool-exhausted" // no address left for the machine
	EventConflict  EventKind = "address-in-use" // someone uses an address that we have not given to them
	EventChainLoop EventKind = "boot-loop"      // the boot program starts but never reaches iPXE's DHCP request
	EventRefused   EventKind = "secure-boot"    // the firmware seems to refuse what is not signed
	EventCommit    EventKind = "not-committed"  // the ledger refused a binding
)

// Event is something that the operator should see, beyond the packet that it came from.
type Event struct {
	Time time.Time
	MAC  swarm.MAC
	Kind EventKind
	Text string
}
