package archive

import (
	"cmp"
	"strconv"
	"strings"
)

// CompareVersions orders versions of Debian packages, as deb-version(7) has it: negative if a is the older.
func CompareVersions(a, b string) int {
	ea, ua, ra := splitVersion(a)
	eb, ub, rb := splitVersion(b)
	return cmp.Or(cmp.Compare(ea, eb), compareParts(ua, ub), compareParts(ra, rb))
}

func splitVersion(v string) (epoch int, upstream, revision string) {
	if e, rest, ok := strings.Cut(v, ":"); ok {
		epoch, _ = strconv.Atoi(e) // what is none counts as 0
		v = rest
	}
	if i := strings.LastIndexByte(v, '-'); i >= 0 {
		return epoch, v[:i], v[i+1:]
	}
	return epoch, v, ""
}

// compareParts goes from text to number to text.
func compareParts(a, b string) int {
	for a != "" || b != "" {
		var ta, tb, na, nb string
		ta, a = cut(a, false)
		tb, b = cut(b, false)
		for i := 0; i < len(ta) || i < len(tb); i++ {
			if c := cmp.Compare(weight(ta, i), weight(tb, i)); c != 0 {
				return c
			}
		}
		na, a = cut(a, true)
		nb, b = cut(b, true)
		na, nb = strings.TrimLeft(na, "0"), strings.TrimLeft(nb, "0")
		if c := cmp.Or(cmp.Compare(len(na), len(nb)), strings.Compare(na, nb)); c != 0 {
			return c
		}
	}
	return 0
}

// cut takes what is digits, or is not, from the beginning.
func cut(s string, digits bool) (head, rest string) {
	i := 0
	for i < len(s) && (s[i] >= '0' && s[i] <= '9') == digits {
		i++
	}
	return s[:i], s[i:]
}

// weight orders a character of text: ~ before the end, then letters, then the others.
func weight(s string, i int) int {
	switch {
	case i >= len(s):
		return 0
	case s[i] == '~':
		return -1
	case s[i] >= 'a' && s[i] <= 'z' || s[i] >= 'A' && s[i] <= 'Z':
		return int(s[i])
	}
	return int(s[i]) + 256
}
