package mirror

import (
	"errors"
	"net/url"
	"path"
	"strings"
	"unicode/utf8"
)

// maxPath bounds what is asked for and what metadata may name. The longest in Debian has 190 bytes.
const maxPath = 1024

// requestPath is the path of a request without its leading slash, or why it is refused. It is looked at before anything
// else is, in the spelling that was sent: what one server decodes, another may decode once more.
func requestPath(u *url.URL) (string, error) {
	raw := u.EscapedPath()
	if len(raw) > 3*maxPath {
		return "", errors.New("the path is too long")
	}
	if u.RawQuery != "" || u.ForceQuery {
		return "", errors.New("a repository has no queries")
	}
	lower := strings.ToLower(raw)
	for _, trick := range []string{"%2f", "%5c", "%2e", "%00"} { // no client of a repository writes these like that
		if strings.Contains(lower, trick) {
			return "", errors.New("the path hides a character: " + trick)
		}
	}
	rest, ok := strings.CutPrefix(u.Path, "/")
	if !ok {
		return "", errors.New("the path does not begin with /")
	}
	return cleanName(rest)
}

// cleanName is a relative path in its one spelling. "." is left out, because apt asks for "./Packages" in a flat
// repository and dpkg-scanpackages writes "./a.deb"; everything else that is not a plain name is refused.
func cleanName(name string) (string, error) {
	if len(name) > maxPath {
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

// below says what p is, seen from dir; "." is the top of a repository.
func below(dir, p string) (string, bool) {
	if dir == "." {
		return p, true
	}
	return strings.CutPrefix(p, dir+"/")
}

// escape spells p for a request.
func escape(p string) string {
	return (&url.URL{Path: path.Join("/", p)}).EscapedPath()[1:]
}
