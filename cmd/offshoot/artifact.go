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
need; HERE is about the node that is asked.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			all, err := n.Artifacts(ctx)
			if err != nil {
				return err
			}
			return o.print(all, func() error { return printArtifacts(os.Stdout, all) })
		}),
	}
	o.flag(list)
	return group("artifact", "Bytes that nodes share: images, kernels, this program", list, newPrefetch(s))
}
