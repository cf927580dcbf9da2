package driver

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"

	"offshoot/swarm"
)

// Document is a profile as an operator writes it.
type Document struct {
	Driver    string            `yaml:"driver"`
	Release   string            `yaml:"release,omitempty"`
	Arch      string            `yaml:"arch,omitempty"`
	Agent     Environment       `yaml:"agent,omitempty"`
	Image     string            `yaml:"image,omitempty"`     // SHA-256 of an artifact
	Installer map[string]string `yaml:"installer,omitempty"` // SHA-256 of artifacts, by name
	Params    Params            `yaml:"params,omitempty"`
	Templates map[string]string `yaml:"templates,omitempty"`
}

// Environment is the agent that machines boot which are not like those of the swarm's default profile, and the program that becomes
// the node: SHA-256 of artifacts.
type Environment struct {
	Kernel  string `yaml:"kernel"`
	Initrd  string `yaml:"initrd"`
	Program string `yaml:"program"`
	Args    string `yaml:"args,omitempty"` // of the kernel
}

// MaxDocument bounds a document, bytes.
const MaxDocument = 256 << 10

// ParseDocument reads YAML. What it does not know is refused, with the line, and with what may have been meant.
func ParseDocument(data []byte) (Document, error) {
	var doc Document
	err := parseYAML(data, &doc)
	return doc, err
}

// CheckParams says what is wrong with a file that holds parameters only.
func CheckParams(data []byte) error {
	var params Params
	if err := parseYAML(data, &params); err != nil {
		return err
	}
	return params.check()
}

// parseYAML reads one document into a struct.
func parseYAML(data []byte, into any) error {
	if len(data) > MaxDocument {
		return fmt.Errorf("larger than %d bytes: this is no profile", MaxDocument)
	}
	decoder := yaml.NewDecoder(bytes.NewReader(data))
	var root yaml.Node
	if err := decoder.Decode(&root); errors.Is(err, io.EOF) {
		return errors.New("it is empty")
	} else if err != nil {
		return err
	}
	switch err := decoder.Decode(new(yaml.Node)); {
	case err == nil:
		return errors.New("more than one document: want one")
	case !errors.Is(err, io.EOF):
		return err
	}
	if err := known(root.Content[0], reflect.TypeOf(into).Elem(), ""); err != nil {
		return err
	}
	err := root.Decode(into)
	var wrong *yaml.TypeError
	if errors.As(err, &wrong) {
		return errors.New(strings.Join(wrong.Errors, "; "))
	}
	return err
}

// known refuses a key that no field has, before anything is decoded.
func known(n *yaml.Node, t reflect.Type, at string) error {
	for n.Kind == yaml.AliasNode {
		return fmt.Errorf("line %d: say it again instead of *%s", n.Line, n.Value) // aliases of aliases grow without bounds
	}
	switch t.Kind() {
	case reflect.Slice:
		for _, item := range n.Content {
			if err := known(item, t.Elem(), at); err != nil {
				return err
			}
		}
		return nil
	case reflect.Struct:
	default:
		return nil
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!null" {
		return nil
	}
	if n.Kind != yaml.MappingNode {
		return fmt.Errorf("line %d: want lines such as \"%s: …\"", n.Line, yamlName(t.Field(0)))
	}
	var names, seen []string
	for i := range t.NumField() {
		names = append(names, yamlName(t.Field(i)))
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field := slices.Index(names, key.Value)
		if field < 0 {
			return fmt.Errorf("line %d: there is no %q%s%s", key.Line, clip(key.Value), at, suggest(key.Value, names))
		}
		if slices.Contains(seen, key.Value) {
			return fmt.Errorf("line %d: %s is said twice", key.Line, key.Value)
		}
		seen = append(seen, key.Value)
		if err := known(value, t.Field(field).Type, " in "+key.Value); err != nil {
			return err
		}
	}
	return nil
}

func yamlName(f reflect.StructField) string {
	name, _, _ := strings.Cut(f.Tag.Get("yaml"), ",")
	return name
}

// Profile makes a profile of a document: what the document does not say of the agent's environment and of who may log in is taken
// from base, the swarm's default profile.
func (d Document) Profile(name string, base swarm.Profile) (swarm.Profile, error) {
	p := base
	p.Name, p.Driver, p.Release, p.Arch, p.Templates, p.Installer = name, d.Driver, d.Release, d.Arch, d.Templates, d.Installer
	if p.Image != d.Image {
		p.Image, p.Format, p.DiskSize = d.Image, "", 0 // the caller looks into it
	}
	switch a := d.Agent; {
	case a != Environment{} && (a.Kernel == "" || a.Initrd == "" || a.Program == ""):
		return p, errors.New("agent: it takes a kernel, an initrd and a program")
	case a != Environment{}:
		p.Kernel, p.Initrd, p.Binary, p.Args = a.Kernel, a.Initrd, a.Program, a.Args
	case p.Architecture() != base.Architecture():
		return p, fmt.Errorf("arch: the agent of profile %s is for %s: give one for %s, made of an offshoot that was built for it (--program FILE)", base.Name, base.Architecture(), p.Architecture())
	}
	var err error
	p.Params, err = d.Params.canonical()
	return p, err
}

// DocumentOf is what an operator would have to write to have this profile.
func DocumentOf(p swarm.Profile) (Document, error) {
	params, err := stated(p)
	d := Document{Driver: p.Driver, Release: p.Release, Arch: p.Arch, Image: p.Image, Installer: p.Installer, Params: params, Templates: p.Templates}
	if p.Architecture() != swarm.DefaultArch {
		d.Agent = Environment{p.Kernel, p.Initrd, p.Binary, p.Args}
	}
	return d, err
}

// YAML writes a document down.
func (d Document) YAML() ([]byte, error) {
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := errors.Join(e.Encode(d), e.Close()); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// suggest is the end of a sentence about a word that is none of those known.
func suggest(word string, all []string) string {
	if near := Nearest(word, all); near != "" {
		return "; did you mean " + near + "?"
	}
	if len(all) == 0 {
		return ""
	}
	return "; there are: " + strings.Join(all, ", ")
}

// Nearest is the known word that was probably meant, or "".
func Nearest(word string, all []string) string {
	nearest, best := "", 3 // three slips are another word
	word = strings.ToLower(word)
	for _, w := range all {
		plain := strings.NewReplacer("_", "", "-", "").Replace
		if d := distance(plain(word), plain(w)); d < best || len(word) > 2 && d < len(w) && strings.HasPrefix(w, word) {
			nearest, best = w, min(d, best)
		}
	}
	return nearest
}

// distance is how many letters must be changed, added or dropped to make b of a (Levenshtein).
func distance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// clip keeps what is repeated in an error short.
func clip(s string) string {
	if len(s) > 80 {
		return s[:80] + "…"
	}
	return s
}
