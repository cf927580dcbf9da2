package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"offshoot/node"
)

func newMetrics(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "metrics", Short: "Print the numbers of a node as Prometheus reads them", Args: exactly(),
		Long: `metrics prints what the node that is asked has moved since it began, and what an alarm would ask for, in the text format of
Prometheus. For a scraper there is also offshoot node --metrics HOST:PORT.`,
		Example: "  offshoot metrics",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			return n.Metrics(ctx, os.Stdout)
		}),
	}
}

func metricsFlag(c *cobra.Command, to *string) {
	c.Flags().StringVar(to, "metrics", "", "serve http://HOST:PORT/metrics for Prometheus, to whoever asks (default: nowhere)")
}
