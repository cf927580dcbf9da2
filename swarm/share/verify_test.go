package share

import (
	"bytes"
	"errors"
	"os"
	"testing"
)

func TestDamagedBytesAreFoundAndThrownAway(t *testing.T) {
	s, err := OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.PublishReader(t.Context(), bytes.NewReader(make([]byte, 3<<20)))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), a.Digest); err != nil {
		t.Errorf("whole bytes: %v", err)
	}
	path, err := s.Path(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	data[len(data)/2] ^= 1
	if err := errors.Join(os.Chmod(path, 0o644), os.WriteFile(path, data, 0o644)); err != nil {
		t.Fatal(err)
	}
	if err := s.Verify(t.Context(), a.Digest); !errors.Is(err, ErrMismatch) || s.Has(a.Digest) {
		t.Errorf("one wrong bit: %v, and it is here: %v", err, s.Has(a.Digest))
	}
	if err := s.Verify(t.Context(), a.Digest); !errors.Is(err, ErrNotFound) {
		t.Errorf("nothing: %v", err)
	}
}
