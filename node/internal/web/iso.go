package web

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"syscall"
	"time"

	"offshoot/node/internal/iso"
)

// isos keeps an image open while somebody reads from it: all read its directories from the one open file, each at his own place.
type isos struct {
	artifact func(digest string) (io.ReadSeekCloser, error)

	mu   sync.Mutex
	open map[string]*openISO
}

type openISO struct {
	*iso.Image
	file  io.Closer
	users int
}

// take returns an image for as long as its caller does not call back.
func (x *isos) take(digest string) (image *openISO, back func(), err error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	o := x.open[digest]
	if o == nil {
		if o, err = x.load(digest); err != nil {
			return nil, nil, err
		}
		x.open[digest] = o
	}
	o.users++
	return o, func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		if o.users--; o.users == 0 {
			delete(x.open, digest)
			_ = o.file.Close() // only read
		}
	}, nil
}

func (x *isos) load(digest string) (*openISO, error) {
	file, err := x.artifact(digest)
	if err != nil {
		return nil, fmt.Errorf("artifact %q is not here: %w", digest, fs.ErrNotExist)
	}
	at, ok := file.(io.ReaderAt)
	size, err := file.Seek(0, io.SeekEnd)
	if err == nil && !ok {
		err = errors.New("it cannot be read at any place")
	}
	var image *iso.Image
	if err == nil {
		image, err = iso.Open(at, size)
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("artifact %s: %w", digest, err), file.Close())
	}
	return &openISO{Image: image, file: file}, nil
}

// fromISO gives out a file that lies in an image: /iso/<digest of the image>/<path>.
func (s *Server) fromISO(w http.ResponseWriter, r *http.Request) {
	digest, name := r.PathValue("digest"), r.PathValue("path")
	image, back, err := s.isos.take(digest)
	if err != nil {
		http.Error(w, err.Error(), http.StatusNotFound)
		return
	}
	defer back()
	f, err := image.Open(name)
	if err != nil {
		code := http.StatusInternalServerError // the image is damaged
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrInvalid) {
			code = http.StatusNotFound
		}
		http.Error(w, err.Error(), code)
		return
	}
	defer func() { _ = f.Close() }()
	content, ok := f.(io.ReadSeeker)
	if !ok {
		http.Error(w, "directories are not listed", http.StatusNotFound)
		return
	}
	if whole, ok := s.extent(image, digest, f); ok {
		defer func() { _ = whole.file.Close() }() // only read
		content = whole
	}
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", fmt.Sprintf("%q", digest+"/"+name))
	http.ServeContent(&counted{ResponseWriter: w, sent: func(n int64) { s.o.Sent(digest, n) }}, r, "", time.Time{}, content)
}

// extent is a file that lies in one piece in an image. It is read through an open file of its own, so that the kernel sends it by
// itself: sendfile goes by the position of the open file. With 200 clients that is several times as fast as copying.
type extent struct {
	file        kernelFile // the image
	begin, size int64
}

var (
	_ io.ReadSeeker = (*extent)(nil)
	_ syscall.Conn  = (*extent)(nil) // by this net knows what the kernel can send
)

// kernelFile is an open file that the kernel can send, as an *os.File is.
type kernelFile interface {
	io.ReadSeekCloser
	syscall.Conn
}

// extent opens an image once more for a file of it; false if the file lies in several pieces, or the image in no file.
func (s *Server) extent(in *openISO, digest string, f fs.File) (*extent, bool) {
	_, onDisk := in.file.(kernelFile)
	located, ok := f.(iso.Located)
	if !ok || !onDisk {
		return nil, false
	}
	begin, whole := located.Extent()
	info, err := f.Stat()
	if !whole || err != nil {
		return nil, false
	}
	image, err := s.o.Artifact(digest)
	if err != nil {
		return nil, false
	}
	file, ok := image.(kernelFile)
	if !ok {
		_ = image.Close() // only read
		return nil, false
	}
	return &extent{file: file, begin: begin, size: info.Size()}, true
}

// Seek implements io.Seeker, within the extent.
func (e *extent) Seek(offset int64, whence int) (int64, error) {
	switch whence {
	case io.SeekStart:
		offset += e.begin
	case io.SeekEnd:
		offset, whence = offset+e.begin+e.size, io.SeekStart
	}
	at, err := e.file.Seek(offset, whence)
	return at - e.begin, err
}

// Read implements io.Reader. It ends with the extent.
func (e *extent) Read(p []byte) (int, error) {
	at, err := e.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	if at >= e.size {
		return 0, io.EOF
	}
	return e.file.Read(p[:min(int64(len(p)), e.size-at)])
}

// SyscallConn implements syscall.Conn.
func (e *extent) SyscallConn() (syscall.RawConn, error) { return e.file.SyscallConn() }
