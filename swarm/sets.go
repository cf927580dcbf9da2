package swarm

import "fmt"

// WorkingSet is what the installs of a profile have fetched through the mirrors: what the next one will ask for. The list itself
// is a small artifact, and only its name is here: ten thousand paths are a megabyte, which every snapshot of the ledger and
// every follower would carry, and which one command has no room for.
type WorkingSet struct {
	Profile string `json:"profile"`
	Digest  string `json:"digest"` // of the list
	Size    int64  `json:"size"`   // of the list, bytes
	Files   int    `json:"files"`
	Bytes   int64  `json:"bytes"` // of the files together
}

// Bounds of a working set: every node fetches it. An install of a desktop asks for some three thousand files.
const (
	MaxSetFiles = 10_000
	MaxSetList  = 8 << 20 // bytes of the list
)

// PutWorkingSet replaces the working set of a profile by one that was made of the former one, if that is still the present one:
// two nodes may have served installs at the same time, and neither's list may be lost.
type PutWorkingSet struct {
	Set    WorkingSet `json:"set"`
	Former string     `json:"former,omitempty"` // digest of the list that it replaces; "" if there was none
}

func (o PutWorkingSet) apply(c *change) (any, error) {
	s := o.Set
	if _, ok := c.view().Profile(s.Profile); !ok {
		return nil, refuse(ErrNotFound, "profile %q", clip(s.Profile, maxWord))
	}
	switch {
	case !isDigest(s.Digest):
		return nil, refuse(ErrInvalid, "the list of a working set has no SHA-256: %q", clip(s.Digest, maxWord))
	case s.Files < 1 || s.Files > MaxSetFiles:
		return nil, refuse(ErrInvalid, "a working set of %d files, want 1 to %d", s.Files, MaxSetFiles)
	case s.Size < 1 || s.Size > MaxSetList || s.Bytes < 0:
		return nil, refuse(ErrInvalid, "the list of a working set has %d bytes and is about %d, want 1 to %d", s.Size, s.Bytes, MaxSetList)
	}
	if have, _ := c.view().WorkingSet(s.Profile); have.Digest != o.Former {
		return nil, refuse(ErrConflict, "the working set of profile %s is another one by now", s.Profile)
	}
	c.put("set", &s)
	c.event("", "mirror", "installs of profile %s fetch %d files, %d MB: nodes fetch them ahead", s.Profile, s.Files, s.Bytes/1e6)
	return nil, nil
}

func (o PutWorkingSet) words() string {
	return fmt.Sprintf("write the working set of profile %s down: %d files", clip(o.Set.Profile, maxWord), o.Set.Files)
}

// isDigest says whether s is a SHA-256 in its one spelling: 64 hexadecimal digits in lower case.
func isDigest(s string) bool {
	if len(s) != 64 {
		return false
	}
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// WorkingSet finds what the installs of a profile fetch.
func (v View) WorkingSet(profile string) (WorkingSet, bool) {
	return get[WorkingSet](v.txn, "set", "id", profile)
}

// WorkingSets lists them by profile.
func (v View) WorkingSets() []WorkingSet { return list[WorkingSet](v.txn, "set", "id") }
