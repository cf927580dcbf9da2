package apt

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestArchiveComesFromTheHostsSources(t *testing.T) {
	for name, c := range map[string]struct {
		files map[string]string
		want  []string
	}{
		"deb822, other archives, another release": {
			map[string]string{
				"os-release": "VERSION_CODENAME=bookworm\n",
				"sources.list.d/debian.sources": "Types: deb deb-src\n# a comment\nURIs: http://mirror.test/debian\nSuites: bookworm\n bookworm-updates bookworm-backports\nComponents: main contrib\n\n" +
					"Types: deb\nURIs: http://mirror.test/debian-security\nSuites: bookworm-security\nComponents: main\n\n" +
					"Enabled: no\nTypes: deb\nURIs: http://off.test/debian\nSuites: bookworm\nComponents: main\n",
				"sources.list.d/other.list": "deb http://other.test/apt bookworm main\ndeb http://other.test/thing stable main\n",
			},
			[]string{
				"deb http://mirror.test/debian trixie main contrib", "deb http://mirror.test/debian trixie-updates main contrib",
				"deb http://mirror.test/debian-security trixie-security main",
			},
		},
		"one-line": {
			map[string]string{"sources.list": "# x\ndeb [signed-by=/k.gpg arch=amd64] http://m.test/debian/ trixie main # y\ndeb-src http://m.test/debian trixie main\n"},
			[]string{"deb http://m.test/debian/ trixie main"},
		},
		"a host that is not Debian": {
			map[string]string{"os-release": "VERSION_CODENAME=noble\n", "sources.list": "deb http://u.test/ubuntu noble main\n"}, nil,
		},
	} {
		root := t.TempDir()
		for p, text := range c.files {
			path := filepath.Join(root, "etc", p)
			if p != "os-release" {
				path = filepath.Join(root, "etc/apt", p)
			}
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
				t.Fatal(err)
			}
		}
		archives, err := Archives("", "trixie", root)
		var got []string
		for _, a := range archives {
			got = append(got, a.String())
		}
		if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestMirrorMustBeAURL(t *testing.T) {
	got, err := Archives("http://10.0.0.1:3142/debian", "bookworm", "/nowhere")
	if err != nil || got[0].String() != "deb http://10.0.0.1:3142/debian bookworm main" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"mirror.test", "http://m.test/debian [trusted=yes]", "http://m.test/x\ndeb http://evil.test"} {
		if _, err := Archives(bad, "trixie", "/"); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
