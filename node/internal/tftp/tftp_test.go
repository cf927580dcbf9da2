package tftp

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/fstest"
	"time"

	"github.com/pin/tftp/v3"
)

// start runs a server on loopback and returns its address and a function that waits for the next finished transfer.
func start(t *testing.T, o Options) (addr string, next func() Transfer) {
	t.Helper()
	done := make(chan Transfer, 64)
	o.Addr = "127.0.0.1:0"
	o.OnTransfer = func(tr Transfer) { done <- tr }
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	select {
	case <-s.Ready():
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run ended with %v, want nil after cancel", err)
		}
		conn, err := net.ListenPacket("udp4", s.LocalAddr().String())
		if err != nil {
			t.Errorf("the port is not free after Run: %v", err)
			return
		}
		_ = conn.Close()
	})
	return s.LocalAddr().String(), func() Transfer {
		t.Helper()
		select {
		case tr := <-done:
			return tr
		case <-time.After(10 * time.Second):
			t.Fatal("no transfer was reported within 10 s")
			return Transfer{}
		}
	}
}

func program(n int) []byte { return bytes.Repeat([]byte("offshoot"), n/8) }

func files() fs.FS {
	return fstest.MapFS{
		"snponly.efi":  {Data: program(200_000)},
		"exact.bin":    {Data: program(1024)},
		"sub/secret":   {Data: []byte("x")},
		"UPPER.KPXE":   {Data: []byte("upper")},
		"etc-nothing":  {Data: []byte{}},
		"undionly.0xx": {Data: []byte("u")},
	}
}

func get(t *testing.T, addr, name string) ([]byte, error) {
	t.Helper()
	c, err := tftp.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	c.SetBlockSize(1400)
	w, err := c.Receive(name, "octet")
	if err != nil {
		return nil, err
	}
	var b bytes.Buffer
	_, err = w.WriteTo(&b)
	return b.Bytes(), err
}

func TestFileIsFoundHoweverFirmwareSpellsIt(t *testing.T) {
	addr, next := start(t, Options{Files: files()})
	for _, name := range []string{
		"snponly.efi", "/snponly.efi", `\snponly.efi`, "SNPONLY.EFI", "//snponly.efi", "./snponly.efi", "snponly.efi\xff", "/x/../snponly.efi",
	} {
		got, err := get(t, addr, name)
		if err != nil || !bytes.Equal(got, program(200_000)) {
			t.Errorf("%q: %d bytes, error %v", name, len(got), err)
		}
		if tr := next(); tr.File != "snponly.efi" || tr.Sent != 200_000 || tr.Err != nil || !tr.Client.Addr().IsLoopback() {
			t.Errorf("%q: reported as %+v", name, tr)
		}
	}
	for _, name := range []string{"exact.bin", "upper.kpxe"} { // whole blocks; a name in capitals
		if _, err := get(t, addr, name); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		next()
	}
}

func TestNothingOutsideTheSetExists(t *testing.T) {
	addr, next := start(t, Options{Files: files()})
	for _, name := range []string{
		"../../etc/passwd", "/etc/passwd", `..\..\etc\passwd`, "sub/secret", "sub", ".", "", "/", "snponly.efi/x", "autoexec.ipxe",
	} {
		if got, err := get(t, addr, name); err == nil {
			t.Errorf("%q: got %d bytes", name, len(got))
		}
		if tr := next(); !errors.Is(tr.Err, errNotFound) || tr.File != "" {
			t.Errorf("%q: reported as %+v", name, tr)
		}
	}
}

func TestMoreWinsAndItsErrorsStayHere(t *testing.T) {
	addr, next := start(t, Options{Files: files(), More: map[string]func() ([]byte, error){
		"autoexec.ipxe": func() ([]byte, error) { return []byte("#!ipxe\n"), nil },
		"broken":        func() ([]byte, error) { return nil, errors.New("secret path /root/x") },
	}})
	if got, err := get(t, addr, "/Autoexec.ipxe"); err != nil || string(got) != "#!ipxe\n" {
		t.Errorf("autoexec: %q, %v", got, err)
	}
	next()
	_, err := get(t, addr, "broken")
	if err == nil || strings.Contains(err.Error(), "secret") {
		t.Errorf("client was told %v", err)
	}
	if tr := next(); tr.Err == nil || !strings.Contains(tr.Err.Error(), "secret") {
		t.Errorf("operator was told %v", tr.Err)
	}
}

// request is an RRQ with options.
func request(name string, options ...string) []byte {
	b := []byte{0, 1}
	for _, s := range append([]string{name, "octet"}, options...) {
		b = append(append(b, s...), 0)
	}
	return b
}

func exchange(t *testing.T, addr string, rrq []byte) (net.PacketConn, net.Addr, []byte) {
	t.Helper()
	conn, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	to, err := net.ResolveUDPAddr("udp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := conn.WriteTo(rrq, to); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	n, from, err := conn.ReadFrom(buf)
	if err != nil {
		t.Fatal(err)
	}
	return conn, from, buf[:n]
}

func TestAbortedSizeProbeIsNoError(t *testing.T) {
	addr, next := start(t, Options{Files: files()})
	conn, from, oack := exchange(t, addr, request("snponly.efi", "tsize", "0"))
	if want := "\x00\x06tsize\x00200000\x00"; string(oack) != want {
		t.Fatalf("OACK %q, want %q", oack, want)
	}
	if _, err := conn.WriteTo([]byte("\x00\x05\x00\x00User aborted the transfer\x00"), from); err != nil { // as EDK2 does
		t.Fatal(err)
	}
	if tr := next(); !tr.Probe || tr.Err != nil || tr.Sent != 0 {
		t.Errorf("reported as %+v", tr)
	}
}

func TestBlocksFitTheLink(t *testing.T) {
	addr, next := start(t, Options{Files: files(), MTU: 1400})
	conn, from, oack := exchange(t, addr, request("snponly.efi", "blksize", "65464"))
	if want := fmt.Sprintf("\x00\x06blksize\x00%d\x00", 1400-headers); string(oack) != want {
		t.Fatalf("OACK %q, want %q", oack, want)
	}
	ack := []byte{0, 4, 0, 0}
	if _, err := conn.WriteTo(ack, from); err != nil {
		t.Fatal(err)
	}
	buf := make([]byte, 65536)
	n, _, err := conn.ReadFrom(buf)
	if err != nil || n != 1400-28 || binary.BigEndian.Uint16(buf[2:]) != 1 {
		t.Errorf("first data packet has %d bytes, error %v; want %d", n, err, 1400-28)
	}
	if _, err := conn.WriteTo([]byte("\x00\x05\x00\x00enough\x00"), from); err != nil {
		t.Fatal(err)
	}
	if tr := next(); tr.Probe || tr.Err == nil {
		t.Errorf("a transfer that was given up in the middle is reported as %+v", tr)
	}
}

func TestManyTransfersDoNotQueue(t *testing.T) {
	const clients = 100
	addr, next := start(t, Options{Files: files()})
	// A hundred clients that were switched off in the middle hold nobody up.
	for range clients {
		exchange(t, addr, request("snponly.efi", "tsize", "0"))
	}
	begin := time.Now()
	var wg sync.WaitGroup
	for range clients {
		wg.Go(func() {
			if got, err := get(t, addr, "snponly.efi"); err != nil || len(got) != 200_000 {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	t.Logf("%d transfers of 200 kB took %s", clients, time.Since(begin))
	for range 2 * clients {
		next()
	}
}

func TestWritesAreRefused(t *testing.T) {
	addr, _ := start(t, Options{Files: files()})
	c, err := tftp.NewClient(addr)
	if err != nil {
		t.Fatal(err)
	}
	if w, err := c.Send("snponly.efi", "octet"); err == nil {
		if _, err = w.ReadFrom(strings.NewReader("evil")); err == nil {
			t.Error("a write was accepted")
		}
	}
}

func FuzzNormaliseNamesNothingOutside(f *testing.F) {
	f.Add("../../etc/passwd")
	f.Add(`\BOOT\x64\..\..\..\snponly.efi`)
	f.Fuzz(func(t *testing.T, name string) {
		if n := normalise(name); n == ".." || strings.HasPrefix(n, "../") || strings.HasPrefix(n, "/") || strings.Contains(n, `\`) {
			t.Errorf("%q becomes %q", name, n)
		}
	})
}
