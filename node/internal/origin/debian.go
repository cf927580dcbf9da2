package origin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"offshoot/node/internal/apt"
	"offshoot/node/internal/archive"
)

// Debian is one release for one architecture, in the archives that have it.
type Debian struct {
	Release  string // "13"
	Arch     string // "amd64", "arm64"
	Archives []apt.Archive
}

// codenames are the releases whose installer was tried.
var codenames = map[string]string{"12": "bookworm", "13": "trixie"}

// efi is what an architecture is called in the names of its boot programs: by firmware, and by GRUB.
var efi = map[string]struct{ short, grub string }{"amd64": {"x64", "x86_64-efi"}, "arm64": {"aa64", "arm64-efi"}}

// NewDebian finds the archives of a release: at mirror, or where it is empty those in the apt sources of the host whose tree is at root.
func NewDebian(release, arch, mirror, root string) (Debian, error) {
	for number, name := range codenames {
		if release == name {
			release = number
		}
	}
	codename, ok := codenames[release]
	if !ok {
		return Debian{}, fmt.Errorf("release %q of Debian is not known here: want 12 or 13", release)
	}
	if _, ok := efi[arch]; !ok {
		return Debian{}, fmt.Errorf("architecture %q is not known here: want amd64 or arm64", arch)
	}
	archives, err := apt.Archives(mirror, codename, root)
	return Debian{release, arch, archives}, err
}

func (d Debian) name(file string) string { return "debian-" + d.Release + "-" + d.Arch + "-" + file }

// suite is one archive whose Release file was checked.
type suite struct {
	apt.Archive
	base    *url.URL // ends with a slash
	release archive.Release
	by      string // "signed by …"
}

// top is the first link of the chain.
func (s suite) top() string {
	return fmt.Sprintf("InRelease of %s, %s", s.Suite, s.release.Date.Format("2006-01-02"))
}

// dist is a file below the suite's own directory.
func (s suite) dist(name string) *url.URL { return s.base.JoinPath("dists", s.Suite, name) }

// suites reads what the archives say now.
func (f *Fetcher) suites(ctx context.Context, d Debian) (out []suite, err error) {
	keys, err := f.keys(debianArchive)
	if err != nil {
		return nil, err
	}
	for _, a := range d.Archives {
		s, err := f.suite(ctx, a, keys)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", a.Suite, err)
		}
		out = append(out, s)
	}
	return out, nil
}

// suite checks one: the signature, that it is this suite and not another that the same key signs, and that it has not expired.
func (f *Fetcher) suite(ctx context.Context, a apt.Archive, keys *archive.Keyring) (s suite, err error) {
	s = suite{Archive: a}
	if s.base, err = parseURL(strings.TrimSuffix(a.URI, "/") + "/"); err != nil {
		return s, err
	}
	data, err := f.get(ctx, s.dist("InRelease"))
	if err != nil {
		return s, err
	}
	text, by, err := keys.Clear(data)
	if err != nil {
		return s, fmt.Errorf("InRelease: %w", err)
	}
	if s.release, err = archive.ParseRelease(text); err != nil {
		return s, err
	}
	switch r, now := s.release, f.Now(); {
	case a.Suite != r.Codename && a.Suite != r.Suite:
		return s, fmt.Errorf("InRelease: it is that of %q (%q): the mirror gives out another suite", r.Codename, r.Suite)
	case !r.ValidUntil.IsZero() && now.After(r.ValidUntil):
		return s, fmt.Errorf("InRelease: it was good until %s: the mirror is old, or this machine's clock wrong", r.ValidUntil.Format("2006-01-02 15:04"))
	}
	s.by = by
	return s, nil
}

// Installer brings kernel and initrd of the installer, in this order: from the archive's own installer images, or where the mirror has
// none out of the package that carries them.
func (f *Fetcher) Installer(ctx context.Context, d Debian) ([]File, error) {
	suites, err := f.suites(ctx, d)
	if err != nil {
		return nil, err
	}
	files, err := f.installerImages(ctx, d, suites[0])
	if err == nil || !missing(err) {
		return files, err
	}
	p, err := f.find(ctx, suites, d.Arch, "debian-installer-"+d.Release+"-netboot-"+d.Arch)
	if err != nil {
		return nil, err
	}
	dir := "usr/lib/debian-installer/images/" + d.Release + "/" + d.Arch + "/text/debian-installer/" + d.Arch + "/"
	return f.unpack(ctx, p, []member{{dir + "linux", d.name("linux")}, {dir + "initrd.gz", d.name("initrd.gz")}})
}

// installerImages follows Release → SHA256SUMS → files. An error for which missing holds means that the mirror leaves them out.
func (f *Fetcher) installerImages(ctx context.Context, d Debian, s suite) (out []File, err error) {
	list := "main/installer-" + d.Arch + "/current/images/SHA256SUMS"
	says, ok := s.release.Names[list]
	if !ok {
		return nil, statusError(404)
	}
	at := s.dist(list)
	data, err := f.get(ctx, at)
	if err != nil {
		return nil, err
	}
	if err := check(strings.NewReader(string(data)), want{says.Sum.String(), says.Size}); err != nil {
		return nil, fmt.Errorf("%s: %w", list, err)
	}
	sums, err := archive.ParseChecksums(data)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"linux", "initrd.gz"} {
		inside := "netboot/debian-installer/" + d.Arch + "/" + name
		digest, ok := sums[inside]
		if !ok {
			return nil, statusError(404)
		}
		file, err := f.listed(ctx, beside(at, inside), want{digest, -1}, d.name(name), chain(s.by, s.top(), list, inside))
		if err != nil {
			return nil, err
		}
		out = append(out, file)
	}
	return out, nil
}

// BootPrograms brings what firmware with Secure Boot starts: shim, its key manager, and GRUB for disks and for the network.
func (f *Fetcher) BootPrograms(ctx context.Context, d Debian) (out []File, err error) {
	suites, err := f.suites(ctx, d)
	if err != nil {
		return nil, err
	}
	e := efi[d.Arch]
	for _, from := range []struct {
		pkg, dir string
		programs []string
	}{
		{"shim-signed", "usr/lib/shim/", []string{"shim"}},
		{"shim-helpers-" + d.Arch + "-signed", "usr/lib/shim/", []string{"mm"}},
		{"grub-efi-" + d.Arch + "-signed", "usr/lib/grub/" + e.grub + "-signed/", []string{"grub", "grubnet"}},
	} {
		p, err := f.find(ctx, suites, d.Arch, from.pkg)
		if err != nil {
			return nil, err
		}
		var members []member
		for _, program := range from.programs {
			name := program + e.short + ".efi"
			members = append(members, member{from.dir + name + ".signed", d.name(name)})
		}
		files, err := f.unpack(ctx, p, members)
		if err != nil {
			return nil, err
		}
		out = append(out, files...)
	}
	return out, nil
}

// Kernel brings the kernel that an installed system of the release would get.
func (f *Fetcher) Kernel(ctx context.Context, d Debian) ([]File, error) {
	suites, err := f.suites(ctx, d)
	if err != nil {
		return nil, err
	}
	newest, err := f.find(ctx, suites, d.Arch, "linux-image-"+d.Arch)
	if err != nil {
		return nil, err
	}
	name, _, _ := strings.Cut(newest.Depends, " ") // linux-image-6.12.107+deb13-amd64 (= 6.12.107-1)
	version, ok := strings.CutPrefix(name, "linux-image-")
	if !ok || strings.Contains(version, "/") {
		return nil, fmt.Errorf("package %s does not lead to a kernel, but to %.80q", newest.Name, newest.Depends)
	}
	p, err := f.find(ctx, suites, d.Arch, name)
	if err != nil {
		return nil, err
	}
	return f.unpack(ctx, p, []member{{"boot/vmlinuz-" + version, d.name("vmlinuz-" + version)}})
}

// found is a package, and what vouches for it.
type found struct {
	archive.Package
	suite suite
}

// find looks for the newest version of a package.
func (f *Fetcher) find(ctx context.Context, suites []suite, arch, name string) (best found, err error) {
	for _, s := range suites {
		for _, component := range s.Components {
			list := component + "/binary-" + arch + "/Packages.xz"
			says, ok := s.release.Names[list]
			if !ok {
				continue
			}
			all, err := f.packages(ctx, s, list, says, name)
			if err != nil {
				return best, err
			}
			for _, p := range all {
				if best.Path == "" || archive.CompareVersions(best.Version, p.Version) < 0 {
					best = found{p, s}
				}
			}
		}
	}
	if best.Path == "" {
		return best, fmt.Errorf("package %s is in none of: %s", name, words(suites))
	}
	return best, nil
}

func words(suites []suite) string {
	var out []string
	for _, s := range suites {
		out = append(out, s.Suite)
	}
	return strings.Join(out, ", ")
}

// packages reads one list. It stays on the disk until the Fetcher is closed: the next package is looked for in it, too.
func (f *Fetcher) packages(ctx context.Context, s suite, list string, says archive.File, name string) ([]archive.Package, error) {
	kept := filepath.Join(f.out, says.Sum.String()+".xz")
	if _, err := os.Stat(kept); err != nil {
		w, at := want{says.Sum.String(), says.Size}, s.dist(list)
		if s.release.ByHash { // so that a mirror that is being updated still has the one that its InRelease names
			at = s.dist(path.Dir(list) + "/by-hash/SHA256/" + w.digest)
		}
		p, err := f.download(ctx, at, "list of packages of "+s.Suite, w)
		if err == nil {
			err = os.Rename(p, kept)
		}
		if err != nil {
			return nil, err
		}
	}
	file, err := os.Open(kept)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	return archive.FindPackages(list, file, name)
}

// member is one file of a package, and what it is called here.
type member struct{ path, name string }

// unpack brings a package and takes files out of it.
func (f *Fetcher) unpack(ctx context.Context, p found, members []member) ([]File, error) {
	u := p.suite.base.JoinPath(p.Path)
	deb, err := f.download(ctx, u, path.Base(p.Path), want{p.Sum.String(), p.Size})
	if err != nil {
		return nil, err
	}
	f.done = append(f.done, deb)
	file, err := os.Open(deb)
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	out, left := make([]File, len(members)), len(members)
	err = archive.ReadDeb(file, func(name string, _ int64, content io.Reader) error {
		at := slices.IndexFunc(members, func(m member) bool { return m.path == name })
		if at < 0 || out[at].Path != "" {
			return ctx.Err()
		}
		m := members[at]
		to := filepath.Join(f.out, m.name)
		if err := write(to, content); err != nil {
			return err
		}
		out[at] = File{m.name, to, plain(u), chain(p.suite.by, p.suite.top(), "Packages", path.Base(p.Path), path.Base(m.path)), ""}
		if left--; left == 0 {
			return archive.ErrEnough
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path.Base(p.Path), err)
	}
	for i, m := range members {
		if out[i].Path == "" {
			return nil, fmt.Errorf("%s has no file %s", path.Base(p.Path), m.path)
		}
	}
	return out, nil
}

func write(to string, content io.Reader) error {
	file, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}
