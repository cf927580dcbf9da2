package web

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"offshoot/node/internal/boot"
)

// snponly is what the house serves under that name.
var snponly = bytes.Repeat([]byte("MZ program "), 20_000)

// TestFirmwareLoadsItsProgramByHTTP says on one connection what EDK2 says, and holds every answer to what firmware can take.
func TestFirmwareLoadsItsProgramByHTTP(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	server := httptest.NewServer(h.handler)
	defer server.Close()
	conn, err := net.Dial("tcp", server.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	in := bufio.NewReader(conn)
	address, err := url.Parse(ProgramURL(self, "snponly.efi"))
	if err != nil || strings.Contains(address.Path, "//") || address.Hostname() != self.String() || address.Port() != strconv.Itoa(Port) {
		t.Fatalf("address %s: %v", address, err)
	}
	for _, method := range []string{http.MethodHead, http.MethodGet, http.MethodGet} {
		if _, err := fmt.Fprintf(conn, "%s %s HTTP/1.1\r\nHost: 192.168.42.1:7480\r\nAccept: */*\r\nUser-Agent: UefiHttpBoot/1.0\r\n\r\n", method, address.Path); err != nil {
			t.Fatal(err)
		}
		r, err := http.ReadResponse(in, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%s: %v", method, err)
		}
		body, err := io.ReadAll(r.Body)
		_ = r.Body.Close()
		if err != nil || r.StatusCode != http.StatusOK || r.Proto != "HTTP/1.1" || r.Close {
			t.Errorf("%s: %s %s, closes %v, %v", method, r.Proto, r.Status, r.Close, err)
		}
		if got := r.Header.Get("Content-Length"); got != strconv.Itoa(len(snponly)) || len(r.TransferEncoding) > 0 {
			t.Errorf("%s: Content-Length %q, transfer encoding %q", method, got, r.TransferEncoding)
		}
		if got := r.Header.Get("Content-Type"); got != "application/efi" {
			t.Errorf("%s: Content-Type %q", method, got)
		}
		if method == http.MethodGet && !bytes.Equal(body, snponly) || method == http.MethodHead && len(body) > 0 {
			t.Errorf("%s: body of %d bytes", method, len(body))
		}
		for name, values := range r.Header {
			if slices.Contains(values, "") || name == "Location" {
				t.Errorf("%s: header %s: %q", method, name, values)
			}
		}
	}
}

// TestProgramsArePlainBytes: they are the same for everybody and everywhere, and only those exist that firmware is sent to.
func TestProgramsArePlainBytes(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.duty = false
	h.want(h.ask(request{path: "/boot/snponly.efi"}), http.StatusOK, string(snponly[:11]))
	h.want(h.ask(request{path: "/boot/snponly.efi", method: http.MethodHead, from: addr2}), http.StatusOK)
	h.want(h.ask(request{path: "/boot/ipxe.efi", header: map[string]string{"Range": "bytes=0-3"}}), http.StatusPartialContent)
	h.want(h.ask(request{path: "/boot/undionly.kpxe"}), http.StatusNotFound, "no boot program")
	h.want(h.ask(request{path: "/boot/"}), http.StatusNotFound)
	h.want(h.ask(request{path: "/boot/..%2f..%2fetc%2fpasswd"}), http.StatusNotFound)
	h.want(h.ask(request{path: "/boot/snponly.efi", method: http.MethodPost}), http.StatusMethodNotAllowed)
	// What `machine why` shows, of whoever has the address.
	want := []string{
		fmt.Sprintf("%s GET boot/snponly.efi | %d bytes | ", mac1, len(snponly)),
		fmt.Sprintf("%s HEAD boot/snponly.efi | size only | ", mac2),
		fmt.Sprintf("%s GET boot/ipxe.efi | 4 of %d bytes | ", mac1, len(snponly)),
		fmt.Sprintf("%s GET boot program |  | 404: there is no boot program \"undionly.kpxe\" for HTTP boot", mac1),
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.traces) < len(want) || !slices.Equal(h.traces[:len(want)], want) {
		t.Errorf("traces %q, want %q", h.traces, want)
	}
}

// TestAutoexecIsBesideTheProgram: iPXE 2 asks for it where it came from, and must not be led back there.
func TestAutoexecIsBesideTheProgram(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	r := h.ask(request{path: "/boot/" + boot.Autoexec})
	h.want(r, http.StatusOK, "#!ipxe\n", "chain --replace", "iseq ${filename} http://192.168.42.1:7480/boot/snponly.efi && goto later")
	if got := r.Header.Get("Content-Type"); !strings.HasPrefix(got, "text/plain") {
		t.Errorf("a script of type %q", got)
	}
}
