package main

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
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
	return group("artifact", "Bytes that nodes share: images, kernels, this program", list)
}

func printArtifacts(w io.Writer, all []status.Artifact) error {
	var rows [][]string
	for _, a := range all {
		here, travels := "no", "whole"
		if a.Here {
			here = "yes"
		}
		if a.InfoHash != "" {
			travels = "pieces"
		}
		var warm []string
		for _, segment := range slices.Sorted(maps.Keys(a.Warm)) {
			warm = append(warm, fmt.Sprintf("%s=%d", segment, a.Warm[segment]))
		}
		rows = append(rows, []string{a.Name, megabytes(a.Size), a.Digest[:min(len(a.Digest), 12)], travels, strings.Join(a.Profiles, ","), strings.Join(warm, ","), here, a.Verified})
	}
	return table(w, "ARTIFACT SIZE SHA-256 TRAVELS PROFILES WARM HERE VERIFIED", rows)
}
