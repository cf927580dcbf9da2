package driver

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"offshoot/swarm"
)

// kickstart is Anaconda, the installer of Fedora and of the distributions around Red Hat's, told by a kickstart.
type kickstart struct {
	release *regexp.Regexp
	like    string // a release, for the words of a refusal
	tree    string // of a release below the root of a mirror; %s are release, repository if there are several, and architecture
	repos   []string
	btrfs   bool              // the kernel has it
	flavour map[string]string // environments by what operators call them
}

var (
	_ Driver  = kickstart{}
	_ onISO   = kickstart{}
	_ family  = kickstart{}
	_ reposOf = kickstart{}
)

var (
	fedora = kickstart{
		release: regexp.MustCompile(`^(3[89]|[4-9][0-9])$`), like: "43", tree: "releases/%s/Everything/%s/os/", repos: []string{"fedora"}, btrfs: true,
		flavour: map[string]string{"server": "@^server-product-environment", "workstation": "@^workstation-product-environment", "minimal": "@^custom-environment"},
	}
	centosStream = enterprise(`^(9|10)-stream$`, "10-stream")
	almalinux    = enterprise(`^(8|9|10)(\.[0-9]{1,2})?$`, "9.6")
	rocky        = enterprise(`^(8|9|10)(\.[0-9]{1,2})?$`, "9.6")
)

// enterprise is a distribution made of Red Hat's sources.
func enterprise(release, like string) kickstart {
	return kickstart{
		release: regexp.MustCompile(release), like: like, tree: "%s/%s/%s/os/", repos: []string{"BaseOS", "AppStream"},
		flavour: map[string]string{"server": "@^server-product-environment", "workstation": "@^workstation-product-environment", "minimal": "@^minimal-environment"},
	}
}

func (kickstart) Params() []string {
	return []string{
		"flavour", "packages", "partitioning", "disk", "users", "ssh_keys", "password_hash", "locale", "keyboard", "timezone", "kernel_args",
		"installer_args", "mirror", "pre", "post",
	}
}

// Boots implements Driver: stage2 is Anaconda itself, images/install.img of the distribution's tree.
func (kickstart) Boots() []string { return []string{"kernel", "initrd", "stage2"} }

// ISO implements onISO.
func (kickstart) ISO() map[string]string {
	return map[string]string{"kernel": "images/pxeboot/vmlinuz", "initrd": "images/pxeboot/initrd.img", "stage2": ""}
}

// Family implements family.
func (kickstart) Family() string { return "kickstart" }

func (k kickstart) Check(p swarm.Profile, params Params) error {
	if !k.release.MatchString(p.Release) {
		return fmt.Errorf("release: %q, want something like %s", clip(p.Release), k.like)
	}
	if _, ok := k.flavour[params.Flavour]; !ok && params.Flavour != "" {
		return fmt.Errorf("params: flavour: %q%s", clip(params.Flavour), suggest(params.Flavour, slices.Sorted(maps.Keys(k.flavour))))
	}
	if params.Partitioning == LayoutBtrfs && !k.btrfs {
		return fmt.Errorf("params: partitioning: the kernel of %s has no btrfs: want plain or lvm", p.Driver)
	}
	if params.Mirror == "" && p.Installer[isoImage] == "" {
		return errors.New("params: mirror: nothing to take packages from: name a repository of offshoot mirror status, or an ISO image that holds them")
	}
	for _, snippet := range []struct{ name, text string }{{"pre", params.Pre}, {"post", params.Post}} {
		for line := range strings.Lines(snippet.text) {
			if strings.HasPrefix(strings.TrimSpace(line), "%") { // %end would close the section, %ksappend reads a file
				return fmt.Errorf("params: %s: %q: Anaconda takes a line that begins with %% for its own", snippet.name, clip(strings.TrimSpace(line)))
			}
		}
	}
	return nil
}

// Files implements Driver: beside the kickstart a list of mirrors for each repository.
func (k kickstart) Files(swarm.Profile) []string {
	return []string{"ks.cfg", "mirrors-0", "mirrors-1"}[:1+len(k.repos)]
}

// maxNamed bounds the nodes that a command line names: of x86, a kernel takes 2048 bytes.
const maxNamed = 3

func (kickstart) Args(d Data) []string {
	args := []string{"ip=dhcp", "BOOTIF=01-" + strings.ReplaceAll(string(d.MAC), ":", "-")}
	corners := d.Corners()
	for i := range min(len(corners), maxNamed) {
		args = append(args, "inst.ks="+corners[i]+"/ks.cfg")
	}
	for i := range min(len(corners), maxNamed) {
		args = append(args, "inst.stage2="+d.stage2(d.Nodes[i]))
	}
	// Anaconda's runtime goes on booting as the firmware is set: it is us who says what the machine boots.
	args = append(args, "inst.ks.all", "inst.stage2.all", "inst.ks.sendmac", "inst.waitfornet=60", "inst.leavebootorder", "inst.text",
		"inst.syslog="+d.Host()+":514")
	return append(args, d.Params.InstallerArgs...)
}

// stage2 is a folder below which Anaconda finds images/install.img. It looks for .treeinfo there first, which an ISO image has.
func (d Data) stage2(n netip.Addr) string {
	if digest, ok := d.Installer["stage2"]; ok {
		return d.base(n) + "/artifact/" + digest + "/tree"
	}
	return d.base(n) + "/iso/" + d.Installer[isoImage]
}

// Environment is the group of packages that stands for the profile's flavour.
func (d Data) Environment() string {
	k, _ := drivers[d.Driver].(kickstart)
	if d.Params.Flavour == "" {
		return k.flavour["minimal"]
	}
	return k.flavour[d.Params.Flavour]
}

// Repos implements reposOf: below a mirror, or in the ISO image.
func (k kickstart) Repos(d Data) []Repo {
	arch := map[string]string{"amd64": "x86_64", "arm64": "aarch64"}[d.Arch]
	if arch == "" {
		arch = d.Arch
	}
	var out []Repo
	for _, name := range k.repos {
		r := Repo{Name: name}
		for _, n := range d.Nodes {
			tree := d.base(n) + "/repo/" + d.Params.Mirror + "/"
			switch {
			case d.Params.Mirror == "" && len(k.repos) == 1:
				tree = d.base(n) + "/iso/" + d.Installer[isoImage] + "/"
			case d.Params.Mirror == "":
				tree = d.base(n) + "/iso/" + d.Installer[isoImage] + "/" + name + "/"
			case len(k.repos) == 1:
				tree += fmt.Sprintf(k.tree, d.Release, arch)
			default:
				tree += fmt.Sprintf(k.tree, d.Release, name, arch)
			}
			r.URLs = append(r.URLs, tree)
		}
		out = append(out, r)
	}
	return out
}

// Lint implements Driver.
func (kickstart) Lint(file string, text []byte) error {
	if file != "ks.cfg" {
		return nil
	}
	return lintKickstart(string(text))
}
