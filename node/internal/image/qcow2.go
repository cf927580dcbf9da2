package image

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/klauspost/compress/zstd"
)

// qcow2 is the map of a qcow2 image (QEMU's docs/interop/qcow2.txt, versions 2 and 3): where in the file the clusters of the
// disk lie. Images with a backing file, encryption, an external data file or extended L2 entries are refused.
type qcow2 struct {
	r       io.ReaderAt
	size    int64 // bytes of the disk
	file    int64 // bytes of the file
	cluster int64
	zstd    bool
	pieces  []piece // by place on the disk
	meta    []piece // the bytes that the map was made of
}

// piece is a stretch of the file.
type piece struct {
	at, n  int64  // in the file
	disk   int64  // byte on the disk, where one cluster begins
	packed bool   // n compressed bytes, of which the last few may be the next piece's
	want   []byte // for the map itself: what was read
}

const (
	qcowCopied     = 1 << 63
	qcowCompressed = 1 << 62
	qcowOffset     = 0x00fffffffffffe00
	qcowMaxL1      = 32 * mib / 8 // QEMU's own limit
)

// errQCOW2 begins all that is wrong with the map.
var errQCOW2 = errors.New("damaged qcow2 image")

func openQCOW2(r io.ReaderAt, size int64) (*qcow2, error) {
	h := make([]byte, 112)
	if err := readFullAt(r, h[:min(size, 112)], 0); err != nil {
		return nil, err
	}
	if size < 72 {
		return nil, ErrTruncated
	}
	q := &qcow2{r: r, file: size}
	l1At, l1Count, err := q.header(h)
	if err != nil {
		return nil, err
	}
	q.note(0, h[:min(size, 112)])
	l1 := make([]byte, l1Count*8)
	if l1At > size-int64(len(l1)) {
		return nil, ErrTruncated
	}
	if err := readFullAt(r, l1, l1At); err != nil {
		return nil, err
	}
	for at := int64(0); at < int64(len(l1)); at += q.cluster { // in parts, so that a writer's window stays small
		q.note(l1At+at, l1[at:min(at+q.cluster, int64(len(l1)))])
	}
	return q, q.readL2(l1)
}

func (q *qcow2) note(at int64, p []byte) {
	q.meta = append(q.meta, piece{at: at, n: int64(len(p)), want: p})
}

// header checks what this package can read and returns the place of the L1 table and its used entries.
func (q *qcow2) header(h []byte) (l1At, l1Count int64, err error) {
	be32 := func(at int) uint32 { return binary.BigEndian.Uint32(h[at:]) }
	version, bits := be32(4), be32(20)
	size, at := binary.BigEndian.Uint64(h[24:]), binary.BigEndian.Uint64(h[40:])
	switch {
	case version != 2 && version != 3:
		return 0, 0, fmt.Errorf("qcow2 version %d: %w", version, ErrFormat)
	case binary.BigEndian.Uint64(h[8:]) != 0:
		return 0, 0, fmt.Errorf("it needs a backing file; make it whole with qemu-img convert: %w", ErrFormat)
	case bits < 9 || bits > 21:
		return 0, 0, fmt.Errorf("%w: clusters of 2^%d bytes", errQCOW2, bits)
	case be32(32) != 0:
		return 0, 0, fmt.Errorf("it is encrypted: %w", ErrFormat)
	case size > 1<<56 || at > 1<<56:
		return 0, 0, fmt.Errorf("%w: size of %d bytes", errQCOW2, size)
	}
	if version == 3 {
		switch f := binary.BigEndian.Uint64(h[72:]); {
		case f&2 != 0:
			return 0, 0, fmt.Errorf("%w: it is marked as corrupt", errQCOW2)
		case f&^0b1011 != 0: // dirty (only reference counts, which are not read), corrupt, compression type
			return 0, 0, fmt.Errorf("qcow2 features %#x: %w", f, ErrFormat)
		case f&8 != 0 && h[104] > 1:
			return 0, 0, fmt.Errorf("qcow2 compression %d: %w", h[104], ErrFormat)
		default:
			q.zstd = f&8 != 0 && h[104] == 1
		}
	}
	q.cluster, q.size = 1<<bits, int64(size)
	perL1 := q.cluster * (q.cluster / 8)
	l1Count = (q.size + perL1 - 1) / perL1
	if l1Count > qcowMaxL1 || l1Count > int64(be32(36)) {
		return 0, 0, fmt.Errorf("%w: L1 table of %d entries for %d bytes", errQCOW2, be32(36), q.size)
	}
	return int64(at), l1Count, nil
}

func (q *qcow2) readL2(l1 []byte) error {
	var tables int64
	for i := 0; i*8 < len(l1); i++ {
		at := int64(binary.BigEndian.Uint64(l1[i*8:]) & qcowOffset)
		if at == 0 {
			continue
		}
		if at%q.cluster != 0 {
			return fmt.Errorf("%w: L2 table at byte %d", errQCOW2, at)
		}
		// No two entries share a table in an honest image; this bounds the work that a dishonest one can ask for.
		if tables++; at+q.cluster > q.file || tables > q.file/q.cluster {
			return ErrTruncated
		}
		l2 := make([]byte, q.cluster)
		if err := readFullAt(q.r, l2, at); err != nil {
			return err
		}
		q.note(at, l2)
		if err := q.entries(l2, int64(i)*(q.cluster/8)*q.cluster); err != nil {
			return err
		}
	}
	return nil
}

// entries adds the clusters of one L2 table, whose first lies at byte disk.
func (q *qcow2) entries(l2 []byte, disk int64) error {
	bits := 0
	for 1<<bits < q.cluster {
		bits++
	}
	for i := 0; i*8 < len(l2) && disk < q.size; i, disk = i+1, disk+q.cluster {
		e := binary.BigEndian.Uint64(l2[i*8:])
		if e&qcowCompressed != 0 {
			shift := 62 - (bits - 8)
			at := int64(e & (1<<shift - 1))
			sectors := int64(e&(1<<62-1)) >> shift
			n := min((sectors+1)*sectorSize-at%sectorSize, q.file-at) // the last sector may reach beyond the end
			pc := piece{at: at, n: n, disk: disk, packed: true}
			if n <= 0 || at+n == q.file && q.cut(pc) {
				return ErrTruncated
			}
			q.pieces = append(q.pieces, pc)
			continue
		}
		at := int64(e & qcowOffset)
		if at == 0 || e&1 != 0 { // not allocated, or marked as zero
			continue
		}
		if at%q.cluster != 0 {
			return fmt.Errorf("%w: cluster at byte %d", errQCOW2, at)
		}
		n := min(q.cluster, q.size-disk)
		if at+n > q.file {
			return ErrTruncated
		}
		q.pieces = append(q.pieces, piece{at: at, n: n, disk: disk})
	}
	return nil
}

// cut reports whether the last compressed cluster of a file is not whole, which its length alone does not tell.
func (q *qcow2) cut(pc piece) bool {
	raw := make([]byte, pc.n)
	if readFullAt(q.r, raw, pc.at) != nil {
		return true
	}
	_, err := q.unpack(pc, raw, make([]byte, q.cluster))
	return err != nil
}

// unpack returns the bytes on the disk of a piece whose bytes in the file are p. buf is scratch of one cluster.
func (q *qcow2) unpack(pc piece, p, buf []byte) ([]byte, error) {
	if !pc.packed {
		return p, nil
	}
	want := buf[:min(q.cluster, q.size-pc.disk)]
	var d io.Reader
	if q.zstd {
		z, err := zstd.NewReader(bytes.NewReader(p), zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128*mib))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		d = z
	} else {
		d = flate.NewReader(bytes.NewReader(p))
	}
	if _, err := io.ReadFull(d, want); err != nil {
		// Not wrapped: an early end here is damage, not a file that was cut.
		return nil, fmt.Errorf("%w: compressed cluster at byte %d: %s", errQCOW2, pc.at, err.Error())
	}
	return want, nil
}

// readAt reads the disk. It is for the few bytes that Inspect wants.
func (q *qcow2) readAt(p []byte, off int64) error {
	clear(p)
	from, _ := slices.BinarySearchFunc(q.pieces, off-q.cluster+1, func(pc piece, want int64) int { return cmp.Compare(pc.disk, want) })
	buf := make([]byte, q.cluster)
	for _, pc := range q.pieces[from:] {
		if pc.disk >= off+int64(len(p)) {
			break
		}
		raw := make([]byte, pc.n)
		if err := readFullAt(q.r, raw, pc.at); err != nil {
			return err
		}
		data, err := q.unpack(pc, raw, buf)
		if err != nil {
			return err
		}
		if pc.disk < off {
			data = data[min(off-pc.disk, int64(len(data))):]
			copy(p, data)
		} else {
			copy(p[pc.disk-off:], data)
		}
	}
	return nil
}

// errChanged means that the file's map was not the same when it was read a second time.
var errChanged = errors.New("the image changed while it was read")

// replay reads the whole file from src, once and in order, and calls emit with the pieces of the disk as they pass by. The
// map was read beforehand, when nobody could vouch for it: it is compared with the bytes that pass, so that a digest over src
// covers all that was emitted. The data is valid only during the call.
func (q *qcow2) replay(src io.Reader, emit func(disk int64, data []byte) error) error {
	order := slices.Concat(q.meta, q.pieces)
	slices.SortStableFunc(order, func(a, b piece) int { return cmp.Compare(a.at, b.at) })
	var (
		window []byte // bytes of the file from base on
		base   int64
		buf    = make([]byte, q.cluster)
	)
	for _, pc := range order {
		if drop := pc.at - base; drop > int64(len(window)) {
			if _, err := io.CopyN(io.Discard, src, drop-int64(len(window))); err != nil {
				return decodeError(err)
			}
			window = window[:0]
		} else {
			window = append(window[:0], window[drop:]...)
		}
		base = pc.at
		if have := int64(len(window)); have < pc.n {
			window = slices.Grow(window, int(pc.n-have))[:pc.n]
			if _, err := io.ReadFull(src, window[have:]); err != nil {
				return decodeError(err)
			}
		}
		if pc.want != nil {
			if !bytes.Equal(pc.want, window[:pc.n]) {
				return errChanged
			}
			continue
		}
		data, err := q.unpack(pc, window[:pc.n], buf)
		if err != nil {
			return err
		}
		if err := emit(pc.disk, data); err != nil {
			return err
		}
	}
	_, err := io.Copy(io.Discard, src)
	return err
}
