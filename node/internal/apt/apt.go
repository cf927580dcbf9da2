// Package apt reads which Debian archives this host takes its packages from, so that no host name has to stand in the program. It
// asks nobody, and refuses to judge what apt itself would make of a file. Only image and origin import it.
package apt

import (
	"bufio"
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// source is what one entry of a host says: the same facts in both of apt's formats (sources.list(5)).
type source struct {
	uri        string
	suites     []string
	components []string
}

// Archive is one suite of a Debian archive.
type Archive struct {
	URI, Suite string
	Components []string
}

// String is the archive as a line of sources.list(5).
func (a Archive) String() string {
	return "deb " + a.URI + " " + a.Suite + " " + strings.Join(a.Components, " ")
}

// Archives are those of a release: the named mirror's main, or those of the host whose tree is at hostRoot, translated from its release
// to the wanted one. From the host come its release, -updates and -security suites, as far as it uses them: what is made from them
// is to start with the same patches that the host itself would get. The release itself is the first.
func Archives(mirror, codename, hostRoot string) ([]Archive, error) {
	if mirror != "" {
		u, err := url.Parse(mirror)
		if err != nil || u.Scheme == "" || (u.Host == "" && u.Path == "") || strings.ContainsAny(mirror, " \t\r\n[]") {
			return nil, fmt.Errorf("mirror %q is not a URL", mirror)
		}
		return []Archive{{mirror, codename, []string{"main"}}}, nil
	}
	host := hostCodename(hostRoot)
	var out []Archive
	for _, s := range readSources(hostRoot) {
		if !slices.Contains(s.components, "main") || !isDebian(s.uri) {
			continue
		}
		for _, suite := range s.suites {
			rest, ok := suiteRest(suite, host)
			if !ok {
				continue
			}
			a := Archive{s.uri, codename + rest, s.components}
			if !slices.ContainsFunc(out, func(b Archive) bool { return a.String() == b.String() }) {
				out = append(out, a)
			}
		}
	}
	slices.SortStableFunc(out, func(a, b Archive) int { return cmp.Compare(len(a.Suite), len(b.Suite)) })
	if len(out) == 0 || out[0].Suite != codename {
		return nil, errors.New("this host's apt sources (/etc/apt/sources.list, /etc/apt/sources.list.d) name no Debian archive: give one with --mirror URL")
	}
	return out, nil
}

// suiteRest is what follows the release's name in a suite that a golden image takes over, "" for the release itself.
func suiteRest(suite, host string) (rest string, ok bool) {
	for _, name := range []string{host, "bookworm", "trixie", "stable", "oldstable"} {
		if name == "" {
			continue
		}
		if r, found := strings.CutPrefix(suite, name); found && slices.Contains([]string{"", "-updates", "-security"}, r) {
			return r, true
		}
	}
	return "", false
}

// isDebian keeps out archives of others that use Debian's suite names: Debian's own lie in a path of that name on every mirror.
func isDebian(uri string) bool {
	u, err := url.Parse(uri)
	if err != nil {
		return false
	}
	for _, part := range strings.Split(u.Path, "/") {
		if part == "debian" || part == "debian-security" {
			return true
		}
	}
	return false
}

func hostCodename(root string) string {
	data, err := os.ReadFile(filepath.Join(root, "etc/os-release"))
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(data)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "VERSION_CODENAME="); ok {
			return strings.Trim(v, `"'`)
		}
	}
	return ""
}

// readSources reads what it can: a file that apt would refuse is apt's to complain about.
func readSources(root string) []source {
	var out []source
	lists, _ := filepath.Glob(filepath.Join(root, "etc/apt/sources.list.d/*.list"))
	for _, p := range append([]string{filepath.Join(root, "etc/apt/sources.list")}, lists...) {
		if data, err := os.ReadFile(p); err == nil {
			out = append(out, parseOneLine(string(data))...)
		}
	}
	deb822, _ := filepath.Glob(filepath.Join(root, "etc/apt/sources.list.d/*.sources"))
	for _, p := range deb822 {
		if data, err := os.ReadFile(p); err == nil {
			out = append(out, parseDeb822(string(data))...)
		}
	}
	return out
}

// parseOneLine reads "deb [options] uri suite component..." lines.
func parseOneLine(text string) []source {
	var out []source
	for line := range strings.Lines(text) {
		line, _, _ = strings.Cut(line, "#")
		rest, ok := strings.CutPrefix(strings.TrimSpace(line), "deb ")
		if !ok {
			continue
		}
		rest = strings.TrimSpace(rest)
		if strings.HasPrefix(rest, "[") {
			if _, rest, ok = strings.Cut(rest, "]"); !ok {
				continue
			}
		}
		if f := strings.Fields(rest); len(f) >= 3 {
			out = append(out, source{uri: f[0], suites: f[1:2], components: f[2:]})
		}
	}
	return out
}

// parseDeb822 reads stanzas of "Field: value" with continuation lines; "Enabled: no" drops a stanza.
func parseDeb822(text string) []source {
	var out []source
	stanza := map[string]string{}
	flush := func() {
		if slices.Contains(strings.Fields(stanza["types"]), "deb") && strings.TrimSpace(stanza["enabled"]) != "no" {
			for _, uri := range strings.Fields(stanza["uris"]) {
				out = append(out, source{uri, strings.Fields(stanza["suites"]), strings.Fields(stanza["components"])})
			}
		}
		stanza = map[string]string{}
	}
	field := ""
	lines := bufio.NewScanner(strings.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		switch {
		case strings.TrimSpace(line) == "":
			flush()
		case strings.HasPrefix(line, "#"):
		case line[0] == ' ' || line[0] == '\t':
			stanza[field] += " " + line
		default:
			name, value, _ := strings.Cut(line, ":")
			field = strings.ToLower(strings.TrimSpace(name))
			stanza[field] = value
		}
	}
	flush()
	return out
}
