package image

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// zstdSize walks the frames of a file (RFC 8878 section 3.1) without decoding them: it returns the size of the content, -1 if
// a frame does not tell, and ErrTruncated if the last frame is not whole.
func zstdSize(r io.ReaderAt, size int64) (int64, error) {
	var total int64
	known := true
	for off := int64(0); off < size; {
		head := make([]byte, min(18, size-off)) // the longest frame header
		if err := readFullAt(r, head, off); err != nil {
			return 0, decodeError(err)
		}
		if len(head) < 6 {
			return 0, ErrTruncated
		}
		if magic := le32(head); magic&^0xf == 0x184d2a50 { // skippable
			if len(head) < 8 {
				return 0, ErrTruncated
			}
			off += 8 + int64(le32(head[4:]))
			continue
		} else if magic != 0xfd2fb528 {
			return 0, fmt.Errorf("no zstd frame at byte %d: %w", off, ErrFormat)
		}
		header, content, err := zstdFrameHeader(head)
		if err != nil {
			return 0, err
		}
		if content < 0 {
			known = false
		} else if total += content; total < 0 {
			return 0, fmt.Errorf("zstd frames of more than 2^63 bytes: %w", ErrFormat)
		}
		if off, err = zstdBlocks(r, off+int64(header), size); err != nil {
			return 0, err
		}
		if head[4]&4 != 0 { // content checksum
			off += 4
		}
		if off > size {
			return 0, ErrTruncated
		}
	}
	if !known {
		return -1, nil
	}
	return total, nil
}

// zstdFrameHeader returns the header's length and the frame's content size, -1 if it is not noted.
func zstdFrameHeader(head []byte) (n int, content int64, err error) {
	d := head[4]
	n = 5
	single := d&0x20 != 0
	if !single {
		n++
	}
	n += [4]int{0, 1, 2, 4}[d&3]
	width := [4]int{0, 2, 4, 8}[d>>6]
	if width == 0 && single {
		width = 1
	}
	if len(head) < n+width {
		return 0, 0, ErrTruncated
	}
	field := head[n : n+width]
	n += width
	switch width {
	case 1:
		return n, int64(field[0]), nil
	case 2:
		return n, int64(binary.LittleEndian.Uint16(field)) + 256, nil
	case 4:
		return n, int64(le32(field)), nil
	case 8:
		v := binary.LittleEndian.Uint64(field)
		if v > 1<<62 {
			return 0, 0, fmt.Errorf("zstd frame of %d bytes: %w", v, ErrFormat)
		}
		return n, int64(v), nil
	}
	return n, -1, nil
}

// zstdBlocks returns where the blocks of a frame end.
func zstdBlocks(r io.ReaderAt, off, size int64) (int64, error) {
	var b [3]byte
	for {
		if err := readFullAt(r, b[:], off); err != nil {
			return 0, decodeError(err)
		}
		v := uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16
		off += 3
		switch v >> 1 & 3 {
		case 0, 2:
			off += int64(v >> 3)
		case 1:
			off++
		default:
			return 0, fmt.Errorf("zstd block of a reserved type before byte %d: %w", off, ErrFormat)
		}
		if off > size {
			return 0, ErrTruncated
		}
		if v&1 != 0 {
			return off, nil
		}
	}
}

// xzSize reads footers and indexes from the end of the file to its start (The .xz File Format 1.1.0, sections 2.1.2 and 4),
// for all streams of the file. A file without a footer at its end is ErrTruncated.
func xzSize(r io.ReaderAt, size int64) (int64, error) {
	var total int64
	for end := size; end > 0; {
		foot := make([]byte, 12)
		if end < 32 || end%4 != 0 {
			return 0, ErrTruncated
		}
		if err := readFullAt(r, foot, end-12); err != nil {
			return 0, err
		}
		if isZero(foot[8:]) { // stream padding
			end -= 4
			continue
		}
		if foot[10] != 'Y' || foot[11] != 'Z' {
			return 0, ErrTruncated
		}
		indexSize := (int64(le32(foot[4:])) + 1) * 4
		if indexSize > 64*mib || indexSize+24 > end {
			return 0, fmt.Errorf("xz index of %d bytes: %w", indexSize, ErrFormat)
		}
		index := make([]byte, indexSize)
		if err := readFullAt(r, index, end-12-indexSize); err != nil {
			return 0, err
		}
		packed, unpacked, err := xzIndex(index)
		if err != nil {
			return 0, err
		}
		total += unpacked
		end -= 12 + indexSize + packed + 12
		if end < 0 || total < 0 {
			return 0, fmt.Errorf("xz index that does not fit its file: %w", ErrFormat)
		}
	}
	return total, nil
}

var errXZIndex = errors.New("xz index is damaged")

// xzIndex sums up the records: bytes of all blocks in the file, with padding, and bytes once unpacked.
func xzIndex(p []byte) (packed, unpacked int64, err error) {
	if len(p) < 2 || p[0] != 0 {
		return 0, 0, errXZIndex
	}
	p = p[1:]
	next := func() uint64 {
		v, n := binary.Uvarint(p) // the same encoding, least significant group first
		if n <= 0 || v > 1<<60 {
			err = errXZIndex
			return 0
		}
		p = p[n:]
		return v
	}
	for range next() {
		if err != nil {
			break
		}
		packed += int64(next()+3) &^ 3
		unpacked += int64(next())
		if packed < 0 || unpacked < 0 || packed > 1<<60 || unpacked > 1<<60 {
			return 0, 0, errXZIndex
		}
	}
	return packed, unpacked, err
}
