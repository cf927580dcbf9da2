package main

import (
	"context"
	"os"

	"github.com/spf13/cobra"

	"offshoot/node"
)

// agentFlags are what the agent of a profile is built of, for machines that the swarm's own agent does not run on.
type agentFlags struct {
	program, kernel, modules, args string

	built map[string]string // digests by name, and the arguments
}

func (a *agentFlags) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&a.program, "program", "", "file with an offshoot that was built for the machines' architecture")
	f.StringVar(&a.kernel, "live-kernel", "", "with --program: the agent's kernel (default: the one inside the image)")
	f.StringVar(&a.modules, "live-modules", "", "its module tree …/lib/modules/VERSION")
	f.StringVar(&a.args, "live-args", "panic=30", "with --program: the agent's kernel arguments")
}

// build makes the agent in dir, and notes its files by their digests.
func (a *agentFlags) build(ctx context.Context, dir string, ch *changes, files map[string]string) error {
	switch {
	case a.program == "" && (a.kernel != "" || a.modules != ""):
		return usage("--live-kernel and --live-modules are for an agent of another architecture: --program is missing")
	case a.program == "":
		return nil
	case (a.kernel == "") != (a.modules == ""):
		return usage("--live-kernel and --live-modules belong together")
	}
	if a.kernel == "" {
		if _, err := os.Stat(ch.image); err != nil {
			return usage("--program: name the agent's kernel with --live-kernel and --live-modules, or an image that holds one: %w", err)
		}
	}
	say("building  the agent")
	env, err := node.BuildEnvironment(ctx, dir, node.EnvironmentParts{Program: a.program, Kernel: a.kernel, Modules: a.modules, Image: ch.image})
	if err != nil {
		return err
	}
	if ch.arch == "" {
		ch.arch = env.Arch
	}
	if ch.arch != env.Arch {
		return usage("--arch %s: the agent is for %s", ch.arch, env.Arch)
	}
	a.built = map[string]string{"args": a.args}
	for name, path := range map[string]string{"kernel": env.Kernel, "initrd": env.Initrd, "program": a.program} {
		digest, err := digestOf(path)
		if err != nil {
			return err
		}
		a.built[name], files[digest] = digest, path
	}
	return nil
}
