package iso

import (
	"io"
	"io/fs"
)

// Located is a file that says where it lies.
type Located interface {
	// Extent is where the file begins in the image, in bytes; whole says that all of it follows from there.
	Extent() (offset int64, whole bool)
}

// file reads from the image. Only its position is its own.
type file struct {
	*io.SectionReader
	entry entry
}

var (
	_ fs.File       = (*file)(nil)
	_ io.ReadSeeker = (*file)(nil)
	_ Located       = (*file)(nil)
)

// Stat implements fs.File.
func (f *file) Stat() (fs.FileInfo, error) { return f.entry, nil }

// Close implements fs.File: the image stays open.
func (f *file) Close() error { return nil }

// Extent implements Located.
func (f *file) Extent() (int64, bool) {
	if len(f.entry.extents) != 1 {
		return 0, false
	}
	return f.entry.extents[0].offset, true
}

// spans reads extents as if they stood in a row.
type spans struct {
	r       io.ReaderAt
	extents []extent
}

// ReadAt implements io.ReaderAt.
func (s *spans) ReadAt(p []byte, off int64) (n int, err error) {
	for _, x := range s.extents {
		if off >= x.size {
			off -= x.size
			continue
		}
		part := p[n:min(int64(len(p)), int64(n)+x.size-off)]
		k, err := s.r.ReadAt(part, x.offset+off)
		n += k
		if k < len(part) {
			return n, noEOF(err)
		}
		if off = 0; n == len(p) {
			return n, nil
		}
	}
	return n, io.EOF
}

// directory is an open directory.
type directory struct {
	entry entry
	list  []entry
	read  int
}

var _ fs.ReadDirFile = (*directory)(nil)

// Stat implements fs.File.
func (d *directory) Stat() (fs.FileInfo, error) { return d.entry, nil }

// Read implements fs.File.
func (d *directory) Read([]byte) (int, error) {
	return 0, &fs.PathError{Op: "read", Path: d.entry.name, Err: fs.ErrInvalid}
}

// Close implements fs.File.
func (d *directory) Close() error { return nil }

// ReadDir implements fs.ReadDirFile.
func (d *directory) ReadDir(n int) ([]fs.DirEntry, error) {
	left := d.list[d.read:]
	if n > 0 && len(left) == 0 {
		return nil, io.EOF
	}
	if n > 0 && n < len(left) {
		left = left[:n]
	}
	d.read += len(left)
	out := make([]fs.DirEntry, 0, len(left))
	for _, e := range left {
		out = append(out, e)
	}
	return out, nil
}
