package web

import (
	"io"
	"net/http"
)

// counted tells how many bytes of a body were sent.
type counted struct {
	http.ResponseWriter
	sent   func(n int64)
	failed bool // the body is words of ours
}

// WriteHeader implements http.ResponseWriter.
func (c *counted) WriteHeader(code int) {
	c.failed = code >= 300
	c.ResponseWriter.WriteHeader(code)
}

// step is how much is sent between two words about it.
const step = 16 << 20

// Write implements io.Writer.
func (c *counted) Write(b []byte) (int, error) {
	n, err := c.ResponseWriter.Write(b)
	c.tell(int64(n))
	return n, err
}

// ReadFrom implements io.ReaderFrom: without it the kernel would not send the file by itself (sendfile). That takes a
// LimitedReader right around the file, so one around it is taken apart.
func (c *counted) ReadFrom(r io.Reader) (n int64, err error) {
	into, ok := c.ResponseWriter.(io.ReaderFrom)
	limited, bounded := r.(*io.LimitedReader)
	if !ok || !bounded {
		return io.Copy(struct{ io.Writer }{c}, r)
	}
	for limited.N > 0 {
		part := &io.LimitedReader{R: limited.R, N: min(limited.N, step)}
		want := part.N
		k, err := into.ReadFrom(part)
		n += k
		limited.N -= k
		c.tell(k)
		if err != nil || k < want {
			return n, err
		}
	}
	return n, nil
}

func (c *counted) tell(n int64) {
	if n > 0 && !c.failed {
		c.sent(n)
	}
}
