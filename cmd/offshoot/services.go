package main

import (
	"context"
	"net/netip"
	"strings"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
)

func newSetDomain(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "domain NAME|default", Short: "Change what the names of machines end in", Args: exactly("NAME"),
		Example: "  offshoot swarm set domain lab.example.com\n  offshoot swarm set domain default",
		Long: `Each node answers names on its segments: that of every node and machine, as offshoot machine list shows it, alone and with this
domain behind it, and back from address to name. Clients get the domain with their address, from their next request on. The
default is offshoot.internal. Names under the domain are answered by the swarm alone: take one that nobody else serves.`,
		RunE: func(c *cobra.Command, args []string) error {
			name := strings.ToLower(strings.TrimSuffix(args[0], "."))
			if name == "default" {
				name = ""
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
				if err := n.SetDomain(ctx, name); err != nil {
					return err
				}
				say("domain    of machines: " + args[0])
				return nil
			})(c, args)
		},
	}
}

func newSetDNS(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "dns ADDR[,ADDR...]|auto|off", Short: "Change whom nodes ask for names that are not the swarm's", Args: exactly("ADDR, auto or off"),
		Example: "  offshoot swarm set dns 192.0.2.53,198.51.100.53\n  offshoot swarm set dns auto\n  offshoot swarm set dns off",
		Long: `Each node answers the names of the swarm to clients on its segments, and to nobody else. Other names it passes on: to these servers,
one after the other, or with auto (the default) to those that stand in its own /etc/resolv.conf. Without any they are refused at
once. off answers no names, and clients are told of no name server.`,
		RunE: func(c *cobra.Command, args []string) error {
			var servers []netip.Addr
			off := args[0] == "off"
			if !off && args[0] != "auto" {
				var err error
				if servers, err = parseServers(args[0]); err != nil {
					return err
				}
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
				if err := n.SetDNS(ctx, servers, off); err != nil {
					return err
				}
				say("names     " + namesWords(servers, off))
				return nil
			})(c, args)
		},
	}
}

func newSetNTP(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "ntp ADDR[,ADDR...]|none", Short: "Change the time servers that machines are told of", Args: exactly("ADDR or none"),
		Example: "  offshoot swarm set ntp 192.0.2.123\n  offshoot swarm set ntp none",
		Long: `Machines that ask for time servers with their address get these, from their next request on. The default is none: the swarm runs no
time server of its own.`,
		RunE: func(c *cobra.Command, args []string) error {
			var servers []netip.Addr
			if args[0] != "none" {
				var err error
				if servers, err = parseServers(args[0]); err != nil {
					return err
				}
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
				if err := n.SetNTP(ctx, servers); err != nil {
					return err
				}
				say("time      servers that machines are told of: " + args[0])
				return nil
			})(c, args)
		},
	}
}

// parseServers reads IPv4 addresses with commas between them. Which of them can be servers is the swarm's to say.
func parseServers(text string) (all []netip.Addr, err error) {
	for word := range strings.SplitSeq(text, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(word))
		if err != nil || !a.Is4() {
			return nil, usage("%q: want IPv4 addresses with commas between them, as in 192.0.2.53,198.51.100.53", text)
		}
		all = append(all, a)
	}
	return all, nil
}

func namesWords(servers []netip.Addr, off bool) string {
	switch {
	case off:
		return "are not answered, and machines are told of no name server"
	case len(servers) == 0:
		return "that are not the swarm's are asked for where each node asks itself"
	}
	var words []string
	for _, a := range servers {
		words = append(words, a.String())
	}
	return "that are not the swarm's are asked for at " + strings.Join(words, ", ")
}

// servicesLine tells what an operator has set, "" if nothing.
func servicesLine(s status.Settings) string {
	var parts []string
	switch {
	case s.DNSOff:
		parts = append(parts, "names are not answered")
	case len(s.DNS) > 0:
		parts = append(parts, "names are asked for at "+strings.Join(s.DNS, ", "))
	}
	if len(s.NTP) > 0 {
		parts = append(parts, "time servers "+strings.Join(s.NTP, ", "))
	}
	return strings.Join(parts, "; ")
}
