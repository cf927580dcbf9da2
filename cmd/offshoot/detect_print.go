package main

import (
	"cmp"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"offshoot/node/status"
)

// printConfig prints what seed --config takes. What was seen stands above as comments: the file may lie around for long.
func printConfig(w io.Writer, seed *cobra.Command, d status.Detection) error {
	if _, err := fmt.Fprintln(w, "# What offshoot seed would use: sudo offshoot seed --config FILE. Flags on the command line win."); err != nil {
		return err
	}
	for _, p := range d.Ports {
		if _, err := fmt.Fprintf(w, "# %s %s: %s\n", p.Name, p.Verdict, plain(p.Why)); err != nil {
			return err
		}
	}
	return writeConfig(w, seed, d.Config)
}

func printDetection(w io.Writer, d status.Detection) error {
	var rows [][]string
	for _, p := range d.Ports {
		link := "yes"
		if !p.Link {
			link = "no"
		}
		if !p.Up {
			link += ", was down"
		}
		route := ""
		if p.DefaultRoute {
			route = "yes"
		}
		rows = append(rows, []string{p.Name, p.MAC, link, strings.Join(p.Addresses, ","), route, string(p.Verdict), p.Mode, p.Why})
	}
	if err := table(w, "PORT MAC LINK ADDRESSES DEFAULT-ROUTE SEED MODE WHY", rows); err != nil {
		return err
	}
	rows = nil
	for _, p := range d.Ports {
		for _, s := range p.Servers {
			gives := "boot programs only"
			if !s.BootOnly {
				gives = cmp.Or(s.Offered, "addresses")
			}
			lease := ""
			if s.Lease > 0 {
				lease = (time.Duration(s.Lease) * time.Second).String()
			}
			rows = append(rows, []string{p.Name, s.Address, s.MAC, gives, s.Network, s.Router, strings.Join(s.DNS, ","), lease, bootsOf(s)})
		}
	}
	if len(rows) == 0 {
		_, err := fmt.Fprintln(w, "\nNo DHCP server of others answered.")
		return err
	}
	if _, err := fmt.Fprintln(w); err != nil {
		return err
	}
	return table(w, "PORT DHCP-SERVER MAC OFFERS NETWORK ROUTER DNS LEASE BOOTS", rows)
}

// bootsOf says where a server sends machines that boot, in one cell.
func bootsOf(s status.DetectedServer) string {
	switch {
	case s.BootFile != "" && s.BootServer != "":
		return s.BootFile + " from " + s.BootServer
	case s.Boots:
		return cmp.Or(s.BootFile, s.BootServer, "asked on port 4011")
	}
	return ""
}

// writeConfig prints flags as applyConfig takes them, each with what it means. A flag that has no value stands as a comment.
func writeConfig(w io.Writer, c *cobra.Command, values map[string]any) error {
	for _, key := range configKeys {
		flag := c.Flags().Lookup(key)
		if flag == nil {
			continue
		}
		value, set := values[key]
		if !set {
			if c.LocalNonPersistentFlags().Lookup(key) == nil {
				continue // what every command has
			}
			if _, err := fmt.Fprintf(w, "# %s: %s\n", key, flag.Usage); err != nil {
				return err
			}
			continue
		}
		line, err := yaml.Marshal(map[string]any{key: value})
		if err != nil {
			return fmt.Errorf("write %s: %w", key, err)
		}
		if _, err := w.Write(line); err != nil {
			return err
		}
	}
	return nil
}

// configValues are the values of a command's flags that a file would have to repeat.
func configValues(c *cobra.Command) map[string]any {
	values := map[string]any{}
	for _, key := range configKeys {
		flag := c.Flags().Lookup(key)
		if flag == nil {
			continue
		}
		text := flag.Value.String()
		if several, err := c.Flags().GetStringSlice(key); err == nil {
			text = strings.Join(several, ",") // as it is given
		}
		if text == "" || c.LocalNonPersistentFlags().Lookup(key) == nil && text == flag.DefValue {
			continue
		}
		values[key] = text
		switch flag.Value.Type() {
		case "bool":
			values[key] = text == "true"
		case "int":
			if n, err := strconv.Atoi(text); err == nil {
				values[key] = n
			}
		}
	}
	return values
}
