package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

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
			show := &meter{progress: newProgress(), now: time.Now}
			err := n.Prefetch(ctx, args[0], show.step)
			show.draw(time.Now(), "")
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

// meter shows how far something is that takes long.
type meter struct {
	*progress
	now func() time.Time

	each bool // each thing has a rate of its own

	last  status.Prefetch
	began time.Time
}

func (m *meter) step(p status.Prefetch) {
	now := m.now()
	if m.began.IsZero() || m.each && p.What != m.last.What {
		m.began = now
		p.Had = p.Done
	} else if m.each {
		p.Had = m.last.Had
	}
	m.last = p
	if !p.Ended {
		m.draw(now, plain(progressLine(p, now.Sub(m.began))))
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
