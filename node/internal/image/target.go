package image

import (
	"errors"
	"fmt"
	"io"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"
)

// FileTarget is a Target on a block device or a regular file.
type FileTarget struct {
	f     *os.File
	size  int64
	block bool
}

var _ Target = (*FileTarget)(nil)

// OpenTarget opens a disk for Write. A block device is opened exclusively: that fails with EBUSY while any part of it is
// mounted. A regular file must have its size already.
func OpenTarget(path string) (*FileTarget, error) {
	st, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	block := st.Mode()&os.ModeDevice != 0 && st.Mode()&os.ModeCharDevice == 0
	flags := os.O_RDWR
	switch {
	case block:
		flags |= unix.O_EXCL
	case !st.Mode().IsRegular():
		return nil, fmt.Errorf("%s is neither a disk nor a file", path)
	}
	f, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return nil, err
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return &FileTarget{f: f, size: size, block: block}, nil
}

// Size is the disk's size in bytes.
func (t *FileTarget) Size() int64 { return t.size }

// ReadAt reads the disk.
func (t *FileTarget) ReadAt(p []byte, off int64) (int, error) { return t.f.ReadAt(p, off) }

// WriteAt writes to the disk's cache.
func (t *FileTarget) WriteAt(p []byte, off int64) (int, error) { return t.f.WriteAt(p, off) }

// Sync brings all to stable storage.
func (t *FileTarget) Sync() error { return t.f.Sync() }

// Close closes the disk.
func (t *FileTarget) Close() error { return t.f.Close() }

// ZeroRange has the kernel zero a range, which most disks do without any data being sent.
func (t *FileTarget) ZeroRange(off, n int64) error {
	if n <= 0 {
		return nil
	}
	if !t.block {
		err := unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
		if err == nil || !errors.Is(err, unix.EOPNOTSUPP) {
			return wrapRange("zero", t.f.Name(), off, n, err)
		}
		return t.writeZeros(off, n)
	}
	if whole := n &^ (sectorSize - 1); whole > 0 && off%sectorSize == 0 {
		arg := [2]uint64{uint64(off), uint64(whole)}
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, t.f.Fd(), unix.BLKZEROOUT, uintptr(unsafe.Pointer(&arg[0])))
		switch {
		case errno == 0:
			off, n = off+whole, n-whole
		case errno == unix.EINVAL: // sectors of 4096 bytes and a range that cuts one
		default:
			return wrapRange("zero", t.f.Name(), off, n, errno)
		}
	}
	return t.writeZeros(off, n)
}

// ErrNoDiscard: the disk knows no way to give blocks back.
var ErrNoDiscard = errors.New("the disk cannot discard blocks")

// Discard tells the disk that nobody needs a range any more. What is read there afterwards is anything.
func (t *FileTarget) Discard(off, n int64) error {
	n &^= sectorSize - 1
	if n <= 0 {
		return nil
	}
	var err error
	if t.block {
		arg := [2]uint64{uint64(off), uint64(n)}
		if _, _, errno := unix.Syscall(unix.SYS_IOCTL, t.f.Fd(), unix.BLKDISCARD, uintptr(unsafe.Pointer(&arg[0]))); errno != 0 {
			err = errno
		}
	} else {
		err = unix.Fallocate(int(t.f.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, off, n)
	}
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		return ErrNoDiscard
	}
	return wrapRange("discard", t.f.Name(), off, n, err)
}

func (t *FileTarget) writeZeros(off, n int64) error {
	for n > 0 {
		k, err := t.f.WriteAt(zeros[:min(n, int64(len(zeros)))], off)
		if err != nil {
			return err
		}
		off, n = off+int64(k), n-int64(k)
	}
	return nil
}

func wrapRange(op, name string, off, n int64, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s %s, %d bytes from byte %d: %w", op, name, n, off, err)
}
