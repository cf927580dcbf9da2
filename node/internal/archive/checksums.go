package archive

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// maxChecksums bounds the entries of one checksum file; Debian's of all installer images has 1,000.
const maxChecksums = 100_000

// Checksums are the digests of a checksum file in lower case hexadecimal digits, by file name: 64 digits are a SHA-256, 128 a SHA-512.
type Checksums map[string]string

// bsdLine is how Fedora and its relatives write it, plainLine how sha256sum does.
var (
	bsdLine   = regexp.MustCompile(`^(SHA256|SHA512) \((.+)\) = ([0-9a-fA-F]+)$`)
	plainLine = regexp.MustCompile(`^([0-9a-fA-F]{64}|[0-9a-fA-F]{128}) [ *](.+)$`)
)

// ParseChecksums reads a file of sha256sum or sha512sum in either form. Lines that are something else are passed over: what they say
// counts for nothing. Names are those of one file, or paths below where the checksum file lies.
func ParseChecksums(text []byte) (Checksums, error) {
	if LooksLikeHTML(text) {
		return nil, ErrPortal
	}
	all := Checksums{}
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := strings.TrimRight(lines.Text(), "\r ")
		digest, name := "", ""
		if m := bsdLine.FindStringSubmatch(line); m != nil && (m[1] == "SHA256") == (len(m[3]) == 64) {
			digest, name = m[3], m[2]
		} else if m := plainLine.FindStringSubmatch(line); m != nil {
			digest, name = m[1], m[2]
		} else {
			continue
		}
		if err := all.add(name, strings.ToLower(digest)); err != nil {
			return nil, fmt.Errorf("checksum file: %w", err)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("checksum file: %w", err)
	}
	if len(all) == 0 {
		return nil, errors.New("checksum file: it lists no file with a SHA-256 or SHA-512")
	}
	return all, nil
}

// add takes the SHA-256 where both are given: artifacts are named by it.
func (c Checksums) add(name, digest string) error {
	clean, err := CleanName(name)
	if err != nil {
		return fmt.Errorf("%.80q: %w", name, err)
	}
	if _, err := hex.DecodeString(digest); err != nil || len(digest) != 64 && len(digest) != 128 {
		return fmt.Errorf("%s: %.140q is no SHA-256 or SHA-512", clean, digest)
	}
	switch old, ok := c[clean]; {
	case ok && len(old) == len(digest) && old != digest:
		return fmt.Errorf("%s is listed twice, with different digests", clean)
	case ok && len(old) < len(digest):
		return nil
	case !ok && len(c) >= maxChecksums:
		return ErrTooMuch
	}
	c[clean] = digest
	return nil
}
