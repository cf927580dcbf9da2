package story

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// roomyDisk leaves 280 MB on the root file system of a node.
const roomyDisk = 448 << 20

// Roomy makes the image larger, for nodes under load: the 40 MB that a small one leaves are soon full. A ledger of a few thousand
// leases per second grows by 30 MB before it is cut, and a leader whose disk is full decides nothing.
func (s Small) Roomy(ctx context.Context) (Small, error) {
	raw := strings.TrimSuffix(s.Image, ".zst")
	if err := os.Truncate(raw, roomyDisk); err != nil {
		return s, err
	}
	s.RootSize, s.DiskSize = roomyDisk-s.RootOffset-4<<20, roomyDisk
	sfdisk := exec.CommandContext(ctx, "sfdisk", "-q", "-N", "2", raw)
	sfdisk.Stdin = strings.NewReader(", +\n") // to the end of the disk
	mke2fs := exec.CommandContext(ctx, "mke2fs", "-q", "-F", "-t", "ext4", "-d", filepath.Join(filepath.Dir(raw), "tree"), "-E", fmt.Sprintf("offset=%d", s.RootOffset),
		raw, fmt.Sprintf("%dk", s.RootSize>>10))
	for _, c := range []*exec.Cmd{sfdisk, mke2fs} {
		if out, err := c.CombinedOutput(); err != nil {
			return s, fmt.Errorf("%s: %w: %s", c.Path, err, out)
		}
	}
	s.Image = raw
	return s, s.pack()
}
