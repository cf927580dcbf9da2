package mirror

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path"
	"strconv"
	"strings"
	"time"
)

// prefix is where repositories are, below it their names.
const prefix = "/repo/"

// Wrap lets the mirror answer what is its own, repositories and proxy requests, and next the rest. It has to stand
// before a ServeMux, which would tidy paths up that are to be refused.
func (m *Mirror) Wrap(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodConnect || isProxied(r) || strings.HasPrefix(r.URL.Path, prefix) {
			m.ServeHTTP(w, r)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// isProxied says whether the request is for another server. RFC 9112, 3.2.2: ours may be named in full, too.
func isProxied(r *http.Request) bool {
	if !r.URL.IsAbs() {
		return false
	}
	local, ok := r.Context().Value(http.LocalAddrContextKey).(net.Addr)
	return !ok || local.String() != r.URL.Host
}

// visit is one request that was let in.
type visit struct {
	w       *countedWriter
	r       *http.Request
	repo    *repo
	path    string
	client  netip.Addr
	install string
	key     string // what pins; "" for a mirror that asks for its own clients
	hops    int
}

// ServeHTTP answers GET and HEAD of /repo/<name>/<path>, and of http:// URLs below an upstream.
func (m *Mirror) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodConnect {
		http.Error(w, "this proxy does not tunnel: name the repository with http://, or as "+prefix+"<name>/", http.StatusMethodNotAllowed)
		return
	}
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		http.Error(w, "a repository is only read", http.StatusMethodNotAllowed)
		return
	}
	p, err := requestPath(r.URL)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	v := &visit{w: &countedWriter{ResponseWriter: w}, r: r}
	if isProxied(r) {
		v.repo, v.path = m.proxied(r.URL, p)
		if v.repo == nil {
			http.Error(w, fmt.Sprintf("%s is not an upstream of a repository here: this is no general proxy", r.URL.Host), http.StatusForbidden)
			return
		}
	} else if v.repo, v.path = m.local(p); v.repo == nil {
		http.Error(w, "no such repository: want "+prefix+"<name>/<path>", http.StatusNotFound)
		return
	}
	if err := v.who(m); err != nil {
		http.Error(w, err.Error(), http.StatusLoopDetected)
		return
	}
	if err := m.serve(v); err != nil {
		v.fail(err)
	}
}

// local finds the repository of a path below prefix.
func (m *Mirror) local(p string) (*repo, string) {
	rest, ok := strings.CutPrefix("/"+p, prefix)
	if !ok {
		return nil, ""
	}
	name, rest, ok := strings.Cut(rest, "/")
	if r := m.repo(name); ok && r != nil {
		return r, rest
	}
	return nil, ""
}

func (m *Mirror) repo(name string) *repo {
	for _, r := range m.repos {
		if r.Name == name {
			return r
		}
	}
	return nil
}

// proxied finds the repository that has an upstream at a URL; of several the one whose URL says most.
func (m *Mirror) proxied(u *url.URL, p string) (*repo, string) {
	var best *repo
	rest, most := "", -1
	for _, r := range m.repos {
		for _, s := range r.upstreams {
			if !strings.EqualFold(hostPort(u), hostPort(s.base)) {
				continue
			}
			after, ok := strings.CutPrefix("/"+p, s.base.Path)
			if ok && len(s.base.Path) > most {
				best, rest, most = r, after, len(s.base.Path)
			}
		}
	}
	return best, rest
}

// hostPort is a URL's host, with its port if that is not the usual one of either scheme: who has http_proxy set says
// http for an upstream that we reach by https.
func hostPort(u *url.URL) string {
	if port := u.Port(); port != "" && port != "80" && port != "443" {
		return net.JoinHostPort(u.Hostname(), port)
	}
	return u.Hostname()
}

func (v *visit) who(m *Mirror) error {
	if from, err := netip.ParseAddrPort(v.r.RemoteAddr); err == nil {
		v.client = from.Addr().Unmap()
	}
	if text := v.r.Header.Get(hopHeader); text != "" {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > maxHops {
			return fmt.Errorf("this request has passed %.10q mirrors: are two of them each other's parent?", text)
		}
		v.hops = n
		return nil
	}
	if m.o.Install != nil {
		v.install = m.o.Install(v.client)
	}
	v.key = "address " + v.client.String()
	if v.install != "" {
		v.key = "install " + v.install
	}
	return nil
}

// fail answers an error, if nothing was sent yet; else the transfer is cut short.
func (v *visit) fail(err error) {
	if v.w.status != 0 {
		panic(http.ErrAbortHandler) // the client sees an end before the length that was announced
	}
	for _, name := range []string{"ETag", "Last-Modified", "Cache-Control", "Content-Type", "Content-Length"} {
		v.w.Header().Del(name)
	}
	switch {
	case errors.Is(err, errMissing):
		http.Error(v.w, err.Error(), http.StatusNotFound)
	case errors.Is(err, errBusy), errors.Is(err, errClosed):
		v.w.Header().Set("Retry-After", "1")
		http.Error(v.w, err.Error(), http.StatusServiceUnavailable)
	default:
		http.Error(v.w, fmt.Sprintf("%s/%s: %v", v.repo.Name, v.path, err), http.StatusBadGateway)
	}
}

func (m *Mirror) serve(v *visit) error {
	ctx := v.r.Context()
	t := v.repo.lookupMetadata(v.key, v.path)
	if t == nil {
		if dir, name, ok := mutableFile(v.path); ok {
			return m.serveMutable(v, dir, name)
		}
		var err error
		if t, err = v.repo.find(ctx, v.key, v.path, v.hops); err != nil {
			return err
		}
	}
	if t == nil {
		return m.serveUnlisted(v)
	}
	return m.serveFile(v, t)
}

func (m *Mirror) serveMutable(v *visit, dir, name string) error {
	s, err := v.repo.state(v.r.Context(), v.key, dir, name, v.hops)
	if err != nil {
		return err
	}
	data := s.files[name]
	if data == nil {
		return fmt.Errorf("%s of %s: %w", name, dir, errMissing)
	}
	h := v.w.Header()
	h.Set("Content-Type", "text/plain; charset=utf-8")
	if strings.Contains(name, ".xml") {
		h.Set("Content-Type", "text/xml")
	}
	h.Set("ETag", `"`+s.etags[name]+`"`)
	h.Set("Cache-Control", "no-cache")
	// A client may have a newer state than the one that it is pinned to: "not newer" would then be no answer.
	if since, err := http.ParseTime(v.r.Header.Get("If-Modified-Since")); err != nil || !since.Equal(s.modified) {
		v.r.Header.Del("If-Modified-Since")
	}
	http.ServeContent(v.w, v.r, "", s.modified, bytes.NewReader(data))
	m.tell(v, "", int64(len(data)), "")
	return nil
}

// state is what a client gets to see of a directory's mutable files.
func (r *repo) state(ctx context.Context, key, dir, name string, hops int) (*snapshot, error) {
	if s := r.pinned(key, dir); s != nil && s.files[name] != nil {
		return s, nil
	}
	p := path.Join(dir, name)
	if r.misses.has(p) {
		return nil, errMissing
	}
	if !r.hasRoot(dir) && !r.luck.try() {
		return nil, fmt.Errorf("%w: too many were asked for that are not there", errBusy)
	}
	rt, err := r.root(dir)
	if err != nil {
		return nil, err
	}
	s, err := rt.current(ctx, name, hops)
	if err != nil {
		if errors.Is(err, errMissing) {
			r.drop(rt)
			r.misses.add(p)
		}
		return nil, err
	}
	r.adopt(rt)
	r.pin(key, dir, s)
	return s, nil
}

// find is lookup, after which the metadata of a directory is asked for that a client seems to know from elsewhere: the
// node that served it before us, or a state that came a moment ago.
func (r *repo) find(ctx context.Context, key, p string, hops int) (*target, error) {
	t, err := r.lookup(ctx, key, p, hops)
	before, rest, ok := strings.Cut("/"+p, "/dists/")
	suite, _, below := strings.Cut(rest, "/")
	if t != nil || err != nil || !ok || !below || r.misses.has(p) {
		return t, err
	}
	dir := strings.TrimPrefix(before+"/dists/"+suite, "/")
	if _, err := r.state(ctx, "", dir, inRelease, hops); err != nil {
		return nil, nil // then nothing names it
	}
	if t = r.lookupMetadata(key, p); t == nil {
		r.misses.add(p)
	}
	return t, nil
}

// serveFile gives out a file that metadata names: from the store, or while it arrives.
func (m *Mirror) serveFile(v *visit, t *target) error {
	digest := t.Sum.String()
	h := v.w.Header()
	h.Set("ETag", `"`+digest+`"`)
	h.Set("Content-Type", contentType(v.path))
	if v.r.Method == http.MethodHead {
		h.Set("Content-Length", strconv.FormatInt(t.Size, 10))
		return nil
	}
	m.noticeIndex(t, v.hops)
	if c, err := m.o.Store.Open(digest); err == nil {
		defer func() { _ = c.Close() }()
		http.ServeContent(v.w, v.r, "", time.Time{}, c)
		t.repo.fromStore.Add(v.w.bytes)
		m.tell(v, digest, t.Size, t.by)
		return nil
	}
	if t.repo.misses.has(v.path) {
		return errMissing
	}
	f, err := m.join(t, v.hops)
	if err != nil {
		return err
	}
	reader := f.reader(v.r.Context())
	defer reader.close()
	if err := f.started(v.r.Context()); err != nil {
		if errors.Is(err, errNoRoom) {
			return m.through(v, t)
		}
		if errors.Is(err, errMissing) {
			t.repo.misses.add(v.path)
		}
		return err
	}
	if !f.readable() {
		c, err := m.o.Store.Open(digest) // peers brought it
		if err != nil {
			return err
		}
		defer func() { _ = c.Close() }()
		http.ServeContent(v.w, v.r, "", time.Time{}, c)
		m.tell(v, digest, t.Size, t.by)
		return nil
	}
	http.ServeContent(v.w, v.r, "", time.Time{}, reader)
	if reader.err != nil {
		return reader.err
	}
	m.tell(v, digest, t.Size, t.by)
	return nil
}

// noticeIndex remembers that packages will be looked up in this index, and reads it before the first is asked for.
func (m *Mirror) noticeIndex(t *target, hops int) {
	if t.root == nil || !t.isIndex {
		return
	}
	t.root.hold(t.name)
	m.spawn(func(ctx context.Context) {
		if _, err := t.repo.index(ctx, t, hops, true); err != nil {
			m.log.Debug("index not read ahead", "repo", t.repo.Name, "index", t.name, "error", err)
		}
	})
}

// tell reports a file that was sent whole.
func (m *Mirror) tell(v *visit, digest string, size int64, by string) {
	if m.o.Served == nil || v.r.Method != http.MethodGet || v.w.status != http.StatusOK || v.w.bytes != size {
		return
	}
	m.o.Served(Served{
		Repo: v.repo.Name, Path: v.path, Client: v.client, Install: v.install, Digest: digest, Size: size, Verified: by,
	})
}

func contentType(p string) string {
	switch path.Ext(p) {
	case ".deb", ".udeb":
		return "application/vnd.debian.binary-package"
	case ".rpm":
		return "application/x-rpm"
	case ".xml":
		return "text/xml"
	}
	return "application/octet-stream"
}

// countedWriter knows what was sent. Files go the short way through the kernel all the same.
type countedWriter struct {
	http.ResponseWriter
	status int
	bytes  int64
}

// writeTime is how long a client may take for one step of what is streamed without being kept: it holds a place at the
// source meanwhile.
const writeTime = 30 * time.Second

func (w *countedWriter) WriteHeader(code int) {
	w.status = code
	w.ResponseWriter.WriteHeader(code)
}

func (w *countedWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := w.ResponseWriter.Write(p)
	w.bytes += int64(n)
	return n, err
}

func (w *countedWriter) ReadFrom(r io.Reader) (int64, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	n, err := io.Copy(w.ResponseWriter, r)
	w.bytes += n
	return n, err
}

// send writes with a deadline.
func (w *countedWriter) send(p []byte) error {
	_ = http.NewResponseController(w.ResponseWriter).SetWriteDeadline(time.Now().Add(writeTime)) // some writers have none
	_, err := w.Write(p)
	return err
}
