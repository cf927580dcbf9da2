package node

import (
	"slices"
	"strings"
	"sync"
	"time"

	"offshoot/node/internal/syslog"
	"offshoot/node/status"
	"offshoot/swarm"
)

// relayPause is the time between two writes about the log of one machine: no load for the ledger when a rack installs, and less than
// the shortest time until a machine is stalled.
const relayPause = 10 * time.Second

// relay chooses what of the logs is written down: of each machine the last line now and then, also when it falls silent, and at once
// what tells that it has come further. It is safe for concurrent use.
type relay struct {
	mu      sync.Mutex
	waiting map[swarm.MAC]swarm.HearMachine
	written map[swarm.MAC]time.Time
}

func newRelay() *relay {
	return &relay{waiting: map[swarm.MAC]swarm.HearMachine{}, written: map[swarm.MAC]time.Time{}}
}

// add takes a line of a machine that installs itself.
func (r *relay) add(m swarm.Machine, line status.LogLine) {
	text := line.Text
	if line.Program != "" {
		text = line.Program + ": " + text
	}
	op := swarm.HearMachine{MAC: m.MAC, Install: m.Install, Line: text}
	r.mu.Lock()
	defer r.mu.Unlock()
	if stage, ok := syslog.StageOf(line); ok && stage.Step > m.Life.Step {
		op.Stage, op.Step = stage.Name, stage.Step
	}
	if before := r.waiting[m.MAC]; before.Install == op.Install && before.Step > op.Step {
		op.Stage, op.Step = before.Stage, before.Step // that is not lost by what was said since
	}
	r.waiting[m.MAC] = op
}

// due are the lines to be written down now; they wait no more.
func (r *relay) due(now time.Time) (out []swarm.HearMachine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for mac, at := range r.written {
		if now.Sub(at).Abs() >= relayPause { // also when the clock was set
			delete(r.written, mac)
		}
	}
	for mac, op := range r.waiting {
		if _, lately := r.written[mac]; lately && op.Step == 0 {
			continue
		}
		out = append(out, op)
		delete(r.waiting, mac)
		r.written[mac] = now
	}
	slices.SortFunc(out, func(a, b swarm.HearMachine) int { return strings.Compare(string(a.MAC), string(b.MAC)) })
	return out
}

// again takes back what could not be written down, unless there is a newer line.
func (r *relay) again(op swarm.HearMachine) {
	r.mu.Lock()
	defer r.mu.Unlock()
	newer, ok := r.waiting[op.MAC]
	if ok && newer.Install == op.Install && newer.Step < op.Step {
		newer.Stage, newer.Step = op.Stage, op.Step
		op = newer
	} else if ok {
		return
	}
	r.waiting[op.MAC] = op
}
