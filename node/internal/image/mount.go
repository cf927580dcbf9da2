package image

import (
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// withMount mounts a root file system read-only for the time of use. The loop device goes with the mount.
func withMount(disk *os.File, root Root, scratch string, use func(tree) error) (err error) {
	if os.Geteuid() != 0 {
		return fmt.Errorf("its root file system is %s, which only root can mount: run as root, or name the kernel with --live-kernel and --live-modules", root.FS)
	}
	loop, err := attachLoop(disk, root)
	if err != nil {
		return fmt.Errorf("loop device: %w", err)
	}
	defer func() { _ = loop.Close() }()
	dir, err := os.MkdirTemp(scratch, ".root.*")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	data := ""
	if root.FS == "xfs" {
		data = "norecovery,nouuid" // a read-only device has no place to replay its log, and another disk may have the same UUID
	}
	if err := unix.Mount(loop.Name(), dir, root.FS, unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOEXEC|unix.MS_NOSUID, data); err != nil {
		return fmt.Errorf("mount %s: %w", root.FS, err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(dir, 0)) }()
	mounted, err := os.OpenRoot(dir) // links inside of the image must not lead out of it
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mounted.Close()) }()
	return use(mountedTree{mounted.FS()})
}

// attachLoop returns an open, read-only loop device on one partition, which detaches itself when nobody uses it.
func attachLoop(disk *os.File, root Root) (*os.File, error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = control.Close() }()
	for range 8 { // another process may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDONLY, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd: uint32(disk.Fd()),
			Info: unix.LoopInfo64{
				Offset: uint64(root.Offset), Sizelimit: uint64(root.Size), Flags: unix.LO_FLAGS_READ_ONLY | unix.LO_FLAGS_AUTOCLEAR,
			},
		})
		if err == nil {
			return loop, nil
		}
		_ = loop.Close()
		if !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, unix.EBUSY
}

// mountedTree is a tree on any file system of the standard library's.
type mountedTree struct{ fs.FS }

// ReadDir lists a directory.
func (t mountedTree) ReadDir(name string) ([]fs.DirEntry, error) { return fs.ReadDir(t.FS, name) }

// ReadFile reads a file.
func (t mountedTree) ReadFile(name string) ([]byte, error) { return fs.ReadFile(t.FS, name) }
