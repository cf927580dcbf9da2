package web

import (
	"bytes"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestWhatMachinesGetIsCounted(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	path := "/artifact/" + image + "/image"
	h.want(h.ask(request{path: path}), http.StatusOK, content)
	h.want(h.ask(request{path: path, header: map[string]string{"Range": "bytes=4-6"}}), http.StatusPartialContent)
	h.want(h.ask(request{path: path, header: map[string]string{"Range": "bytes=10-"}}), http.StatusRequestedRangeNotSatisfiable)
	h.want(h.ask(request{method: http.MethodHead, path: path}), http.StatusOK)
	h.want(h.ask(request{path: "/artifact/" + kernel + "/vmlinuz"}), http.StatusNotFound)
	h.mu.Lock()
	defer h.mu.Unlock()
	if got, want := h.sent[image], int64(len(content)+3); got != want || len(h.sent) != 1 {
		t.Errorf("%d bytes are counted, %d were sent: %v", got, want, h.sent)
	}
}

// files is a connection's writer that can have the kernel send a file, and says whether it could.
type files struct {
	*httptest.ResponseRecorder
	sendfile int
}

func (f *files) ReadFrom(r io.Reader) (int64, error) {
	if l, ok := r.(*io.LimitedReader); ok {
		if _, ok := l.R.(*os.File); ok { // as net.(*TCPConn).ReadFrom looks
			f.sendfile++
		}
	}
	return io.Copy(f.ResponseRecorder, r)
}

// TestKernelSendsFilesThoughTheyAreCounted: an image goes from the disk to the network without passing through this process.
func TestKernelSendsFilesThoughTheyAreCounted(t *testing.T) {
	t.Parallel()
	path, data := filepath.Join(t.TempDir(), "image"), bytes.Repeat([]byte("0123456789abcdef"), (2*step+4711)/16)
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	w, sent, words := &files{ResponseRecorder: httptest.NewRecorder()}, int64(0), 0
	http.ServeContent(&counted{ResponseWriter: w, sent: func(n int64) { sent += n; words++ }}, httptest.NewRequest(http.MethodGet, "/", nil), "", time.Time{}, f)
	if !bytes.Equal(w.Body.Bytes(), data) || sent != int64(len(data)) {
		t.Errorf("%d bytes came, %d are counted, %d were to be sent", w.Body.Len(), sent, len(data))
	}
	if w.sendfile < 3 || words < 3 {
		t.Errorf("%d times the kernel sent, and %d times it was counted, want 3 of each", w.sendfile, words)
	}
}
