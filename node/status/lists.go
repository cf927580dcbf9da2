package status

import (
	"strings"
	"time"
)

// What an address of a segment can be.
const (
	LeaseBound       = "bound"       // to a machine, until it expires
	LeasePermanent   = "permanent"   // a node's own, for ever
	LeaseExpired     = "expired"     // the machine gets it again if it asks before somebody else needs it
	LeaseQuarantined = "quarantined" // somebody answered there whom we did not give it to
	LeaseLeft        = "left"        // its machine has another address now; it is not given out before its time
	LeaseReserved    = "reserved"    // kept for a machine that has not asked for it yet
)

// Lease is one address of a segment that is spoken for.
type Lease struct {
	Segment  string    `json:"segment"`
	Address  string    `json:"address"`
	MAC      string    `json:"mac,omitempty"`  // empty: nobody's, in quarantine or left
	Name     string    `json:"name,omitempty"` // of the machine
	State    string    `json:"state"`          // bound, permanent, expired, quarantined, left, reserved
	Reserved bool      `json:"reserved"`       // an operator keeps it for this MAC
	Class    string    `json:"class,omitempty"`
	Hostname string    `json:"hostname,omitempty"` // what the client calls itself
	Expires  time.Time `json:"expires,omitzero"`   // zero: never
}

// Artifact is immutable bytes that the swarm knows by their SHA-256.
type Artifact struct {
	Digest   string   `json:"digest"`
	Name     string   `json:"name"`
	Size     int64    `json:"size"` // bytes
	Origin   string   `json:"origin,omitempty"`
	Verified string   `json:"verified"`           // "signed by …", "pinned", "built here", "unverified"
	InfoHash string   `json:"infohash,omitempty"` // of its torrent; empty: travels as a whole
	Profiles []string `json:"profiles"`           // that need it
	Here     bool     `json:"here"`               // the node that answers has it
	Pinned   bool     `json:"pinned"`             // no node throws it away
	// Warm counts by segment the living nodes that said they have all that the profiles need, this among it; of what no profile
	// needs nobody keeps count.
	Warm map[string]int `json:"warm"`
	// Nodes are the names of those that have it, as far as the node that answers knows: itself, and those that said they are warm.
	Nodes []string `json:"nodes"`
	Fetch *Fetch   `json:"fetch,omitempty"` // while it is on its way to the node that answers
	Bytes Traffic  `json:"bytes"`           // of it, to and from the node that answers since that began
	// Medium is what it is for, if it is an installer's image; in the answer about one artifact only.
	Medium *Medium `json:"medium,omitempty"`
}

// Unverified says that nothing vouches for it: no signature, and nobody who gave it.
func (a Artifact) Unverified() bool {
	return a.Verified == "" || strings.HasPrefix(a.Verified, "unverified")
}

// Medium is an ISO image that an installer is on. Its files are at http://NODE:7480/iso/DIGEST/PATH.
type Medium struct {
	Volume       string `json:"volume"`
	Distribution string `json:"distribution,omitempty"` // empty: none that is known
	Release      string `json:"release,omitempty"`
	Arch         string `json:"arch,omitempty"`
	Kernel       string `json:"kernel,omitempty"` // paths of what it boots from
	Initrd       string `json:"initrd,omitempty"`
}

// Verification is what became of hashing a node's bytes of an artifact again.
type Verification struct {
	Artifact
	Good    bool   `json:"good"`
	Problem string `json:"problem,omitempty"` // else, with the next step
}

// Prefetch is how far a node is with fetching what a profile needs.
type Prefetch struct {
	What  string `json:"what"`            // is being fetched
	Done  int64  `json:"done"`            // bytes that are here
	Had   int64  `json:"had"`             // bytes of them that were here before
	Total int64  `json:"total"`           // bytes
	Ended bool   `json:"ended"`           // this is the last word
	Gone  int    `json:"gone,omitempty"`  // files of the working set that no source knows any more
	Error string `json:"error,omitempty"` // why not all is here, with the next step
}

// TicketExpired is a ticket that nobody redeemed in time; the other states are those of package swarm.
const TicketExpired = "expired"

// Ticket is the one-time right of a machine to become a node; its secret is nowhere but on that machine.
type Ticket struct {
	ID      string    `json:"id"`
	Machine string    `json:"machine"`        // MAC
	Name    string    `json:"name,omitempty"` // of the machine
	Segment string    `json:"segment"`
	Address string    `json:"address"`
	State   string    `json:"state"` // minted, fetched, redeemed, revoked, expired
	Expires time.Time `json:"expires"`
	Node    string    `json:"node,omitempty"` // name of the node that redeemed it
}

// The roles of operators; each may do what the one before may.
const (
	OperatorView    = "view"    // look
	OperatorOperate = "operate" // decide about machines, tickets, leases and duties
	OperatorAdmin   = "admin"   // decide who belongs to the swarm: nodes, votes, keys, operators, snapshots
)

// Operator is a person or program that may ask the swarm over the network.
type Operator struct {
	Name     string    `json:"name"`
	Role     string    `json:"role"`
	Serial   string    `json:"serial"` // of the certificate
	NotAfter time.Time `json:"not_after"`
	Revoked  bool      `json:"revoked"`
	Outdated bool      `json:"outdated,omitempty"` // of a CA that was replaced: it needs a new file
}

// AuditEntry is one decision of an operator, also one that was refused.
type AuditEntry struct {
	Seq     uint64    `json:"seq"`
	Time    time.Time `json:"time"`
	Node    string    `json:"node"`  // name of the node that was asked
	Actor   string    `json:"actor"` // who asked, and from where
	Op      string    `json:"op"`
	Text    string    `json:"text"`
	Refused string    `json:"refused,omitempty"` // why nothing came of it
}

// LogLine is what a machine said by syslog while it installs itself, without secrets.
type LogLine struct {
	Seq      uint64    `json:"seq"`      // grows with each line that the node heard since it started
	Time     time.Time `json:"time"`     // when the node heard it
	Node     string    `json:"node"`     // name of the node that heard it
	Severity string    `json:"severity"` // emerg, alert, crit, err, warning, notice, info, debug
	Program  string    `json:"program,omitempty"`
	Text     string    `json:"text"`
}
