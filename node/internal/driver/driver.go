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

// onISO is a driver whose installer can be booted straight out of an ISO image: a profile that names one need not name what is in it.
type onISO interface {
	// ISO says where in the image the files are that the installer boots, by their names in Boots.
	ISO() map[string]string
}

// reposOf is a driver whose installer is told of package repositories in a list, each with several places.
type reposOf interface{ Repos(d Data) []Repo }

// family is a driver that shares its templates with others.
type family interface {
	// Family is the name of their folder.
	Family() string
}

// drivers are all that there are.
var drivers = map[string]Driver{
	"image":         image{},
	"debian":        debian{},
	"fedora":        fedora,
	"centos-stream": centosStream,
	"almalinux":     almalinux,
	"rocky":         rocky,
	"ubuntu":        ubuntu{},
	"custom":        custom{},

	swarm.DriverDiskless: diskless{},
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
	_, ok := drivers[p.Driver].(image)
	return ok
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
	Driver    string
	Release   string
	Arch      string
	Binary    string            // SHA-256 of our program
	Installer map[string]string // SHA-256 by name
	Repos     []Repo            // that the installer takes packages from, for installers that are told so in a list
	iso       map[string]string // paths in the ISO image, by name
	port      uint16            // of HTTP
}

// Repo is a package repository.
type Repo struct {
	Name string
	URLs []string // of the same content, on each node
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
func (d Data) Artifact(name string) string { return d.artifact(d.Nodes[0], name) }

// artifact is the same on any node: a file of its own, or one in the ISO image.
func (d Data) artifact(n netip.Addr, name string) string {
	if digest, ok := d.Installer[name]; ok {
		return d.base(n) + "/artifact/" + digest + "/" + name
	}
	return d.base(n) + "/iso/" + d.Installer[isoImage] + "/" + d.iso[name]
}

// isoImage is the name of an ISO image among what an installer boots.
const isoImage = "iso"

// Corners are the machine's own corner, URL, on every node: where one is gone, the next has the same files.
func (d Data) Corners() (out []string) {
	for _, n := range d.Nodes {
		out = append(out, d.base(n)+strings.TrimPrefix(d.URL, d.Node()))
	}
	return out
}

// Hooks is a line of shell that makes the functions of templates/common known, from the first node that answers. An installer runs
// it at every step: the node that it began with may be gone by the next.
func (d Data) Hooks() string {
	var words []string
	for _, corner := range d.Corners() {
		words = append(words, quote(corner+"/"+Hooks))
	}
	return "mkdir -p /tmp/offshoot; for url in " + strings.Join(words, " ") + "; do " +
		"if command -v curl >/dev/null 2>&1; then curl -fsS --connect-timeout 5 -o /tmp/offshoot/new.sh \"$url\"; else wget -q -T 5 -O /tmp/offshoot/new.sh \"$url\"; fi && " +
		"mv /tmp/offshoot/new.sh /tmp/offshoot/hooks.sh && break; done; . /tmp/offshoot/hooks.sh"
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
	d := Data{Machine: m, Params: params, Driver: p.Driver, Release: p.Release, Arch: p.Arch, Binary: p.Binary, Installer: p.Installer, port: port}
	if d.Arch == "" {
		d.Arch = swarm.DefaultArch
	}
	if drv, ok := drivers[p.Driver].(onISO); ok {
		d.iso = drv.ISO()
	}
	if drv, ok := drivers[p.Driver].(reposOf); ok {
		d.Repos = drv.Repos(d)
	}
	return d, nil
}

// Boot is what an installer's machine starts.
type Boot struct {
	Kernel, Initrd string // URLs
	San            string // address of a disk on the network that is started instead
	Args           []string
}

// BootOf says what a machine boots to be installed by its profile's own installer.
func BootOf(p swarm.Profile, d Data) (Boot, error) {
	drv, err := Of(p.Driver)
	if err != nil {
		return Boot{}, err
	}
	if drv, ok := drv.(sanBooter); ok {
		if san := drv.San(d); san != "" {
			return Boot{San: san}, nil
		}
	}
	b := Boot{Kernel: d.Artifact("kernel"), Initrd: d.Artifact("initrd"), Args: drv.Args(d)}
	if _, own := drv.(custom); own && p.Templates[Cmdline] != "" {
		text, err := Render(p, d, Cmdline)
		if err != nil {
			return Boot{}, err
		}
		b.Args = strings.Fields(string(text))
	}
	return b, nil
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
	if err := checkInstaller(p, drv); err != nil {
		return err
	}
	for _, name := range params.Packages {
		if _, groups := drv.(kickstart); !groups && strings.HasPrefix(name, "@") {
			return fmt.Errorf("params: packages: %q is a group, which driver %s does not know", name, p.Driver)
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

// checkInstaller says what is missing of what the installer boots, and what it does not boot.
func checkInstaller(p swarm.Profile, drv Driver) error {
	if _, ok := drv.(sanBooter); ok && len(p.Installer) == 0 {
		return nil // its Check says whether that will do
	}
	boots, inISO := drv.Boots(), map[string]string{}
	if drv, ok := drv.(onISO); ok {
		if p.Installer[isoImage] != "" {
			inISO = drv.ISO()
		}
		if !slices.Contains(boots, isoImage) {
			boots = append(slices.Clone(boots), isoImage)
			inISO[isoImage] = "" // it may be there
		}
	}
	for _, name := range boots {
		if _, there := inISO[name]; !there && p.Installer[name] == "" {
			return fmt.Errorf("installer: %s is missing: driver %s boots %s", name, p.Driver, strings.Join(boots, ", "))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(p.Installer)) {
		if !slices.Contains(boots, name) {
			return fmt.Errorf("installer: driver %s boots no %q%s", p.Driver, clip(name), suggest(name, boots))
		}
	}
	return nil
}
