// Package swarm is the vocabulary of the swarm and its replicated state: machines, nodes, segments, duties, leases,
// tickets, profiles, artifacts, and the commands that change them.
//
// It does no I/O and reads no clock: State.Apply(Command) gives the same result on every node, because the time comes in
// the command. How commands are replicated is the ledger's business; who is reachable is gossip's. Everybody may import
// it; it imports nobody of ours.
package swarm

import (
	"net/netip"
	"slices"
	"time"
)

// Settings is what holds for the whole swarm. It is written once by Found and changed by commands of the operator.
type Settings struct {
	Swarm       string       `json:"swarm"` // the swarm's identity, 16 hexadecimal digits
	CA          string       `json:"ca"`    // the CA's certificate, PEM
	Pin         string       `json:"pin"`   // "sha256:<hex>" of the CA's public key
	Range       netip.Prefix `json:"range"` // segments after the first are cut from it, as /24
	Voters      int          `json:"voters"`
	AutoApprove bool         `json:"auto_approve"` // unknown machines are armed when they first ask to boot
	Expand      bool         `json:"expand"`       // nodes open segments on ports that nobody serves
	Profile     string       `json:"profile"`      // what unknown machines get
	Founded     time.Time    `json:"founded"`
	UplinkLimit Rate         `json:"uplink_limit,omitempty"` // of what a node moves to and from nodes of other segments, each way

	GossipKeys    []string `json:"gossip_keys"` // AES-256, as identity.Key encodes them; the first encrypts, all decrypt. Never shown.
	KeyGeneration uint64   `json:"key_generation,omitempty"`
	KeyStage      KeyStage `json:"key_stage,omitempty"` // of a rotation that is under way

	FormerCAs    []Authority `json:"former_cas,omitempty"` // trusted until every node has a certificate of CA; the newest is the last
	CAGeneration uint64      `json:"ca_generation,omitempty"`
	CAStage      CAStage     `json:"ca_stage,omitempty"` // of a replacement that is under way

	Loader Loader `json:"loader,omitempty"` // of machines that have none of their own

	StallAfter  int   `json:"stall_after,omitempty"`  // seconds that an installation may stand still; 0: what its phase says
	StoreBudget int64 `json:"store_budget,omitempty"` // bytes that artifacts may take on each node; 0: what leaves enough of the disk free

	Unknown         Unknown `json:"unknown,omitempty"`          // what machines do that nobody asked for; "": UnknownFree
	ConsoleInstalls bool    `json:"console_installs,omitempty"` // a free machine may be installed from its console

	Domain string       `json:"domain,omitempty"`  // what names of machines end in; "": see NameDomain
	DNS    []netip.Addr `json:"dns,omitempty"`     // asked for names that are not ours; none: those that each node asks for itself
	DNSOff bool         `json:"dns_off,omitempty"` // no node answers names
	NTP    []netip.Addr `json:"ntp,omitempty"`     // time servers that clients are told of
}

// MachineState says what a machine may do when it next boots from the network.
type MachineState string

// The states of a machine.
const (
	MachineKnown      MachineState = "known"      // seen or named; nothing will be written to it
	MachineFree       MachineState = "free"       // told what it is, and waits; nothing will be written to it
	MachineArmed      MachineState = "armed"      // its next network boot installs it, once
	MachineInstalling MachineState = "installing" // it fetched its install config
	MachineInstalled  MachineState = "installed"  // boots its own disk
	MachineNetboot    MachineState = "netboot"    // boots its diskless profile every time; nothing is ever written to it
	MachineHeld       MachineState = "held"       // something went wrong: waits for an operator
	MachineReleasing  MachineState = "releasing"  // its next network boot wipes its disks, once; then it is free
)

// Loader is which boot programs a machine's firmware gets, where there is a choice.
type Loader string

// The choices. Signed programs are for firmware with Secure Boot, which starts no others; they work without it as well.
const (
	LoaderAuto   Loader = ""       // iPXE, and what is signed after that was sent in vain
	LoaderIPXE   Loader = "ipxe"   // iPXE only
	LoaderSigned Loader = "signed" // shim and GRUB as Debian signs them
)

// Machine is a computer that we see on a segment, installed or not.
type Machine struct {
	MAC       MAC          `json:"mac"` // of the port that it boots from
	Name      string       `json:"name"`
	UUID      string       `json:"uuid,omitempty"` // SMBIOS
	Arch      string       `json:"arch,omitempty"` // as its firmware said; "" is amd64
	Segment   string       `json:"segment,omitempty"`
	State     MachineState `json:"state"`
	Reason    string       `json:"reason,omitempty"` // why it is held
	Profile   string       `json:"profile,omitempty"`
	Disk      string       `json:"disk,omitempty"`   // disk selector
	Wipe      bool         `json:"wipe,omitempty"`   // foreign data on the disk may be destroyed
	Loader    Loader       `json:"loader,omitempty"` // chosen by an operator, or seen to be needed; LoaderAuto: the swarm's
	Install   string       `json:"install,omitempty"`
	Phase     string       `json:"phase,omitempty"`
	Text      string       `json:"text,omitempty"`
	Percent   int          `json:"percent,omitempty"`
	Life      Life         `json:"life,omitzero"`
	Node      NodeID       `json:"node,omitempty"` // the node that it became
	Inventory []byte       `json:"inventory,omitempty"`
	Run       Run          `json:"run,omitzero"`
	Remarks   Remarks      `json:"remarks,omitzero"`
	FirstSeen time.Time    `json:"first_seen"`
	LastSeen  time.Time    `json:"last_seen"`
}

// Port is one Ethernet port of a node, as that node reports it.
type Port struct {
	Name    string       `json:"name"`
	MAC     MAC          `json:"mac"`
	VLAN    uint16       `json:"vlan,omitempty"` // 802.1Q; a VLAN's device has the MAC of its port
	Link    bool         `json:"link"`
	Segment string       `json:"segment,omitempty"` // the segment it is proved to be on
	Address netip.Prefix `json:"address,omitzero"`
}

// Node is a member of the swarm. Whether it can be reached now is not written here: gossip knows.
type Node struct {
	ID         NodeID    `json:"id"`
	Name       string    `json:"name"`
	Machine    MAC       `json:"machine,omitempty"`
	Ephemeral  bool      `json:"ephemeral,omitempty"` // the seed: expects to leave
	Address    string    `json:"address"`             // host:port of the peer listener
	Serial     string    `json:"serial,omitempty"`    // of its certificate
	NotAfter   time.Time `json:"not_after,omitzero"`  // of its certificate
	Version    string    `json:"version,omitempty"`
	Protocol   int       `json:"protocol,omitempty"` // the commands that it understands: see Protocol
	Keys       uint64    `json:"keys,omitempty"`     // the generation of gossip keys that it has installed
	Key        string    `json:"key,omitempty"`      // hex SHA-256 of its public key, which it keeps for life
	CA         uint64    `json:"ca,omitempty"`       // how far it has come with a replacement of the CA: Settings.CAGeneration
	Ports      []Port    `json:"ports,omitempty"`
	Warm       bool      `json:"warm,omitempty"` // holds every artifact that the profiles need
	Left       bool      `json:"left,omitempty"`
	Ended      string    `json:"ended,omitempty"`      // why it never comes back under this id, and its certificate is refused
	Quarantine string    `json:"quarantine,omitempty"` // why it may have neither duty nor vote
	Joined     time.Time `json:"joined"`
}

// Eligible says whether a node may hold duty or a vote at all.
func (n Node) Eligible() bool { return !n.Left && n.Ended == "" && n.Quarantine == "" }

// On returns the port of n that is on the segment.
func (n Node) On(segment string) (Port, bool) {
	for _, p := range n.Ports {
		if p.Segment == segment {
			return p, true
		}
	}
	return Port{}, false
}

// segments are those that n has ports on.
func (n *Node) segments() []string {
	var all []string
	for _, p := range n.Ports {
		if p.Segment != "" && !slices.Contains(all, p.Segment) {
			all = append(all, p.Segment)
		}
	}
	return all
}

// Segment is one layer-2 broadcast domain with one IPv4 subnet, and the duty on it.
type Segment struct {
	ID      string       `json:"id"`
	Network netip.Prefix `json:"network"` // masked
	Opener  NodeID       `json:"opener"`
	Opened  time.Time    `json:"opened"`
	Duty    Duty         `json:"duty"`
	Blocked string       `json:"blocked,omitempty"` // why nobody may serve it, for example a foreign DHCP server
	Ranges  []AddrRange  `json:"pools,omitempty"`   // what leases are taken from, if an operator said so: see Pools
	Relay   Relay        `json:"relay,omitzero"`    // that passes its packets on; zero: nodes stand on the segment
	Mode    Mode         `json:"mode,omitempty"`
	Beside  string       `json:"beside,omitempty"` // a segment that is served in full is served by proxy for now: the server that appeared
}

// Mode is how a segment is served.
type Mode string

const (
	// ModeFull gives addresses: nobody else does.
	ModeFull Mode = ""
	// ModeProxy says what to boot, beside a server of others that gives the addresses, those of nodes included.
	ModeProxy Mode = "proxy"
)

func (m Mode) String() string {
	if m == ModeFull {
		return "full"
	}
	return string(m)
}

// Foreign says that the addresses of a segment are never ours to give: it was founded beside the server of others.
func (s Segment) Foreign() bool { return s.Mode == ModeProxy && s.Beside == "" }

// Duty is the exclusive right to answer DHCP and boot requests on a segment.
type Duty struct {
	Holder NodeID    `json:"holder,omitempty"`
	Term   uint64    `json:"term"`           // grows with every change of holder
	Next   NodeID    `json:"next,omitempty"` // offered: the holder stops answering and passes it on
	Since  time.Time `json:"since"`
}

func offset(p netip.Prefix, n uint32) netip.Addr {
	b := p.Masked().Addr().As4()
	v := uint32(b[0])<<24 | uint32(b[1])<<16 | uint32(b[2])<<8 | uint32(b[3])
	v += n
	return netip.AddrFrom4([4]byte{byte(v >> 24), byte(v >> 16), byte(v >> 8), byte(v)})
}

// Lease binds an address of a segment to one machine, or to nobody while the address is quarantined.
type Lease struct {
	Segment  string     `json:"segment"`
	Addr     netip.Addr `json:"addr"`
	MAC      MAC        `json:"mac,omitempty"` // empty: nobody may have it; Class says why
	Class    string     `json:"class"`         // who asked: firmware, ipxe, agent, os, node; foreign: it was seen with it
	Nonce    string     `json:"nonce,omitempty"`
	Hostname string     `json:"hostname,omitempty"`
	Expires  time.Time  `json:"expires,omitzero"` // zero: never
}

// Classes of leases that belong to nobody.
const (
	LeaseQuarantined = "quarantine" // in use by somebody to whom we have not given it
	LeaseLeft        = "left"       // by a machine that has another address now
)

// LeaseForeign is the class of an address that a machine has from the server of others, as it was seen to have it. It keeps the
// address from nobody.
const LeaseForeign = "foreign"

// Live says whether the lease still binds its address at now.
func (l Lease) Live(now time.Time) bool { return l.Expires.IsZero() || now.Before(l.Expires) }

// TicketState is where a ticket is on its way.
type TicketState string

// The states of a ticket. (Armed is a state of the machine.)
const (
	TicketMinted   TicketState = "minted"
	TicketFetched  TicketState = "fetched"
	TicketRedeemed TicketState = "redeemed"
	TicketRevoked  TicketState = "revoked"
)

// Ticket is the one-time right of one machine to become a node. The secret is never here.
type Ticket struct {
	ID      string      `json:"id"`
	Hash    string      `json:"hash"` // SHA-256 of the secret, hex
	Machine MAC         `json:"machine"`
	Install string      `json:"install"`
	Segment string      `json:"segment"`
	Addr    netip.Addr  `json:"addr"` // the address that it was given to, and that its node keeps
	State   TicketState `json:"state"`
	Expires time.Time   `json:"expires"`
	Node    NodeID      `json:"node,omitempty"` // who redeemed it
	Key     string      `json:"key,omitempty"`  // hex SHA-256 of that node's public key
	Minted  time.Time   `json:"minted,omitzero"`
	By      NodeID      `json:"by,omitempty"` // who minted it, and so could know the secret
}

// Open says whether the ticket can still be redeemed at now.
func (t Ticket) Open(now time.Time) bool {
	return (t.State == TicketMinted || t.State == TicketFetched) && now.Before(t.Expires)
}

// Artifact is immutable bytes known by their SHA-256.
type Artifact struct {
	Digest   string `json:"digest"`
	Size     int64  `json:"size"`
	Name     string `json:"name"`
	Origin   string `json:"origin"`
	Verified string `json:"verified"` // "signed by …", "pinned", "built here", "unverified"
	// InfoHash names it to BitTorrent, 40 hexadecimal digits; "" for what is too small to be cut in pieces.
	InfoHash string `json:"infohash,omitempty"`
	Pinned   bool   `json:"pinned,omitempty"` // no node throws it away
}

// Event is one line of the swarm's diary, most of them on the timeline of a machine.
type Event struct {
	Seq  uint64    `json:"seq"`
	Time time.Time `json:"time"`
	MAC  MAC       `json:"mac,omitempty"`
	Node NodeID    `json:"node,omitempty"` // who saw it
	Kind string    `json:"kind"`
	Text string    `json:"text"`
	Warn bool      `json:"warn,omitempty"` // someone may have to act
}
