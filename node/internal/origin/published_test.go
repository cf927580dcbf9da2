package origin

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"offshoot/e2e/lab"
)

// sign puts a checksum file beside the files, in one of the forms of publishers.
func (w *world) sign(list, form string, key *lab.Publisher, files ...string) {
	w.t.Helper()
	var text []byte
	for _, name := range files {
		line := "%x  %s\n"
		if form == "bsd" {
			line = "SHA256 (%[2]s) = %[1]x\n"
		}
		text = fmt.Appendf(text, line, sha256.Sum256(w.files[name]), name)
	}
	var err error
	switch {
	case key == nil:
	case form == "bsd":
		text, err = key.ClearSigned(text)
	default:
		w.files[list+form], err = key.Signature(text)
	}
	if err != nil {
		w.t.Fatal(err)
	}
	w.files[list] = text
}

func TestSignedChecksumFilesOfEachFormAreFound(t *testing.T) {
	for file, c := range map[string][2]string{
		"ubuntu-24.04.1-live-server-amd64.iso":          {"SHA256SUMS", ".gpg"},
		"noble-server-cloudimg-amd64.img":               {"SHA256SUMS", ".gpg"},
		"debian-13.1.0-amd64-netinst.iso":               {"SHA256SUMS", ".sign"},
		"Fedora-Server-netinst-x86_64-42-1.1.iso":       {"Fedora-Server-42-1.1-x86_64-CHECKSUM", "bsd"},
		"AlmaLinux-9.5-x86_64-minimal.iso":              {"CHECKSUM", ".asc"},
		"Rocky-9.5-x86_64-minimal.iso":                  {"CHECKSUM", ".sig"},
		"CentOS-Stream-10-latest-x86_64-dvd1.iso":       {"CentOS-Stream-10-latest-x86_64-dvd1.iso.SHA256SUM", ".asc"},
		"something-else.img":                            {"SHA256SUMS", ".sign"},
		"Fedora-Cloud-Base-Generic-42-1.1.x86_64.qcow2": {"SHA256SUMS", ""},
	} {
		w := newWorld(t)
		w.files[file] = []byte("bytes of " + file)
		w.sign(c[0], c[1], w.key, file)
		p := Published{At: w.server.URL + "/" + file}
		if c[1] == "" { // no rule: it has to be named
			w.sign(c[0], ".gpg", w.key, file)
			p.Sums = w.server.URL + "/" + c[0]
		}
		got, err := w.fetcher().Publication(t.Context(), p)
		if err != nil {
			t.Errorf("%s: %v", file, err)
			continue
		}
		if content(t, got) != "bytes of "+file || !strings.HasPrefix(got.Verified, "signed by ") || !strings.HasSuffix(got.Verified, ": "+c[0]+" → "+file) {
			t.Errorf("%s: %+v", file, got)
		}
	}
}

func TestWhatNothingVouchesForIsRefusedOrCalledSo(t *testing.T) {
	other, err := lab.NewPublisher(epoch)
	if err != nil {
		t.Fatal(err)
	}
	const file = "ubuntu-24.04.iso"
	for name, c := range map[string]struct {
		prepare  func(w *world)
		strict   string // the error
		lenient  string // with --unverified: the words, or the error
		unsigned bool   // the error is ErrUnsigned
	}{
		"no checksum file":    {func(*world) {}, "there is no checksum file beside it (SHA256SUMS)", "unverified: there is no checksum file", true},
		"nobody signed it":    {func(w *world) { w.sign("SHA256SUMS", ".gpg", nil, file) }, "nobody signed SHA256SUMS", "unverified: nobody signed SHA256SUMS", true},
		"another key":         {func(w *world) { w.sign("SHA256SUMS", ".gpg", other, file) }, "no good signature", "no good signature", false},
		"another key, around": {func(w *world) { w.sign("SHA256SUMS", "bsd", other, file) }, "no good signature", "no good signature", false},
		"a list that differs": {func(w *world) {
			w.sign("SHA256SUMS", ".gpg", w.key, file)
			w.files["SHA256SUMS"] = append(w.files["SHA256SUMS"], '#')
		}, "no good signature", "no good signature", false},
		"a file that differs":  {func(w *world) { w.sign("SHA256SUMS", ".gpg", w.key, file); w.flip(file) }, "is not the file that the list names", "is not the file that the list names", false},
		"unsigned, it differs": {func(w *world) { w.sign("SHA256SUMS", ".gpg", nil, file); w.flip(file) }, "nobody signed", "is not the file that the list names", true},
		"a list of others":     {func(w *world) { w.files["x"] = nil; w.sign("SHA256SUMS", ".gpg", w.key, "x") }, "there is no checksum file beside it", "unverified: there is no", true},
		"a portal":             {func(w *world) { w.files["SHA256SUMS"] = []byte("<!DOCTYPE html>") }, "", "captive portal", false},
	} {
		w := newWorld(t)
		w.files[file] = []byte("an image")
		c.prepare(w)
		_, err := w.fetcher().Publication(t.Context(), Published{At: w.server.URL + "/" + file})
		if err == nil || !strings.Contains(err.Error(), c.strict) || c.unsigned && !errors.Is(err, ErrUnsigned) {
			t.Errorf("%s: %v", name, err)
		}
		got, err := w.fetcher().Publication(t.Context(), Published{At: w.server.URL + "/" + file, Unverified: true})
		if err == nil && !strings.HasPrefix(got.Verified, c.lenient) || err != nil && !strings.Contains(err.Error(), c.lenient) {
			t.Errorf("%s, unverified: %+v, %v", name, got, err)
		}
	}
}

func TestKeysOfOneDistributionVouchForItsOwnFilesOnly(t *testing.T) {
	w := newWorld(t)
	f := w.fetcher()
	f.Keyring = nil
	put := func(name string, data []byte) {
		p := filepath.Join(f.Root, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, data, 0o644)); err != nil {
			t.Fatal(err)
		}
	}
	put("usr/share/keyrings/vendor.gpg", w.key.Keyring)
	put("usr/share/keyrings/debian-archive-removed-keys.gpg", w.key.Keyring)
	put("etc/apt/trusted.gpg.d/vendor.gpg", w.key.Keyring)
	w.files["ubuntu-24.04.iso"], w.files["debian-13.iso"] = []byte("u"), []byte("d")
	w.sign("SHA256SUMS", ".gpg", w.key, "ubuntu-24.04.iso", "debian-13.iso")
	w.publish()
	if _, err := f.Installer(t.Context(), w.debian()); !errors.Is(err, ErrNoKeys) || !strings.Contains(err.Error(), "apt-get install debian-archive-keyring") {
		t.Errorf("the archive: %v", err)
	}
	if _, err := f.Publication(t.Context(), Published{At: w.server.URL + "/ubuntu-24.04.iso"}); !errors.Is(err, ErrNoKeys) {
		t.Errorf("no keys: %v", err)
	}
	put("usr/share/keyrings/ubuntu-archive-keyring.gpg", w.key.Keyring)
	if _, err := f.Publication(t.Context(), Published{At: w.server.URL + "/ubuntu-24.04.iso"}); err != nil {
		t.Errorf("its own keys: %v", err)
	}
	if _, err := f.Publication(t.Context(), Published{At: w.server.URL + "/debian-13.iso"}); !errors.Is(err, ErrNoKeys) {
		t.Errorf("another's keys: %v", err)
	}
	got, err := f.Publication(t.Context(), Published{At: w.server.URL + "/debian-13.iso", Unverified: true})
	if err != nil || !strings.HasPrefix(got.Verified, "unverified: SHA256SUMS is signed, and this host has no key") {
		t.Errorf("%+v, %v", got, err)
	}
	for _, set := range []string{"etc/apt/trusted.gpg.d/debian-archive-trixie.gpg", "usr/share/keyrings/debian-archive-keyring.pgp"} {
		put(set, w.key.Keyring)
		if _, err := f.keys(debianArchive); err != nil {
			t.Errorf("%s: %v", set, err)
		}
	}
}

func TestOwnFileNeedsNobody(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	at := filepath.Join(dir, "debian-13.iso")
	put := func(name string) {
		if err := os.WriteFile(filepath.Join(dir, name), w.files[name], 0o644); err != nil {
			t.Fatal(err)
		}
	}
	w.files["debian-13.iso"] = []byte("an image")
	put("debian-13.iso")
	f := w.fetcher()
	if got, err := f.Publication(t.Context(), Published{At: at}); err != nil || got.Verified != Given || got.Path != at {
		t.Errorf("%+v, %v", got, err)
	}
	w.sign("SHA256SUMS", ".sign", w.key, "debian-13.iso")
	put("SHA256SUMS")
	put("SHA256SUMS.sign")
	if got, err := f.Publication(t.Context(), Published{At: at}); err != nil || !strings.HasPrefix(got.Verified, "signed by ") {
		t.Errorf("signed beside it: %+v, %v", got, err)
	}
	w.flip("debian-13.iso")
	put("debian-13.iso")
	if _, err := f.Publication(t.Context(), Published{At: at}); !errors.Is(err, ErrMismatch) {
		t.Errorf("it differs: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(at); err != nil {
		t.Errorf("the operator's own file: %v", err)
	}
}

func TestTreeIsConsistentAndNoMore(t *testing.T) {
	w := newWorld(t)
	w.files["os/images/pxeboot/vmlinuz"], w.files["os/images/pxeboot/initrd.img"] = []byte("k"), []byte("i")
	w.files["os/.treeinfo"] = fmt.Appendf(nil, "[general]\nfamily = Fedora\nversion = 42\narch = x86_64\n[images-x86_64]\nkernel = images/pxeboot/vmlinuz\ninitrd = images/pxeboot/initrd.img\n"+
		"[checksums]\nimages/pxeboot/vmlinuz = sha256:%x\nimages/pxeboot/initrd.img = sha256:%x\n", sha256.Sum256([]byte("k")), sha256.Sum256([]byte("i")))
	if _, err := w.fetcher().Tree(t.Context(), w.server.URL+"/os", false); !errors.Is(err, ErrUnsigned) || len(w.asked) > 0 {
		t.Errorf("%v, asked for %q", err, w.asked)
	}
	f := w.fetcher()
	files, err := f.Tree(t.Context(), w.server.URL+"/os", true)
	if err != nil || files[0].Name != "fedora-42-x86_64-vmlinuz" || content(t, files[1]) != "i" || !strings.HasPrefix(files[0].Verified, "unverified: ") {
		t.Errorf("%+v, %v", files, err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.flip("os/images/pxeboot/vmlinuz")
	if _, err := w.fetcher().Tree(t.Context(), w.server.URL+"/os", true); !errors.Is(err, ErrMismatch) {
		t.Errorf("it differs: %v", err)
	}
}

func TestWhatTheCallerHasIsNotFetched(t *testing.T) {
	w := newWorld(t)
	w.files["x.img"] = []byte("an image")
	w.sign("SHA256SUMS", ".gpg", w.key, "x.img")
	f := w.fetcher()
	digest := fmt.Sprintf("%x", sha256.Sum256(w.files["x.img"]))
	f.Have = func(d string) bool { return d == digest }
	got, err := f.Publication(t.Context(), Published{At: w.server.URL + "/x.img"})
	if err != nil || got.Path != "" || got.SHA256 != digest || slices.Contains(w.asked, "/x.img") {
		t.Errorf("%+v, %v, asked for %q", got, err, w.asked)
	}
}

func TestOnlyURLsOfFilesAreFetched(t *testing.T) {
	w := newWorld(t)
	for _, at := range []string{"ftp://x.test/a", "http://", "http://x.test/dir/", "http://u:secret@x.test:99999999/a\x00", "file:///etc/passwd"} {
		if _, err := w.fetcher().Publication(t.Context(), Published{At: at}); err == nil || strings.Contains(err.Error(), "secret") {
			t.Errorf("%q: %v", at, err)
		}
	}
}
