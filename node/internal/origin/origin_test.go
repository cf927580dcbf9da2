package origin

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"offshoot/e2e/lab"
	"offshoot/node/internal/apt"
	"offshoot/node/internal/archive"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const (
	installerPackage = "debian-installer-13-netboot-amd64"
	installerDir     = "./usr/lib/debian-installer/images/13/amd64/text/debian-installer/amd64/"
	installerList    = "main/installer-amd64/current/images/SHA256SUMS"
)

// world is an archive, a server that has it, and a host that trusts its key.
type world struct {
	t      *testing.T
	key    *lab.Publisher
	fields string // further ones of InRelease
	lists  map[string][]byte
	files  map[string][]byte // what the server has
	server *httptest.Server
	dir    string

	mu     sync.Mutex
	asked  []string // paths, with ranges
	cut    int64    // if not 0, so many bytes of each answer come
	mangle func(w http.ResponseWriter, r *http.Request) bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, lists: map[string][]byte{}, files: map[string][]byte{}, dir: filepath.Join(t.TempDir(), "cache")}
	var err error
	if w.key, err = lab.NewPublisher(epoch); err != nil {
		t.Fatal(err)
	}
	w.server = httptest.NewServer(w)
	t.Cleanup(w.server.Close)
	return w
}

func (w *world) ServeHTTP(rw http.ResponseWriter, r *http.Request) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked = append(w.asked, r.URL.Path+strings.TrimPrefix(r.Header.Get("Range"), "bytes"))
	data, ok := w.files[strings.TrimPrefix(r.URL.Path, "/")]
	if w.mangle != nil && w.mangle(rw, r) {
		return
	}
	if !ok {
		http.NotFound(rw, r)
		return
	}
	if w.cut > 0 {
		begin := int64(0)
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &begin); err == nil {
			rw.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", begin, len(data)-1, len(data)))
		}
		rw.Header().Set("Content-Length", strconv.Itoa(len(data)-int(begin)))
		if begin > 0 {
			rw.WriteHeader(http.StatusPartialContent)
		}
		_, _ = rw.Write(data[begin:min(int64(len(data)), begin+w.cut)])
		return // net/http breaks the connection off
	}
	http.ServeContent(rw, r, "", time.Time{}, bytes.NewReader(data))
}

// pack puts a package into the pool and into the list.
func (w *world) pack(name string, files map[string][]byte, fields string) {
	w.t.Helper()
	p, err := lab.FilePackage(name, files)
	if err != nil {
		w.t.Fatal(err)
	}
	w.list(name, p.Data, fields)
}

func (w *world) list(name string, data []byte, fields string) {
	at := "pool/main/" + name + "_" + strings.Fields(fields)[1] + "_amd64.deb"
	w.files[at] = data
	w.lists["main/binary-amd64/Packages"] = fmt.Appendf(w.lists["main/binary-amd64/Packages"],
		"Package: %s\n%sFilename: %s\nSize: %d\nSHA256: %x\n\n", name, fields, at, len(data), sha256.Sum256(data))
}

// publish writes and signs InRelease.
func (w *world) publish() {
	w.t.Helper()
	packed, err := lab.XZ(w.lists["main/binary-amd64/Packages"])
	if err != nil {
		w.t.Fatal(err)
	}
	w.lists["main/binary-amd64/Packages.xz"] = packed
	text := fmt.Appendf(nil, "Suite: stable\nCodename: trixie\nDate: %s\n%sSHA256:\n", epoch.Format("Mon, 02 Jan 2006 15:04:05 UTC"), w.fields)
	for name, data := range w.lists {
		text = fmt.Appendf(text, " %x %d %s\n", sha256.Sum256(data), len(data), name)
		w.files["dists/trixie/"+name] = data
	}
	if w.files["dists/trixie/InRelease"], err = w.key.ClearSigned(text); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) fetcher() *Fetcher {
	w.t.Helper()
	keys, err := archive.ReadKeyring(w.key.Keyring, func() time.Time { return epoch.Add(time.Hour) })
	if err != nil {
		w.t.Fatal(err)
	}
	f := &Fetcher{Dir: w.dir, Root: w.t.TempDir(), Keyring: keys, Now: func() time.Time { return epoch.Add(time.Hour) }}
	f.pause = func(int) time.Duration { return 0 }
	w.t.Cleanup(func() { _ = f.Close() })
	return f
}

func (w *world) debian() Debian {
	return Debian{Release: "13", Arch: "amd64", Archives: []apt.Archive{{URI: w.server.URL, Suite: "trixie", Components: []string{"main"}}}}
}

// empty says whether nothing is left in the cache.
func (w *world) empty() []string {
	left, err := os.ReadDir(w.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	var out []string
	for _, e := range left {
		out = append(out, e.Name())
	}
	return out
}

func content(t *testing.T, f File) string {
	t.Helper()
	data, err := os.ReadFile(f.Path)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func withInstaller(t *testing.T) *world {
	w := newWorld(t)
	w.pack(installerPackage, map[string][]byte{
		installerDir + "linux": []byte("kernel"), installerDir + "initrd.gz": []byte("initrd"), "./usr/share/doc/x": []byte("text"),
	}, "Version: 20250803\n")
	return w
}

func TestInstallerComesOutOfThePackageWhereTheMirrorHasNoImages(t *testing.T) {
	for name, list := range map[string][]byte{"not listed": nil, "listed only": []byte("listed, and not there")} {
		w := withInstaller(t)
		if list != nil {
			w.lists[installerList] = fmt.Appendf(nil, "%x  ./netboot/debian-installer/amd64/linux\n", sha256.Sum256(list))
		}
		w.publish()
		f := w.fetcher()
		files, err := f.Installer(t.Context(), w.debian())
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if files[0].Name != "debian-13-amd64-linux" || content(t, files[0]) != "kernel" || files[1].Name != "debian-13-amd64-initrd.gz" || content(t, files[1]) != "initrd" {
			t.Errorf("%s: %+v", name, files)
		}
		if by := files[1].Verified; !strings.HasPrefix(by, "signed by ") || !strings.HasSuffix(by, ": InRelease of trixie, 2026-01-01 → Packages → "+installerPackage+"_20250803_amd64.deb → initrd.gz") {
			t.Errorf("%s: %s", name, by)
		}
		if err := f.Close(); err != nil || len(w.empty()) > 0 {
			t.Errorf("%s: left behind: %q, %v", name, w.empty(), err)
		}
	}
}

func TestInstallerImagesAreBelievedThroughTheirChecksums(t *testing.T) {
	w := newWorld(t)
	dir := "dists/trixie/" + path.Dir(installerList) + "/netboot/debian-installer/amd64/"
	for _, name := range []string{"linux", "initrd.gz"} {
		w.files[dir+name] = []byte("image of " + name)
		w.lists[installerList] = fmt.Appendf(w.lists[installerList], "%x  ./netboot/debian-installer/amd64/%s\n", sha256.Sum256(w.files[dir+name]), name)
	}
	w.publish()
	f := w.fetcher()
	files, err := f.Installer(t.Context(), w.debian())
	if err != nil {
		t.Fatal(err)
	}
	if content(t, files[0]) != "image of linux" || content(t, files[1]) != "image of initrd.gz" || !strings.Contains(files[0].Verified, " → "+installerList+" → ") {
		t.Errorf("%+v", files)
	}
	if err := f.Close(); err != nil || len(w.empty()) > 0 {
		t.Errorf("left behind: %q, %v", w.empty(), err)
	}
	w.files[dir+"initrd.gz"] = []byte("image of initrd.gy")
	if _, err := w.fetcher().Installer(t.Context(), w.debian()); !errors.Is(err, ErrMismatch) {
		t.Errorf("another image: %v", err)
	}
	w.files["dists/trixie/"+installerList] = append(w.lists[installerList], '\n')
	if _, err := w.fetcher().Installer(t.Context(), w.debian()); !errors.Is(err, ErrMismatch) {
		t.Errorf("another list: %v", err)
	}
}

func TestEveryBrokenLinkOfTheChainIsRefused(t *testing.T) {
	const inRelease, packages, deb = "dists/trixie/InRelease", "dists/trixie/main/binary-amd64/Packages.xz", "pool/main/" + installerPackage + "_20250803_amd64.deb"
	other, err := lab.NewPublisher(epoch)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		says   string
		before func(w *world) // is published
		after  func(w *world)
	}{
		"another key":              {"no good signature", nil, nil},
		"a changed InRelease":      {"no good signature", nil, func(w *world) { w.swap(inRelease, "Suite: stable", "Suite: stablf") }},
		"text before the message":  {"not clear-signed", nil, func(w *world) { w.files[inRelease] = append([]byte("Suite: x\n"), w.files[inRelease]...) }},
		"text behind the message":  {"follows the signature", nil, func(w *world) { w.files[inRelease] = append(w.files[inRelease], "Suite: x\n"...) }},
		"no signature":             {"not clear-signed", nil, func(w *world) { w.files[inRelease] = []byte("Suite: stable\nCodename: trixie\n") }},
		"a captive portal":         {"captive portal", nil, func(w *world) { w.files[inRelease] = []byte("<html>pay</html>") }},
		"no InRelease":             {"404", nil, func(w *world) { delete(w.files, inRelease) }},
		"a release that was good":  {"it was good until", func(w *world) { w.fields = "Valid-Until: Thu, 01 Jan 2026 00:30:00 UTC\n" }, nil},
		"another suite":            {"gives out another suite", nil, func(w *world) { w.files["dists/bookworm/InRelease"] = w.files[inRelease] }},
		"a changed list":           {"is not the file that the list names", nil, func(w *world) { w.flip(packages) }},
		"a list that is cut":       {"", nil, func(w *world) { w.files[packages] = w.files[packages][:20] }},
		"a list of another length": {"", nil, func(w *world) { w.files[packages] = append(w.files[packages], 0) }},
		"a changed package":        {"is not the file that the list names", nil, func(w *world) { w.flip(deb) }},
		"a package that is cut":    {"", nil, func(w *world) { w.files[deb] = w.files[deb][:100] }},
		"a longer package":         {"", nil, func(w *world) { w.files[deb] = append(w.files[deb], 0) }},
		"no package":               {"404", nil, func(w *world) { delete(w.files, deb) }},
		"a package that is unknown": {"is in none of: trixie", func(w *world) {
			w.lists["main/binary-amd64/Packages"] = []byte("Package: x\nFilename: x\nSize: 1\n\n")
		}, nil},
		"a digest that is none": {"is no SHA-256", func(w *world) { w.relist("SHA256: ", "SHA256: x") }, nil},
		"a huge size":           {"is no size", func(w *world) { w.relist("\nSize: ", "\nSize: 9999999999") }, nil},
		"a path that climbs":    {"climbs", func(w *world) { w.relist("Filename: pool", "Filename: ../pool") }, nil},
		"a file that climbs": {"climbs", func(w *world) {
			w.again(map[string][]byte{"./usr/../../etc/passwd": []byte("x"), installerDir + "linux": []byte("x"), installerDir + "initrd.gz": []byte("x")})
		}, nil},
		"a package without the file": {"has no file usr/lib/debian-installer", func(w *world) { w.again(map[string][]byte{installerDir + "linux": []byte("x")}) }, nil},
		"a package that is none": {"no ar archive", func(w *world) {
			w.lists = map[string][]byte{}
			w.list(installerPackage, []byte("something else"), "Version: 20250803\n")
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := withInstaller(t)
			if c.before != nil {
				c.before(w)
			}
			w.publish()
			if c.after != nil {
				c.after(w)
			}
			d := w.debian()
			if name == "another suite" {
				d.Archives[0].Suite = "bookworm"
			}
			f := w.fetcher()
			if name == "another key" {
				f.Keyring, err = archive.ReadKeyring(other.Keyring, f.Now)
				if err != nil {
					t.Fatal(err)
				}
			}
			files, err := f.Installer(t.Context(), d)
			if err == nil || !strings.Contains(err.Error(), c.says) {
				t.Fatalf("%v, %+v: want an error with %q", err, files, c.says)
			}
			if err := f.Close(); err != nil {
				t.Fatal(err)
			}
			for _, left := range w.empty() {
				if !strings.HasSuffix(left, ".part") {
					t.Errorf("left behind: %s", left)
				}
			}
		})
	}
}

func (w *world) swap(name, old, text string) {
	if !bytes.Contains(w.files[name], []byte(old)) {
		w.t.Fatalf("%s has no %q", name, old)
	}
	w.files[name] = bytes.Replace(w.files[name], []byte(old), []byte(text), 1)
}

func (w *world) relist(old, text string) {
	const name = "main/binary-amd64/Packages"
	w.lists[name] = bytes.Replace(w.lists[name], []byte(old), []byte(text), 1)
}

func (w *world) again(files map[string][]byte) {
	w.lists = map[string][]byte{}
	w.pack(installerPackage, files, "Version: 20250803\n")
}

func (w *world) flip(name string) {
	data := bytes.Clone(w.files[name])
	data[len(data)/2] ^= 1
	w.files[name] = data
}

func TestNewestVersionOfAllSuitesIsTaken(t *testing.T) {
	w := newWorld(t)
	w.pack("linux-image-amd64", map[string][]byte{"./x": nil}, "Version: 6.12.9-1\nDepends: linux-image-6.12.9+deb13-amd64 (= 6.12.9-1)\n")
	w.pack("linux-image-amd64", map[string][]byte{"./x": nil}, "Version: 6.12.10-1\nDepends: linux-image-6.12.10+deb13-amd64 (= 6.12.10-1)\n")
	w.pack("linux-image-6.12.10+deb13-amd64", map[string][]byte{"./boot/vmlinuz-6.12.10+deb13-amd64": []byte("newest")}, "Version: 6.12.10-1\n")
	w.publish()
	files, err := w.fetcher().Kernel(t.Context(), w.debian())
	if err != nil {
		t.Fatal(err)
	}
	if files[0].Name != "debian-13-amd64-vmlinuz-6.12.10+deb13-amd64" || content(t, files[0]) != "newest" {
		t.Errorf("%+v", files)
	}
}

func TestBootProgramsOfBothArchitecturesHaveTheNamesThatShimAsksFor(t *testing.T) {
	for arch, want := range map[string][]string{
		"amd64": {"shimx64.efi", "mmx64.efi", "grubx64.efi", "grubnetx64.efi"}, "arm64": {"shimaa64.efi", "mmaa64.efi", "grubaa64.efi", "grubnetaa64.efi"},
	} {
		w := newWorld(t)
		grub := map[string]string{"amd64": "x86_64", "arm64": "arm64"}[arch]
		w.pack("shim-signed", map[string][]byte{"./usr/lib/shim/" + want[0] + ".signed": []byte(want[0])}, "Version: 1\n")
		w.pack("shim-helpers-"+arch+"-signed", map[string][]byte{"./usr/lib/shim/" + want[1] + ".signed": []byte(want[1])}, "Version: 1\n")
		dir := "./usr/lib/grub/" + grub + "-efi-signed/"
		w.pack("grub-efi-"+arch+"-signed", map[string][]byte{dir + want[2] + ".signed": []byte(want[2]), dir + want[3] + ".signed": []byte(want[3])}, "Version: 1\n")
		w.publish()
		if arch == "arm64" {
			w.lists["main/binary-arm64/Packages.xz"] = w.lists["main/binary-amd64/Packages.xz"]
			w.publish()
		}
		d := w.debian()
		d.Arch = arch
		files, err := w.fetcher().BootPrograms(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		for i, name := range want {
			if files[i].Name != "debian-13-"+arch+"-"+name || content(t, files[i]) != name {
				t.Errorf("%s: %+v, want %s", arch, files[i], name)
			}
		}
	}
}

func TestReleaseAndArchitectureMustBeKnown(t *testing.T) {
	for _, c := range [][2]string{{"11", "amd64"}, {"", "amd64"}, {"13", "i386"}} {
		if _, err := NewDebian(c[0], c[1], "http://mirror.test/debian", "/nowhere"); err == nil {
			t.Errorf("%q was taken", c)
		}
	}
	d, err := NewDebian("trixie", "amd64", "http://mirror.test/debian", "/nowhere")
	if err != nil || d.Release != "13" || d.Archives[0].Suite != "trixie" {
		t.Errorf("%+v, %v", d, err)
	}
	if _, err := NewDebian("13", "amd64", "", "/nowhere"); err == nil || !strings.Contains(err.Error(), "--mirror URL") {
		t.Errorf("%v", err)
	}
}
