package node

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"offshoot/node/internal/install"
	"offshoot/swarm/share"
)

// salvage takes the image that the agent gathered on the free end of this machine's disk into the store: it need not come a second
// time. The root file system may have grown over some of it; those pieces come from others. It is tried once, and what cannot
// be salvaged is fetched.
func (s *services) salvage(ctx context.Context) {
	path := filepath.Join(s.node.o.DataDir, install.GatheredFile)
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return
	}
	if err == nil {
		var g install.Gathered
		g, err = install.DecodeGathered(f)
		err = errors.Join(err, f.Close())
		if err == nil {
			err = s.salvageFrom(ctx, g)
		}
	}
	if err != nil {
		s.node.log.Info("the image that was gathered on this disk is not used", "error", err)
	}
	if ctx.Err() == nil {
		_ = os.Remove(path) // tried again at the next start
	}
}

func (s *services) salvageFrom(ctx context.Context, g install.Gathered) error {
	name, err := diskOf(s.node.o.DataDir, "/sys")
	if err != nil {
		return err
	}
	disk, err := os.Open(filepath.Join("/dev", name))
	if err != nil {
		return err
	}
	defer func() { _ = disk.Close() }() // only read
	return s.store.Salvage(ctx, share.Digest(g.SHA256), g.Size, io.NewSectionReader(disk, g.Offset, g.Size))
}

// diskOf names the whole disk that a file lies on, for which the partition of its file system has to be on one.
func diskOf(path, sys string) (string, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return "", fmt.Errorf("stat %s: %w", path, err)
	}
	dev := fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev))
	// …/block/vda/vda3, where vda3 has a file "partition"
	at, err := filepath.EvalSymlinks(filepath.Join(sys, "dev/block", dev))
	if err != nil {
		return "", err
	}
	if _, err := os.Stat(filepath.Join(at, "partition")); err != nil {
		return "", fmt.Errorf("%s lies on no partition of a disk (device %s)", path, dev)
	}
	// A slash in a device's name is an exclamation mark there.
	return strings.ReplaceAll(filepath.Base(filepath.Dir(at)), "!", "/"), nil
}

// isOwnProgram says whether an artifact is the program that runs here, and if so it is an artifact of the store then.
func (s *services) isOwnProgram(ctx context.Context, d share.Digest) bool {
	program, own := ownProgram()
	if own != d {
		return false
	}
	if _, err := s.store.Publish(ctx, program); err != nil {
		s.node.log.Debug("the program that runs here is not published", "error", err)
	}
	return s.share.Has(d)
}

// ownProgram is the path and the digest of the program that runs here, "" if it was replaced since it was started.
var ownProgram = sync.OnceValues(func() (string, share.Digest) {
	program, err := os.Executable()
	if err != nil {
		return "", ""
	}
	f, err := os.Open(program)
	if err != nil {
		return "", ""
	}
	defer func() { _ = f.Close() }() // only read
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return "", ""
	}
	return program, share.Digest(hex.EncodeToString(sum.Sum(nil)))
})
