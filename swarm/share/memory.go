package share

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
)

// Memory is a Share without disk or network, for tests of what uses one. Peers are given to NewMemory and are asked
// directly. It is safe for concurrent use.
type Memory struct {
	peers []*Memory

	mu   sync.Mutex
	held map[Digest][]byte
}

var _ Share = (*Memory)(nil)

// NewMemory knows these peers; two that need one another have to be two pairs.
func NewMemory(peers ...*Memory) *Memory { return &Memory{peers: peers, held: map[Digest][]byte{}} }

// PublishBytes is Publish for tests that have no file.
func (m *Memory) PublishBytes(data []byte) Artifact {
	m.mu.Lock()
	defer m.mu.Unlock()
	a := Artifact{Digest: DigestOf(data), Size: int64(len(data)), InfoHash: infoHashOfBytes(data)}
	m.held[a.Digest] = bytes.Clone(data)
	return a
}

// Publish implements Share.
func (m *Memory) Publish(ctx context.Context, path string) (Artifact, error) {
	if err := ctx.Err(); err != nil {
		return Artifact{}, fmt.Errorf("publish %s: %w", path, err)
	}
	info, err := os.Stat(path)
	if err == nil && !info.Mode().IsRegular() {
		err = errors.New("not a regular file")
	}
	if err != nil {
		return Artifact{}, fmt.Errorf("publish %s: %w", path, err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return Artifact{}, fmt.Errorf("publish %s: %w", path, err)
	}
	return m.PublishBytes(data), nil
}

// Fetch implements Share.
func (m *Memory) Fetch(ctx context.Context, d Digest, size int64, progress func(int64)) error {
	if _, err := ParseDigest(string(d)); err != nil {
		return fmt.Errorf("fetch: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("fetch %s: %w", d, err)
	}
	data, ok := m.get(d)
	for _, p := range m.peers {
		if !ok {
			data, ok = p.get(d)
		}
	}
	if !ok {
		return fmt.Errorf("fetch %s: %w", d, ErrNotFound)
	}
	if int64(len(data)) != size {
		return fmt.Errorf("fetch %s: %w: it has %d bytes, wanted %d", d, ErrMismatch, len(data), size)
	}
	m.PublishBytes(data)
	if progress != nil {
		progress(size)
	}
	return nil
}

func (m *Memory) get(d Digest) ([]byte, bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, ok := m.held[d]
	return data, ok
}

// Open implements Share.
func (m *Memory) Open(d Digest) (io.ReadSeekCloser, error) {
	if _, err := ParseDigest(string(d)); err != nil {
		return nil, err
	}
	data, ok := m.get(d)
	if !ok {
		return nil, fmt.Errorf("open %s: %w", d, ErrNotFound)
	}
	return memoryFile{bytes.NewReader(data)}, nil
}

// Has implements Share.
func (m *Memory) Has(d Digest) bool {
	_, ok := m.get(d)
	return ok
}

type memoryFile struct{ *bytes.Reader }

func (memoryFile) Close() error { return nil }
