package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
)

// Foreign installers call our program twice: before they touch a disk, to be told which one (ChooseDisk), and at their end, to
// make a node of the system that they have brought (Adopt). What is left in that system is what the agent leaves in an image.

// Adoption says where a foreign installer runs.
type Adoption struct {
	URL     string // http://<address>:7480/b/<nonce>
	Logger  *slog.Logger
	Console io.Writer // plain lines for who stands before the machine
}

// minSystem is the smallest disk that a distribution is installed on.
const minSystem = 4 << 30

// adoptTime bounds how long an installer waits for its node: longer than a change of duty or leader, short of for ever.
const adoptTime = 10 * time.Minute

// ErrNoSystem: what is to become a node is no installed system.
var ErrNoSystem = errors.New("no installed system")

// ChooseDisk says which disk the installer may use, and makes that disk its own: its partition table is gone afterwards. A disk
// that holds foreign data is refused as the agent refuses it. Whatever goes wrong holds the machine, with the reason.
func ChooseDisk(ctx context.Context, a Adoption) (path string, err error) {
	err = a.do(ctx, install.PhaseDisk, func(ctx context.Context, c *client, cfg install.Config) error {
		inv, err := scan("/")
		if err != nil {
			return err
		}
		c.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseInventory, Text: summary(inv), Inventory: &inv})
		chosen, err := claim(inv.Disks, cfg)
		if err != nil {
			return err
		}
		say(a.Console, "disk %s", chosen)
		c.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseDisk, Text: chosen.String()})
		path = chosen.Path
		return nil
	})
	return path, err
}

// claim picks the disk and marks it as this arming's, so that the next attempt of the same arming takes it without asking.
func claim(disks []install.Disk, cfg install.Config) (install.Disk, error) {
	selector, err := install.ParseSelector(cfg.Disk)
	if err != nil {
		return install.Disk{}, err
	}
	chosen, err := selector.Choose(disks, minSystem)
	if err != nil {
		return install.Disk{}, err
	}
	target, err := image.OpenTarget(chosen.Path)
	if err != nil {
		return install.Disk{}, fmt.Errorf("open %s: %w", chosen.Path, err)
	}
	disk := &heldDisk{target: target, path: chosen.Path, size: target.Size()}
	defer disk.close()
	if err := disk.begin(cfg.Install, cfg.Wipe); err != nil {
		return install.Disk{}, fmt.Errorf("%s: %w", chosen, err)
	}
	if err := disk.stamp(cfg.Install); err != nil {
		return install.Disk{}, fmt.Errorf("%s: %w", chosen, err)
	}
	return chosen, nil
}

// Adopt makes a node of the installed system below root, as far as files can: it joins the swarm when it first starts.
func Adopt(ctx context.Context, a Adoption, root string) error {
	return a.do(ctx, install.PhaseConfigure, func(ctx context.Context, c *client, cfg install.Config) error {
		if err := installed(root); err != nil {
			return err
		}
		c.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseConfigure, Text: "leaving the node in " + root})
		if err := place(root, cfg, "/proc/self/exe", nil); err != nil {
			return err
		}
		if err := flush(root); err != nil {
			return err
		}
		ev := install.Event{Install: cfg.Install, Phase: install.PhaseInstalled, Percent: 100, Final: true, Text: "the installer is done"}
		if err := c.retry(ctx, 100, func(ctx context.Context) error { return c.post(ctx, ev) }); err != nil {
			return fmt.Errorf("the node does not acknowledge that this machine is installed: %w", err)
		}
		say(a.Console, "%s is installed", cfg.Hostname)
		return nil
	})
}

// do fetches the config and carries a step out. An error of the step holds the machine.
func (a Adoption) do(ctx context.Context, phase install.Phase, step func(context.Context, *client, install.Config) error) error {
	ctx, cancel := context.WithTimeout(ctx, adoptTime)
	defer cancel()
	c, err := newClient(a.URL, a.Logger)
	if err != nil {
		return err
	}
	defer c.close()
	cfg, err := c.config(ctx)
	if err != nil {
		return err
	}
	if cfg.Image != (install.Image{}) {
		return errors.New("the profile of this machine is one of an image: the agent installs that")
	}
	if err := step(ctx, c, cfg); err != nil {
		err = &stepError{step: phase, err: err}
		c.report(ctx, install.Event{Install: cfg.Install, Phase: install.PhaseFailed, Failed: true, Final: true, Text: clip(err.Error(), 2000)})
		return err
	}
	return nil
}

// installed says what is missing of a system below root: a node takes systemd, and accounts to log in to. One that is a node
// already stays it.
func installed(root string) error {
	for _, need := range [][]string{{"etc/os-release", "usr/lib/os-release"}, {"etc/shadow"}, {"etc/systemd/system"}, {"usr/bin/systemctl", "bin/systemctl"}} {
		found := false
		for _, name := range need {
			_, err := os.Lstat(filepath.Join(root, name)) // a link may be absolute, and then leads out of root
			found = found || err == nil
		}
		if !found {
			return fmt.Errorf("%w below %s: there is no /%s", ErrNoSystem, root, need[0])
		}
	}
	_, err := os.Lstat(filepath.Join(root, "var/lib/offshoot/node.json"))
	if err == nil {
		return fmt.Errorf("%w below %s that could become a node: it is one (/var/lib/offshoot/node.json)", ErrNoSystem, root)
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// flush brings what was placed to the disk: an installer may restart the machine at once.
func flush(root string) error {
	dir, err := os.Open(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	return unix.Syncfs(int(dir.Fd()))
}
