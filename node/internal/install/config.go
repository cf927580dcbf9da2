// Package install is the contract between the node that serves an installation and the agent that carries it out: what a
// machine is told (Config, Join), what it tells back (Event, Inventory), and which disk a selector means (Selector).
//
// It does no I/O beyond reading from a reader that it is given, knows neither HTTP nor disks, and holds no state. Everything
// that crosses the wire passes one of its Decode functions, which refuse unknown fields, trailing data and oversize.
// web and agent may import it, handoff and node as well; it imports nothing of ours.
package install

import (
	"log/slog"
	"net/netip"
)

// Bounds of the documents on the wire in bytes: a config carries at most a few dozen SSH keys, an inventory a few hundred
// disks; whatever is larger is an error or an attack.
const (
	MaxConfig = 128 << 10
	MaxJoin   = 16 << 10
	MaxEvent  = 256 << 10
	// MaxNeighbours bounds Presence and Neighbours: of a thousand machines each is told of some.
	MaxNeighbours = 16 << 10
)

// Config is what one machine needs to install itself; served once per attempt by the node that holds duty.
type Config struct {
	Install  string `json:"install"`        // id of this arming; every event carries it
	Machine  string `json:"machine"`        // MAC of the boot NIC, canonical form
	Hostname string `json:"hostname"`       // RFC 1123, with or without domain
	Image    Image  `json:"image,omitzero"` // none: another installer brings the system
	Disk     string `json:"disk,omitempty"` // see ParseSelector; "" is the only disk that is not removable
	Wipe     bool   `json:"wipe,omitempty"` // overwrite a disk that holds foreign data
	// CloudInit are files for cloud-init's datasource NoCloud, by name; none for an image that has no cloud-init.
	CloudInit map[string]string `json:"cloud_init,omitempty"`
	RootHash  string            `json:"root_hash,omitempty"` // crypt(5) hash for root; "" leaves the image's own
	SSHKeys   []string          `json:"ssh_keys,omitempty"`  // lines of authorized_keys for root
	// LeaveBootOrder: the firmware may go on to start the disk before the network, if that is its order now.
	LeaveBootOrder bool   `json:"leave_boot_order,omitempty"`
	Binary         string `json:"binary"` // SHA-256 in hex that /usr/local/bin/offshoot must have
	Join           Join   `json:"join"`   // written to /var/lib/offshoot/join.json as it is
}

// Formats that an image may be stored in.
const (
	FormatRaw     = "raw"
	FormatRawZstd = "raw.zst"
	FormatRawXZ   = "raw.xz"
	FormatQCOW2   = "qcow2"
)

// Image names the bytes for the disk.
type Image struct {
	URL      string `json:"url"`                 // plain HTTP; answers Range
	SHA256   string `json:"sha256"`              // hex, of the file as stored
	Size     int64  `json:"size"`                // bytes of the file as stored
	Format   string `json:"format"`              // one of the Format constants
	DiskSize int64  `json:"disk_size,omitempty"` // bytes once written; 0 is unknown
	InfoHash string `json:"infohash,omitempty"`  // by which nodes and machines around exchange it; "" if they do not
}

// Presence is what a machine says of its exchange, every few seconds while it runs. Neighbours is the answer.
type Presence struct {
	Port int  `json:"port"`           // TCP, where it answers others
	Done bool `json:"done,omitempty"` // it has the whole image, and only gives
}

// Neighbours are who exchanges the image on a machine's segment.
type Neighbours struct {
	Peers []Neighbour `json:"peers"`
	// Part is this machine's place, from 0, among the Parts machines that fetch: each asks for other pieces first.
	Part  int `json:"part"`
	Parts int `json:"parts"`
}

// Neighbour is a node, or a machine that installs itself.
type Neighbour struct {
	ID      string         `json:"id"` // that its certificate must name
	Address netip.AddrPort `json:"address"`
}

// Join is what a freshly installed machine needs for its first contact with the swarm. Ticket is a secret.
type Join struct {
	Swarm     string       `json:"swarm"`
	Ticket    string       `json:"ticket"`
	Pin       string       `json:"pin"`       // fingerprint of the swarm CA
	Endpoints []string     `json:"endpoints"` // host:port of the peers' TLS port
	Segment   string       `json:"segment"`
	Address   netip.Prefix `json:"address"`           // the node's own for ever
	Foreign   bool         `json:"foreign,omitempty"` // it is not: another DHCP server gave it, which the node asks again
	Gateway   netip.Addr   `json:"gateway"`           // zero: none
	MAC       string       `json:"mac"`
	Name      string       `json:"name"`
}

// Gathered tells an installed machine where on its disk the stored image still lies, beyond its file system. Growing that may have
// overwritten parts of it.
type Gathered struct {
	SHA256 string `json:"sha256"` // of the whole, hex
	Size   int64  `json:"size"`   // bytes
	Offset int64  `json:"offset"` // on the disk, bytes
}

// GatheredFile is its name in the data directory.
const GatheredFile = "gathered.json"

// LogValue keeps the ticket and the password hash out of logs.
func (c Config) LogValue() slog.Value {
	return slog.GroupValue(
		slog.String("install", c.Install), slog.String("machine", c.Machine), slog.String("hostname", c.Hostname),
		slog.String("image", c.Image.SHA256), slog.String("disk", c.Disk), slog.Bool("wipe", c.Wipe),
	)
}

// LogValue keeps the ticket out of logs.
func (j Join) LogValue() slog.Value {
	return slog.GroupValue(slog.String("swarm", j.Swarm), slog.String("name", j.Name), slog.String("segment", j.Segment))
}

// Phase is a stage of an installation or a release, in this order; failed may follow any.
type Phase string

const (
	PhaseAgent     Phase = "agent"     // the agent runs and has reached the node that serves it
	PhaseInventory Phase = "inventory" // the event carries the inventory
	PhaseInstaller Phase = "installer" // a distribution's own installer runs
	PhaseDisk      Phase = "disk"      // a disk was chosen; text names it
	PhaseImage     Phase = "image"     // bytes are being written; percent counts
	PhasePackages  Phase = "packages"  // an installer unpacks and configures packages
	PhaseConfigure Phase = "configure" // files are being left on the root file system
	PhaseInstalled Phase = "installed" // the disk boots; the machine restarts once this is acknowledged
	PhaseWipe      Phase = "wipe"      // of a release: text says what became of a disk; percent counts discarded blocks
	PhaseReleased  Phase = "released"  // of a release: all is done
	PhaseFailed    Phase = "failed"    // text says which step and why; final: the agent has given up until armed again
)

// Event is one line on the timeline of a machine that is being installed.
type Event struct {
	Install   string     `json:"install,omitempty"` // empty before a config was received
	Phase     Phase      `json:"phase"`
	Text      string     `json:"text,omitempty"`
	Percent   int        `json:"percent,omitempty"` // 0 to 100, of the image file
	Failed    bool       `json:"failed,omitempty"`
	Final     bool       `json:"final,omitempty"` // nothing follows: installed, or held
	Inventory *Inventory `json:"inventory,omitempty"`
}

// Inventory is what the agent found in the machine.
type Inventory struct {
	Vendor  string `json:"vendor,omitempty"` // SMBIOS system information
	Product string `json:"product,omitempty"`
	Serial  string `json:"serial,omitempty"`
	UUID    string `json:"uuid,omitempty"` // lower case
	BIOS    string `json:"bios,omitempty"`
	EFI     bool   `json:"efi"` // booted through UEFI
	CPU     string `json:"cpu,omitempty"`
	CPUs    int    `json:"cpus"`   // logical
	Memory  int64  `json:"memory"` // bytes
	Disks   []Disk `json:"disks"`
	NICs    []NIC  `json:"nics"`
}

// Disk is one whole block device that could hold an operating system.
type Disk struct {
	Path       string `json:"path"` // /dev/…
	Size       int64  `json:"size"` // bytes
	Model      string `json:"model,omitempty"`
	Serial     string `json:"serial,omitempty"`
	WWN        string `json:"wwn,omitempty"`
	Removable  bool   `json:"removable,omitempty"` // by its own word, or because it hangs on USB
	Rotational bool   `json:"rotational,omitempty"`
	ReadOnly   bool   `json:"read_only,omitempty"`
}

// NIC is one Ethernet port.
type NIC struct {
	Name   string `json:"name"`
	MAC    string `json:"mac"`
	Driver string `json:"driver,omitempty"`
	Link   bool   `json:"link"`
	Speed  int    `json:"speed,omitempty"` // Mbit/s, 0 is unknown
}
