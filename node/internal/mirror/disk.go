package mirror

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// disk watches over the room for files on their way, and remembers what went wrong.
type disk struct {
	dir   string
	floor int64 // bytes that stay free
	free  func(dir string) (int64, error)
	now   func() time.Time
	log   *slog.Logger

	mu       sync.Mutex
	reserved int64
	troubles map[string]error // by what was to be done
}

// reserve sets room aside for a file twice: while it arrives, and for the store's copy. errNoRoom if there is none.
func (d *disk) reserve(size int64) (release func(), err error) {
	free, err := d.free(d.dir)
	d.mu.Lock()
	if err == nil && free-d.reserved-2*size < d.floor {
		err = fmt.Errorf("%w: %d MiB are free, %d MiB of them stay free, the file needs %d MiB twice",
			errNoRoom, free>>20, d.floor>>20, size>>20)
	}
	if err == nil {
		d.reserved += 2 * size
	}
	d.mu.Unlock()
	if err != nil {
		d.note("keep files", err)
		return nil, err
	}
	return func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		d.reserved -= 2 * size
	}, nil
}

// note remembers how something went; the log hears of changes only.
func (d *disk) note(what string, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	before := d.troubles[what]
	if d.troubles == nil {
		d.troubles = map[string]error{}
	}
	switch {
	case err == nil && before != nil:
		d.log.Info("mirror can write again", "what", what)
		delete(d.troubles, what)
	case err != nil && before == nil:
		d.log.Warn("mirror cannot write; it goes on with what it has", "what", what, "error", err)
		d.troubles[what] = err
	case err != nil:
		d.troubles[what] = err
	}
}

func (d *disk) problems() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var out []string
	for what, err := range d.troubles {
		out = append(out, fmt.Sprintf("cannot %s: %v", what, err))
	}
	slices.Sort(out)
	return out
}

// scratch is where a file lies while it arrives.
type scratch interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	// whole is all of it, for the store.
	whole() (io.Reader, error)
}

// smallScratch is what stays in memory: most packages, for which making a file costs more than bringing them. Times the
// bound on flights it is 64 MiB.
const smallScratch = 256 << 10

func (d *disk) scratch(size int64) (scratch, error) {
	if size <= smallScratch {
		return memoryScratch(make([]byte, size)), nil
	}
	f, err := os.CreateTemp(d.dir, "*")
	if err != nil {
		return nil, noRoom(err)
	}
	if err := os.Remove(f.Name()); err != nil { // nothing is left of it after a crash
		_ = f.Close()
		return nil, err
	}
	return fileScratch{f}, nil
}

type fileScratch struct{ *os.File }

// whole returns the file itself: a store on the same file system may share its blocks.
func (f fileScratch) whole() (io.Reader, error) {
	_, err := f.Seek(0, io.SeekStart)
	return f.File, err
}

type memoryScratch []byte

func (m memoryScratch) ReadAt(p []byte, off int64) (int, error)  { return copy(p, m[off:]), nil }
func (m memoryScratch) WriteAt(p []byte, off int64) (int, error) { return copy(m[off:], p), nil }
func (m memoryScratch) Close() error                             { return nil }
func (m memoryScratch) whole() (io.Reader, error)                { return bytes.NewReader(m), nil }

// noRoom gives the kernel's words for a full disk our name.
func noRoom(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", errNoRoom, err)
	}
	return err
}

func freeBytes(dir string) (int64, error) {
	st, err := statfs(dir)
	return int64(st.Bavail) * st.Bsize, err
}

// diskBytes is the size of the whole file system.
func diskBytes(dir string) (int64, error) {
	st, err := statfs(dir)
	return int64(st.Blocks) * st.Bsize, err
}

func statfs(dir string) (st syscall.Statfs_t, err error) {
	if err := syscall.Statfs(dir, &st); err != nil {
		return st, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return st, nil
}
