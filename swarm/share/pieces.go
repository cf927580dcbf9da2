package share

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync"

	"github.com/anacrolix/torrent/metainfo"
	"github.com/anacrolix/torrent/storage"
)

const (
	piecesExt = ".pieces" // a partial file whose pieces come in any order; it has its full length, with holes
	haveExt   = ".have"   // which of them are there
)

// What is known of a piece, as it stands in the file beside the partial one.
const (
	absent    = '-'
	present   = '+'
	unchecked = '?' // bytes of an earlier run: to be hashed before they count
)

// pieces is the storage of one torrent: an artifact of the store, which is read, or a partial file, which is written. Its
// methods are called by the BitTorrent client, from many goroutines.
//
// Which pieces a partial file has is kept in a small file beside it, one character each, written when the piece's hash has
// matched. Neither is synced: what a dead process wrote is in the kernel's hands and arrives, and after a reboot (the file
// names the boot that it was written in) nothing is believed without hashing it again. A table in bbolt would sync for every
// piece and outlive its partial file.
type pieces struct {
	digest Digest
	size   int64
	length int64 // of a piece
	path   string
	boot   string

	// settled is called after a piece was judged, without a lock of the client.
	settled func(good bool)
	// changed has room for one: someone may look at done and err again.
	changed chan struct{}

	mu      sync.Mutex
	data    medium
	have    *os.File // nil for an artifact of the store, and on a disk
	frozen  bool     // nothing is written any more
	state   []byte
	bytes   int64 // in pieces that are present
	resumed bool  // some of them are believed from an earlier run
	err     error // what ends the exchange
}

// medium is where the bytes of a torrent are.
type medium interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
}

func newPieces(d Digest, size int64) *pieces {
	length := pieceLength(size)
	return &pieces{
		digest: d, size: size, length: length, boot: boot(), changed: make(chan struct{}, 1), settled: func(bool) {},
		state: bytes.Repeat([]byte{absent}, int((size+length-1)/length)),
	}
}

// wholePieces is the storage of an artifact that is here.
func (s *Store) wholePieces(d Digest) (*pieces, error) {
	f, err := s.Open(d)
	if err != nil {
		return nil, err
	}
	info, err := f.Stat()
	if err != nil {
		_ = f.Close()
		return nil, err
	}
	p := newPieces(d, info.Size())
	p.data, p.bytes, p.frozen = f, p.size, true
	for i := range p.state {
		p.state[i] = present
	}
	return p, nil
}

// partialPieces continues what an earlier exchange left, or a transfer by HTTP, or starts afresh.
func (s *Store) partialPieces(d Digest, size int64) (*pieces, error) {
	p := newPieces(d, size)
	p.path = s.partial(d) + piecesExt
	err := p.open(s.partial(d))
	if err == nil {
		err = s.room(size - p.bytes)
	}
	if err != nil {
		_ = p.close()
		return nil, err
	}
	return p, nil
}

func (p *pieces) open(byHTTP string) error {
	if _, err := os.Stat(p.path); errors.Is(err, fs.ErrNotExist) {
		_ = os.Remove(p.havePath())
		if err := os.Rename(byHTTP, p.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	data, err := os.OpenFile(p.path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	p.data = data
	info, err := data.Stat()
	if err != nil {
		return err
	}
	p.recall(info.Size())
	if err := data.Truncate(p.size); err != nil {
		return err
	}
	if p.have, err = os.OpenFile(p.havePath(), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o644); err != nil {
		return err
	}
	_, err = p.have.WriteString(p.boot + string(p.state))
	return err
}

func (p *pieces) havePath() string { return strings.TrimSuffix(p.path, piecesExt) + haveExt }

// recall sets the state to what the file beside says, if that can be believed; else what is in the partial file is to be
// hashed.
func (p *pieces) recall(written int64) {
	old, err := os.ReadFile(p.havePath())
	state, ok := bytes.CutPrefix(old, []byte(p.boot))
	if err == nil && ok && len(state) == len(p.state) && written == p.size {
		for i, c := range state {
			p.state[i] = c
			if c == present {
				p.bytes += p.lengthOf(i)
				p.resumed = true
			}
		}
		return
	}
	for i := range p.state {
		if int64(i)*p.length+p.lengthOf(i) <= written {
			p.state[i] = unchecked
		}
	}
}

// boot is the name of this run of the kernel, and a line feed.
func boot() string {
	id, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "unknown\n"
	}
	return string(id)
}

func (p *pieces) lengthOf(i int) int64 { return min(p.length, p.size-int64(i)*p.length) }

// progress is the bytes that have matched, and what ended the exchange.
func (p *pieces) progress() (int64, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.bytes, p.err
}

func (p *pieces) fail(err error) {
	p.mu.Lock()
	if p.err == nil {
		p.err = err
	}
	p.mu.Unlock()
	p.note()
}

func (p *pieces) note() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// doubt makes every piece one to be hashed, if any was believed from an earlier run.
func (p *pieces) doubt() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.resumed {
		return false
	}
	p.resumed, p.bytes = false, 0
	for i := range p.state {
		p.state[i] = unchecked
	}
	return true
}

// verify holds the whole against its digest. The file stays open for those who are being served.
func (p *pieces) verify(ctx context.Context) error {
	hash := sha256.New()
	if _, err := copyHash(ctx, hash, io.NewSectionReader(p.data, 0, p.size)); err != nil {
		return err
	}
	if digestOf(hash.Sum(nil)) != p.digest {
		return ErrMismatch
	}
	return nil
}

// adopted is called when the partial file has got its name.
func (p *pieces) adopted() {
	p.mu.Lock()
	defer p.mu.Unlock()
	_ = p.have.Close()
	p.have, p.frozen = nil, true
	_ = os.Remove(p.havePath())
}

// freeze ends writing.
func (p *pieces) freeze() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.frozen = true
}

// missing calls do with each stretch that is not present, until it fails.
func (p *pieces) missing(do func(off, n int64) error) error {
	p.mu.Lock()
	state := bytes.Clone(p.state)
	p.mu.Unlock()
	for i := 0; i < len(state); i++ {
		off, n := int64(i)*p.length, int64(0)
		for ; i < len(state) && state[i] != present; i++ {
			n += p.lengthOf(i)
		}
		if n > 0 {
			if err := do(off, n); err != nil {
				return err
			}
		}
	}
	return nil
}

// discard throws away what was received. To be called after close.
func (p *pieces) discard() {
	_ = os.Remove(p.path)
	_ = os.Remove(p.havePath())
}

// handOver leaves the beginning, as far as it has no gap, to a transfer by HTTP. To be called after close.
func (p *pieces) handOver(byHTTP string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	var prefix int64
	for i, c := range p.state {
		if c != present {
			break
		}
		prefix += p.lengthOf(i)
	}
	if prefix == 0 || os.Truncate(p.path, prefix) != nil || os.Rename(p.path, byHTTP) != nil {
		_ = os.Remove(p.path)
	}
	_ = os.Remove(p.havePath())
}

// close is idempotent.
func (p *pieces) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var errs []error
	if p.have != nil {
		errs = append(errs, p.have.Close())
		p.have = nil
	}
	if p.data != nil {
		errs = append(errs, p.data.Close())
		p.data = nil
	}
	return errors.Join(errs...)
}

var _ storage.ClientImpl = (*pieces)(nil)

// OpenTorrent implements storage.ClientImpl: the client has got the info dictionary, maybe from a peer.
func (p *pieces) OpenTorrent(_ context.Context, info *metainfo.Info, _ metainfo.Hash) (storage.TorrentImpl, error) {
	if err := checkInfo(info, p.digest, p.size); err != nil {
		p.fail(err)
		return storage.TorrentImpl{}, err
	}
	p.note()
	return storage.TorrentImpl{
		Piece: func(m metainfo.Piece) storage.PieceImpl { return piece{p, m.Index()} },
		Close: p.close,
	}, nil
}

// piece is one of pieces.
type piece struct {
	*pieces
	i int
}

func (p piece) file(write bool) (medium, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.data == nil || (write && p.frozen) { // an artifact is never written again
		return nil, os.ErrClosed
	}
	return p.data, nil
}

// ReadAt implements storage.PieceImpl. After close it says that all is well, whatever is in b: the client has closed the
// connection for which it reads, and falls over if such a read fails (v1.61.0, PeerConn.servePeerRequest).
func (p piece) ReadAt(b []byte, off int64) (int, error) {
	f, err := p.file(false)
	n := 0
	if err == nil {
		n, err = f.ReadAt(b, int64(p.i)*p.length+off)
	}
	if err != nil && p.isClosed() {
		return len(b), nil
	}
	return n, err
}

func (p *pieces) isClosed() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.data == nil
}

// WriteAt implements storage.PieceImpl.
func (p piece) WriteAt(b []byte, off int64) (int, error) {
	f, err := p.file(true)
	if err != nil {
		return 0, err
	}
	n, err := f.WriteAt(b, int64(p.i)*p.length+off)
	if err != nil && !errors.Is(err, os.ErrClosed) {
		p.fail(fmt.Errorf("%w: %w", errOurs, err))
	}
	return n, err
}

// MarkComplete implements storage.PieceImpl.
func (p piece) MarkComplete() error { return p.mark(present) }

// MarkNotComplete implements storage.PieceImpl.
func (p piece) MarkNotComplete() error { return p.mark(absent) }

func (p piece) mark(state byte) error {
	err := p.set(state)
	p.settled(state == present)
	p.note()
	return err
}

func (p piece) set(state byte) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	old := p.state[p.i]
	p.state[p.i] = state
	switch {
	case old != present && state == present:
		p.bytes += p.lengthOf(p.i)
	case old == present && state != present:
		p.bytes -= p.lengthOf(p.i)
	}
	if p.have == nil {
		return nil
	}
	_, err := p.have.WriteAt([]byte{state}, int64(len(p.boot)+p.i))
	return err
}

// Completion implements storage.PieceImpl.
func (p piece) Completion() storage.Completion {
	p.mu.Lock()
	defer p.mu.Unlock()
	state := p.state[p.i]
	return storage.Completion{Ok: state == present || state == absent, Complete: state == present}
}
