package archive

import (
	"errors"
	"strings"
	"unicode/utf8"
)

// MaxName bounds the paths that metadata may name, bytes. The longest in Debian has 190.
const MaxName = 1024

// CleanName is a relative path in its one spelling. "." is left out, because apt asks for "./Packages" in a flat
// repository and dpkg-scanpackages writes "./a.deb"; everything else that is not a plain name is refused.
func CleanName(name string) (string, error) {
	if len(name) > MaxName {
		return "", errors.New("the path is too long")
	}
	if !utf8.ValidString(name) {
		return "", errors.New("the path is not UTF-8")
	}
	for _, c := range name {
		if c < ' ' || c == 0x7f || c == '\\' {
			return "", errors.New("the path has a control character or a backslash")
		}
	}
	var out []string
	for part := range strings.SplitSeq(name, "/") {
		switch part {
		case "":
			return "", errors.New("the path has an empty part: directories are not listed")
		case "..":
			return "", errors.New("the path climbs")
		case ".":
		default:
			out = append(out, part)
		}
	}
	if len(out) == 0 {
		return "", errors.New("the path names no file")
	}
	return strings.Join(out, "/"), nil
}
