package mirror

import (
	"errors"
	"net/url"
	"path"
	"strings"

	"offshoot/node/internal/archive"
)

// requestPath is the path of a request without its leading slash, or why it is refused. It is looked at before anything
// else is, in the spelling that was sent: what one server decodes, another may decode once more.
func requestPath(u *url.URL) (string, error) {
	raw := u.EscapedPath()
	if len(raw) > 3*archive.MaxName {
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
	return archive.CleanName(rest)
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
