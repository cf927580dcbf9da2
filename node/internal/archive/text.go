package archive

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"io"
	"path"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// maxWindow bounds what compressed bytes may ask of their reader's memory; zstd --long=27 is the most that is in use.
const maxWindow = 128 << 20

// ErrPortal: a captive portal answers everything with a page of its own.
var ErrPortal = errors.New("a web page came instead: is a captive portal in between?")

// LooksLikeHTML is how a captive portal answers everything.
func LooksLikeHTML(data []byte) bool {
	head := bytes.ToLower(bytes.TrimSpace(data[:min(len(data), 512)]))
	return bytes.HasPrefix(head, []byte("<!doctype html")) || bytes.HasPrefix(head, []byte("<html"))
}

// Decompress unpacks in the way that a file's name tells. What comes out is not bounded.
func Decompress(name string, r io.Reader) (io.ReadCloser, error) {
	switch path.Ext(name) {
	case ".xz":
		x, err := xz.NewReader(bufio.NewReaderSize(r, 64<<10))
		return io.NopCloser(x), err
	case ".gz":
		return gzip.NewReader(r)
	case ".bz2":
		return io.NopCloser(bzip2.NewReader(r)), nil
	case ".zst":
		z, err := zstd.NewReader(r, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(maxWindow))
		if err != nil {
			return nil, err
		}
		return z.IOReadCloser(), nil
	case "", ".xml":
		return io.NopCloser(r), nil
	}
	return nil, errors.New("this compression is not known: xz, gz, bz2, zst are")
}

// BoundedReader is io.LimitReader with an error at the end: an index that was cut must not pass for a short one.
type BoundedReader struct {
	R    io.Reader
	Left int64 // bytes that may still come
}

// Read implements io.Reader.
func (b *BoundedReader) Read(p []byte) (int, error) {
	if b.Left <= 0 {
		return 0, ErrTooMuch
	}
	n, err := b.R.Read(p[:min(int64(len(p)), b.Left)])
	b.Left -= int64(n)
	return n, err
}

// Stanzas reads a control file such as Packages: field is called with the fields of each stanza, end after its last one. Lines
// that continue a field have a key that begins with white space. What field gets is overwritten by the next line.
func Stanzas(r io.Reader, field func(key, value []byte), end func() error) error {
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return err
		}
		if len(line) > 0 {
			key, value, _ := bytes.Cut(line, []byte(":"))
			field(key, bytes.TrimSpace(value))
		}
		if len(line) == 0 || err != nil {
			if err := end(); err != nil {
				return err
			}
		}
		if err != nil {
			return nil
		}
	}
}

// readLine returns the next line without its end, cut where the buffer is full: fields that count are shorter.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line[:min(len(line), 2*MaxName)])
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
	}
	return bytes.TrimRight(line, "\r\n"), err
}
