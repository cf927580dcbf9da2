package image

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// Format is how a disk image is stored. Its text is what install configs carry.
type Format string

// The formats that can be read.
const (
	Raw     Format = "raw"
	RawZstd Format = "raw.zst"
	RawXZ   Format = "raw.xz"
	QCOW2   Format = "qcow2"
)

// What an image can have wrong. Match with errors.Is.
var (
	ErrTruncated = errors.New("image is truncated; build or download it again")
	ErrFormat    = errors.New("not a disk image in a format that is understood (raw, raw.zst, raw.xz, qcow2)")
	ErrNoSystem  = errors.New("image holds no bootable system")
)

// Info is what Inspect found.
type Info struct {
	Format     Format
	Size       int64  // bytes of the file as stored
	DiskSize   int64  // bytes of the disk once written
	Table      string // "gpt", "mbr", or "" for a disk without partitions
	Partitions []Partition
	BIOS       bool // has what a BIOS starts: boot code, and with GPT a BIOS boot partition
	UEFI       bool // has an EFI system partition
}

// Bootable is nil if some firmware can start the image, else an ErrNoSystem that says what is missing.
func (i Info) Bootable() error {
	if i.BIOS || i.UEFI {
		return nil
	}
	if i.Table == "" {
		return fmt.Errorf("no partition table: %w; give an image of a whole disk", ErrNoSystem)
	}
	return fmt.Errorf("neither boot code for a BIOS nor an EFI system partition: %w", ErrNoSystem)
}

// Detect tells a format by the first bytes of a file (8 suffice). What is nothing else is raw.
func Detect(head []byte) Format {
	switch {
	case bytes.HasPrefix(head, []byte("QFI\xfb")):
		return QCOW2
	case bytes.HasPrefix(head, []byte{0x28, 0xb5, 0x2f, 0xfd}), len(head) >= 4 && head[0]&0xf0 == 0x50 && bytes.Equal(head[1:4], []byte{0x2a, 0x4d, 0x18}):
		return RawZstd // the second is a skippable frame, with which seekable and pzstd files begin
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		return RawXZ
	}
	return Raw
}

// headSize covers partition tables, and the boot code before the first partition.
const headSize = mib

// Inspect tells what the file holds, without writing anything. It reads little of the file, unless that was compressed by a
// program that did not note the size. Whether each byte is right only the digest tells.
//
// Errors: ErrTruncated, ErrFormat, or the file's.
func Inspect(path string) (Info, error) {
	f, err := os.Open(path)
	if err != nil {
		return Info{}, err
	}
	defer func() { _ = f.Close() }()
	st, err := f.Stat()
	if err != nil {
		return Info{}, err
	}
	if !st.Mode().IsRegular() {
		return Info{}, fmt.Errorf("image %s: not a file", path)
	}
	info, err := inspect(f, st.Size())
	if errors.Is(err, ErrTruncated) {
		return info, fmt.Errorf("image %s ends after %s: %w", path, bytesText(st.Size()), err)
	}
	if err != nil {
		return info, fmt.Errorf("image %s: %w", path, err)
	}
	return info, nil
}

func inspect(r io.ReaderAt, size int64) (Info, error) {
	info := Info{Size: size}
	first := make([]byte, min(size, 8))
	if err := readFullAt(r, first, 0); err != nil {
		return info, err
	}
	info.Format = Detect(first)
	head, err := info.readHead(r)
	if err != nil {
		return info, err
	}
	if len(head) < sectorSize {
		return info, fmt.Errorf("%w: it holds %d bytes", ErrFormat, len(head))
	}
	return info, info.readTable(head)
}

// readHead fills in DiskSize and returns the first bytes of the disk.
func (i *Info) readHead(r io.ReaderAt) ([]byte, error) {
	var err error
	switch i.Format {
	case Raw:
		i.DiskSize = i.Size
		head := make([]byte, min(i.Size, headSize))
		return head, readFullAt(r, head, 0)
	case QCOW2:
		q, err := openQCOW2(r, i.Size)
		if err != nil {
			return nil, err
		}
		i.DiskSize = q.size
		head := make([]byte, min(q.size, headSize))
		return head, q.readAt(head, 0)
	case RawZstd:
		i.DiskSize, err = zstdSize(r, i.Size)
	case RawXZ:
		i.DiskSize, err = xzSize(r, i.Size)
	}
	if err != nil {
		return nil, err
	}
	d, err := newDecoder(i.Format, io.NewSectionReader(r, 0, i.Size))
	if err != nil {
		return nil, err
	}
	defer d.Close()
	head := make([]byte, headSize)
	n, err := fill(d, head)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, decodeError(err)
	}
	if i.DiskSize >= 0 {
		if int64(n) < min(i.DiskSize, headSize) {
			return nil, ErrTruncated
		}
		return head[:n], nil
	}
	rest, err := io.Copy(io.Discard, d) // nobody noted the size
	if err != nil {
		return nil, decodeError(err)
	}
	i.DiskSize = int64(n) + rest
	return head[:n], nil
}

// readTable reads the partition table and holds it against the size of the disk.
func (i *Info) readTable(head []byte) error {
	hasCode := head[510] == 0x55 && head[511] == 0xaa && !isZero(head[:440])
	t, err := readGPT(bytes.NewReader(head))
	switch {
	case err == nil:
		i.Table, i.Partitions = "gpt", t.parts
		if need := int64(max(t.header.Last, t.header.Other)+1) * sectorSize; need > i.DiskSize {
			return fmt.Errorf("its partition table is for a disk of %s, it holds %s: %w", bytesText(need), bytesText(i.DiskSize), ErrTruncated)
		}
		for _, p := range t.parts {
			i.BIOS = i.BIOS || (p.Type == typeBIOSBoot.String() && hasCode)
			i.UEFI = i.UEFI || p.Type == typeESP.String()
		}
		return nil
	case !errors.Is(err, errNoGPT):
		return decodeError(err)
	}
	i.Partitions = readMBR(head)
	if len(i.Partitions) == 0 {
		return nil
	}
	i.Table = "mbr"
	for _, p := range i.Partitions {
		if p.Offset+p.Size > i.DiskSize {
			return fmt.Errorf("partition %d ends at %s, the disk at %s: %w", p.Number, bytesText(p.Offset+p.Size), bytesText(i.DiskSize), ErrTruncated)
		}
		i.UEFI = i.UEFI || p.Type == "ef"
	}
	i.BIOS = hasCode
	return nil
}

// readMBR reads the four primary partitions; logical ones hold no system that we install.
func readMBR(head []byte) []Partition {
	if len(head) < sectorSize || head[510] != 0x55 || head[511] != 0xaa {
		return nil
	}
	var parts []Partition
	for n := range 4 {
		e := head[446+16*n:][:16]
		first, count := le32(e[8:]), le32(e[12:])
		if e[4] == 0 || e[4] == 0xee || count == 0 || first == 0 || e[0]&0x7f != 0 {
			continue // a FAT boot sector has code there: no entry begins with anything but 0x00 or 0x80
		}
		parts = append(parts, Partition{Number: n + 1, Offset: int64(first) * sectorSize, Size: int64(count) * sectorSize, Type: fmt.Sprintf("%02x", e[4])})
	}
	return parts
}

// decoder is a stream of the disk's bytes.
type decoder interface {
	io.Reader
	Close()
}

type plain struct{ io.Reader }

func (plain) Close() {}

// newDecoder reads the disk from the stored bytes of every format that can be read in one go.
func newDecoder(f Format, r io.Reader) (decoder, error) {
	switch f {
	case Raw:
		return plain{r}, nil
	case RawZstd:
		// 128 MiB of window is what zstd --long=27 writes and every decoder takes; more is asked for by no honest image.
		return zstd.NewReader(r, zstd.WithDecoderMaxWindow(128*mib), zstd.WithDecoderConcurrency(0))
	case RawXZ:
		d, err := xz.NewReader(r)
		if err != nil {
			return nil, decodeError(err)
		}
		return plain{d}, nil
	}
	return nil, fmt.Errorf("%w: %q as a stream", ErrFormat, f)
}

// decodeError makes one sentinel of the ways in which decoders say that a stream ended early.
func decodeError(err error) error {
	if errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) {
		return ErrTruncated
	}
	return err
}

func le32(p []byte) uint32 {
	return uint32(p[0]) | uint32(p[1])<<8 | uint32(p[2])<<16 | uint32(p[3])<<24
}

// bytesText is a size for people.
func bytesText(n int64) string {
	switch {
	case n >= 10_000_000_000:
		return fmt.Sprintf("%d GB", n/1_000_000_000)
	case n >= 1_000_000:
		return fmt.Sprintf("%d MB", n/1_000_000)
	}
	return fmt.Sprintf("%d bytes", n)
}
