package agent

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"offshoot/node/internal/image"
)

// What of a disk decides whether firmware can start it: the first MiB (boot code, partition table, and everything that a
// BIOS reads before a file system), and the last sectors, where GPT keeps its copy, which UEFI falls back to.
const (
	headSize = 1 << 20
	tailSize = 33 * 512 // one header and 128 entries of 128 bytes
	minDisk  = 16 << 20 // less is no disk; also keeps head and tail apart
	block0   = 4096     // written last of all
	stampAt  = headSize - 512
)

// Two notes that we leave to our next attempt. The first stands in sector 0 while an installation runs; without the boot
// mark 55aa no firmware starts it. The second stands in the last sector before the first partition (where neither GPT nor a
// boot loader puts anything) and names the arming that finished.
const (
	markRunning  = "OFFSHOOT INSTALL IN PROGRESS\n"
	markFinished = "OFFSHOOT INSTALLED\n"
)

// ErrForeignData means that the disk holds what we did not write.
var ErrForeignData = errors.New("the disk holds data; to overwrite it, arm the machine with --wipe")

// heldDisk is a disk on which an installation runs. It passes reads and writes on, except for head and tail: these stay in
// memory until commit. So whatever stops an installation leaves a disk that does not boot, and that the next attempt
// recognises. Used from one goroutine.
type heldDisk struct {
	target device
	path   string
	size   int64
	head   [headSize]byte
	tail   [tailSize]byte
	passed bool // the tail is part of a file system, and is not held any more
	// resumed: an earlier try of the same arming may have left pieces of the stored image on the disk.
	resumed bool
}

// device is a disk as the kernel offers it.
type device interface {
	image.Target
	io.ReaderAt
	io.Closer
}

var (
	_ device       = (*image.FileTarget)(nil)
	_ image.Target = (*heldDisk)(nil)
	_ image.Disk   = (*heldDisk)(nil)
)

// begin checks that the disk may be overwritten by the arming id, and makes it unbootable.
func (d *heldDisk) begin(id string, wipe bool) error {
	if d.size < minDisk {
		return fmt.Errorf("%d bytes are too small for a disk", d.size)
	}
	head, tail := make([]byte, headSize), make([]byte, headSize)
	if _, err := d.target.ReadAt(head, 0); err != nil {
		return fmt.Errorf("read the first MiB: %w", err)
	}
	if _, err := d.target.ReadAt(tail, d.size-headSize); err != nil {
		return fmt.Errorf("read the last MiB: %w", err)
	}
	if found := foreign(head, tail, id); found != "" && !wipe {
		return fmt.Errorf("%w (found: %s)", ErrForeignData, found)
	}
	d.resumed = bytes.HasPrefix(head, []byte(markRunning))
	// The note comes first: a power loss right after it must not leave a disk that looks foreign.
	note := make([]byte, block0)
	copy(note, markRunning+id+"\n")
	if _, err := d.target.WriteAt(note, 0); err != nil {
		return err
	}
	if err := d.target.Sync(); err != nil {
		return err
	}
	if err := d.target.ZeroRange(block0, headSize-block0); err != nil {
		return err
	}
	if err := d.target.ZeroRange(d.size-headSize, headSize); err != nil {
		return err
	}
	return d.target.Sync()
}

// release writes the tail now if a file system reaches into it: it has to be whole before it can be mounted.
func (d *heldDisk) release(end int64) error {
	if end <= d.size-tailSize || d.passed {
		return nil
	}
	d.passed = true
	_, err := d.target.WriteAt(d.tail[:], d.size-tailSize)
	return err
}

// commit makes the disk bootable, in an order that leaves at every moment either a disk that carries our note, or all of it.
func (d *heldDisk) commit(id string) error {
	if err := d.target.Sync(); err != nil {
		return err
	}
	if !d.passed {
		if _, err := d.target.WriteAt(d.tail[:], d.size-tailSize); err != nil {
			return err
		}
	}
	if free := d.head[stampAt:]; zero(free) && markable(d.head[:]) {
		copy(free, markFinished+id+"\n")
	}
	if _, err := d.target.WriteAt(d.head[block0:], block0); err != nil {
		return err
	}
	if err := d.target.Sync(); err != nil {
		return err
	}
	if _, err := d.target.WriteAt(d.head[:block0], 0); err != nil {
		return err
	}
	return d.target.Sync()
}

// stamp leaves the disk to a foreign installer: without our first note, which its partition table would hide anyway, but with the
// second one in its place, which no partition table reaches.
func (d *heldDisk) stamp(id string) error {
	note := make([]byte, headSize-stampAt)
	copy(note, markFinished+id+"\n")
	if _, err := d.target.WriteAt(note, stampAt); err != nil {
		return err
	}
	if err := d.target.Sync(); err != nil {
		return err
	}
	if err := d.target.ZeroRange(0, block0); err != nil {
		return err
	}
	return d.target.Sync()
}

// close gives the disk back. All that counts was synced by commit.
func (d *heldDisk) close() { _ = d.target.Close() }

// Size is the disk's size in bytes.
func (d *heldDisk) Size() int64 { return d.size }

// Sync brings all but head and tail to stable storage.
func (d *heldDisk) Sync() error { return d.target.Sync() }

// WriteAt writes; head and tail to memory.
func (d *heldDisk) WriteAt(p []byte, off int64) (int, error) {
	if off < 0 || off+int64(len(p)) > d.size {
		return 0, fmt.Errorf("write %d bytes at %d: outside of the disk", len(p), off)
	}
	done := 0
	for done < len(p) {
		held, n := d.part(off, int64(len(p)-done))
		if held != nil {
			copy(held, p[done:])
		} else if _, err := d.target.WriteAt(p[done:done+int(n)], off); err != nil {
			return done, err
		}
		done, off = done+int(n), off+n
	}
	return done, nil
}

// ZeroRange makes n bytes zero; head and tail in memory.
func (d *heldDisk) ZeroRange(off, n int64) error {
	if off < 0 || n < 0 || off+n > d.size {
		return fmt.Errorf("zero %d bytes at %d: outside of the disk", n, off)
	}
	for n > 0 {
		held, k := d.part(off, n)
		if held != nil {
			clear(held)
		} else if err := d.target.ZeroRange(off, k); err != nil {
			return err
		}
		off, n = off+k, n-k
	}
	return nil
}

// ReadAt reads the disk as it will be after commit.
func (d *heldDisk) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		if off >= d.size {
			return done, io.EOF
		}
		held, n := d.part(off, min(int64(len(p)-done), d.size-off))
		if held != nil {
			copy(p[done:], held)
		} else if k, err := d.target.ReadAt(p[done:done+int(n)], off); err != nil {
			return done + k, err
		}
		done, off = done+int(n), off+n
	}
	return done, nil
}

// part returns the first piece of a range: how long it is, and where it is held if it is.
func (d *heldDisk) part(off, n int64) (held []byte, length int64) {
	tail := d.size - tailSize
	switch {
	case off < headSize:
		length = min(n, headSize-off)
		return d.head[off : off+length], length
	case d.passed:
		return nil, n
	case off < tail:
		return nil, min(n, tail-off)
	}
	return d.tail[off-tail : off-tail+n], n
}

// foreign says what a disk holds that the arming id must not overwrite, by its first and last MiB; nothing if it is
// blank, if an installation of ours was interrupted on it, or if this same arming has finished on it (and was not heard).
// Bytes that nobody knows count as data too: they may be the only copy of something encrypted.
func foreign(head, tail []byte, id string) string {
	if bytes.HasPrefix(head, []byte(markRunning)) {
		return ""
	}
	if id != "" && bytes.HasPrefix(head[stampAt:], []byte(markFinished+id+"\n")) {
		return ""
	}
	if bytes.HasPrefix(head[stampAt:], []byte(markFinished)) && zero(head[:stampAt]) && zero(tail) {
		return "" // an installer was given the disk, and wrote nothing
	}
	at := func(off int, magic string) bool { return bytes.HasPrefix(head[off:], []byte(magic)) }
	switch {
	case bytes.HasPrefix(head[stampAt:], []byte(markFinished)):
		return "a system that offshoot installed earlier"
	case at(512, "EFI PART"), at(4096, "EFI PART"), bytes.Contains(tail, []byte("EFI PART")):
		return "a GPT partition table"
	case at(0, "LUKS\xba\xbe"):
		return "LUKS encryption"
	case at(0, "XFSB"):
		return "an XFS file system"
	case at(1024+56, "\x53\xef"):
		return "an ext2/3/4 file system"
	case at(0x10040, "_BHRfS_M"):
		return "a btrfs file system"
	case lvm(head):
		return "an LVM physical volume"
	case at(0, "\xfc\x4e\x2b\xa9"), at(4096, "\xfc\x4e\x2b\xa9"), bytes.Contains(tail, []byte("\xfc\x4e\x2b\xa9")):
		return "a member of a Linux RAID"
	case bytes.Contains(tail, []byte("Intel Raid ISM")), bytes.Contains(tail, []byte("\xde\x11\xde\x11")):
		return "a member of a firmware RAID"
	case at(4096-10, "SWAPSPACE2"):
		return "swap space"
	case at(3, "NTFS    "), at(3, "EXFAT   "), at(54, "FAT"), at(82, "FAT32"):
		return "a Windows or FAT file system"
	case at(32769, "CD001"):
		return "an ISO 9660 image"
	case at(510, "\x55\xaa"):
		return "an MBR partition table or boot code"
	case !zero(head), !zero(tail):
		return "bytes of an unknown kind"
	}
	return ""
}

// lvm looks for the label in the first four sectors, where LVM2 may put it.
func lvm(head []byte) bool {
	for s := range 4 {
		if bytes.HasPrefix(head[s*512:], []byte("LABELONE")) {
			return true
		}
	}
	return false
}

// markable is false if a partition lies over the sector of our second note.
func markable(head []byte) bool {
	if bytes.HasPrefix(head[512:], []byte("EFI PART")) {
		return true // GPT: our images, and every tool of the last 15 years, begin at 1 MiB; and the sector is blank
	}
	for e := range 4 {
		entry := head[446+16*e:][:16]
		start := uint32(entry[8]) | uint32(entry[9])<<8 | uint32(entry[10])<<16 | uint32(entry[11])<<24
		if entry[4] != 0 && start < headSize/512 {
			return false
		}
	}
	return bytes.Equal(head[510:512], []byte{0x55, 0xaa})
}

func zero(p []byte) bool {
	return !slices.ContainsFunc(p, func(b byte) bool { return b != 0 })
}
