package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestEveryCommandTeaches: --help is where an operator looks first, so it says what the command does, and shows it.
func TestEveryCommandTeaches(t *testing.T) {
	seen := 0
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			look(child)
		}
		if c.Hidden {
			return
		}
		seen++
		name := c.CommandPath()
		if c.Short == "" || strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: its line in the list of commands is %q: want one, without a full stop", name, c.Short)
		}
		if c.HasSubCommands() {
			return
		}
		if c.Long == "" && c.Example == "" && c.HasLocalFlags() {
			t.Errorf("%s: --help says no more than the list of commands", name)
		}
		if c.LocalNonPersistentFlags().HasFlags() && c.Example == "" || strings.Contains(c.Use, " ") && c.Example == "" {
			t.Errorf("%s takes flags or arguments, and --help shows no example", name)
		}
		for line := range strings.Lines(c.Example) {
			if !strings.Contains(line, name) && !strings.Contains(line, c.Root().Name()+" "+c.Name()) {
				t.Errorf("%s: the example %q shows another command", name, strings.TrimSpace(line))
			}
		}
	}
	look(newRoot())
	if seen < 40 {
		t.Errorf("only %d commands were looked at", seen)
	}
}

// TestExamplesAreAccepted: an example that the program itself refuses teaches the wrong thing.
func TestExamplesAreAccepted(t *testing.T) {
	var look func(c *cobra.Command)
	look = func(c *cobra.Command) {
		for _, child := range c.Commands() {
			look(child)
		}
		for line := range strings.Lines(c.Example) {
			words := strings.Fields(strings.TrimPrefix(strings.TrimSpace(line), "sudo "))
			for i, word := range words {
				if word == "|" {
					words = words[:i]
					break
				}
			}
			found, rest, err := newRoot().Find(words[1:])
			if err == nil {
				err = found.ParseFlags(rest)
			}
			if err == nil && found.Args != nil {
				err = found.Args(found, found.Flags().Args())
			}
			if err != nil {
				t.Errorf("%s: example %q: %v", c.CommandPath(), strings.TrimSpace(line), err)
			}
		}
	}
	look(newRoot())
}
