package swarm

import (
	"fmt"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"
)

// PutArtifact writes down what is known of an artifact. Whether it is pinned stays as it was.
type PutArtifact struct {
	Artifact Artifact `json:"artifact"`
}

func (o PutArtifact) words() string {
	return fmt.Sprintf("add artifact %s %s, %s", clip(o.Artifact.Digest, maxWord), clip(o.Artifact.Name, maxWord), clip(o.Artifact.Verified, maxWord))
}

// maxArtifacts bounds what operators may add; the index was measured with 10,000.
const maxArtifacts = 10_000

// Bounds of what is said of an artifact, bytes.
const (
	maxArtifactName = 200
	maxArtifactSaid = 1000
)

// Check says what is wrong with the words for an artifact. Its digest may be missing still.
func (a Artifact) Check() error {
	switch {
	case a.Name == "" || len(a.Name) > maxArtifactName || strings.Contains(a.Name, "/") || !printable(a.Name):
		return refuse(ErrInvalid, "%q is no name for an artifact: want up to %d bytes that can be printed, and no slash", clip(a.Name, maxWord), maxArtifactName)
	case len(a.Origin) > maxArtifactSaid || len(a.Verified) > maxArtifactSaid || !printable(a.Origin+a.Verified):
		return refuse(ErrInvalid, "what is said of artifact %s has more than %d bytes, or cannot be printed", a.Name, maxArtifactSaid)
	case a.Digest != "" && !isDigest(a.Digest):
		return refuse(ErrInvalid, "%q is no SHA-256 in lower case", clip(a.Digest, maxWord))
	}
	return nil
}

func printable(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool { return !unicode.IsPrint(r) })
}

func (o PutArtifact) apply(c *change) (any, error) {
	if o.Artifact.Digest == "" {
		return nil, refuse(ErrInvalid, "an artifact needs a digest")
	}
	former, known := c.view().Artifact(o.Artifact.Digest)
	if c.Actor != "" { // what a seed writes down at its start is its own
		if err := o.Artifact.Check(); err != nil {
			return nil, err
		}
		if !known && len(c.view().Artifacts()) >= maxArtifacts {
			return nil, refuse(ErrFull, "there are %d artifacts: remove what nobody needs; see: offshoot artifact list", maxArtifacts)
		}
	}
	o.Artifact.Pinned = former.Pinned
	c.put("artifact", &o.Artifact)
	return nil, nil
}

// PinArtifact keeps nodes from throwing an artifact away, or lets them again.
type PinArtifact struct {
	Digest string `json:"digest"`
	Pinned bool   `json:"pinned"`
}

func (o PinArtifact) words() string {
	if o.Pinned {
		return "pin artifact " + clip(o.Digest, maxWord)
	}
	return "unpin artifact " + clip(o.Digest, maxWord)
}

func (o PinArtifact) apply(c *change) (any, error) {
	a, ok := c.view().Artifact(o.Digest)
	if !ok {
		return nil, refuse(ErrNotFound, "artifact %q", clip(o.Digest, maxWord))
	}
	a.Pinned = o.Pinned
	c.put("artifact", &a)
	return nil, nil
}

// WithdrawArtifact takes an artifact out of the index. The nodes throw its bytes away when they need the room.
type WithdrawArtifact struct {
	Digest string `json:"digest"`
}

func (o WithdrawArtifact) words() string { return "withdraw artifact " + clip(o.Digest, maxWord) }

func (o WithdrawArtifact) apply(c *change) (any, error) {
	a, ok := c.view().Artifact(o.Digest)
	if !ok {
		return nil, refuse(ErrNotFound, "artifact %q", clip(o.Digest, maxWord))
	}
	if needers := c.view().Needers(a.Digest); len(needers) > 0 {
		return nil, refuse(ErrConflict, "artifact %s is needed by profile %s: give it another one first", a.Name, strings.Join(needers, ", "))
	}
	if a.Pinned {
		return nil, refuse(ErrConflict, "artifact %s is pinned: offshoot artifact unpin %s", a.Name, clip(a.Digest, maxWord))
	}
	c.remove("artifact", &a)
	c.event("", "artifact", "artifact %s is withdrawn", a.Name)
	return nil, nil
}

// Needers are the profiles that need an artifact, by name.
func (v View) Needers(digest string) (out []string) {
	for _, p := range v.Profiles() {
		if slices.Contains(p.Needs(), digest) {
			out = append(out, p.Name)
		}
	}
	return out
}

// SetStore bounds what artifacts and packages may take on each node's disk.
type SetStore struct {
	Bytes int64 `json:"bytes"` // 0: as much as leaves enough of the disk free
}

// MinStore is the smallest bound that makes sense: one image and its boot environment fit.
const MinStore = 1 << 30

func (o SetStore) words() string {
	if o.Bytes == 0 {
		return "let artifacts take what leaves enough of each disk free"
	}
	return fmt.Sprintf("let artifacts take %d bytes of each disk at most", o.Bytes)
}

func (o SetStore) apply(c *change) (any, error) {
	s, ok := c.view().Settings()
	if !ok || o.Bytes != 0 && o.Bytes < MinStore {
		return nil, refuse(ErrInvalid, "%d bytes for artifacts: want 0, or at least %d", o.Bytes, MinStore)
	}
	s.StoreBudget = o.Bytes
	c.put("settings", &s)
	return nil, nil
}
