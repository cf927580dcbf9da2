package share

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
)

// Verify hashes the bytes of an artifact again. Damaged ones are removed, since they are of use to nobody, and ErrMismatch is
// returned; ErrNotFound if there are none.
func (s *Store) Verify(ctx context.Context, d Digest) error {
	f, err := s.Open(d)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	hash := sha256.New()
	if _, err := copyHash(ctx, hash, f); err != nil {
		return fmt.Errorf("verify %s: %w", d, err)
	}
	if digestOf(hash.Sum(nil)) == d {
		return nil
	}
	return errors.Join(fmt.Errorf("verify %s: %w", d, ErrMismatch), s.Remove(d))
}
