package archive

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// Sum is a SHA-256.
type Sum [sha256.Size]byte

// String is the sum in lower case hexadecimal digits.
func (s Sum) String() string { return hex.EncodeToString(s[:]) }

// File is what metadata says of the bytes behind a name.
type File struct {
	Sum  Sum
	Size int64 // bytes
}

// maxFile bounds the size that metadata may claim; the largest packages have a few gigabytes.
const maxFile = 1 << 40

// ParseSum reads 64 hexadecimal digits.
func ParseSum(text string) (Sum, error) {
	var s Sum
	if len(text) != 2*len(s) {
		return s, fmt.Errorf("%.80q is no SHA-256", text)
	}
	_, err := hex.Decode(s[:], []byte(text))
	return s, err
}

// ParseSize reads a number of bytes.
func ParseSize(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > maxFile {
		return 0, fmt.Errorf("%.40q is no size", text)
	}
	return n, nil
}

// ErrTooMuch: metadata that no honest repository has. A bound on memory.
var ErrTooMuch = errors.New("metadata is larger than a repository can need")

// ReadAll is io.ReadAll with an error instead of more than max bytes.
func ReadAll(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(data)) > max {
		err = ErrTooMuch
	}
	return data, err
}
