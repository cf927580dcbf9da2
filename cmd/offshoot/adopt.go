package main

import (
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"offshoot/node"
)

func newAdopt(s *settings) *cobra.Command {
	var (
		a    node.Adoption
		root string
	)
	adoption := func(c *cobra.Command) (node.Adoption, error) {
		if a.URL == "" {
			return a, usage("%s: --url is missing; see: %s --help", c.CommandPath(), c.CommandPath())
		}
		log, err := s.logger()
		a.Logger, a.Console = log, os.Stderr
		return a, err
	}
	c := &cobra.Command{
		Use: "adopt", Short: "Make a node of a system that another installer has left (its hooks call this)", Args: exactly(),
		Long: `adopt is what the hooks of a distribution's installer call at its end, on the machine that is being installed. It asks the node
that serves the machine for its install config, and leaves in the system below --root what the agent leaves in an image: this
program, its unit, the host name, root's keys and password, and the ticket by which the system joins the swarm when it first
starts. Then it says that the machine is installed. A folder that holds no installed system is refused, and the machine is held.

You need this yourself only in a profile with hooks of your own (driver custom), or to see why one failed.`,
		Example: "  offshoot adopt --url http://192.168.42.1:7480/b/NONCE --root /target",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := adoption(c)
			if err != nil {
				return err
			}
			if root == "" {
				return usage("adopt: --root is missing: the folder where the installed system is mounted, such as /target")
			}
			return node.Adopt(c.Context(), a, root)
		},
	}
	disk := &cobra.Command{
		Use: "disk", Short: "Print the one disk that the installer may use, and make it this installation's own", Args: exactly(),
		Long: `disk applies the machine's disk selector as the agent does: without one, the only disk that is not removable. It never guesses; no
disk, several, or one with foreign data (without --wipe when the machine was armed) hold the machine, with the reason. The partition
table of the disk that it prints is gone.`,
		Example: "  offshoot adopt disk --url http://192.168.42.1:7480/b/NONCE",
		RunE: func(c *cobra.Command, _ []string) error {
			a, err := adoption(c)
			if err != nil {
				return err
			}
			path, err := node.ChooseDisk(c.Context(), a)
			if err == nil {
				_, err = fmt.Println(path)
			}
			return err
		},
	}
	c.PersistentFlags().StringVar(&a.URL, "url", "", "boot address of this machine, http://ADDRESS:7480/b/NONCE")
	c.Flags().StringVar(&root, "root", "", "where the installed system is mounted")
	c.AddCommand(disk)
	return c
}
