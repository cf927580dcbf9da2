package image

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestBadOptionsNameTheFix(t *testing.T) {
	for _, c := range []struct {
		o    Options
		want string
	}{
		{Options{Release: "fedora:42", Output: "x.raw"}, "debian:13"},
		{Options{Release: "debian:13"}, "no output"},
		{Options{Release: "debian:13", Output: "x.qcow2"}, ".raw.zst"},
		{Options{Release: "debian:13", Output: "x.raw", Packages: []string{"vim; rm -rf /"}}, "not the name of a Debian package"},
		{Options{Release: "debian:13", Output: "x.raw", Kernel: "--option"}, "not the name of a Debian package"},
	} {
		if err := Build(t.Context(), c.o); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v", c.o, err)
		}
	}
}

func TestMissingToolsAreNamedWithTheirPackages(t *testing.T) {
	err := missingTools(func(tool string) (string, error) {
		if strings.HasSuffix(tool, "mkfs.vfat") || strings.HasSuffix(tool, "mcopy") || strings.HasSuffix(tool, "mmd") {
			return "", os.ErrNotExist
		}
		return tool, nil
	}, true)
	if !errors.Is(err, ErrHost) || !strings.HasSuffix(err.Error(), "missing mkfs.vfat, mmd, mcopy; on Debian or Ubuntu: apt-get install dosfstools mtools") {
		t.Errorf("got %v", err)
	}
}

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
		got, err := archiveSources("", "trixie", root)
		if diff := cmp.Diff(c.want, got); diff != "" || (err == nil) != (c.want != nil) {
			t.Errorf("%s: %v\n%s", name, err, diff)
		}
	}
}

func TestMirrorMustBeAURL(t *testing.T) {
	got, err := archiveSources("http://10.0.0.1:3142/debian", "bookworm", "/nowhere")
	if err != nil || got[0] != "deb http://10.0.0.1:3142/debian bookworm main" {
		t.Errorf("%v, %v", got, err)
	}
	for _, bad := range []string{"mirror.test", "http://m.test/debian [trusted=yes]", "http://m.test/x\ndeb http://evil.test"} {
		if _, err := archiveSources(bad, "trixie", "/"); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}

func TestGoldenKernelIsTheNewest(t *testing.T) {
	older := []string{"5.10.0-9-amd64", "5.10.0-28-amd64", "6.1.0-32-amd64", "6.12.9-amd64", "6.12.10+deb13-amd64", "6.12.107+deb13-cloud-amd64"}
	for i := range older[:len(older)-1] {
		if compareVersions(older[i], older[i+1]) >= 0 {
			t.Errorf("%s counts as newer than %s", older[i], older[i+1])
		}
	}
}
