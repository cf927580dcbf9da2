package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
	"offshoot/swarm"
)

func newSwarm(s *settings) *cobra.Command {
	voters := &cobra.Command{
		Use: "voters N", Short: "Change how many nodes at most vote on the ledger", Args: exactly("N"), Example: "  offshoot swarm set voters 5",
		Long: `Decisions need a majority of the voters: 3 of them survive the loss of one, 5 that of two. Installed nodes become voters
by themselves as far as there are any; an even number is refused, since it only makes ties.`,
		RunE: func(c *cobra.Command, args []string) error {
			n, err := strconv.Atoi(args[0])
			if err != nil || n < 1 || n%2 == 0 {
				return usage("%q voters: want an odd number, so that no half of them can be stuck", args[0])
			}
			return s.asking(func(ctx context.Context, client *node.Client, _ []string) error {
				if err := client.SetVoters(ctx, n); err != nil {
					return err
				}
				say(fmt.Sprintf("voters    at most %d from now on; who votes: offshoot swarm members", n))
				return nil
			})(c, args)
		},
	}
	uplinks := &cobra.Command{
		Use: "uplink-limit RATE|none", Short: "Change how fast nodes exchange artifacts with nodes of other segments", Args: exactly("RATE"),
		Example: "  offshoot swarm set uplink-limit 20MB/s\n  offshoot swarm set uplink-limit none",
		Long: `The limit is for each node and each way: what it sends to nodes of other segments per second, in pieces and by HTTP, and what it
takes from them. Nodes of one segment exchange as fast as they can, machines that boot are served so, and decisions of the
swarm are not slowed. It holds within a second, also for what is under way. 20MB/s, 500kB/s, 100Mbit/s; none is no limit.`,
		RunE: func(c *cobra.Command, args []string) error {
			limit, err := uplinkLimit(args[0])
			if err != nil {
				return usage("%w", err)
			}
			return s.asking(func(ctx context.Context, client *node.Client, _ []string) error {
				if err := client.SetUplinkLimit(ctx, int64(limit)); err != nil {
					return err
				}
				say("uplinks   " + limitLine(int64(limit)))
				return nil
			})(c, args)
		},
	}
	rotate := &cobra.Command{
		Use: "rotate-keys", Short: "Change the key that gossip is encrypted with", Args: exactly(), Example: "  offshoot swarm rotate-keys",
		Long: `rotate-keys begins to change the gossip key, in three steps that leave no gap: everybody learns the new key, everybody uses
it, everybody forgets the old one. The leader takes each step when all living nodes have taken the one before. Evicting a
node does this by itself.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			if err := n.RotateKeys(ctx); err != nil {
				return err
			}
			say("rotating  the gossip key; a node that is away gets the new one when it comes back")
			return nil
		}),
	}
	return group("swarm", "The swarm as a whole", newStatus(s), newMembers(s), newLeave(s), newEvict(s), newTrust(s),
		group("set", "Settings of the swarm", voters, uplinks, newSetStore(s), newSetSwarmBoot(s), newSetStallAfter(s), newSetUnknown(s), newSetConsole(s),
			newSetDomain(s), newSetDNS(s), newSetNTP(s)), rotate, newAudit(s), newSnapshot(s), newRecover(s))
}

func newSetUnknown(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "unknown free|wait|off", Short: "Change what machines do that nobody asked for", Args: exactly("MODE"), Example: "  offshoot swarm set unknown off",
		Long: `A machine that nobody asked for, and that boots from the network, never has its disks written to.
  free  it boots into memory, tells what hardware it has, and waits to be assigned (the default)
  wait  it waits in iPXE, and nothing is known of it but its MAC
  off   it boots into memory, tells what hardware it has, and switches itself off; assign wakes it`,
		RunE: func(c *cobra.Command, args []string) error {
			if mode := swarm.Unknown(args[0]); mode != swarm.UnknownFree && mode != swarm.UnknownWait && mode != swarm.UnknownOff {
				return usage("%q: want free, wait or off", args[0])
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error { return n.SetUnknown(ctx, args[0]) })(c, args)
		},
	}
}

func newSetConsole(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "console-installs on|off", Short: "Allow who stands before a free machine to have it installed", Args: exactly("on|off"),
		Example: "  offshoot swarm set console-installs on",
		Long: `The console of a free machine shows a menu. While this is on, an install can be asked for there: the machine is armed
then, and its timeline says that its console asked. Whoever can reach a console, or boot a machine on the segment, can
install it. It is off unless you say so. A machine that is reserved for a user refuses.`,
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] != "on" && args[0] != "off" {
				return usage("%q: want on or off", args[0])
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
				return n.SetConsoleInstalls(ctx, args[0] == "on")
			})(c, args)
		},
	}
}

func newSetStore(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "store SIZE", Short: "Bound what artifacts and packages may take on each node's disk", Args: exactly("SIZE"), Example: "  offshoot swarm set store 200G",
		Long: `store bounds what images, programs and packages of mirrors take together on the disk of each node. SIZE is a number with M, G or T; 0 is
the default again: what leaves 2 GiB or a tenth of the disk free, whichever is more.

A node over its bound throws away what was not used the longest: first what nobody needs, then what working sets hold and what was
used within a day. What is pinned, what a profile needs, and what an install under way has fetched stays.`,
		RunE: func(c *cobra.Command, args []string) error {
			size, err := parseSize(args[0])
			if err != nil {
				return err
			}
			return s.asking(func(ctx context.Context, client *node.Client, _ []string) error {
				if err := client.SetStore(ctx, size); err != nil {
					return err
				}
				if size == 0 {
					say("store     what leaves enough of each disk free")
					return nil
				}
				say(fmt.Sprintf("store     at most %.1f GB on each node from now on", float64(size)/1e9))
				return nil
			})(c, args)
		},
	}
}

// parseSize reads 0, 500M, 200G, 1.5T.
func parseSize(text string) (int64, error) {
	factors := map[string]float64{"M": 1e6, "G": 1e9, "T": 1e12}
	number, factor := text, 1.0
	if n := len(text); n > 1 && factors[text[n-1:]] > 0 {
		number, factor = text[:n-1], factors[text[n-1:]]
	}
	size, err := strconv.ParseFloat(number, 64)
	if err != nil || !(size >= 0 && size*factor < 1<<62) || factor == 1 && size != 0 {
		return 0, usage("a size of %q: want a number with M, G or T, as in 200G; 0 is no bound of its own", text)
	}
	return int64(size * factor), nil
}

// uplinkLimit reads a rate, or none.
func uplinkLimit(text string) (swarm.Rate, error) {
	if text == "none" {
		return 0, nil
	}
	limit, err := swarm.ParseRate(text)
	switch {
	case err != nil:
		return 0, fmt.Errorf("%w; or none", err)
	case limit < swarm.MinUplinkLimit:
		return 0, fmt.Errorf("%q: want %s at least; or none", text, swarm.MinUplinkLimit)
	}
	return limit, nil
}

func newMembers(s *settings) *cobra.Command {
	var o output
	c := &cobra.Command{
		Use: "members", Short: "List the nodes", Args: exactly(), Example: "  offshoot swarm members\n  offshoot swarm members -o json",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			st, err := n.Status(ctx)
			if err != nil {
				return err
			}
			return o.print(st.Nodes, func() error { return printNodes(os.Stdout, st) })
		}),
	}
	o.flag(c)
	return c
}

func newLeave(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "leave", Short: "Hand everything over and take the node on this machine out of the swarm", Args: exactly(),
		Long: `leave passes every duty of this node on, gives up its vote, and stops it. It refuses, and changes nothing,
while no other living node is on a segment that this one serves.`,
		Example: "  offshoot swarm leave",
		RunE: func(c *cobra.Command, args []string) error {
			if err := s.here("leave", "; to put another node out: offshoot swarm evict NODE"); err != nil {
				return err
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
				if err := n.Leave(ctx); err != nil {
					return err
				}
				say("left      everything is handed over; the node has stopped")
				return nil
			})(c, args)
		},
	}
}

func newEvict(s *settings) *cobra.Command {
	var (
		o                  output
		yes, force, dryRun bool
		rotateCA           bool
	)
	c := &cobra.Command{
		Use: "evict NODE", Short: "Put a node out of the swarm for good: stolen, broken, not trusted", Args: exactly("NODE (name or id)"),
		Long: `evict revokes the certificate of a node, changes the gossip key, and gives its duties and its vote to others. It shows first
what will happen, and asks. It refuses to evict the last voter, and needs --force if nobody else can serve a segment of a
node that is alive, or if the other voters could not decide without it.

A node that has voted, and every seed, has a copy of the key of the swarm's CA. --rotate-ca makes that worthless: the swarm gets a
new CA and every node a new certificate, in steps that leave no gap. Its pin changes; open tickets are revoked; operators need new
files. It takes some seconds if every node is there, and waits for nodes that are away until they return or are evicted. It can
be asked for afterwards as well, with the id of the evicted node.

It does not touch the machine itself. NODE is a name or an id of: offshoot swarm members`,
		Example: "  offshoot swarm evict m2\n  offshoot swarm evict --dry-run m2\n  offshoot swarm evict --rotate-ca seed\n  offshoot swarm evict --yes 3f9c2a7be01d44c8",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			st, err := n.Status(ctx)
			if err != nil {
				return err
			}
			eviction, err := st.PlanEviction(args[0], rotateCA)
			if err != nil {
				return err
			}
			if dryRun {
				return o.print(eviction, func() error { return printEviction(os.Stdout, eviction) })
			}
			gone := eviction.Node
			plan(fmt.Sprintf("evicting  %s (%s, %s, %s):", gone.Name, gone.ID, gone.State, gone.Role), eviction.Steps(), eviction.Risks)
			if err := eviction.Check(force); err != nil {
				return err
			}
			if err := confirm(ctx, gone.Name, yes); err != nil {
				return err
			}
			pin, err := n.Evict(ctx, gone.ID, node.EvictRequest{Force: force, RotateCA: rotateCA})
			if err != nil {
				return err
			}
			if rotateCA {
				say("replacing the swarm's CA; the new pin is " + pin)
				say("          every node gets a new certificate now; it usually takes less than a minute, and waits for nodes that are away")
				say("          afterwards: offshoot operator list (who needs a new file), offshoot swarm snapshot save (older ones are refused)")
			}
			say("evicted   " + gone.Name + "; watch what takes its place: offshoot swarm status --watch")
			return nil
		}),
	}
	o.flag(c)
	c.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	c.Flags().BoolVar(&force, "force", false, "accept the risks that the plan names")
	c.Flags().BoolVar(&rotateCA, "rotate-ca", false, "replace the swarm's CA too: the node was the seed or has voted, and its disk is in other hands")
	c.Flags().BoolVar(&dryRun, "dry-run", false, "only print what would happen")
	return c
}

func newTrust(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "trust NODE", Short: "Take a node out of quarantine, after you have looked at it", Args: exactly("NODE (name or id)"), Example: "  offshoot swarm trust m2",
		Long: `A node is in quarantine when its ticket was shown a second time with another key: one of the two machines is a thief. It
keeps its certificate, and gets neither duty nor vote. trust says that this node is the right one.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := n.Trust(ctx, args[0]); err != nil {
				return err
			}
			say("trusted   " + args[0] + " may hold duty and vote again")
			return nil
		}),
	}
}

func newAudit(s *settings) *cobra.Command {
	var (
		o    output
		last int
	)
	c := &cobra.Command{
		Use: "audit", Short: "Show what operators decided, who it was and from where", Args: exactly(),
		Long: `audit lists the decisions of operators, newest last, also those that the swarm refused. It keeps the last 10,000. What nodes
decide by themselves stands on the timelines of machines: offshoot machine show MAC`,
		Example: "  offshoot swarm audit\n  offshoot swarm audit --last 0 -o json",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			if last < 0 {
				return usage("--last %d: want 0 (all) or more", last)
			}
			entries, err := n.Audit(ctx)
			if err != nil {
				return err
			}
			if last > 0 && len(entries) > last {
				entries = entries[len(entries)-last:]
			}
			return o.print(entries, func() error { return printAudit(os.Stdout, entries) })
		}),
	}
	o.flag(c)
	c.Flags().IntVarP(&last, "last", "n", 50, "how many; 0 is all")
	return c
}

func newRecover(s *settings) *cobra.Command {
	var yes bool
	c := &cobra.Command{
		Use: "recover", Short: "Found the swarm anew from this machine's data, when its voters are lost for ever", Args: exactly(),
		Long: `recover is for the day on which a majority of the voters is lost and does not come back. It makes the node on this machine the
only voter of what its data directory holds; the others follow it when it runs. The node must be stopped. A copy of the
ledger is kept beside it.

What was decided by others and had not arrived here is lost. Where several nodes are left, recover the one whose ledger is
newest, and never two: each would be a swarm of its own, with the same name.`,
		Example: "  sudo offshoot swarm recover",
		RunE: func(c *cobra.Command, _ []string) error {
			ctx := c.Context()
			if err := s.here("recover", ""); err != nil {
				return err
			}
			log, err := s.logger()
			if err != nil {
				return err
			}
			if _, err := os.Stat(filepath.Join(s.dataDir, "node.json")); err != nil {
				return fmt.Errorf("%w: %s holds no node that could be recovered; is it another --data-dir?", node.ErrNoSwarm, s.dataDir)
			}
			n := node.NewClient(s.dataDir)
			defer n.Close()
			if _, err := n.Status(ctx); !errors.Is(err, node.ErrUnreachable) {
				return fmt.Errorf("%w: a node runs on %s. If its swarm has no quorum for ever, stop it first: systemctl stop offshoot", status.ErrUnsafe, s.dataDir)
			}
			plan("recovering the swarm from "+s.dataDir+":", []string{
				"this node becomes the only voter of what its directory holds; a copy of that is kept beside it",
				"LOST: what other voters decided and this node had not heard: leases, installations, joins, evictions",
				"a former voter that comes back with its disk is another swarm of the same name: it must stay off, and be installed again",
				"nodes that are left follow this one when it runs; then the swarm chooses new voters by itself",
				"recover only one node: the one whose ledger/raft.db was written last, among those that have a ca.key",
			}, withoutAuthority(s.dataDir))
			if err := confirm(ctx, "recover", yes); err != nil {
				return err
			}
			if err := node.Recover(ctx, s.dataDir, log); err != nil {
				return err
			}
			say("recovered start it now: systemctl start offshoot; then: offshoot swarm status")
			return nil
		},
	}
	c.Flags().BoolVar(&yes, "yes", false, "do it without asking")
	return c
}

// withoutAuthority is the risk of recovering a node that has never voted.
func withoutAuthority(dataDir string) []string {
	if _, err := os.Stat(filepath.Join(dataDir, "ca.key")); !errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return []string{"this node has no ca.key, since it has never voted: nobody could join or renew a certificate afterwards, and in 7 days nodes would stop to understand each other. Recover one that has it, or copy the ca.key of a lost voter or of the seed here first"}
}
