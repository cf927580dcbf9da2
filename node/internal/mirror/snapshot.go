package mirror

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"offshoot/node/internal/archive"
)

// The mutable files. All else that a repository has is named by one of them with its digest.
const (
	inRelease  = "InRelease"
	releaseTxt = "Release"
	releaseGPG = "Release.gpg"
	repomdXML  = "repomd.xml"
	repomdASC  = "repomd.xml.asc"
)

// mutableFile says whether p is the entry to a repository's metadata, and in which directory.
func mutableFile(p string) (dir, name string, ok bool) {
	dir, name = path.Dir(p), path.Base(p)
	switch name {
	case inRelease, releaseTxt, releaseGPG:
		return dir, name, true
	case repomdXML, repomdASC:
		return dir, name, path.Base(dir) == "repodata"
	}
	return "", "", false
}

// snapshot is one state of a root: its mutable files, which belong together, and what they name. It does not change.
type snapshot struct {
	files    map[string][]byte
	etags    map[string]string
	by       string // who vouches for it
	date     time.Time
	until    time.Time // zero: for ever
	modified time.Time // what clients are told
	byHash   bool
	names    map[string]archive.File // below the root's directory; for rpm below the base
	sha512   map[string]string       // to name
	digests  map[archive.Sum]string  // to name
	primary  string                  // rpm: the name of the list of packages
}

// newSnapshot checks the files against each other and against the keyring.
func newSnapshot(files map[string][]byte, keys *archive.Keyring) (*snapshot, error) {
	s := &snapshot{files: files}
	var err error
	switch {
	case files[repomdXML] != nil:
		err = s.rpm(keys)
	case files[inRelease] != nil:
		err = s.debian(keys)
	case files[releaseTxt] != nil:
		err = s.debianDetached(keys)
	default:
		err = errors.New("no metadata")
	}
	if err != nil {
		return nil, err
	}
	s.etags = make(map[string]string, len(files))
	for name, data := range files {
		s.etags[name] = textSum(string(data))
	}
	s.digests = make(map[archive.Sum]string, len(s.names))
	for name, f := range s.names {
		// One digest may stand for several names, when files are empty or alike: any of them brings the bytes. The
		// first of the alphabet, so that it does not depend on chance.
		if old, ok := s.digests[f.Sum]; !ok || name < old {
			s.digests[f.Sum] = name
		}
	}
	return s, nil
}

func (s *snapshot) take(r archive.Release) {
	s.date, s.until, s.byHash, s.names, s.sha512 = r.Date, r.ValidUntil, r.ByHash, r.Names, r.SHA512
	s.modified = r.Date
}

func (s *snapshot) debian(keys *archive.Keyring) error {
	text, by, err := keys.Clear(s.files[inRelease])
	if err != nil {
		return fmt.Errorf("%s: %w", inRelease, err)
	}
	r, err := archive.ParseRelease(text)
	if err != nil {
		return err
	}
	s.by = by
	s.take(r)
	if s.files[releaseTxt] == nil {
		return nil
	}
	// The other form of the same: they must not be of two states of the repository.
	if !bytes.Equal(canonical(text), canonical(s.files[releaseTxt])) {
		return fmt.Errorf("%s and %s are of different states of the repository", inRelease, releaseTxt)
	}
	return s.detachedRelease(keys)
}

func (s *snapshot) debianDetached(keys *archive.Keyring) error {
	if archive.LooksLikeHTML(s.files[releaseTxt]) {
		return archive.ErrPortal
	}
	if err := s.detachedRelease(keys); err != nil {
		return err
	}
	r, err := archive.ParseRelease(s.files[releaseTxt])
	if err != nil {
		return err
	}
	s.take(r)
	return nil
}

func (s *snapshot) detachedRelease(keys *archive.Keyring) error {
	by, err := keys.Detached(s.files[releaseTxt], s.files[releaseGPG])
	if err != nil {
		return fmt.Errorf("%s: %w", releaseGPG, err)
	}
	s.by = by
	return nil
}

// canonical is a text as clear-signing sees it: without white space at the ends of lines.
func canonical(text []byte) []byte {
	var out []byte
	for line := range bytes.Lines(text) {
		out = append(append(out, bytes.TrimRight(line, " \t\r\n")...), '\n')
	}
	return bytes.TrimRight(out, "\n")
}

func (s *snapshot) rpm(keys *archive.Keyring) error {
	by, err := keys.Detached(s.files[repomdXML], s.files[repomdASC])
	if err != nil {
		return fmt.Errorf("%s: %w", repomdASC, err)
	}
	r, err := parseRepomd(s.files[repomdXML])
	if err != nil {
		return err
	}
	s.by, s.names, s.primary = by, r.names, r.primary
	return nil
}

// named finds what a path below the root's directory stands for, directly or by its digest.
func (s *snapshot) named(rel string) (archive.File, string, bool) {
	if f, ok := s.names[rel]; ok {
		return f, rel, true
	}
	dir, digest := path.Split(rel)
	switch {
	case strings.HasSuffix(dir, "by-hash/SHA256/"):
		if d, err := archive.ParseSum(digest); err == nil {
			if name, ok := s.digests[d]; ok {
				return s.names[name], name, true
			}
		}
	case strings.HasSuffix(dir, "by-hash/SHA512/"):
		if name, ok := s.sha512[digest]; ok {
			f, ok := s.names[name]
			return f, name, ok
		}
	}
	return archive.File{}, "", false
}

// isIndex says whether a named file lists packages.
func (s *snapshot) isIndex(name string) bool {
	if s.primary != "" {
		return name == s.primary
	}
	base := path.Base(name)
	return base == "Packages" || strings.HasPrefix(base, "Packages.")
}

// savedRoot is how the newest snapshot of a root lies on the disk: one file, so that it is of one state.
type savedRoot struct {
	Dir      string            `json:"dir"`
	Files    map[string][]byte `json:"files"`
	Modified time.Time         `json:"modified"`
	Checked  time.Time         `json:"checked"`
	Held     []string          `json:"held"` // indexes that clients have asked for
}

func rootFile(dir, repo, root string) string {
	return filepath.Join(dir, "repos", repo, textSum(root)+".json")
}

func save(p string, r savedRoot) error {
	data, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
		return err
	}
	tmp := p + ".new"
	if err := os.WriteFile(tmp, data, 0o644); err != nil {
		_ = os.Remove(tmp) // half of it is of no use
		return err
	}
	return os.Rename(tmp, p)
}

func load(p string) (savedRoot, error) {
	var r savedRoot
	data, err := os.ReadFile(p)
	if err != nil {
		return r, err
	}
	if err := json.Unmarshal(data, &r); err != nil {
		return r, fmt.Errorf("%s: %w", p, err)
	}
	if r.Dir != "." {
		if clean, err := archive.CleanName(r.Dir); err != nil || clean != r.Dir {
			return r, fmt.Errorf("%s: %q is no directory of a repository", p, r.Dir)
		}
	}
	return r, nil
}
