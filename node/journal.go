package node

import (
	"container/list"
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
	mu    sync.Mutex
	pages map[swarm.MAC]*list.Element // of order
	order *list.List                  // of *page; who asked last is last
}

// page has the traces of one machine.
type page struct {
	mac    swarm.MAC
	traces []status.Trace // a ring once it is full
	oldest int
}

func newJournal() *journal { return &journal{pages: map[swarm.MAC]*list.Element{}, order: list.New()} }

// add keeps a trace. It is called for every packet.
func (j *journal) add(at time.Time, mac swarm.MAC, proto, what, answer, reason string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	p := j.pageOf(mac)
	t := status.Trace{Time: at, MAC: string(mac), Proto: proto, What: what, Answer: answer, Reason: reason}
	if len(p.traces) < tracesPerMachine {
		p.traces = append(p.traces, t)
		return
	}
	p.traces[p.oldest] = t
	p.oldest = (p.oldest + 1) % tracesPerMachine
}

// pageOf is the page of a machine that asks now. The caller holds mu.
func (j *journal) pageOf(mac swarm.MAC) *page {
	if e, known := j.pages[mac]; known {
		j.order.MoveToBack(e)
		return e.Value.(*page)
	}
	if j.order.Len() >= tracedMachines {
		delete(j.pages, j.order.Remove(j.order.Front()).(*page).mac)
	}
	p := &page{mac: mac}
	j.pages[mac] = j.order.PushBack(p)
	return p
}

// of returns the traces of a machine, the oldest first.
func (j *journal) of(mac swarm.MAC) []status.Trace {
	j.mu.Lock()
	defer j.mu.Unlock()
	e, known := j.pages[mac]
	if !known {
		return nil
	}
	p := e.Value.(*page)
	return append(append([]status.Trace(nil), p.traces[p.oldest:]...), p.traces[:p.oldest]...)
}
