package share

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	pathPrefix = "/v1/artifact/"
	// enough is how much a round has to bring to count as none wasted: a peer that drips single bytes does not keep a
	// transfer going for ever.
	enough = 1 << 20
	// unknown stands among the sources of a transfer for bytes that an earlier run of the process left.
	unknown = "an earlier transfer"
	// readSize is one step of a transfer: progress, the idle clock and the context are looked at in between.
	readSize = 256 << 10
)

// transfer is one artifact on its way, from one peer after the other. It belongs to one goroutine.
type transfer struct {
	http   *HTTP
	digest Digest
	size   int64
	tell   func(done int64)

	part    *partialFile
	sources map[string]bool // whose bytes part holds
	// alone is set after a mismatch that could not be blamed on one peer: from then on a file comes from one peer only,
	// so that the next mismatch has a name.
	alone bool
}

func (t *transfer) run(ctx context.Context) error {
	store := t.http.opts.Store
	part, err := store.openPartial(ctx, t.digest, t.size)
	if err != nil {
		return err
	}
	t.part, t.sources = part, map[string]bool{}
	if part.size > 0 {
		t.sources[unknown] = true
	}
	if err := store.room(t.size - part.size); err != nil {
		return err
	}
	var last error
	for round := 0; round < maxRounds; {
		before := part.size
		done, err := t.round(ctx)
		if done {
			return nil
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err == nil || errors.Is(err, errOurs) {
			return err
		}
		last = err
		if part.size < before+enough {
			round++
		}
		if round == maxRounds {
			break
		}
		if err := pause(ctx, t.http.opts.Backoff<<max(round-1, 0)); err != nil {
			return err
		}
	}
	return last
}

// errOurs marks what no other peer could do better: our disk.
var errOurs = errors.New("cannot store it")

// round asks each peer once. It returns true when the artifact is in the store, else what was wrong with each peer.
func (t *transfer) round(ctx context.Context) (bool, error) {
	if t.part.size == t.size { // empty, or complete but for the last step when the process ended
		if ok, err := t.finish(); ok || err != nil {
			return ok, err
		}
	}
	peers := t.http.usable(t.digest)
	var causes []error
	found := false
	for _, peer := range peers {
		err := t.from(ctx, peer)
		if err == nil {
			var ok bool
			if ok, err = t.finish(); ok {
				return true, nil
			}
			if err == nil {
				err = ErrMismatch
			}
		}
		if ctx.Err() != nil || errors.Is(err, errOurs) {
			return false, err
		}
		t.http.log.Debug("peer did not bring the artifact", "digest", t.digest, "peer", peer, "bytes", t.part.size, "error", err)
		found = found || !errors.Is(err, ErrNotFound)
		causes = append(causes, fmt.Errorf("%s: %w", peer, err))
		if t.alone {
			if err := t.restart(); err != nil {
				return false, err
			}
		}
	}
	if !found {
		return false, fmt.Errorf("%w: none of %d peers has it", ErrNotFound, len(peers))
	}
	return false, errors.Join(causes...)
}

// finish holds the complete file against its digest. A mismatch costs the peer that sent it, and the bytes.
func (t *transfer) finish() (bool, error) {
	if t.part.matches(t.digest) {
		if err := t.http.opts.Store.adopt(t.part.File, t.digest); err != nil {
			return false, fmt.Errorf("%w: %w", errOurs, err)
		}
		t.http.log.Debug("artifact fetched", "digest", t.digest, "bytes", t.size, "from", sorted(t.sources))
		return true, nil
	}
	from := sorted(t.sources)
	switch {
	case len(from) == 1 && from[0] == unknown:
		t.http.log.Info("what an earlier transfer left is bad: starting afresh", "digest", t.digest)
	case len(from) == 1:
		t.http.ban(from[0])
		t.http.log.Warn("peer sent bad bytes: it is not asked again for an hour", "digest", t.digest, "peer", from[0])
	default:
		t.alone = true
		t.http.log.Warn("bad bytes from one of several sources: fetching from one at a time", "digest", t.digest, "sources", from)
	}
	return false, t.restart()
}

func (t *transfer) restart() error {
	clear(t.sources)
	if err := t.part.restart(); err != nil {
		return fmt.Errorf("%w: %w", errOurs, err)
	}
	t.tell(0)
	return nil
}

func sorted(set map[string]bool) []string { return slices.Sorted(maps.Keys(set)) }

// from appends what one peer has, and returns nil when the file is complete.
func (t *transfer) from(ctx context.Context, peer string) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	idle := time.AfterFunc(t.http.opts.Idle, func() { cancel(fmt.Errorf("silent for %s", t.http.opts.Idle)) })
	defer idle.Stop()
	resp, err := t.ask(ctx, peer)
	if err != nil {
		return cause(ctx, err)
	}
	defer func() { _ = resp.Body.Close() }() // only read
	if err := t.accept(resp); err != nil {
		return err
	}
	defer t.http.hears(t.digest)()
	received := tab{tell: func(n int64) { t.http.opts.Moved(Move{Digest: t.digest, Peer: peer, Received: n}) }}
	defer received.settle()
	body := io.LimitReader(resp.Body, t.size-t.part.size)
	buf := make([]byte, readSize)
	for t.part.size < t.size {
		n, err := body.Read(buf)
		idle.Reset(t.http.opts.Idle)
		if n > 0 {
			t.sources[peer] = true
			received.add(n)
			if _, err := t.part.Write(buf[:n]); err != nil {
				return fmt.Errorf("%w: %w", errOurs, err)
			}
			t.tell(t.part.size)
		}
		if err != nil && t.part.size < t.size {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF
			}
			return cause(ctx, fmt.Errorf("after %d of %d bytes: %w", t.part.size, t.size, err))
		}
	}
	return nil
}

// cause prefers the reason for which the request was cancelled to the word "cancelled".
func cause(ctx context.Context, err error) error {
	if c := context.Cause(ctx); c != nil {
		return c
	}
	return err
}

func (t *transfer) ask(ctx context.Context, peer string) (*http.Response, error) {
	url := strings.TrimSuffix(peer, "/") + pathPrefix + string(t.digest)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Header.Set("Accept-Encoding", "identity") // a transport that unpacks would undo Range and length
	if t.part.size > 0 {
		req.Header.Set("Range", fmt.Sprintf("bytes=%d-", t.part.size))
	}
	client := *t.http.opts.Client(peer)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse } // a peer answers itself
	return client.Do(req)
}

// accept makes part ready for the body of resp, or says why that is of no use.
func (t *transfer) accept(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusOK:
		if resp.ContentLength >= 0 && resp.ContentLength != t.size {
			return fmt.Errorf("%w: it has %d bytes, wanted %d", ErrMismatch, resp.ContentLength, t.size)
		}
		if t.part.size > 0 { // it does not know Range: from the start
			return t.restart()
		}
		return nil
	case http.StatusPartialContent:
		want := fmt.Sprintf("bytes %d-%d/%d", t.part.size, t.size-1, t.size)
		if got := resp.Header.Get("Content-Range"); got != want {
			return fmt.Errorf("%w: asked for %q, got %q", ErrMismatch, want, got)
		}
		return nil
	case http.StatusNotFound:
		return ErrNotFound
	case http.StatusRequestedRangeNotSatisfiable:
		return fmt.Errorf("%w: it has other than %d bytes", ErrMismatch, t.size)
	default:
		return fmt.Errorf("answered %s", resp.Status)
	}
}

// pause waits between half of d and all of it, so that nodes that failed together do not come back together.
func pause(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d/2 + rand.N(d/2+1))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// writeTime is how long a fetcher may take for one piece of an answer before it is hung up on.
const writeTime = 30 * time.Second

// Handler serves GET and HEAD of /v1/artifact/<digest> with Range and ETag, for artifacts that are here and whole. All
// else is 404. Who may ask is decided in front of it.
func (h *HTTP) Handler() http.Handler { return http.HandlerFunc(h.serve) }

func (h *HTTP) serve(w http.ResponseWriter, r *http.Request) {
	name, ok := strings.CutPrefix(r.URL.Path, pathPrefix)
	d, err := ParseDigest(name)
	if !ok || err != nil {
		http.NotFound(w, r)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "only GET and HEAD", http.StatusMethodNotAllowed)
		return
	}
	f, err := h.opts.Store.Open(d)
	if errors.Is(err, ErrNotFound) {
		http.NotFound(w, r)
		return
	}
	if err != nil {
		h.log.Warn("cannot serve artifact", "digest", d, "error", err)
		http.Error(w, "cannot read it", http.StatusInternalServerError)
		return
	}
	defer func() { _ = f.Close() }() // only read
	w.Header().Set("Content-Type", "application/octet-stream")
	w.Header().Set("ETag", `"`+string(d)+`"`)
	w.Header().Set("Cache-Control", "public, max-age=31536000, immutable")
	sent := tab{tell: func(n int64) { h.opts.Moved(Move{Digest: d, Peer: h.opts.Caller(r), Sent: n}) }}
	defer sent.settle()
	http.ServeContent(&pacedWriter{ResponseWriter: w, ctl: http.NewResponseController(w), sent: &sent}, r, "", time.Time{}, f)
}

// pacedWriter moves the write deadline along with each piece, so that a large artifact may take long and a dead reader
// may not.
type pacedWriter struct {
	http.ResponseWriter
	ctl  *http.ResponseController
	sent *tab
}

func (p *pacedWriter) Write(b []byte) (int, error) {
	// Not every connection can: in tests there is none.
	if err := p.ctl.SetWriteDeadline(time.Now().Add(writeTime)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return 0, err
	}
	n, err := p.ResponseWriter.Write(b)
	p.sent.add(n)
	return n, err
}
