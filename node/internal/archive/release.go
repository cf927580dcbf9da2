package archive

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"strings"
	"time"
)

// maxReleaseFiles bounds the entries of one Release file; Debian's has 1,600, Ubuntu's 2,500.
const maxReleaseFiles = 100_000

// Release is what a Release file says: the names below its directory, and when it was made.
type Release struct {
	Codename, Suite string
	Date            time.Time
	ValidUntil      time.Time // zero: for ever
	ByHash          bool      // the repository keeps files under the names of their digests too
	Names           map[string]File
	SHA512          map[string]string // SHA-512 in hexadecimal to name: apt asks by the strongest digest that is listed
}

// ParseRelease reads the fields that count; RepositoryFormat in Debian's wiki describes them. Digests weaker than
// SHA-256 are not looked at.
func ParseRelease(text []byte) (Release, error) {
	r := Release{Names: map[string]File{}, SHA512: map[string]string{}}
	field := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, " ") {
			if err := r.sumLine(field, line); err != nil {
				return Release{}, fmt.Errorf("release file, %s: %w", field, err)
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			if strings.TrimSpace(line) == "" {
				continue
			}
			return Release{}, fmt.Errorf("release file: %.60q is no field", line)
		}
		field, value = strings.ToLower(name), strings.TrimSpace(value)
		if err := r.field(field, value); err != nil {
			return Release{}, err
		}
	}
	if err := lines.Err(); err != nil {
		return Release{}, fmt.Errorf("release file: %w", err)
	}
	if len(r.Names) == 0 {
		return Release{}, errors.New("release file: it lists no file with a SHA-256")
	}
	return r, nil
}

func (r *Release) field(name, value string) error {
	var err error
	switch name {
	case "date":
		r.Date, err = parseDate(value)
	case "valid-until":
		r.ValidUntil, err = parseDate(value)
	case "codename":
		r.Codename = value
	case "suite":
		r.Suite = value
	case "acquire-by-hash":
		r.ByHash = strings.EqualFold(value, "yes")
	}
	return err
}

// parseDate knows the two spellings that archives use.
func parseDate(text string) (time.Time, error) {
	for _, layout := range []string{"Mon, _2 Jan 2006 15:04:05 MST", "Mon, _2 Jan 2006 15:04:05 -0700"} {
		if t, err := time.Parse(layout, text); err == nil {
			return t.UTC(), nil
		}
	}
	return time.Time{}, fmt.Errorf("release file: %.60q is no date", text)
}

// sumLine is " digest size name".
func (r *Release) sumLine(field, line string) error {
	if field != "sha256" && field != "sha512" {
		return nil
	}
	parts := strings.Fields(line)
	if len(parts) != 3 {
		return fmt.Errorf("%.80q is not: digest size name", line)
	}
	name, err := CleanName(parts[2])
	if err != nil {
		return fmt.Errorf("%.80q: %w", parts[2], err)
	}
	if len(r.Names) >= maxReleaseFiles || len(r.SHA512) >= maxReleaseFiles {
		return ErrTooMuch
	}
	if field == "sha512" {
		if len(parts[0]) != 128 {
			return fmt.Errorf("%.140q is no SHA-512", parts[0])
		}
		r.SHA512[strings.ToLower(parts[0])] = name
		return nil
	}
	s, err := ParseSum(parts[0])
	if err != nil {
		return err
	}
	size, err := ParseSize(parts[1])
	if err != nil {
		return err
	}
	if old, ok := r.Names[name]; ok && old.Sum != s {
		return fmt.Errorf("%s is listed twice, with different digests", name)
	}
	r.Names[name] = File{s, size}
	return nil
}
