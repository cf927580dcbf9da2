package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
	"offshoot/swarm"
)

func newSegment(s *settings) *cobra.Command {
	var o output
	list := &cobra.Command{
		Use: "list", Short: "List the segments: who serves them, who could, and where their leases come from", Args: exactly(), Example: "  offshoot segment list",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			st, err := n.Status(ctx)
			if err != nil {
				return err
			}
			return o.print(st.Segments, func() error { return printSegments(os.Stdout, st) })
		}),
	}
	o.flag(list)
	pools := &cobra.Command{
		Use: "pools SEGMENT RANGE...", Short: "Say which addresses of a segment are leased", Args: atLeast("SEGMENT", "RANGE (FIRST-LAST, or default)"),
		Example: "  offshoot segment pools s1 192.168.42.10-192.168.42.99 192.168.42.200-192.168.42.250\n  offshoot segment pools s1 default",
		Long: `pools replaces the ranges that leases of a segment are taken from. Addresses that are leased already stay so until they expire;
reservations may lie outside. default is .10 to .250 of a /24 again.`,
		RunE: func(c *cobra.Command, args []string) error {
			ranges, err := parseRanges(args[1:])
			if err != nil {
				return err
			}
			return s.asking(func(ctx context.Context, n *node.Client, args []string) error {
				if err := n.SetPools(ctx, args[0], ranges); err != nil {
					return err
				}
				say("pools     of " + args[0] + ": " + strings.Join(args[1:], ", "))
				return nil
			})(c, args)
		},
	}
	return group("segment", "Networks that the swarm serves", list, newMove(s), pools, newAddSegment(s), newRemoveSegment(s))
}

// parseRanges reads ranges FIRST-LAST, or the word default. What fits the segment is the swarm's to say.
func parseRanges(words []string) ([]node.Range, error) {
	if len(words) == 1 && words[0] == "default" {
		return nil, nil
	}
	var out []node.Range
	for _, word := range words {
		from, to, _ := strings.Cut(word, "-")
		first, err1 := netip.ParseAddr(from)
		last, err2 := netip.ParseAddr(to)
		if err1 != nil || err2 != nil || !first.Is4() || !last.Is4() || last.Less(first) {
			return nil, usage("%q is not a range of addresses: want FIRST-LAST as in 192.168.42.10-192.168.42.99, or default", word)
		}
		out = append(out, node.Range{First: first, Last: last})
	}
	return out, nil
}

// moveTime is how long an operator waits for a duty to pass; it takes two seconds if the holder answers.
const moveTime = 30 * time.Second

func newMove(s *settings) *cobra.Command {
	return &cobra.Command{
		Use: "move SEGMENT NODE", Short: "Hand the duty on a segment to another node, before maintenance of the one that has it", Args: exactly("SEGMENT", "NODE (name or id)"),
		Long: `move asks the holder to pass its duty on. Transfers that run are served to their end, and no client has to ask twice. NODE must be
alive and on the segment: offshoot segment list. The command returns when the duty has moved.`,
		Example: "  offshoot segment move s1 m2",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			st, err := n.Status(ctx)
			if err != nil {
				return err
			}
			plan, err := st.PlanMove(args[0], args[1])
			if err != nil {
				return err
			}
			if !plan.To.Warm {
				say("note      " + plan.To.Name + " has not fetched every artifact yet: installations are slower until it has")
			}
			if err := n.MoveDuty(ctx, plan.Segment.ID, plan.To.ID); err != nil {
				return err
			}
			ctx, cancel := context.WithTimeout(ctx, moveTime)
			defer cancel()
			if err := moved(ctx, n, plan); err != nil {
				return err
			}
			say("moved     " + plan.To.Name + " serves segment " + plan.Segment.ID)
			return nil
		}),
	}
}

// offerTime is how long the node that is asked may take to hear of an offer that the leader has written down.
const offerTime = 2 * time.Second

// moved waits until the duty is where it should be.
func moved(ctx context.Context, n *node.Client, plan status.Move) error {
	began, offered := time.Now(), false
	for {
		st, err := n.Status(ctx)
		if err != nil && ctx.Err() == nil {
			return fmt.Errorf("the duty was offered to %s, but what came of it is not known; see: offshoot segment list: %w", plan.To.Name, err)
		}
		for _, seg := range st.Segments {
			switch {
			case seg.ID != plan.Segment.ID:
			case seg.Holder == plan.To.Name:
				return nil
			case seg.Term != plan.Segment.Term:
				return fmt.Errorf("the duty went to %s instead; see: offshoot swarm status", seg.Holder)
			case seg.Next != "":
				offered = true
			case offered || time.Since(began) > offerTime:
				return fmt.Errorf("the offer was withdrawn: %s is gone or not fit; see: offshoot swarm status", plan.To.Name)
			}
		}
		select {
		case <-ctx.Done():
			if !errors.Is(ctx.Err(), context.DeadlineExceeded) {
				return ctx.Err()
			}
			return fmt.Errorf("after %v %s has not passed the duty on; it will if it can. See: offshoot swarm status", moveTime, plan.Segment.Holder)
		case <-time.After(300 * time.Millisecond):
		}
	}
}

func newLease(s *settings) *cobra.Command {
	var (
		o       output
		segment string
	)
	list := &cobra.Command{
		Use: "list", Short: "List the addresses that are spoken for: leased, reserved, quarantined", Args: exactly(),
		Example: "  offshoot lease list\n  offshoot lease list --segment s1 -o json",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			all, err := n.Leases(ctx, segment)
			if err != nil {
				return err
			}
			return o.print(all, func() error { return printLeases(os.Stdout, all, time.Now()) })
		}),
	}
	o.flag(list)
	list.Flags().StringVar(&segment, "segment", "", "only this one")
	reserve := s.onAddress("reserve", "Keep an address for one machine", `reserve gives an address to one machine whenever it asks, and to nobody else. The segment is the one that the address is in;
the address may lie outside of the pools. A machine that has another address now gets the reserved one when it next
asks; whoever has the address now keeps it until that lease ends. Each machine has one reservation on a segment; a
second one replaces it.`,
		func(ctx context.Context, n *node.Client, mac swarm.MAC, addr netip.Addr) error {
			if err := n.ReserveAddress(ctx, mac, addr); err != nil {
				return err
			}
			say(fmt.Sprintf("reserved  %s for %s, from its next request on", addr, mac))
			return nil
		})
	unreserve := s.onAddress("unreserve", "Give a reserved address back to everybody", "unreserve ends a reservation. A lease that the machine has stays until it expires.",
		func(ctx context.Context, n *node.Client, mac swarm.MAC, addr netip.Addr) error {
			if err := n.UnreserveAddress(ctx, mac, addr); err != nil {
				return err
			}
			say(fmt.Sprintf("free      %s is no longer reserved for %s", addr, mac))
			return nil
		})
	return group("lease", "Addresses: leased, reserved", list, reserve, unreserve)
}

// onAddress makes a command that takes a MAC and an address.
func (s *settings) onAddress(name, short, long string, do func(ctx context.Context, n *node.Client, mac swarm.MAC, addr netip.Addr) error) *cobra.Command {
	return &cobra.Command{
		Use: name + " MAC ADDRESS", Short: short, Long: long, Args: exactly("MAC", "ADDRESS"), Example: "  offshoot lease " + name + " 52:54:00:12:34:56 192.168.42.60",
		RunE: func(c *cobra.Command, args []string) error {
			mac, err := swarm.ParseMAC(args[0])
			if err != nil {
				return usage("%w", err)
			}
			addr, err := netip.ParseAddr(args[1])
			if err != nil || !addr.Is4() {
				return usage("%q is not an IPv4 address as in 192.168.42.60", args[1])
			}
			return s.asking(func(ctx context.Context, n *node.Client, _ []string) error { return do(ctx, n, mac, addr) })(c, args)
		},
	}
}
