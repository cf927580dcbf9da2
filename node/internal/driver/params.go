package driver

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"unicode"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

// Params say how a system is to be, in words that are the same for every driver. Zero values leave it to the driver.
type Params struct {
	Flavour       string   `yaml:"flavour,omitempty" json:"flavour,omitempty"`       // of the distribution, by the driver's words: server, minimal, …
	CloudInit     bool     `yaml:"cloud_init,omitempty" json:"cloud_init,omitempty"` // the image has it, and is told the rest by it
	Root          string   `yaml:"root,omitempty" json:"root,omitempty"`             // of a diskless machine
	Packages      []string `yaml:"packages,omitempty" json:"packages,omitempty"`
	Partitioning  string   `yaml:"partitioning,omitempty" json:"partitioning,omitempty"` // one of the Layout constants
	LUKS          bool     `yaml:"luks,omitempty" json:"luks,omitempty"`
	Disk          string   `yaml:"disk,omitempty" json:"disk,omitempty"`                     // see install.ParseSelector
	Users         []User   `yaml:"users,omitempty" json:"users,omitempty"`                   // beside root
	SSHKeys       []string `yaml:"ssh_keys,omitempty" json:"ssh_keys,omitempty"`             // of root, lines of authorized_keys
	PasswordHash  string   `yaml:"password_hash,omitempty" json:"password_hash,omitempty"`   // of root, crypt(5)
	Locale        string   `yaml:"locale,omitempty" json:"locale,omitempty"`                 // en_US.UTF-8
	Keyboard      string   `yaml:"keyboard,omitempty" json:"keyboard,omitempty"`             // us
	Timezone      string   `yaml:"timezone,omitempty" json:"timezone,omitempty"`             // Etc/UTC
	KernelArgs    []string `yaml:"kernel_args,omitempty" json:"kernel_args,omitempty"`       // of the installed system
	InstallerArgs []string `yaml:"installer_args,omitempty" json:"installer_args,omitempty"` // of the installer's kernel
	Mirror        string   `yaml:"mirror,omitempty" json:"mirror,omitempty"`                 // a repository that the swarm mirrors, by name
	Pre           string   `yaml:"pre,omitempty" json:"pre,omitempty"`                       // shell, in the installer before it touches a disk
	Post          string   `yaml:"post,omitempty" json:"post,omitempty"`                     // shell, in the installed system at the end
}

// User is an account beside root.
type User struct {
	Name         string   `yaml:"name" json:"name"`
	FullName     string   `yaml:"full_name,omitempty" json:"full_name,omitempty"`
	PasswordHash string   `yaml:"password_hash,omitempty" json:"password_hash,omitempty"`
	SSHKeys      []string `yaml:"ssh_keys,omitempty" json:"ssh_keys,omitempty"`
	Groups       []string `yaml:"groups,omitempty" json:"groups,omitempty"`
	Sudo         bool     `yaml:"sudo,omitempty" json:"sudo,omitempty"`
}

// AllGroups are those that the account is put into.
func (u User) AllGroups() []string {
	if u.Sudo && !slices.Contains(u.Groups, "sudo") {
		return append(slices.Clone(u.Groups), "sudo")
	}
	return u.Groups
}

// Layouts of a disk.
const (
	LayoutPlain = "plain" // one ext4 root
	LayoutBtrfs = "btrfs"
	LayoutLVM   = "lvm"
)

// ParamNames lists all parameters, as they are written in YAML.
func ParamNames() (out []string) { return fieldNames(reflect.TypeFor[Params]()) }

// ParamsOf are a profile's parameters, complete: what they do not say is what the seed was told.
func ParamsOf(p swarm.Profile) (Params, error) {
	out, err := stated(p)
	if err != nil {
		return out, err
	}
	if out.PasswordHash == "" {
		out.PasswordHash = p.RootHash
	}
	if out.SSHKeys == nil {
		out.SSHKeys = p.SSHKeys
	}
	if out.Disk == "" {
		out.Disk = p.Disk
	}
	return out, nil
}

// stated are the parameters that a profile states itself.
func stated(p swarm.Profile) (Params, error) {
	var out Params
	if len(p.Params) == 0 {
		return out, nil
	}
	dec := json.NewDecoder(bytes.NewReader(p.Params))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&out); err != nil {
		return out, fmt.Errorf("params: %w", err)
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return out, errors.New("params: data after the document")
	}
	return out, nil
}

// canonical is how parameters stand in the ledger; nil if nothing is set.
func (p Params) canonical() (json.RawMessage, error) {
	if len(p.set()) == 0 {
		return nil, nil
	}
	return json.Marshal(p)
}

// set names the parameters that have a value.
func (p Params) set() (out []string) {
	v := reflect.ValueOf(p)
	for i, name := range ParamNames() {
		if !v.Field(i).IsZero() {
			out = append(out, name)
		}
	}
	return out
}

// Bounds of lists and texts: a profile is no place for a system's content.
const (
	maxPackages = 500
	maxUsers    = 64
	maxKeys     = 64
	maxArgs     = 64
	maxSnippet  = 32 << 10 // bytes
)

var (
	packageName = regexp.MustCompile(`^(@\^?)?[a-zA-Z0-9][a-zA-Z0-9+._:@/-]{0,127}$`)
	userName    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	localeName  = regexp.MustCompile(`^[A-Za-z]{1,8}(_[A-Za-z]{2})?(\.[A-Za-z0-9-]{1,16})?(@[a-z]{1,16})?$`)
	keymapName  = regexp.MustCompile(`^[a-z0-9_-]{1,32}$`)
	zoneName    = regexp.MustCompile(`^[A-Za-z0-9_+-]{1,32}(/[A-Za-z0-9_+-]{1,32}){0,2}$`)
	repoName    = regexp.MustCompile(`^[a-z0-9][a-z0-9.-]{0,63}$`)
	kernelArg   = regexp.MustCompile(`^[a-zA-Z0-9_.~:/?=,@+%&!*()\[\];-]{1,256}$`)
	passwdHash  = regexp.MustCompile(`^(\*|!|\$[a-zA-Z0-9]{1,8}\$[a-zA-Z0-9./=,$+-]{8,512})$`) // no colon, no newline: a field of /etc/shadow
)

// check says what is wrong with a value, whatever the driver. Every value is held to what it can be: it ends up in files that
// an installer takes as commands.
func (p Params) check() error {
	switch {
	case p.Partitioning != "" && !slices.Contains([]string{LayoutPlain, LayoutBtrfs, LayoutLVM}, p.Partitioning):
		return fmt.Errorf("params: partitioning: %q, want plain, btrfs or lvm", clip(p.Partitioning))
	case len(p.Packages) > maxPackages || len(p.Users) > maxUsers || len(p.KernelArgs)+len(p.InstallerArgs) > maxArgs:
		return fmt.Errorf("params: at most %d packages, %d users and %d kernel arguments", maxPackages, maxUsers, maxArgs)
	case p.PasswordHash != "" && !passwdHash.MatchString(p.PasswordHash):
		return errors.New("params: password_hash: want a crypt(5) hash, made by: openssl passwd -6")
	}
	if _, err := install.ParseSelector(p.Disk); err != nil {
		return fmt.Errorf("params: disk: %w", err)
	}
	for _, w := range []struct {
		name, value, want string
		is                *regexp.Regexp
	}{
		{"flavour", p.Flavour, "server", keymapName}, {"locale", p.Locale, "en_US.UTF-8", localeName}, {"keyboard", p.Keyboard, "us", keymapName},
		{"timezone", p.Timezone, "Europe/Berlin", zoneName}, {"mirror", p.Mirror, "debian: a repository as in offshoot mirror status", repoName},
	} {
		if w.value != "" && !w.is.MatchString(w.value) {
			return fmt.Errorf("params: %s: %q, want something like %s", w.name, clip(w.value), w.want)
		}
	}
	for _, list := range []struct {
		name  string
		words []string
		is    *regexp.Regexp
	}{{"packages", p.Packages, packageName}, {"kernel_args", p.KernelArgs, kernelArg}, {"installer_args", p.InstallerArgs, kernelArg}} {
		for _, w := range list.words {
			if !list.is.MatchString(w) {
				return fmt.Errorf("params: %s: %q is not one word of the usual characters", list.name, clip(w))
			}
		}
	}
	if err := checkKeys("ssh_keys", p.SSHKeys); err != nil {
		return err
	}
	names := map[string]bool{"root": true}
	for i, u := range p.Users {
		if names[u.Name] {
			return fmt.Errorf("params: users[%d]: %q is there already", i, clip(u.Name))
		}
		names[u.Name] = true
		if err := u.check(); err != nil {
			return fmt.Errorf("params: users[%d]: %w", i, err)
		}
	}
	return errors.Join(checkSnippet("pre", p.Pre), checkSnippet("post", p.Post))
}

func (u User) check() error {
	switch {
	case !userName.MatchString(u.Name):
		return fmt.Errorf("name: %q is no user name", clip(u.Name))
	case u.PasswordHash != "" && !passwdHash.MatchString(u.PasswordHash):
		return errors.New("password_hash: want a crypt(5) hash, made by: openssl passwd -6")
	case len(u.FullName) > 128 || strings.ContainsFunc(u.FullName, func(r rune) bool { return unicode.IsControl(r) || strings.ContainsRune(`:,"\`, r) }):
		return fmt.Errorf("full_name: %q has a character that /etc/passwd cannot hold", clip(u.FullName))
	}
	for _, g := range u.Groups {
		if !userName.MatchString(g) {
			return fmt.Errorf("groups: %q is no group name", clip(g))
		}
	}
	return checkKeys("ssh_keys", u.SSHKeys)
}

func checkKeys(name string, keys []string) error {
	if len(keys) > maxKeys {
		return fmt.Errorf("params: %s: %d keys, at most %d", name, len(keys), maxKeys)
	}
	for i, k := range keys {
		if strings.TrimSpace(k) == "" || len(k) > 16<<10 || strings.ContainsFunc(k, unicode.IsControl) {
			return fmt.Errorf("params: %s[%d]: want one line of authorized_keys", name, i)
		}
	}
	return nil
}

func checkSnippet(name, text string) error {
	if len(text) > maxSnippet {
		return fmt.Errorf("params: %s: %d bytes, at most %d", name, len(text), maxSnippet)
	}
	if strings.ContainsFunc(text, func(r rune) bool {
		return r == 0 || r == unicode.ReplacementChar || unicode.IsControl(r) && r != '\n' && r != '\t'
	}) {
		return fmt.Errorf("params: %s: want text with newlines and tabs only", name)
	}
	return nil
}

// fieldNames are the names of a struct's fields in YAML.
func fieldNames(t reflect.Type) (out []string) {
	for i := range t.NumField() {
		out = append(out, yamlName(t.Field(i)))
	}
	return out
}

// isFile says whether a name can be the last element of a URL that we hand out.
func isFile(name string) bool {
	return name != "" && name == path.Base(name) && !strings.HasPrefix(name, ".") && !strings.ContainsAny(name, " /\\%?#")
}
