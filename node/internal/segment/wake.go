package segment

import (
	"bytes"
	"errors"
	"fmt"

	"offshoot/swarm"
)

// etherWake is the EtherType of Wake-on-LAN. Network cards look for the pattern in whatever reaches them, so that the frame needs
// no address, and no UDP around it.
const etherWake = 0x0842

// magic is the pattern that wakes a machine: six bytes of ones, and its MAC sixteen times.
func magic(mac swarm.MAC) []byte {
	return append(bytes.Repeat([]byte{0xff}, 6), bytes.Repeat(mac.Hardware(), 16)...)
}

// Wake sends a magic packet to everybody on the segment of a port. Whether a machine woke from it shows when it boots.
func Wake(port Port, mac swarm.MAC) (err error) {
	if mac.Hardware() == nil {
		return fmt.Errorf("wake %q: not an Ethernet address", mac)
	}
	conn, err := openRaw(port, etherWake, nil, false)
	if err != nil {
		return fmt.Errorf("wake %s: %w", mac, err)
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	if err := send(conn, ether(broadcast, port.MAC.Hardware(), etherWake, magic(mac))); err != nil {
		return fmt.Errorf("wake %s: %w", mac, err)
	}
	return nil
}
