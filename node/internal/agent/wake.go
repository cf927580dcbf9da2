package agent

import (
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

// wakeOnLAN has a port wake the machine by a magic packet, once it is off. Drivers that know no such thing say so.
func wakeOnLAN(nic string) error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }()
	// struct ethtool_wolinfo and struct ifreq of linux/ethtool.h and linux/if.h.
	wol := struct {
		command, supported, options uint32
		password                    [6]byte
		_                           [2]byte
	}{command: unix.ETHTOOL_SWOL, options: 1 << 5} // WAKE_MAGIC
	request := struct {
		name [unix.IFNAMSIZ]byte
		data unsafe.Pointer
		_    [16]byte
	}{data: unsafe.Pointer(&wol)}
	copy(request.name[:unix.IFNAMSIZ-1], nic)
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), unix.SIOCETHTOOL, uintptr(unsafe.Pointer(&request))); errno != 0 {
		return fmt.Errorf("wake-on-LAN of %s: %w", nic, errno)
	}
	return nil
}
