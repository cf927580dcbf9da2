package agent

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
)

// progressInterval separates two lines on the console and two events on the timeline while the image is written.
const progressInterval = 2 * time.Second

// attempt goes through the whole installation once. Its steps can all be done again from the start.
func (r *run) attempt(ctx context.Context, cfg install.Config) error {
	inv, err := r.o.System.Inventory(ctx)
	if err != nil {
		return &stepError{step: install.PhaseInventory, err: err}
	}
	r.client.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseInventory, Text: summary(inv), Inventory: &inv})
	r.say("%s", summary(inv))

	disk, err := r.open(ctx, cfg, inv)
	if err != nil {
		return &stepError{step: install.PhaseDisk, err: err, held: errors.Is(err, ErrForeignData)}
	}
	defer disk.close()
	from, err := r.writeImage(ctx, cfg, disk)
	defer from.close() // before the disk is
	if err != nil {
		return &stepError{step: install.PhaseImage, err: err}
	}
	account := from.account(cfg.Image.Size)
	r.say("%s", account)
	r.client.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseConfigure, Percent: 100, Text: account})
	if err := r.configure(ctx, cfg, disk, from.note(cfg.Image)); err != nil {
		return &stepError{step: install.PhaseConfigure, err: err}
	}
	if err := disk.commit(cfg.Install); err != nil {
		return &stepError{step: install.PhaseConfigure, err: err}
	}
	return nil
}

func summary(inv install.Inventory) string {
	name := inv.Vendor + " " + inv.Product
	if inv.Product == "" {
		name = "machine without SMBIOS"
	}
	return fmt.Sprintf("%s, %d CPUs, %s memory, %d disks, %d NICs", name, inv.CPUs, install.HumanSize(inv.Memory), len(inv.Disks), len(inv.NICs))
}

// open chooses the disk and claims it: from here on it does not boot until commit.
func (r *run) open(ctx context.Context, cfg install.Config, inv install.Inventory) (*heldDisk, error) {
	selector, err := install.ParseSelector(cfg.Disk)
	if err != nil {
		return nil, err
	}
	chosen, err := selector.Choose(inv.Disks, max(cfg.Image.DiskSize, minDisk))
	if err != nil {
		return nil, err
	}
	target, err := image.OpenTarget(chosen.Path)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", chosen.Path, err)
	}
	disk := &heldDisk{target: target, path: chosen.Path, size: target.Size()}
	if err := disk.begin(cfg.Install, cfg.Wipe); err != nil {
		disk.close()
		return nil, fmt.Errorf("%s: %w", chosen, err)
	}
	r.say("disk %s", chosen)
	r.client.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseDisk, Text: chosen.String()})
	return disk, nil
}

// writeImage gathers the image and unpacks it. What was gathered is given to others until it is closed.
func (r *run) writeImage(ctx context.Context, cfg install.Config, disk *heldDisk) (*gathered, error) {
	var last atomic.Pointer[step]
	shown, stop := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		r.watch(shown, cfg, &last)
	}()
	defer func() {
		stop()
		<-watched
	}()
	start := time.Now()
	from, err := r.gather(ctx, cfg, disk, func(s step) { last.Store(&s) })
	if err != nil {
		return from, err
	}
	source, done := r.source(ctx, cfg, from)
	defer done()
	before := 0
	if from.spare != nil {
		before = gatherShare
		r.say("image gathered: %s in %.1f s", install.HumanSize(cfg.Image.Size), time.Since(start).Seconds())
	}
	p, err := image.Write(ctx, disk, source, image.WriteOptions{Progress: func(p image.Progress) {
		last.Store(&step{bytes: p.Written, percent: before + int(p.Stored*int64(100-before)/max(cfg.Image.Size, 1))})
	}})
	if err != nil {
		r.alone = r.alone || from.spare != nil // a decoder may fall over wrong bytes before their digest tells
		return from, err
	}
	took := time.Since(start)
	r.say("image written: %s stored, %s written in %.1f s", install.HumanSize(p.Stored), install.HumanSize(p.Written), took.Seconds())
	r.o.Logger.Info("image written", "stored", p.Stored, "written", p.Written, "took", took)
	return from, nil
}

// watch prints and reports how far the image is.
func (r *run) watch(ctx context.Context, cfg install.Config, last *atomic.Pointer[step]) {
	ticker := time.NewTicker(progressInterval)
	defer ticker.Stop()
	before, at := int64(0), time.Now()
	r.sendPercent(ctx, cfg, 0)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-ticker.C:
			s := last.Load()
			if s == nil {
				continue
			}
			rate := float64(max(s.bytes-before, 0)) / 1e6 / now.Sub(at).Seconds() // unpacking begins to count anew
			before, at = s.bytes, now
			r.say("image %d %% %.0f MB/s", min(s.percent, 100), rate)
			r.sendPercent(ctx, cfg, min(s.percent, 100))
		}
	}
}

// sendPercent tries once: the next one follows soon.
func (r *run) sendPercent(ctx context.Context, cfg install.Config, percent int) {
	ctx, cancel := context.WithTimeout(ctx, 2*progressInterval)
	defer cancel()
	if err := r.client.post(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseImage, Percent: percent}); err != nil {
		r.o.Logger.Debug("progress not reported", "error", err)
	}
}

// configure leaves our files on the root file system, and fits the partition table to the disk.
func (r *run) configure(ctx context.Context, cfg install.Config, disk *heldDisk, left *install.Gathered) (err error) {
	if err := image.GrowGPT(disk, disk.size); err != nil {
		return fmt.Errorf("fit the partition table to the disk: %w", err)
	}
	root, err := image.RootPartition(disk, disk.size)
	if err != nil {
		return err
	}
	if err := disk.release(root.Offset + root.Size); err != nil {
		return err
	}
	r.o.System.Need(ctx, "loop", root.FS)
	r.o.Logger.Info("root file system found", "partition", root.Number, "type", root.FS, "bytes", root.Size)
	return withRoot(disk.path, root, r.o.System.Scratch(), func(dir string) error { return place(dir, cfg, "/proc/self/exe", left) })
}
