package story

import (
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// Small is something to install that is no operating system: a disk with a GPT, boot code and an ext4 root that has just
// what the agent looks for, and a kernel that is only a header. It is for scenarios in which the agent runs in a namespace.
type Small struct {
	Image, Kernel, Modules string // paths
	RootOffset, RootSize   int64  // of the root file system on the disk, bytes
	DiskSize               int64
}

const (
	smallRoot = 4 << 20
	smallDisk = 256 << 20
	// ballastSize is most of what travels, bytes.
	ballastSize = 48 << 20
)

// NewSmall makes one in dir. It needs sfdisk and mke2fs.
func NewSmall(ctx context.Context, dir string) (Small, error) {
	s := Small{
		Image: filepath.Join(dir, "small.raw"), Kernel: filepath.Join(dir, "vmlinuz"), Modules: filepath.Join(dir, "modules", "6.0.0-small"),
		RootOffset: smallRoot, RootSize: smallDisk - smallRoot - 4<<20, DiskSize: smallDisk,
	}
	tree := filepath.Join(dir, "tree")
	for path, text := range map[string]string{
		filepath.Join(tree, "etc/shadow"):             "root:!:20000:0:99999:7:::\n",
		filepath.Join(tree, "etc/hosts"):              "127.0.0.1 localhost\n",
		filepath.Join(tree, "etc/systemd/empty.conf"): "",
		filepath.Join(tree, "root/.profile"):          "",
		// Something to carry: the moments at which a test strikes lie within the transfer.
		filepath.Join(tree, "ballast"):                        ballast(ballastSize),
		filepath.Join(s.Modules, "kernel/sound/soundcore.ko"): "left out by the builder",
	} {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return s, err
		}
		if err := os.WriteFile(path, []byte(text), 0o640); err != nil {
			return s, err
		}
	}
	if err := os.WriteFile(s.Kernel, kernelHeader("6.0.0-small"), 0o644); err != nil {
		return s, err
	}
	if err := os.WriteFile(s.Image, nil, 0o644); err != nil {
		return s, err
	}
	if err := os.Truncate(s.Image, smallDisk); err != nil {
		return s, err
	}
	sfdisk := exec.CommandContext(ctx, "sfdisk", "-q", s.Image)
	sfdisk.Stdin = strings.NewReader(fmt.Sprintf("label: gpt\nstart=2048, size=2048, type=21686148-6449-6E6F-744E-656564454649\nstart=%d, size=%d, type=linux\n",
		s.RootOffset/512, s.RootSize/512))
	mke2fs := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-d", tree, "-E", fmt.Sprintf("offset=%d", s.RootOffset), s.Image, fmt.Sprintf("%dk", s.RootSize>>10))
	for _, c := range []*exec.Cmd{sfdisk, mke2fs} {
		if out, err := c.CombinedOutput(); err != nil {
			return s, fmt.Errorf("%s: %w: %s", c.Path, err, out)
		}
	}
	// What a BIOS starts: a jump to itself, which is all that this disk would do.
	f, err := os.OpenFile(s.Image, os.O_WRONLY, 0)
	if err != nil {
		return s, err
	}
	if _, err := f.WriteAt([]byte{0xeb, 0xfe}, 0); err != nil {
		return s, err
	}
	if err := f.Close(); err != nil {
		return s, err
	}
	return s, s.pack()
}

// pack compresses the image: its node has to find room for it on the very disk that it describes.
func (s *Small) pack() error {
	raw, err := os.ReadFile(s.Image)
	if err != nil {
		return err
	}
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest))
	if err != nil {
		return err
	}
	s.Image += ".zst"
	return os.WriteFile(s.Image, encoder.EncodeAll(raw, nil), 0o644)
}

// ballast does not compress, so that it takes its time on the wire.
func ballast(n int) string {
	b := make([]byte, n)
	x := uint64(0x9e3779b97f4a7c15)
	for i := 0; i+8 <= n; i += 8 {
		x ^= x << 13
		x ^= x >> 7
		x ^= x << 17
		binary.LittleEndian.PutUint64(b[i:], x)
	}
	return string(b)
}

// kernelHeader is as much of a bzImage as names its release (Documentation/arch/x86/boot.rst).
func kernelHeader(release string) []byte {
	b := make([]byte, 4096)
	copy(b[0x202:], "HdrS")
	binary.LittleEndian.PutUint16(b[0x206:], 0x020f)
	binary.LittleEndian.PutUint16(b[0x20e:], 0x400-0x200)
	copy(b[0x400:], release+" (small)")
	return b
}
