package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// ext4FS reads files out of an ext4 file system without mounting it (kernel.org, "ext4 Data Structures and Algorithms").
//
// It is written here because the reader of go-diskfs 1.9.4 shifts the content of files with holes, silently, and mke2fs -d
// makes a hole of every block of zeros. It knows extents and plain directories, and refuses block maps, inline data and
// encryption. A journal is not replayed: an image that was in use when it was copied may show an older state.
type ext4FS struct {
	r         io.ReaderAt
	off, size int64 // where it lies on the disk
	block     int64
	inodes    uint32
	perGroup  uint32
	inodeSize int64
	descSize  int64
	descAt    int64
}

const (
	ext4RootInode = 2
	ext4MaxFile   = 512 * mib // of what is read in one piece: kernels and modules
	ext4MaxDepth  = 5

	ext4IncompatFiletype = 0x2
	ext4Incompat64Bit    = 0x80
	// FILETYPE, RECOVER, EXTENTS, 64BIT, MMP, FLEX_BG, EA_INODE, CSUM_SEED, LARGEDIR, INLINE_DATA, ENCRYPT, CASEFOLD: those
	// that change single inodes are refused there.
	ext4IncompatKnown = 0x2 | 0x4 | 0x40 | 0x80 | 0x100 | 0x200 | 0x400 | 0x2000 | 0x4000 | 0x8000 | 0x10000 | 0x20000

	ext4InodeExtents = 0x80000
	ext4InodeRefused = 0x10000000 | 0x800 | 0x4 // inline data, encrypted, compressed
)

var errExt4 = errors.New("damaged ext4 file system")

// ext4Inode is what reading needs of an inode.
type ext4Inode struct {
	mode  uint16
	size  int64
	flags uint32
	tree  [60]byte
}

func (i ext4Inode) isDir() bool { return i.mode&0xf000 == 0x4000 }

func openExt4(disk io.ReaderAt, p Partition) (*ext4FS, error) {
	sb := make([]byte, 1024)
	if err := readFullAt(disk, sb, p.Offset+1024); err != nil {
		return nil, err
	}
	le16 := func(at int) uint16 { return binary.LittleEndian.Uint16(sb[at:]) }
	log, incompat := le32(sb[24:]), le32(sb[96:])
	e := &ext4FS{
		r: disk, off: p.Offset, size: p.Size, inodes: le32(sb), perGroup: le32(sb[40:]), inodeSize: int64(le16(88)), descSize: 32,
	}
	switch {
	case le16(56) != 0xef53 || log > 6 || e.perGroup == 0:
		return nil, fmt.Errorf("%w: superblock", errExt4)
	case incompat&^ext4IncompatKnown != 0 || incompat&ext4IncompatFiletype == 0:
		return nil, fmt.Errorf("ext4 with features %#x: %w", incompat, errors.ErrUnsupported)
	}
	if le32(sb[76:]) == 0 { // revision 0
		e.inodeSize = 128
	}
	if incompat&ext4Incompat64Bit != 0 {
		e.descSize = int64(le16(254))
	}
	if e.inodeSize < 128 || e.inodeSize > 65536 || e.descSize < 32 || e.descSize > 1024 {
		return nil, fmt.Errorf("%w: inodes of %d bytes", errExt4, e.inodeSize)
	}
	e.block = 1024 << log
	e.descAt = (int64(le32(sb[20:])) + 1) * e.block // behind the superblock's own block
	return e, nil
}

// read reads inside of the file system only.
func (e *ext4FS) read(p []byte, at int64) error {
	if at < 0 || at > e.size-int64(len(p)) {
		return fmt.Errorf("%w: block beyond its end", errExt4)
	}
	return readFullAt(e.r, p, e.off+at)
}

func (e *ext4FS) inode(n uint32) (ext4Inode, error) {
	var i ext4Inode
	if n == 0 || n > e.inodes {
		return i, fmt.Errorf("%w: inode %d", errExt4, n)
	}
	group, index := int64((n-1)/e.perGroup), int64((n-1)%e.perGroup)
	desc := make([]byte, e.descSize)
	if err := e.read(desc, e.descAt+group*e.descSize); err != nil {
		return i, err
	}
	table := int64(le32(desc[8:]))
	if e.descSize >= 64 {
		table |= int64(le32(desc[40:])) << 32
	}
	if table > e.size/e.block {
		return i, fmt.Errorf("%w: inode table", errExt4)
	}
	raw := make([]byte, 128)
	if err := e.read(raw, table*e.block+index*e.inodeSize); err != nil {
		return i, err
	}
	i.mode, i.flags = binary.LittleEndian.Uint16(raw), le32(raw[32:])
	i.size = int64(le32(raw[4:])) | int64(le32(raw[108:]))<<32
	copy(i.tree[:], raw[40:100])
	return i, nil
}

// content reads a whole file or directory. What no extent covers is zero.
func (e *ext4FS) content(i ext4Inode) ([]byte, error) {
	if i.flags&ext4InodeRefused != 0 || i.flags&ext4InodeExtents == 0 {
		return nil, fmt.Errorf("ext4 inode with flags %#x: %w", i.flags, errors.ErrUnsupported)
	}
	if i.size < 0 || i.size > min(ext4MaxFile, e.size) {
		return nil, fmt.Errorf("%w: file of %d bytes", errExt4, i.size)
	}
	p := make([]byte, i.size)
	return p, e.extents(i.tree[:], p, ext4MaxDepth+1)
}

// extents fills p from one node of an extent tree, which must be less deep than above.
func (e *ext4FS) extents(node, p []byte, above int) error {
	le16 := func(at int) int { return int(binary.LittleEndian.Uint16(node[at:])) }
	count, depth := le16(2), le16(6)
	if le16(0) != 0xf30a || depth >= above || 12*(count+1) > len(node) {
		return fmt.Errorf("%w: extent tree", errExt4)
	}
	for n := 1; n <= count; n++ {
		x := node[12*n:][:12]
		if depth > 0 {
			child := make([]byte, e.block)
			at := int64(le32(x[4:])) | int64(binary.LittleEndian.Uint16(x[8:]))<<32
			if err := e.read(child, at*e.block); err != nil {
				return err
			}
			if err := e.extents(child, p, depth); err != nil {
				return err
			}
			continue
		}
		first, length := int64(le32(x))*e.block, int64(binary.LittleEndian.Uint16(x[4:]))
		if length > 32768 || first >= int64(len(p)) { // allocated but never written, or behind the end
			continue
		}
		at := int64(le32(x[8:])) | int64(binary.LittleEndian.Uint16(x[6:]))<<32
		if err := e.read(p[first:min(first+length*e.block, int64(len(p)))], at*e.block); err != nil {
			return err
		}
	}
	return nil
}

// list reads a directory: also an indexed one, whose index hides in entries without an inode.
func (e *ext4FS) list(i ext4Inode) ([]ext4Entry, error) {
	if !i.isDir() {
		return nil, fs.ErrInvalid
	}
	p, err := e.content(i)
	if err != nil {
		return nil, err
	}
	var out []ext4Entry
	for at := 0; at+8 <= len(p); {
		length, name := int(binary.LittleEndian.Uint16(p[at+4:])), int(p[at+6])
		if length == 0 || length == 65535 { // 64 KiB do not fit into the field
			length = 65536
		}
		if length < 8+name || at+length > len(p) {
			return nil, fmt.Errorf("%w: directory", errExt4)
		}
		if inode := le32(p[at:]); inode != 0 && name > 0 {
			if s := string(p[at+8 : at+8+name]); s != "." && s != ".." {
				out = append(out, ext4Entry{s, inode, p[at+7]})
			}
		}
		at += length
	}
	return out, nil
}

// find follows a path without following links.
func (e *ext4FS) find(name string) (ext4Inode, error) {
	i, err := e.inode(ext4RootInode)
	if err != nil || name == "." {
		return i, err
	}
	for part := range strings.SplitSeq(name, "/") {
		list, err := e.list(i)
		if err != nil {
			return i, &fs.PathError{Op: "find", Path: name, Err: err}
		}
		next := uint32(0)
		for _, d := range list {
			if d.name == part {
				next = d.inode
			}
		}
		if next == 0 {
			return i, &fs.PathError{Op: "find", Path: name, Err: fs.ErrNotExist}
		}
		if i, err = e.inode(next); err != nil {
			return i, err
		}
	}
	return i, nil
}

// ReadDir lists a directory in the order of the disk, without "." and "..".
func (e *ext4FS) ReadDir(name string) ([]fs.DirEntry, error) {
	i, err := e.find(name)
	if err != nil {
		return nil, err
	}
	list, err := e.list(i)
	out := make([]fs.DirEntry, len(list))
	for n, d := range list {
		out[n] = d
	}
	return out, err
}

// ReadFile reads a regular file.
func (e *ext4FS) ReadFile(name string) ([]byte, error) {
	i, err := e.find(name)
	if err != nil {
		return nil, err
	}
	if i.mode&0xf000 != 0x8000 {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return e.content(i)
}

// ext4Entry is one entry of a directory.
type ext4Entry struct {
	name  string
	inode uint32
	kind  byte
}

var _ fs.DirEntry = ext4Entry{}

// Name is the entry's name.
func (d ext4Entry) Name() string { return d.name }

// IsDir reports whether it is a directory.
func (d ext4Entry) IsDir() bool { return d.kind == 2 }

// Type tells regular files, directories and links; all else is irregular.
func (d ext4Entry) Type() fs.FileMode {
	switch d.kind {
	case 1:
		return 0
	case 2:
		return fs.ModeDir
	case 7:
		return fs.ModeSymlink
	}
	return fs.ModeIrregular
}

// Info is not kept.
func (d ext4Entry) Info() (fs.FileInfo, error) { return nil, errors.ErrUnsupported }
