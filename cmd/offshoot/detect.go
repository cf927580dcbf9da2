package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"github.com/spf13/cobra"

	"offshoot/node"
	"offshoot/node/status"
)

type detectFlags struct {
	interfaces      []string
	network, format string
	mode            string
	probe           time.Duration
}

func newDetect(s *settings) *cobra.Command {
	f := &detectFlags{}
	c := &cobra.Command{
		Use: "detect", Short: "Look at the ports as seed would, and say what seed would do there", Args: exactly(),
		Long: `detect answers "where would this serve, and will it break my network?" before anything is served. For each Ethernet port
it says link, addresses, default route, the DHCP servers of others that answer there with what they offer, and whether
seed serves there by itself, only when --interface names the port (asks), or not at all (refuses), in which mode, and why. Then comes the
configuration that seed would use; -o yaml prints that alone, as seed --config takes it.

Nothing is changed: a port that is down is brought up to be looked at, and put back. Sent is only what seed sends to find
DHCP servers: four DISCOVERs with a made-up address, on each port with link; on no other than those that --interface names,
if it is given. The exit code is 0 also where seed would refuse.`,
		Example: `  sudo offshoot detect
  sudo offshoot detect --interface eth1 -o yaml | sudo offshoot seed --config - --image debian13.raw.zst --ssh-key id.pub
  sudo offshoot detect -o json`,
		RunE: func(c *cobra.Command, _ []string) error { return f.run(c.Context(), s) },
	}
	fl := c.Flags()
	fl.StringSliceVarP(&f.interfaces, "interface", "i", nil, "look at this port only, as seed --interface would; may be repeated (default: every port)")
	fl.StringVar(&f.mode, "mode", node.ModeAuto, "for a seed with this --mode: auto, full or proxy")
	fl.StringVar(&f.network, "network", "", "our address on the segment, as for seed (default 192.168.42.1/24)")
	fl.DurationVar(&f.probe, "probe", 10*time.Second, "how long to listen for other DHCP servers; at least 1s")
	fl.StringVarP(&f.format, "output", "o", "table", "table for people, yaml for seed --config, json for programs")
	return c
}

func (f *detectFlags) run(ctx context.Context, s *settings) error {
	o := node.DetectOptions{DataDir: s.dataDir, Interfaces: f.interfaces, Mode: f.mode, Probe: node.ProbeFor(f.probe)}
	var err error
	if f.network != "" {
		if o.Network, err = node.ParseNetwork(f.network); err != nil {
			return usage("--network: %w", err)
		}
	}
	if err := node.CheckMode(f.mode); err != nil {
		return usage("--mode %w", err)
	}
	switch {
	case f.format != "table" && f.format != "yaml" && f.format != "json":
		return usage("-o %q: want table, yaml or json", f.format)
	case f.probe < time.Second:
		return usage("--probe %v: other DHCP servers need at least a second to answer", f.probe)
	}
	if o.Logger, err = s.logger(); err != nil {
		return err
	}
	say(fmt.Sprintf("probing   for DHCP servers, %v", f.probe))
	d, err := node.Detect(ctx, o)
	if err != nil {
		return err
	}
	seed, err := f.wouldBe(s, d)
	if err != nil {
		return err
	}
	d.Config = configValues(seed)
	switch f.format {
	case "json":
		e := json.NewEncoder(os.Stdout)
		e.SetIndent("", "  ")
		return e.Encode(d)
	case "yaml":
		return printConfig(os.Stdout, seed, d)
	}
	if err := printDetection(os.Stdout, d); err != nil {
		return err
	}
	if _, err := fmt.Fprintln(os.Stdout); err != nil {
		return err
	}
	return printConfig(os.Stdout, seed, d)
}

// wouldBe is the command seed with the flags that fit what was seen.
func (f *detectFlags) wouldBe(s *settings, d status.Detection) (*cobra.Command, error) {
	root := newRoot()
	seed, _, err := root.Find([]string{"seed"})
	if err != nil {
		return nil, err
	}
	if err := seed.ParseFlags(nil); err != nil { // adds the flags that every command has
		return nil, err
	}
	for _, set := range [][2]string{
		{"interface", d.Interface}, {"network", d.Network}, {"mode", d.Mode}, {"range", d.Range}, {"name", d.Name}, {"probe", f.probe.String()},
		{"data-dir", s.dataDir},
	} {
		if err := seed.Flags().Lookup(set[0]).Value.Set(set[1]); err != nil {
			return nil, fmt.Errorf("%s: %w", set[0], err)
		}
	}
	return seed, nil
}
