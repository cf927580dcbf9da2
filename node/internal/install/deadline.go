package install

import "time"

// usualDeadline is how long an installation may stand still in a phase that nobody knows better. Installers of distributions say little
// while they make large file systems, or wait for a slow mirror.
const usualDeadline = 30 * time.Minute

// deadlines are how long the phases of a driver may stand still, generously: a percent that moves, or a line of a log, begins
// them anew.
var deadlines = map[string]map[Phase]time.Duration{
	"image": {
		"":             10 * time.Minute, // the config was fetched; next the inventory is told
		PhaseAgent:     5 * time.Minute,
		PhaseInventory: 10 * time.Minute, // disks that spin up one after the other
		PhaseDisk:      10 * time.Minute,
		PhaseImage:     20 * time.Minute, // for one percent: of 100 GB, at 1 MB/s
		PhaseConfigure: 20 * time.Minute, // what was written goes to the disk now, and its journal is replayed
		PhaseFailed:    10 * time.Minute, // the agent tries again within seconds
	},
}

// Deadline is how long an installation by a driver may stand still in a phase until its machine counts as stalled.
func Deadline(driver string, phase Phase) time.Duration {
	if d, known := deadlines[driver][phase]; known {
		return d
	}
	return usualDeadline
}
