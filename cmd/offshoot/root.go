package main

import (
	"fmt"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"

	"github.com/spf13/cobra"
)

const defaultDataDir = "/var/lib/offshoot"

// settings are the flags that every command has.
type settings struct {
	dataDir   string
	operator  string // file of an operator; empty: ask the node on this machine
	endpoint  string
	verbose   bool
	logFormat string
}

// logger writes to stderr.
func (s *settings) logger() (*slog.Logger, error) { return s.loggerTo(os.Stderr) }

// loggerTo writes warnings, or with -v everything that the machine notes in its diary.
func (s *settings) loggerTo(out io.Writer) (*slog.Logger, error) {
	o := &slog.HandlerOptions{Level: slog.LevelWarn}
	if s.verbose {
		o.Level = slog.LevelDebug
	}
	switch s.logFormat {
	case "text":
		return slog.New(slog.NewTextHandler(out, o)), nil
	case "json":
		if !s.verbose {
			o.Level = slog.LevelInfo // who reads JSON wants the diary
		}
		return slog.New(slog.NewJSONHandler(out, o)), nil
	}
	return nil, usage("--log-format %q: want text or json", s.logFormat)
}

func newRoot() *cobra.Command {
	s := &settings{}
	root := &cobra.Command{
		Use:   "offshoot",
		Short: "Install machines over the network; the installed machines install the next ones",
		Long: `offshoot turns a spare Ethernet port into a place where bare machines install themselves.
Each installed machine runs this same program, joins the swarm, takes over the segment that it
was installed from, and opens new ones on its other ports. The first machine can then be unplugged.

  offshoot image build debian:13 -o debian13.raw.zst      make something to install
  sudo offshoot detect                                    see where seed would serve
  sudo offshoot seed --interface eth1 --image debian13.raw.zst
  offshoot swarm status                                   on any node: who is there, who does what, what is wrong

Commands that ask a node ask the one on this machine; with --operator FILE (offshoot operator add) they ask the swarm from
anywhere.

Nothing is written to a machine that was not armed, and no address is given on a network that
somebody else serves.`,
		SilenceUsage:  true,
		SilenceErrors: true,
		Args:          cobra.ArbitraryArgs, // or cobra answers an unknown command itself
		RunE:          noCommand,
	}
	dataDir := os.Getenv("OFFSHOOT_DATA_DIR")
	if dataDir == "" {
		dataDir = defaultDataDir
	}
	flags := root.PersistentFlags()
	flags.StringVar(&s.dataDir, "data-dir", dataDir, "where this node keeps its identity, ledger and artifacts (or OFFSHOOT_DATA_DIR)")
	flags.StringVar(&s.operator, "operator", os.Getenv("OFFSHOOT_OPERATOR"), "ask the swarm over the network as the operator of this file, instead of the node on this machine (or OFFSHOOT_OPERATOR)")
	flags.StringVar(&s.endpoint, "endpoint", "", "with --operator: ask this node, HOST:PORT, instead of the first one of the file that answers")
	flags.BoolVarP(&s.verbose, "verbose", "v", false, "log everything that happens to stderr")
	flags.StringVar(&s.logFormat, "log-format", "text", "how to log: text or json")
	root.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		return usage("%w; see: %s --help", err, c.CommandPath())
	})
	root.AddCommand(newSeed(s), newDetect(s), newNode(s), newImage(), newSwarm(s), newStatus(s), newMachine(s), newSegment(s), newLease(s), newMirror(s), newArtifact(s), newProfile(s), newMetrics(s), newTicket(s), newOperator(s), newAgent(s), newAdopt(s), newVersion())
	return root
}

// exactly holds a command to its arguments and says in words which are wanted.
func exactly(words ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		switch {
		case len(args) < len(words):
			return usage("%s: %s is missing; see: %s --help", c.CommandPath(), words[len(args)], c.CommandPath())
		case len(args) > len(words):
			return usage("%s: %q is one argument too many; see: %s --help", c.CommandPath(), args[len(words)], c.CommandPath())
		}
		return nil
	}
}

// atLeast is exactly, with any number of the last word.
func atLeast(words ...string) cobra.PositionalArgs {
	return func(c *cobra.Command, args []string) error {
		if len(args) < len(words) {
			return exactly(words...)(c, args)
		}
		return nil
	}
}

// group is a command that only holds others.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	g := &cobra.Command{
		Use: use, Short: short, RunE: noCommand,
	}
	g.AddCommand(children...)
	return g
}

// noCommand is what a command does that only holds others.
func noCommand(c *cobra.Command, args []string) error {
	if len(args) == 0 {
		return c.Help()
	}
	near := ""
	if c.SuggestionsMinimumDistance = 2; len(c.SuggestionsFor(args[0])) > 0 {
		near = ". Did you mean " + strings.Join(c.SuggestionsFor(args[0]), " or ") + "?"
	}
	return usage("%s has no command %q%s; see: %s --help", c.CommandPath(), args[0], near, c.CommandPath())
}

func newVersion() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version of this program", Args: exactly(),
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Printf("offshoot %s (%s, %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
