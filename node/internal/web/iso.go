package web

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"sync"
	"time"

	"offshoot/node/internal/iso"
)

// isos keeps an image open while somebody reads from it: all read from the one open file, each at his own place.
//
// They are copied through user space. sendfile goes by the position of the open file, so that each client would need one of his own;
// over loopback it was no faster (512 MiB: 0.40 s of processor, 0.29 s without).
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
func (x *isos) take(digest string) (image *iso.Image, back func(), err error) {
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
	return o.Image, func() {
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
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", fmt.Sprintf("%q", digest+"/"+name))
	http.ServeContent(&counted{ResponseWriter: w, sent: func(n int64) { s.o.Sent(digest, n) }}, r, "", time.Time{}, content)
}
