package image

import (
	"bufio"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// aptSource is one archive of a host: the same facts in both of apt's formats (sources.list(5)).
type aptSource struct {
	uri        string
	suites     []string
	components []string
}

// archiveSources are one-line sources for the release: the named mirror, or those of the host whose tree is at hostRoot,
// translated from its release to the wanted one. From the host come its release, -updates and -security suites, as far as it
// uses them: a golden image is to start with the same patches that the host itself would get.
func archiveSources(mirror, codename, hostRoot string) ([]string, error) {
	if mirror != "" {
		u, err := url.Parse(mirror)
		if err != nil || u.Scheme == "" || (u.Host == "" && u.Path == "") || strings.ContainsAny(mirror, " \t\r\n[]") {
			return nil, fmt.Errorf("mirror %q is not a URL", mirror)
		}
		return []string{"deb " + mirror + " " + codename + " main"}, nil
	}
	host := hostCodename(hostRoot)
	var out []string
	released := false
	for _, s := range readAptSources(hostRoot) {
		if !slices.Contains(s.components, "main") || !isDebian(s.uri) {
			continue
		}
		for _, suite := range s.suites {
			rest, ok := suiteRest(suite, host)
			if !ok {
				continue
			}
			line := "deb " + s.uri + " " + codename + rest + " " + strings.Join(s.components, " ")
			if !slices.Contains(out, line) {
				out = append(out, line)
			}
			released = released || rest == ""
		}
	}
	if !released {
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

// readAptSources reads what it can: a file that apt would refuse is apt's to complain about.
func readAptSources(root string) []aptSource {
	var out []aptSource
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
func parseOneLine(text string) []aptSource {
	var out []aptSource
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
			out = append(out, aptSource{uri: f[0], suites: f[1:2], components: f[2:]})
		}
	}
	return out
}

// parseDeb822 reads stanzas of "Field: value" with continuation lines; "Enabled: no" drops a stanza.
func parseDeb822(text string) []aptSource {
	var out []aptSource
	stanza := map[string]string{}
	flush := func() {
		if slices.Contains(strings.Fields(stanza["types"]), "deb") && strings.TrimSpace(stanza["enabled"]) != "no" {
			for _, uri := range strings.Fields(stanza["uris"]) {
				out = append(out, aptSource{uri, strings.Fields(stanza["suites"]), strings.Fields(stanza["components"])})
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
