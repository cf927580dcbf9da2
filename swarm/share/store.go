package share

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	tempDir    = "tmp"     // files being written; swept on open
	partialDir = "partial" // transfers that may be resumed, named by digest

	// partialLife is how long an unfinished transfer waits for its continuation: over a reboot and a bad night, but not
	// for ever, since nobody else removes what is no longer wanted.
	partialLife = 24 * time.Hour

	// copyStep is how much is copied between two looks at the context.
	copyStep = 8 << 20
)

// Store holds artifacts as files <dir>/<aa>/<digest>, aa being the digest's first two digits. A file gets that name by
// rename, after its bytes are on the disk and have matched, so a crash leaves temporary files only.
//
// It is safe for concurrent use, by one process at a time: the data directory's lock is the node's to hold.
type Store struct {
	dir   string
	index *index
	infos *infos
	free  func(dir string) (int64, error) // bytes; a field so that tests can fill the disk

	mu    sync.Mutex // excludes Remove from the last step of an insertion
	bytes int64      // of all artifacts here
}

// OpenStore makes dir if it is missing and sweeps what a crash left: temporary files, and partial transfers older than a
// day.
func OpenStore(dir string) (*Store, error) {
	s := &Store{dir: dir, free: freeBytes}
	for _, d := range []string{dir, filepath.Join(dir, tempDir), filepath.Join(dir, partialDir), filepath.Join(dir, infoDir)} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			return nil, fmt.Errorf("open store: %w", err)
		}
	}
	if err := sweep(filepath.Join(dir, tempDir), func(fs.FileInfo) bool { return false }); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	// Either way: the clock may have stood anywhere when they were written.
	young := func(info fs.FileInfo) bool { return time.Since(info.ModTime()).Abs() < partialLife }
	if err := sweep(filepath.Join(dir, partialDir), young); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	var err error
	if s.infos, err = openInfos(filepath.Join(dir, infoDir), filepath.Join(dir, tempDir), s.wantsInfo); err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	s.index = openIndex(filepath.Join(dir, indexFile))
	all, err := s.List()
	if err != nil {
		return nil, fmt.Errorf("open store: %w", err)
	}
	for _, a := range all {
		s.bytes += a.Size
	}
	return s, nil
}

// sweep removes the files in dir but those to keep.
func sweep(dir string, keep func(fs.FileInfo) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil {
			return err
		}
		if keep(info) {
			continue
		}
		if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	return nil
}

// Publish copies the file at path into the store (sharing its blocks where the file system can) and returns its digest.
// It is never linked: the owner may write to his file, which would change an artifact under its name. A file that has not
// changed since it was last published (path, size, times, inode) is not read again.
func (s *Store) Publish(ctx context.Context, path string) (Artifact, error) {
	a, err := s.publish(ctx, path)
	if err != nil {
		return Artifact{}, fmt.Errorf("publish %s: %w", path, explain(err))
	}
	return a, nil
}

func (s *Store) publish(ctx context.Context, path string) (Artifact, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return Artifact{}, err
	}
	src, err := os.Open(path)
	if err != nil {
		return Artifact{}, err
	}
	defer func() { _ = src.Close() }() // only read
	info, err := src.Stat()
	if err != nil {
		return Artifact{}, err
	}
	if !info.Mode().IsRegular() {
		return Artifact{}, errors.New("not a regular file")
	}
	if a, ok := s.index.lookup(path, info); ok {
		if size, here := s.stat(a.Digest); here && size == a.Size {
			a.InfoHash, err = s.describe(ctx, a.Digest)
			return a, err
		}
	}
	if err := s.room(info.Size()); err != nil {
		return Artifact{}, err
	}
	a, err := s.insert(ctx, "", func(dst *os.File) error {
		// The copy is hashed, not the source: whatever happens to the source meanwhile, name and bytes agree.
		return copyFile(ctx, dst, src)
	})
	if err != nil {
		return Artifact{}, err
	}
	after, err := src.Stat()
	if err != nil {
		return Artifact{}, err
	}
	if a.Size != info.Size() || !after.ModTime().Equal(info.ModTime()) {
		return Artifact{}, errors.New("it changed while it was read")
	}
	s.index.remember(path, info, a)
	return a, nil
}

// Salvage takes bytes that may be those of an artifact, in whole or in part: the next Fetch hashes them, and gets only the pieces
// that are not right. Nothing happens if the artifact is here, or on its way.
func (s *Store) Salvage(ctx context.Context, d Digest, size int64, from io.Reader) error {
	path := s.partial(d) + piecesExt
	if _, err := os.Stat(path); err == nil || s.Has(d) || size < minTorrent {
		return nil
	}
	if err := s.room(size); err != nil {
		return fmt.Errorf("salvage %s: %w", d, explain(err))
	}
	f, err := os.CreateTemp(filepath.Join(s.dir, tempDir), "salvage-")
	if err != nil {
		return fmt.Errorf("salvage %s: %w", d, err)
	}
	err = errors.Join(copyFile(ctx, f, io.LimitReader(from, size)), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("salvage %s: %w", d, errors.Join(explain(err), os.Remove(f.Name())))
	}
	return nil
}

// PublishReader stores what r gives.
func (s *Store) PublishReader(ctx context.Context, r io.Reader) (Artifact, error) {
	return s.PublishExpected(ctx, r, -1, "")
}

// PublishExpected is PublishReader for what its sender has announced: so many bytes (-1: nobody knows), with this digest ("": whatever
// it is). What is something else is not kept.
func (s *Store) PublishExpected(ctx context.Context, r io.Reader, size int64, want Digest) (Artifact, error) {
	if size > 0 {
		if err := s.room(size); err != nil {
			return Artifact{}, fmt.Errorf("publish: %w", err)
		}
	}
	a, err := s.insert(ctx, want, func(dst *os.File) error { return copyFile(ctx, dst, r) })
	if err != nil {
		return Artifact{}, fmt.Errorf("publish: %w", explain(err))
	}
	return a, nil
}

// copyFile copies in steps; on file systems that can, *os.File shares the blocks instead.
func copyFile(ctx context.Context, dst *os.File, src io.Reader) error {
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		if _, err := io.CopyN(dst, src, copyStep); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
	}
}

// insert makes an artifact of what fill writes, if it has the wanted digest ("": any).
func (s *Store) insert(ctx context.Context, want Digest, fill func(*os.File) error) (Artifact, error) {
	f, err := os.CreateTemp(filepath.Join(s.dir, tempDir), "*")
	if err != nil {
		return Artifact{}, err
	}
	defer func() {
		_ = f.Close()           // closed by adopt where it counts
		_ = os.Remove(f.Name()) // gone after a rename
	}()
	if err := fill(f); err != nil {
		return Artifact{}, err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return Artifact{}, err
	}
	info, err := f.Stat()
	if err != nil {
		return Artifact{}, err
	}
	hash, pieces := sha256.New(), newPieceHash(info.Size())
	both := io.Writer(hash)
	if info.Size() >= minTorrent {
		both = io.MultiWriter(hash, pieces)
	}
	size, err := copyHash(ctx, both, f)
	if err != nil {
		return Artifact{}, err
	}
	a := Artifact{Digest: digestOf(hash.Sum(nil)), Size: size}
	if want != "" && a.Digest != want {
		return a, fmt.Errorf("%w: these bytes have SHA-256 %s, want %s", ErrMismatch, a.Digest, want)
	}
	if err := s.adopt(f, a.Digest); err != nil || size < minTorrent {
		return a, err
	}
	a.InfoHash, err = s.describeAs(a.Digest, size, pieces)
	return a, err
}

func copyHash(ctx context.Context, hash io.Writer, f io.Reader) (int64, error) {
	var size int64
	for {
		if err := ctx.Err(); err != nil {
			return size, err
		}
		n, err := io.CopyN(hash, f, copyStep)
		size += n
		if errors.Is(err, io.EOF) {
			return size, nil
		}
		if err != nil {
			return size, err
		}
	}
}

// adopt gives a verified file its name. f lies in the store's directory and is closed.
func (s *Store) adopt(f *os.File, d Digest) error {
	if err := f.Chmod(0o444); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err := errors.Join(err, f.Close()); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	before, _ := s.stat(d)
	target := s.file(d)
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	if err := os.Rename(f.Name(), target); err != nil {
		return err
	}
	s.bytes += info.Size() - before
	return syncDir(filepath.Dir(target))
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }()
	return dir.Sync()
}

func (s *Store) file(d Digest) string { return filepath.Join(s.dir, string(d[:2]), string(d)) }

func (s *Store) partial(d Digest) string { return filepath.Join(s.dir, partialDir, string(d)) }

func (s *Store) stat(d Digest) (int64, bool) {
	if _, err := ParseDigest(string(d)); err != nil {
		return 0, false
	}
	info, err := os.Stat(s.file(d))
	if err != nil || !info.Mode().IsRegular() {
		return 0, false
	}
	return info.Size(), true
}

// Has says whether the artifact is here.
func (s *Store) Has(d Digest) bool {
	_, ok := s.stat(d)
	return ok
}

// Open reads an artifact; ErrNotFound if it is not here. It stays readable when it is removed meanwhile.
func (s *Store) Open(d Digest) (*os.File, error) {
	if _, err := ParseDigest(string(d)); err != nil {
		return nil, err
	}
	f, err := os.Open(s.file(d)) // without a look before: mirrors open thousands of files a second
	if err == nil {
		var info fs.FileInfo
		if info, err = f.Stat(); err == nil && !info.Mode().IsRegular() {
			err = ErrNotFound
		}
		if err != nil {
			_ = f.Close()
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = ErrNotFound
	}
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", d, err)
	}
	s.touch(f)
	return f, nil
}

// Dir is where the store lies.
func (s *Store) Dir() string { return s.dir }

// Path is the file that holds the artifact; ErrNotFound if it is not here. It must not be written to.
func (s *Store) Path(d Digest) (string, error) {
	if _, err := ParseDigest(string(d)); err != nil {
		return "", err
	}
	if !s.Has(d) {
		return "", fmt.Errorf("open %s: %w", d, ErrNotFound)
	}
	return s.file(d), nil
}

// Size is how many bytes all artifacts here have.
func (s *Store) Size() int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.bytes
}

// List is all artifacts here, sorted by digest, without their infohashes: InfoHash has those.
func (s *Store) List() ([]Artifact, error) {
	var all []Artifact
	dirs, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, fmt.Errorf("list store: %w", err)
	}
	for _, dir := range dirs {
		if len(dir.Name()) != 2 || !dir.IsDir() {
			continue
		}
		files, err := os.ReadDir(filepath.Join(s.dir, dir.Name()))
		if err != nil {
			return nil, fmt.Errorf("list store: %w", err)
		}
		for _, f := range files {
			d, err := ParseDigest(f.Name())
			if err != nil || !strings.HasPrefix(f.Name(), dir.Name()) {
				continue // not ours
			}
			if size, ok := s.stat(d); ok {
				all = append(all, Artifact{Digest: d, Size: size})
			}
		}
	}
	return all, nil
}

// Remove deletes an artifact; one that is not here is no error.
func (s *Store) Remove(d Digest) error {
	if _, err := ParseDigest(string(d)); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	size, _ := s.stat(d)
	if err := os.Remove(s.file(d)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", d, err)
	}
	s.bytes -= size
	s.infos.forget(d)
	return nil
}

// room refuses early what cannot fit, before an hour is spent on filling the disk.
func (s *Store) room(size int64) error {
	free, err := s.free(s.dir)
	if err != nil {
		return err
	}
	if size > free {
		return fmt.Errorf("%w: %d MiB needed, %d MiB free in %s", ErrDiskFull, size>>20, free>>20, s.dir)
	}
	return nil
}

func freeBytes(dir string) (int64, error) {
	var st syscall.Statfs_t
	if err := syscall.Statfs(dir, &st); err != nil {
		return 0, fmt.Errorf("free space of %s: %w", dir, err)
	}
	return int64(st.Bavail) * st.Bsize, nil
}

// explain gives the kernel's words for a full disk our name.
func explain(err error) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return fmt.Errorf("%w: %w", ErrDiskFull, err)
	}
	return err
}

// partialFile is an unfinished transfer: the bytes so far, and their hash.
type partialFile struct {
	*os.File
	hash interface {
		io.Writer
		Sum([]byte) []byte
		Reset()
	}
	size int64
}

// openPartial continues what an earlier transfer of d left, or starts afresh.
func (s *Store) openPartial(ctx context.Context, d Digest, size int64) (*partialFile, error) {
	f, err := os.OpenFile(s.partial(d), os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, err
	}
	p := &partialFile{File: f, hash: sha256.New()}
	if p.size, err = copyHash(ctx, p.hash, f); err == nil && p.size > size {
		err = p.restart()
	}
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	return p, nil
}

// Write appends to file and hash.
func (p *partialFile) Write(b []byte) (int, error) {
	n, err := p.File.Write(b)
	_, _ = p.hash.Write(b[:n]) // never fails
	p.size += int64(n)
	return n, err
}

func (p *partialFile) restart() error {
	p.hash.Reset()
	p.size = 0
	if err := p.Truncate(0); err != nil {
		return err
	}
	_, err := p.Seek(0, io.SeekStart)
	return err
}

func (p *partialFile) matches(d Digest) bool { return hex.EncodeToString(p.hash.Sum(nil)) == string(d) }

func (p *partialFile) discard() {
	_ = p.Close()
	_ = os.Remove(p.Name())
}
