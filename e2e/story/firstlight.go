package story

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// Bounds of one act of the story: without hardware virtualisation on two cores it takes three to four minutes.
const actTime = 10 * time.Minute

// Report is what the story ends with.
type Report struct {
	Status    string            // the table, as m2 printed it
	Final     status.Status     // the same as a document
	Timelines map[string]string // by machine, as m1 printed them
	PowerOn   map[string]time.Time
	Machines  map[string]status.Machine // with their timelines
	Nodes     map[string]status.Status  // by name: what each node said of itself at last
	Image     string                    // its name among the artifacts
}

// firstLight is the story while it is told.
type firstLight struct {
	*World
	firmware lab.Firmware
	machines map[string]*lab.Machine
	report   Report
	m1, m2   *Shell
	later    []*Shell // m3, and m4 if there is one
}

// FirstLight tells the main job from end to end: a bare machine is installed from the seed, becomes a node, takes over its
// segment, and installs the next ones.
func FirstLight(ctx context.Context, w *World) (Report, error) {
	f := newFirstLight(w, lab.BIOS)
	for _, act := range []struct {
		title string
		play  func(context.Context) error
	}{
		{"1  the seed founds a swarm and serves lan0", f.found},
		{"2  bare machine m1 is installed by the seed and takes over lan0", f.first},
		{"3  m1 opens lan1, and bare machine m2 is installed by m1", f.second},
		{"4  the seed is killed; bare machine m3 is installed by m1", f.third},
	} {
		w.Say("%s", act.title)
		bounded, cancel := context.WithTimeout(ctx, actTime)
		err := act.play(bounded)
		cancel()
		if err != nil {
			return f.report, fmt.Errorf("act %s: %w", act.title, err)
		}
	}
	return f.report, f.curtain(ctx)
}

// OneMachine tells the first two acts only: a bare machine with this firmware is installed by the seed and takes over.
func OneMachine(ctx context.Context, w *World, firmware lab.Firmware) (Report, *Shell, error) {
	f := newFirstLight(w, firmware)
	ctx, cancel := context.WithTimeout(ctx, 2*actTime)
	defer cancel()
	if err := f.found(ctx); err != nil {
		return f.report, nil, err
	}
	if err := f.first(ctx); err != nil {
		return f.report, nil, err
	}
	return f.report, f.m1, f.timelines(ctx)
}

func newFirstLight(w *World, firmware lab.Firmware) *firstLight {
	return &firstLight{
		World: w, firmware: firmware, machines: map[string]*lab.Machine{},
		report: Report{Timelines: map[string]string{}, PowerOn: map[string]time.Time{}, Machines: map[string]status.Machine{}, Nodes: map[string]status.Status{}, Image: filepath.Base(w.o.Image)},
	}
}

// power makes a bare machine, names it, and switches it on.
func (f *firstLight) power(ctx context.Context, name string, via func(ctx context.Context, args ...string) (string, error), networks ...*lab.Network) error {
	m, err := f.Lab.Machine(name, lab.MachineSpec{Networks: networks, Disk: 4 << 30, Firmware: f.firmware, ROM: f.ROM})
	if err != nil {
		return err
	}
	f.machines[name] = m
	if out, err := via(ctx, "machine", "name", m.MAC(0).String(), name); err != nil {
		return fmt.Errorf("name %s: %w: %s", name, err, out)
	}
	f.report.PowerOn[name] = time.Now()
	f.Say("%-4s  power on (%s, empty disk)", name, m.MAC(0))
	return m.Start(ctx)
}

func (f *firstLight) found(ctx context.Context) error { return f.serve(ctx, "--auto-approve") }

// serve starts the seed, and waits until it serves.
func (f *firstLight) serve(ctx context.Context, flags ...string) error {
	if _, err := f.StartSeed(ctx, flags...); err != nil {
		return err
	}
	_, err := f.Until(ctx, f.seed, "the seed serves lan0", func(s status.Status) string {
		if len(s.Segments) != 1 || s.Segments[0].Holder != "seed" || !s.Quorum || len(s.Nodes) != 1 || !s.Nodes[0].Warm {
			return "no segment held by a warm seed"
		}
		return ""
	})
	if err != nil || f.Boot == "" {
		return err
	}
	_, err = f.seed.Offshoot(ctx, "swarm", "set", "boot", f.Boot)
	return err
}

func (f *firstLight) first(ctx context.Context) error {
	if err := f.power(ctx, "m1", f.seed.Offshoot, f.Lan0, f.Lan1); err != nil {
		return err
	}
	s, err := f.Until(ctx, f.seed, "m1 is the voter and holds lan0", func(s status.Status) string {
		switch n := node(s, "m1"); {
		case n.State != status.NodeAlive:
			return "m1 is not a living node"
		case s.Leader != "m1" || n.Role != "leader":
			return "m1 does not lead the ledger"
		case voters(s) != 1:
			return fmt.Sprintf("%d voters", voters(s))
		case !slices.Contains(n.Duties, "s1"):
			return "m1 does not hold lan0"
		}
		return ""
	})
	if err != nil {
		return err
	}
	f.m1, err = f.Login(ctx, "m1", machine(s, "m1").Address)
	return err
}

func (f *firstLight) second(ctx context.Context) error {
	_, err := f.Until(ctx, f.m1, "m1 has opened lan1", func(s status.Status) string {
		if len(s.Segments) != 2 || s.Segments[1].Holder != "m1" {
			return "no second segment"
		}
		return ""
	})
	if err != nil {
		return err
	}
	if err := f.power(ctx, "m2", f.onM1, f.Lan1); err != nil {
		return err
	}
	s, err := f.Until(ctx, f.m1, "m2 is a warm node", func(s status.Status) string { return wantWarm(s, "m2") })
	if err != nil {
		return err
	}
	f.m2, err = f.Login(ctx, "m2", machine(s, "m2").Address)
	return err
}

func (f *firstLight) third(ctx context.Context) (err error) {
	if f.report.Nodes["seed"], err = f.seed.Status(ctx); err != nil {
		return err
	}
	f.seed.Kill()
	f.Say("seed  killed")
	names := []string{"m3"}
	if f.o.Fourth {
		names = append(names, "m4")
	}
	for _, name := range names {
		if err := f.power(ctx, name, f.onM1, f.Lan0); err != nil {
			return err
		}
	}
	s, err := f.Until(ctx, f.m2, strings.Join(names, " and ")+" are warm and the seed is gone", func(s status.Status) string {
		for _, name := range names {
			if missing := wantWarm(s, name); missing != "" {
				return missing
			}
		}
		if state := node(s, "seed").State; state != status.NodeGone {
			return "the seed is " + state
		}
		if voters(s) != 3 {
			return fmt.Sprintf("%d voters", voters(s))
		}
		return ""
	})
	if err != nil {
		return err
	}
	for _, name := range names {
		shell, err := f.Login(ctx, name, machine(s, name).Address)
		if err != nil {
			return err
		}
		f.later = append(f.later, shell)
	}
	return nil
}

// curtain collects what the operator sees at the end.
func (f *firstLight) curtain(ctx context.Context) (err error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	if f.report.Final, err = f.m2.Status(ctx); err != nil {
		return err
	}
	for _, shell := range append([]*Shell{f.m1, f.m2}, f.later...) {
		if f.report.Nodes[shell.Name], err = shell.Status(ctx); err != nil {
			return err
		}
	}
	if f.report.Status, err = f.m2.Run(ctx, "offshoot swarm status"); err != nil {
		return err
	}
	return f.timelines(ctx)
}

// timelines asks m1 for what became of each machine.
func (f *firstLight) timelines(ctx context.Context) (err error) {
	for name, m := range f.machines {
		mac := m.MAC(0).String()
		if f.report.Timelines[name], err = f.onM1(ctx, "machine", "show", mac); err != nil {
			return err
		}
		out, err := f.onM1(ctx, "machine", "show", mac, "-o", "json")
		if err != nil {
			return err
		}
		var shown status.Machine
		if err := decode(out, &shown); err != nil {
			return err
		}
		f.report.Machines[name] = shown
	}
	return nil
}

// onM1 runs an offshoot command on m1.
func (f *firstLight) onM1(ctx context.Context, args ...string) (string, error) {
	return f.m1.Run(ctx, "offshoot "+strings.Join(args, " "))
}

func node(s status.Status, name string) status.Node {
	for _, n := range s.Nodes {
		if n.Name == name {
			return n
		}
	}
	return status.Node{State: "unknown"}
}

func machine(s status.Status, name string) status.Machine {
	for _, m := range s.Machines {
		if m.Name == name {
			return m
		}
	}
	return status.Machine{}
}

func voters(s status.Status) int {
	count := 0
	for _, n := range s.Nodes {
		if n.Role == "leader" || n.Role == "voter" {
			count++
		}
	}
	return count
}

func wantWarm(s status.Status, name string) string {
	if m := machine(s, name); m.State == "held" {
		return name + " is held: " + m.Reason
	}
	if n := node(s, name); n.State != status.NodeAlive || !n.Warm {
		return name + " is not a living, warm node"
	}
	return ""
}
