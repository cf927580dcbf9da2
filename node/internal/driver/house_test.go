package driver_test

import (
	"encoding/json"
	"flag"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"offshoot/node/internal/driver"
	"offshoot/swarm"
)

// digest is the SHA-256 of something.
func digest(letter string) string { return strings.Repeat(letter, 64) }

// profile is one that a driver takes, with these parameters.
func profile(t *testing.T, name, release string, params driver.Params) swarm.Profile {
	t.Helper()
	p := swarm.Profile{
		Name: "test", Driver: name, Release: release, Kernel: digest("a"), Initrd: digest("b"), Binary: digest("c"),
		RootHash: "$6$salt$" + strings.Repeat("h", 20), SSHKeys: []string{"ssh-ed25519 AAAA operator's \"own\" key"},
	}
	d, err := driver.Of(name)
	if err != nil {
		t.Fatal(err)
	}
	for i, part := range d.Boots() {
		if p.Installer == nil {
			p.Installer = map[string]string{}
		}
		p.Installer[part] = digest(string("def"[i]))
	}
	if p.Params, err = json.Marshal(params); err != nil {
		t.Fatal(err)
	}
	return p
}

// machine is one whose segment has three nodes.
func machine() driver.Machine {
	m := driver.Example
	m.Nodes = append(m.Nodes[:1:1], netip.MustParseAddr("192.168.42.20"), netip.MustParseAddr("192.168.42.21"))
	return m
}

// rendered are all files of a profile, which must be good.
func rendered(t *testing.T, p swarm.Profile) map[string]string {
	t.Helper()
	if err := driver.Check(p); err != nil {
		t.Fatal(err)
	}
	if found := driver.Lint(p); len(found) > 0 {
		t.Errorf("the linter found: %v", found)
	}
	d, err := driver.See(p, machine(), 7480)
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, file := range driver.FilesOf(p) {
		text, err := driver.Render(p, d, file)
		if err != nil {
			t.Fatal(err)
		}
		out[file] = string(text)
	}
	return out
}

// golden compares a text with what was written down in testdata.
func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if flag.Lookup("update").Value.String() == "true" {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(want), got); diff != "" {
		t.Errorf("%s (go test ./node/internal/driver -update writes it anew):\n%s", path, diff)
	}
}

// full are parameters that say everything that a driver knows.
func full(extra func(*driver.Params)) driver.Params {
	p := driver.Params{
		Packages: []string{"vim", "tmux"}, Disk: "smallest", Locale: "de_DE.UTF-8", Keyboard: "de", Timezone: "Europe/Berlin",
		KernelArgs: []string{"console=ttyS0", "quiet"}, Post: "echo 'it is done' >/etc/motd", PasswordHash: "*",
		Users: []driver.User{
			{Name: "ann", FullName: "Ann O'Neill", PasswordHash: "$6$salt$" + strings.Repeat("x", 20), SSHKeys: []string{"ssh-ed25519 BBBB ann"}, Groups: []string{"video"}, Sudo: true},
			{Name: "bob"},
		},
	}
	if extra != nil {
		extra(&p)
	}
	return p
}
