package main

import (
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// seedCommand is seed as it is after its command line was read.
func seedCommand(t *testing.T, args ...string) *cobra.Command {
	t.Helper()
	seed, _, err := newRoot().Find([]string{"seed"})
	if err == nil {
		err = seed.ParseFlags(args)
	}
	if err != nil {
		t.Fatal(err)
	}
	return seed
}

// TestEveryFlagOfSeedStandsInTheFile: or here, because it makes no sense there.
func TestEveryFlagOfSeedStandsInTheFile(t *testing.T) {
	no := []string{"config", "dry-run", "help", "operator", "endpoint"}
	known := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^ +(?:-\w, )?--([\w-]+)`).FindAllStringSubmatch(seedCommand(t).Flags().FlagUsages(), -1) {
		known[m[1]] = true
		if slices.Contains(configKeys, m[1]) == slices.Contains(no, m[1]) {
			t.Errorf("--%s must stand in configKeys, or in this test", m[1])
		}
	}
	for _, key := range configKeys {
		if !known[key] {
			t.Errorf("%s is no flag of seed", key)
		}
	}
}

func TestConfigIsReadStrictly(t *testing.T) {
	for _, c := range []struct{ name, text, want string }{
		{"a slip", "interface: eth1\nintreface: eth2\n", `x.yaml:2: "intreface" is no setting of seed; did you mean interface?`},
		{"another way to write it", "auto_approve: true\n", "did you mean auto-approve?"},
		{"a beginning", "\n\nauto: true\n", `x.yaml:3: "auto" is no setting of seed; did you mean auto-approve?`},
		{"another word", "frobnicate: 1\n", "there are: interface, network,"},
		{"not in a file", "dry-run: true\n", `"dry-run" is no setting of seed`},
		{"a password", "password: hunter2\n", "a password stands in no file; password-hash takes its crypt(5) hash"},
		{"twice", "name: a\nname: b\n", "x.yaml:2: name is set twice"},
		{"a list", "interface: [eth1, eth2]\n", "x.yaml:1: interface: want one value"},
		{"nothing", "interface:\n", "x.yaml:1: interface has no value: leave the line out"},
		{"an alias", "name: &a x\ninterface: *a\n", "x.yaml:2: interface: want one value"},
		{"no lines", "- eth1\n", `x.yaml:1: want lines such as "interface: eth1"`},
		{"two documents", "name: a\n---\nname: b\n", "more than one document"},
		{"no YAML", "name: \"a\n", "x.yaml"},
		{"no number", "voters: many\n", `x.yaml:1: voters: "many": want a number`},
		{"no time", "name: x\nprobe: 10\n", `x.yaml:2: probe: "10": want a time with its unit, such as 10s`},
		{"no truth", "auto-approve: maybe\n", "want true or false"},
	} {
		all, err := parseConfig("x.yaml", []byte(c.text))
		if err == nil {
			_, err = applyConfig(seedCommand(t), "x.yaml", all)
		}
		if err == nil || !strings.Contains(err.Error(), c.want) || codeOf(err) != exitUsage {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the password is printed: %v", c.name, err)
		}
	}
	for _, empty := range []string{"", "# nothing\n", "---\n"} {
		if all, err := parseConfig("x.yaml", []byte(empty)); err != nil || len(all) > 0 {
			t.Errorf("%q: %v, %v", empty, all, err)
		}
	}
}

// TestCommandLineWinsOverTheFile, and the file over defaults. Values are taken as they stand there: 007 is a name.
func TestCommandLineWinsOverTheFile(t *testing.T) {
	all, err := parseConfig("x.yaml", []byte("interface: eth1\nname: 007\nvoters: 3\nauto-approve: true\nprobe: 20s\n"))
	if err != nil {
		t.Fatal(err)
	}
	seed := seedCommand(t, "--interface", "eth2", "--probe=10s")
	from, err := applyConfig(seed, "x.yaml", all)
	if err != nil {
		t.Fatal(err)
	}
	got := map[string]string{}
	for _, key := range []string{"interface", "name", "voters", "auto-approve", "probe", "expand"} {
		got[key] = seed.Flags().Lookup(key).Value.String()
	}
	want := map[string]string{"interface": "[eth2]", "name": "007", "voters": "3", "auto-approve": "true", "probe": "10s", "expand": "auto"}
	if !maps.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if from["voters"] != "x.yaml:3: voters" || from["interface"] != "" {
		t.Errorf("set at %v", from)
	}
}

func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("interface: eth1\nvoters: 3\n"))
	f.Add([]byte("a: &a [*a]\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		all, err := parseConfig("x.yaml", data)
		for _, s := range all {
			if err != nil || !slices.Contains(configKeys, s.key) || s.line < 1 {
				t.Errorf("accepted %+v, %v", s, err)
			}
		}
	})
}
