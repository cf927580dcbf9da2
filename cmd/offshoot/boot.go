package main

import (
	"context"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/swarm"
)

// bootHelp says what can be chosen.
const bootHelp = `
  auto    iPXE, and Debian's signed shim and GRUB for a machine whose iPXE never asks for anything: firmware with Secure Boot
          refuses what is not signed, and tells nobody. A machine that is seen to run with Secure Boot gets them at once from then on
  ipxe    iPXE only
  signed  shim and GRUB only: for machines that stop and want a key pressed when they refuse a program. They start machines
          without Secure Boot as well

The choice is there for UEFI firmware on x64; all others get iPXE.`

func newSetBoot(s *settings) *cobra.Command {
	c := s.onMachine("set-boot MAC PROGRAMS", "Choose the boot programs of a machine, before or after it is first seen", `set-boot chooses what the firmware of a machine is sent:
`+bootHelp+`

auto is also: what the swarm does, see offshoot swarm set boot.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, rest []string) error {
			l, err := swarm.ParseLoader(rest[0])
			if err != nil {
				return usage("%w", err)
			}
			if err := n.SetLoader(ctx, mac, l); err != nil {
				return err
			}
			say("boot      " + string(mac) + " gets from its next network boot on: " + l.String())
			return nil
		}, "PROGRAMS")
	c.Example = "  offshoot machine set-boot 52:54:00:12:34:56 signed\n  offshoot machine set-boot 52:54:00:12:34:56 auto"
	return c
}

func newSetSwarmBoot(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "boot PROGRAMS", Short: "Choose the boot programs of machines that have no choice of their own", Args: exactly("PROGRAMS"),
		Example: "  offshoot swarm set boot signed\n  offshoot swarm set boot auto",
		Long:    "boot chooses what the firmware of machines is sent, where offshoot machine set-boot has not chosen:\n" + bootHelp,
		RunE: func(c *cobra.Command, args []string) error {
			l, err := swarm.ParseLoader(args[0])
			if err != nil {
				return usage("%w", err)
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
				if err := n.SetLoader(ctx, "", l); err != nil {
					return err
				}
				say("boot      machines without a choice of their own get from now on: " + l.String())
				return nil
			})(c, args)
		},
	}
}
