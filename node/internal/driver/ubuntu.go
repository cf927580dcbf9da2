package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"offshoot/swarm"
)

// ubuntu is Subiquity, Ubuntu's installer for servers, told by autoinstall over cloud-init's NoCloud.
type ubuntu struct{}

var (
	_ Driver  = ubuntu{}
	_ onISO   = ubuntu{}
	_ reposOf = ubuntu{}
)

// ubuntuReleases are those whose Subiquity knows all that the template says.
var ubuntuReleases = []string{"22.04", "24.04", "26.04"}

// ubuntuFlavours are the ids of Subiquity's sources by what operators call them.
var ubuntuFlavours = map[string]string{"server": "ubuntu-server", "minimal": "ubuntu-server-minimal"}

func (ubuntu) Params() []string {
	return []string{
		"flavour", "packages", "partitioning", "disk", "users", "ssh_keys", "password_hash", "locale", "keyboard", "timezone", "kernel_args",
		"installer_args", "mirror", "pre", "post",
	}
}

// Boots implements Driver: the ISO image is Subiquity's system, which the machine takes into its memory as a whole.
func (ubuntu) Boots() []string { return []string{"kernel", "initrd", isoImage} }

// ISO implements onISO.
func (ubuntu) ISO() map[string]string {
	return map[string]string{"kernel": "casper/vmlinuz", "initrd": "casper/initrd"}
}

func (ubuntu) Check(p swarm.Profile, params Params) error {
	if !slices.Contains(ubuntuReleases, p.Release) {
		return fmt.Errorf("release: %q%s", clip(p.Release), suggest(p.Release, ubuntuReleases))
	}
	if _, ok := ubuntuFlavours[params.Flavour]; !ok && params.Flavour != "" {
		return fmt.Errorf("params: flavour: %q, want server or minimal", clip(params.Flavour))
	}
	if params.Partitioning == LayoutBtrfs {
		return errors.New("params: partitioning: Subiquity's layouts are plain and lvm")
	}
	return nil
}

func (ubuntu) Files(swarm.Profile) []string { return []string{"user-data", "meta-data", "vendor-data"} }

func (ubuntu) Args(d Data) []string {
	return append([]string{
		"ip=dhcp", "BOOTIF=01-" + strings.ReplaceAll(string(d.MAC), ":", "-"),
		"url=" + d.Artifact(isoImage) + ".iso", // casper loads it, and takes only what ends so for an image
		"cloud-config-url=/dev/null",           // cloud-init would take url= for its own, and load the image once more
		"autoinstall", "ds=nocloud-net;s=" + d.URL + "/",
	}, d.Params.InstallerArgs...)
}

// Repos implements reposOf: Subiquity tries one after the other.
func (ubuntu) Repos(d Data) []Repo {
	if d.Params.Mirror == "" {
		return nil
	}
	r := Repo{Name: "primary"}
	for _, n := range d.Nodes {
		r.URLs = append(r.URLs, d.base(n)+"/repo/"+d.Params.Mirror)
	}
	return []Repo{r}
}

// Source is the id of what Subiquity installs.
func (d Data) Source() string {
	if d.Params.Flavour == "" {
		return ubuntuFlavours["server"]
	}
	return ubuntuFlavours[d.Params.Flavour]
}

// Layout is Subiquity's word for how the disk is parted.
func (d Data) Layout() string {
	if d.Params.Partitioning == LayoutLVM {
		return "lvm"
	}
	return "direct"
}

// Lint implements Driver. What cloud-init itself would say comes from `cloud-init schema`, which the tests ask.
func (ubuntu) Lint(file string, text []byte) error {
	if file != "user-data" {
		return nil
	}
	top, err := lintCloudConfig(text)
	if err != nil {
		return err
	}
	auto, ok := top["autoinstall"].(map[string]any)
	if !ok || auto["version"] != 1 {
		return errors.New("autoinstall: with version: 1 is missing: Subiquity would stop and ask")
	}
	for name := range auto {
		if !slices.Contains(autoinstallKeys, name) {
			return fmt.Errorf("autoinstall: %q%s", clip(name), suggest(name, autoinstallKeys))
		}
	}
	_, identity := auto["identity"]
	if _, data := auto["user-data"]; !identity && !data {
		return errors.New("autoinstall: neither identity nor user-data: nobody could log in, and Subiquity refuses that")
	}
	return nil
}

// autoinstallKeys are those of Subiquity's reference, version 1.
var autoinstallKeys = []string{
	"version", "interactive-sections", "early-commands", "locale", "refresh-installer", "keyboard", "source", "network", "proxy", "apt", "storage",
	"identity", "active-directory", "ubuntu-pro", "ssh", "codecs", "drivers", "oem", "snaps", "debconf-selections", "packages", "kernel",
	"kernel-crash-dumps", "timezone", "updates", "shutdown", "late-commands", "error-commands", "reporting", "user-data", "zdevs",
}

// lintCloudConfig says what cloud-init would not read, or read otherwise than it looks.
func lintCloudConfig(text []byte) (map[string]any, error) {
	const head = "#cloud-config\n"
	if !bytes.HasPrefix(text, []byte(head)) {
		return nil, fmt.Errorf("the first line is not %q: cloud-init would take it for something else", strings.TrimSpace(head))
	}
	dec := yaml.NewDecoder(bytes.NewReader(text))
	top := map[string]any{}
	if err := dec.Decode(&top); err != nil { // keys that stand twice are an error, too
		return nil, err
	}
	if err := dec.Decode(new(yaml.Node)); !errors.Is(err, io.EOF) {
		return nil, errors.New("more than one document")
	}
	return top, nil
}

// quoteJSON makes one flow scalar or list of YAML of any text or list of texts.
func quoteJSON(v any) (string, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	err := e.Encode(v)
	return strings.TrimSpace(out.String()), err
}
