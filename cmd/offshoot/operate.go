package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"offshoot/node"
)

// errNoQuorum: the status was printed, and it says that the swarm cannot decide.
var errNoQuorum = errors.New("the swarm has no quorum")

// output is how results are printed.
type output struct{ format string }

func (o *output) flag(c *cobra.Command) {
	c.Flags().StringVarP(&o.format, "output", "o", "table", "table for people, json for programs")
	c.PreRunE = func(*cobra.Command, []string) error {
		if o.format != "table" && o.format != "json" {
			return usage("--output %q: want table or json", o.format)
		}
		return nil
	}
}

// print writes v as JSON, or lets the table do it.
func (o *output) print(v any, table func() error) error {
	if o.format == "table" {
		return table()
	}
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

func newStatus(s *settings) *cobra.Command {
	var (
		o     output
		watch bool
	)
	c := &cobra.Command{
		Use:   "status",
		Short: "Show who is there, who does what, what is being installed, and what is wrong",
		Long: `status asks the node on this machine for the whole swarm. Problems come first, each with the next
step. The exit code is 5 while the swarm cannot decide anything, 4 if no node runs here.`,
		Example: `  offshoot status
  offshoot status --watch
  offshoot status -o json | jq .problems`,
		Args: exactly(),
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			for {
				st, err := n.Status(ctx)
				if err != nil {
					return err
				}
				if watch && o.format == "table" {
					_, _ = fmt.Print("\x1b[H\x1b[2J") // home, clear
				}
				if err := o.print(st, func() error { return printStatus(os.Stdout, st) }); err != nil {
					return err
				}
				if !watch {
					if !st.Quorum {
						return errNoQuorum
					}
					return nil
				}
				select {
				case <-ctx.Done():
					return nil
				case <-time.After(time.Second):
				}
			}
		}),
	}
	o.flag(c)
	c.Flags().BoolVarP(&watch, "watch", "w", false, "show it again every second")
	return c
}

// since is a duration as people say it.
func since(t time.Time, now time.Time) string {
	if t.IsZero() {
		return "-"
	}
	d := now.Sub(t).Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%ds", int(d.Seconds()))
	case d < time.Hour:
		return fmt.Sprintf("%dm%02ds", int(d.Minutes()), int(d.Seconds())%60)
	}
	return fmt.Sprintf("%dh%02dm", int(d.Hours()), int(d.Minutes())%60)
}
