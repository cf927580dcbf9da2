package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"sync"
	"sync/atomic"
)

// Sizes of the pipeline: long enough that a hand-over between goroutines is rare, and in all few enough megabytes for a
// machine that runs from its initramfs.
const (
	intakeBuffer  = 256 << 10
	intakeBuffers = 16
	chunkSize     = mib
	chunkBuffers  = 6
)

// intake reads and hashes a stream ahead of the decoder, in a goroutine of its own.
type intake struct {
	src    io.Reader
	size   int64 // expected, 0 = not known
	sum    hash.Hash
	stored atomic.Int64

	cancel context.CancelFunc
	unhook func() bool
	full   chan []byte
	free   chan []byte
	err    error // set before full is closed; nil = the source ended as it should

	last, rest []byte // the reader's side
}

func newIntake(src io.Reader, size int64, sum hash.Hash) *intake {
	return &intake{src: src, size: size, sum: sum}
}

func (in *intake) start(ctx context.Context) {
	ctx, in.cancel = context.WithCancel(ctx)
	in.full, in.free = make(chan []byte, intakeBuffers), make(chan []byte, intakeBuffers)
	for range intakeBuffers {
		in.free <- make([]byte, intakeBuffer)
	}
	in.unhook = context.AfterFunc(ctx, func() {
		if c, ok := in.src.(io.Closer); ok {
			_ = c.Close()
		}
	})
	go func() {
		defer close(in.full)
		in.err = in.read(ctx)
	}()
}

func (in *intake) read(ctx context.Context) error {
	for {
		var buf []byte
		select {
		case buf = <-in.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		n, err := fill(in.src, buf)
		in.sum.Write(buf[:n])
		got := in.stored.Add(int64(n))
		if n > 0 {
			in.full <- buf[:n] // as many places as buffers: never blocks
		}
		switch {
		case in.size > 0 && got > in.size:
			return fmt.Errorf("%w: it is longer than the %d bytes that were announced", ErrDigest, in.size)
		case err == nil:
			continue
		case !errors.Is(err, io.EOF):
			if ctx.Err() != nil {
				return ctx.Err() // we closed it
			}
			return err
		case got < in.size:
			return fmt.Errorf("it ends after %s of %s: %w", bytesText(got), bytesText(in.size), ErrTruncated)
		}
		return nil
	}
}

// Read is for the one goroutine that decodes.
func (in *intake) Read(p []byte) (int, error) {
	for len(in.rest) == 0 {
		if in.last != nil {
			in.free <- in.last[:cap(in.last)]
			in.last = nil
		}
		buf, ok := <-in.full
		if !ok {
			if in.err != nil {
				return 0, in.err
			}
			return 0, io.EOF
		}
		in.last, in.rest = buf, buf
	}
	n := copy(p, in.rest)
	in.rest = in.rest[n:]
	return n, nil
}

// abort makes the goroutine give up, also when it waits for the network.
func (in *intake) abort() { in.cancel() }

// stop waits for the goroutine, and returns what was wrong with the source; nil if nothing was, or if it was given up.
func (in *intake) stop() error {
	for range in.full { // until it is closed
	}
	in.unhook()
	in.cancel()
	if errors.Is(in.err, context.Canceled) {
		return nil
	}
	return in.err
}

// chunks is a decoder that works ahead in a goroutine of its own.
type chunks struct {
	cancel context.CancelFunc
	full   chan []byte
	free   chan []byte
	err    error // set before full is closed
	done   sync.WaitGroup
}

func decodeAhead(ctx context.Context, f Format, src io.Reader) *chunks {
	ctx, cancel := context.WithCancel(ctx)
	c := &chunks{cancel: cancel, full: make(chan []byte, chunkBuffers), free: make(chan []byte, chunkBuffers)}
	for range chunkBuffers {
		c.free <- make([]byte, chunkSize)
	}
	c.done.Go(func() {
		defer close(c.full)
		c.err = c.decode(ctx, f, src)
	})
	return c
}

func (c *chunks) decode(ctx context.Context, f Format, src io.Reader) error {
	d, err := newDecoder(f, src)
	if err != nil {
		return err
	}
	defer d.Close()
	for {
		var buf []byte
		select {
		case buf = <-c.free:
		case <-ctx.Done():
			return ctx.Err()
		}
		n, err := fill(d, buf)
		if n > 0 {
			c.full <- buf[:n] // as many places as buffers: never blocks
		}
		if err != nil {
			return err
		}
	}
}

// next returns the next bytes of the disk, io.EOF after the last.
func (c *chunks) next() ([]byte, error) {
	buf, ok := <-c.full
	if !ok {
		return nil, c.err
	}
	return buf, nil
}

// release gives back what next returned.
func (c *chunks) release(buf []byte) { c.free <- buf[:cap(buf)] }

func (c *chunks) stop() {
	c.cancel()
	c.done.Wait()
}

// fill reads until p is full or r says something. io.ReadFull would not tell a stream that ended from one that was cut.
func fill(r io.Reader, p []byte) (n int, err error) {
	for n < len(p) && err == nil {
		var k int
		k, err = r.Read(p[n:])
		n += k
	}
	return n, err
}
