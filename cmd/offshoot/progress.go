package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"

	"golang.org/x/term"

	"offshoot/node/status"
)

const (
	// progressStep is how often a terminal's line is drawn anew.
	progressStep = time.Second
	// plainStep is how often a line is written where there is no terminal: in the journal, in a file.
	plainStep = 5 * time.Second
	// progressNames is how many fetches a line has room for.
	progressNames = 2
)

// progress shows artifacts on their way: one line that is drawn again and again on a terminal, a line every few seconds
// elsewhere, and nothing while nothing is fetched. Everything else that goes to the terminal goes through it, so that the line is
// out of the way.
type progress struct {
	terminal bool
	columns  func() int // of the terminal; nil, or 0: nobody knows

	mu    sync.Mutex
	out   io.Writer
	drawn bool      // the line stands on the terminal
	wrote time.Time // the last plain line
}

// newProgress shows on stderr.
func newProgress() *progress {
	fd := int(os.Stderr.Fd())
	columns := func() int {
		n, _, _ := term.GetSize(fd) // 0 with an error
		return n
	}
	return &progress{out: os.Stderr, terminal: term.IsTerminal(fd), columns: columns}
}

const clearLine = "\r\x1b[K"

// show says how far these are. It may be called as often as one likes.
func (p *progress) show(now time.Time, all []status.Fetch) {
	if len(all) == 0 {
		p.draw(now, "")
		return
	}
	p.draw(now, fetchesLine(all))
}

// draw puts this line in the place of the former one, "" for none.
func (p *progress) draw(now time.Time, line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.terminal && line != "":
		_, _ = fmt.Fprint(p.out, clearLine+p.fit(line))
		p.drawn = true
	case p.terminal:
		p.clear()
	case line != "" && now.Sub(p.wrote) >= plainStep:
		_, _ = fmt.Fprintln(p.out, line)
		p.wrote = now
	}
}

// fit cuts a line that would go over the edge: of two rows only one could be drawn over.
func (p *progress) fit(line string) string {
	if p.columns == nil {
		return line
	}
	runes := []rune(line)
	if most := p.columns() - 1; most > 0 && len(runes) > most {
		return string(runes[:most])
	}
	return line
}

// clear takes the line off the terminal. The lock is held.
func (p *progress) clear() {
	if p.drawn {
		_, _ = fmt.Fprint(p.out, clearLine)
	}
	p.drawn = false
}

// Write lets others write where the line is.
func (p *progress) Write(b []byte) (int, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.clear()
	return p.out.Write(b)
}

// say speaks to people.
func (p *progress) say(line string) { _, _ = fmt.Fprintln(p, line) }

// follow shows what fetching returns until ctx ends.
func (p *progress) follow(ctx context.Context, fetching func() []status.Fetch) {
	tick := time.NewTicker(progressStep)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			p.show(time.Now(), nil)
			return
		case now := <-tick.C:
			p.show(now, fetching())
		}
	}
}

// fetchesLine is all of them in one line.
func fetchesLine(all []status.Fetch) string {
	var parts []string
	for i, f := range all {
		if i == progressNames {
			parts = append(parts, fmt.Sprintf("and %d more", len(all)-i))
			break
		}
		name := f.Name
		if name == "" {
			name = f.Digest[:min(len(f.Digest), 12)]
		}
		parts = append(parts, fmt.Sprintf("%s %s of %s, %s", plain(name), megabytes(f.Done), megabytes(f.Size), pace(f)))
	}
	return "fetching  " + strings.Join(parts, "; ")
}

// pace is how a fetch goes: percent, rate, peers, and how long it still takes.
func pace(f status.Fetch) string {
	percent := 100
	if f.Size > 0 {
		percent = int(100 * min(f.Done, f.Size) / f.Size)
	}
	peers := fmt.Sprintf("%d peers", f.Peers)
	switch f.Peers {
	case 0:
		peers = "looking for peers"
	case 1:
		peers = "1 peer"
	}
	text := fmt.Sprintf("%d %%, %s/s, %s", percent, megabytes(int64(f.Rate)), peers)
	if left, ok := f.Left(); ok {
		begin := time.Unix(0, 0)
		text += ", " + since(begin, begin.Add(left)) + " left"
	}
	return text
}
