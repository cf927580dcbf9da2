package segment

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// lowestPort is the lowest port that offshoot serves on (DHCP, 67/udp).
const lowestPort = 67

// Rights says whether this process may do what a segment needs. The error wraps ErrRights and names each capability that
// is missing, and what to do.
func Rights() error {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData // version 3 always fills two, capabilities(7)
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return fmt.Errorf("read capabilities: %w", err)
	}
	// Absent on kernels without the setting, which then behave as with 1024.
	start := 1024
	if b, err := os.ReadFile("/proc/sys/net/ipv4/ip_unprivileged_port_start"); err == nil {
		if n, err := strconv.Atoi(strings.TrimSpace(string(b))); err == nil {
			start = n
		}
	}
	return rights(uint64(data[1].Effective)<<32|uint64(data[0].Effective), start)
}

// rights takes the effective capabilities as a bit set, and the first port that needs none.
func rights(effective uint64, firstFreePort int) error {
	var missing []string
	for _, c := range []struct {
		bit  uint
		name string
		need bool
	}{
		{unix.CAP_NET_ADMIN, "CAP_NET_ADMIN", true},
		{unix.CAP_NET_RAW, "CAP_NET_RAW", true},
		{unix.CAP_NET_BIND_SERVICE, "CAP_NET_BIND_SERVICE", firstFreePort > lowestPort},
	} {
		if c.need && effective&(1<<c.bit) == 0 {
			missing = append(missing, c.name)
		}
	}
	if missing == nil {
		return nil
	}
	names := strings.Join(missing, ", ")
	return fmt.Errorf("%w: %s: run with sudo, or grant %s (setcap, or AmbientCapabilities= in the unit)", ErrRights, names, names)
}
