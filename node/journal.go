package node

import (
	"slices"
	"sync"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// Bounds of the journal: a machine that boots leaves about forty traces, and a rack has a few dozen machines.
const (
	tracesPerMachine = 200
	tracedMachines   = 512
)

// journal remembers what machines asked and what they were answered, for `machine why`: in memory, the last traces of the
// machines that asked last. It is safe for concurrent use.
type journal struct {
	mu     sync.Mutex
	traces map[swarm.MAC][]status.Trace
	order  []swarm.MAC // who asked last is last
}

func newJournal() *journal { return &journal{traces: map[swarm.MAC][]status.Trace{}} }

// add keeps a trace.
func (j *journal) add(at time.Time, mac swarm.MAC, proto, what, answer, reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if i := slices.Index(j.order, mac); i >= 0 {
		j.order = slices.Delete(j.order, i, i+1)
	} else if len(j.order) >= tracedMachines {
		delete(j.traces, j.order[0])
		j.order = j.order[1:]
	}
	j.order = append(j.order, mac)
	kept := j.traces[mac]
	if len(kept) >= tracesPerMachine {
		kept = slices.Delete(kept, 0, len(kept)-tracesPerMachine+1)
	}
	j.traces[mac] = append(kept, status.Trace{Time: at, MAC: string(mac), Proto: proto, What: what, Answer: answer, Reason: reason})
}

// of returns the traces of a machine, the oldest first.
func (j *journal) of(mac swarm.MAC) []status.Trace {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.traces[mac])
}
