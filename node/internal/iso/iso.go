// Package iso reads files out of an ISO 9660 image where they lie, without mounting and without extracting it: an Image is an fs.FS
// over an io.ReaderAt, with the names of Rock Ridge or Joliet if it has them, and links followed inside of the image. Recognise says
// which distribution's installer it is, and where kernel and initrd are.
//
// It refuses to write, and to look outside of the image: what a directory says is bounded by the image's size. Whether the bytes are
// those that somebody signed is not its business. It opens nothing itself. Only node and web import it.
package iso

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	sector = 2048
	// firstDescriptor is where the volume descriptors begin (ECMA-119, 7.2.1: the system area before them has 16 sectors).
	firstDescriptor = 16
	maxDescriptors  = 64
	// maxDirectory bounds one directory; Fedora's largest has 100 KB.
	maxDirectory = 16 << 20
	maxLinks     = 16
)

// ErrFormat: the bytes are no ISO 9660 image, or a damaged one.
var ErrFormat = errors.New("not a whole ISO 9660 image")

// Image is one image. It is safe for concurrent use if its reader is.
type Image struct {
	r      io.ReaderAt
	size   int64
	volume string
	names  naming
	skip   int // SUSP: bytes before the entries of each record
	root   entry
}

var (
	_ fs.FS        = (*Image)(nil)
	_ fs.StatFS    = (*Image)(nil)
	_ fs.ReadDirFS = (*Image)(nil)
)

// Open looks at the volume descriptors of an image of so many bytes. An image that is cut short is refused.
func Open(r io.ReaderAt, size int64) (*Image, error) {
	m := &Image{r: r, size: size}
	if err := m.describe(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrFormat, err)
	}
	return m, nil
}

// describe finds the tree with the best names: Rock Ridge is in that of the primary descriptor, Joliet has one of its own.
func (m *Image) describe() error {
	var primary, joliet []byte
	for n := range int64(maxDescriptors) {
		d := make([]byte, sector)
		if _, err := m.r.ReadAt(d, (firstDescriptor+n)*sector); err != nil {
			return fmt.Errorf("volume descriptor: %w", noEOF(err))
		}
		if string(d[1:6]) != "CD001" {
			return errors.New("it has no volume descriptor")
		}
		switch kind := d[0]; {
		case kind == 255:
			return m.choose(primary, joliet)
		case kind == 1 && primary == nil:
			primary = d
		case kind == 2 && joliet == nil && slices.Contains([]string{"%/@", "%/C", "%/E"}, string(d[88:91])):
			joliet = d
		}
	}
	return errors.New("its volume descriptors have no end")
}

func (m *Image) choose(primary, joliet []byte) error {
	if primary == nil {
		return errors.New("it has no primary volume descriptor")
	}
	if block := binary.LittleEndian.Uint16(primary[128:]); block != sector {
		return fmt.Errorf("its blocks have %d bytes, want %d", block, sector)
	}
	if says := int64(binary.LittleEndian.Uint32(primary[80:])) * sector; says > m.size {
		return fmt.Errorf("it has %d bytes, and says that it has %d: was it cut short?", m.size, says)
	}
	m.volume = printable(strings.TrimRight(string(primary[40:72]), " \x00"))
	root, err := m.record(primary[156:190])
	if err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	m.root, m.names = root, plainNames
	if m.skip, err = m.rockRidge(root); err != nil {
		return fmt.Errorf("root directory: %w", err)
	}
	if m.skip >= 0 {
		m.names = rockRidgeNames
		return nil
	}
	if joliet == nil {
		return nil
	}
	if m.root, err = m.record(joliet[156:190]); err != nil {
		return fmt.Errorf("root directory of joliet: %w", err)
	}
	m.names = jolietNames
	return nil
}

// rockRidge looks at the first record of the root directory: SP there says that records have System Use entries, behind so many
// bytes; -1 if there are none (SUSP-112, 5.3).
func (m *Image) rockRidge(root entry) (int, error) {
	data, err := m.head(root)
	if err != nil {
		return -1, err
	}
	use := systemUse(data[:min(int(data[0]), len(data))])
	if len(use) >= 7 && string(use[:2]) == "SP" && use[4] == 0xbe && use[5] == 0xef {
		return int(use[6]), nil
	}
	return -1, nil
}

// Volume is the volume's name.
func (m *Image) Volume() string { return m.volume }

// Open implements fs.FS. A file is also an io.ReadSeeker, an io.ReaderAt and a Located.
func (m *Image) Open(name string) (fs.File, error) {
	e, err := m.lookup("open", name)
	if err != nil {
		return nil, err
	}
	if e.dir {
		list, err := m.list(e)
		if err != nil {
			return nil, &fs.PathError{Op: "open", Path: name, Err: err}
		}
		return &directory{entry: e, list: list}, nil
	}
	return &file{SectionReader: io.NewSectionReader(&spans{m.r, e.extents}, 0, e.size), entry: e}, nil
}

// Stat implements fs.StatFS. Links are followed.
func (m *Image) Stat(name string) (fs.FileInfo, error) { return m.lookup("stat", name) }

// ReadDir implements fs.ReadDirFS.
func (m *Image) ReadDir(name string) ([]fs.DirEntry, error) {
	f, err := m.Open(name)
	if err != nil {
		return nil, err
	}
	d, ok := f.(*directory)
	if !ok {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: errors.New("not a directory")}
	}
	return d.ReadDir(-1)
}

// lookup follows a path, and the links on it.
func (m *Image) lookup(op, name string) (entry, error) {
	fail := func(err error) (entry, error) { return entry{}, &fs.PathError{Op: op, Path: name, Err: err} }
	if !fs.ValidPath(name) {
		return fail(fs.ErrInvalid)
	}
	walked, left := []entry{m.root}, strings.Split(name, "/")
	for links := 0; len(left) > 0; {
		here, part := walked[len(walked)-1], left[0]
		left = left[1:]
		switch part {
		case ".", "":
			continue
		case "..": // of a link
			walked = walked[:max(1, len(walked)-1)]
			continue
		}
		if !here.dir {
			return fail(fs.ErrNotExist)
		}
		list, err := m.list(here)
		if err != nil {
			return fail(err)
		}
		at := slices.IndexFunc(list, func(e entry) bool { return m.names.same(e.name, part) })
		if at < 0 {
			return fail(fs.ErrNotExist)
		}
		next := list[at]
		if next.link == "" {
			walked = append(walked, next)
			continue
		}
		if links++; links > maxLinks {
			return fail(errors.New("too many links"))
		}
		if path.IsAbs(next.link) {
			walked = walked[:1]
		}
		left = append(strings.Split(next.link, "/"), left...)
	}
	e := walked[len(walked)-1]
	e.name = path.Base(name)
	return e, nil
}

// noEOF: an image that ends where it should not is damaged; io.EOF would look like the end of a file.
func noEOF(err error) error {
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// extent is one piece of a file, in bytes of the image.
type extent struct{ offset, size int64 }

// entry is what a directory says of a file.
type entry struct {
	name     string
	dir      bool
	link     string // where it leads to
	size     int64
	modified time.Time
	extents  []extent
}

var (
	_ fs.FileInfo = entry{}
	_ fs.DirEntry = entry{}
)

// Name implements fs.FileInfo.
func (e entry) Name() string { return e.name }

// Size implements fs.FileInfo.
func (e entry) Size() int64 { return e.size }

// ModTime implements fs.FileInfo.
func (e entry) ModTime() time.Time { return e.modified }

// IsDir implements fs.FileInfo.
func (e entry) IsDir() bool { return e.dir }

// Sys implements fs.FileInfo.
func (e entry) Sys() any { return nil }

// Type implements fs.DirEntry.
func (e entry) Type() fs.FileMode { return e.Mode().Type() }

// Info implements fs.DirEntry.
func (e entry) Info() (fs.FileInfo, error) { return e, nil }

// Mode implements fs.FileInfo. Nobody writes here, whatever the image says.
func (e entry) Mode() fs.FileMode {
	switch {
	case e.link != "":
		return fs.ModeSymlink | 0o777
	case e.dir:
		return fs.ModeDir | 0o555
	}
	return 0o444
}
