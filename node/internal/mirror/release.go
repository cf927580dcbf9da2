package mirror

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

// release is what a Release file says: the names below its directory, and when it was made.
type release struct {
	date       time.Time
	validUntil time.Time // zero: for ever
	byHash     bool      // the repository keeps files under the names of their digests too
	names      map[string]file
	sha512     map[string]string // SHA-512 in hexadecimal to name: apt asks by the strongest digest that is listed
}

// parseRelease reads the fields that count; RepositoryFormat in Debian's wiki describes them. Digests weaker than
// SHA-256 are not looked at.
func parseRelease(text []byte) (release, error) {
	r := release{names: map[string]file{}, sha512: map[string]string{}}
	field := ""
	lines := bufio.NewScanner(bytes.NewReader(text))
	for lines.Scan() {
		line := lines.Text()
		if strings.HasPrefix(line, " ") {
			if err := r.sumLine(field, line); err != nil {
				return release{}, fmt.Errorf("release file, %s: %w", field, err)
			}
			continue
		}
		name, value, ok := strings.Cut(line, ":")
		if !ok {
			if strings.TrimSpace(line) == "" {
				continue
			}
			return release{}, fmt.Errorf("release file: %.60q is no field", line)
		}
		field, value = strings.ToLower(name), strings.TrimSpace(value)
		if err := r.field(field, value); err != nil {
			return release{}, err
		}
	}
	if err := lines.Err(); err != nil {
		return release{}, fmt.Errorf("release file: %w", err)
	}
	if len(r.names) == 0 {
		return release{}, errors.New("release file: it lists no file with a SHA-256")
	}
	return r, nil
}

func (r *release) field(name, value string) error {
	var err error
	switch name {
	case "date":
		r.date, err = parseDate(value)
	case "valid-until":
		r.validUntil, err = parseDate(value)
	case "acquire-by-hash":
		r.byHash = strings.EqualFold(value, "yes")
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
func (r *release) sumLine(field, line string) error {
	if field != "sha256" && field != "sha512" {
		return nil
	}
	parts := strings.Fields(line)
	if len(parts) != 3 {
		return fmt.Errorf("%.80q is not: digest size name", line)
	}
	name, err := cleanName(parts[2])
	if err != nil {
		return fmt.Errorf("%.80q: %w", parts[2], err)
	}
	if len(r.names) >= maxReleaseFiles || len(r.sha512) >= maxReleaseFiles {
		return errTooMuch
	}
	if field == "sha512" {
		if len(parts[0]) != 128 {
			return fmt.Errorf("%.140q is no SHA-512", parts[0])
		}
		r.sha512[strings.ToLower(parts[0])] = name
		return nil
	}
	s, err := parseSum(parts[0])
	if err != nil {
		return err
	}
	size, err := parseSize(parts[1])
	if err != nil {
		return err
	}
	if old, ok := r.names[name]; ok && old.sum != s {
		return fmt.Errorf("%s is listed twice, with different digests", name)
	}
	r.names[name] = file{s, size}
	return nil
}
