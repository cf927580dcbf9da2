package story

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// free is the story of a machine that nobody asked for, while it is told.
type free struct {
	*World
	m1  *lab.Machine
	mac string
}

// FreeMachine tells how an unknown machine waits, is assigned without a reboot, installed, and released again. With joins it becomes a
// node in between, and leaves before it is released; else it is switched off as soon as its disk is ready. It returns the machine with
// its timeline.
func FreeMachine(ctx context.Context, w *World, firmware lab.Firmware, joins bool) (status.Machine, error) {
	f := &free{World: w}
	ctx, cancel := context.WithTimeout(ctx, 2*actTime)
	defer cancel()
	acts := []func(context.Context) error{f.begin, f.waits, f.assigned}
	if joins {
		acts = append(acts, f.leaves)
	}
	for _, act := range append(acts, f.released) {
		if f.m1 == nil {
			m1, err := w.Lab.Machine("m1", lab.MachineSpec{Networks: []*lab.Network{w.Lan0}, Disk: 4 << 30, Firmware: firmware})
			if err != nil {
				return status.Machine{}, err
			}
			f.m1, f.mac = m1, m1.MAC(0).String()
		}
		if err := act(ctx); err != nil {
			return status.Machine{}, err
		}
	}
	return f.machine(ctx)
}

// machine is m1 as the seed knows it.
func (f *free) machine(ctx context.Context) (m status.Machine, err error) {
	out, err := f.seed.Offshoot(ctx, "machine", "show", f.mac, "-o", "json")
	if err == nil {
		err = json.Unmarshal([]byte(out), &m)
	}
	return m, err
}

// until waits for a state of m1.
func (f *free) until(ctx context.Context, state string) error {
	_, err := f.Until(ctx, f.seed, "m1 is "+state, func(s status.Status) string {
		for _, m := range s.Machines {
			if m.MAC == f.mac && m.State == "held" && state != "held" {
				return "it is held: " + m.Reason
			}
			if m.MAC == f.mac && m.State == state {
				return ""
			}
		}
		return "it is not"
	})
	return err
}

func (f *free) begin(ctx context.Context) error {
	if _, err := f.StartSeed(ctx); err != nil { // without --auto-approve
		return err
	}
	_, err := f.Until(ctx, f.seed, "the seed serves lan0", func(s status.Status) string {
		if len(s.Segments) != 1 || s.Segments[0].Holder != "seed" || !s.Quorum || !s.Nodes[0].Warm {
			return "no segment held by a warm seed"
		}
		return ""
	})
	return err
}

// waits: nobody has said a word about the machine.
func (f *free) waits(ctx context.Context) error {
	f.Say("m1    power on (%s), and nobody has asked for it", f.mac)
	if err := f.m1.Start(ctx); err != nil {
		return err
	}
	if err := f.until(ctx, "free"); err != nil {
		return err
	}
	m, err := f.machine(ctx)
	if err == nil && (m.Inventory == nil || len(m.Inventory.Disks) != 1 || len(m.Inventory.NICs) != 1) {
		err = fmt.Errorf("m1 is free with the inventory %+v", m.Inventory)
	}
	if err != nil {
		return err
	}
	out, err := f.seed.Offshoot(ctx, "machine", "show", f.mac)
	f.Say("m1    waits:\n%s", out)
	if err != nil {
		return err
	}
	_, err = f.m1.WaitConsole(ctx, regexp.MustCompile(`waits, nothing is written to its disks: free`))
	return err
}

// assigned: the agent that waits installs, without a reboot.
func (f *free) assigned(ctx context.Context) error {
	out, err := f.seed.Offshoot(ctx, "machine", "assign", f.mac, "default", "--user", "alice")
	f.Say("m1    assigned: %s", strings.ReplaceAll(strings.TrimSpace(out), "\n", "; "))
	if err != nil {
		return err
	}
	begun := time.Now()
	if err := f.until(ctx, "installing"); err != nil {
		return err
	}
	f.Say("m1    began to install itself %.1f s after the word", time.Since(begun).Seconds())
	if err := f.until(ctx, "installed"); err != nil {
		return err
	}
	console, err := os.ReadFile(f.m1.Console())
	if n := strings.Count(string(console), "offshoot agent starts"); err == nil && n != 1 {
		err = fmt.Errorf("the agent of m1 started %d times before the disk was ready", n)
	}
	return err
}

// leaves: the installed machine becomes a node, and goes of its own accord.
func (f *free) leaves(ctx context.Context) error {
	s, err := f.Until(ctx, f.seed, "m1 is a node and holds lan0", func(s status.Status) string {
		for _, n := range s.Nodes {
			if n.MAC == f.mac && n.State == status.NodeAlive && len(n.Duties) == 1 {
				return ""
			}
		}
		return "it does not"
	})
	if err != nil {
		return err
	}
	out, err := f.seed.Offshoot(ctx, "machine", "release", f.mac)
	if err == nil {
		return fmt.Errorf("a living node was released: %s", out)
	}
	f.Say("m1    is not released while it is a node: %v", err)
	var address string
	for _, m := range s.Machines {
		if m.MAC == f.mac {
			address = m.Address
		}
	}
	shell, err := f.Login(ctx, "m1", address)
	if err != nil {
		return err
	}
	defer func() { _ = shell.Close() }()
	out, err = shell.Run(ctx, "offshoot swarm leave")
	f.Say("m1    leaves: %s", strings.TrimSpace(out))
	if err != nil {
		return err
	}
	_, err = f.Until(ctx, f.seed, "the seed holds lan0 again", func(s status.Status) string {
		if !s.Quorum || s.Segments[0].Holder != "seed" {
			return "it does not"
		}
		return ""
	})
	return err
}

// released: its disk is wiped at the next boot, and it waits again.
func (f *free) released(ctx context.Context) error {
	f.m1.Kill()
	out, err := f.seed.Offshoot(ctx, "machine", "release", f.mac)
	f.Say("m1    released: %s", strings.TrimSpace(out))
	if err != nil {
		return err
	}
	if err := f.m1.Start(ctx); err != nil {
		return err
	}
	if err := f.until(ctx, "free"); err != nil {
		return err
	}
	if _, err := f.m1.WaitConsole(ctx, regexp.MustCompile(`waits, nothing is written to its disks: free`)); err != nil {
		return err
	}
	f.m1.Kill()
	return f.blank(ctx)
}

// blank asks wipefs, which knows every mark that a disk can bear.
func (f *free) blank(ctx context.Context) error {
	raw := f.m1.Disk() + ".raw"
	defer func() { _ = os.Remove(raw) }()
	if out, err := f.Seed.Run(ctx, "qemu-img", "convert", "-O", "raw", f.m1.Disk(), raw); err != nil {
		return fmt.Errorf("qemu-img: %w: %s", err, out)
	}
	out, err := f.Seed.Run(ctx, "wipefs", "--noheadings", raw)
	if err == nil && strings.TrimSpace(out) != "" {
		err = errors.New("the disk of a released machine still shows: " + out)
	}
	return err
}
