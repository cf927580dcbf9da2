package agent

import (
	"context"
	"fmt"
	"io"
	"os"

	"offshoot/node/internal/install"
)

// Process is a System that is only a part of a machine: what hardware there is comes from the running kernel, but the one
// disk is the device or file that it names. It loads no drivers.
type Process struct {
	Disk string // block device, or regular file of a disk's size
	Dir  string // for mount points; "" is the system's temporary directory
}

var _ System = Process{}

// Inventory looks at the hardware and puts its own disk in the place of all others.
func (p Process) Inventory(context.Context) (install.Inventory, error) {
	inv, err := scan("/")
	if err != nil {
		return inv, err
	}
	f, err := os.Open(p.Disk)
	if err != nil {
		return inv, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return inv, fmt.Errorf("size of %s: %w", p.Disk, err)
	}
	inv.Disks = []install.Disk{{Path: p.Disk, Size: size}}
	return inv, nil
}

// Need does nothing.
func (Process) Need(context.Context, ...string) {}

// NetworkFirst does nothing: the boot order is that of the machine around it.
func (Process) NetworkFirst(context.Context) (bool, error) { return false, nil }

// Scratch is p.Dir.
func (p Process) Scratch() string {
	if p.Dir != "" {
		return p.Dir
	}
	return os.TempDir()
}
