package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"

	"offshoot/node"
)

// configKeys are the flags of seed that may stand in a file, in the order in which they are printed. What is missing here is
// missing for a reason: config and dry-run are said to one run, and whom to ask (operator, endpoint) is no business of a seed.
var configKeys = []string{
	"interface", "network", "vlan", "mode", "range", "name", "image", "live-kernel", "live-modules", "live-args", "disk", "leave-boot-order", "password-hash", "ssh-key",
	"auto-approve", "expand", "voters", "probe", "metrics", "data-dir", "verbose", "log-format",
}

// maxConfig bounds a configuration file: some twenty lines, of which one may be a long list of kernel arguments.
const maxConfig = 64 << 10

// setting is one line of a configuration file.
type setting struct {
	key, value string
	line       int
}

// readConfig reads a file, or stdin for "-".
func readConfig(path string, stdin io.Reader) ([]setting, error) {
	if path != "-" {
		f, err := os.Open(path)
		if err != nil {
			return nil, usage("--config: %w", err)
		}
		defer f.Close()
		stdin = f
	}
	data, err := io.ReadAll(io.LimitReader(stdin, maxConfig+1))
	if err != nil {
		return nil, usage("--config %s: %w", path, err)
	}
	if len(data) > maxConfig {
		return nil, usage("--config %s: larger than %d bytes: this is no configuration of a seed", path, maxConfig)
	}
	return parseConfig(path, data)
}

// parseConfig understands "flag: value" in YAML, and refuses everything that it does not know: a setting that is silently
// ignored is a machine that is installed wrongly.
func parseConfig(path string, data []byte) ([]setting, error) {
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var doc yaml.Node
	if err := decoder.Decode(&doc); errors.Is(err, io.EOF) {
		return nil, nil // nothing but comments
	} else if err != nil {
		return nil, usage("--config %s: %w", path, err)
	}
	switch err := decoder.Decode(new(yaml.Node)); {
	case err == nil:
		return nil, usage("--config %s: more than one document: a seed has one configuration", path)
	case !errors.Is(err, io.EOF):
		return nil, usage("--config %s: %w", path, err)
	}
	root := doc.Content[0]
	if root.Kind == yaml.ScalarNode && root.Tag == "!!null" {
		return nil, nil
	}
	if root.Kind != yaml.MappingNode {
		return nil, usage("%s:%d: want lines such as \"interface: eth1\"", path, root.Line)
	}
	var all []setting
	for i := 0; i+1 < len(root.Content); i += 2 {
		key, value := root.Content[i], root.Content[i+1]
		at := fmt.Sprintf("%s:%d", path, key.Line)
		switch {
		case !slices.Contains(configKeys, key.Value):
			return nil, usage("%s: %s", at, unknownKey(key.Value))
		case slices.ContainsFunc(all, func(s setting) bool { return s.key == key.Value }):
			return nil, usage("%s: %s is set twice", at, key.Value)
		case value.Kind != yaml.ScalarNode:
			return nil, usage("%s: %s: want one value, not a list or a group", at, key.Value)
		case value.Tag == "!!null":
			return nil, usage("%s: %s has no value: leave the line out to have the default", at, key.Value)
		}
		all = append(all, setting{key.Value, value.Value, key.Line})
	}
	return all, nil
}

// unknownKey says what is wrong with a key, and what may have been meant.
func unknownKey(key string) string {
	if word := strings.ToLower(key); strings.HasPrefix(word, "password") || strings.HasSuffix(word, "password") {
		return fmt.Sprintf("%q: a password stands in no file; password-hash takes its crypt(5) hash, made by: openssl passwd -6", key)
	}
	nearest := node.Nearest(key, configKeys)
	if nearest != "" {
		return fmt.Sprintf("%q is no setting of seed; did you mean %s?", key, nearest)
	}
	return fmt.Sprintf("%q is no setting of seed; there are: %s", key, strings.Join(configKeys, ", "))
}

// applyConfig sets the flags that the command line did not, and returns where each was set.
func applyConfig(c *cobra.Command, path string, all []setting) (map[string]string, error) {
	from := map[string]string{}
	for _, s := range all {
		flag := c.Flags().Lookup(s.key)
		if flag == nil || flag.Changed {
			continue
		}
		at := fmt.Sprintf("%s:%d: %s", path, s.line, s.key)
		if err := flag.Value.Set(s.value); err != nil {
			return nil, usage("%s: %q: want %s", at, s.value, kindWords(flag.Value.Type()))
		}
		from[s.key] = at
	}
	return from, nil
}

// kindWords are for a value that is not of its flag's type; texts can be anything.
func kindWords(kind string) string {
	switch kind {
	case "bool":
		return "true or false"
	case "int":
		return "a number"
	case "duration":
		return "a time with its unit, such as 10s"
	}
	return "another value"
}
