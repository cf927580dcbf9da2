package main

import (
	"context"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/swarm"
)

func newProfile(s *settings) *cobra.Command {
	var list, show output
	ls := &cobra.Command{
		Use: "list", Short: "List what machines can be installed with", Args: exactly(), Example: "  offshoot profile list",
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			all, err := n.Profiles(ctx)
			if err != nil {
				return err
			}
			return list.print(all, func() error { return printProfiles(os.Stdout, all) })
		}),
	}
	list.flag(ls)
	one := &cobra.Command{
		Use: "show NAME", Short: "Show a profile as its YAML", Args: exactly("NAME"), Example: "  offshoot profile show web",
		Long: `show prints the profile as YAML, which "offshoot profile edit NAME -f FILE" takes. Password hashes stand in it.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			p, err := n.Profile(ctx, args[0])
			if err != nil {
				return err
			}
			return show.print(p, func() error { _, err := fmt.Print(p.Document); return err })
		}),
	}
	show.flag(one)
	lint := &cobra.Command{
		Use: "lint NAME", Short: "Say what an installer would choke on", Args: exactly("NAME"), Example: "  offshoot profile lint web",
		Long: `lint renders every file of the profile for a machine as there could be one, and looks at each as its installer would: unknown questions,
values that need quoting, templates that cannot be rendered. The same is done before a profile is added or changed; lint finds
what has become wrong since, such as an artifact that was withdrawn. The exit code is 1 if there is anything.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			findings, err := n.LintProfile(ctx, args[0])
			if err != nil {
				return err
			}
			for _, f := range findings {
				_, _ = fmt.Println(plain(f))
			}
			if len(findings) > 0 {
				return fmt.Errorf("profile %s: %d findings", args[0], len(findings))
			}
			say("clean     " + args[0])
			return nil
		}),
	}
	remove := &cobra.Command{
		Use: "remove NAME", Short: "Remove a profile that no machine is to get any more", Args: exactly("NAME"), Example: "  offshoot profile remove web",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := n.DropProfile(ctx, args[0]); err != nil {
				return err
			}
			say("removed   " + args[0])
			return nil
		}),
	}
	return group("profile", "What machines are installed with: driver, release, parameters", ls, one, newProfileAdd(s), newProfileEdit(s), newRender(s), lint, remove)
}

func newRender(s *settings) *cobra.Command {
	var (
		o       output
		profile string
	)
	c := &cobra.Command{
		Use: "render MAC [FILE]", Short: "Print exactly what a machine gets at its next network boot", Args: cobra.RangeArgs(1, 2),
		Example: "  offshoot profile render 52:54:00:12:34:56\n  offshoot profile render 52:54:00:12:34:56 preseed.cfg --profile web",
		Long: `render prints the boot script and every file that the installer asks for, or FILE alone; as if the machine were armed. The ticket of
the swarm is not among them: it is made when the machine asks for it. Without --profile it is the machine's own, else the swarm's.`,
		RunE: func(c *cobra.Command, args []string) error {
			mac, err := swarm.ParseMAC(args[0])
			if err != nil {
				return usage("%w", err)
			}
			return s.asking(func(ctx context.Context, n *node.Client, args []string) error {
				r, err := n.Render(ctx, mac, profile)
				if err != nil {
					return err
				}
				if r.MadeUp != "" {
					say("note      the machine has no lease now: made up here are " + r.MadeUp)
				}
				if len(args) == 1 {
					return o.print(r, func() error { return printRendered(os.Stdout, r) })
				}
				var names []string
				for _, f := range r.Files {
					if f.Name == args[1] {
						_, err := fmt.Print(f.Text)
						return err
					}
					names = append(names, f.Name)
				}
				return usage("profile %s renders no %q; it renders %s", r.Profile, args[1], strings.Join(names, ", "))
			})(c, args)
		},
	}
	o.flag(c)
	c.Flags().StringVar(&profile, "profile", "", "render this profile instead of the machine's")
	return c
}
