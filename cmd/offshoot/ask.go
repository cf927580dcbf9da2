package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"offshoot/node"
)

// client is the way to who is asked: the node on this machine, or with --operator the swarm over the network.
func (s *settings) client() (*node.Client, error) {
	if s.operator == "" {
		if s.endpoint != "" {
			return nil, usage("--endpoint %s: over the network you need an operator's file as well: --operator FILE", s.endpoint)
		}
		return node.NewClient(s.dataDir), nil
	}
	client, err := node.NewOperatorClient(s.operator, s.endpoint)
	if err != nil {
		return nil, usage("--operator: %w", err)
	}
	return client, nil
}

// asking is what a command does that asks a node.
func (s *settings) asking(do func(ctx context.Context, n *node.Client, args []string) error) func(*cobra.Command, []string) error {
	return func(c *cobra.Command, args []string) error {
		n, err := s.client()
		if err != nil {
			return err
		}
		defer n.Close()
		return do(c.Context(), n, args)
	}
}

// here refuses to ask over the network for what concerns one machine.
func (s *settings) here(what, instead string) error {
	if s.operator == "" {
		return nil
	}
	return usage("%s concerns the node on this machine, and --operator (or OFFSHOOT_OPERATOR) asks another one: run it there as root, without it%s", what, instead)
}

// errDeclined: the operator was asked, and did not say yes.
var errDeclined = errors.New("nothing was changed")

// confirm asks on the terminal to type a word before something dangerous is done. yes, from --yes, has said so already. Without
// a terminal nobody can be asked, so that nothing happens.
func confirm(ctx context.Context, word string, yes bool) error {
	if yes {
		return nil
	}
	if !term.IsTerminal(int(os.Stdin.Fd())) {
		return usage("nobody can be asked here: this is no terminal. Read the plan above, then say --yes")
	}
	_, _ = fmt.Fprintf(os.Stderr, "Type %q to go on: ", word)
	typed := make(chan string, 1)
	go func() {
		line, _ := bufio.NewReader(os.Stdin).ReadString('\n') // an end without a line is no yes
		typed <- strings.TrimSpace(line)
	}()
	select {
	case line := <-typed:
		if line == word {
			return nil
		}
		return fmt.Errorf("%w: you did not type %q", errDeclined, word)
	case <-ctx.Done(): // Ctrl-C is a signal, which ends no read
		say("")
		return ctx.Err()
	}
}

// plan shows what will happen, before it is asked for.
func plan(title string, steps, risks []string) {
	say(title)
	for _, step := range steps {
		say("  - " + plain(step))
	}
	for _, risk := range risks {
		say("  RISK: " + plain(risk))
	}
}
