package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
	"offshoot/swarm"
)

// onMachine makes a command that takes a MAC.
func (s *settings) onMachine(use, short, long string, do func(ctx context.Context, n *node.Client, mac swarm.MAC, rest []string) error, more ...string) *cobra.Command {
	words := append([]string{"MAC"}, more...)
	return &cobra.Command{
		Use: use, Short: short, Long: long, Args: exactly(words...),
		Example: "  offshoot machine " + strings.NewReplacer("MAC", "52:54:00:12:34:56", "NAME", "rack1-3", "PROFILE", "default", "METHOD", "sanboot", "KEY=VALUE", "rack=r1 old-").Replace(use),
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
	var having []string
	ls := &cobra.Command{
		Use: "list", Short: "List the machines that were seen or named", Args: exactly(), Example: "  offshoot machine list\n  offshoot machine list -l rack=r1",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			st, err := n.Status(ctx)
			if err != nil {
				return err
			}
			if st.Machines, err = labelled(st.Machines, having); err != nil {
				return err
			}
			return list.print(st.Machines, func() error { return printMachines(os.Stdout, st) })
		}),
	}
	list.flag(ls)
	ls.Flags().StringArrayVarP(&having, "label", "l", nil, "only machines with this label: KEY=VALUE, or KEY with any value")
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
	named := s.onMachine("name MAC NAME", "Name a machine, before or after it is first seen", "", func(ctx context.Context, n *node.Client, mac swarm.MAC, rest []string) error {
		return n.Name(ctx, mac, rest[0])
	}, "NAME")
	hold := s.onMachine("hold MAC", "Stop everything that is being done to a machine", "", func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
		return n.Hold(ctx, mac, "held by an operator")
	})
	return group("machine", "Machines: seen, armed, installed, released", ls, one, because, newMachineLog(s), s.armMachine(), s.assignMachine(), s.reserveMachine(), s.labelMachine(),
		s.wakeMachine(), s.releaseMachine(), newSetBoot(s), s.ownDiskMachine(), named, hold)
}

// armFlags are those of the commands that arm a machine.
func armFlags(c *cobra.Command, arm *node.ArmRequest) {
	c.Flags().StringVar(&arm.Disk, "disk", "", "disk to install to: /dev/NAME, serial=…, wwn=…, size>=…, smallest")
	c.Flags().BoolVar(&arm.Wipe, "wipe", false, "overwrite a disk that holds foreign data")
}

func (s *settings) armMachine() *cobra.Command {
	var arm node.ArmRequest
	c := s.onMachine("arm MAC", "Let the next network boot of a machine install it, once",
		`arm is what allows a disk to be written. It holds for one installation; afterwards the machine
boots its own disk again. A disk that holds data is refused unless --wipe says that it may go. A machine
that is free, and waits in the boot environment, begins at once.`,
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
	c.Example += "\n  offshoot machine arm --wipe --disk smallest 52:54:00:12:34:56"
	c.Flags().StringVar(&arm.Profile, "profile", "", "what to install (default: the swarm's profile)")
	armFlags(c, &arm)
	return c
}

func (s *settings) assignMachine() *cobra.Command {
	var arm node.ArmRequest
	c := s.onMachine("assign MAC PROFILE", "Give a machine a profile: arm it, and wake it if it is off",
		`assign does what arm does, for a user if --user names one, and then sends the machine a magic packet
(Wake-on-LAN). One that is free and waits begins at once; one that is off and wakes, when it has booted;
one that runs something else, when somebody restarts it. A machine that is reserved for another user is
refused.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, rest []string) error {
			if err := node.CheckDisk(arm.Disk); err != nil {
				return usage("--disk: %w", err)
			}
			arm.Profile = rest[0]
			if err := n.Arm(ctx, mac, arm); err != nil {
				return err
			}
			say(fmt.Sprintf("assigned  %s gets profile %s, at once if it waits, else when it next boots from the network", mac, arm.Profile))
			if segment, err := n.Wake(ctx, mac); err != nil {
				say("not woken " + plain(err.Error()))
			} else {
				say("woken     by a magic packet on segment " + segment)
			}
			return nil
		}, "PROFILE")
	c.Example += "\n  offshoot machine assign --user alice --disk smallest 52:54:00:12:34:56 default"
	c.Flags().StringVar(&arm.User, "user", "", "who it is for; it stays reserved for this user until it is released")
	armFlags(c, &arm)
	return c
}

// noUser is how nobody is called.
const noUser = "-"

func (s *settings) reserveMachine() *cobra.Command {
	user := noUser
	c := s.onMachine("reserve MAC", "Keep a machine for a user",
		`reserve keeps a machine for a user: it is neither armed by --auto-approve nor from its console, and
assign for another user is refused. An empty --user lifts that; release does, too.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
			if user == noUser {
				return usage("for whom? --user NAME, or --user '' for nobody any more")
			}
			return n.Reserve(ctx, mac, user)
		})
	c.Example = "  offshoot machine reserve 52:54:00:12:34:56 --user alice\n  offshoot machine reserve 52:54:00:12:34:56 --user ''"
	c.Flags().StringVar(&user, "user", noUser, "who it is kept for; '' is nobody any more")
	return c
}

func (s *settings) labelMachine() *cobra.Command {
	c := s.onMachine("label MAC KEY=VALUE...", "Put labels on a machine, or take them off (KEY-)", "", nil)
	c.Example = "  offshoot machine label 52:54:00:12:34:56 rack=r1 gpu=\n  offshoot machine label 52:54:00:12:34:56 rack-"
	c.Args = cobra.MinimumNArgs(2)
	c.RunE = func(c *cobra.Command, args []string) error {
		mac, err := swarm.ParseMAC(args[0])
		if err != nil {
			return usage("%w", err)
		}
		set, drop := map[string]string{}, []string{}
		for _, word := range args[1:] {
			key, value, sets := strings.Cut(word, "=")
			name, drops := strings.CutSuffix(word, "-")
			switch {
			case sets && key != "":
				set[key] = value
			case drops && !sets && name != "":
				drop = append(drop, name)
			default:
				return usage("label %q: want KEY=VALUE, or KEY- to take one off", word)
			}
		}
		return s.asking(func(ctx context.Context, n *node.Client, _ []string) error { return n.Label(ctx, mac, set, drop) })(c, args)
	}
	return c
}

// labelled are the machines that have all of the labels, KEY=VALUE or KEY.
func labelled(all []status.Machine, having []string) ([]status.Machine, error) {
	for _, want := range having {
		key, value, exact := strings.Cut(want, "=")
		if key == "" {
			return nil, usage("--label %q: want KEY=VALUE or KEY", want)
		}
		all = slices.DeleteFunc(all, func(m status.Machine) bool {
			has, ok := m.Labels[key]
			return !ok || exact && has != value
		})
	}
	return all, nil
}

func (s *settings) wakeMachine() *cobra.Command {
	return s.onMachine("wake MAC", "Send a machine a magic packet (Wake-on-LAN)",
		`wake has the node that serves the machine's segment send the packet there. Nothing answers it: whether
the machine woke shows when it boots (offshoot machine why MAC). Its firmware must allow that.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
			segment, err := n.Wake(ctx, mac)
			if err != nil {
				return err
			}
			say("woken     by a magic packet on segment " + segment)
			return nil
		})
}

func (s *settings) releaseMachine() *cobra.Command {
	var release node.ReleaseRequest
	c := s.onMachine("release MAC", "Let the next network boot of a machine wipe its disks, once; then it is free",
		`release is for a machine that is no longer needed as what it is. A machine that is a node must have left
first: offshoot swarm leave on it, or offshoot swarm evict NODE if it is lost. At its next network boot the
boot environment wipes what marks its disks and their partitions as used: partition tables, file systems,
LVM, RAID. What was stored is still there for who looks for it, unless --discard gives all blocks back.

Disks that offshoot did not install are left alone unless --wipe says that they may go. Removable disks are
never touched. It holds once; offshoot machine hold MAC calls it off.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, _ []string) error {
			if err := node.CheckDisk(release.Disk); err != nil {
				return usage("--disk: %w", err)
			}
			if err := n.Release(ctx, mac, release); err != nil {
				return err
			}
			say("releasing " + string(mac) + " is wiped when it next boots from the network; restart it, or: offshoot machine wake " + string(mac))
			return nil
		})
	c.Example += "\n  offshoot machine release --discard --disk /dev/nvme0n1 52:54:00:12:34:56"
	c.Flags().StringVar(&release.Disk, "disk", "", "only this disk: /dev/NAME, serial=…, wwn=…, size>=…, smallest (default: all that are not removable)")
	c.Flags().BoolVar(&release.Wipe, "wipe", false, "also disks that offshoot did not install")
	c.Flags().BoolVar(&release.Discard, "discard", false, "give all blocks back, where the disk can; what it held is gone then")
	return c
}

func (s *settings) ownDiskMachine() *cobra.Command {
	return s.onMachine("set-own-disk MAC METHOD", "Choose how a machine is told to start its own disk: exit, sanboot or auto",
		`An installed machine that boots from the network is sent to its own disk. exit gives it back to its firmware,
which goes on in its boot order; sanboot has iPXE start the first disk of a BIOS itself. auto is what its
model wants, as far as offshoot knows it: sanboot for a BIOS, exit for UEFI.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, rest []string) error {
			method := rest[0]
			switch {
			case method == "auto":
				method = ""
			case !slices.Contains(swarm.OwnDiskMethods, method):
				return usage("%q: want exit, sanboot or auto", method)
			}
			return n.OwnDisk(ctx, mac, method)
		}, "METHOD")
}
