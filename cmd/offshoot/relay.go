package main

import (
	"context"
	"net/netip"

	"github.com/spf13/cobra"

	"offshoot/node"
)

func newAddSegment(s *settings) *cobra.Command {
	var relay, via string
	c := &cobra.Command{
		Use: "add NETWORK --relay ADDRESS --via ADDRESS", Short: "Serve a network on which no node has a port, through a DHCP relay", Args: exactly("NETWORK"),
		Example: "  offshoot segment add 10.9.0.0/24 --relay 10.9.0.1 --via 192.168.42.254",
		Long: `add makes a segment of a network behind a router that relays DHCP. --relay is the router's address on that network: machines there
get it as their router. --via is its address on a segment that nodes stand on: it tells the segment, and nodes reach the network
through it. The holder of that segment serves the new one.

Configure the router to pass DHCP on to the addresses of all nodes that stay on that segment (its DHCP helper or server addresses):
only the one with the duty answers. A machine that is installed there becomes a node and takes the duty over; then the relay may
go. Addresses that somebody uses without having asked are not found by probing through a relay.`,
		RunE: func(c *cobra.Command, args []string) error {
			network, err := netip.ParsePrefix(args[0])
			if err != nil || !network.Addr().Is4() || network != network.Masked() {
				return usage("%q is not a network as in 10.9.0.0/24", args[0])
			}
			there, err := parseAddress("relay", relay)
			if err != nil {
				return err
			}
			here, err := parseAddress("via", via)
			if err != nil {
				return err
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
				id, err := n.AddSegment(ctx, network, there, here)
				if err != nil {
					return err
				}
				say("segment   " + id + ": " + network.String() + " behind " + here.String() + "; let that relay DHCP to the nodes of its segment")
				return nil
			})(c, args)
		},
	}
	c.Flags().StringVar(&relay, "relay", "", "address of the relay on NETWORK, the router of the machines there")
	c.Flags().StringVar(&via, "via", "", "address of the relay on a segment that nodes stand on")
	return c
}

func newRemoveSegment(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "remove SEGMENT", Short: "Stop serving a network behind a relay, and forget its leases", Args: exactly("SEGMENT"), Example: "  offshoot segment remove s3",
		Long: `remove ends what offshoot segment add began. It is refused when a node has an address there, while a machine there is being
installed, and for segments that nodes opened themselves. Machines that use their leases still are not asked: add the same
network again only after they have expired.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := n.RemoveSegment(ctx, args[0]); err != nil {
				return err
			}
			say("removed   segment " + args[0])
			return nil
		}),
	}
}

func parseAddress(flag, text string) (netip.Addr, error) {
	a, err := netip.ParseAddr(text)
	if err != nil || !a.Is4() {
		return a, usage("--%s %q: want an IPv4 address as in 192.168.42.254", flag, text)
	}
	return a, nil
}
