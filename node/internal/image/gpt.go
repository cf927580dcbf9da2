package image

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"unicode/utf16"

	"github.com/google/uuid"
)

// The partition tables of UEFI 2.10 chapter 5, as far as an image needs them: 512 byte sectors, 128 entries of 128 bytes.
const (
	sectorSize   = 512
	gptEntries   = 128
	gptEntrySize = 128
	gptTable     = gptEntries * gptEntrySize / sectorSize // sectors
	gptSignature = "EFI PART"

	// maxGPTEntries bounds what a header may claim, far above what any tool writes.
	maxGPTEntries = 1024
)

// Partition types that matter here, as printed by blkid.
var (
	typeBIOSBoot = uuid.MustParse("21686148-6449-6e6f-744e-656564454649")
	typeESP      = uuid.MustParse("c12a7328-f81f-11d2-ba4b-00a0c93ec93b")
	typeLinux    = uuid.MustParse("0fc63daf-8483-4772-8e79-3d69d8477de4")
	typeRootX64  = uuid.MustParse("4f68bce3-e8cd-4db1-96e7-fbcaf984b709")
)

// Partition is one entry of a partition table.
type Partition struct {
	Number int    // counts from 1, as in /dev/vda1
	Offset int64  // bytes
	Size   int64  // bytes
	Type   string // GPT: the type's UUID in lower case; MBR: two hexadecimal digits
	Label  string // GPT only
}

// table is a decoded GPT.
type table struct {
	header  gptHeader
	entries []byte
	parts   []Partition
}

// gptHeader is the on-disk header, UEFI 2.10 table 5.5, little endian.
type gptHeader struct {
	Signature                       [8]byte
	Revision, HeaderSize, HeaderCRC uint32
	_                               uint32
	This, Other, First, Last        uint64
	Disk                            [16]byte
	EntriesAt                       uint64
	Entries, EntrySize, EntriesCRC  uint32
}

const gptHeaderSize = 92

// swapGUID turns the mixed-endian form of the disk into RFC 9562 order, and back.
func swapGUID(g [16]byte) uuid.UUID {
	return uuid.UUID{g[3], g[2], g[1], g[0], g[5], g[4], g[7], g[6], g[8], g[9], g[10], g[11], g[12], g[13], g[14], g[15]}
}

var errNoGPT = errors.New("no GPT header")

// decodeHeader checks one header sector that was read from LBA at.
func decodeHeader(sector []byte, at uint64) (gptHeader, error) {
	var h gptHeader
	if len(sector) < sectorSize || string(sector[:8]) != gptSignature {
		return h, errNoGPT
	}
	if err := binary.Read(bytes.NewReader(sector), binary.LittleEndian, &h); err != nil {
		return h, err
	}
	if h.HeaderSize < gptHeaderSize || h.HeaderSize > sectorSize {
		return h, fmt.Errorf("GPT header of %d bytes", h.HeaderSize)
	}
	sum := bytes.Clone(sector[:h.HeaderSize])
	clear(sum[16:20])
	switch {
	case crc32.ChecksumIEEE(sum) != h.HeaderCRC:
		return h, errors.New("GPT header with a wrong checksum")
	case h.This != at:
		return h, fmt.Errorf("GPT header for sector %d in sector %d", h.This, at)
	case h.EntrySize < gptEntrySize || h.EntrySize > 4096 || h.EntrySize%gptEntrySize != 0 || h.Entries == 0 || h.Entries > maxGPTEntries:
		return h, fmt.Errorf("GPT with %d entries of %d bytes", h.Entries, h.EntrySize)
	case h.First > h.Last || h.Last > 1<<54 || h.Other > 1<<54 || h.EntriesAt > 1<<54:
		return h, errors.New("GPT header with sectors out of range")
	}
	return h, nil
}

// readGPT reads the primary table. Sectors of 4096 bytes are not understood: no image that is written to disks of both
// kinds has them.
func readGPT(r io.ReaderAt) (*table, error) {
	sector := make([]byte, sectorSize)
	if err := readFullAt(r, sector, sectorSize); err != nil {
		return nil, err
	}
	h, err := decodeHeader(sector, 1)
	if err != nil {
		return nil, err
	}
	t := &table{header: h, entries: make([]byte, int(h.Entries)*int(h.EntrySize))}
	if err := readFullAt(r, t.entries, int64(h.EntriesAt)*sectorSize); err != nil {
		return nil, fmt.Errorf("GPT entries: %w", err)
	}
	if crc32.ChecksumIEEE(t.entries) != h.EntriesCRC {
		return nil, errors.New("GPT entries with a wrong checksum")
	}
	t.parts, err = decodeEntries(h, t.entries)
	return t, err
}

func decodeEntries(h gptHeader, entries []byte) ([]Partition, error) {
	var parts []Partition
	for i := range int(h.Entries) {
		e := entries[i*int(h.EntrySize):][:gptEntrySize]
		kind := swapGUID([16]byte(e[:16]))
		if kind == uuid.Nil {
			continue
		}
		first, last := binary.LittleEndian.Uint64(e[32:]), binary.LittleEndian.Uint64(e[40:])
		if first < h.First || last > h.Last || first > last {
			return nil, fmt.Errorf("GPT partition %d from sector %d to %d is outside of the disk", i+1, first, last)
		}
		var name []uint16
		for p := 56; p < gptEntrySize; p += 2 {
			c := binary.LittleEndian.Uint16(e[p:])
			if c == 0 {
				break
			}
			name = append(name, c)
		}
		parts = append(parts, Partition{
			Number: i + 1, Offset: int64(first) * sectorSize, Size: int64(last-first+1) * sectorSize,
			Type: kind.String(), Label: string(utf16.Decode(name)),
		})
	}
	return parts, nil
}

// encode returns the header sector for LBA this, which names its twin at other and its entries at entriesAt.
func (h gptHeader) encode(this, other, entriesAt uint64, entries []byte) []byte {
	h.This, h.Other, h.EntriesAt = this, other, entriesAt
	h.HeaderSize, h.HeaderCRC, h.EntriesCRC = gptHeaderSize, 0, crc32.ChecksumIEEE(entries)
	var buf bytes.Buffer
	_ = binary.Write(&buf, binary.LittleEndian, h) // a buffer takes everything
	sector := make([]byte, sectorSize)
	copy(sector, buf.Bytes())
	binary.LittleEndian.PutUint32(sector[16:], crc32.ChecksumIEEE(sector[:gptHeaderSize]))
	return sector
}

// protectiveMBR fills the partition table of an MBR sector, UEFI 2.10 section 5.2.3. The entry is marked active, against the
// letter of the standard, because some BIOSes start no disk without an active partition (as GRUB's and Debian's own tools know).
func protectiveMBR(mbr []byte, sectors uint64) {
	e := mbr[446:510]
	clear(e)
	e[0] = 0x80
	e[2] = 2 // CHS 0/0/2
	e[4] = 0xee
	e[5], e[6], e[7] = 0xff, 0xff, 0xff
	binary.LittleEndian.PutUint32(e[8:], 1)
	binary.LittleEndian.PutUint32(e[12:], uint32(min(sectors-1, 0xffffffff)))
	mbr[510], mbr[511] = 0x55, 0xaa
}

type newPartition struct {
	kind         uuid.UUID
	name         string
	offset, size int64
}

// newGPT returns a fresh table and the number of sectors of the disk.
func newGPT(size int64, parts []newPartition) (gptHeader, []byte) {
	entries := make([]byte, gptEntries*gptEntrySize)
	for i, p := range parts {
		e := entries[i*gptEntrySize:][:gptEntrySize]
		kind, id := swapGUID(p.kind), swapGUID(uuid.New())
		copy(e, kind[:])
		copy(e[16:], id[:])
		binary.LittleEndian.PutUint64(e[32:], uint64(p.offset/sectorSize))
		binary.LittleEndian.PutUint64(e[40:], uint64((p.offset+p.size)/sectorSize-1))
		for j, c := range utf16.Encode([]rune(p.name)) {
			binary.LittleEndian.PutUint16(e[56+2*j:], c)
		}
	}
	sectors := uint64(size / sectorSize)
	h := gptHeader{
		Revision: 0x00010000, Disk: swapGUID(uuid.New()), Entries: gptEntries, EntrySize: gptEntrySize,
		First: 2 + gptTable, Last: sectors - gptTable - 2,
	}
	copy(h.Signature[:], gptSignature)
	return h, entries
}

// Disk is what GrowGPT needs of a disk: an open block device or file.
type Disk interface {
	io.ReaderAt
	io.WriterAt
}

// GrowGPT moves the backup GPT of a disk that is now newSize bytes long to its end. Partitions stay as they are. It does
// nothing to a disk without GPT. The backup is written before the primary that names it, so that at every moment one valid
// table can be found.
func GrowGPT(d Disk, newSize int64) error {
	t, err := readGPT(d)
	if errors.Is(err, errNoGPT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("grow GPT: %w", err)
	}
	sectors := uint64(newSize / sectorSize)
	tableSectors := uint64(len(t.entries)+sectorSize-1) / sectorSize
	last := sectors - tableSectors - 2
	if sectors < 2*tableSectors+4 || last < t.header.Last {
		return fmt.Errorf("grow GPT: a disk of %d bytes is smaller than its partition table says", newSize)
	}
	mbr := make([]byte, sectorSize)
	if err := readFullAt(d, mbr, 0); err != nil {
		return fmt.Errorf("grow GPT: %w", err)
	}
	old := t.header.Other
	h := t.header
	h.Last = last
	for _, w := range []struct {
		at   uint64
		data []byte
	}{
		{sectors - 1 - tableSectors, t.entries},
		{sectors - 1, h.encode(sectors-1, 1, sectors-1-tableSectors, t.entries)},
		{1, h.encode(1, sectors-1, h.EntriesAt, t.entries)},
	} {
		if _, err := d.WriteAt(w.data, int64(w.at)*sectorSize); err != nil {
			return fmt.Errorf("grow GPT: %w", err)
		}
	}
	if mbr[446+4] == 0xee {
		binary.LittleEndian.PutUint32(mbr[446+12:], uint32(min(sectors-1, 0xffffffff)))
		if _, err := d.WriteAt(mbr, 0); err != nil {
			return fmt.Errorf("grow GPT: %w", err)
		}
	}
	if old != sectors-1 && old >= h.First { // a stale header inside of the new area would confuse rescue tools
		if _, err := d.WriteAt(make([]byte, sectorSize), int64(old)*sectorSize); err != nil {
			return fmt.Errorf("grow GPT: %w", err)
		}
	}
	return nil
}

// readFullAt is io.ReadFull at an offset; an early end is io.ErrUnexpectedEOF.
func readFullAt(r io.ReaderAt, p []byte, off int64) error {
	n, err := r.ReadAt(p, off)
	if n == len(p) {
		return nil
	}
	if err == nil || errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}
