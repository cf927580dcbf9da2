// Command offshoot is the whole product: seed, node, agent, and the operator's tools. This package holds flags,
// subcommands and every word on the terminal; what they do is package node's.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
)

// version is set by the Makefile.
var version = "unreleased"

// Exit codes; docs/operations.md lists them.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitRefused     = 3 // for safety: a foreign DHCP server, a network in use, the last voter
	exitUnreachable = 4 // no daemon answers
	exitNoQuorum    = 5
	exitInterrupted = 130
)

func main() {
	if os.Getpid() == 1 && len(os.Args) > 0 && os.Args[0] == "/init" {
		node.Agent(context.Background()) // the network-boot environment: never returns
		return
	}
	os.Exit(run(os.Args[1:]))
}

// run is main with an exit code: nothing else in this program exits.
func run(args []string) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := newRoot()
	root.SetArgs(args)
	understood := false
	root.PersistentPreRun = func(*cobra.Command, []string) { understood = true }
	err := root.ExecuteContext(ctx)
	if err == nil {
		return exitOK
	}
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		say("interrupted")
		return exitInterrupted
	}
	say("offshoot: " + err.Error())
	if !understood { // cobra's own commands have their own errors
		return exitUsage
	}
	return codeOf(err)
}

// codeOf sorts an error for programs that call us.
func codeOf(err error) int {
	var usage *usageError
	switch {
	case errors.As(err, &usage), errors.Is(err, node.ErrNoPort), errors.Is(err, node.ErrNoChoice), errors.Is(err, node.ErrNoLink), errors.Is(err, node.ErrUnfit),
		errors.Is(err, node.ErrNoImage), errors.Is(err, node.ErrImage), errors.Is(err, node.ErrTruncated), errors.Is(err, node.ErrNoSystem):
		return exitUsage
	case errors.Is(err, node.ErrForeignDHCP), errors.Is(err, node.ErrNetworkInUse), errors.Is(err, status.ErrUnsafe):
		return exitRefused
	case errors.Is(err, node.ErrUnreachable):
		return exitUnreachable
	case errors.Is(err, errNoQuorum):
		return exitNoQuorum
	}
	return exitFailure
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func usage(format string, args ...any) error { return &usageError{fmt.Errorf(format, args...)} }

// say speaks to people; results go to stdout.
func say(line string) { _, _ = fmt.Fprintln(os.Stderr, line) }
