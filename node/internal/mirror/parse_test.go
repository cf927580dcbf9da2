package mirror

import (
	"bytes"
	"fmt"
	"io"
	"net/url"
	"runtime"
	"strings"
	"testing"
	"time"
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
	if len(x) != 2 || x["pool/a.deb"].size != 5 || x["pool/c.deb"].sum.String() != digestA {
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

func TestReleaseIsReadStrictly(t *testing.T) {
	good := "Date: Sat, 11 Jul 2026 10:16:37 UTC\nValid-Until: Sat,  1 Aug 2026 10:16:37 +0000\nAcquire-By-Hash: yes\nMD5Sum:\n x 5 y\nSHA256:\n " +
		digestA + "        5 main/Packages\nSHA512:\n " + digestA + digestA + " 5 main/Packages\n"
	r, err := parseRelease([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if r.names["main/Packages"].size != 5 || !r.byHash || r.date != time.Date(2026, 7, 11, 10, 16, 37, 0, time.UTC) || r.validUntil.Month() != 8 || r.sha512[digestA+digestA] != "main/Packages" {
		t.Errorf("%+v", r)
	}
	for name, bad := range map[string]string{
		"nothing": "", "weak": "MD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 x\n", "climbs": "SHA256:\n " + digestA + " 5 ../x\n",
		"twice": "SHA256:\n " + digestA + " 5 x\n " + strings.Repeat("b", 64) + " 5 x\n", "date": "Date: today\nSHA256:\n " + digestA + " 5 x\n",
		"no field": "hello\n" + good, "two columns": "SHA256:\n " + digestA + " x\n",
	} {
		if _, err := parseRelease([]byte(bad)); err == nil {
			t.Errorf("%s: no error", name)
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
	if _, err := io.Copy(io.Discard, &boundedReader{strings.NewReader("12345"), 3}); err == nil {
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

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Date: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n " + digestA + " 5 main/Packages\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := parseRelease(text)
		if err == nil {
			wantClean(t, r.names)
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

// FuzzInRelease holds taking apart to what is signed: nothing but the message may be in an accepted file.
func FuzzInRelease(f *testing.F) {
	key := newSigner(f)
	f.Add(key.clear(f, []byte("Suite: x\n- y\n\n")))
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nx\n-----BEGIN PGP SIGNATURE-----\n\n=xxxx\n-----END PGP SIGNATURE-----\n"))
	ring, err := readKeyring(key.ring, func() time.Time { return epoch.Add(2 * time.Hour) })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		text, by, err := ring.clear(data)
		if err == nil && (by == "" || !bytes.Contains(canonical(text), []byte("Suite: x"))) {
			t.Errorf("%q was taken as signed", text)
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
		if again, err := cleanName(p); err != nil || again != p {
			t.Errorf("%q became %q, then %q (%v)", raw, p, again, err)
		}
	})
}

func wantClean(t *testing.T, x map[string]file) {
	for name, f := range x {
		if clean, err := cleanName(name); err != nil || clean != name || f.size < 0 {
			t.Errorf("%q: %v", name, err)
		}
	}
}
