// Package driver turns a profile into what one kind of installer boots and reads: kernel arguments, and files such as a preseed,
// made of Go templates that are embedded here and that a profile can override.
//
// A driver says which parameters it can carry out, what it boots, which files it reads, and what is wrong with such a file. All
// else is the same for every driver and stands here once: the parameters, the document that operators write, rendering, and the
// shell functions by which an installer reports and hands its system over (templates/common). To add a driver, implement
// Driver, put its templates into a folder of its name, and name it in drivers.
//
// It is pure: no I/O, no clock, no state. Secrets of the swarm never come here: no ticket can stand in a file that it renders.
// web, api's desk and the command line use it through node; it imports swarm and install.
package driver

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	"offshoot/swarm"
)

// Driver is one way to bring a system onto a machine. All its methods are pure; they are called from many goroutines.
type Driver interface {
	// Params are the parameters that the driver carries out, by their names in YAML. Others are refused.
	Params() []string
	// Boots names what the driver's installer boots: "kernel", "initrd", …. A profile must name a digest for each of them, and
	// none besides. A driver that boots our own agent has none.
	Boots() []string
	// Check says what is wrong with a profile, beyond what holds for all drivers: a release that it does not know, parameters
	// that contradict each other. The parameters are those of p.
	Check(p swarm.Profile, params Params) error
	// Args are the kernel arguments of the installer.
	Args(d Data) []string
	// Files are the names of the templates, which are the names under which the installer asks for them.
	Files(p swarm.Profile) []string
	// Lint says what the installer would choke on in a file that was rendered of one of its templates.
	Lint(file string, text []byte) error
}

// drivers are all that there are.
var drivers = map[string]Driver{
	"image":  image{},
	"debian": debian{},
}

// Names lists the drivers.
func Names() []string { return slices.Sorted(maps.Keys(drivers)) }

// Of finds a driver.
func Of(name string) (Driver, error) {
	d, ok := drivers[name]
	if !ok {
		return nil, fmt.Errorf("driver: there is none called %q%s", clip(name), suggest(name, Names()))
	}
	return d, nil
}

// Agent says whether machines with this profile boot the agent, which writes an image: they have no installer.
func Agent(p swarm.Profile) bool {
	d, ok := drivers[p.Driver]
	return ok && len(d.Boots()) == 0
}

// Machine is what is known of the machine that a file is rendered for.
type Machine struct {
	MAC      swarm.MAC
	Hostname string
	Address  netip.Prefix // with the length of its segment's network
	Install  string       // id of this arming
	Disk     string       // selector that the machine was armed with, "" for the profile's
	Wipe     bool         // foreign data on the disk may be destroyed
	URL      string       // http://NODE:7480/b/NONCE: its own corner of the node that serves it
	Nodes    []netip.Addr // that serve HTTP on its segment: the node that it asked, then others
}

// Data is what a template sees.
type Data struct {
	Machine
	Params    Params // complete: what they leave open is filled in from the profile
	Release   string
	Arch      string
	Binary    string            // SHA-256 of our program
	Installer map[string]string // SHA-256 by name
	port      uint16            // of HTTP
}

// Node is the base of URLs on the node that serves the machine.
func (d Data) Node() string { return d.base(d.Nodes[0]) }

// Others are those of further nodes, for installers that can take several.
func (d Data) Others() (out []string) {
	for _, n := range d.Nodes[1:] {
		out = append(out, d.base(n))
	}
	return out
}

func (d Data) base(n netip.Addr) string { return "http://" + netip.AddrPortFrom(n, d.port).String() }

// Artifact is the URL of one of the files that the installer boots.
func (d Data) Artifact(name string) string {
	return d.Node() + "/artifact/" + d.Installer[name] + "/" + name
}

// Host is the address of the node alone.
func (d Data) Host() string { return d.Nodes[0].String() }

// HostPort is the same with the port of HTTP.
func (d Data) HostPort() string { return netip.AddrPortFrom(d.Nodes[0], d.port).String() }

// OwnPort is the machine itself, as soon as it is a node: its address never changes, and it mirrors what its segment needs.
func (d Data) OwnPort() string { return netip.AddrPortFrom(d.Address.Addr(), d.port).String() }

// RootFS is the file system of the root, where a layout has but one.
func (d Data) RootFS() string {
	if d.Params.Partitioning == LayoutBtrfs {
		return "btrfs"
	}
	return "ext4"
}

// Software is what is installed beside the base system: what the profile names, and what its accounts and its layout take. The
// operator of a node wants to log in to it, as to one that came out of an image.
func (d Data) Software() []string {
	all := append([]string{"openssh-server"}, d.Params.Packages...)
	if slices.ContainsFunc(d.Params.Users, func(u User) bool { return u.Sudo }) {
		all = append(all, "sudo")
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// DefaultArch is the architecture of a profile that names none.
const DefaultArch = "amd64"

// See gathers what templates see of a profile and a machine.
func See(p swarm.Profile, m Machine, port uint16) (Data, error) {
	params, err := ParamsOf(p)
	if err != nil {
		return Data{}, err
	}
	if len(m.Nodes) == 0 {
		return Data{}, fmt.Errorf("no node serves machine %s", m.MAC)
	}
	if m.Disk != "" {
		params.Disk = m.Disk
	}
	d := Data{Machine: m, Params: params, Release: p.Release, Arch: p.Arch, Binary: p.Binary, Installer: p.Installer, port: port}
	if d.Arch == "" {
		d.Arch = DefaultArch
	}
	return d, nil
}

// Boot is what an installer's machine starts.
type Boot struct {
	Kernel, Initrd string // URLs
	Args           []string
}

// BootOf says what a machine boots to be installed by its profile's own installer.
func BootOf(p swarm.Profile, d Data) (Boot, error) {
	drv, err := Of(p.Driver)
	if err != nil {
		return Boot{}, err
	}
	return Boot{Kernel: d.Artifact("kernel"), Initrd: d.Artifact("initrd"), Args: drv.Args(d)}, nil
}

// Check says what is wrong with a profile: its driver, what that boots, its parameters. It renders nothing; Lint does.
func Check(p swarm.Profile) error {
	drv, err := Of(p.Driver)
	if err != nil {
		return err
	}
	params, err := ParamsOf(p)
	if err != nil {
		return err
	}
	if err := params.check(); err != nil {
		return err
	}
	own, err := stated(p)
	if err != nil {
		return err
	}
	if own.LUKS && !slices.Contains(drv.Params(), "luks") {
		return fmt.Errorf("params: luks: driver %s cannot encrypt a disk safely: its installer would have to be told the passphrase in clear over plain HTTP, and a key that lies beside the disk protects nothing", p.Driver)
	}
	for _, name := range own.set() {
		if !slices.Contains(drv.Params(), name) {
			return fmt.Errorf("params: %s: driver %s does not do that; it knows %s", name, p.Driver, strings.Join(drv.Params(), ", "))
		}
	}
	for _, name := range drv.Boots() {
		if p.Installer[name] == "" {
			return fmt.Errorf("installer: %s is missing: driver %s boots %s", name, p.Driver, strings.Join(drv.Boots(), ", "))
		}
	}
	for name := range p.Installer {
		if !slices.Contains(drv.Boots(), name) {
			return fmt.Errorf("installer: driver %s boots no %q%s", p.Driver, clip(name), suggest(name, drv.Boots()))
		}
	}
	for name := range p.Templates {
		if !isFile(name) {
			return fmt.Errorf("templates: %q cannot be the name of a file in a URL", clip(name))
		}
		if files := FilesOf(p); !slices.Contains(files, name) {
			return fmt.Errorf("templates: driver %s has no %q%s", p.Driver, clip(name), suggest(name, files))
		}
	}
	return drv.Check(p, params)
}
