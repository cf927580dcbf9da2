package node

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"offshoot/node/internal/api"
	"offshoot/node/internal/archive"
	"offshoot/node/internal/origin"
	"offshoot/node/status"
)

// ErrUnsigned: nothing vouches for a file, and nobody said that it may come nevertheless.
var ErrUnsigned = origin.ErrUnsigned

// Acquirer brings files from where they are published and adds them to the swarm as artifacts, through the node that Client asks. It
// works where the operator is: with his keyrings, and his way to the mirrors. What is broken off goes on the next time. It serves one
// caller at a time.
type Acquirer struct {
	Client  *Client
	Mirror  string                // URL of a Debian archive; "": those of this host's apt sources
	Keyring string                // file with the only keys that count; "": this host's own, of whom the file is by
	Say     func(status.Prefetch) // hears how far it is; may be nil

	cache string // "": the user's own
	root  string // tree of the host: keyrings, apt sources; "": /
}

// Source is one file to add.
type Source struct {
	At         string // URL or path
	Name       string // what to call it; "": as it is called there
	Sums       string // URL or path of its checksum file; "": looked for beside a URL or an ISO
	ISO        bool   // it must be an ISO 9660 image
	Unverified bool   // it may come though nothing vouches for it
}

// DebianInstaller adds kernel and initrd of the installer of a release ("13") for an architecture ("amd64", "arm64").
func (a *Acquirer) DebianInstaller(ctx context.Context, release, arch string) (kernel, initrd status.Artifact, err error) {
	all, err := a.debian(ctx, release, arch, (*origin.Fetcher).Installer)
	if err != nil {
		return kernel, initrd, err
	}
	return all[0], all[1], nil
}

// DebianBoot adds what firmware with Secure Boot starts: shim, its key manager, and GRUB for disks and for the network.
func (a *Acquirer) DebianBoot(ctx context.Context, release, arch string) ([]status.Artifact, error) {
	return a.debian(ctx, release, arch, (*origin.Fetcher).BootPrograms)
}

// DebianKernel adds the kernel that an installed system would get.
func (a *Acquirer) DebianKernel(ctx context.Context, release, arch string) ([]status.Artifact, error) {
	return a.debian(ctx, release, arch, (*origin.Fetcher).Kernel)
}

func (a *Acquirer) debian(ctx context.Context, release, arch string, bring func(*origin.Fetcher, context.Context, origin.Debian) ([]origin.File, error)) ([]status.Artifact, error) {
	d, err := origin.NewDebian(release, arch, a.Mirror, a.hostRoot())
	if err != nil {
		return nil, err
	}
	return a.add(ctx, func(f *origin.Fetcher) ([]origin.File, error) { return bring(f, ctx, d) })
}

// Tree adds kernel and initrd of an installation tree with a .treeinfo. Nobody signs that, so they come unverified or not at all.
func (a *Acquirer) Tree(ctx context.Context, url string, unverified bool) ([]status.Artifact, error) {
	return a.add(ctx, func(f *origin.Fetcher) ([]origin.File, error) { return f.Tree(ctx, url, unverified) })
}

// File adds one file.
func (a *Acquirer) File(ctx context.Context, s Source) (status.Artifact, error) {
	all, err := a.add(ctx, func(f *origin.Fetcher) ([]origin.File, error) {
		file, err := a.file(ctx, f, s)
		if s.Name != "" {
			file.Name = s.Name
		}
		return []origin.File{file}, err
	})
	if err != nil {
		return status.Artifact{}, err
	}
	return all[0], nil
}

func (a *Acquirer) file(ctx context.Context, f *origin.Fetcher, s Source) (file origin.File, err error) {
	if s.Sums == "" && !s.ISO && !strings.Contains(s.At, "://") { // his own, and he names nobody else who vouches for it
		path, err := filepath.Abs(s.At)
		return origin.File{Name: filepath.Base(path), Path: path, Origin: path, Verified: origin.Given}, err
	}
	if file, err = f.Publication(ctx, origin.Published{At: s.At, Sums: s.Sums, Unverified: s.Unverified}); err != nil || !s.ISO || file.Path == "" {
		return file, err
	}
	image, err := os.Open(file.Path)
	if err != nil {
		return file, err
	}
	defer func() { _ = image.Close() }()
	if _, err = lookInto(image); err != nil {
		err = fmt.Errorf("%s: %w", s.At, err)
	}
	return file, err
}

func (a *Acquirer) hostRoot() string {
	if a.root == "" {
		return "/"
	}
	return a.root
}

// fetcher works in the user's cache, so that a download goes on the next time.
func (a *Acquirer) fetcher() (*origin.Fetcher, error) {
	f := &origin.Fetcher{Dir: a.cache, Root: a.hostRoot(), Now: time.Now}
	if f.Dir == "" {
		cache, err := os.UserCacheDir()
		if err != nil {
			return nil, fmt.Errorf("no folder to download to: %w", err)
		}
		f.Dir = filepath.Join(cache, "offshoot")
	}
	if a.Say != nil {
		f.Say = func(what string, done, total int64) {
			a.Say(status.Prefetch{What: what, Done: done, Total: max(total, done)})
		}
	}
	if a.Keyring == "" {
		return f, nil
	}
	data, err := os.ReadFile(a.Keyring)
	if err == nil && len(data) == 0 {
		err = errors.New("the file is empty")
	}
	if err == nil {
		f.Keyring, err = archive.ReadKeyring(data, f.Now)
	}
	if err != nil {
		return nil, fmt.Errorf("keyring %s: %w", a.Keyring, err)
	}
	return f, nil
}

// add brings files and sends them to the node. What it has already, and knows to be good, does not travel.
func (a *Acquirer) add(ctx context.Context, bring func(*origin.Fetcher) ([]origin.File, error)) (out []status.Artifact, err error) {
	known, err := a.Client.Artifacts(ctx) // is anybody there, before it is fetched for?
	if err != nil {
		return nil, err
	}
	has := func(digest string) (status.Artifact, bool) {
		for _, k := range known {
			if k.Digest == digest && k.Here && strings.HasPrefix(k.Verified, "signed by ") {
				return k, true
			}
		}
		return status.Artifact{}, false
	}
	f, err := a.fetcher()
	if err != nil {
		return nil, err
	}
	f.Have = func(digest string) bool {
		_, ok := has(digest)
		return ok
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	files, err := bring(f)
	if err != nil {
		return nil, err
	}
	for _, file := range files {
		if k, ok := has(file.SHA256); ok {
			out = append(out, k)
			continue
		}
		got, err := a.Client.Upload(ctx, file.Path, api.Upload{Name: file.Name, Origin: file.Origin, Verified: file.Verified, SHA256: file.SHA256}, func(sent, size int64) {
			if a.Say != nil {
				a.Say(status.Prefetch{What: "to the node: " + file.Name, Done: sent, Total: size})
			}
		})
		if err != nil {
			return out, fmt.Errorf("%s: %w", file.Name, err)
		}
		out = append(out, got)
	}
	return out, nil
}
