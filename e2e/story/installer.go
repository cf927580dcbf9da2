package story

import (
	"context"
	"fmt"
	"slices"
	"time"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// installerTime bounds an installation by a distribution's own installer: 25 minutes were seen without hardware virtualisation.
const installerTime = 75 * time.Minute

// Installer is how a distribution's own installer gets onto a machine.
type Installer struct {
	Profile  string
	Add      []string // flags of profile add
	Upstream string   // URL of the repository, as the seed reaches it
	Disk     int64    // bytes
	Memory   int      // MiB
}

// InstalledBy tells how a bare machine is installed by another installer than our agent, becomes a node, and takes over. The
// seed's own profile is there all the same: the agent's environment and the program come from it.
func InstalledBy(ctx context.Context, w *World, firmware lab.Firmware, by Installer) (Report, *Shell, error) {
	f := newFirstLight(w, firmware)
	ctx, cancel := context.WithTimeout(ctx, installerTime)
	defer cancel()
	if err := f.serve(ctx); err != nil {
		return f.report, nil, err
	}
	mac, err := f.prepare(ctx, by)
	if err != nil {
		return f.report, nil, err
	}
	s, err := f.Until(ctx, f.seed, "m1 is the voter and holds lan0", func(s status.Status) string {
		n := node(s, "m1")
		switch {
		case machine(s, "m1").State == "held":
			return "m1 is held: " + machine(s, "m1").Reason
		case n.State != status.NodeAlive || s.Leader != "m1" || !slices.Contains(n.Duties, "s1"):
			return "m1 is no living node that leads the ledger and holds lan0"
		}
		return ""
	})
	if err != nil {
		out, _ := f.seed.Offshoot(context.WithoutCancel(ctx), "machine", "show", mac)
		return f.report, nil, fmt.Errorf("%w\n%s", err, out)
	}
	if f.m1, err = f.Login(ctx, "m1", machine(s, "m1").Address); err != nil {
		return f.report, nil, err
	}
	return f.report, f.m1, f.timelines(ctx)
}

// prepare adds the profile, arms a machine with it, and switches that on.
func (f *firstLight) prepare(ctx context.Context, by Installer) (mac string, err error) {
	m, err := f.Lab.Machine("m1", lab.MachineSpec{Networks: []*lab.Network{f.Lan0, f.Lan1}, Disk: by.Disk, Memory: by.Memory, Firmware: f.firmware})
	if err != nil {
		return "", err
	}
	f.machines["m1"] = m
	mac = m.MAC(0).String()
	for _, args := range [][]string{
		{"mirror", "add", "debian", by.Upstream, "--unsigned"},
		append([]string{"profile", "add", by.Profile}, by.Add...),
		{"profile", "lint", by.Profile},
		{"machine", "name", mac, "m1"},
		{"machine", "arm", mac, "--profile", by.Profile},
	} {
		if out, err := f.seed.Offshoot(ctx, args...); err != nil {
			return mac, fmt.Errorf("%v: %w: %s", args, err, out)
		}
	}
	f.report.PowerOn["m1"] = time.Now()
	f.Say("m1    power on (%s, empty disk)", mac)
	return mac, m.Start(ctx)
}
