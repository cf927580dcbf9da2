package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
	"offshoot/swarm"
)

// followPause is the time between two looks at a log that is followed.
const followPause = time.Second

func newMachineLog(s *settings) *cobra.Command {
	var (
		o      output
		follow bool
	)
	c := s.onMachine("log MAC", "Show what a machine said by syslog while it installs itself",
		`log gathers from all nodes what an installing machine sent them by syslog (UDP 514), newest last. Nodes remember the last 200
lines of each machine, 64 KiB at most, since they started; of machines without a lease they take none. Tickets, the nonces of
boots and hashes of passwords are left out.

Times are those at which the node heard the line: the clock of a machine that installs itself is often wrong.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
			if follow {
				if o.format != "table" {
					return usage("--follow: lines are for people; without it --output json has what is there now")
				}
				return followLog(ctx, n, mac, os.Stdout)
			}
			lines, err := n.Log(ctx, mac)
			if err != nil {
				return err
			}
			return o.print(lines, func() error {
				if len(lines) == 0 {
					say(fmt.Sprintf("nothing   %s has said nothing by syslog that a node remembers; its packets: offshoot machine why %s", mac, mac))
				}
				return printLog(os.Stdout, lines)
			})
		})
	o.flag(c)
	c.Flags().BoolVarP(&follow, "follow", "f", false, "go on and show what it says from now on, until Ctrl-C")
	c.Example += "\n  offshoot machine log -f 52:54:00:12:34:56"
	return c
}

// followLog shows what is there and what comes, until ctx ends.
func followLog(ctx context.Context, n *node.Client, mac swarm.MAC, w io.Writer) error {
	type key struct { // numbers begin again when a node does
		node string
		seq  uint64
		at   int64
	}
	shown := map[key]bool{}
	for {
		lines, err := n.Log(ctx, mac)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		still, fresh := map[key]bool{}, []status.LogLine{}
		for _, l := range lines {
			k := key{l.Node, l.Seq, l.Time.UnixNano()}
			if still[k] = true; !shown[k] {
				fresh = append(fresh, l)
			}
		}
		shown = still // what nodes have forgotten does not come again
		if err := printLog(w, fresh); err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(followPause):
		}
	}
}

// printLog writes a line for each, as syslog files have them: they are too many and too long for a table.
func printLog(w io.Writer, lines []status.LogLine) error {
	for _, l := range lines {
		at, what := "-", l.Text
		if !l.Time.IsZero() {
			at = l.Time.Local().Format("15:04:05.000")
		}
		if l.Program != "" {
			what = l.Program + ": " + what
		}
		if _, err := fmt.Fprintf(w, "%-12s  %s  %-7s  %s\n", at, plain(l.Node), l.Severity, plain(what)); err != nil {
			return err
		}
	}
	return nil
}

func newSetStallAfter(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "stall-after DURATION|default", Short: "Change how long an installation may stand still until its machine counts as stalled", Args: exactly("DURATION"),
		Example: "  offshoot swarm set stall-after 15m\n  offshoot swarm set stall-after default",
		Long: `A machine whose installation stands still is stalled: it is named in offshoot swarm status with the last that it said, and on its
timeline. A new phase, a percent that moves and a line of its log are signs of life. Nothing is done to the machine.

How long it may be silent depends on the phase, from 5 minutes to 30; DURATION, 30s to 24h, takes the place of all of these. Lines of
a log count up to 10 seconds late.`,
		RunE: func(c *cobra.Command, args []string) error {
			seconds, err := stallAfter(args[0])
			if err != nil {
				return usage("%w", err)
			}
			return s.asking(func(ctx context.Context, client *node.Client, _ []string) error {
				if err := client.SetStallAfter(ctx, seconds); err != nil {
					return err
				}
				say("stalled   " + stallLine(seconds))
				return nil
			})(c, args)
		},
	}
}

// stallAfter reads a duration of whole seconds, or default.
func stallAfter(text string) (seconds int, err error) {
	if text == "default" {
		return 0, nil
	}
	d, err := time.ParseDuration(text)
	if err != nil || d < swarm.MinStallAfter || d > swarm.MaxStallAfter || d%time.Second != 0 {
		return 0, fmt.Errorf("stall-after %s: want whole seconds from %s to %s, as in 15m; or default", strconv.Quote(text), "30s", "24h")
	}
	return int(d / time.Second), nil
}

// stallLine says when machines count as stalled.
func stallLine(seconds int) string {
	if seconds == 0 {
		return "a machine is stalled when its installation stands still for longer than its phase may"
	}
	return fmt.Sprintf("a machine is stalled when its installation stands still for %s", time.Duration(seconds)*time.Second)
}
