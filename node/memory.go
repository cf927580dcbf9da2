package node

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"syscall"

	"offshoot/handoff"
	"offshoot/node/internal/segment"
	"offshoot/swarm"
)

// memoryVersion is that of the whole data directory.
const memoryVersion = 1

// memory is what a node must know to come back when nobody else is there: who it is, where its home is, and how to find
// the others. It holds the gossip keyring, so the file is readable by its owner only.
type memory struct {
	Version   int              `json:"version"`
	Swarm     string           `json:"swarm"`
	Node      swarm.NodeID     `json:"node"`
	Name      string           `json:"name"`
	Ephemeral bool             `json:"ephemeral,omitempty"`
	Port      swarm.MAC        `json:"port"` // of the home port
	VLAN      uint16           `json:"vlan,omitempty"`
	Further   []swarm.MAC      `json:"further,omitempty"` // ports of a seed beside its home port that it serves too
	Address   netip.Prefix     `json:"address"`           // on the home segment, for ever unless Foreign
	Foreign   bool             `json:"foreign,omitempty"` // the address is from the server of others, and may be another one next time
	Gateway   netip.Addr       `json:"gateway,omitzero"`
	Segment   string           `json:"segment"`
	Keys      []string         `json:"keys"`    // gossip keyring, as identity.Key encodes it
	Members   []netip.AddrPort `json:"members"` // gossip addresses that were good last
}

// mark is what our own DHCP probes carry, so that nodes of this swarm know them.
func (m memory) mark() string { return "offshoot " + m.Swarm }

// mine says of a DHCP server whether it is of this swarm, as far as that is known before the ledger runs: whom it met last, and
// itself.
func (m memory) mine(address netip.Prefix, port segment.Port) func(segment.Server) bool {
	return func(s segment.Server) bool {
		met := slices.ContainsFunc(m.Members, func(a netip.AddrPort) bool { return a.Addr() == s.ID })
		return met || s.ID == address.Addr() && s.MAC == port.MAC
	}
}

func memoryPath(dir string) string { return filepath.Join(dir, "node.json") }

// ErrVersion: the data directory was written by another version of offshoot.
var ErrVersion = errors.New("data directory of another version")

// loadMemory reads it; ok is false if this directory has never been a node.
func loadMemory(dir string) (m memory, ok bool, err error) {
	data, err := os.ReadFile(memoryPath(dir))
	if errors.Is(err, fs.ErrNotExist) {
		return m, false, nil
	}
	if err != nil {
		return m, false, fmt.Errorf("read this node's memory: %w", err)
	}
	// The version first: other versions have other fields.
	var head struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(data, &head); err != nil {
		return m, false, fmt.Errorf("%s is damaged: %w", memoryPath(dir), err)
	}
	if head.Version != memoryVersion {
		return m, false, fmt.Errorf("%w: %s is version %d, this offshoot reads %d: run the offshoot that wrote it, or choose another --data-dir",
			ErrVersion, dir, head.Version, memoryVersion)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&m); err != nil {
		return m, false, fmt.Errorf("%s is damaged: %w", memoryPath(dir), err)
	}
	return m, true, nil
}

func (m memory) save(dir string) error {
	m.Version = memoryVersion
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return fmt.Errorf("write this node's memory: %w", err)
	}
	return handoff.WriteFile(memoryPath(dir), data)
}

// ErrBusy: another offshoot runs on the data directory.
var ErrBusy = errors.New("data directory is in use")

// lock takes the data directory for this process. The kernel gives it back when the process ends, however it ends.
func lock(dir string) (release func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the data directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the data directory: %w", err)
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("%w: another offshoot runs on %s; stop it, or choose another --data-dir", ErrBusy, dir)
	}
	return func() { _ = f.Close() }, nil
}
