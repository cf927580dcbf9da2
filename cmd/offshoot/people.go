package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
)

func newOperator(s *settings) *cobra.Command {
	var o output
	list := &cobra.Command{
		Use: "list", Short: "List who may ask the swarm over the network", Args: exactly(), Example: "  offshoot operator list",
		Long: `list shows operators and what they may do. One whose state is renew has a certificate of a CA that the swarm has replaced: add makes a
new file under the same name.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			all, err := n.Operators(ctx)
			if err != nil {
				return err
			}
			return o.print(all, func() error { return printOperators(os.Stdout, all) })
		}),
	}
	o.flag(list)
	revoke := &cobra.Command{
		Use: "revoke NAME", Short: "Take an operator's right away: laptop lost, person gone", Args: exactly("NAME"), Example: "  offshoot operator revoke alice",
		Long: `revoke ends an operator's certificate at once, and its open connections. Afterwards add makes a new one under the same name.
What was done with it before stands in: offshoot swarm audit`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := n.RevokeOperator(ctx, args[0]); err != nil {
				return err
			}
			say("revoked   " + args[0] + "; what was done under that name: offshoot swarm audit")
			return nil
		}),
	}
	return group("operator", "People and programs that ask the swarm over the network", newOperatorAdd(s), list, revoke)
}

func newOperatorAdd(s *settings) *cobra.Command {
	var role, file string
	roles := []string{status.OperatorView, status.OperatorOperate, status.OperatorAdmin}
	c := &cobra.Command{
		Use: "add NAME", Short: "Let somebody ask the swarm over the network: makes a certificate with its key", Args: exactly("NAME"),
		Long: `add writes a file with a certificate and its private key. Whoever has the file is that operator, from anywhere, for 90 days:
bring it to the person on a way that you trust. The swarm keeps no copy.

Roles:
  view     look at everything that is no secret
  operate  and arm, name and hold machines, reserve addresses, set pools, move duties, revoke tickets
  admin    and evict nodes, set voters, the limit of uplinks and stall-after, rotate keys, add and revoke operators, save and restore snapshots`,
		Example: "  offshoot operator add alice --role operate -o alice.operator\n  offshoot operator add monitor --role view -o monitor.operator",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) (err error) {
			switch {
			case !slices.Contains(roles, role):
				return usage("--role %q: want view, operate or admin", role)
			case file == "":
				return usage("say where to: --output FILE")
			}
			// Made first: an operator whose file could not be written would be one that nobody has.
			f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
			if err != nil {
				return usage("--output: %w", err)
			}
			defer func() {
				if err = errors.Join(err, f.Close()); err != nil {
					err = errors.Join(err, os.Remove(file))
				}
			}()
			secret, err := n.AddOperator(ctx, args[0], role)
			if err != nil {
				return err
			}
			if _, err = f.Write(secret); err == nil {
				err = f.Sync()
			}
			if err != nil {
				return fmt.Errorf("the operator exists, but its file could not be written: offshoot operator revoke %s, then try again: %w", args[0], err)
			}
			say(fmt.Sprintf("added     %s, role %s; whoever has %s is that operator. Use: offshoot --operator %s swarm status", args[0], role, file, file))
			return nil
		}),
	}
	c.Flags().StringVar(&role, "role", "", "what it may do: view, operate, admin")
	c.Flags().StringVarP(&file, "output", "o", "", "file to write; it must not exist")
	return c
}

func newTicket(s *settings) *cobra.Command {
	var o output
	list := &cobra.Command{
		Use: "list", Short: "List the tickets with which machines become nodes", Args: exactly(), Example: "  offshoot ticket list",
		Long: `A ticket is made when a machine fetches its install config, is good for two hours and for one use, by that machine. Its secret is
on that machine's disk only; what is listed here is no secret.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			all, err := n.Tickets(ctx)
			if err != nil {
				return err
			}
			return o.print(all, func() error { return printTickets(os.Stdout, all) })
		}),
	}
	o.flag(list)
	revoke := &cobra.Command{
		Use: "revoke ID", Short: "Make a ticket worthless before it is redeemed", Args: exactly("ID"), Example: "  offshoot ticket revoke 7c1f0e9a2b3d4455",
		Long: `revoke keeps a machine from joining with a ticket that it has fetched. Machines that have joined are nodes, which are put out with:
offshoot swarm evict NODE`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := n.RevokeTicket(ctx, args[0]); err != nil {
				return err
			}
			say("revoked   ticket " + args[0] + "; the machine gets another one when it is armed again")
			return nil
		}),
	}
	return group("ticket", "Rights of machines to become nodes", list, revoke)
}
