package driver

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"offshoot/swarm"
)

// custom boots whatever an operator has: a kernel, an initrd, arguments, and files that these ask for.
type custom struct{}

var _ Driver = custom{}

// Cmdline is the template of driver custom whose words are the kernel's arguments.
const Cmdline = "cmdline"

// taken are names in a machine's corner that mean something already.
var taken = []string{"install", "event", "exchange", "boot.ipxe", Hooks}

// Params implements Driver: its templates see them all, and it is theirs to carry them out.
func (custom) Params() []string { return ParamNames() }

func (custom) Boots() []string { return []string{"kernel", "initrd"} }

func (custom) Check(p swarm.Profile, params Params) error {
	for _, name := range slices.Sorted(maps.Keys(p.Templates)) {
		if !isFile(name) || slices.Contains(taken, name) {
			return fmt.Errorf("templates: %q: want a plain name other than %s", clip(name), strings.Join(taken, ", "))
		}
	}
	if _, own := p.Templates[Cmdline]; own && len(params.InstallerArgs) > 0 {
		return fmt.Errorf("params: installer_args: the template %s says the arguments already", Cmdline)
	}
	return nil
}

// Args implements Driver. Without a template of them the arguments name the machine's corner, for scripts in the initrd.
func (custom) Args(d Data) []string {
	return append([]string{"offshoot.url=" + d.URL, "offshoot.mac=" + string(d.MAC)}, d.Params.InstallerArgs...)
}

func (custom) Files(p swarm.Profile) []string { return slices.Sorted(maps.Keys(p.Templates)) }

// Lint implements Driver: what these files mean, only their author knows. The arguments must fit into a boot script.
func (custom) Lint(file string, text []byte) error {
	if file != Cmdline {
		return nil
	}
	words := strings.Fields(string(text))
	if len(words) == 0 {
		return errors.New("no arguments in it")
	}
	for _, w := range words {
		if strings.ContainsFunc(w, func(r rune) bool { return r > unicode.MaxASCII || strings.ContainsRune("$\\\"'`{}|#", r) }) {
			return fmt.Errorf("%q cannot stand in a boot script", clip(w))
		}
	}
	return nil
}
