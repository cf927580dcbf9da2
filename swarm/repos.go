package swarm

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Repo is a repository of packages, which every node mirrors under its name.
type Repo struct {
	Name      string   `json:"name"`               // as it stands in URLs: lower case letters, digits, dots, hyphens
	Upstreams []string `json:"upstreams"`          // base URLs, asked in this order
	Keyring   []byte   `json:"keyring,omitempty"`  // OpenPGP keys that may sign it; none: it is held to its own sums only
	Unlisted  bool     `json:"unlisted,omitempty"` // files that no metadata names are passed on, unchecked and not kept
	Proxy     string   `json:"proxy,omitempty"`    // URL of the HTTP proxy that leads to the upstreams, "" for none
	Limit     Rate     `json:"limit,omitempty"`    // of what one node takes from the upstreams
}

// Bounds of the repositories. A keyring of Debian has some 60 KB.
const (
	maxRepos     = 64
	maxRepoName  = 64
	maxUpstreams = 8
	maxURL       = 300
	maxKeyring   = 128 << 10
)

// PutRepo adds a repository, or replaces the one of its name.
type PutRepo struct {
	Repo Repo `json:"repo"`
}

func (o PutRepo) words() string {
	vouched := "without a keyring"
	if len(o.Repo.Keyring) > 0 {
		vouched = fmt.Sprintf("with a keyring of %d bytes", len(o.Repo.Keyring))
	}
	if err := o.Repo.Check(); err != nil { // perhaps a password is in it
		return "mirror a repository"
	}
	text := fmt.Sprintf("mirror repository %s of %s, %s", o.Repo.Name, strings.Join(o.Repo.Upstreams, " "), vouched)
	if o.Repo.Proxy != "" {
		text += ", through the proxy " + o.Repo.Proxy
	}
	if o.Repo.Limit != 0 {
		text += ", " + o.Repo.Limit.String() + " at most"
	}
	return text
}

// since implements newer.
func (o PutRepo) since() int {
	if o.Repo.Proxy != "" || o.Repo.Limit != 0 {
		return 2
	}
	return 1
}

func (o PutRepo) apply(c *change) (any, error) {
	r := o.Repo
	if err := r.Check(); err != nil {
		return nil, err
	}
	if _, known := c.view().Repo(r.Name); !known && len(c.view().Repos()) >= maxRepos {
		return nil, refuse(ErrFull, "%d repositories are mirrored", maxRepos)
	}
	c.put("repo", &r)
	c.event("", "mirror", "repository %s is mirrored from %s", r.Name, strings.Join(r.Upstreams, " "))
	return nil, nil
}

// Check says why a repository can not be mirrored as it is told; the error matches ErrInvalid. It is to be asked before the ledger
// is: what stands there can be read by every node.
func (r Repo) Check() error {
	switch {
	case !repoName(r.Name):
		return refuse(ErrInvalid, "repository %q: a name has 1 to %d lower case letters, digits, dots and hyphens, a letter or digit first", clip(r.Name, maxWord), maxRepoName)
	case len(r.Upstreams) == 0 || len(r.Upstreams) > maxUpstreams:
		return refuse(ErrInvalid, "repository %s has %d upstreams, want 1 to %d", r.Name, len(r.Upstreams), maxUpstreams)
	case len(r.Keyring) > maxKeyring:
		return refuse(ErrInvalid, "the keyring of repository %s has %d bytes, at most %d", r.Name, len(r.Keyring), maxKeyring)
	}
	for _, u := range r.Upstreams {
		if why := badUpstream(u); why != "" {
			return refuse(ErrInvalid, "upstream of repository %s: %s", r.Name, why)
		}
	}
	if why := badProxy(r.Proxy); why != "" {
		return refuse(ErrInvalid, "proxy of repository %s: %s", r.Name, why)
	}
	if why := r.Limit.check(minRate); why != "" {
		return refuse(ErrInvalid, "limit of repository %s: %s", r.Name, why)
	}
	return nil
}

// badUpstream says what is wrong with a base URL, "" if nothing is. What is wrong may be a password: it is not repeated.
func badUpstream(text string) string {
	u, err := url.Parse(text)
	switch {
	case err != nil || !webURL(text, u):
		return fmt.Sprintf("it is no URL as in http://host/path, at most %d bytes long", maxURL)
	case u.User != nil:
		return "it has a user name or password in it, which everybody could read here"
	case u.RawQuery != "" || u.Fragment != "":
		return "it has a query or a fragment: want the folder below which the repository lies"
	}
	return ""
}

// badProxy says what is wrong with a proxy's URL, "" if nothing is, or if there is none. It does not repeat it either.
func badProxy(text string) string {
	if text == "" {
		return ""
	}
	u, err := url.Parse(text)
	switch {
	case err != nil || !webURL(text, u) || u.Hostname() == "":
		return fmt.Sprintf("it is no URL as in http://host:3128, at most %d bytes long", maxURL)
	case u.User != nil:
		return "it has a user name or password in it, which everybody could read here: let the proxy know the nodes by their addresses"
	case u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "":
		return "it has a path, a query or a fragment: want host and port only"
	}
	return ""
}

func webURL(text string, u *url.URL) bool {
	return len(text) <= maxURL && (u.Scheme == "http" || u.Scheme == "https") && u.Host != ""
}

func repoName(name string) bool {
	plain := func(r rune) bool { return r >= 'a' && r <= 'z' || r >= '0' && r <= '9' }
	return name != "" && len(name) <= maxRepoName && plain(rune(name[0])) &&
		!strings.ContainsFunc(name, func(r rune) bool { return !plain(r) && r != '.' && r != '-' })
}

// DropRepo ends the mirroring of a repository. What was fetched stays until its room is needed.
type DropRepo struct {
	Name string `json:"name"`
}

func (o DropRepo) words() string { return "mirror repository " + o.Name + " no longer" }

func (o DropRepo) apply(c *change) (any, error) {
	r, ok := c.view().Repo(o.Name)
	if !ok {
		return nil, refuse(ErrNotFound, "repository %q", clip(o.Name, maxWord))
	}
	c.remove("repo", &r)
	c.event("", "mirror", "repository %s is no longer mirrored", r.Name)
	return nil, nil
}

// Repo finds a repository by its name.
func (v View) Repo(name string) (Repo, bool) { return get[Repo](v.txn, "repo", "id", name) }

// Repos lists the repositories by name.
func (v View) Repos() []Repo { return list[Repo](v.txn, "repo", "id") }

// Equal says whether nothing about a repository is different.
func (r Repo) Equal(other Repo) bool {
	return r.Name == other.Name && slices.Equal(r.Upstreams, other.Upstreams) && string(r.Keyring) == string(other.Keyring) && r.Unlisted == other.Unlisted &&
		r.Proxy == other.Proxy && r.Limit == other.Limit
}
