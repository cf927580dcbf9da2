package image

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"slices"
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
	parts, err := Partitions(disk, size)
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

// Partitions are those of the table, or the whole disk as one.
func Partitions(disk io.ReaderAt, size int64) ([]Partition, error) {
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

// tree is a read-only file tree, with slash-separated paths that begin at its root.
type tree interface {
	ReadDir(name string) ([]fs.DirEntry, error)
	ReadFile(name string) ([]byte, error)
}

var _ tree = (*ext4FS)(nil)

func exists(t tree, name string) bool {
	list, err := t.ReadDir(".")
	return err == nil && slices.ContainsFunc(list, func(d fs.DirEntry) bool { return d.Name() == name })
}
