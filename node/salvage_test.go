package node

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"offshoot/swarm/share"
)

func TestDiskOfIsTheWholeDiskOfAPartition(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		t.Fatal(err)
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	for name, c := range map[string]struct {
		device string
		files  []string
		want   string
	}{
		"a partition":              {"devices/pci/block/vda/vda3", []string{"partition"}, "vda"},
		"behind a RAID controller": {"devices/pci/block/cciss!c0d0/cciss!c0d0p3", []string{"partition"}, "cciss/c0d0"},
		"a loop device":            {"devices/virtual/block/loop0", nil, ""},
		"a file system in memory":  {"", nil, ""},
	} {
		sys := t.TempDir()
		if c.device != "" {
			at := filepath.Join(sys, c.device)
			err := os.MkdirAll(at, 0o755)
			for _, f := range c.files {
				if err == nil {
					err = os.WriteFile(filepath.Join(at, f), []byte("3\n"), 0o644)
				}
			}
			if err == nil {
				err = os.MkdirAll(filepath.Join(sys, "dev/block"), 0o755)
			}
			if err == nil {
				err = os.Symlink(at, filepath.Join(sys, "dev/block", dev))
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if got, err := diskOf(dir, sys); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

func TestOwnProgramIsKnownByItsDigest(t *testing.T) {
	t.Parallel()
	path, digest := ownProgram()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := share.OpenStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	a, err := s.Publish(t.Context(), path)
	if err != nil || a.Digest != digest || a.Size != int64(len(data)) {
		t.Errorf("%s, published as %+v: %v", digest, a, err)
	}
}
