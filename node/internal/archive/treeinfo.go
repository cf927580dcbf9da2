package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"
)

// Treeinfo is what a .treeinfo says of an installation tree of Fedora and its relatives.
type Treeinfo struct {
	Family, Version, Arch string
	Kernel, Initrd        string // paths below the tree
	Checksums             Checksums
}

// ParseTreeinfo reads the sections that count of productmd's .treeinfo. Nobody signs it: it is worth what its carrier is worth.
func ParseTreeinfo(text []byte) (Treeinfo, error) {
	if LooksLikeHTML(text) {
		return Treeinfo{}, ErrPortal
	}
	t := Treeinfo{Checksums: Checksums{}}
	sections, section := map[string]map[string]string{}, ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	for n := 0; lines.Scan(); n++ {
		line := strings.TrimSpace(lines.Text())
		if n >= maxChecksums {
			return t, fmt.Errorf("treeinfo: %w", ErrTooMuch)
		}
		if strings.HasPrefix(line, "[") && strings.HasSuffix(line, "]") {
			section = line[1 : len(line)-1]
			sections[section] = map[string]string{}
			continue
		}
		if key, value, ok := strings.Cut(line, "="); ok && section != "" && line[0] != '#' && line[0] != ';' {
			sections[section][strings.TrimSpace(key)] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return t, fmt.Errorf("treeinfo: %w", err)
	}
	for name, sum := range sections["checksums"] {
		kind, digest, _ := strings.Cut(sum, ":")
		if kind != "sha256" {
			continue
		}
		if err := t.Checksums.add(name, strings.ToLower(digest)); err != nil {
			return t, fmt.Errorf("treeinfo: %w", err)
		}
	}
	general := sections["general"]
	t.Family, t.Version, t.Arch = general["family"], general["version"], general["arch"]
	images := sections["images-"+t.Arch]
	for _, p := range []struct {
		into *string
		name string
	}{{&t.Kernel, images["kernel"]}, {&t.Initrd, images["initrd"]}} {
		if p.name == "" {
			continue
		}
		clean, err := CleanName(p.name)
		if err != nil {
			return t, fmt.Errorf("treeinfo: %.80q: %w", p.name, err)
		}
		*p.into = clean
	}
	if t.Family == "" {
		return t, errors.New("treeinfo: it names no distribution")
	}
	return t, nil
}
