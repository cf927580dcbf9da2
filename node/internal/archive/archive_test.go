package archive

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
)

var epoch = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

const digestA = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"

func newPublisher(t testing.TB) *lab.Publisher {
	t.Helper()
	p, err := lab.NewPublisher(epoch)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func TestReleaseIsReadStrictly(t *testing.T) {
	good := "Date: Sat, 11 Jul 2026 10:16:37 UTC\nValid-Until: Sat,  1 Aug 2026 10:16:37 +0000\nAcquire-By-Hash: yes\nMD5Sum:\n x 5 y\nSHA256:\n " +
		digestA + "        5 main/Packages\nSHA512:\n " + digestA + digestA + " 5 main/Packages\n"
	r, err := ParseRelease([]byte(good))
	if err != nil {
		t.Fatal(err)
	}
	if r.Names["main/Packages"].Size != 5 || !r.ByHash || r.Date != time.Date(2026, 7, 11, 10, 16, 37, 0, time.UTC) || r.ValidUntil.Month() != 8 || r.SHA512[digestA+digestA] != "main/Packages" {
		t.Errorf("%+v", r)
	}
	for name, bad := range map[string]string{
		"nothing": "", "weak": "MD5Sum:\n d41d8cd98f00b204e9800998ecf8427e 0 x\n", "climbs": "SHA256:\n " + digestA + " 5 ../x\n",
		"twice": "SHA256:\n " + digestA + " 5 x\n " + strings.Repeat("b", 64) + " 5 x\n", "date": "Date: today\nSHA256:\n " + digestA + " 5 x\n",
		"no field": "hello\n" + good, "two columns": "SHA256:\n " + digestA + " x\n",
	} {
		if _, err := ParseRelease([]byte(bad)); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func FuzzRelease(f *testing.F) {
	f.Add([]byte("Date: Sat, 11 Jul 2026 10:16:37 UTC\nSHA256:\n " + digestA + " 5 main/Packages\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		r, err := ParseRelease(text)
		if err == nil {
			for name, f := range r.Names {
				if clean, err := CleanName(name); err != nil || clean != name || f.Size < 0 {
					t.Errorf("%q: %v", name, err)
				}
			}
		}
	})
}

// FuzzInRelease holds taking apart to what is signed: nothing but the message may be in an accepted file.
func FuzzInRelease(f *testing.F) {
	key := newPublisher(f)
	signed, err := key.ClearSigned([]byte("Suite: x\n- y\n\n"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(signed)
	f.Add([]byte("-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA256\n\nx\n-----BEGIN PGP SIGNATURE-----\n\n=xxxx\n-----END PGP SIGNATURE-----\n"))
	ring, err := ReadKeyring(key.Keyring, func() time.Time { return epoch.Add(2 * time.Hour) })
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		text, by, err := ring.Clear(data)
		if err == nil && (by == "" || !bytes.Contains(text, []byte("Suite: x"))) {
			t.Errorf("%q was taken as signed", text)
		}
	})
}
