package share

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// memoryDisk is a Disk that notes how often it was written.
type memoryDisk struct {
	mu     sync.Mutex
	data   []byte
	writes int
}

// ReadAt implements io.ReaderAt.
func (d *memoryDisk) ReadAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(p)) > int64(len(d.data)) {
		return 0, io.EOF
	}
	return copy(p, d.data[off:]), nil
}

// WriteAt implements io.WriterAt.
func (d *memoryDisk) WriteAt(p []byte, off int64) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if off+int64(len(p)) > int64(len(d.data)) {
		return 0, errors.New("beyond the disk")
	}
	d.writes++
	return copy(d.data[off:], p), nil
}

func (d *memoryDisk) holds(data []byte) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return bytes.Equal(d.data[:len(data)], data)
}

// guestOf is a guest on the loopback network that knows these peers.
func guestOf(t *testing.T, peers func() []Peer, part func() (int, int)) (*Guest, Peer) {
	t.Helper()
	ln, err := net.Listen("tcp4", nextIP()+":0")
	if err != nil {
		t.Fatal(err)
	}
	ip := callerOf(ln.Addr())
	g, err := NewGuest(GuestOptions{
		Listener: ln, Peers: peers, Part: part, Patience: 300 * time.Millisecond, Idle: 5 * time.Second,
		Dial: func(ctx context.Context, p Peer) (net.Conn, error) {
			d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(ip)}}
			return d.DialContext(ctx, "tcp4", p.Addr)
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
	})
	return g, Peer{ID: ip, Addr: ln.Addr().String()}
}

func callerOf(a net.Addr) string {
	host, _, _ := net.SplitHostPort(a.String()) // a listener has one
	return host
}

func TestGuestGivesOnWhatItGotWithoutTheNode(t *testing.T) {
	t.Parallel()
	data := someBytes(3<<20 + 12345)
	seed, a := newMembers().seed(t, data, nil)
	disk := &memoryDisk{data: make([]byte, len(data)+100)}
	first, at := guestOf(t, func() []Peer { return []Peer{{ID: seed.ip, Addr: seed.ln.Addr().String()}} }, nil)
	var told int64
	if err := first.Fetch(t.Context(), a, disk, false, func(done int64) { told = done }); err != nil {
		t.Fatal(err)
	}
	if !disk.holds(data) || told != a.Size || first.Stats().Fetched < a.Size {
		t.Errorf("the disk is right: %v; told of %d of %d bytes; %+v", disk.holds(data), told, a.Size, first.Stats())
	}
	seed.stop(t)
	other := &memoryDisk{data: make([]byte, len(data))}
	second, _ := guestOf(t, func() []Peer { return []Peer{at} }, nil)
	if err := second.Fetch(t.Context(), a, other, false, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if !other.holds(data) || first.Stats().Served < a.Size {
		t.Errorf("the disk is right: %v; %+v", other.holds(data), first.Stats())
	}
}

func TestGuestHashesWhatAnEarlierTryLeftAndGetsTheRest(t *testing.T) {
	t.Parallel()
	data := someBytes(4 << 20)
	seed, a := newMembers().seed(t, data, nil)
	disk := &memoryDisk{data: bytes.Clone(data)}
	clear(disk.data[1<<20 : 2<<20]) // a quarter is missing
	g, _ := guestOf(t, func() []Peer { return []Peer{{ID: seed.ip, Addr: seed.ln.Addr().String()}} }, nil)
	if err := g.Fetch(t.Context(), a, disk, true, func(int64) {}); err != nil {
		t.Fatal(err)
	}
	if got := g.Stats().Fetched; !disk.holds(data) || got > 3<<19 {
		t.Errorf("the disk is right: %v; a mebibyte was missing, %d bytes came", disk.holds(data), got)
	}
}

func TestGuestWithoutPeersSaysWhatIsMissing(t *testing.T) {
	t.Parallel()
	data := someBytes(2<<20 + 7)
	a := Artifact{Digest: DigestOf(data), Size: int64(len(data)), InfoHash: infoHashOfBytes(data)}
	disk := &memoryDisk{data: make([]byte, len(data))}
	g, _ := guestOf(t, func() []Peer { return nil }, nil)
	if err := g.Fetch(t.Context(), a, disk, false, func(int64) {}); !errors.Is(err, errNobody) {
		t.Errorf("got %v", err)
	}
	var missing [][2]int64
	if err := g.Missing(func(off, n int64) error {
		missing = append(missing, [2]int64{off, n})
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if len(missing) != 1 || missing[0] != [2]int64{0, a.Size} || disk.writes > 0 {
		t.Errorf("missing %v of %d bytes, %d writes", missing, a.Size, disk.writes)
	}
	small := Artifact{Digest: DigestOf(nil), Size: 10}
	g, _ = guestOf(t, func() []Peer { return nil }, nil)
	if err := g.Fetch(t.Context(), small, disk, false, nil); err == nil {
		t.Error("an artifact without an infohash was exchanged")
	}
}

func TestGuestTakesNoWrongPieces(t *testing.T) {
	t.Parallel()
	data := someBytes(2 << 20)
	seed, a := newMembers().seed(t, data, nil)
	damage(t, seed.store, a.Digest, 300<<10)
	disk := &memoryDisk{data: make([]byte, len(data))}
	g, _ := guestOf(t, func() []Peer { return []Peer{{ID: seed.ip, Addr: seed.ln.Addr().String()}} }, nil)
	err := g.Fetch(t.Context(), a, disk, false, func(int64) {})
	if err == nil || g.Stats().BadPieces == 0 {
		t.Fatalf("%v, %+v", err, g.Stats())
	}
	var missing int64
	if err := g.Missing(func(off, n int64) error {
		missing += n
		copy(disk.data[off:], data[off:off+n]) // as by HTTP
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	if missing == 0 || !disk.holds(data) {
		t.Errorf("%d bytes were said to be missing; with them the disk is right: %v", missing, disk.holds(data))
	}
}
