package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/swarm"
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

// onMachine makes a command that takes a MAC.
func (s *settings) onMachine(use, short, long string, do func(ctx context.Context, n *node.Client, mac swarm.MAC, rest []string) error, more ...string) *cobra.Command {
	words := append([]string{"MAC"}, more...)
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: exactly(words...),
		Example: "  offshoot machine " + strings.NewReplacer("MAC", "52:54:00:12:34:56", "NAME", "rack1-3").Replace(use),
		RunE: func(c *cobra.Command, args []string) error {
			mac, err := swarm.ParseMAC(args[0])
			if err != nil {
				return usage("%w", err)
			}
			return s.asking(func(ctx context.Context, n *node.Client, args []string) error { return do(ctx, n, mac, args[1:]) })(c, args)
		},
	}
}

func newMachine(s *settings) *cobra.Command {
	var list, show, why output
	ls := &cobra.Command{
		Use: "list", Short: "List the machines that were seen or named", Args: exactly(), Example: "  offshoot machine list",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			st, err := n.Status(ctx)
			if err != nil {
				return err
			}
			return list.print(st.Machines, func() error { return printMachines(os.Stdout, st) })
		}),
	}
	list.flag(ls)
	one := s.onMachine("show MAC", "Show one machine and its timeline", "", func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
		m, err := n.Machine(ctx, mac)
		if err != nil {
			return err
		}
		return show.print(m, func() error { return printMachine(os.Stdout, m) })
	})
	show.flag(one)
	because := s.onMachine("why MAC", "Show every packet and request of a machine, with our answer or the reason for silence",
		`why gathers from all nodes what they saw of a machine: DHCP, TFTP and HTTP, newest last.
Nodes remember the last packets of each machine since they started.`, func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
			traces, err := n.Why(ctx, mac)
			if err != nil {
				return err
			}
			return why.print(traces, func() error { return printTraces(os.Stdout, mac, traces) })
		})
	why.flag(because)
	var arm node.ArmRequest
	armed := s.onMachine("arm MAC", "Let the next network boot of a machine install it, once",
		`arm is what allows a disk to be written. It holds for one installation; afterwards the machine
boots its own disk again. A disk that holds data is refused unless --wipe says that it may go.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
			if err := node.CheckDisk(arm.Disk); err != nil {
				return usage("--disk: %w", err)
			}
			if err := n.Arm(ctx, mac, arm); err != nil {
				return err
			}
			say("armed     " + string(mac) + " is installed when it next boots from the network")
			return nil
		})
	armed.Example += "\n  offshoot machine arm --wipe --disk smallest 52:54:00:12:34:56"
	armed.Flags().StringVar(&arm.Profile, "profile", "", "what to install (default: the swarm's profile)")
	armed.Flags().StringVar(&arm.Disk, "disk", "", "disk to install to: /dev/NAME, serial=…, wwn=…, size>=…, smallest")
	armed.Flags().BoolVar(&arm.Wipe, "wipe", false, "overwrite a disk that holds foreign data")
	named := s.onMachine("name MAC NAME", "Name a machine, before or after it is first seen", "", func(ctx context.Context, n *node.Client, mac swarm.MAC, rest []string) error {
		return n.Name(ctx, mac, rest[0])
	}, "NAME")
	hold := s.onMachine("hold MAC", "Stop everything that is being done to a machine", "", func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
		return n.Hold(ctx, mac, "held by an operator")
	})
	return group("machine", "Machines: seen, armed, installed", ls, one, because, newMachineLog(s), armed, named, newSetBoot(s), hold)
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
