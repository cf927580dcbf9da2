package mirror

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

const (
	// maxIndexBytes bounds one index after decompression. Debian's main has 50 MB, Fedora's primary 200 MB.
	maxIndexBytes = 1 << 30
	// maxIndexNames bounds the packages of one index; a name with its digest costs about 200 bytes.
	maxIndexNames = 1 << 20
	// maxWindow bounds what a compressed index may ask of its reader's memory; zstd --long=27 is the most that is in use.
	maxWindow = 128 << 20
)

// index is the names that one Packages file or primary.xml gives digests for, relative to the repository's base.
type index map[string]file

// add takes what an index says of a file. A name that is given twice counts once: the same package in two sections.
func (x index) add(name, size, digest string) error {
	clean, err := cleanName(name)
	if err != nil {
		return fmt.Errorf("%.80q: %w", name, err)
	}
	s, err := parseSum(digest)
	if err != nil {
		return fmt.Errorf("%s: %w", clean, err)
	}
	n, err := parseSize(size)
	if err != nil {
		return fmt.Errorf("%s: %w", clean, err)
	}
	if _, ok := x[clean]; ok {
		return nil
	}
	if len(x) >= maxIndexNames {
		return errTooMuch
	}
	x[clean] = file{s, n}
	return nil
}

// readIndex parses an index in the form that its name tells.
func readIndex(name string, r io.Reader) (index, error) {
	plain, err := decompress(name, r)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", name, err)
	}
	defer func() { _ = plain.Close() }()
	bounded := &boundedReader{plain, maxIndexBytes}
	var x index
	if strings.Contains(path.Base(name), ".xml") {
		x, err = parsePrimary(bounded)
	} else {
		x, err = parsePackages(bounded)
	}
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", name, err)
	}
	return x, nil
}

func decompress(name string, r io.Reader) (io.ReadCloser, error) {
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

// boundedReader is io.LimitReader with an error at the end: an index that was cut must not pass for a short one.
type boundedReader struct {
	r    io.Reader
	left int64
}

func (b *boundedReader) Read(p []byte) (int, error) {
	if b.left <= 0 {
		return 0, errTooMuch
	}
	n, err := b.r.Read(p[:min(int64(len(p)), b.left)])
	b.left -= int64(n)
	return n, err
}

// parsePackages reads stanza after stanza and keeps three fields of each; memory is that of the result.
func parsePackages(r io.Reader) (index, error) {
	x := index{}
	var name, size, digest string
	flush := func() error {
		defer func() { name, size, digest = "", "", "" }()
		if name == "" || digest == "" {
			return nil // nothing that we could vouch for
		}
		return x.add(name, size, digest)
	}
	in := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := readLine(in)
		if err != nil && !errors.Is(err, io.EOF) {
			return nil, err
		}
		end := err != nil
		switch key, value, _ := bytes.Cut(line, []byte(":")); string(key) {
		case "":
			if err := flush(); err != nil {
				return nil, err
			}
		case "Filename":
			name = string(bytes.TrimSpace(value))
		case "Size":
			size = string(bytes.TrimSpace(value))
		case "SHA256":
			digest = string(bytes.TrimSpace(value))
		}
		if end {
			return x, flush()
		}
	}
}

// readLine returns the next line without its end, cut where the buffer is full: fields that count are shorter.
func readLine(in *bufio.Reader) ([]byte, error) {
	line, err := in.ReadSlice('\n')
	if errors.Is(err, bufio.ErrBufferFull) {
		line = bytes.Clone(line[:min(len(line), 2*maxPath)])
		for errors.Is(err, bufio.ErrBufferFull) {
			_, err = in.ReadSlice('\n')
		}
	}
	return bytes.TrimRight(line, "\r\n"), err
}
