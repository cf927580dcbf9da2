// Package mirror is a read-through cache of package repositories that apt, mmdebstrap, debian-installer and dnf see as a
// plain mirror: GET /repo/<name>/<path>, or as a plain HTTP proxy for the hosts of its upstreams.
//
// It believes nothing that it passes on: the keyring vouches for InRelease or repomd.xml, these for the lists of
// packages, those for each package. A file that nothing names is refused, and one that does not match never reaches a
// client as a whole. It refuses to be a general proxy, to tunnel, to list directories, and to decide what its store
// throws away. Who its peers and parents are comes in as functions. Only node imports it. See DESIGN.md.
package mirror

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// defaultPerUpstream is how many requests one upstream gets at once. apt alone would use one connection; debian's
// mirrors bear more, and a rack that installs needs it.
const defaultPerUpstream = 8

// errClosed: Close was called.
var errClosed = errors.New("the mirror is being closed")

// Store keeps files by their SHA-256 (64 lower case hexadecimal digits). The mirror calls it from many goroutines.
type Store interface {
	// Has says whether Open would find it.
	Has(digest string) bool
	// Open reads a file; any error means that it is not here. An *os.File is sent without copying.
	Open(digest string) (io.ReadSeekCloser, error)
	// Insert keeps what r gives and returns its digest; it is called with verified bytes. An error leaves nothing behind.
	Insert(ctx context.Context, r io.Reader) (digest string, err error)
}

// Repo is one repository.
type Repo struct {
	// Name stands in URLs: lower case letters, digits, dot and hyphen.
	Name string
	// Upstreams are base URLs, asked in this order.
	Upstreams []string
	// Keyring has the OpenPGP keys that may sign, armored or not; without, the repository is unverified, and only held to its own
	// sums.
	Keyring []byte
	// PassUnlisted streams files through that no metadata names, without checking or keeping them. Else they are refused.
	PassUnlisted bool
	// Proxy, if set, is the URL of the HTTP proxy that leads to the upstreams. Other mirrors are asked without it.
	Proxy string
	// Rate bounds what its upstreams are asked to send together, in bytes per second; 0 means no bound.
	Rate int64
}

// Options is what the mirror needs of the rest of the node.
type Options struct {
	// Dir is the mirror's own: metadata, and files while they arrive.
	Dir   string
	Store Store
	Repos []Repo
	// Fetch, if set, brings a file from peers into Store. It should fail at once when nobody has it: a client waits.
	Fetch func(ctx context.Context, digest string, size int64) error
	// Parents, if set, lists the base URLs of the mirrors above, best first. While there is one, upstreams are not asked.
	Parents func() []string
	// Beside, if set, lists the base URLs of mirrors that are asked last, for files and for metadata of which there is none
	// here: they have what this one's predecessor fetched, also when nothing above can be reached.
	Beside func() []string
	// ParentTransport carries requests to parents; nil is plain HTTP.
	ParentTransport http.RoundTripper
	// Install, if set, names the installation that an address belongs to, "" for none. All requests of one installation
	// see one state of a repository. Without a name the address stands for it.
	Install func(netip.Addr) string
	// Served, if set, is called after each file that was given out whole. It must not block.
	Served func(Served)
	// PerUpstream bounds the requests to one upstream at once; 0 means 8.
	PerUpstream int
	// MinFree is how much of the disk stays free, in bytes; 0 means 512 MiB, or a tenth of a disk on which that is less.
	MinFree int64
	Now     func() time.Time
	Logger  *slog.Logger
}

// Served is one file that a client got: what a working set is made of.
type Served struct {
	Repo, Path string
	Client     netip.Addr
	Install    string // as Options.Install said
	Digest     string // "" for mutable metadata and what is not listed
	Size       int64
	Verified   string // "signed by <key>", "unverified", or "" for what is not listed
}

// limits are fixed but for tests.
type limits struct {
	fresh    time.Duration // metadata this young is not asked for again
	retry    time.Duration // after a source has failed
	patience time.Duration // how long a client waits for a revalidation while older metadata is here
	head     time.Duration // until a source answers
	idle     time.Duration // until it sends more
	pinIdle  time.Duration // a pin ends when nothing was asked under it for so long
	pinMax   time.Duration // and at the latest
	down     time.Duration // a source that failed is asked last
	missLife time.Duration // what was not there is not asked for again
	missRate float64       // per second, beyond missFree
	missFree float64
	flights  int // files on their way at once
	roots    int // directories with metadata in one repository
	pins     int
}

var defaultLimits = limits{
	fresh: time.Minute, retry: 10 * time.Second, patience: 5 * time.Second, head: 20 * time.Second, idle: 30 * time.Second,
	pinIdle: 15 * time.Minute, pinMax: 6 * time.Hour, down: 30 * time.Second,
	missLife: time.Minute, missRate: 5, missFree: 100, flights: 256, roots: 64, pins: 4096,
}

// Mirror answers. It is safe for concurrent use.
type Mirror struct {
	o      Options
	log    *slog.Logger
	limits limits
	repos  []*repo
	disk   *disk

	reading sync.Mutex // one index is parsed at a time
	saving  sync.Mutex // one file of metadata is written at a time

	spawn func(func(ctx context.Context)) bool // runs it until Close; false if that was called
	stop  func()

	mu      sync.Mutex
	flights map[flightKey]*flight
	known   map[string]*source // on other mirrors, by repository URL
}

var repoName = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)

// New checks the options, reads keyrings, and the metadata that an earlier run wrote down. Close the mirror in the end.
func New(o Options) (*Mirror, error) { return newMirror(o, defaultLimits) }

func newMirror(o Options, l limits) (*Mirror, error) {
	if o.Store == nil || o.Dir == "" || o.Logger == nil {
		return nil, errors.New("mirror: Dir, Store and Logger must be set")
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.PerUpstream == 0 {
		o.PerUpstream = defaultPerUpstream
	}
	m := &Mirror{o: o, log: o.Logger, limits: l, flights: map[flightKey]*flight{}, known: map[string]*source{}}
	if err := os.MkdirAll(filepath.Join(o.Dir, "tmp"), 0o755); err != nil {
		return nil, fmt.Errorf("mirror: %w", err)
	}
	if o.MinFree == 0 {
		size, err := diskBytes(o.Dir)
		if err != nil {
			return nil, fmt.Errorf("mirror: %w", err)
		}
		o.MinFree = min(512<<20, size/10)
	}
	m.disk = &disk{dir: filepath.Join(o.Dir, "tmp"), floor: o.MinFree, free: freeBytes, now: o.Now, log: o.Logger}
	m.life()
	for _, r := range o.Repos {
		repo, err := m.newRepo(r)
		if err != nil {
			m.Close()
			return nil, fmt.Errorf("mirror: repository %q: %w", r.Name, err)
		}
		m.repos = append(m.repos, repo)
	}
	return m, nil
}

// life makes spawn and stop: files go on arriving when the client who asked first has hung up, but not after Close.
func (m *Mirror) life() {
	ctx, cancel := context.WithCancelCause(context.Background())
	var wg sync.WaitGroup
	var mu sync.Mutex
	closed := false
	m.spawn = func(f func(context.Context)) bool {
		mu.Lock()
		defer mu.Unlock()
		if closed {
			return false
		}
		wg.Go(func() { f(ctx) })
		return true
	}
	m.stop = func() {
		mu.Lock()
		closed = true
		mu.Unlock()
		cancel(errClosed)
		wg.Wait()
	}
}

// Close ends what is on its way and waits for it. Requests that still come are answered from what is here.
func (m *Mirror) Close() {
	m.stop()
	for _, r := range m.repos {
		for _, s := range r.upstreams {
			s.client.CloseIdleConnections()
			s.strange.CloseIdleConnections()
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.known {
		s.client.CloseIdleConnections()
	}
}

// noRedirect leaves redirects to source.follow.
func noRedirect(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }

func (m *Mirror) newSource(raw string, pace *bucket, client, strange *http.Client) (*source, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, err
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.RawQuery != "" || u.Fragment != "" {
		return nil, fmt.Errorf("%q is not a URL of a mirror: want http://host/path or https://host/path", u.Redacted())
	}
	if !strings.HasSuffix(u.Path, "/") {
		u.Path += "/"
		u.RawPath = ""
	}
	return &source{
		base: u, slots: make(chan struct{}, m.o.PerUpstream), pace: pace,
		head: m.limits.head, idle: m.limits.idle, client: client, strange: strange, now: m.o.Now,
	}, nil
}

// others are the sources for a repository on other mirrors, if there are any now.
func (m *Mirror) others(list func() []string, repo string) (out []*source) {
	if list == nil {
		return nil
	}
	for _, base := range list() {
		if s := m.other(base, repo); s != nil {
			out = append(out, s)
		}
	}
	return out
}

// other is the source for a repository on another mirror. They are few, and kept: limits and the memory of failures
// belong to the mirror there, not to one request.
func (m *Mirror) other(base, repo string) *source {
	raw := strings.TrimSuffix(base, "/") + "/repo/" + repo + "/"
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.known[raw]; s != nil {
		return s
	}
	rt := m.o.ParentTransport
	if rt == nil {
		rt = transport(nil, true)
	}
	s, err := m.newSource(raw, newBucket(0, 0, m.o.Now), &http.Client{Transport: rt, CheckRedirect: noRedirect}, nil)
	if err != nil {
		m.log.Warn("mirror is not asked", "mirror", base, "error", err)
		return nil
	}
	s.parent = true
	m.known[raw] = s
	return s
}

func textSum(text string) string {
	s := sha256.Sum256([]byte(text))
	return hex.EncodeToString(s[:])
}
