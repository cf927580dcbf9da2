package mirror

import (
	"fmt"
	"io"
	"path"
	"strings"

	"offshoot/node/internal/archive"
)

const (
	// maxIndexBytes bounds one index after decompression. Debian's main has 50 MB, Fedora's primary 200 MB.
	maxIndexBytes = 1 << 30
	// maxIndexNames bounds the packages of one index; a name with its digest costs about 200 bytes.
	maxIndexNames = 1 << 20
)

// index is the names that one Packages file or primary.xml gives digests for, relative to the repository's base.
type index map[string]archive.File

// add takes what an index says of a file. A name that is given twice counts once: the same package in two sections.
func (x index) add(name, size, digest string) error {
	clean, err := archive.CleanName(name)
	if err != nil {
		return fmt.Errorf("%.80q: %w", name, err)
	}
	s, err := archive.ParseSum(digest)
	if err != nil {
		return fmt.Errorf("%s: %w", clean, err)
	}
	n, err := archive.ParseSize(size)
	if err != nil {
		return fmt.Errorf("%s: %w", clean, err)
	}
	if _, ok := x[clean]; ok {
		return nil
	}
	if len(x) >= maxIndexNames {
		return archive.ErrTooMuch
	}
	x[clean] = archive.File{Sum: s, Size: n}
	return nil
}

// readIndex parses an index in the form that its name tells.
func readIndex(name string, r io.Reader) (index, error) {
	plain, err := archive.Decompress(name, r)
	if err != nil {
		return nil, fmt.Errorf("index %s: %w", name, err)
	}
	defer func() { _ = plain.Close() }()
	bounded := &archive.BoundedReader{R: plain, Left: maxIndexBytes}
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

// parsePackages reads stanza after stanza and keeps three fields of each; memory is that of the result.
func parsePackages(r io.Reader) (index, error) {
	x := index{}
	var name, size, digest string
	err := archive.Stanzas(r, func(key, value []byte) {
		switch string(key) {
		case "Filename":
			name = string(value)
		case "Size":
			size = string(value)
		case "SHA256":
			digest = string(value)
		}
	}, func() error {
		defer func() { name, size, digest = "", "", "" }()
		if name == "" || digest == "" {
			return nil // nothing that we could vouch for
		}
		return x.add(name, size, digest)
	})
	if err != nil {
		return nil, err
	}
	return x, nil
}
