package web

import (
	"bytes"
	le "encoding/binary"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
)

// tinyISO is an image with one file, VMLINUZ, as ECMA-119 has it: two descriptors, a root directory, the bytes.
func tinyISO(content []byte) []byte {
	const sector = 2048
	image := make([]byte, 20*sector+len(content))
	record := func(name string, block, size int, flags byte) []byte {
		r := make([]byte, 34+len(name)-len(name)%2)
		r[0], r[25], r[32] = byte(len(r)), flags, byte(len(name))
		le.LittleEndian.PutUint32(r[2:], uint32(block))
		le.LittleEndian.PutUint32(r[10:], uint32(size))
		copy(r[33:], name)
		return r
	}
	d := image[16*sector:]
	copy(d, "\x01CD001")
	le.LittleEndian.PutUint32(d[80:], 20)
	le.LittleEndian.PutUint16(d[128:], sector)
	copy(d[156:], record("\x00", 18, sector, 2))
	copy(image[17*sector:], "\xffCD001")
	root := append(record("\x00", 18, sector, 2), record("\x01", 18, sector, 2)...)
	copy(image[18*sector:], append(root, record("VMLINUZ.;1", 20, len(content), 0)...))
	copy(image[20*sector:], content)
	return image
}

// opened is an artifact that counts how often it is open.
type opened struct {
	*bytes.Reader
	closed func()
}

func (o opened) Close() error { o.closed(); return nil }

// isoHouse is a server with one image, and how often that was opened and is open.
func isoHouse(t *testing.T, content []byte) (s *Server, counts func() (times, now int), sent func() int64) {
	t.Helper()
	var mu sync.Mutex
	times, now, bytesSent := 0, 0, int64(0)
	image := tinyISO(content)
	s = New(Options{
		Artifact: func(digest string) (io.ReadSeekCloser, error) {
			mu.Lock()
			defer mu.Unlock()
			switch digest {
			case "iso":
				times++
				now++
				return opened{bytes.NewReader(image), func() { mu.Lock(); defer mu.Unlock(); now-- }}, nil
			case "other":
				now++
				return opened{bytes.NewReader([]byte("no image")), func() { mu.Lock(); defer mu.Unlock(); now-- }}, nil
			}
			return nil, fmt.Errorf("artifact %s is not here", digest)
		},
		Sent: func(_ string, n int64) { mu.Lock(); defer mu.Unlock(); bytesSent += n },
	})
	return s, func() (int, int) { mu.Lock(); defer mu.Unlock(); return times, now }, func() int64 { mu.Lock(); defer mu.Unlock(); return bytesSent }
}

func TestFilesOfAnImageAreServedFromIt(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	s, counts, sent := isoHouse(t, content)
	get := func(path, bytes string) *httptest.ResponseRecorder {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if bytes != "" {
			r.Header.Set("Range", "bytes="+bytes)
		}
		w := httptest.NewRecorder()
		s.Handler().ServeHTTP(w, r)
		return w
	}
	if w := get("/iso/iso/vmlinuz", ""); w.Code != http.StatusOK || !bytes.Equal(w.Body.Bytes(), content) || w.Header().Get("Content-Length") != "10000" {
		t.Errorf("whole: %d, %d bytes", w.Code, w.Body.Len())
	}
	if w := get("/iso/iso/vmlinuz", "5-14"); w.Code != http.StatusPartialContent || w.Body.String() != "5678901234" || w.Header().Get("Content-Range") != "bytes 5-14/10000" {
		t.Errorf("range: %d %q", w.Code, w.Body)
	}
	if n := sent(); n != 10010 {
		t.Errorf("%d bytes were counted", n)
	}
	for path, says := range map[string]string{
		"/iso/iso/none": "does not exist", "/iso/iso/": "invalid", "/iso/iso/.": "", "/iso/none/vmlinuz": "is not here", "/iso/other/vmlinuz": "not a whole ISO 9660 image",
		"/iso/iso/%2e%2e/vmlinuz": "", "/iso/iso/a%2f..%2fvmlinuz": "",
	} {
		if w := get(path, ""); w.Code == http.StatusOK || !strings.Contains(w.Body.String(), says) {
			t.Errorf("%s: %d %s", path, w.Code, w.Body)
		}
	}
	if _, now := counts(); now != 0 {
		t.Errorf("%d are open still", now)
	}
}

// slow is a client that takes the first bytes and then waits.
type slow struct {
	http.ResponseWriter
	wait chan struct{}
}

func (s slow) Write(b []byte) (int, error) {
	<-s.wait
	return s.ResponseWriter.Write(b)
}

func TestAllClientsReadOneOpenImage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, counts, _ := isoHouse(t, make([]byte, 100_000))
		wait := make(chan struct{})
		var clients sync.WaitGroup
		for range 30 {
			clients.Go(func() {
				s.Handler().ServeHTTP(slow{httptest.NewRecorder(), wait}, httptest.NewRequest(http.MethodGet, "/iso/iso/vmlinuz", nil))
			})
		}
		synctest.Wait()
		if times, now := counts(); times != 1 || now != 1 {
			t.Errorf("it was opened %d times, and is open %d times", times, now)
		}
		close(wait)
		clients.Wait()
		if _, now := counts(); now != 0 {
			t.Errorf("it is open %d times when all have gone", now)
		}
	})
}

// TestFileOfAnImageEndsWithItsExtent: whoever reads through an open file of his own sees the file and nothing of what is around it.
func TestFileOfAnImageEndsWithItsExtent(t *testing.T) {
	content := bytes.Repeat([]byte("0123456789"), 1000)
	path := filepath.Join(t.TempDir(), "iso")
	if err := os.WriteFile(path, append(tinyISO(content), "what follows"...), 0o644); err != nil {
		t.Fatal(err)
	}
	s := New(Options{Artifact: func(string) (io.ReadSeekCloser, error) { return os.Open(path) }, Sent: func(string, int64) {}})
	server := httptest.NewServer(s.Handler()) // a real connection: the kernel sends
	defer server.Close()
	for bytesWanted, want := range map[string]string{"": string(content), "bytes=5-9": "56789", "bytes=-3": "789", "bytes=9995-": "56789"} {
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, server.URL+"/iso/iso/vmlinuz", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Range", bytesWanted)
		if bytesWanted == "" {
			r.Header.Del("Range")
		}
		w, err := server.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := io.ReadAll(w.Body)
		_ = w.Body.Close()
		if err != nil || string(got) != want {
			t.Errorf("%q: %s, %d bytes, %v", bytesWanted, w.Status, len(got), err)
		}
	}
	// Where the kernel cannot send, it is read.
	w := httptest.NewRecorder()
	s.Handler().ServeHTTP(w, httptest.NewRequest(http.MethodGet, "/iso/iso/vmlinuz", nil))
	if !bytes.Equal(w.Body.Bytes(), content) {
		t.Errorf("%d bytes were read", w.Body.Len())
	}
}
