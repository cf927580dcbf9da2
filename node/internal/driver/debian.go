package driver

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"offshoot/swarm"
)

// debian is Debian's own installer, told by a preseed.
type debian struct{}

var _ Driver = debian{}

// debianReleases are those whose installer the preseed was written for.
var debianReleases = []string{"bookworm", "trixie"}

// debianArchs are those that our agent and boot programs are built for.
var debianArchs = []string{"amd64"}

func (debian) Params() []string {
	return []string{
		"packages", "partitioning", "disk", "users", "ssh_keys", "password_hash", "locale", "keyboard", "timezone", "kernel_args",
		"installer_args", "mirror", "pre", "post",
	}
}

func (debian) Boots() []string { return []string{"kernel", "initrd"} }

// maxInit is how many words the kernel hands on to its first process; one more, and it panics (init/main.c).
const maxInit = 32

func (d debian) Check(p swarm.Profile, params Params) error {
	if !slices.Contains(debianReleases, p.Release) {
		return fmt.Errorf("release: %q%s", clip(p.Release), suggest(p.Release, debianReleases))
	}
	if p.Arch != "" && !slices.Contains(debianArchs, p.Arch) {
		return fmt.Errorf("arch: %q%s", clip(p.Arch), suggest(p.Arch, debianArchs))
	}
	data, err := See(p, Example, 7480)
	if err != nil {
		return err
	}
	if n := len(d.Args(data)); n > maxInit {
		return fmt.Errorf("params: installer_args: with them the installer's kernel gets %d arguments, and it takes %d", n, maxInit)
	}
	for _, name := range params.Packages {
		if strings.ContainsAny(name, "@") {
			return fmt.Errorf("params: packages: %q is no package of Debian", name)
		}
	}
	return nil
}

func (debian) Files(swarm.Profile) []string { return []string{"preseed.cfg", "hooks.sh"} }

// Args begin with what the installer must know before it has a network, and so cannot read in its preseed. There is no name
// server: it would stop to ask for one, so it is given an address at which nobody answers. Consoles of the installed system are
// those of the installer too.
func (debian) Args(d Data) []string {
	args := []string{
		"auto=true", "priority=critical", "url=" + d.URL + "/preseed.cfg", "interface=auto", "netcfg/dhcp_timeout=60", "netcfg/get_nameservers=" + d.Host(),
		"hostname=" + d.Hostname, "domain=", "log_host=" + d.Host(),
	}
	for _, a := range d.Params.KernelArgs {
		if strings.HasPrefix(a, "console=") {
			args = append(args, a)
		}
	}
	return append(append(args, d.Params.InstallerArgs...), "---") // what follows would be the installed system's
}

// preseedTypes are the types of questions that debconf knows (debconf-devel(7)).
var preseedTypes = []string{"string", "boolean", "select", "multiselect", "note", "text", "password", "error", "title"}

// preseedAnswers are those without which the installer stops, or does what nobody asked for.
var preseedAnswers = []string{"partman/early_command", "preseed/early_command", "preseed/late_command", "partman-auto/method", "partman/confirm", "mirror/http/hostname"}

// Lint reads a preseed as debconf-set-selections does: owner, question, type, value, one blank each.
func (debian) Lint(file string, text []byte) error {
	if file != "preseed.cfg" {
		return nil
	}
	seen := map[string]string{}
	for i, line := range strings.Split(strings.ReplaceAll(string(text), "\\\n", " "), "\n") {
		at := fmt.Sprintf("line %d", i+1)
		if strings.TrimSpace(line) == "" || strings.HasPrefix(line, "#") {
			continue
		}
		fields := strings.Fields(line)
		switch {
		case strings.HasSuffix(strings.TrimRight(line, " \t"), `\`):
			return fmt.Errorf("%s: ends with a backslash and blanks: it goes on nowhere", at)
		case len(fields) < 3:
			return fmt.Errorf("%s: want OWNER QUESTION TYPE VALUE", at)
		case !slices.Contains(preseedTypes, fields[2]):
			return fmt.Errorf("%s: %q is no type of debconf%s", at, clip(fields[2]), suggest(fields[2], preseedTypes))
		case fields[2] == "boolean" && (len(fields) != 4 || fields[3] != "true" && fields[3] != "false"):
			return fmt.Errorf("%s: %s: want true or false", at, fields[1])
		case seen[fields[1]] != "":
			return fmt.Errorf("%s: %s was answered on %s", at, fields[1], seen[fields[1]])
		case (strings.HasSuffix(fields[1], "-password") || strings.Contains(fields[1], "passphrase")) && len(fields) > 3:
			return fmt.Errorf("%s: %s: a password in clear, which everybody on the segment can read", at, fields[1])
		}
		seen[fields[1]] = at
	}
	for _, question := range preseedAnswers {
		if seen[question] == "" {
			return errors.New(question + " is not answered: keep it, or the installer stops or does not become a node")
		}
	}
	return nil
}
