package mirror

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"runtime"
	"strings"
	"testing"

	"offshoot/node/internal/archive"
)

const digestA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func TestPackagesAreReadStanzaByStanza(t *testing.T) {
	long := strings.Repeat("x", 200_000)
	x, err := parsePackages(strings.NewReader(
		"Package: a\nDepends: " + long + "\nFilename: ./pool/a.deb\nSize: 5\nSHA256: " + digestA + "\nDescription: d\n Filename: pool/no.deb\n\n\n" +
			"Package: no-digest\nFilename: pool/b.deb\nSize: 5\nMD5sum: x\n\n" +
			"Package: last\nFilename: pool/c.deb\r\nSize: 0\r\nSHA256: " + digestA))
	if err != nil {
		t.Fatal(err)
	}
	if len(x) != 2 || x["pool/a.deb"].Size != 5 || x["pool/c.deb"].Sum.String() != digestA {
		t.Errorf("%v", x)
	}
	for name, bad := range map[string]string{
		"climbs": "Filename: ../../etc/passwd\nSize: 5\nSHA256: " + digestA, "absolute": "Filename: /etc/passwd\nSize: 5\nSHA256: " + digestA,
		"digest": "Filename: a\nSize: 5\nSHA256: xyz", "size": "Filename: a\nSize: -5\nSHA256: " + digestA, "no size": "Filename: a\nSHA256: " + digestA,
		"a long name": "Filename: " + long + "\nSize: 5\nSHA256: " + digestA,
	} {
		if x, err := parsePackages(strings.NewReader(bad)); err == nil {
			t.Errorf("%s: no error, but %v", name, x)
		}
	}
}

// stanzas is a Packages file of a size, made while it is read.
type stanzas struct {
	n, size int
	buf     bytes.Buffer
}

func (s *stanzas) Read(p []byte) (int, error) {
	for s.buf.Len() < len(p) && s.n < s.size {
		before := s.buf.Len()
		fmt.Fprintf(&s.buf, "Package: package-%d\nDepends: %s\nDescription: %s\nFilename: pool/main/p/package-%d/package-%d_1.0-1_amd64.deb\nSize: %d\nSHA256: %064x\n\n",
			s.n, strings.Repeat("libc6 (>= 2.36), ", 20), strings.Repeat("word ", 60), s.n, s.n, s.n, s.n)
		s.n += s.buf.Len() - before
	}
	if s.buf.Len() == 0 {
		return 0, io.EOF
	}
	return s.buf.Read(p)
}

func TestSixtyMegabytesOfPackagesCostLittleMemory(t *testing.T) {
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	x, err := readIndex("Packages", &stanzas{size: 60 << 20})
	if err != nil {
		t.Fatal(err)
	}
	runtime.ReadMemStats(&after) // without a collection: all that was ever allocated counts
	if used := after.TotalAlloc - before.TotalAlloc; used > 200<<20 {
		t.Errorf("%d packages of a 60 MiB index took %d MiB", len(x), used>>20)
	}
	runtime.KeepAlive(x)
}

func TestIndexThatIsCutIsNoShortIndex(t *testing.T) {
	text := "Filename: a\nSize: 5\nSHA256: " + digestA + "\n"
	for name, packed := range map[string][]byte{"Packages.xz": xzOf(t, []byte(text)), "Packages.gz": gzOf(t, []byte(text))} {
		if x, err := readIndex(name, bytes.NewReader(packed)); err != nil || len(x) != 1 {
			t.Errorf("%s: %v, %v", name, x, err)
		}
		if _, err := readIndex(name, bytes.NewReader(packed[:len(packed)-9])); err == nil {
			t.Errorf("%s, cut: no error", name)
		}
	}
	if _, err := readIndex("Packages.lzma", strings.NewReader(text)); err == nil {
		t.Error("unknown compression: no error")
	}
	if _, err := io.Copy(io.Discard, &archive.BoundedReader{R: strings.NewReader("12345"), Left: 3}); err == nil {
		t.Error("more than the bound: no error")
	}
}

func FuzzPackages(f *testing.F) {
	f.Add("Package: a\nFilename: pool/a.deb\nSize: 5\nSHA256: " + digestA + "\n\n")
	f.Fuzz(func(t *testing.T, text string) {
		x, err := parsePackages(strings.NewReader(text))
		if err == nil {
			wantClean(t, x)
		}
	})
}

func FuzzPrimary(f *testing.F) {
	f.Add(`<metadata><package type="rpm"><checksum type="sha256" pkgid="YES">` + digestA + `</checksum><size package="5"/><location href="a.rpm"/></package></metadata>`)
	f.Add(`<package><checksum type="sha256"`)
	f.Fuzz(func(t *testing.T, text string) {
		x, err := parsePrimary(strings.NewReader(text))
		if err == nil {
			wantClean(t, x)
		}
	})
}

func FuzzRepomd(f *testing.F) {
	f.Add([]byte(`<repomd><data type="primary"><checksum type="sha256">` + digestA + `</checksum><location href="repodata/primary.xml.gz"/><size>5</size></data></repomd>`))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRepomd(text)
		if err == nil {
			wantClean(t, r.names)
		}
	})
}

func FuzzPath(f *testing.F) {
	for _, p := range []string{"/a/b", "/./a", "/a//b", "/../a", "/%2e%2e/a", "/a%2Fb", "/a%00", "/a%2bb"} {
		f.Add(p)
	}
	f.Fuzz(func(t *testing.T, raw string) {
		u, err := url.ParseRequestURI(raw)
		if err != nil {
			return
		}
		p, err := requestPath(u)
		if err != nil {
			return
		}
		if again, err := archive.CleanName(p); err != nil || again != p {
			t.Errorf("%q became %q, then %q (%v)", raw, p, again, err)
		}
	})
}

func wantClean(t *testing.T, x map[string]archive.File) {
	for name, f := range x {
		if clean, err := archive.CleanName(name); err != nil || clean != name || f.Size < 0 {
			t.Errorf("%q: %v", name, err)
		}
	}
}
