package mirror

import (
	"context"
	"crypto/sha256"
	"errors"
	"hash"
	"io"
	"sync"

	"offshoot/node/internal/archive"
)

// holdBack is how much of a file's end waits until the whole has matched. Files up to this size are not seen at all
// before that.
const holdBack = 64 << 10

var (
	// errNoRoom: the disk is too full to keep the file. It can still be streamed through.
	errNoRoom = errors.New("no room to keep the file")
	// errWrongBytes: what came is not what the metadata names.
	errWrongBytes = errors.New("the bytes do not match the repository's metadata")
	// errTaken: the bytes that this reader has passed on have turned out to be wrong.
	errTaken = errors.New("wrong bytes had been passed on already")
)

// flight is one file on its way here, with all who wait for it. One goroutine, fill's, writes; readers follow it.
type flight struct {
	archive.File

	mu      sync.Mutex
	changed chan struct{} // closed and replaced at each change
	scratch scratch       // nil until there is one
	hash    hash.Hash
	have    int64
	round   int  // counts how often the bytes were thrown away
	proven  bool // all is here, and matches
	stored  bool // it is in the store; there may be no scratch
	done    bool
	err     error // why it ended, nil if it is proven or stored
	users   int   // fill and readers; the last closes scratch
}

func newFlight(f archive.File) *flight {
	return &flight{File: f, changed: make(chan struct{}), hash: sha256.New(), users: 1}
}

// signal tells the readers. The caller holds mu.
func (f *flight) signal() {
	close(f.changed)
	f.changed = make(chan struct{})
}

// open gives the flight its scratch. Only fill calls it, once.
func (f *flight) open(s scratch) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.scratch = s
}

// inStore says that it is to be read from there from now on.
func (f *flight) inStore() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.stored = true
	f.signal()
}

// Write appends what a source sends. Only fill calls it.
func (f *flight) Write(p []byte) (int, error) {
	if f.have+int64(len(p)) > f.Size {
		return 0, errWrongBytes
	}
	n, err := f.scratch.WriteAt(p, f.have)
	_, _ = f.hash.Write(p[:n]) // never fails
	f.mu.Lock()
	f.have += int64(n)
	f.signal()
	f.mu.Unlock()
	if err != nil {
		return n, noRoom(err)
	}
	return n, nil
}

// prove compares. Only fill calls it.
func (f *flight) prove() bool {
	if f.have != f.Size || archive.Sum(f.hash.Sum(nil)) != f.Sum {
		return false
	}
	f.mu.Lock()
	f.proven = true
	f.signal()
	f.mu.Unlock()
	return true
}

// restart throws the bytes away; readers that have passed some on will fail, the others begin anew. Only fill calls it.
func (f *flight) restart() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hash.Reset()
	f.have = 0
	f.round++
	f.signal()
}

// end says that fill will not change anything any more.
func (f *flight) end(err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.done, f.err = true, err
	f.signal()
	f.leave()
}

// leave gives a user's share up. The caller holds mu.
func (f *flight) leave() {
	if f.users--; f.users == 0 && f.scratch != nil {
		_ = f.scratch.Close() // nobody reads it any more
	}
}

// shown is how many bytes may be passed on. The caller holds mu.
func (f *flight) shown() int64 {
	if f.proven {
		return f.Size
	}
	return max(0, min(f.have, f.Size-holdBack))
}

// started waits until something can be read, from the scratch or from the store, or the flight has failed.
func (f *flight) started(ctx context.Context) error {
	for {
		f.mu.Lock()
		ready, done, err, changed := f.proven || f.stored || f.shown() > 0, f.done, f.err, f.changed
		f.mu.Unlock()
		switch {
		case err != nil || ready:
			return err
		case done:
			return errWrongBytes
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// readable says whether there is a scratch to read from.
func (f *flight) readable() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.scratch != nil
}

// landed waits for the end: then the file is in the store, or the error says why not.
func (f *flight) landed(ctx context.Context) error {
	for {
		f.mu.Lock()
		done, stored, err, changed := f.done, f.stored, f.err, f.changed
		f.mu.Unlock()
		if done {
			if err == nil && !stored {
				err = errNoRoom
			}
			return err
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// flightReader reads a flight while it arrives. It belongs to one request.
type flightReader struct {
	f      *flight
	gone   <-chan struct{} // the client has hung up
	off    int64
	round  int
	passed bool // bytes of this round were passed on
	err    error
}

// reader is for one who was counted as a user.
func (f *flight) reader(ctx context.Context) *flightReader {
	return &flightReader{f: f, gone: ctx.Done()}
}

func (r *flightReader) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekCurrent:
		offset += r.off
	case io.SeekEnd:
		offset += r.f.Size
	}
	if offset < 0 {
		return r.off, errors.New("seek before the beginning")
	}
	r.off = offset
	return offset, nil
}

func (r *flightReader) Read(p []byte) (int, error) {
	n, err := r.read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		r.err = err
	}
	return n, err
}

func (r *flightReader) read(p []byte) (int, error) {
	for {
		if r.off >= r.f.Size {
			return 0, io.EOF
		}
		r.f.mu.Lock()
		n, changed, err := r.readShown(p)
		r.f.mu.Unlock()
		if n > 0 || err != nil {
			return n, err
		}
		select {
		case <-changed:
		case <-r.gone:
			return 0, context.Canceled
		}
	}
}

// readShown reads what may be passed on now; nothing and no error means: wait for a change. The caller holds f.mu, so
// that the bytes are of one round; they were written a moment ago and lie in memory.
func (r *flightReader) readShown(p []byte) (int, <-chan struct{}, error) {
	f := r.f
	if r.round != f.round {
		if r.passed {
			return 0, nil, errTaken
		}
		r.round = f.round
	}
	if shown := f.shown(); r.off < shown {
		n, err := f.scratch.ReadAt(p[:min(int64(len(p)), shown-r.off)], r.off)
		r.off += int64(n)
		r.passed = r.passed || n > 0
		return n, nil, err
	}
	if f.done {
		if f.err != nil {
			return 0, nil, f.err
		}
		return 0, nil, errWrongBytes
	}
	return 0, f.changed, nil
}

func (r *flightReader) close() {
	r.f.mu.Lock()
	defer r.f.mu.Unlock()
	r.f.leave()
}
