package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"offshoot/node"
	"offshoot/node/status"
)

func newPrefetch(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "prefetch PROFILE", Short: "Fetch everything that a profile needs to the node, now", Args: exactly("PROFILE"), Example: "  offshoot artifact prefetch default",
		Long: `prefetch has the node that is asked fetch all that it takes to install a profile: kernel, initrd, image, program, and the profile's
working set, which is what earlier installs fetched from package repositories. It shows how far it is, and ends when all is here:
from then on the node needs no upstream and no other node to install it.

Durable nodes do the same by themselves before they are warm. prefetch is for a seed, which fetches no working set by itself, for
filling a node before its uplink is cut, and for seeing what does not come. It goes on only as long as you wait; what has come is
kept, and the next prefetch goes on from there.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			show := &meter{w: os.Stderr, live: term.IsTerminal(int(os.Stderr.Fd())), now: time.Now}
			err := n.Prefetch(ctx, args[0], show.say)
			show.end()
			if err != nil {
				return err
			}
			last := show.last
			text := fmt.Sprintf("fetched   %s: all %s are here", args[0], megabytes(last.Total))
			if last.Gone > 0 {
				text += fmt.Sprintf(", but for %d files of the working set that their repository has replaced", last.Gone)
			}
			say(text)
			return nil
		}),
	}
}

// plainPause is how often progress is told where it can not be overwritten.
const plainPause = 5 * time.Second

// meter shows how far a prefetch is: one line that changes on a terminal, else a line now and then.
type meter struct {
	w    io.Writer
	live bool
	now  func() time.Time

	last         status.Prefetch
	began, shown time.Time
	width        int // of the line on the terminal
}

func (m *meter) say(p status.Prefetch) {
	now := m.now()
	if m.began.IsZero() {
		m.began = now
	}
	m.last = p
	switch {
	case p.Ended:
	case m.live:
		line := plain(progressLine(p, now.Sub(m.began)))
		_, _ = fmt.Fprintf(m.w, "\r%s%s", line, strings.Repeat(" ", max(0, m.width-len(line))))
		m.width = len(line)
	case m.shown.IsZero() || now.Sub(m.shown) >= plainPause:
		m.shown = now
		_, _ = fmt.Fprintln(m.w, plain(progressLine(p, now.Sub(m.began))))
	}
}

// end leaves the line on the terminal as it is.
func (m *meter) end() {
	if m.width > 0 {
		_, _ = fmt.Fprintln(m.w)
	}
}

// progressLine is how far it is, how fast, and how long it will take if that goes on.
func progressLine(p status.Prefetch, took time.Duration) string {
	percent := int64(100)
	if p.Total > 0 {
		percent = min(100, p.Done*100/p.Total)
	}
	text := fmt.Sprintf("fetching  %3d %%  %s of %s", percent, megabytes(p.Done), megabytes(p.Total))
	if fresh := p.Done - p.Had; fresh > 0 && took >= time.Second {
		rate := float64(fresh) / took.Seconds()
		text += fmt.Sprintf("  %.1f MB/s", rate/1e6)
		if left := p.Total - p.Done; left > 0 {
			text += "  " + time.Duration(float64(left)/rate*float64(time.Second)).Round(time.Second).String() + " left"
		}
	}
	return text + "  " + p.What
}
