package share

import (
	"bytes"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/anacrolix/torrent/bencode"
	"github.com/anacrolix/torrent/metainfo"
)

// minTorrent is the smallest artifact that is worth an exchange of pieces: below it, finding peers costs more than one of
// them sending it all.
const minTorrent = 1 << 20

// infoDir holds the info dictionaries, as <digest>.<infohash>.
const infoDir = "info"

// pieceLength is how artifacts of a size are cut, everywhere and for ever: it decides the infohash. DESIGN.md has the
// measurements behind the first rows; the others keep the info dictionary below a quarter of a mebibyte.
func pieceLength(size int64) int64 {
	switch {
	case size <= 256<<20:
		return 256 << 10
	case size <= 2<<30:
		return 512 << 10
	case size <= 8<<30:
		return 1 << 20
	case size <= 64<<30:
		return 4 << 20
	default:
		return 16 << 20
	}
}

// pieceHash is an io.Writer that gathers the SHA-1 of each piece. It cannot fail.
type pieceHash struct {
	length int64
	left   int64 // of the piece under way
	sum    hash.Hash
	pieces []byte
}

func newPieceHash(size int64) *pieceHash {
	length := pieceLength(size)
	return &pieceHash{length: length, left: length, sum: sha1.New()}
}

// Write implements io.Writer.
func (p *pieceHash) Write(b []byte) (int, error) {
	n := len(b)
	for len(b) > 0 {
		take := min(int64(len(b)), p.left)
		_, _ = p.sum.Write(b[:take]) // never fails
		b = b[take:]
		if p.left -= take; p.left == 0 {
			p.close()
		}
	}
	return n, nil
}

func (p *pieceHash) close() {
	p.pieces = p.sum.Sum(p.pieces)
	p.sum.Reset()
	p.left = p.length
}

// info is the info dictionary of the artifact that was written (BEP 3, 27): digest and size decide everything in it but the
// hashes, so that whoever publishes the same bytes gets the same infohash.
func (p *pieceHash) info(d Digest, size int64) ([]byte, error) {
	if p.left < p.length {
		p.close()
	}
	private := true
	return bencode.Marshal(metainfo.Info{Name: string(d), Length: size, PieceLength: p.length, Pieces: p.pieces, Private: &private})
}

func infoHashOf(info []byte) string {
	sum := sha1.Sum(info)
	return hex.EncodeToString(sum[:])
}

// checkInfo says whether a dictionary, whose infohash has been checked, describes this artifact as we would.
func checkInfo(info *metainfo.Info, d Digest, size int64) error {
	length := pieceLength(size)
	switch {
	case info.Name != string(d):
		return fmt.Errorf("%w: it is named %q", errForeignInfo, info.Name)
	case len(info.Files) > 0 || info.HasV2() || info.Length != size:
		return fmt.Errorf("%w: it has %d bytes, wanted %d", errForeignInfo, info.TotalLength(), size)
	case info.PieceLength != length:
		return fmt.Errorf("%w: it has pieces of %d bytes, wanted %d", errForeignInfo, info.PieceLength, length)
	case int64(len(info.Pieces)) != (size+length-1)/length*sha1.Size:
		return fmt.Errorf("%w: it has %d bytes of hashes", errForeignInfo, len(info.Pieces))
	}
	return nil
}

// errForeignInfo: the infohash is that of another torrent.
var errForeignInfo = errors.New("the infohash is not this artifact's")

// infos are the info dictionaries of a store: those of its artifacts, by which they are found when a peer asks for an
// infohash, and those of transfers that may be resumed. The names of the files are the index.
type infos struct {
	dir, tmp string

	mu       sync.Mutex
	byDigest map[Digest]string // to the infohash
	byHash   map[string]Digest
}

// openInfos forgets the dictionaries of artifacts that keep does not want.
func openInfos(dir, tmp string, keep func(Digest) bool) (*infos, error) {
	x := &infos{dir: dir, tmp: tmp, byDigest: map[Digest]string{}, byHash: map[string]Digest{}}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		name, ih, _ := strings.Cut(e.Name(), ".")
		d, err := ParseDigest(name)
		if err != nil || !isInfoHash(ih) || !keep(d) || x.byDigest[d] != "" {
			if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
				return nil, err
			}
			continue
		}
		x.byDigest[d], x.byHash[ih] = ih, d
	}
	return x, nil
}

func isInfoHash(s string) bool {
	raw, err := hex.DecodeString(s)
	return err == nil && len(raw) == sha1.Size && strings.ToLower(s) == s
}

func (x *infos) path(d Digest, ih string) string { return filepath.Join(x.dir, string(d)+"."+ih) }

func (x *infos) hash(d Digest) (string, bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	ih, ok := x.byDigest[d]
	return ih, ok
}

// put keeps the dictionary of an artifact, in place of another that it may have had.
func (x *infos) put(d Digest, info []byte) (string, error) {
	ih := infoHashOf(info)
	x.mu.Lock()
	defer x.mu.Unlock()
	old := x.byDigest[d]
	if old == ih {
		return ih, nil
	}
	tmp := filepath.Join(x.tmp, string(d)+".info")
	if err := os.WriteFile(tmp, info, 0o644); err != nil {
		return "", err
	}
	if err := os.Rename(tmp, x.path(d, ih)); err != nil {
		return "", err
	}
	if old != "" {
		x.remove(d, old)
	}
	x.byDigest[d], x.byHash[ih] = ih, d
	return ih, nil
}

// get reads the dictionary with this infohash. One that is damaged is forgotten: it can be made again from the artifact.
func (x *infos) get(ih string) (d Digest, info []byte, ok bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if d, ok = x.byHash[ih]; !ok {
		return "", nil, false
	}
	info, err := os.ReadFile(x.path(d, ih))
	if err == nil && infoHashOf(info) == ih {
		return d, info, true
	}
	x.remove(d, ih)
	return "", nil, false
}

func (x *infos) forget(d Digest) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if ih, ok := x.byDigest[d]; ok {
		x.remove(d, ih)
	}
}

func (x *infos) remove(d Digest, ih string) {
	_ = os.Remove(x.path(d, ih)) // a file that stays is swept at the next start
	delete(x.byHash, ih)
	delete(x.byDigest, d)
}

// InfoHash is the infohash of an artifact that is here, 40 hexadecimal digits; "" if it is not here or too small to have one.
func (s *Store) InfoHash(d Digest) string {
	if !s.Has(d) {
		return ""
	}
	ih, _ := s.infos.hash(d)
	return ih
}

// describe sees that an artifact that is here has its info dictionary; it reads the artifact if not.
func (s *Store) describe(ctx context.Context, d Digest) (string, error) {
	if ih, ok := s.infos.hash(d); ok {
		return ih, nil
	}
	size, ok := s.stat(d)
	if !ok || size < minTorrent {
		return "", nil
	}
	f, err := s.Open(d)
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	pieces := newPieceHash(size)
	if _, err := copyHash(ctx, pieces, f); err != nil {
		return "", err
	}
	return s.describeAs(d, size, pieces)
}

func (s *Store) describeAs(d Digest, size int64, pieces *pieceHash) (string, error) {
	info, err := pieces.info(d, size)
	if err != nil {
		return "", fmt.Errorf("info dictionary of %s: %w", d, err)
	}
	return s.infos.put(d, info)
}

// wantsInfo is for openInfos: the artifact is here, or on its way.
func (s *Store) wantsInfo(d Digest) bool {
	if s.Has(d) {
		return true
	}
	_, err := os.Stat(s.partial(d) + piecesExt)
	return !errors.Is(err, fs.ErrNotExist)
}

// infoHashOfBytes is what Publish says of data.
func infoHashOfBytes(data []byte) string {
	size := int64(len(data))
	if size < minTorrent {
		return ""
	}
	pieces := newPieceHash(size)
	_, _ = io.Copy(pieces, bytes.NewReader(data)) // neither side fails
	info, err := pieces.info(DigestOf(data), size)
	if err != nil {
		return ""
	}
	return infoHashOf(info)
}
