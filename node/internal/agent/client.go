package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync/atomic"
	"time"

	"offshoot/node/internal/install"
)

const (
	requestTimeout = 15 * time.Second // of config and event; the ledger may need an election in between
	stallTimeout   = 30 * time.Second // without a byte of the image, a connection counts as broken
	reconnects     = 40               // in a row without a byte, about 5 minutes: a restarted or replaced node is back by then
	maxReason      = 1 << 10          // bytes of an error page that are repeated
)

// client talks to the node that booted us. Everything it receives is bounded in size and time, and believed only after
// decoding or by digest.
type client struct {
	base string
	http *http.Client
	ear  *ear
	log  *slog.Logger
}

// refusal is an answer that asking again at once will not change.
type refusal struct {
	code   int
	reason string
}

func (r *refusal) Error() string { return fmt.Sprintf("the node refuses (%d): %s", r.code, r.reason) }

func newClient(base string, log *slog.Logger) (*client, error) {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil {
		return nil, fmt.Errorf("offshoot.url %q is not of the form http://<address>:<port>/b/<nonce>", base)
	}
	dialer := net.Dialer{Timeout: 5 * time.Second, KeepAlive: 10 * time.Second}
	ear := &ear{RoundTripper: &http.Transport{
		DialContext: dialer.DialContext, ResponseHeaderTimeout: requestTimeout, DisableCompression: true, IdleConnTimeout: time.Minute,
	}}
	ear.hear()
	return &client{
		base: strings.TrimSuffix(base, "/"), log: log, ear: ear,
		http: &http.Client{
			Transport: ear,
			// An address that we were not booted from has no business here.
			CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
		},
	}, nil
}

func (c *client) close() { c.http.CloseIdleConnections() }

// ear notes when the node was last heard, whatever it said.
type ear struct {
	http.RoundTripper
	last atomic.Int64 // nanoseconds since 1970
}

func (e *ear) hear() { e.last.Store(time.Now().UnixNano()) }

// silence is how long nothing was heard.
func (e *ear) silence() time.Duration { return time.Since(time.Unix(0, e.last.Load())) }

// RoundTrip implements http.RoundTripper.
func (e *ear) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := e.RoundTripper.RoundTrip(req)
	if err == nil {
		e.hear()
		resp.Body = &heardBody{resp.Body, e}
	}
	return resp, err
}

type heardBody struct {
	io.ReadCloser
	ear *ear
}

func (b *heardBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.ear.hear()
	}
	return n, err
}

// config asks for the install config: again while the node does not answer, not when it refuses.
func (c *client) config(ctx context.Context) (install.Config, error) {
	var cfg install.Config
	err := c.retry(ctx, 8, func(ctx context.Context) error {
		return c.do(ctx, http.MethodGet, "/install", nil, func(body io.Reader) (err error) {
			cfg, err = install.DecodeConfig(body)
			return err
		})
	})
	if err != nil {
		return install.Config{}, fmt.Errorf("fetch install config: %w", err)
	}
	return cfg, nil
}

// report sends an event that may get lost: the timeline must not stop an installation.
func (c *client) report(ctx context.Context, e install.Event) {
	err := c.retry(ctx, 3, func(ctx context.Context) error { return c.post(ctx, e) })
	if err != nil && ctx.Err() == nil {
		c.log.Warn("event lost", "phase", e.Phase, "error", err)
	}
}

// post sends one event once.
func (c *client) post(ctx context.Context, e install.Event) error {
	raw, err := json.Marshal(e)
	if err != nil {
		return err
	}
	return c.do(ctx, http.MethodPost, "/event", raw, nil)
}

func (c *client) do(ctx context.Context, method, path string, body []byte, read func(io.Reader) error) error {
	ctx, cancel := context.WithTimeout(ctx, requestTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := c.http.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return answer(resp)
	}
	if read == nil {
		_, _ = io.CopyN(io.Discard, resp.Body, maxReason) // so that the connection can be used again
		return nil
	}
	return read(resp.Body)
}

// answer turns a response that is not a success into an error, a refusal if the request is at fault.
func answer(resp *http.Response) error {
	text, _ := io.ReadAll(io.LimitReader(resp.Body, maxReason)) // what was read until an error is still worth showing
	reason := strings.Join(strings.Fields(strings.ToValidUTF8(string(text), "?")), " ")
	if reason == "" {
		reason = http.StatusText(resp.StatusCode)
	}
	if resp.StatusCode >= 400 && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests && resp.StatusCode != http.StatusRequestTimeout {
		return &refusal{resp.StatusCode, reason}
	}
	return fmt.Errorf("%s: %s", resp.Status, reason)
}

// retry tries what a moment's patience may mend.
func (c *client) retry(ctx context.Context, tries int, f func(context.Context) error) error {
	for wait := 500 * time.Millisecond; ; wait = min(2*wait, 8*time.Second) {
		err := f(ctx)
		var no *refusal
		tries--
		if err == nil || tries <= 0 || errors.As(err, &no) || ctx.Err() != nil {
			return err
		}
		c.log.Debug("request failed, trying again", "error", err)
		if err := pause(ctx, jitter(wait)); err != nil {
			return err
		}
	}
}

// download reads a stretch of one artifact, through broken connections. Close ends a Read that waits.
type download struct {
	c      *client
	ctx    context.Context //nolint:containedctx // a reader cannot take one per call
	cancel context.CancelFunc
	url    string
	size   int64 // where the stretch ends
	at     int64
	body   io.ReadCloser
	stall  *time.Timer
	failed int // connections in a row that brought nothing
}

func (c *client) download(ctx context.Context, url string, from, to int64) *download {
	ctx, cancel := context.WithCancel(ctx)
	return &download{c: c, ctx: ctx, cancel: cancel, url: url, at: from, size: to}
}

// Close may be called while Read runs, and several times.
func (d *download) Close() error {
	d.cancel()
	return nil
}

func (d *download) Read(p []byte) (int, error) {
	for d.at < d.size {
		if d.body == nil {
			if err := d.connect(); err != nil {
				return 0, err
			}
		}
		d.stall.Reset(stallTimeout)
		n, err := d.body.Read(p[:min(int64(len(p)), d.size-d.at)])
		d.at += int64(n)
		if n > 0 {
			d.failed = 0
		}
		if err != nil || d.at == d.size {
			d.drop()
			if err != nil && d.at < d.size {
				d.c.log.Warn("connection broke, resuming", "url", d.url, "at", d.at, "error", err)
			}
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, io.EOF
}

func (d *download) drop() {
	d.stall.Stop()
	_ = d.body.Close()
	d.body = nil
}

// connect asks for the rest, as often as needed.
func (d *download) connect() error {
	for wait := 250 * time.Millisecond; ; wait = min(2*wait, 10*time.Second) {
		if err := d.ctx.Err(); err != nil {
			return err
		}
		if d.failed++; d.failed > 1 {
			if err := pause(d.ctx, jitter(wait)); err != nil {
				return err
			}
		}
		err := d.request()
		var no *refusal
		if err == nil {
			return nil
		}
		if errors.As(err, &no) || d.failed >= reconnects {
			return fmt.Errorf("fetch %s from byte %d: %w", d.url, d.at, err)
		}
		d.c.log.Warn("image is not served, trying again", "url", d.url, "at", d.at, "error", err)
	}
}

func (d *download) request() error {
	ctx, cancel := context.WithCancel(d.ctx)
	resp, err := d.c.get(ctx, d.url, d.at, d.size) //nolint:bodyclose // drop closes it, when it ends or breaks
	if err != nil {
		cancel()
		return err
	}
	d.body = &cancelCloser{resp.Body, cancel}
	d.stall = time.AfterFunc(stallTimeout, cancel)
	return nil
}

type cancelCloser struct {
	io.ReadCloser
	cancel context.CancelFunc
}

func (c *cancelCloser) Close() error {
	c.cancel()
	return c.ReadCloser.Close()
}

// get asks for the bytes from at to end and accepts nothing else.
func (c *client) get(ctx context.Context, url string, at, end int64) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Range", fmt.Sprintf("bytes=%d-%d", at, end-1))
	resp, err := c.http.Do(req)
	if err != nil {
		return nil, err
	}
	switch {
	case resp.StatusCode == http.StatusPartialContent &&
		strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", at)):
		return resp, nil
	case resp.StatusCode == http.StatusOK && at == 0:
		return resp, nil
	case resp.StatusCode == http.StatusOK, resp.StatusCode == http.StatusPartialContent:
		err = &refusal{resp.StatusCode, "it does not resume a download (Range)"}
	default:
		err = answer(resp)
	}
	_ = resp.Body.Close()
	return nil, err
}

// random reads pieces of an artifact, for formats whose tables lie anywhere.
type random struct {
	c    *client
	ctx  context.Context //nolint:containedctx // an io.ReaderAt cannot take one per call
	url  string
	size int64
}

func (r random) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.size {
		return 0, io.EOF
	}
	want := p[:min(int64(len(p)), r.size-off)]
	err := r.c.retry(r.ctx, 8, func(ctx context.Context) error {
		ctx, cancel := context.WithTimeout(ctx, requestTimeout)
		defer cancel()
		resp, err := r.c.get(ctx, r.url, off, off+int64(len(want)))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		_, err = io.ReadFull(resp.Body, want)
		return err
	})
	if err != nil {
		return 0, fmt.Errorf("fetch %d bytes of %s from byte %d: %w", len(want), r.url, off, err)
	}
	if len(want) < len(p) {
		return len(want), io.EOF
	}
	return len(want), nil
}
