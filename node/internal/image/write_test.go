package image

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
)

// memTarget is a disk full of old data that keeps a diary.
type memTarget struct {
	data  []byte
	diary []string
	fail  func(off int64) error
}

func newMemTarget(size int) *memTarget {
	return &memTarget{data: bytes.Repeat([]byte{0xaa}, size)}
}

func (m *memTarget) Size() int64 { return int64(len(m.data)) }
func (m *memTarget) Sync() error { m.diary = append(m.diary, "sync"); return nil }
func (m *memTarget) ZeroRange(off, n int64) error {
	clear(m.data[off : off+n])
	return nil
}

func (m *memTarget) WriteAt(p []byte, off int64) (int, error) {
	if m.fail != nil {
		if err := m.fail(off); err != nil {
			return 0, err
		}
	}
	if off == 0 {
		m.diary = append(m.diary, "boot area")
	} else if len(m.diary) == 0 || m.diary[len(m.diary)-1] != "data" {
		m.diary = append(m.diary, "data")
	}
	return copy(m.data[off:], p), nil
}

func (m *memTarget) boots() bool { return !isZero(m.data[:bootArea]) }

func fileTarget(t *testing.T, path string, size int64) *FileTarget {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(f.Truncate(size), f.Close()); err != nil {
		t.Fatal(err)
	}
	target, err := OpenTarget(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = target.Close() })
	return target
}

func source(f Format, p []byte) Source {
	return Source{Format: f, Size: int64(len(p)), SHA256: sum(p), Stream: bytes.NewReader(p), Random: bytes.NewReader(p)}
}

func TestWrittenDiskIsTheImage(t *testing.T) {
	disk := testDisk(t)
	for name, s := range stored(t, disk) {
		t.Run(name, func(t *testing.T) {
			target := newMemTarget(len(disk) + 2*mib)
			var last Progress
			p, err := Write(t.Context(), target, source(s.Format, s.Data), WriteOptions{Progress: func(p Progress) { last = p }})
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(target.data[:len(disk)], disk) {
				t.Error("the disk differs from the image")
			}
			if tail := target.data[len(disk):]; !isZero(tail[len(tail)-mib:]) || isZero(tail[:mib]) {
				t.Error("behind the image only the place of an old backup table may change")
			}
			if p != last || p.Stored != int64(len(s.Data)) || p.Disk != int64(len(disk)) || p.Written > 3*mib {
				t.Errorf("progress ends with %+v and %+v", last, p)
			}
		})
	}
}

func TestZerosAreNotWrittenToAZeroedDisk(t *testing.T) {
	disk := testDisk(t)
	target := fileTarget(t, t.TempDir()+"/disk", int64(len(disk)))
	p, err := Write(t.Context(), target, source(Raw, disk), WriteOptions{Zeroed: true})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, len(disk))
	if err := readFullAt(target, got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got, disk) || p.Written > 3*mib {
		t.Errorf("disk right: %v, %d bytes written", bytes.Equal(got, disk), p.Written)
	}
}

func TestBootAreaIsWrittenLastAndAfterSync(t *testing.T) {
	disk := testDisk(t)
	target := newMemTarget(len(disk))
	if _, err := Write(t.Context(), target, source(Raw, disk), WriteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(target.diary, ", "); got != "sync, data, sync, boot area, sync" {
		t.Errorf("order is %s", got)
	}
}

func TestWrongImageNeverLeavesADiskThatBoots(t *testing.T) {
	disk := testDisk(t)
	bad := errors.New("cable pulled")
	for name, s := range stored(t, disk) {
		last := len(s.Data) - 1
		for what, c := range map[string]struct {
			change func(*Source)
			want   error // nil: whatever the decoder says
		}{
			"another digest": {func(src *Source) { src.SHA256 = sum([]byte("other")) }, ErrDigest},
			"one bit wrong": {func(src *Source) {
				p := bytes.Clone(s.Data)
				p[last-1000] ^= 1
				src.Stream, src.Random = bytes.NewReader(p), bytes.NewReader(p)
			}, nil},
			"cut":      {func(src *Source) { src.Stream = bytes.NewReader(s.Data[:last-5000]) }, ErrTruncated},
			"too long": {func(src *Source) { src.Stream = io.MultiReader(src.Stream, strings.NewReader("more")) }, ErrDigest},
			"read fails": {func(src *Source) {
				src.Stream = io.MultiReader(bytes.NewReader(s.Data[:last/2]), iotest.ErrReader(bad))
			}, bad},
		} {
			t.Run(name+"/"+what, func(t *testing.T) {
				target := newMemTarget(len(disk))
				src := source(s.Format, s.Data)
				c.change(&src)
				_, err := Write(t.Context(), target, src, WriteOptions{})
				if err == nil || c.want != nil && !errors.Is(err, c.want) {
					t.Errorf("got %v, want %v", err, c.want)
				}
				if target.boots() {
					t.Error("the disk has a boot area")
				}
			})
		}
	}
}

func TestCutStreamOfUnknownSizeIsTruncated(t *testing.T) {
	disk := testDisk(t)
	for name, s := range stored(t, disk) {
		if s.Format == QCOW2 || s.Format == Raw { // the one needs its size, in the other only the digest can tell
			continue
		}
		src := source(s.Format, s.Data[:len(s.Data)-30])
		src.Size = 0
		if _, err := Write(t.Context(), newMemTarget(len(disk)), src, WriteOptions{}); !errors.Is(err, ErrTruncated) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImageLargerThanTheDiskIsRefusedBeforeDataIsWritten(t *testing.T) {
	disk := testDisk(t)
	for name, s := range stored(t, disk) {
		target := newMemTarget(len(disk) - 2*mib)
		_, err := Write(t.Context(), target, source(s.Format, s.Data), WriteOptions{})
		if !errors.Is(err, ErrTooLarge) || target.boots() || strings.Contains(strings.Join(target.diary, " "), "data") {
			t.Errorf("%s: %v, %v", name, err, target.diary)
		}
	}
}

func TestDiskErrorEndsTheWrite(t *testing.T) {
	disk := testDisk(t)
	bad := errors.New("medium error")
	for name, s := range stored(t, disk) {
		target := newMemTarget(len(disk))
		target.fail = func(off int64) error {
			if off > testRoot {
				return bad
			}
			return nil
		}
		if _, err := Write(t.Context(), target, source(s.Format, s.Data), WriteOptions{}); !errors.Is(err, bad) || target.boots() {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// stall gives some bytes and then waits until it is closed, like a network that went away.
type stall struct {
	io.Reader
	reached func()
	closed  chan struct{}
}

func (s *stall) Read(p []byte) (int, error) {
	if n, err := s.Reader.Read(p); err == nil {
		return n, nil
	}
	s.reached()
	<-s.closed
	return 0, os.ErrClosed
}

func (s *stall) Close() error { close(s.closed); return nil }

func TestCancelledWriteEndsThoughTheNetworkHangs(t *testing.T) {
	disk := testDisk(t)
	for name, s := range stored(t, disk) {
		ctx, cancel := context.WithCancel(t.Context())
		src := source(s.Format, s.Data)
		src.Stream = &stall{bytes.NewReader(s.Data[:len(s.Data)/2]), cancel, make(chan struct{})}
		target := newMemTarget(len(disk))
		if _, err := Write(ctx, target, src, WriteOptions{}); !errors.Is(err, context.Canceled) || target.boots() {
			t.Errorf("%s: %v", name, err)
		}
		cancel()
	}
}

func TestQCOW2TableThatTheDigestDoesNotCoverIsNoticed(t *testing.T) {
	disk := testDisk(t)
	data := packQCOW2(t, disk)
	q, err := openQCOW2(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	forged := bytes.Clone(data)
	l2 := q.meta[2].at
	a, b := forged[l2:l2+8], forged[l2+8*36:][:8] // swap two entries of the L2 table
	tmp := bytes.Clone(a)
	copy(a, b)
	copy(b, tmp)
	src := source(QCOW2, data)
	src.Random = bytes.NewReader(forged)
	target := newMemTarget(len(disk))
	if _, err := Write(t.Context(), target, src, WriteOptions{}); !errors.Is(err, errChanged) || target.boots() {
		t.Errorf("got %v", err)
	}
}

func TestNextRunMergesShortRunsOfZeros(t *testing.T) {
	unit := func(kinds string) []byte {
		var p []byte
		for _, k := range kinds {
			u := make([]byte, sparseUnit)
			if k == 'x' {
				u[17] = 1
			}
			p = append(p, u...)
		}
		return p
	}
	long := strings.Repeat("0", minZeroRun/sparseUnit)
	for _, c := range []struct {
		in   string
		zero bool
		n    int
	}{
		{"x", false, 1}, {"0", true, 1}, {"x0x", false, 3}, {"0x", false, 2}, {"x0", false, 2},
		{long + "x", true, 16}, {"x" + long + "x", false, 1}, {"x" + long, false, 1}, {"x0x" + long + "x", false, 3}, {long + "0", true, 17},
	} {
		if zero, n := nextRun(unit(c.in)); zero != c.zero || n != c.n*sparseUnit {
			t.Errorf("%s: %v, %d", c.in, zero, n/sparseUnit)
		}
	}
}
