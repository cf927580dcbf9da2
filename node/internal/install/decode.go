package install

import (
	"bytes"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// DecodeConfig reads one Config of at most MaxConfig bytes and validates it.
func DecodeConfig(r io.Reader) (Config, error) {
	var c Config
	if err := decode(r, MaxConfig, &c); err != nil {
		return Config{}, fmt.Errorf("install config: %w", err)
	}
	if err := c.Validate(); err != nil {
		return Config{}, fmt.Errorf("install config: %w", err)
	}
	return c, nil
}

// DecodeJoin reads one Join of at most MaxJoin bytes and validates it.
func DecodeJoin(r io.Reader) (Join, error) {
	var j Join
	if err := decode(r, MaxJoin, &j); err != nil {
		return Join{}, fmt.Errorf("join file: %w", err)
	}
	if err := j.Validate(); err != nil {
		return Join{}, fmt.Errorf("join file: %w", err)
	}
	return j, nil
}

// DecodeGathered reads one Gathered of at most MaxJoin bytes and validates it.
func DecodeGathered(r io.Reader) (Gathered, error) {
	var g Gathered
	if err := decode(r, MaxJoin, &g); err != nil {
		return Gathered{}, fmt.Errorf("gathered image: %w", err)
	}
	if err := digest("sha256", g.SHA256); err != nil {
		return Gathered{}, fmt.Errorf("gathered image: %w", err)
	}
	if g.Size <= 0 || g.Offset <= 0 {
		return Gathered{}, fmt.Errorf("gathered image: %d bytes from byte %d", g.Size, g.Offset)
	}
	return g, nil
}

// DecodeEvent reads one Event of at most MaxEvent bytes and validates it.
func DecodeEvent(r io.Reader) (Event, error) {
	var e Event
	if err := decode(r, MaxEvent, &e); err != nil {
		return Event{}, fmt.Errorf("install event: %w", err)
	}
	if err := e.Validate(); err != nil {
		return Event{}, fmt.Errorf("install event: %w", err)
	}
	return e, nil
}

// DecodePresence reads one Presence of at most MaxNeighbours bytes and validates it.
func DecodePresence(r io.Reader) (Presence, error) {
	var p Presence
	if err := decode(r, MaxNeighbours, &p); err != nil {
		return Presence{}, fmt.Errorf("presence: %w", err)
	}
	if p.Port < 1 || p.Port > 65535 {
		return Presence{}, fmt.Errorf("presence: port: %d, want a TCP port", p.Port)
	}
	return p, nil
}

// DecodeNeighbours reads one Neighbours of at most MaxNeighbours bytes and validates it.
func DecodeNeighbours(r io.Reader) (Neighbours, error) {
	var n Neighbours
	if err := decode(r, MaxNeighbours, &n); err != nil {
		return Neighbours{}, fmt.Errorf("neighbours: %w", err)
	}
	if n.Parts < 0 || n.Part < 0 || n.Part > 0 && n.Part >= n.Parts {
		return Neighbours{}, fmt.Errorf("neighbours: part %d of %d", n.Part, n.Parts)
	}
	for i, p := range n.Peers {
		if err := word(fmt.Sprintf("peers[%d].id", i), p.ID, 64); err != nil {
			return Neighbours{}, fmt.Errorf("neighbours: %w", err)
		}
		if !p.Address.IsValid() || p.Address.Port() == 0 {
			return Neighbours{}, fmt.Errorf("neighbours: peers[%d].address: not an address with a port", i)
		}
	}
	return n, nil
}

// decode reads exactly one JSON value of at most limit bytes.
func decode(r io.Reader, limit int64, into any) error {
	raw, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err != nil {
		return err
	}
	if int64(len(raw)) > limit {
		return fmt.Errorf("larger than %d bytes", limit)
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.DisallowUnknownFields()
	if err := dec.Decode(into); err != nil {
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("data after the document")
	}
	return nil
}

// Validate names the first field that is wrong by its JSON path.
func (c Config) Validate() error {
	if err := word("install", c.Install, 64); err != nil {
		return err
	}
	if err := mac("machine", c.Machine); err != nil {
		return err
	}
	if err := hostname("hostname", c.Hostname); err != nil {
		return err
	}
	if c.Image != (Image{}) {
		if err := c.Image.validate(); err != nil {
			return err
		}
	}
	if _, err := ParseSelector(c.Disk); err != nil {
		return fmt.Errorf("disk: %w", err)
	}
	if err := c.checkCloudInit(); err != nil {
		return err
	}
	if c.RootHash != "" && !cryptHash.MatchString(c.RootHash) {
		return errors.New("root_hash: not a crypt(5) hash of the form $id$…, nor \"*\" or \"!\"")
	}
	if len(c.SSHKeys) > 64 {
		return fmt.Errorf("ssh_keys: %d keys, want at most 64", len(c.SSHKeys))
	}
	for i, k := range c.SSHKeys {
		if err := line(fmt.Sprintf("ssh_keys[%d]", i), k, 16<<10); err != nil {
			return err
		}
	}
	if err := digest("binary", c.Binary); err != nil {
		return err
	}
	if err := c.Join.Validate(); err != nil {
		return fmt.Errorf("join.%w", err)
	}
	if c.Join.MAC != c.Machine {
		return fmt.Errorf("join.mac: %s is not the machine %s", c.Join.MAC, c.Machine)
	}
	return nil
}

// maxCloudInit bounds the files for cloud-init, bytes.
const maxCloudInit = 96 << 10

func (c Config) checkCloudInit() error {
	size := 0
	for name, text := range c.CloudInit {
		if !slices.Contains([]string{"user-data", "meta-data"}, name) {
			return fmt.Errorf("cloud_init: %q is no file of NoCloud that we leave", clip(name))
		}
		size += len(text)
	}
	if size > maxCloudInit {
		return fmt.Errorf("cloud_init: %d bytes, want at most %d", size, maxCloudInit)
	}
	return nil
}

func (i Image) validate() error {
	u, err := url.Parse(i.URL)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.User != nil || len(i.URL) > 1024 {
		return fmt.Errorf("image.url: %q is not a plain http URL with a host", clip(i.URL))
	}
	if err := digest("image.sha256", i.SHA256); err != nil {
		return err
	}
	if i.Size <= 0 {
		return fmt.Errorf("image.size: %d, want the file's size in bytes", i.Size)
	}
	if !slices.Contains([]string{FormatRaw, FormatRawZstd, FormatRawXZ, FormatQCOW2}, i.Format) {
		return fmt.Errorf("image.format: %q, want raw, raw.zst, raw.xz or qcow2", clip(i.Format))
	}
	if i.DiskSize < 0 {
		return fmt.Errorf("image.disk_size: %d is negative", i.DiskSize)
	}
	if i.InfoHash != "" && !infoHash.MatchString(i.InfoHash) {
		return fmt.Errorf("image.infohash: %q, want 40 hexadecimal digits", clip(i.InfoHash))
	}
	return nil
}

// Validate names the first field that is wrong by its JSON path.
func (j Join) Validate() error {
	if err := word("swarm", j.Swarm, 128); err != nil {
		return err
	}
	if parts := strings.Split(j.Ticket, "."); len(parts) != 3 || parts[0] != "os1" || parts[1] == "" || parts[2] == "" ||
		word("ticket", j.Ticket, 256) != nil {
		// The value is a secret: it must not be repeated in the error.
		return errors.New("ticket: not of the form os1.<id>.<secret>")
	}
	if err := word("pin", j.Pin, 256); err != nil {
		return err
	}
	if len(j.Endpoints) == 0 || len(j.Endpoints) > 16 {
		return fmt.Errorf("endpoints: %d of them, want 1 to 16", len(j.Endpoints))
	}
	for i, e := range j.Endpoints {
		if ap, err := netip.ParseAddrPort(e); err != nil || ap.Port() == 0 {
			return fmt.Errorf("endpoints[%d]: %q is not address:port", i, clip(e))
		}
	}
	if err := word("segment", j.Segment, 128); err != nil {
		return err
	}
	if !j.Address.IsValid() || !j.Address.Addr().Is4() {
		return fmt.Errorf("address: %q is not an IPv4 address with prefix length", j.Address)
	}
	if j.Gateway.IsValid() && !j.Address.Contains(j.Gateway) {
		return fmt.Errorf("gateway: %s is not within %s", j.Gateway, j.Address.Masked())
	}
	if err := mac("mac", j.MAC); err != nil {
		return err
	}
	return hostname("name", j.Name)
}

// Validate names the first field that is wrong by its JSON path.
func (e Event) Validate() error {
	if e.Install != "" {
		if err := word("install", e.Install, 64); err != nil {
			return err
		}
	}
	switch e.Phase {
	case PhaseAgent, PhaseInventory, PhaseInstaller, PhaseDisk, PhaseImage, PhasePackages, PhaseConfigure, PhaseInstalled, PhaseWipe, PhaseReleased, PhaseFailed:
	default:
		return fmt.Errorf("phase: %q is unknown", clip(string(e.Phase)))
	}
	if len(e.Text) > 4096 {
		return fmt.Errorf("text: %d bytes, want at most 4096", len(e.Text))
	}
	if e.Percent < 0 || e.Percent > 100 {
		return fmt.Errorf("percent: %d, want 0 to 100", e.Percent)
	}
	if e.Failed != (e.Phase == PhaseFailed) {
		return fmt.Errorf("failed: %t contradicts phase %s", e.Failed, e.Phase)
	}
	if e.Inventory == nil {
		return nil
	}
	if len(e.Inventory.Disks) > 1024 || len(e.Inventory.NICs) > 1024 {
		return errors.New("inventory: more than 1024 disks or NICs")
	}
	return nil
}

var (
	hostLabel = regexp.MustCompile(`^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$`)
	infoHash  = regexp.MustCompile(`^[0-9a-f]{40}$`)
	// The hash ends up between colons on a line of /etc/shadow: neither may occur in it.
	cryptHash = regexp.MustCompile(`^(\*|!|\$[a-zA-Z0-9]{1,8}\$[a-zA-Z0-9./=,$+-]{8,512})$`)
)

// word accepts printable ASCII without blanks.
func word(field, s string, limit int) error {
	if s == "" {
		return fmt.Errorf("%s: missing", field)
	}
	if len(s) > limit {
		return fmt.Errorf("%s: %d bytes, want at most %d", field, len(s), limit)
	}
	for _, r := range s {
		if r <= ' ' || r > '~' {
			return fmt.Errorf("%s: character %q is not allowed", field, r)
		}
	}
	return nil
}

// line accepts what may stand on one line of a file.
func line(field, s string, limit int) error {
	if strings.TrimSpace(s) == "" {
		return fmt.Errorf("%s: empty", field)
	}
	if len(s) > limit {
		return fmt.Errorf("%s: %d bytes, want at most %d", field, len(s), limit)
	}
	if i := strings.IndexFunc(s, unicode.IsControl); i >= 0 {
		return fmt.Errorf("%s: control character at byte %d", field, i)
	}
	return nil
}

func mac(field, s string) error {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return fmt.Errorf("%s: %q is not an Ethernet address", field, clip(s))
	}
	if hw.String() != s {
		return fmt.Errorf("%s: %q is not in canonical form %s", field, s, hw)
	}
	return nil
}

func digest(field, s string) error {
	if b, err := hex.DecodeString(s); err != nil || len(b) != 32 || strings.ToLower(s) != s {
		return fmt.Errorf("%s: %q is not a SHA-256 of 64 lower case hexadecimal digits", field, clip(s))
	}
	return nil
}

func hostname(field, s string) error {
	if len(s) > 64 { // HOST_NAME_MAX of Linux
		return fmt.Errorf("%s: %d bytes, Linux allows 64", field, len(s))
	}
	for label := range strings.SplitSeq(s, ".") {
		if !hostLabel.MatchString(label) {
			return fmt.Errorf("%s: %q is not a host name (RFC 1123)", field, clip(s))
		}
	}
	return nil
}

func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
