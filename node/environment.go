package node

import (
	"context"
	"path/filepath"

	"offshoot/node/internal/image"
	"offshoot/node/internal/live"
)

// EnvironmentParts are the files that an agent is built of.
type EnvironmentParts struct {
	Program         string // an offshoot that was built for the machines
	Kernel, Modules string // "": those inside Image
	Image           string
}

// Environment is an agent as machines boot it: files, and their architecture.
type Environment struct{ Kernel, Initrd, Arch string }

// BuildEnvironment makes an agent in dir, for machines of whatever architecture its parts are for.
func BuildEnvironment(ctx context.Context, dir string, parts EnvironmentParts) (Environment, error) {
	if parts.Kernel == "" {
		var err error
		if parts.Kernel, parts.Modules, err = image.ExtractKernel(ctx, parts.Image, filepath.Join(dir, "image")); err != nil {
			return Environment{}, err
		}
	}
	made, err := live.Build(ctx, live.Options{Kernel: parts.Kernel, ModulesDir: parts.Modules, Binary: parts.Program, Out: dir})
	return Environment{made.KernelPath, made.InitrdPath, made.Arch}, err
}
