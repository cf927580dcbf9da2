package syslog

import (
	"container/list"
	"fmt"
	"sync"
	"time"

	"offshoot/node/status"
	"offshoot/swarm"
)

// Bounds of what is kept: all machines together have 16 MiB at most.
const (
	linesPerMachine = 200
	bytesPerMachine = 64 << 10
	bookMachines    = 256 // those that spoke last
)

// Bounds of what is taken, in lines a second. An installer says some hundred lines when it starts its log, then a few a second; a rack
// has a few dozen machines.
const (
	machineRate, machineBurst = 50, 300
	wholeRate, wholeBurst     = 1000, 3000
)

// Book has the last lines of each machine. It is safe for concurrent use.
type Book struct {
	mu    sync.Mutex
	pages map[swarm.MAC]*list.Element // of order
	order *list.List                  // of *page; who spoke last is last
	whole bucket
	seq   uint64
}

// page has the lines of one machine.
type page struct {
	mac     swarm.MAC
	lines   []status.LogLine
	bytes   int
	bucket  bucket
	dropped int // since the last line that was taken
}

// NewBook makes an empty one.
func NewBook() *Book {
	return &Book{pages: map[swarm.MAC]*list.Element{}, order: list.New(), whole: bucket{rate: wholeRate, burst: wholeBurst}}
}

// Hear keeps what a packet of a machine says; ok is false if the machine, or all together, say too much. nonce is that of the
// machine's boot.
func (b *Book) Hear(now time.Time, mac swarm.MAC, nonce string, packet []byte) (line status.LogLine, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.pageOf(mac)
	if !p.bucket.take(now) || !b.whole.take(now) { // in this order: one machine must not use up what all have
		p.dropped++
		return status.LogLine{}, false
	}
	if p.dropped > 0 {
		text := fmt.Sprintf("%d lines were dropped here: more than %d in a second, or %d of all machines", p.dropped, machineRate, wholeRate)
		b.keep(p, status.LogLine{Time: now, Severity: severities[4], Program: "offshoot", Text: text})
		p.dropped = 0
	}
	m := decode(packet, nonce)
	return b.keep(p, status.LogLine{Time: now, Severity: severities[m.severity], Program: m.program, Text: m.text}), true
}

// keep adds a line to a page, and forgets the oldest ones beyond the bounds. The caller holds mu.
func (b *Book) keep(p *page, line status.LogLine) status.LogLine {
	b.seq++
	line.Seq = b.seq
	p.lines, p.bytes = append(p.lines, line), p.bytes+size(line)
	for len(p.lines) > linesPerMachine || p.bytes > bytesPerMachine {
		p.bytes -= size(p.lines[0])
		p.lines = p.lines[1:]
	}
	return line
}

func size(l status.LogLine) int { return len(l.Program) + len(l.Text) }

// pageOf is the page of a machine that speaks now. The caller holds mu.
func (b *Book) pageOf(mac swarm.MAC) *page {
	if e, known := b.pages[mac]; known {
		b.order.MoveToBack(e)
		return e.Value.(*page)
	}
	if b.order.Len() >= bookMachines {
		delete(b.pages, b.order.Remove(b.order.Front()).(*page).mac)
	}
	p := &page{mac: mac, bucket: bucket{rate: machineRate, burst: machineBurst}}
	b.pages[mac] = b.order.PushBack(p)
	return p
}

// Of returns the lines of a machine, the oldest first.
func (b *Book) Of(mac swarm.MAC) []status.LogLine {
	b.mu.Lock()
	defer b.mu.Unlock()
	e, known := b.pages[mac]
	if !known {
		return nil
	}
	return append([]status.LogLine(nil), e.Value.(*page).lines...)
}

// bucket lets burst lines pass at once, and rate a second. It begins full.
type bucket struct {
	rate, burst float64
	used        float64
	last        time.Time
}

func (b *bucket) take(now time.Time) bool {
	if since := now.Sub(b.last).Seconds(); since > 0 {
		b.used = max(0, b.used-since*b.rate)
	}
	b.last = now // also a clock that was set back
	if b.used+1 > b.burst {
		return false
	}
	b.used++
	return true
}
