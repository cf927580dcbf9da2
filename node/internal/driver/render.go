package driver

import (
	"bytes"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"slices"
	"strings"
	"text/template"
	"text/template/parse"

	"offshoot/swarm"
)

//go:embed templates
var embedded embed.FS

// Hooks is the file of shell functions that every installer can fetch beside its own: see templates/common.
const Hooks = "offshoot.sh"

// MaxFile bounds a rendered file, bytes.
const MaxFile = 256 << 10

// FilesOf lists what a machine with this profile can ask for, or what the agent leaves on its disk.
func FilesOf(p swarm.Profile) []string {
	d, ok := drivers[p.Driver]
	switch {
	case !ok:
		return nil
	case Agent(p), p.Diskless():
		return d.Files(p)
	}
	return append(d.Files(p), Hooks)
}

// ErrNoFile: the profile's driver has no such file.
var ErrNoFile = errors.New("no such file")

// Render makes the file that a machine gets.
func Render(p swarm.Profile, d Data, file string) ([]byte, error) {
	if files := FilesOf(p); !slices.Contains(files, file) {
		return nil, fmt.Errorf("%w: driver %s has no %q%s", ErrNoFile, p.Driver, clip(file), suggest(file, files))
	}
	text, err := source(p, file)
	if err != nil {
		return nil, err
	}
	t, err := compile(file, text)
	if err != nil {
		return nil, err
	}
	out := bounded{left: MaxFile}
	if err := t.Execute(&out, d); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

// source is the text of a template: the profile's own, or ours.
func source(p swarm.Profile, file string) (string, error) {
	if text, ok := p.Templates[file]; ok {
		return text, nil
	}
	folder := p.Driver
	if shared, ok := drivers[p.Driver].(family); ok {
		folder = shared.Family()
	}
	if file == Hooks {
		folder = "common"
	}
	text, err := fs.ReadFile(embedded, "templates/"+folder+"/"+file)
	if err != nil {
		return "", fmt.Errorf("driver %s has no template %s of its own: the profile must bring one", p.Driver, file)
	}
	return string(text), nil
}

// compile parses a template. What could run for ever, or call anything but what is here, is refused: a template may come from an
// operator, and every node runs it.
func compile(file, text string) (*template.Template, error) {
	t, err := template.New(file).Funcs(funcs).Option("missingkey=error").Parse(text)
	if err != nil {
		return nil, err
	}
	if len(t.Templates()) > 1 {
		return nil, fmt.Errorf("template: %s: a template defines no others", file)
	}
	if t.Tree == nil { // nothing but blanks
		return t, nil
	}
	return t, walk(t.Tree, t.Root, maxNesting)
}

// maxNesting bounds loops in loops: the longest list has some hundred words.
const maxNesting = 3

// walk refuses what a template must not do. ranges is how many loops may still be opened.
func walk(tree *parse.Tree, n parse.Node, ranges int) error {
	refuse := func(n parse.Node, why string) error {
		at, _ := tree.ErrorContext(n)
		return fmt.Errorf("template: %s: %s", at, why)
	}
	branch := func(ranges int, lists ...*parse.ListNode) error {
		for _, l := range lists {
			if l != nil {
				if err := walk(tree, l, ranges); err != nil {
					return err
				}
			}
		}
		return nil
	}
	switch n := n.(type) {
	case *parse.ListNode:
		for _, child := range n.Nodes {
			if err := walk(tree, child, ranges); err != nil {
				return err
			}
		}
	case *parse.RangeNode:
		if !isField(n.Pipe) || ranges == 0 {
			return refuse(n, fmt.Sprintf("range goes over a field, such as .Params.Packages, and not more than %d deep", maxNesting))
		}
		return branch(ranges-1, n.List, n.ElseList)
	case *parse.IfNode:
		return branch(ranges, n.List, n.ElseList)
	case *parse.WithNode:
		return branch(ranges, n.List, n.ElseList)
	case *parse.TemplateNode:
		return refuse(n, "a template calls no others")
	}
	return nil
}

// isField says whether a pipeline is a field and nothing else: of a number, a template would count to it.
func isField(p *parse.PipeNode) bool {
	if len(p.Cmds) != 1 || len(p.Cmds[0].Args) != 1 {
		return false
	}
	switch arg := p.Cmds[0].Args[0].(type) {
	case *parse.FieldNode:
		return true
	case *parse.VariableNode:
		return len(arg.Ident) > 1
	}
	return false
}

// funcs are what templates can call beside Go's own.
var funcs = template.FuncMap{
	"join":   func(sep string, words []string) string { return strings.Join(words, sep) },
	"shell":  quote,
	"indent": func(n int, s string) string { return strings.ReplaceAll(s, "\n", "\n"+strings.Repeat(" ", n)) },
	"add":    func(lists ...[]string) []string { return slices.Concat(lists...) },
	"yaml":   quoteJSON,
	"fail":   func(why string) (string, error) { return "", errors.New(why) },
}

// quote makes one word of any text for a POSIX shell.
func quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }

// bounded is a buffer that takes only so much.
type bounded struct {
	bytes.Buffer
	left int
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.left -= len(p); b.left < 0 {
		return 0, fmt.Errorf("larger than %d bytes", MaxFile)
	}
	return b.Buffer.Write(p)
}

// Finding is what is wrong with one of a profile's files.
type Finding struct {
	File string
	Err  error
}

func (f Finding) String() string { return f.File + ": " + f.Err.Error() }

// Lint renders every file of a profile for a machine as there could be one, and has the driver look at them. None is good.
func Lint(p swarm.Profile) (out []Finding) {
	d, err := See(p, Example, 7480)
	if err != nil {
		return []Finding{{"params", err}}
	}
	for _, file := range FilesOf(p) {
		text, err := Render(p, d, file)
		if err == nil {
			err = lint(p, file, text)
		}
		if err != nil {
			out = append(out, Finding{file, err})
		}
	}
	return out
}

func lint(p swarm.Profile, file string, text []byte) error {
	if bytes.Contains(text, []byte("<no value>")) || bytes.ContainsRune(text, '\r') || bytes.IndexByte(text, 0) >= 0 {
		return errors.New("it has a value that is not there, a carriage return or a NUL in it")
	}
	if file == Hooks {
		return nil
	}
	d, err := Of(p.Driver)
	if err != nil {
		return err
	}
	return d.Lint(file, text)
}

// Example is a machine that no swarm has.
var Example = Machine{
	MAC: "52:54:00:12:34:56", Hostname: "node-123456", Address: netip.MustParsePrefix("192.168.42.17/24"), Install: "example",
	URL: "http://192.168.42.1:7480/b/AAAAAAAAAAAAAAAAAAAAAA", Nodes: []netip.Addr{netip.MustParseAddr("192.168.42.1")},
}
