package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"time"

	"github.com/diskfs/go-diskfs/backend"
	"github.com/diskfs/go-diskfs/filesystem/ext4"
)

// Root says where a disk's root file system lies.
type Root struct {
	Partition        // Number 0: the file system fills the disk, which has no partitions
	FS        string // "ext4" (also ext2 and ext3), "xfs" or "btrfs"
}

// ErrNoRoot means that no partition holds a file system that could be a Linux root.
var ErrNoRoot = errors.New("no root file system found (looked for ext4, xfs, btrfs)")

// RootPartition finds the root file system of a disk of the given size: the largest partition with ext4, xfs or btrfs. An
// ext4 without /etc is no root; the others cannot be looked into without mounting them, which this package does not do.
func RootPartition(disk io.ReaderAt, size int64) (Root, error) {
	parts, err := partitions(disk, size)
	if err != nil {
		return Root{}, err
	}
	slices.SortStableFunc(parts, func(a, b Partition) int { return int(b.Size>>9 - a.Size>>9) })
	for _, p := range parts {
		switch kind := fsType(disk, p.Offset); kind {
		case "ext4":
			if fsys, err := openExt4(disk, p); err == nil && !exists(fsys, "etc") {
				continue
			}
			return Root{p, kind}, nil
		case "xfs", "btrfs":
			return Root{p, kind}, nil
		}
	}
	return Root{}, ErrNoRoot
}

// partitions are those of the table, or the whole disk as one.
func partitions(disk io.ReaderAt, size int64) ([]Partition, error) {
	t, err := readGPT(disk)
	if err == nil {
		return t.parts, nil
	}
	if !errors.Is(err, errNoGPT) {
		return nil, err
	}
	head := make([]byte, sectorSize)
	if err := readFullAt(disk, head, 0); err != nil {
		return nil, err
	}
	if parts := readMBR(head); len(parts) > 0 {
		return parts, nil
	}
	return []Partition{{Size: size}}, nil
}

// fsType looks at the superblock of the file system that begins at off, "" if it is none of those that hold a root.
func fsType(disk io.ReaderAt, off int64) string {
	at := func(pos int64, n int) []byte {
		p := make([]byte, n)
		if readFullAt(disk, p, off+pos) != nil {
			return nil
		}
		return p
	}
	switch {
	case string(at(0, 4)) == "XFSB":
		return "xfs"
	case bytes.Equal(at(1024+56, 2), []byte{0x53, 0xef}):
		return "ext4"
	case string(at(0x10040, 8)) == "_BHRfS_M":
		return "btrfs"
	}
	return ""
}

// tree is a read-only file tree: fs.FS with symbolic links.
type tree interface {
	fs.ReadDirFS
	fs.ReadFileFS
}

func exists(t tree, name string) bool {
	list, err := t.ReadDir(".")
	return err == nil && slices.ContainsFunc(list, func(d fs.DirEntry) bool { return d.Name() == name })
}

// openExt4 reads the file system in Go, without mounting it. Damaged ones come as errors: the library's panics are caught,
// because an image is bytes that somebody else made.
func openExt4(disk io.ReaderAt, p Partition) (t tree, err error) {
	defer caught("ext4", &err)
	var sb [4]byte
	if err := readFullAt(disk, sb[:], p.Offset+1024+24); err != nil {
		return nil, err
	}
	if log := binary.LittleEndian.Uint32(sb[:]); log > 6 {
		return nil, fmt.Errorf("ext4 with blocks of 2^%d KiB", log)
	}
	e, err := ext4.Read(readOnly{disk, p.Offset + p.Size}, p.Size, p.Offset, sectorSize)
	if err != nil {
		return nil, err
	}
	return ext4Tree{e}, nil
}

func caught(what string, err *error) {
	if r := recover(); r != nil {
		*err = fmt.Errorf("%s: damaged: %v", what, r)
	}
}

type ext4Tree struct{ *ext4.FileSystem }

func (t ext4Tree) ReadDir(name string) (list []fs.DirEntry, err error) {
	defer caught(name, &err)
	return t.FileSystem.ReadDir(name)
}

func (t ext4Tree) ReadFile(name string) (data []byte, err error) {
	defer caught(name, &err)
	return t.FileSystem.ReadFile(name)
}

func (t ext4Tree) Open(name string) (f fs.File, err error) {
	defer caught(name, &err)
	return t.FileSystem.Open(name)
}

// readOnly makes what go-diskfs wants of what we have.
type readOnly struct {
	r    io.ReaderAt
	size int64
}

var _ backend.Storage = readOnly{}

func (o readOnly) ReadAt(p []byte, off int64) (int, error) { return o.r.ReadAt(p, off) }
func (o readOnly) Stat() (fs.FileInfo, error)              { return readOnlyInfo{o.size}, nil }
func (readOnly) Read([]byte) (int, error)                  { return 0, errors.ErrUnsupported }
func (readOnly) Seek(int64, int) (int64, error)            { return 0, errors.ErrUnsupported }
func (readOnly) Close() error                              { return nil }
func (readOnly) Sys() (*os.File, error)                    { return nil, backend.ErrNotSuitable }
func (readOnly) Writable() (backend.WritableFile, error)   { return nil, backend.ErrIncorrectOpenMode }
func (readOnly) Path() string                              { return "" }

type readOnlyInfo struct{ size int64 }

func (readOnlyInfo) Name() string       { return "disk" }
func (i readOnlyInfo) Size() int64      { return i.size }
func (readOnlyInfo) Mode() fs.FileMode  { return 0o400 }
func (readOnlyInfo) ModTime() time.Time { return time.Time{} }
func (readOnlyInfo) IsDir() bool        { return false }
func (readOnlyInfo) Sys() any           { return nil }
