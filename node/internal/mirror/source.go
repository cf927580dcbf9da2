package mirror

import (
	"context"
	"errors"
	"fmt"
	"io"
	"mime"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"offshoot/node/internal/archive"
)

var (
	// errMissing: the source answered that it has no such file.
	errMissing = errors.New("not there")
	// errStalled: the source takes too long.
	errStalled = errors.New("it has stalled")
)

const (
	maxRedirects = 5
	// payStep is the most that is read at once under a limit: who reads more waits longer for it, and all others behind him.
	payStep = 16 << 10
	// paceStep is how many bytes have to arrive within the idle time: who drips single bytes has stalled.
	paceStep = 64 << 10
	// hopHeader counts the mirrors that a request has passed, so that a circle of parents ends, and tells a parent that
	// who asks pins for itself.
	hopHeader = "Offshoot-Mirror"
	maxHops   = 8
)

// source is one place above: an upstream of a repository, or the parent's mirror. It is safe for concurrent use.
type source struct {
	base   *url.URL // ends with /
	parent bool
	slots  chan struct{} // requests under way
	pace   *bucket       // bytes; all upstreams of a repository take from one
	head   time.Duration // until the header has come
	idle   time.Duration // for paceStep bytes
	// client follows no redirect; strange is for other hosts than base's, and does not dial addresses of this machine.
	client, strange *http.Client // strange is nil for a parent
	now             func() time.Time
	bytes           atomic.Int64

	mu     sync.Mutex
	err    error // of the last request, nil if it was answered
	failed time.Time
}

// question is what is asked of a source.
type question struct {
	path string
	from int64 // first byte wanted
	// etag and modified make the request conditional; they came with an earlier answer of this very source.
	etag, modified string
	// checked: digest or signature will be looked at. Only then may the answer come from another host.
	checked bool
	hops    int
}

// answer is a response whose status is 200, 206 or 304. Its Body must be closed: until then it holds a slot.
type answer struct {
	*http.Response
	body *pacedBody
}

func (a *answer) Read(p []byte) (int, error) { return a.body.Read(p) }
func (a *answer) Close() error               { return a.body.Close() }

// get asks, and follows redirects. Errors are noted: a source that fails is asked last for a while.
func (s *source) get(ctx context.Context, q question) (*answer, error) {
	a, err := s.ask(ctx, q)
	if err != nil {
		err = fmt.Errorf("%s: %w", s.base.Redacted(), err)
	}
	if ctx.Err() == nil {
		s.note(err)
	}
	return a, err
}

// note remembers how the source fares.
func (s *source) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if errors.Is(err, errMissing) {
		err = nil // an answer like another
	}
	s.err = err
	if err != nil {
		s.failed = s.now()
	}
}

// downSince says when the source failed last; zero if its last answer was good.
func (s *source) downSince() (time.Time, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return time.Time{}, nil
	}
	return s.failed, s.err
}

func (s *source) ask(ctx context.Context, q question) (*answer, error) {
	select {
	case s.slots <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	stalls := func() bool { return errors.Is(context.Cause(ctx), errStalled) }
	timer := time.AfterFunc(s.head, func() { cancel(errStalled) })
	free := func() {
		timer.Stop()
		cancel(nil)
		<-s.slots
	}
	resp, err := s.follow(ctx, q)
	timer.Stop()
	if err == nil {
		if err = fit(resp, q); err != nil {
			_ = resp.Body.Close()
		}
	}
	if err != nil {
		if stalls() {
			err = errStalled
		}
		free()
		return nil, err
	}
	pay, step := func(n int) error { return s.pace.wait(ctx, n) }, 0
	if s.pace.rate > 0 {
		step = payStep
	}
	return &answer{resp, &pacedBody{ReadCloser: resp.Body, source: s, timer: timer, stalls: stalls, pay: pay, step: step, free: free}}, nil
}

// fit refuses what cannot be an answer to the question.
func fit(resp *http.Response, q question) error {
	switch resp.StatusCode {
	case http.StatusOK:
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), "bytes "+strconv.FormatInt(q.from, 10)+"-") {
			return fmt.Errorf("it sends the range %q, not the one from %d", resp.Header.Get("Content-Range"), q.from)
		}
	case http.StatusNotModified:
		if q.etag == "" && q.modified == "" {
			return errors.New("304 without a condition")
		}
		return nil
	case http.StatusNotFound, http.StatusGone:
		return errMissing
	default:
		return fmt.Errorf("it answers %s", resp.Status)
	}
	if enc := resp.Header.Get("Content-Encoding"); enc != "" && enc != "identity" {
		return fmt.Errorf("it sends the file encoded as %q, which nobody asked for", enc)
	}
	if kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type")); kind == "text/html" {
		return archive.ErrPortal
	}
	return nil
}

// follow does the request and up to maxRedirects more. To another host it goes only for what is checked afterwards,
// never from https to http, and never to addresses of this machine or link: a repository has no business there.
func (s *source) follow(ctx context.Context, q question) (*http.Response, error) {
	target, err := s.base.Parse(escape(q.path))
	if err != nil {
		return nil, err
	}
	for range maxRedirects + 1 {
		client := s.client
		if target.Host != s.base.Host {
			client = s.strange
		}
		if client == nil {
			return nil, fmt.Errorf("a parent's mirror redirects to %s", target.Host)
		}
		resp, err := client.Do(s.request(ctx, target, q))
		if err != nil {
			return nil, err
		}
		next, err := redirect(resp, target)
		if err != nil {
			_ = resp.Body.Close()
			return nil, err
		}
		if next == nil {
			return resp, nil
		}
		_ = resp.Body.Close()
		if next.Host != s.base.Host && !q.checked {
			return nil, fmt.Errorf("it redirects to %s, which is followed only for files that can be checked", next.Host)
		}
		target = next
	}
	return nil, fmt.Errorf("more than %d redirects", maxRedirects)
}

func (s *source) request(ctx context.Context, target *url.URL, q question) *http.Request {
	req := &http.Request{Method: http.MethodGet, URL: target, Host: target.Host, Header: http.Header{}}
	req.Header.Set("User-Agent", "offshoot")
	if s.parent {
		req.Header.Set(hopHeader, strconv.Itoa(q.hops+1))
	}
	if q.from > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", q.from))
	}
	if q.etag != "" {
		req.Header.Set("If-None-Match", q.etag)
	}
	if q.modified != "" {
		req.Header.Set("If-Modified-Since", q.modified)
	}
	return req.WithContext(ctx)
}

// redirect is where a response leads, nil if it is the answer.
func redirect(resp *http.Response, from *url.URL) (*url.URL, error) {
	switch resp.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
	default:
		return nil, nil
	}
	next, err := from.Parse(resp.Header.Get("Location"))
	if err != nil || resp.Header.Get("Location") == "" {
		return nil, errors.New("it redirects to nowhere")
	}
	if next.Scheme != "https" && (next.Scheme != "http" || from.Scheme == "https") {
		return nil, fmt.Errorf("it redirects from %s to %s", from.Scheme, next.Scheme)
	}
	return next, nil
}

// pacedBody is the body of an answer, held to rate and idle time. Only time spent within Read counts: a slow client of
// ours is not the source's fault, nor is our own limit.
type pacedBody struct {
	io.ReadCloser
	source *source
	timer  *time.Timer // cancels the request
	stalls func() bool
	pay    func(n int) error
	step   int // the most that is read at once; 0: whatever comes
	free   func()
	once   sync.Once
	got    int           // bytes since the clock was wound
	spent  time.Duration // waiting for them
}

func (b *pacedBody) Read(p []byte) (int, error) {
	if b.step > 0 {
		p = p[:min(len(p), b.step)]
	}
	begin := time.Now()
	b.timer.Reset(max(b.source.idle-b.spent, time.Millisecond))
	n, err := b.ReadCloser.Read(p)
	b.timer.Stop()
	b.source.bytes.Add(int64(n))
	b.spent += time.Since(begin)
	if b.got += n; b.got >= paceStep {
		b.got, b.spent = 0, 0
	}
	if err != nil && !errors.Is(err, io.EOF) && b.stalls() {
		return n, errStalled
	}
	if unpaid := b.pay(n); err == nil { // the last bytes often come together with the end
		err = unpaid
	}
	return n, err
}

func (b *pacedBody) Close() error {
	err := b.ReadCloser.Close()
	b.once.Do(b.free)
	return err
}

// transport is one for sources. inner: also to addresses of this machine, where an operator's own mirror may be.
func transport(proxy *url.URL, inner bool) *http.Transport {
	d := &net.Dialer{Timeout: 10 * time.Second}
	if !inner && proxy == nil {
		d.Control = func(_, address string, _ syscall.RawConn) error {
			a, err := netip.ParseAddrPort(address)
			if err != nil {
				return err
			}
			if ip := a.Addr().Unmap(); ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsMulticast() || ip.IsUnspecified() {
				return fmt.Errorf("a redirect leads to %s, an address of this machine or link", ip)
			}
			return nil
		}
	}
	t := &http.Transport{
		DialContext: d.DialContext, TLSHandshakeTimeout: 10 * time.Second, DisableCompression: true,
		MaxIdleConnsPerHost: defaultPerUpstream, IdleConnTimeout: time.Minute, MaxResponseHeaderBytes: 64 << 10,
		WriteBufferSize: 4 << 10, ReadBufferSize: 64 << 10, ForceAttemptHTTP2: true,
	}
	if proxy != nil {
		t.Proxy = http.ProxyURL(proxy)
		// net/http would offer HTTP/2 to a proxy behind TLS as well, and then send it CONNECT in the words of HTTP/1.
		t.ForceAttemptHTTP2 = proxy.Scheme == "http"
	}
	return t
}
