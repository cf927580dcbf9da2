package driver_test

import (
	"slices"
	"strings"
	"testing"

	"offshoot/node/internal/driver"
)

func TestAutoinstall(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		golden, release string
		params          driver.Params
	}{
		{"ubuntu-plain.yaml", "24.04", driver.Params{}},
		{"ubuntu-full.yaml", "22.04", full(func(p *driver.Params) {
			p.Mirror, p.Flavour, p.Partitioning, p.Pre = "ubuntu", "minimal", "lvm", "echo \"before\"\nexit 0\n"
		})},
		{"ubuntu-2604.yaml", "26.04", full(nil)},
	} {
		t.Run(c.golden, func(t *testing.T) {
			t.Parallel()
			golden(t, c.golden, rendered(t, profile(t, "ubuntu", c.release, c.params))["user-data"])
		})
	}
}

func TestSubiquityIsStartedFromItsImage(t *testing.T) {
	t.Parallel()
	p := profile(t, "ubuntu", "24.04", driver.Params{InstallerArgs: []string{"console=ttyS0"}})
	p.Installer = map[string]string{"iso": digest("9")}
	if err := driver.Check(p); err != nil {
		t.Fatal(err)
	}
	d, err := driver.See(p, machine(), 7480)
	if err != nil {
		t.Fatal(err)
	}
	b, err := driver.BootOf(p, d)
	if err != nil {
		t.Fatal(err)
	}
	if want := "http://192.168.42.1:7480/iso/" + digest("9") + "/casper/vmlinuz"; b.Kernel != want {
		t.Errorf("kernel %s, want %s", b.Kernel, want)
	}
	for _, want := range []string{
		"url=http://192.168.42.1:7480/artifact/" + digest("9") + "/iso.iso", "autoinstall", "console=ttyS0", "cloud-config-url=/dev/null",
		"ds=nocloud-net;s=http://192.168.42.1:7480/b/AAAAAAAAAAAAAAAAAAAAAA/",
	} {
		if !slices.Contains(b.Args, want) {
			t.Errorf("%s is not among %q", want, b.Args)
		}
	}
}

func TestAutoinstallLinter(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ text, want string }{
		{"#cloud-config\nautoinstall: {version: 1, identity: {}}\n", "want nothing"},
		{"autoinstall: {version: 1, identity: {}}\n", "first line"},
		{"#cloud-config\nautoinstall: {version: 2, identity: {}}\n", "with version: 1"},
		{"#cloud-config\nautoinstall: {version: 1}\n", "nobody could log in"},
		{"#cloud-config\nautoinstall: {version: 1, identity: {}, late-command: []}\n", "did you mean late-commands?"},
		{"#cloud-config\nautoinstall: {version: 1, identity: {}, ssh: {}, ssh: {}}\n", "already defined"},
		{"#cloud-config\nautoinstall: {version: 1\n", "yaml"},
		{"#cloud-config\nautoinstall: {version: 1, identity: {}}\n---\na: b\n", "more than one document"},
	} {
		p := profile(t, "ubuntu", "24.04", driver.Params{})
		p.Templates = map[string]string{"user-data": c.text}
		found := "want nothing"
		for _, f := range driver.Lint(p) {
			found = f.String()
		}
		if !strings.Contains(found, c.want) {
			t.Errorf("%q: %s, want %q", c.text, found, c.want)
		}
	}
}

func TestWhatSubiquityCannotDoIsRefused(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		release string
		params  driver.Params
		want    string
	}{
		{"24.05", driver.Params{}, "did you mean 24.04?"},
		{"24.04", driver.Params{Partitioning: "btrfs"}, "plain and lvm"},
		{"24.04", driver.Params{Flavour: "workstation"}, "server or minimal"},
	} {
		err := driver.Check(profile(t, "ubuntu", c.release, c.params))
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s %+v: %v, want %q", c.release, c.params, err, c.want)
		}
	}
}
