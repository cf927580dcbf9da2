package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
)

// edge is what is wiped at both ends of a disk and of each of its partitions. Partition tables and their copies, file systems,
// LVM, Linux and firmware RAID, encryption: all mark what they own within it, as wipefs(8) looks for it.
const edge = headSize

// discardStep is how much is discarded at once: a large disk takes a while, and somebody wants to see that it goes on.
const discardStep = 16 << 30

// release wipes the disks of a machine that is to be free again. Like an installation it is tried three times.
func (r *run) release(ctx context.Context, o install.Order) error {
	var done []string
	err := r.tries(ctx, o.Install, func() (err error) {
		done, err = r.wipe(ctx, o)
		return err
	})
	if err != nil {
		return err
	}
	return r.acknowledged(ctx, install.Event{Install: o.Install, Phase: install.PhaseReleased, Percent: 100, Text: clip(strings.Join(done, "; "), 2000)})
}

// wipe goes over the disks once, and says what became of each.
func (r *run) wipe(ctx context.Context, o install.Order) (done []string, err error) {
	inv, err := r.o.System.Inventory(ctx)
	if err != nil {
		return nil, &stepError{step: install.PhaseInventory, err: err}
	}
	r.client.report(ctx, install.Event{Install: o.Install, Phase: install.PhaseInventory, Text: summary(inv), Inventory: &inv})
	disks, err := releasable(inv.Disks, o.Disk)
	if err != nil {
		return nil, &stepError{step: install.PhaseWipe, err: err, held: true}
	}
	for i, d := range disks {
		text, err := r.wipeDisk(ctx, o, d)
		if err != nil {
			return nil, &stepError{step: install.PhaseWipe, err: fmt.Errorf("%s: %w", d, err)}
		}
		done = append(done, d.Path+" "+text)
		r.say("%s %s", d, text)
		r.client.report(ctx, install.Event{Install: o.Install, Phase: install.PhaseWipe, Percent: 100 * (i + 1) / len(disks), Text: d.String() + ": " + text})
	}
	if len(done) == 0 {
		done = []string{"it has no disk that could be wiped"}
	}
	return done, nil
}

// releasable are the disks that a release goes over: the one that is named, or all. A removable one is never among them.
func releasable(disks []install.Disk, named string) ([]install.Disk, error) {
	if named != "" {
		selector, err := install.ParseSelector(named)
		if err != nil {
			return nil, err
		}
		d, err := selector.Choose(disks, minDisk)
		if err == nil && d.Removable {
			err = fmt.Errorf("%s is removable: it is not wiped", d)
		}
		return []install.Disk{d}, err
	}
	var all []install.Disk
	for _, d := range disks {
		if !d.Removable && !d.ReadOnly && d.Size >= minDisk {
			all = append(all, d)
		}
	}
	return all, nil
}

// wipeDisk wipes one disk if it may be, and says what it did.
func (r *run) wipeDisk(ctx context.Context, o install.Order, d install.Disk) (string, error) {
	target, err := image.OpenTarget(d.Path)
	if err != nil {
		return "", err
	}
	defer func() { _ = target.Close() }() // all that counts was synced
	head, tail := make([]byte, headSize), make([]byte, headSize)
	if _, err := target.ReadAt(head, 0); err != nil {
		return "", err
	}
	if _, err := target.ReadAt(tail, target.Size()-headSize); err != nil {
		return "", err
	}
	found := foreign(head, tail, "")
	switch {
	case ours(head) || o.Wipe:
	case found != "":
		return fmt.Sprintf("left alone: it holds %s, and offshoot did not install it (--wipe would)", found), nil
	default:
		return "left alone: it is blank where disks are marked", nil
	}
	text := "wiped: what marks it and its partitions as used"
	discard := func() error { return nil }
	if o.Discard {
		discard = func() error {
			err := r.discard(ctx, target, target.Size())
			if errors.Is(err, image.ErrNoDiscard) {
				text, err = text+"; it cannot discard blocks, their content is still there", nil
			} else if err == nil {
				text = "wiped: all blocks discarded"
			}
			return err
		}
	}
	return text, erase(target, target.Size(), o.Install, discard)
}

// ours says whether offshoot has installed a disk, or was about to.
func ours(head []byte) bool {
	return bytes.HasPrefix(head, []byte(markRunning)) || bytes.HasPrefix(head[stampAt:], []byte(markFinished))
}

// erase wipes a disk. Whenever it is cut off, the disk shows to the next try that it is ours: partitions go first, while the table
// that names them stands; then our note takes the boot sector, so that nothing starts; it goes last of all.
func erase(d device, size int64, id string, discard func() error) error {
	parts, err := image.Partitions(d, size)
	if err != nil {
		parts = nil // a table that nobody can read names no partitions
	}
	for _, p := range parts {
		if err := zeroEdges(d, p.Offset, min(p.Size, size-p.Offset), size); err != nil {
			return err
		}
	}
	if err := d.Sync(); err != nil {
		return err
	}
	note := make([]byte, block0)
	copy(note, markRunning+id+"\n")
	if _, err := d.WriteAt(note, 0); err != nil {
		return err
	}
	if err := d.Sync(); err != nil {
		return err
	}
	if err := discard(); err != nil {
		return err
	}
	if err := errors.Join(d.ZeroRange(block0, headSize-block0), d.ZeroRange(size-edge, edge), d.Sync()); err != nil {
		return err
	}
	return errors.Join(d.ZeroRange(0, block0), d.Sync())
}

// zeroEdges wipes both ends of a partition, but nothing of the disk's own first MiB, where our marks are.
func zeroEdges(d device, off, n, size int64) error {
	if off < headSize {
		off, n = headSize, n-(headSize-off)
	}
	if off >= size || n <= 0 {
		return nil
	}
	if n <= 2*edge {
		return d.ZeroRange(off, n)
	}
	return errors.Join(d.ZeroRange(off, edge), d.ZeroRange(off+n-edge, edge))
}

// discard tells a disk that none of its blocks is needed, but our note.
func (r *run) discard(ctx context.Context, d *image.FileTarget, size int64) error {
	for off := int64(headSize); off < size; off += discardStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := d.Discard(off, min(discardStep, size-off)); err != nil {
			return err
		}
		r.say("discarded %s of %s", install.HumanSize(min(off+discardStep, size)), install.HumanSize(size))
	}
	return nil
}
