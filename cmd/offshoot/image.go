package main

import (
	"fmt"
	"os"
	"slices"

	"github.com/spf13/cobra"

	"offshoot/node"
)

func newImage() *cobra.Command {
	var o node.ImageOptions
	build := &cobra.Command{
		Use:   "build RELEASE",
		Short: "Build a bootable disk image on a Debian or Ubuntu host",
		Long: `build makes a disk image that boots by BIOS and by UEFI, grows to its disk on first boot, and lets
root log in over SSH with the keys that the installation leaves. Every package is verified with the
archive's keys. Any raw or qcow2 cloud image works with offshoot seed as well.

RELEASE is debian:13 or debian:12.`,
		Example: `  offshoot image build debian:13 -o debian13.raw.zst
  offshoot image build debian:13 -o lab.raw.zst --kernel linux-image-cloud-amd64 --packages curl,tcpdump`,
		Args:      exactly("RELEASE (for example debian:13)"),
		ValidArgs: []string{"debian:13", "debian:12", "debian:trixie", "debian:bookworm"},
		RunE: func(c *cobra.Command, args []string) error {
			if !slices.Contains(c.ValidArgs, args[0]) {
				return usage("%q is not a release that can be built: choose debian:13 or debian:12", args[0])
			}
			o.Release = args[0]
			if o.Output == "" {
				return usage("say where to: --output FILE.raw.zst")
			}
			o.Progress = func(step string) { say("building  " + step) }
			if err := node.BuildImage(c.Context(), o); err != nil {
				return err
			}
			info, err := os.Stat(o.Output)
			if err != nil {
				return err
			}
			_, err = fmt.Printf("%s %d MB\n", o.Output, info.Size()>>20)
			return err
		},
	}
	f := build.Flags()
	f.StringVarP(&o.Output, "output", "o", "", "file to write: .raw or .raw.zst")
	f.StringSliceVar(&o.Packages, "packages", nil, "further packages, separated by commas")
	f.StringVar(&o.Kernel, "kernel", "", "kernel package (default linux-image-amd64)")
	f.StringVar(&o.Mirror, "mirror", "", "Debian archive (default: the one in this host's apt sources)")
	f.StringVar(&o.Keyring, "keyring", "", "file with the archive's keys (default: this host's)")
	return group("image", "Disk images to install", build)
}
