package origin

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"offshoot/node/internal/archive"
)

// Published is a single file and where its checksums are.
type Published struct {
	At         string // URL or path
	Sums       string // URL or path of the checksum file; "": looked for beside it
	Unverified bool   // it may come though nothing vouches for it
}

// isURL tells a URL from a path.
func isURL(s string) bool { return strings.Contains(s, "://") }

// Publication brings one file, checked against a signed checksum file. A file of the operator's own may lack that.
func (f *Fetcher) Publication(ctx context.Context, p Published) (File, error) {
	if isURL(p.At) {
		return f.remote(ctx, p)
	}
	return f.local(ctx, p)
}

func (f *Fetcher) remote(ctx context.Context, p Published) (File, error) {
	u, err := parseURL(p.At)
	if err != nil {
		return File{}, err
	}
	name := path.Base(u.Path)
	if name == "/" || name == "." || strings.HasSuffix(u.Path, "/") {
		return File{}, fmt.Errorf("%s names a directory: want the URL of a file", plain(u))
	}
	says, err := f.vouched(ctx, p, name, func(ctx context.Context, list string) ([]byte, error) { return f.get(ctx, beside(u, list)) })
	switch {
	case err != nil:
		return File{}, fmt.Errorf("%s: %w", name, err)
	case says.by == "" && !p.Unverified:
		return File{}, fmt.Errorf("%s: %w: %s; name a checksum file with --sums URL, or say --unverified", name, ErrUnsigned, says.lack)
	case says.by == "":
		says.by = archive.Unverified + ": " + says.lack
	}
	return f.listed(ctx, u, want{says.digest, -1}, name, says.by)
}

func (f *Fetcher) local(ctx context.Context, p Published) (File, error) {
	at, err := filepath.Abs(p.At)
	if err != nil {
		return File{}, err
	}
	file, err := os.Open(at)
	if err != nil {
		return File{}, err
	}
	defer func() { _ = file.Close() }()
	if info, err := file.Stat(); err != nil || !info.Mode().IsRegular() {
		return File{}, errors.Join(err, fmt.Errorf("%s is not a file", p.At))
	}
	name := filepath.Base(at)
	says, err := f.vouched(ctx, p, name, func(_ context.Context, list string) ([]byte, error) {
		return os.ReadFile(filepath.Join(filepath.Dir(at), list))
	})
	if err != nil {
		return File{}, fmt.Errorf("%s: %w", name, err)
	}
	if says.digest != "" {
		if err := check(file, want{says.digest, -1}); err != nil {
			return File{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if says.by == "" {
		says.by = Given
	}
	return File{Name: name, Path: at, Origin: at, Verified: says.by}, nil
}

// errUnlisted: the checksum file is of other files.
var errUnlisted = errors.New("does not name it")

// voucher is what checksum files say of a file.
type voucher struct {
	digest string // "": nothing
	by     string // the chain; "": nobody signed it
	lack   string // then: why
}

// vouched finds the checksum file that names the file, and who signed it.
func (f *Fetcher) vouched(ctx context.Context, p Published, name string, read func(context.Context, string) ([]byte, error)) (voucher, error) {
	who := publisherOf(name)
	lists := who.listsOf(name)
	if p.Sums != "" {
		var err error
		if lists, read, err = f.named(p.Sums); err != nil {
			return voucher{}, err
		}
	}
	for _, list := range lists {
		data, err := read(ctx, list)
		if err != nil && p.Sums == "" && (missing(err) || errors.Is(err, fs.ErrNotExist)) {
			continue
		}
		if err != nil {
			return voucher{}, err
		}
		v, err := f.judge(ctx, p, who, name, list, data, read)
		if errors.Is(err, errUnlisted) && p.Sums == "" {
			continue
		}
		return v, err
	}
	return voucher{lack: "there is no checksum file beside it (" + strings.Join(lists, ", ") + ")"}, nil
}

// named reads a checksum file, and signatures beside it, where the operator says.
func (f *Fetcher) named(sums string) (lists []string, read func(context.Context, string) ([]byte, error), err error) {
	if !isURL(sums) {
		return []string{filepath.Base(sums)}, func(_ context.Context, list string) ([]byte, error) {
			return os.ReadFile(filepath.Join(filepath.Dir(sums), list))
		}, nil
	}
	u, err := parseURL(sums)
	if err != nil {
		return nil, nil, fmt.Errorf("checksum file: %w", err)
	}
	return []string{path.Base(u.Path)}, func(ctx context.Context, list string) ([]byte, error) { return f.get(ctx, beside(u, list)) }, nil
}

// signatureNames are what publishers call the signature beside a checksum file.
var signatureNames = []string{".gpg", ".sign", ".asc", ".sig"}

// judge checks a checksum file: signed around its text, or by a file beside it. A signature that is there must be good.
func (f *Fetcher) judge(ctx context.Context, p Published, who publisher, name, list string, data []byte, read func(context.Context, string) ([]byte, error)) (v voucher, err error) {
	text, signature := data, []byte(nil)
	clear := strings.HasPrefix(string(data), "-----BEGIN PGP SIGNED MESSAGE-----")
	for _, ext := range signatureNames {
		if clear {
			break
		}
		if signature, err = read(ctx, list+ext); err == nil {
			break
		}
		if !missing(err) && !errors.Is(err, fs.ErrNotExist) {
			return v, fmt.Errorf("the signature of %s: %w", list, err)
		}
	}
	var keys *archive.Keyring // believes everything
	if clear || signature != nil {
		keys, err = f.keys(who)
		switch {
		case errors.Is(err, ErrNoKeys) && p.Unverified:
			v.lack = list + " is signed, and this host has no key to check it with"
		case err != nil:
			return v, fmt.Errorf("%s: %w", list, err)
		}
	} else {
		v.lack = "nobody signed " + list
	}
	by := archive.Unverified
	if clear {
		text, by, err = keys.Clear(data)
	} else if signature != nil {
		by, err = keys.Detached(data, signature)
	} else {
		err = nil
	}
	if err != nil {
		return v, fmt.Errorf("%s: %w", list, err)
	}
	sums, err := archive.ParseChecksums(text)
	if err != nil {
		return v, fmt.Errorf("%s: %w", list, err)
	}
	if v.digest = sums[name]; v.digest == "" {
		return v, fmt.Errorf("%s %w", list, errUnlisted)
	}
	if by != archive.Unverified {
		v.by = chain(by, list, name)
	}
	return v, nil
}

// Tree brings kernel and initrd of an installation tree that has a .treeinfo, in this order. Nobody signs that file, so what it names
// is no more than consistent: the caller must have said that it may come unverified.
func (f *Fetcher) Tree(ctx context.Context, at string, unverified bool) ([]File, error) {
	base, err := parseURL(strings.TrimSuffix(at, "/") + "/")
	if err != nil {
		return nil, err
	}
	if !unverified {
		return nil, fmt.Errorf("%s: %w: nobody signs .treeinfo; add the installer's ISO, whose checksums are signed, or say --unverified", plain(base), ErrUnsigned)
	}
	data, err := f.get(ctx, beside(base, ".treeinfo"))
	if err != nil {
		return nil, err
	}
	info, err := archive.ParseTreeinfo(data)
	if err != nil {
		return nil, err
	}
	var out []File
	for _, name := range []string{info.Kernel, info.Initrd} {
		digest := info.Checksums[name]
		if name == "" || digest == "" {
			return nil, fmt.Errorf(".treeinfo gives no SHA-256 of a kernel and an initrd for %s", info.Arch)
		}
		label := strings.Join(slices.DeleteFunc([]string{info.Family, info.Version, info.Arch, path.Base(name)}, func(s string) bool { return s == "" }), "-")
		file, err := f.listed(ctx, base.JoinPath(name), want{digest, -1}, strings.ToLower(label), archive.Unverified+": nobody signed .treeinfo → "+name)
		if err != nil {
			return nil, err
		}
		out = append(out, file)
	}
	return out, nil
}
