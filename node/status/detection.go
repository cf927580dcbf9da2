package status

// Detection is what `offshoot detect` has seen on this machine. Nothing of it comes from a swarm.
type Detection struct {
	Ports []DetectedPort `json:"ports"`
	// Interface is the port that a seed would take, or that the operator named; empty: a seed would not know which.
	Interface string `json:"interface,omitempty"`
	Network   string `json:"network"` // the seed's own address on its segment, with the length of the network
	Range     string `json:"range"`   // where it would cut further segments from
	Mode      string `json:"mode"`    // that the seed is told: auto, full or proxy
	Name      string `json:"name"`    // of the seed
	// Config is what a seed would use: its flags, as `offshoot detect -o yaml` prints them.
	Config map[string]any `json:"config"`
}

// Verdict says what a seed would do with a port.
type Verdict string

const (
	// VerdictServes: it would serve there.
	VerdictServes Verdict = "serves"
	// VerdictAsks: it would serve there if --interface names the port.
	VerdictAsks Verdict = "asks"
	// VerdictRefuses: it would not, even if it was told.
	VerdictRefuses Verdict = "refuses"
)

// DetectedPort is one Ethernet port.
type DetectedPort struct {
	Name         string           `json:"name"`
	MAC          string           `json:"mac"`
	Kind         string           `json:"kind"`
	Up           bool             `json:"up"`   // before it was looked at
	Link         bool             `json:"link"` // a port that was down was brought up to see that
	Addresses    []string         `json:"addresses"`
	DefaultRoute bool             `json:"default_route"`
	Free         bool             `json:"free"`   // a seed takes it without being told, if it is the only one
	Probed       bool             `json:"probed"` // DHCP servers were looked for
	Servers      []DetectedServer `json:"servers"`
	Verdict      Verdict          `json:"verdict"`
	Mode         string           `json:"mode,omitempty"` // full or proxy: how it would be served
	Why          string           `json:"why"`
}

// DetectedServer is a DHCP server of somebody else. Its texts are its own.
type DetectedServer struct {
	Address  string   `json:"address"` // its server identifier
	MAC      string   `json:"mac"`     // who put its answer on the wire: a relay, perhaps
	BootOnly bool     `json:"boot_only"`
	Offered  string   `json:"offered,omitempty"` // the address that it would have given
	Network  string   `json:"network,omitempty"`
	Router   string   `json:"router,omitempty"`
	DNS      []string `json:"dns"`
	Lease    int      `json:"lease_seconds,omitempty"`
	// Boots says that it sends machines somewhere to boot.
	Boots      bool   `json:"boots"`
	BootServer string `json:"boot_server,omitempty"`
	BootFile   string `json:"boot_file,omitempty"`
}
