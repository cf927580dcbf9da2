package archive

import (
	"bytes"
	"io"
	"slices"
	"strconv"
	"strings"
	"testing"

	"offshoot/e2e/lab"
)

func deb(t testing.TB, files map[string][]byte) []byte {
	t.Helper()
	p, err := lab.FilePackage("x", files)
	if err != nil {
		t.Fatal(err)
	}
	return p.Data
}

// unpack reads a package whole.
func unpack(data []byte) (map[string]string, error) {
	out := map[string]string{}
	return out, ReadDeb(bytes.NewReader(data), func(name string, _ int64, r io.Reader) error {
		content, err := io.ReadAll(r)
		out[name] = string(content)
		return err
	})
}

// pack is a package with a data member of this name.
func pack(t testing.TB, member string, compress func([]byte) ([]byte, error)) []byte {
	t.Helper()
	plain := deb(t, map[string][]byte{"./usr/lib/x": []byte("content")})
	at := bytes.Index(plain, []byte("data.tar"))
	data, err := compress(plain[at+60:])
	if err != nil {
		t.Fatal(err)
	}
	header := bytes.Clone(plain[at : at+60])
	copy(header, member+strings.Repeat(" ", 16-len(member)))
	copy(header[48:], slices.Concat([]byte(strconv.Itoa(len(data))), bytes.Repeat([]byte(" "), 10))[:10])
	return slices.Concat(plain[:at], header, data)
}

func TestPackageIsReadInEachCompression(t *testing.T) {
	for member, compress := range map[string]func([]byte) ([]byte, error){
		"data.tar": func(b []byte) ([]byte, error) { return b, nil }, "data.tar.xz": lab.XZ, "data.tar.gz": lab.Gzip,
	} {
		data := pack(t, member, compress)
		if got, err := unpack(data); err != nil || got["usr/lib/x"] != "content" {
			t.Errorf("%s: %q, %v", member, got, err)
		}
		if member == "data.tar" {
			continue
		}
		for _, n := range []int{0, 4, 8, 40, 68, 100, len(data) / 2} {
			if got, err := unpack(data[:n]); err == nil {
				t.Errorf("%s, %d of %d bytes: no error, but %q", member, n, len(data), got)
			}
		}
	}
	if _, err := unpack(pack(t, "data.tar.lzma", lab.Gzip)); err == nil || !strings.Contains(err.Error(), "compression is not known") {
		t.Errorf("%v", err)
	}
}

func TestPathsOfAPackageMustNotClimb(t *testing.T) {
	for _, name := range []string{"./../x", "/etc/passwd", "./a/../../b", "./a//b", "./a\\b"} {
		if got, err := unpack(deb(t, map[string][]byte{name: []byte("x")})); err == nil {
			t.Errorf("%s: %q", name, got)
		}
	}
}

func FuzzDeb(f *testing.F) {
	f.Add(pack(f, "data.tar.gz", lab.Gzip))
	f.Add(deb(f, map[string][]byte{"./x": []byte("y")}))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = ReadDeb(bytes.NewReader(data), func(name string, _ int64, r io.Reader) error {
			if clean, err := CleanName(name); err != nil || clean != name {
				t.Errorf("%q: %v", name, err)
			}
			_, err := io.Copy(io.Discard, io.LimitReader(r, 1<<16))
			return err
		})
	})
}

func TestVersionsAreComparedAsDpkgDoes(t *testing.T) {
	ordered := []string{"0~", "0", "1.0~rc1-1", "1.0-1~deb13u1", "1.0-1", "1.0-1+b1", "1.0-1+deb13u1", "1.0-1+deb13u2", "1.0-1+deb13u10", "1.0a-1", "1.0+1-1", "1.2-1", "1.10-1", "6.12.107-1", "1:0.1-1", "2:0"}
	for i, a := range ordered {
		for j, b := range ordered {
			if got := CompareVersions(a, b); (got < 0) != (i < j) || (got > 0) != (i > j) {
				t.Errorf("%s and %s: %d", a, b, got)
			}
		}
	}
}

const digestB = "bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb"

func TestChecksumFilesOfEachFormAreRead(t *testing.T) {
	c, err := ParseChecksums([]byte("# Fedora-x.iso: 5 bytes\nSHA256 (Fedora-x.iso) = " + digestA + "\n" + digestB + "  ./netboot/linux\r\n" + strings.ToUpper(digestB) + " *y.iso\n" +
		digestA + digestA + "  z.qcow2\n" + digestA + digestB + "  y.iso\nMD5 (w) = d41d8cd98f00b204e9800998ecf8427e\nd41d8cd98f00b204e9800998ecf8427e  w\nSHA512 (short) = " + digestA + "\n"))
	if err != nil {
		t.Fatal(err)
	}
	if len(c) != 4 || c["Fedora-x.iso"] != digestA || c["netboot/linux"] != digestB || c["y.iso"] != digestB || c["z.qcow2"] != digestA+digestA {
		t.Errorf("%v", c)
	}
	for name, bad := range map[string]string{
		"nothing": "", "weak": "d41d8cd98f00b204e9800998ecf8427e  w\n", "climbs": digestA + "  ../w\n", "absolute": digestA + "  /w\n",
		"twice": digestA + "  w\n" + digestB + "  w\n", "a portal": "<html>" + digestA + "  w\n",
	} {
		if c, err := ParseChecksums([]byte(bad)); err == nil {
			t.Errorf("%s: %v", name, c)
		}
	}
}

func FuzzChecksums(f *testing.F) {
	f.Add([]byte("SHA256 (a) = " + digestA + "\n" + digestB + " *b\n"))
	f.Add([]byte("[general]\nfamily = F\narch = x\n[images-x]\nkernel = k\n[checksums]\nk = sha256:" + digestA + "\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		clean := func(c Checksums) {
			for name, digest := range c {
				if got, err := CleanName(name); err != nil || got != name || len(digest) != 64 && len(digest) != 128 || digest != strings.ToLower(digest) {
					t.Errorf("%q: %q, %v", name, digest, err)
				}
			}
		}
		if c, err := ParseChecksums(text); err == nil {
			clean(c)
		}
		if info, err := ParseTreeinfo(text); err == nil {
			clean(info.Checksums)
		}
	})
}

func TestPackagesAreFoundInAllVersions(t *testing.T) {
	text := "Package: a\nVersion: 1\nDepends: b (= 1)\nFilename: pool/a1.deb\nSize: 5\nSHA256: " + digestA + "\n\nPackage: x\nFilename: ../x\n\nPackage: a\nVersion: 2\nFilename: pool/a2.deb\nSize: 6\nSHA256: " + digestB
	all, err := FindPackages("Packages", strings.NewReader(text), "a")
	if err != nil || len(all) != 2 || all[0].Depends != "b (= 1)" || all[0].Path != "pool/a1.deb" || all[1].Version != "2" || all[1].Sum.String() != digestB || all[1].Size != 6 {
		t.Errorf("%+v, %v", all, err)
	}
	if _, err := FindPackages("Packages", strings.NewReader(text), "x"); err == nil {
		t.Error("a path that climbs is taken")
	}
}

func TestSignatureMayBeArmoredOrNot(t *testing.T) {
	key := newPublisher(t)
	ring, err := ReadKeyring(key.Keyring, nil)
	if err != nil {
		t.Fatal(err)
	}
	armored, err := key.Signature([]byte("text"))
	if err != nil {
		t.Fatal(err)
	}
	binary, err := lab.Dearmor(armored)
	if err != nil {
		t.Fatal(err)
	}
	for name, signature := range map[string][]byte{"armored": armored, "not": binary} {
		if by, err := ring.Detached([]byte("text"), signature); err != nil || !strings.HasPrefix(by, "signed by ") || !strings.HasSuffix(by, " Archive") {
			t.Errorf("%s: %q, %v", name, by, err)
		}
		if by, err := ring.Detached([]byte("texts"), signature); err == nil {
			t.Errorf("%s, another text: %q", name, by)
		}
	}
	for _, bad := range [][]byte{nil, []byte("x"), []byte("<html>"), binary[:len(binary)/2]} {
		if by, err := ring.Detached([]byte("text"), bad); err == nil {
			t.Errorf("%q: %q", bad, by)
		}
	}
}
