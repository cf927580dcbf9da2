// Package origin brings files from where they are published, with the chain that vouches for each: a signature by a key that this
// host already trusts, over a list, over the file. It knows Debian's archive (installer, kernel, boot programs), signed checksum files
// in the forms of Debian, Ubuntu, Fedora and their relatives, and the .treeinfo of installation trees.
//
// It believes no mirror, takes keys from no mirror, and returns a file only after all of its bytes have matched. What nobody signed is
// refused, or called unverified if the caller says so. It does not know what files are for, and keeps none: what is on its way lies in
// the caller's directory. Only node imports it.
package origin

import (
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"offshoot/node/internal/archive"
)

// Given is what vouches for a file of the operator's own.
const Given = "given by the operator"

var (
	// ErrUnsigned: nothing vouches for the file, and the caller did not say that it may come nevertheless.
	ErrUnsigned = errors.New("nothing vouches for it")
	// ErrNoKeys: there is a signature, and no key on this host to check it with.
	ErrNoKeys = errors.New("no keyring")
	// ErrMismatch: the bytes are not those that the list names.
	ErrMismatch = errors.New("it is not the file that the list names")
)

// File is one file whose bytes have matched. It lies at Path until the Fetcher is closed.
type File struct {
	Name     string // for people: debian-13-amd64-linux
	Path     string // "": the caller has it
	Origin   string // where it came from: a URL, or a path
	Verified string // the chain: "signed by <key>: InRelease … → Packages → x.deb → linux"; or "unverified: …"; or Given
	SHA256   string // if the list that names it told; else ""
}

// Fetcher brings files. It serves one caller at a time. Close it in the end.
type Fetcher struct {
	// Dir holds what is on its way; it is made if it is missing. What was broken off goes on from there the next time.
	Dir string
	// Root is the tree in which keyrings are looked for: the host's, "/".
	Root string
	// Keyring, if it is set, has the only keys that count.
	Keyring *archive.Keyring
	// Now judges signatures and how long lists are good.
	Now func() time.Time
	// Have, if it is set, says that the caller has the file with this SHA-256: it is not fetched, and its File has no Path.
	Have func(digest string) bool
	// Say hears how far a download is, bytes; total is -1 if nobody knows. May be nil.
	Say func(what string, done, total int64)

	client *http.Client
	pause  func(failures int) time.Duration // before the next attempt; nil is a second, and twice as long each time
	out    string                           // files that were taken out of others
	done   []string                         // downloads that are returned
}

// stale is how long a broken download waits for its continuation.
const stale = 7 * 24 * time.Hour

// open makes what the first use needs.
func (f *Fetcher) open() error {
	if f.out != "" {
		return nil
	}
	if err := os.MkdirAll(f.Dir, 0o700); err != nil {
		return err
	}
	old, err := os.ReadDir(f.Dir)
	if err != nil {
		return err
	}
	for _, e := range old {
		info, err := e.Info()
		if err == nil && f.Now().Sub(info.ModTime()) > stale {
			_ = os.RemoveAll(filepath.Join(f.Dir, e.Name())) // nobody waits for it any more
		}
	}
	f.client = &http.Client{CheckRedirect: checkRedirect, Transport: &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: (&net.Dialer{Timeout: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout: 15 * time.Second, ResponseHeaderTimeout: headTime, IdleConnTimeout: time.Minute, DisableCompression: true,
	}}
	f.out, err = os.MkdirTemp(f.Dir, "out-")
	return err
}

// checkRedirect follows as far as it makes sense, and not from a connection that somebody vouches for to one without.
func checkRedirect(r *http.Request, via []*http.Request) error {
	switch {
	case len(via) > 5:
		return errors.New("it redirects in circles")
	case r.URL.Scheme != "https" && via[0].URL.Scheme == "https":
		return errors.New("it redirects from https to http")
	}
	return nil
}

// Close throws away what was returned. What was broken off stays for the next time.
func (f *Fetcher) Close() error {
	if f.out == "" {
		return nil
	}
	f.client.CloseIdleConnections()
	err := os.RemoveAll(f.out)
	for _, p := range f.done {
		if e := os.Remove(p); !errors.Is(e, fs.ErrNotExist) { // two files of one content are one download
			err = errors.Join(err, e)
		}
	}
	f.out, f.done = "", nil
	return err
}

// parseURL refuses what cannot be fetched.
func parseURL(raw string) (*url.URL, error) {
	u, err := url.Parse(raw)
	if err != nil {
		return nil, errors.New("that is no URL") // url's own words would show a password
	}
	if (u.Scheme != "http" && u.Scheme != "https") || u.Host == "" || u.Fragment != "" {
		return nil, fmt.Errorf("%s is not a URL to fetch: want http://… or https://…", u.Redacted())
	}
	return u, nil
}

// beside is a file in the same directory.
func beside(u *url.URL, name string) *url.URL {
	b := *u
	b.RawQuery, b.RawPath = "", ""
	b.Path = b.Path[:strings.LastIndexByte(b.Path, '/')+1] + name
	return &b
}

// plain is a URL without the password that may be in it: it is shown, and written down.
func plain(u *url.URL) string {
	b := *u
	b.User = nil
	return b.String()
}

// chain puts the words together.
func chain(by string, links ...string) string { return by + ": " + strings.Join(links, " → ") }
