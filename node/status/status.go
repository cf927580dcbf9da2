// Package status is the status document and the lists beside it (leases, tickets, operators, the audit log): the contract
// between daemon, terminal, page and scenarios. It also reads out of a document what a dangerous step would do (plan.go), so that
// the operator who is asked and the node that refuses judge by the same rule. It does nothing, knows no secrets, is a leaf,
// imports nothing of ours, and everybody may import it.
package status

import "time"

// Status is what one node knows of the whole swarm.
type Status struct {
	Swarm    string    `json:"swarm"`
	Pin      string    `json:"pin"` // "sha256:…": what a joining node checks
	Version  string    `json:"version"`
	Time     time.Time `json:"time"`
	Asked    string    `json:"asked"`  // name of the node that answers
	Leader   string    `json:"leader"` // name of the node that leads the ledger, empty: none known
	Quorum   bool      `json:"quorum"` // decisions can be written down
	Problems []Problem `json:"problems"`
	Settings Settings  `json:"settings"`
	CA       *CAChange `json:"ca,omitempty"` // while the swarm's CA is being replaced
	Exchange Exchange  `json:"exchange"`
	Nodes    []Node    `json:"nodes"`
	Segments []Segment `json:"segments"`
	Machines []Machine `json:"machines"`
	// Artifacts are those of the index, as the node that answers knows them.
	Artifacts []Artifact `json:"artifacts"`
}

// Problem is something that a person should act on, with the next step.
type Problem struct {
	What string `json:"what"`
	Next string `json:"next"`
}

// Settings are those of the swarm that an operator can change.
type Settings struct {
	Voters int `json:"voters"` // how many nodes at most vote
	// Unknown is what machines do that nobody asked for: free (wait in the agent), wait (in iPXE), off (tell what they are and switch off).
	Unknown         string `json:"unknown"`
	ConsoleInstalls bool   `json:"console_installs"` // free machines may be installed from their console
	Boot            string `json:"boot"`             // the boot programs of machines that have no choice of their own: auto, ipxe, signed
	StallAfter      int    `json:"stall_after"`      // seconds that an installation may stand still; 0: what its phase says
	UplinkLimit     int64  `json:"uplink_limit"`     // bytes per second that a node exchanges with nodes of other segments, each way; 0: no limit

	Domain string   `json:"domain"`  // what names of machines end in
	DNS    []string `json:"dns"`     // asked for names that are not the swarm's; none: those that each node asks for itself
	DNSOff bool     `json:"dns_off"` // no node answers names
	NTP    []string `json:"ntp"`     // time servers that clients are told of
}

// CAChange is how far the replacement of the swarm's CA has come. It ends when every node has a certificate of the new one.
type CAChange struct {
	Nodes   int      `json:"nodes"`   // that the swarm waits for
	Know    int      `json:"know"`    // how many of them trust the new CA
	Renewed int      `json:"renewed"` // how many have a certificate of it
	Missing []string `json:"missing"` // names of those that have not taken the present step
}

// What a node can be.
const (
	NodeAlive   = "alive"   // gossip reaches it
	NodeJoining = "joining" // it redeemed its ticket, gossip does not see it yet
	NodeGone    = "gone"    // it was here and does not answer
	NodeLeft    = "left"    // it said good-bye
)

// What part a node can have in the ledger.
const (
	RoleLeader   = "leader"   // writes decisions down
	RoleVoter    = "voter"    // a decision needs a majority of these
	RoleLearner  = "learner"  // gets every entry, may become a voter
	RoleFollower = "follower" // is fed by another node, and stands in no configuration
	RoleUnknown  = "unknown"  // the node that answers is a follower, which knows only who leads
	RoleNone     = "none"     // it has left
)

// Node is a member of the swarm.
type Node struct {
	ID         string    `json:"id"`
	Name       string    `json:"name"`
	MAC        string    `json:"mac,omitempty"`
	State      string    `json:"state"` // alive, joining, gone, left
	Role       string    `json:"role"`  // part in the ledger: leader, voter, learner, follower, unknown, none
	Durable    bool      `json:"durable"`
	Warm       bool      `json:"warm"`
	Address    string    `json:"address"`
	Version    string    `json:"version"`
	Duties     []string  `json:"duties"` // ids of segments
	Quarantine string    `json:"quarantine,omitempty"`
	Ended      string    `json:"ended,omitempty"`    // why it was put out for good: evicted, or installed anew
	Protocol   int       `json:"protocol,omitempty"` // what it speaks
	Joined     time.Time `json:"joined"`
}

// Segment is one layer-2 broadcast domain.
type Segment struct {
	ID      string    `json:"id"`
	Network string    `json:"network"` // CIDR
	Holder  string    `json:"holder"`  // name of the node on duty, empty: nobody
	Term    uint64    `json:"term"`
	Since   time.Time `json:"since"`
	Next    string    `json:"next,omitempty"` // name of the node that duty is being handed to
	Nodes   []string  `json:"nodes"`          // names of the nodes that proved to be on it, or where its relay finds them
	Leases  int       `json:"leases"`         // bindings that are alive
	Blocked string    `json:"blocked,omitempty"`
	Mode    string    `json:"mode"`             // full: it gives addresses; proxy: another DHCP server does
	Beside  string    `json:"beside,omitempty"` // why it is served by proxy for now, though it was founded in full
	Pools   []string  `json:"pools"`            // FIRST-LAST, where leases are taken from; none by proxy
	Relay   *Relay    `json:"relay,omitempty"`  // of a segment on which no node needs to stand
}

// Relay is the router that passes the packets of a segment on to nodes.
type Relay struct {
	There   string `json:"there"`   // its address on that segment
	Here    string `json:"here"`    // its address on the segment of the nodes
	Segment string `json:"segment"` // id of the segment of the nodes
}

// Machine is a computer seen on a segment, or named by an operator.
type Machine struct {
	MAC       string            `json:"mac"`
	Name      string            `json:"name"`
	State     string            `json:"state"` // known, free, armed, installing, installed, held, releasing, netboot
	Reason    string            `json:"reason,omitempty"`
	Segment   string            `json:"segment,omitempty"`
	Address   string            `json:"address,omitempty"`
	Profile   string            `json:"profile,omitempty"`
	Phase     string            `json:"phase,omitempty"`
	Text      string            `json:"text,omitempty"`
	Percent   int               `json:"percent"`
	Boot      string            `json:"boot,omitempty"` // its boot programs: ipxe, signed; empty: those of the swarm
	Arch      string            `json:"arch,omitempty"` // as its firmware said; empty: amd64
	Node      string            `json:"node,omitempty"` // id of the node that it became
	LastSeen  time.Time         `json:"last_seen,omitzero"`
	Heard     time.Time         `json:"heard,omitzero"` // while it installs itself: when it last got on, or said a line of its log
	Said      string            `json:"said,omitempty"` // what it said then
	Stalled   bool              `json:"stalled"`        // it has not got on for longer than its phase may
	User      string            `json:"user,omitempty"` // who it is reserved for
	Labels    map[string]string `json:"labels,omitempty"`
	OwnDisk   string            `json:"own_disk,omitempty"`  // how it is told to start its own disk, if an operator said so
	Inventory *Inventory        `json:"inventory,omitempty"` // only when one machine is asked for
	Timeline  []Event           `json:"timeline,omitempty"`  // only when one machine is asked for
}

// Inventory is what a machine said of its hardware.
type Inventory struct {
	Vendor  string `json:"vendor,omitempty"`
	Product string `json:"product,omitempty"`
	Serial  string `json:"serial,omitempty"`
	EFI     bool   `json:"efi"`
	CPU     string `json:"cpu,omitempty"`
	CPUs    int    `json:"cpus"`
	Memory  int64  `json:"memory"` // bytes
	Disks   []Disk `json:"disks"`
	NICs    []NIC  `json:"nics"`
}

// Disk is one of a machine's disks.
type Disk struct {
	Path      string `json:"path"`
	Size      int64  `json:"size"` // bytes
	Model     string `json:"model,omitempty"`
	Serial    string `json:"serial,omitempty"`
	Removable bool   `json:"removable,omitempty"`
}

// NIC is one of a machine's Ethernet ports.
type NIC struct {
	Name string `json:"name"`
	MAC  string `json:"mac"`
	Link bool   `json:"link"`
}

// Event is a line of a timeline.
type Event struct {
	Time time.Time `json:"time"`
	Node string    `json:"node"` // name of the node that saw it
	Kind string    `json:"kind"`
	Text string    `json:"text"`
	Warn bool      `json:"warn,omitempty"`
}

// Trace is one packet or request of a machine, with our answer or the reason for silence.
type Trace struct {
	Time   time.Time `json:"time"`
	Node   string    `json:"node"`
	MAC    string    `json:"mac"`
	Proto  string    `json:"proto"` // dhcp, tftp, http
	What   string    `json:"what"`
	Answer string    `json:"answer,omitempty"`
	Reason string    `json:"reason,omitempty"` // of silence or refusal
}
