package iso

import (
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/google/go-cmp/cmp"
	"github.com/ulikunitz/xz"
)

// image is one that xorriso made; testdata/README says how.
func image(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", name+".iso.xz"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	x, err := xz.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(x)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func open(t testing.TB, name string) *Image {
	t.Helper()
	data := image(t, name)
	m, err := Open(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestImageIsAFileSystem(t *testing.T) {
	for name, files := range map[string][]string{
		"rockridge": {".disk/info", "install.amd/vmlinuz", "pool/main/l/long/" + strings.Repeat("a", 200) + ".deb", "dists/trixie/Release"},
		"joliet":    {".treeinfo", "images/pxeboot/vmlinuz"},
		"ubuntu":    {".disk/info", "casper/initrd"},
		"plain":     {"IMAGES/PXEBOOT/VMLINUZ"},
	} {
		if err := fstest.TestFS(withoutLoop{open(t, name)}, files...); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// withoutLoop leaves out a link that leads to its own directory: TestFS would follow it for ever.
type withoutLoop struct{ *Image }

func (w withoutLoop) ReadDir(name string) ([]fs.DirEntry, error) {
	list, err := w.Image.ReadDir(name)
	return without(list), err
}

func (w withoutLoop) Open(name string) (fs.File, error) {
	f, err := w.Image.Open(name)
	if d, ok := f.(*directory); ok {
		kept := d.list[:0:0]
		for _, e := range d.list {
			if e.name != "debian" {
				kept = append(kept, e)
			}
		}
		d.list = kept
	}
	return f, err
}

func without(list []fs.DirEntry) []fs.DirEntry {
	kept := list[:0:0]
	for _, e := range list {
		if e.Name() != "debian" {
			kept = append(kept, e)
		}
	}
	return kept
}

func TestLinksAreFollowedInsideOfTheImage(t *testing.T) {
	m := open(t, "rockridge")
	for _, name := range []string{"debian/debian/dists/stable/Release", "abs/vmlinuz", "dists/stable/up/file-1.txt"} {
		if data, err := fs.ReadFile(m, name); err != nil || len(data) == 0 {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
	if _, err := m.Open(strings.Repeat("debian/", 30) + "dists"); err == nil {
		t.Error("any number of links is followed")
	}
	for _, name := range []string{"../etc/passwd", "/etc/passwd", "a/../b", "", "install.amd//vmlinuz"} {
		if _, err := m.Open(name); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", name, err)
		}
	}
	for _, name := range []string{"none", "install.amd/vmlinuz/x", "pool/main/none"} {
		if _, err := m.Open(name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%q: %v", name, err)
		}
	}
}

func TestDistributionIsRecognised(t *testing.T) {
	for name, want := range map[string]Medium{
		"rockridge": {"Debian 13.1.0 amd64 n", "Debian", "13.1.0", "amd64", "install.amd/vmlinuz", "install.amd/initrd.gz"},
		"ubuntu":    {"Ubuntu-Server 24.04.1 LTS amd64", "Ubuntu-Server", "24.04.1", "amd64", "casper/vmlinuz", "casper/initrd"},
		"joliet":    {"Fedora-S-dvd-x86_64-42", "Fedora", "42", "x86_64", "images/pxeboot/vmlinuz", "images/pxeboot/initrd.img"},
		"plain":     {Volume: "PLAIN"},
	} {
		if diff := cmp.Diff(want, Recognise(open(t, name))); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestDiskInfoOfEachDistributionIsRead(t *testing.T) {
	for info, want := range map[string][3]string{
		`Debian GNU/Linux 13.1.0 "Trixie" - Official amd64 DVD Binary-1 with firmware 20250906-10:24`: {"Debian", "13.1.0", "amd64"},
		`Debian GNU/Linux 12.11.0 "Bookworm" - Official arm64 NETINST with firmware 20250517-09:52`:   {"Debian", "12.11.0", "arm64"},
		`Debian GNU/Linux testing "Forky" - Official Snapshot amd64 NETINST 20251101-10:00`:           {},
		`Ubuntu-Server 24.04.1 LTS "Noble Numbat" - Release amd64 (20240827)`:                         {"Ubuntu-Server", "24.04.1", "amd64"},
		`Ubuntu 25.04 "Plucky Puffin" - Release arm64 (20250415)`:                                     {"Ubuntu", "25.04", "arm64"},
		"": {},
	} {
		var got Medium
		got.debian(&Image{r: bytes.NewReader(nil)}, info)
		if got := [3]string{got.Distribution, got.Release, got.Arch}; got != want {
			t.Errorf("%s: %q, want %q", info, got, want)
		}
	}
}

func TestDiscinfoNeedsTheVolumesName(t *testing.T) {
	for volume, want := range map[string]string{
		"AlmaLinux-9-5-x86_64-dvd": "AlmaLinux", "Rocky-9-5-x86_64-minimal": "Rocky", "CentOS-Stream-10-BaseOS-x86_64": "CentOS-Stream", "SOMETHING": "",
	} {
		got := Medium{Volume: volume}
		got.discinfo(&Image{r: bytes.NewReader(nil)}, "1760000000.0\nAlmaLinux 9.5\nx86_64\n")
		if got.Distribution != want || want != "" && (got.Release != "9.5" || got.Arch != "x86_64") {
			t.Errorf("%s: %+v", volume, got)
		}
	}
}

func TestImageThatIsCutShortIsRefused(t *testing.T) {
	data := image(t, "rockridge")
	for _, n := range []int{0, 100, 16 * sector, 17 * sector, len(data) / 2, len(data) - sector} {
		if _, err := Open(bytes.NewReader(data[:n]), int64(n)); !errors.Is(err, ErrFormat) {
			t.Errorf("%d of %d bytes: %v", n, len(data), err)
		}
	}
	if _, err := Open(bytes.NewReader(make([]byte, 40*sector)), 40*sector); !errors.Is(err, ErrFormat) {
		t.Errorf("zeros: %v", err)
	}
}

// disk is a large image of which only some sectors hold anything.
type disk map[int64][]byte

func (d disk) ReadAt(p []byte, off int64) (int, error) {
	for i := range p {
		p[i] = 0
		if s := d[(off+int64(i))/sector]; s != nil {
			if at := int((off + int64(i)) % sector); at < len(s) {
				p[i] = s[at]
			}
		}
	}
	return len(p), nil
}

// record is a directory record as ECMA-119, 9.1, has it.
func record(name string, block, size uint32, flags byte) []byte {
	n := 33 + len(name)
	n += n % 2
	r := make([]byte, n)
	r[0], r[25], r[32] = byte(n), flags, byte(len(name))
	binary.LittleEndian.PutUint32(r[2:], block)
	binary.LittleEndian.PutUint32(r[10:], size)
	r[18], r[19], r[20] = 125, 10, 9
	copy(r[33:], name)
	return r
}

// volume is a disk with this root directory.
func volume(blocks uint32, records ...[]byte) (disk, int64) {
	primary := make([]byte, sector)
	primary[0] = 1
	copy(primary[1:], "CD001")
	copy(primary[40:], "TEST")
	binary.LittleEndian.PutUint32(primary[80:], blocks)
	binary.LittleEndian.PutUint16(primary[128:], sector)
	copy(primary[156:], record("\x00", 18, sector, flagDirectory))
	root := append(record("\x00", 18, sector, flagDirectory), record("\x01", 18, sector, flagDirectory)...)
	for _, r := range records {
		root = append(root, r...)
	}
	end := append([]byte{255}, "CD001"...)
	return disk{16: primary, 17: end, 18: root}, int64(blocks) * sector
}

func TestFileOfMoreThanFourGigabytesIsRead(t *testing.T) {
	const most = 1<<32 - sector // what mkisofs puts into one extent
	for name, second := range map[string]uint32{"in a row": 32 + most/sector, "apart": 20} {
		d, size := volume(40+most/sector, record("BIG.ISO;1", 32, most, flagMultiExtent), record("BIG.ISO;1", second, 10, 0), record("NEXT.;1", 19, 4, 0))
		d[32+most/sector-1] = bytes.Repeat([]byte{'a'}, sector)
		d[int64(second)] = []byte("0123456789")
		d[19] = []byte("next")
		m, err := Open(d, size)
		if err != nil {
			t.Fatal(err)
		}
		f, err := m.Open("big.iso")
		if err != nil {
			t.Fatal(err)
		}
		if info, _ := f.Stat(); info.Size() != most+10 {
			t.Errorf("%s: %d bytes", name, info.Size())
		}
		r, ok := f.(io.ReadSeeker)
		if !ok {
			t.Fatal("it cannot seek")
		}
		if _, err := r.Seek(most-3, io.SeekStart); err != nil {
			t.Fatal(err)
		}
		if data, err := io.ReadAll(r); err != nil || string(data) != "aaa0123456789" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
		if _, whole := f.(Located).Extent(); whole != (name == "in a row") {
			t.Errorf("%s: whole is %v", name, whole)
		}
		if data, err := fs.ReadFile(m, "NEXT"); err != nil || string(data) != "next" {
			t.Errorf("%s: %q, %v", name, data, err)
		}
	}
}

func TestDirectoryThatLiesIsRefused(t *testing.T) {
	short := record("A.;1", 19, 4, 0)
	short[0] = 20
	long := record("A.;1", 19, 4, 0)
	long[32] = 200
	woven := record("A.;1", 19, 4, 0)
	woven[26] = 1
	for name, rec := range map[string][]byte{
		"a file behind the end": record("A.;1", 19, 1<<20, 0), "a file that begins there": record("A.;1", 1<<31, 4, 0),
		"a short record": short, "a long name": long, "an interleaved file": woven,
	} {
		d, size := volume(24, rec)
		m, err := Open(d, size)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := m.ReadDir("."); !errors.Is(err, ErrFormat) {
			t.Errorf("%s: %v, %v", name, list, err)
		}
	}
	d, size := volume(24, record("D", 18, maxDirectory+1, flagDirectory))
	m, err := Open(d, size<<20)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.ReadDir("D"); !errors.Is(err, ErrFormat) {
		t.Errorf("a huge directory: %v", err)
	}
	for _, bad := range []string{"..", "A/B", "."} {
		d, size := volume(24, record(bad, 19, 4, 0))
		m, err := Open(d, size)
		if err != nil {
			t.Fatal(err)
		}
		if list, err := m.ReadDir("."); err != nil || len(list) != 0 {
			t.Errorf("a file called %q: %v, %v", bad, list, err)
		}
	}
}

// FuzzImage walks through whatever opens.
func FuzzImage(f *testing.F) {
	for _, name := range []string{"rockridge", "joliet", "plain"} {
		f.Add(image(f, name)[firstDescriptor*sector:])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		data = append(make([]byte, firstDescriptor*sector), data...)
		m, err := Open(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			return
		}
		Recognise(m)
		seen := 0
		_ = fs.WalkDir(m, ".", func(name string, d fs.DirEntry, err error) error {
			if seen++; seen > 50 || strings.Count(name, "/") > 20 {
				return fs.SkipAll
			}
			if err == nil && !d.IsDir() {
				if f, err := m.Open(name); err == nil {
					if r, ok := f.(io.Reader); ok {
						_, _ = io.Copy(io.Discard, io.LimitReader(r, 1<<20))
					}
				}
			}
			return nil
		})
	})
}
