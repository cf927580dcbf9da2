package e2e

import (
	"bytes"
	"go/ast"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"unicode"
)

// documents are all Markdown files of the tree: path from the root to text.
func documents(t *testing.T) map[string]string {
	t.Helper()
	docs := map[string]string{}
	walk(t, func(name string) {
		if path.Ext(name) != ".md" {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		docs[name] = string(text)
	})
	if len(docs) == 0 {
		t.Fatal("no documents found")
	}
	return docs
}

func TestRelativeLinksInDocumentsResolve(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)\s]+)\)`)
	for name, text := range documents(t) {
		for _, m := range link.FindAllStringSubmatch(text, -1) {
			target, anchor, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
				continue
			}
			file := name
			if target != "" {
				file = path.Join(path.Dir(name), target)
			}
			if _, err := os.Stat(filepath.Join(root, file)); err != nil {
				t.Errorf("%s links to %s, which does not exist", name, m[1])
				continue
			}
			if anchor == "" {
				continue
			}
			linked, err := os.ReadFile(filepath.Join(root, file))
			if err != nil {
				t.Fatal(err)
			}
			if !hasHeading(string(linked), anchor) {
				t.Errorf("%s links to %s, which has no such heading", name, m[1])
			}
		}
	}
}

// hasHeading tells whether a heading of a Markdown text gets this anchor: lower case, blanks to dashes, the rest dropped.
func hasHeading(text, anchor string) bool {
	for line := range strings.SplitSeq(text, "\n") {
		if !strings.HasPrefix(line, "#") {
			continue
		}
		slug := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, strings.TrimSpace(strings.TrimLeft(line, "#")))
		if slug == anchor {
			return true
		}
	}
	return false
}

func TestMakeTargetsInDocumentsExist(t *testing.T) {
	makefile, err := os.ReadFile(filepath.Join(root, "Makefile"))
	if err != nil {
		t.Fatal(err)
	}
	exists := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^([a-z][a-z-]*):`).FindAllSubmatch(makefile, -1) {
		exists[string(m[1])] = true
	}
	for name, text := range documents(t) {
		for _, line := range commandLines(text) {
			words := strings.Fields(line)
			if len(words) < 2 || words[0] != "make" {
				continue
			}
			// Only the first word: what follows explains it, or sets variables.
			if target := words[1]; !exists[target] {
				t.Errorf("%s says %q: there is no target %s", name, line, target)
			}
		}
	}
}

// TestGuaranteesNameTheirTests: a promise names the tests that try to break it, or says that it is not kept yet.
func TestGuaranteesNameTheirTests(t *testing.T) {
	for _, cells := range docTable(t, "docs/ARCHITECTURE.md", "", "promise", "proved by", "not proved") {
		if !strings.Contains(cells[2], "`Test") && !strings.HasPrefix(cells[3], "not built yet") {
			t.Errorf("guarantee %s names no test and does not say that it is not built yet", cells[0])
		}
	}
}

// TestTestsAndFilesInDocumentsExist: a document that names a test or a file of the tree, in a code span, is followed there.
func TestTestsAndFilesInDocumentsExist(t *testing.T) {
	tests := map[string]*source{}
	for _, s := range sources(t) {
		if !s.test {
			continue
		}
		for _, d := range s.file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil {
				tests[f.Name.Name] = s
			}
		}
	}
	test := regexp.MustCompile(`^((?:Test|Fuzz)[A-Z]\w*)(?:/(\w+))?$`)
	file := regexp.MustCompile(`^(?:node|swarm|handoff|cmd|e2e|docs|\.ci)/[\w./-]+\.(?:go|md|yml)$`)
	for name, text := range documents(t) {
		for line := range strings.SplitSeq(text, "\n") {
			for _, span := range code(line) {
				if file.MatchString(span) {
					if _, err := os.Stat(filepath.Join(root, span)); err != nil {
						t.Errorf("%s names the file %s, which does not exist", name, span)
					}
				}
				m := test.FindStringSubmatch(span)
				if m == nil {
					continue
				}
				in, ok := tests[m[1]]
				if !ok {
					t.Errorf("%s names the test %s, which does not exist", name, m[1])
				} else if m[2] != "" && !strings.Contains(readText(t, in.path), `"`+m[2]+`"`) {
					t.Errorf("%s names the test %s, but %s does not hold the name %s", name, span, in.path, m[2])
				}
			}
		}
	}
}

func readText(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestCommandsAndFlagsInDocumentsExist asks the binary itself, by its shell completion and its help.
func TestCommandsAndFlagsInDocumentsExist(t *testing.T) {
	if _, err := os.Stat(filepath.Join(root, "cmd", "offshoot")); err != nil {
		t.Skip("there is no command yet: cmd/offshoot")
	}
	o := &cli{binary: binary(t), children: map[string][]string{}, help: map[string]string{}}
	for name, text := range documents(t) {
		for _, line := range commandLines(text) {
			if why := o.rejects(t, line); why != "" {
				t.Errorf("%s says %q: %s", name, line, why)
			}
		}
	}
}

// commandLines returns what a reader could type: the text of every code span and every line of every code block, without
// prompt, sudo and trailing comment.
func commandLines(text string) []string {
	var lines []string
	block := false
	for line := range strings.SplitSeq(text, "\n") {
		if strings.HasPrefix(strings.TrimSpace(line), "```") {
			block = !block
			continue
		}
		found := code(line)
		if block {
			found = []string{line}
		}
		for _, l := range found {
			l, _, _ = strings.Cut(l, " #")
			l = strings.TrimPrefix(strings.TrimSpace(l), "$ ")
			lines = append(lines, strings.TrimPrefix(l, "sudo "))
		}
	}
	return lines
}

// cli remembers what the binary said about itself.
type cli struct {
	binary   string
	children map[string][]string // command path to its subcommands
	help     map[string]string
}

// rejects says what in a line that begins with offshoot does not exist, "" if all of it does.
func (c *cli) rejects(t *testing.T, line string) string {
	words := strings.Fields(line)
	if len(words) < 2 || words[0] != "offshoot" {
		return ""
	}
	var at []string
	for _, w := range words[1:] {
		switch flag, _, _ := strings.Cut(strings.Trim(w, "[],.…"), "="); {
		case strings.HasPrefix(flag, "-"):
			if !regexp.MustCompile(`(^|[\s,])` + regexp.QuoteMeta(flag) + `([\s,=]|$)`).MatchString(c.helpOf(t, at)) {
				return strings.Join(append([]string{"offshoot"}, at...), " ") + " has no flag " + flag
			}
		case len(c.childrenOf(t, at)) == 0: // an argument
		case contains(c.childrenOf(t, at), w):
			at = append(at, w)
		default:
			return strings.Join(append([]string{"offshoot"}, at...), " ") + " has no subcommand " + w
		}
	}
	return ""
}

func contains(children []string, word string) bool {
	for alternative := range strings.SplitSeq(word, "|") {
		found := false
		for _, c := range children {
			found = found || c == alternative
		}
		if !found {
			return false
		}
	}
	return true
}

// childrenOf asks cobra's hidden completion command, whose lines are "name<tab>what for" and end with ":<directive>".
func (c *cli) childrenOf(t *testing.T, at []string) []string {
	key := strings.Join(at, " ")
	if known, ok := c.children[key]; ok {
		return known
	}
	var names []string
	for line := range strings.SplitSeq(c.run(t, append(append([]string{"__complete"}, at...), "")...), "\n") {
		name, _, described := strings.Cut(line, "\t")
		if described && !strings.HasPrefix(name, ":") {
			names = append(names, name)
		}
	}
	c.children[key] = names
	return names
}

func (c *cli) helpOf(t *testing.T, at []string) string {
	key := strings.Join(at, " ")
	if _, ok := c.help[key]; !ok {
		c.help[key] = c.run(t, append(append([]string{}, at...), "--help")...)
	}
	return c.help[key]
}

func (c *cli) run(t *testing.T, args ...string) string {
	t.Helper()
	var out, words bytes.Buffer
	cmd := exec.CommandContext(t.Context(), c.binary, args...)
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Run(); err != nil {
		t.Fatalf("offshoot %s: %v\n%s", strings.Join(args, " "), err, words.String())
	}
	return out.String()
}

// binary is the one that make built and named, else one that is built now.
func binary(t *testing.T) string {
	t.Helper()
	if built := os.Getenv("OFFSHOOT_BIN"); built != "" {
		return built
	}
	built := filepath.Join(t.TempDir(), "offshoot")
	cmd := exec.CommandContext(t.Context(), "go", "build", "-o", built, "./cmd/offshoot")
	cmd.Dir = root
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build offshoot: %v\n%s", err, out)
	}
	return built
}
