package api

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"

	"offshoot/node/status"
)

// maxUpload bounds one artifact, bytes: more than any image or ISO that is installed from.
const maxUpload = 256 << 30

// maxArtifactName bounds what an artifact is called, bytes.
const maxArtifactName = 200

// Upload is what an operator says of bytes that he sends.
type Upload struct {
	Name     string // what they are called
	Origin   string // where they came from; "": from him
	Verified string // the chain that he checked; "": he vouches for them
	SHA256   string // what they must be; "": whatever they are
}

func (u Upload) query() string {
	q := url.Values{"name": {u.Name}}
	for key, value := range map[string]string{"origin": u.Origin, "verified": u.Verified, "sha256": u.SHA256} {
		if value != "" {
			q.Set(key, value)
		}
	}
	return q.Encode()
}

// upload stores the body as an artifact, and answers with it.
func upload(q *request) (any, error) {
	said := q.URL.Query()
	u := Upload{said.Get("name"), said.Get("origin"), said.Get("verified"), said.Get("sha256")}
	if u.Name == "" || len(u.Name) > maxArtifactName || u.Name != path.Base(u.Name) || printable(u.Name, maxArtifactName) != u.Name {
		return nil, fmt.Errorf("%w: name %q: want what the artifact is called, without a folder", errBad, printable(u.Name, maxArtifactName))
	}
	return q.desk.AddArtifact(q.Context(), q.caller.Actor(), u, q.ContentLength, http.MaxBytesReader(q.w, q.Body, maxUpload))
}

// Upload sends a file to the node, which keeps it as an artifact. said, if not nil, is told of every piece that was sent.
func (c *Client) Upload(ctx context.Context, file string, u Upload, said func(sent, size int64)) (status.Artifact, error) {
	var a status.Artifact
	f, err := os.Open(file)
	if err != nil {
		return a, err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return a, err
	}
	if !info.Mode().IsRegular() {
		return a, fmt.Errorf("%s is no regular file", file)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPut, "http://offshoot/v1/artifacts?"+u.query(), &told{Reader: f, size: info.Size(), said: said})
	if err != nil {
		return a, err
	}
	req.ContentLength = info.Size()
	err = c.answer(req, &a)
	return a, err
}

// told counts what is read.
type told struct {
	io.Reader
	sent, size int64
	said       func(sent, size int64)
}

func (t *told) Read(p []byte) (int, error) {
	n, err := t.Reader.Read(p)
	t.sent += int64(n)
	if t.said != nil && n > 0 {
		t.said(t.sent, t.size)
	}
	return n, err
}
