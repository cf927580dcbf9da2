package archive

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
)

const (
	// maxDebBytes bounds what a package unpacks to; the largest in Debian have about 5 GB.
	maxDebBytes = 16 << 30
	// maxDebFiles bounds the entries of one package; the largest have about 100,000.
	maxDebFiles = 1 << 20
)

// ErrEnough ends a reading early, without an error: its caller has what it wanted.
var ErrEnough = errors.New("enough")

// ReadDeb calls file for each regular file that a Debian package would install, in its order, with its path as in "usr/lib/shim/x".
// Links and directories are passed over, and paths that climb refused. file need not read its content to the end; r's bytes are to
// be those that a digest vouches for.
func ReadDeb(r io.Reader, file func(name string, size int64, content io.Reader) error) error {
	err := readDeb(r, file)
	if errors.Is(err, ErrEnough) {
		return nil
	}
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return fmt.Errorf("debian package: %w", err)
	}
	return nil
}

// readDeb takes the ar(5) archive of deb(5) apart: debian-binary, control, data, in this order.
func readDeb(r io.Reader, file func(string, int64, io.Reader) error) error {
	magic := make([]byte, 8)
	if _, err := io.ReadFull(r, magic); err != nil {
		return err
	}
	if string(magic) != "!<arch>\n" {
		return errors.New("it is no ar archive")
	}
	for i := 0; ; i++ {
		name, size, err := readMember(r)
		if err != nil {
			return err
		}
		body := &io.LimitedReader{R: r, N: size}
		switch {
		case i == 0:
			version, err := ReadAll(body, 64)
			if err != nil || name != "debian-binary" || !strings.HasPrefix(string(version), "2.") {
				return errors.Join(err, errors.New("it does not begin with debian-binary 2"))
			}
		case strings.HasPrefix(name, "data.tar"):
			return readData(name, body, file)
		default:
			if _, err := io.Copy(io.Discard, body); err != nil {
				return err
			}
			if body.N > 0 {
				return io.ErrUnexpectedEOF
			}
		}
		if size%2 == 1 {
			if _, err := io.CopyN(io.Discard, r, 1); err != nil {
				return err
			}
		}
	}
}

// readMember reads the header of one member.
func readMember(r io.Reader) (name string, size int64, err error) {
	header := make([]byte, 60)
	if _, err := io.ReadFull(r, header); err != nil {
		return "", 0, err
	}
	if string(header[58:]) != "`\n" {
		return "", 0, errors.New("a member has no header")
	}
	size, err = strconv.ParseInt(strings.TrimSpace(string(header[48:58])), 10, 64)
	if err != nil || size < 0 {
		return "", 0, fmt.Errorf("a member of %.12q bytes", header[48:58])
	}
	return strings.TrimSuffix(strings.TrimSpace(string(header[:16])), "/"), size, nil
}

func readData(member string, r io.Reader, file func(string, int64, io.Reader) error) error {
	plain, err := Decompress(strings.TrimSuffix(member, ".tar"), r)
	if err != nil {
		return fmt.Errorf("%s: %w", member, err)
	}
	defer func() { _ = plain.Close() }()
	t := tar.NewReader(&BoundedReader{R: plain, Left: maxDebBytes})
	for range maxDebFiles {
		h, err := t.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("%s: %w", member, err)
		}
		if h.Typeflag != tar.TypeReg {
			continue
		}
		name, err := CleanName(h.Name)
		if err != nil {
			return fmt.Errorf("%s: %.80q: %w", member, h.Name, err)
		}
		if err := file(name, h.Size, t); err != nil {
			return err
		}
	}
	return ErrTooMuch
}
