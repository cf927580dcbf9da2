package live

import (
	"fmt"
	"io"
)

// archive writes the "newc" form of cpio (Documentation/driver-api/early-userspace/buffer-format.rst). Neither of the Go
// libraries for it can write device nodes, and the kernel wants /dev/console before it starts /init.
type archive struct {
	w   io.Writer
	ino uint32
	at  int64
	err error
}

const (
	modeDir     = 0o040755
	modeFile    = 0o100644
	modeProgram = 0o100755
	modeChar    = 0o020600
)

func (a *archive) dir(name string)                     { a.header(name, modeDir, 0, 0, 0) }
func (a *archive) char(name string, major, minor uint) { a.header(name, modeChar, 0, major, minor) }

func (a *archive) file(name string, mode uint32, data []byte) {
	a.header(name, mode, int64(len(data)), 0, 0)
	a.write(data)
	a.pad()
}

// stream copies exactly size bytes from r.
func (a *archive) stream(name string, mode uint32, size int64, r io.Reader) {
	if size >= 1<<32 && a.err == nil {
		a.err = fmt.Errorf("%s: %d bytes are too large for a cpio archive", name, size)
	}
	a.header(name, mode, size, 0, 0)
	if a.err != nil {
		return
	}
	n, err := io.CopyN(a.w, r, size)
	a.at += n
	if err != nil {
		a.err = fmt.Errorf("%s: %w", name, err)
	}
	a.pad()
}

// close ends the archive. Another one may follow.
func (a *archive) close() error {
	a.ino = ^uint32(0)
	a.header("TRAILER!!!", 0, 0, 0, 0)
	return a.err
}

func (a *archive) header(name string, mode uint32, size int64, major, minor uint) {
	links := 1
	if mode&0o170000 == modeDir&0o170000 {
		links = 2
	}
	a.ino++
	// Owner root, time 0: the same inputs give the same bytes.
	a.write(fmt.Appendf(nil, "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		a.ino, mode, 0, 0, links, 0, size, 0, 0, major, minor, len(name)+1, 0, name))
	a.pad()
}

func (a *archive) write(b []byte) {
	if a.err != nil {
		return
	}
	n, err := a.w.Write(b)
	a.at, a.err = a.at+int64(n), err
}

func (a *archive) pad() { a.write(make([]byte, (4-a.at%4)%4)) }
