package image

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
)

// Target is the disk that Write fills. Write calls it from one goroutine.
type Target interface {
	io.WriterAt
	// ZeroRange makes n bytes from off on read as zeros. Both are multiples of 512, except at the end of the image.
	ZeroRange(off, n int64) error
	// Sync returns once all that was written is on stable storage.
	Sync() error
	// Size is the disk's size in bytes.
	Size() int64
}

// Source is a stored image on its way in.
type Source struct {
	Format Format
	Size   int64  // bytes as stored, 0 = not known; when known, an early end is ErrTruncated
	SHA256 string // hexadecimal digest of all stored bytes

	// Stream is read once, from the first stored byte to the last, by a goroutine of Write's that has ended when Write
	// returns. If it is an io.Closer it is closed when Write gives up early, to end a Read that waits for the network.
	Stream io.Reader
	// Random reads the same bytes in any order; only QCOW2 needs it, for its tables, and Size with it. What it returns is
	// compared with the stream, so it need not be trusted.
	Random io.ReaderAt
}

// WriteOptions say how Write writes.
type WriteOptions struct {
	// Zeroed means that the target is known to read as zeros: then zeros are skipped instead of written.
	Zeroed bool
	// Progress, if set, is called from one goroutine, often and never at the same time as itself. It must be quick.
	Progress func(Progress)
}

// Progress is how far Write is.
type Progress struct {
	Stored  int64 // bytes of the stored image read
	Total   int64 // bytes of the stored image, 0 = not known
	Written int64 // bytes that went to the target; zeros are not among them
	Disk    int64 // bytes of the disk that are done, zeros included
}

// ErrDigest means that the stored bytes are not those that were asked for. ErrTooLarge: the image does not fit on the disk.
var (
	ErrDigest   = errors.New("image has the wrong SHA-256")
	ErrTooLarge = errors.New("image is larger than the disk")
)

// Write streams an image onto a disk: extents only, in a pipeline of reading, hashing, decoding and writing.
//
// The first MiB, which holds partition table and boot code, is zeroed before anything else and written last, after the digest
// over the whole stored image matched and all the rest is on stable storage. So a write that was interrupted, or that was fed
// wrong bytes, never leaves a disk that boots.
//
// Errors: ErrDigest, ErrTruncated, ErrTooLarge, ErrFormat, ctx's, the source's, the target's, or a decoder's if the stored bytes are
// damaged in a way that shows before their end.
func Write(ctx context.Context, t Target, s Source, o WriteOptions) (Progress, error) {
	want, err := hex.DecodeString(s.SHA256)
	if err != nil || len(want) != sha256.Size {
		return Progress{}, fmt.Errorf("write image: %q is not a SHA-256", s.SHA256)
	}
	w := &writer{target: t, opts: o, in: newIntake(s.Stream, s.Size, sha256.New())}
	if err := w.write(ctx, s, want); err != nil {
		return w.progress(), fmt.Errorf("write image: %w", err)
	}
	return w.progress(), nil
}

// bootArea is held back until everything else is right.
const bootArea = mib

// writer is one run of Write, all in the caller's goroutine.
type writer struct {
	target  Target
	opts    WriteOptions
	in      *intake
	boot    []byte // the first bytes of the disk
	zeroAt  int64  // zeros that were seen and not yet written
	zeroLen int64
	done    int64 // where the disk ends, as far as is known
	written int64
}

func (w *writer) progress() Progress {
	return Progress{Stored: w.in.stored.Load(), Total: w.in.size, Written: w.written, Disk: w.done}
}

func (w *writer) write(ctx context.Context, s Source, want []byte) error {
	w.boot = make([]byte, 0, bootArea)
	// An old table here, or its backup at the end, would make firmware find the half of a system.
	first := min(bootArea, w.target.Size())
	for _, off := range []int64{0, w.target.Size() - first} {
		if err := w.target.ZeroRange(off, first); err != nil {
			return err
		}
	}
	if err := w.target.Sync(); err != nil {
		return err
	}
	w.in.start(ctx)
	err := w.feed(ctx, s)
	if err == nil {
		_, err = io.Copy(io.Discard, w.in) // the digest is over all bytes, also those that no decoder asked for
	} else {
		w.in.abort()
	}
	readErr := w.in.stop()
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case readErr != nil: // the cause of whatever the decoder said
		return readErr
	case err != nil:
		return decodeError(err)
	}
	if got := w.in.sum.Sum(nil); subtle.ConstantTimeCompare(got, want) != 1 {
		return fmt.Errorf("%w: got %x, want %x", ErrDigest, got, want)
	}
	return w.finish()
}

// finish makes the disk bootable.
func (w *writer) finish() error {
	if err := w.flushZeros(); err != nil {
		return err
	}
	if err := w.target.Sync(); err != nil {
		return err
	}
	if _, err := w.target.WriteAt(w.boot, 0); err != nil {
		return err
	}
	w.written += int64(len(w.boot))
	if err := w.target.Sync(); err != nil {
		return err
	}
	w.report()
	return nil
}

func (w *writer) report() {
	if w.opts.Progress != nil {
		w.opts.Progress(w.progress())
	}
}

// feed puts the whole disk in place but for the boot area.
func (w *writer) feed(ctx context.Context, s Source) error {
	if s.Format == QCOW2 {
		return w.feedQCOW2(ctx, s)
	}
	chunks := decodeAhead(ctx, s.Format, w.in)
	defer chunks.stop()
	for {
		data, err := chunks.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			w.in.abort() // the decoder may wait for it
			return err
		}
		if err := w.place(w.done, data); err != nil {
			w.in.abort()
			return err
		}
		chunks.release(data)
		w.report()
	}
}

func (w *writer) feedQCOW2(ctx context.Context, s Source) error {
	if s.Random == nil || s.Size <= 0 {
		return fmt.Errorf("%w: qcow2 needs its size and random access", ErrFormat)
	}
	q, err := openQCOW2(s.Random, s.Size)
	if err != nil {
		return err
	}
	if q.size > w.target.Size() {
		return fmt.Errorf("%w: it needs %s, the disk has %s", ErrTooLarge, bytesText(q.size), bytesText(w.target.Size()))
	}
	w.boot = w.boot[:min(q.size, bootArea)]
	w.done = q.size
	next := int64(bootArea)
	for _, pc := range append(slices.Clone(q.pieces), piece{disk: q.size}) { // what no piece covers is zero
		if pc.disk > next {
			if err := w.zero(next, pc.disk-next); err != nil {
				return err
			}
		}
		next = max(next, pc.disk+q.cluster)
	}
	return q.replay(w.in, func(disk int64, data []byte) error {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := w.place(disk, data)
		w.report()
		return err
	})
}

// place puts data at its place on the disk. Data that lies in the boot area is only kept.
func (w *writer) place(off int64, data []byte) error {
	end := off + int64(len(data))
	if end > w.target.Size() {
		return fmt.Errorf("%w: it needs more than %s", ErrTooLarge, bytesText(w.target.Size()))
	}
	w.done = max(w.done, end)
	if off < bootArea {
		w.boot = w.boot[:max(int64(len(w.boot)), min(end, bootArea))]
		n := copy(w.boot[off:], data)
		if err := w.checkTable(); err != nil {
			return err
		}
		off, data = off+int64(n), data[n:]
	}
	for len(data) > 0 {
		zero, n := nextRun(data)
		var err error
		if zero {
			err = w.zero(off, int64(n))
		} else {
			_, err = w.target.WriteAt(data[:n], off)
			w.written += int64(n)
		}
		if err != nil {
			return err
		}
		off, data = off+int64(n), data[n:]
	}
	return nil
}

// checkTable stops an image that will not fit as early as its partition table says so, not when the disk is full.
func (w *writer) checkTable() error {
	t, err := readGPT(bytes.NewReader(w.boot))
	if err != nil {
		return nil // not there yet, or not an image with GPT: the end of the disk will tell
	}
	if need := int64(t.header.Last+1) * sectorSize; need > w.target.Size() {
		return fmt.Errorf("%w: it needs %s, the disk has %s", ErrTooLarge, bytesText(need), bytesText(w.target.Size()))
	}
	return nil
}

// zero notes zeros; they are written in pieces as long as possible, since each costs a command to the disk.
func (w *writer) zero(off, n int64) error {
	if w.opts.Zeroed {
		return nil
	}
	if w.zeroLen > 0 && w.zeroAt+w.zeroLen == off {
		w.zeroLen += n
		return nil
	}
	err := w.flushZeros()
	w.zeroAt, w.zeroLen = off, n
	return err
}

func (w *writer) flushZeros() error {
	if w.zeroLen == 0 {
		return nil
	}
	at, n := w.zeroAt, w.zeroLen
	w.zeroLen = 0
	return w.target.ZeroRange(at, n)
}

// minZeroRun is the shortest run of zeros that is worth a hole: below it, one long write beats two short ones.
const minZeroRun = 64 << 10

// nextRun returns the first stretch of p, and whether it is a run of zeros.
func nextRun(p []byte) (zero bool, n int) {
	zeroRun := 0
	for at := 0; at < len(p); at += sparseUnit {
		unit := p[at:min(at+sparseUnit, len(p))]
		if isZero(unit) {
			zeroRun += len(unit)
			continue
		}
		if zeroRun == at && at >= minZeroRun { // it began with zeros
			return true, at
		}
		if zeroRun >= minZeroRun { // data before, zeros until here
			return false, at - zeroRun
		}
		zeroRun = 0
	}
	if zeroRun == len(p) {
		return true, len(p)
	}
	if zeroRun >= minZeroRun {
		return false, len(p) - zeroRun
	}
	return false, len(p)
}
