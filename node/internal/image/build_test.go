package image

import (
	"errors"
	"os"
	"strings"
	"testing"
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

func TestGoldenKernelIsTheNewest(t *testing.T) {
	older := []string{"5.10.0-9-amd64", "5.10.0-28-amd64", "6.1.0-32-amd64", "6.12.9-amd64", "6.12.10+deb13-amd64", "6.12.107+deb13-cloud-amd64"}
	for i := range older[:len(older)-1] {
		if compareVersions(older[i], older[i+1]) >= 0 {
			t.Errorf("%s counts as newer than %s", older[i], older[i+1])
		}
	}
}
