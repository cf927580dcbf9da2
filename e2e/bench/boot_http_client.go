package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/textproto"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"offshoot/e2e/lab"
)

// getter fetches by HTTP on one connection that stays open, and has the kernel throw the bodies away: what is measured is the
// server, not a client that shares its processors.
type getter struct {
	conn *net.TCPConn
	raw  syscall.RawConn
	host string
	buf  []byte
}

func newGetter(ctx context.Context, from *lab.Host, at string) (*getter, error) {
	c, err := from.Dial(ctx, "tcp", at)
	if err != nil {
		return nil, err
	}
	g := &getter{conn: c.(*net.TCPConn), host: at, buf: make([]byte, 1<<20)}
	g.raw, err = g.conn.SyscallConn()
	return g, err
}

// get returns how long the body was. It must be a plain answer with a length.
func (g *getter) get(path string) (int64, error) {
	if _, err := fmt.Fprintf(g.conn, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", path, g.host); err != nil {
		return 0, err
	}
	n := 0
	var head []byte
	for head == nil {
		k, err := g.conn.Read(g.buf[n:4096])
		if err != nil {
			return 0, fmt.Errorf("%s: %w", path, err)
		}
		n += k
		if end := bytes.Index(g.buf[:n], []byte("\r\n\r\n")); end >= 0 {
			head = g.buf[:end]
		} else if n == 4096 {
			return 0, fmt.Errorf("%s: a header without end", path)
		}
	}
	lines := strings.Split(string(head), "\r\n")
	length := int64(-1)
	for _, line := range lines[1:] {
		if key, value, _ := strings.Cut(line, ":"); textproto.CanonicalMIMEHeaderKey(key) == "Content-Length" {
			length, _ = strconv.ParseInt(strings.TrimSpace(value), 10, 64) // 0 then, which nobody expects
		}
	}
	if !strings.HasPrefix(lines[0], "HTTP/1.1 200 ") || length < 0 {
		return 0, fmt.Errorf("%s: %s", path, lines[0])
	}
	return length, g.discard(length - int64(n-len(head)-4))
}

// discard drops what is still to come (tcp(7): MSG_TRUNC).
func (g *getter) discard(left int64) error {
	for left > 0 {
		var n int
		var err error
		if rerr := g.raw.Read(func(fd uintptr) bool {
			n, _, err = unix.Recvfrom(int(fd), g.buf[:min(left, int64(len(g.buf)))], unix.MSG_TRUNC)
			return !errors.Is(err, unix.EAGAIN)
		}); rerr != nil {
			return rerr
		}
		if err == nil && n == 0 {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			return err
		}
		left -= int64(n)
	}
	return nil
}

// read fetches a file with an ordinary client, to compare it.
func read(ctx context.Context, c *http.Client, url string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	resp, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %.200s", url, resp.Status, body)
	}
	return body, err
}
