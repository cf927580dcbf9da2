package mirror

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strconv"
)

// sum is a SHA-256.
type sum [sha256.Size]byte

func (s sum) String() string { return hex.EncodeToString(s[:]) }

// file is what metadata says of the bytes behind a name.
type file struct {
	sum  sum
	size int64
}

// maxFile bounds the size that metadata may claim; the largest packages have a few gigabytes.
const maxFile = 1 << 40

func parseSum(text string) (sum, error) {
	var s sum
	if len(text) != 2*len(s) {
		return s, fmt.Errorf("%.80q is no SHA-256", text)
	}
	_, err := hex.Decode(s[:], []byte(text))
	return s, err
}

func parseSize(text string) (int64, error) {
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n < 0 || n > maxFile {
		return 0, fmt.Errorf("%.40q is no size", text)
	}
	return n, nil
}

// errTooMuch: metadata that no honest repository has. A bound on memory.
var errTooMuch = errors.New("metadata is larger than a repository can need")

// readAll is io.ReadAll with an error instead of more than max bytes.
func readAll(r io.Reader, max int64) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, max+1))
	if err == nil && int64(len(data)) > max {
		err = errTooMuch
	}
	return data, err
}
