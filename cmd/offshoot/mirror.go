package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/swarm"
)

func newMirror(s *settings) *cobra.Command {
	var o output
	look := &cobra.Command{
		Use: "status", Short: "Show what the node mirrors, from where its bytes came, and what is stale", Args: exactly(), Example: "  offshoot mirror status",
		Long: `status shows the mirror of the node that is asked, since it began: bytes that clients got from its disk, bytes that came from the mirrors
of other nodes, and bytes that crossed the uplink.`,
		RunE: s.asking(func(ctx context.Context, n *node.Client, _ []string) error {
			m, err := n.Mirror(ctx)
			if err != nil {
				return err
			}
			return o.print(m, func() error { return printMirror(os.Stdout, m) })
		}),
	}
	o.flag(look)
	remove := &cobra.Command{
		Use: "remove NAME", Short: "Mirror a repository no longer", Args: exactly("NAME"), Example: "  offshoot mirror remove debian",
		RunE: s.asking(func(ctx context.Context, n *node.Client, args []string) error {
			if err := n.DropRepo(ctx, args[0]); err != nil {
				return err
			}
			say("removed   " + args[0] + " is no longer mirrored")
			return nil
		}),
	}
	return group("mirror", "Package repositories that every node mirrors", newMirrorAdd(s), look, remove)
}

func newMirrorAdd(s *settings) *cobra.Command {
	var (
		keyring, proxy     string
		limit              string
		unsigned, unlisted bool
	)
	c := &cobra.Command{
		Use: "add NAME URL...", Short: "Mirror a repository on every node, or change how", Args: atLeast("NAME", "URL"),
		Long: `add makes every node serve a package repository to the machines around it, as a plain mirror:

  deb http://NODE:7480/repo/NAME SUITE main        apt, mmdebstrap, debian-installer
  baseurl=http://NODE:7480/repo/NAME/...           dnf

NODE is the node on duty on the segment: the router that machines get with their lease. What one of them asks for is fetched once: from the
node above, at the top from the first URL that answers. Nothing is passed on as whole that the repository's own signed
lists do not name, with this digest.

--keyring takes OpenPGP keys, armored or not. Without a signature, say --unsigned: then the repository is held to its own
sums only, and whoever can change it on its way can change it here.

--proxy names an HTTP proxy (http:// or https://, host and port) that leads to the URLs. Other nodes are asked without it. It
may have no password: every node could read it.

--limit bounds what a node takes from the URLs, all of them together, per second: 20MB/s, 500kB/s, 100Mbit/s. What is here already
is served as fast as ever.`,
		Example: "  offshoot mirror add debian http://deb.example.net/debian --keyring /usr/share/keyrings/debian-archive-keyring.gpg\n" +
			"  offshoot mirror add inhouse http://repo.example.net/deb --unsigned\n" +
			"  offshoot mirror add debian https://deb.example.net/debian --keyring keys.gpg --proxy http://proxy.example.net:3128",
		RunE: func(c *cobra.Command, args []string) error {
			r := node.RepoRequest{Upstreams: args[1:], Unlisted: unlisted, Proxy: proxy}
			switch {
			case keyring == "" && !unsigned:
				return usage("whose signature is to be believed? --keyring FILE; or --unsigned, if nobody signs it")
			case keyring != "" && unsigned:
				return usage("--keyring and --unsigned contradict each other")
			case keyring != "":
				var err error
				if r.Keyring, err = os.ReadFile(keyring); err != nil {
					return usage("--keyring: %w", err)
				}
				if len(r.Keyring) == 0 {
					return usage("--keyring %s: the file is empty", keyring)
				}
			}
			if limit != "" {
				rate, err := swarm.ParseRate(limit)
				if err != nil {
					return usage("--limit %w", err)
				}
				r.Limit = int64(rate)
			}
			if err := r.Repo(args[0]).Check(); err != nil { // before it leaves this terminal: perhaps a password is in it
				return usage("%w", err)
			}
			return s.asking(func(ctx context.Context, n *node.Client, args []string) error {
				if err := n.PutRepo(ctx, args[0], r); err != nil {
					return err
				}
				say("mirrored  " + args[0] + ", on every node at http://NODE:7480/repo/" + args[0] + "/; what it does: offshoot mirror status")
				return nil
			})(c, args)
		},
	}
	c.Flags().StringVar(&keyring, "keyring", "", "file with the OpenPGP keys that may sign it")
	c.Flags().StringVar(&proxy, "proxy", "", "URL of the HTTP proxy that leads to the upstreams")
	c.Flags().StringVar(&limit, "limit", "", "how much a node takes from the upstreams per second: 20MB/s, 100Mbit/s (none unless told)")
	c.Flags().BoolVar(&unsigned, "unsigned", false, "nobody signs it")
	c.Flags().BoolVar(&unlisted, "pass-unlisted", false, "also pass on files that no metadata names, unchecked and without keeping them")
	return c
}
