package agent

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"offshoot/node/internal/image"
)

// withRoot mounts the root file system of a disk whose partition table the kernel cannot see yet, because it is written
// last: through a loop device that covers just the partition. Everything is on stable storage when it returns nil.
//
// Mount and use happen on a thread of their own, in a mount namespace of its own: a process that is killed in the middle
// leaves neither a mount nor a busy loop device behind.
func withRoot(disk string, root image.Root, scratch string, use func(dir string) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // for ever: the thread ends with the goroutine, and the namespace with it
		err := unix.Unshare(unix.CLONE_FS | unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err != nil {
			done <- fmt.Errorf("private mount namespace: %w", err)
			return
		}
		done <- mountAndUse(disk, root, scratch, use)
	}()
	return <-done
}

func mountAndUse(disk string, root image.Root, scratch string, use func(dir string) error) (err error) {
	loop, err := attachLoop(disk, root)
	if err != nil {
		return fmt.Errorf("loop device on partition %d of %s: %w", root.Number, disk, err)
	}
	defer func() {
		// Detached by the kernel when this, the last user, has closed it. Writes to it went to the disk's own cache.
		err = errors.Join(err, loop.Sync(), loop.Close())
	}()
	dir, err := os.MkdirTemp(scratch, "offshoot-root-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mountRoot(loop.Name(), dir, root.FS); err != nil {
		return err
	}
	defer func() {
		syncErr := syncFS(dir)
		err = errors.Join(err, syncErr, unix.Unmount(dir, 0))
	}()
	leave, err := mountVar(loop.Name(), dir, root.FS)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	return use(dir)
}

// mountRoot mounts the tree in which /etc lies. On btrfs distributions put it into a subvolume, each under its own name.
func mountRoot(device, dir, kind string) error {
	options := []string{""}
	switch kind {
	case "btrfs":
		options = []string{"", "subvol=root", "subvol=@", "subvol=@rootfs"}
	case "xfs":
		options = []string{"nouuid"} // another disk of this machine may have come from the same image
	}
	var last error
	for _, o := range options {
		if err := unix.Mount(device, dir, kind, unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, o); err != nil {
			last = fmt.Errorf("mount root file system (%s): %w", kind, err)
			continue
		}
		if st, err := os.Stat(filepath.Join(dir, "etc")); err == nil && st.IsDir() {
			return nil
		}
		last = fmt.Errorf("the root file system (%s) has no /etc", kind)
		if err := unix.Unmount(dir, 0); err != nil {
			return err
		}
	}
	return last
}

// mountVar mounts what the system itself mounts on /var, for that would hide what is left there. It can be another subvolume, as in
// Fedora's images; any other file system is refused.
func mountVar(device, dir, kind string) (leave func() error, err error) {
	fstab, err := os.ReadFile(filepath.Join(dir, "etc/fstab"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	subvolume, apart := varOf(fstab)
	if !apart {
		return func() error { return nil }, nil
	}
	if kind != "btrfs" || subvolume == "" {
		return nil, errors.New("the image has /var on a file system of its own: a node needs it on the root file system")
	}
	at := filepath.Join(dir, "var")
	if err := unix.Mount(device, at, kind, unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, "subvol="+subvolume); err != nil {
		return nil, fmt.Errorf("mount /var (subvolume %s): %w", subvolume, err)
	}
	return func() error { return unix.Unmount(at, 0) }, nil
}

// varOf says whether a system mounts something on /var or /var/lib, and which subvolume it is.
func varOf(fstab []byte) (subvolume string, apart bool) {
	for line := range strings.Lines(string(fstab)) {
		fields := strings.Fields(line)
		if len(fields) < 4 || strings.HasPrefix(fields[0], "#") || fields[1] != "/var" && fields[1] != "/var/lib" {
			continue
		}
		apart = true
		for option := range strings.SplitSeq(fields[3], ",") {
			if name, ok := strings.CutPrefix(option, "subvol="); ok && fields[1] == "/var" && fields[2] == "btrfs" {
				subvolume = strings.TrimPrefix(name, "/")
			}
		}
	}
	return subvolume, apart
}

func syncFS(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(f.Fd()))
	return errors.Join(err, f.Close())
}

// attachLoop returns an open loop device that covers one partition.
func attachLoop(disk string, root image.Root) (*os.File, error) {
	back, err := os.OpenFile(disk, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer back.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer control.Close()
	for range 16 { // another process may take the free one first
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, err
		}
		loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			return nil, err
		}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &unix.LoopConfig{
			Fd:   uint32(back.Fd()),
			Info: unix.LoopInfo64{Offset: uint64(root.Offset), Sizelimit: uint64(root.Size), Flags: unix.LO_FLAGS_AUTOCLEAR},
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
