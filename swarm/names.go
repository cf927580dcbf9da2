package swarm

import (
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
)

// NodeID names a node for as long as its data directory lives: 16 hexadecimal digits, drawn at random.
type NodeID string

// NewNodeID draws a fresh identity.
func NewNodeID() NodeID { return NodeID(randomHex(8)) }

// InstallerID names a machine while it installs itself, by the arming that it carries out: another arming is another name.
func InstallerID(install string) NodeID {
	sum := sha256.Sum256([]byte("install " + install))
	return NodeID(hex.EncodeToString(sum[:8]))
}

// MAC is an Ethernet address in its canonical form, lower case with colons ("52:54:00:12:34:56"). It names a machine.
type MAC string

// ParseMAC accepts the spellings of net.ParseMAC and refuses everything that is not six bytes long.
func ParseMAC(s string) (MAC, error) {
	hw, err := net.ParseMAC(s)
	if err != nil || len(hw) != 6 {
		return "", fmt.Errorf("%q is not an Ethernet address: want six bytes as in 52:54:00:12:34:56", s)
	}
	return MACOf(hw), nil
}

// MACOf is the canonical form of a hardware address.
func MACOf(hw net.HardwareAddr) MAC { return MAC(hw.String()) }

// valid says whether m is in canonical form: another spelling would be another machine.
func (m MAC) valid() bool {
	if len(m) != 17 {
		return false
	}
	for i := range len(m) {
		c := m[i]
		if i%3 == 2 && c != ':' || i%3 != 2 && !(c >= '0' && c <= '9' || c >= 'a' && c <= 'f') {
			return false
		}
	}
	return true
}

// Hardware returns the six bytes of m, nil if m is not in canonical form.
func (m MAC) Hardware() net.HardwareAddr {
	hw, err := net.ParseMAC(string(m))
	if err != nil {
		return nil
	}
	return hw
}

// NewID draws an identity for things that are named once: commands, tickets, arming.
func NewID() string { return randomHex(8) }

func randomHex(n int) string {
	b := make([]byte, n)
	// crypto/rand.Read never returns an error since Go 1.24; the program ends instead.
	_, _ = rand.Read(b)
	return hex.EncodeToString(b)
}
