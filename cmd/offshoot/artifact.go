package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"offshoot/node"
)

func newArtifact(s *settings) *cobra.Command {
	var o output
	list := &cobra.Command{
		Use: "list", Short: "List the bytes that nodes share: who needs them, and where they are", Args: exactly(), Example: "  offshoot artifact list",
		Long: `list shows images, kernels and programs by their SHA-256. WARM counts by segment the living nodes that have all that the profiles
need; HERE is about the node that is asked: yes, no, or how far it has come with fetching it. A node throws away what no profile
needs and nobody pinned when its disk gets full.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			all, err := n.Artifacts(ctx)
			if err != nil {
				return err
			}
			return o.print(all, func() error { return printArtifacts(os.Stdout, all) })
		}),
	}
	o.flag(list)
	return group("artifact", "Bytes that nodes share: images, installers, kernels, this program", list, newShow(s), newAdd(s), newVerify(s), newPrefetch(s), newPin(s, true), newPin(s, false), newRemove(s, "remove"), newRemove(s, "withdraw"))
}

func newPin(s *settings, pinned bool) *cobra.Command {
	c := &cobra.Command{
		Use: "pin DIGEST", Short: "Keep nodes from throwing an artifact away", Args: exactly("DIGEST"), Example: "  offshoot artifact pin 5f2b9c31a0de",
		Long: `pin keeps an artifact on the nodes that have it, also when no profile needs it and the disk is full: the image that you may have to go
back to. What a profile needs is kept without it. DIGEST is the SHA-256 or its beginning, as in: offshoot artifact list`,
	}
	done := "pinned    "
	if !pinned {
		c.Use, c.Short, c.Example = "unpin DIGEST", "Let nodes throw an artifact away when they need its room", "  offshoot artifact unpin 5f2b9c31a0de"
		c.Long = `unpin ends what pin began: a node whose disk is full may throw the artifact away, if no profile needs it.`
		done = "unpinned  "
	}
	c.RunE = s.asking(func(ctx context.Context, n *node.Client, args []string) error {
		if err := n.PinArtifact(ctx, args[0], pinned); err != nil {
			return err
		}
		say(done + args[0])
		return nil
	})
	return c
}

// newRemove also answers to the name that it had first.
func newRemove(s *settings, name string) *cobra.Command {
	return &cobra.Command{
		Use: name + " DIGEST", Hidden: name != "remove", Short: "Take an artifact out of the index, on every node", Args: exactly("DIGEST"), Example: "  offshoot artifact remove 5f2b9c31a0de",
		Long: `remove makes the swarm forget an artifact that nobody needs any more: an image of last year. What a profile needs, or somebody has
pinned, is refused. Each node throws the bytes away when it needs their room.
DIGEST is the SHA-256 or its beginning, as in: offshoot artifact list`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := n.WithdrawArtifact(ctx, args[0]); err != nil {
				return err
			}
			say("removed   " + args[0] + "; its bytes go when their room is needed")
			return nil
		}),
	}
}
