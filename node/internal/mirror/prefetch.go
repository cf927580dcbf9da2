package mirror

import (
	"context"
	"errors"
	"fmt"

	"offshoot/node/internal/archive"
)

// Prefetch brings one file of a repository here, as if a client had asked for it: metadata is revalidated, an index is
// read. What Served reported of a first install, in that order, makes the next one independent of every source.
func (m *Mirror) Prefetch(ctx context.Context, repo, path string) error {
	if err := m.prefetch(ctx, repo, path); err != nil {
		return fmt.Errorf("prefetch %s/%s: %w", repo, path, err)
	}
	return nil
}

// Keeps are the digests of the lists of packages that are looked up in: of the newest states, and of those that an install is held
// to. Nothing else need be kept for the mirror's sake: a file that is gone is fetched again.
func (m *Mirror) Keeps() (digests []string) {
	for _, r := range m.repos {
		for _, rt := range r.allRoots() {
			for _, s := range rt.states() {
				for _, name := range rt.indexes(s) {
					if f, ok := s.names[name]; ok {
						digests = append(digests, f.Sum.String())
					}
				}
			}
		}
	}
	return digests
}

// Missing says of an error of Prefetch that every source was asked and none knows the file: asking again is in vain until the
// repository changes.
func Missing(err error) bool { return errors.Is(err, errMissing) }

func (m *Mirror) prefetch(ctx context.Context, repo, path string) error {
	r := m.repo(repo)
	if r == nil {
		return errors.New("no such repository")
	}
	path, err := archive.CleanName(path)
	if err != nil {
		return err
	}
	t := r.lookupMetadata("", path)
	if dir, name, ok := mutableFile(path); ok && t == nil {
		_, err := r.state(ctx, "", dir, name, 0)
		return err
	}
	if t == nil {
		if t, err = r.find(ctx, "", path, 0); err != nil {
			return err
		}
	}
	if t == nil {
		return fmt.Errorf("nothing names it: %w", errMissing)
	}
	if err := r.bring(ctx, t, 0); err != nil {
		return err
	}
	if t.isIndex {
		t.root.hold(t.name)
		_, err = r.index(ctx, t, 0, true)
	}
	return err
}
