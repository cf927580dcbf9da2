// Package e2e holds what is said about the whole: scenarios against the built binary on virtual machines, the figures of
// the project, and the tests that hold sources and documents to docs/ARCHITECTURE.md. It speaks to offshoot as an operator
// does, by its commands, and to networks and machines through e2e/lab. Nobody imports it.
package e2e

import (
	"bytes"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
)

// root is where go.mod lies, seen from this package's folder, where go test runs.
const root = ".."

const (
	module   = "offshoot/"
	maxLines = 600 // a longer file is asking to be two ideas
)

// source is one Go file, as its author wrote it: files of every build tag count, which is why nobody asks go list.
type source struct {
	path    string // from the root, with slashes
	pkg     string // folder: "swarm/ledger"
	name    string // package clause
	test    bool
	file    *ast.File
	fset    *token.FileSet
	lines   int
	imports map[string]string // import path to the name that it has in this file
}

// TestTopLevelNamesAreFixed: a new room in the house is decided in ARCHITECTURE.md, not by mkdir.
func TestTopLevelNamesAreFixed(t *testing.T) {
	fixed := []string{"node", "swarm", "handoff", "cmd", "e2e", "docs", "go.mod", "go.sum", "Makefile", "README.md", "LICENSE",
		".ci", ".golangci.yml", ".gitignore"}
	made := []string{".git", "bin", "build"} // by git and make; not committed
	entries, err := os.ReadDir(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !slices.Contains(fixed, e.Name()) && !slices.Contains(made, e.Name()) {
			t.Errorf("%s does not belong at the top level", e.Name())
		}
	}
}

// TestPackagesImportOnlyWhatTheTableAllows reads the import table from docs/ARCHITECTURE.md.
func TestPackagesImportOnlyWhatTheTableAllows(t *testing.T) {
	table := map[string]architectureRow{}
	for _, cells := range docTable(t, "docs/ARCHITECTURE.md", "package", "may import", "refuses") {
		for _, pkg := range code(cells[0]) {
			allowed, tests, _ := strings.Cut(cells[1], "tests:")
			table[pkg] = architectureRow{allowed: code(allowed), tests: code(tests), refused: code(cells[2]), used: map[string]bool{}}
		}
	}
	seen := map[string]bool{}
	for _, s := range sources(t) {
		seen[s.pkg] = true
		row, ok := table[s.pkg]
		if !ok {
			t.Errorf("package %s has no row in the import table of docs/ARCHITECTURE.md", s.pkg)
			continue
		}
		for imported := range s.imports {
			if why := row.refuses(s, imported); why != "" {
				t.Errorf("%s: %s", s.path, why)
			}
		}
		if s.test {
			continue
		}
		for _, refused := range row.refused {
			dot := strings.LastIndex(refused, ".")
			if dot < 0 {
				continue // a package: refuses has looked
			}
			for _, at := range s.uses(refused[:dot], refused[dot+1:]) {
				t.Errorf("%s: package %s refuses to use %s", at, s.pkg, refused)
			}
		}
	}
	for pkg, row := range table {
		if !seen[pkg] {
			t.Errorf("the import table of docs/ARCHITECTURE.md has a row for %s, which does not exist", pkg)
			continue
		}
		for _, pattern := range slices.Concat(row.allowed, row.tests) {
			if !row.used[pattern] {
				t.Errorf("the import table of docs/ARCHITECTURE.md gives %s to %s, which does not use it", pattern, pkg)
			}
		}
	}
}

// architectureRow is what the table says about one package.
type architectureRow struct {
	allowed []string // of ours; "swarm/*" means every package directly below
	tests   []string // what only its tests may import besides
	refused []string // "net/http", "time.Now"

	used map[string]bool // patterns of allowed, by other files than tests, and of tests
}

// refuses says why s may not import a package, "" if it may.
func (r architectureRow) refuses(s *source, imported string) string {
	if !s.test && slices.Contains(r.refused, imported) {
		return fmt.Sprintf("package %s refuses to import %s", s.pkg, imported)
	}
	ours, isOurs := strings.CutPrefix(imported, module)
	if !isOurs {
		return ""
	}
	allowed := r.allowed
	if s.test {
		allowed = slices.Concat(r.tests, r.allowed)
	}
	for _, pattern := range allowed {
		if ok, _ := path.Match(pattern, ours); ok {
			if !s.test || slices.Contains(r.tests, pattern) {
				r.used[pattern] = true
			}
			return ""
		}
	}
	ownSuite := path.Dir(ours) == s.pkg && strings.HasSuffix(ours, "test") // swarm/share and its swarm/share/sharetest
	if s.test && (ours == s.pkg || ours == "e2e/lab" || ownSuite) {
		return ""
	}
	return fmt.Sprintf("package %s may not import %s (import table in docs/ARCHITECTURE.md)", s.pkg, ours)
}

// TestThirdPartyModulesAreUsedWhereTheTableSays reads the dependency table from docs/ARCHITECTURE.md: a dependency is a
// decision with a reason, and most of them are the business of one package.
func TestThirdPartyModulesAreUsedWhereTheTableSays(t *testing.T) {
	usedBy := map[string][]string{}
	for _, cells := range docTable(t, "docs/ARCHITECTURE.md", "module", "for", "used by", "weighed") {
		for _, m := range code(cells[0]) {
			usedBy[m] = code(cells[2])
		}
		if strings.TrimSpace(cells[1]) == "" || strings.TrimSpace(cells[3]) == "" {
			t.Errorf("%s: the dependency table does not say what for, or what else was weighed", cells[0])
		}
	}
	moduleOf := func(imported string) string {
		for m := imported; m != "."; m = path.Dir(m) {
			if _, ok := usedBy[m]; ok {
				return m
			}
		}
		return ""
	}
	used := map[string]map[string]bool{}
	for _, s := range sources(t) {
		for imported := range s.imports {
			if first, _, _ := strings.Cut(imported, "/"); !strings.Contains(first, ".") {
				continue // ours or the standard library's
			}
			m := moduleOf(imported)
			if m == "" {
				t.Errorf("%s imports %s, which has no row in the dependency table of docs/ARCHITECTURE.md", s.path, imported)
				continue
			}
			if used[m] == nil {
				used[m] = map[string]bool{}
			}
			user := s.pkg
			if s.test {
				user = "tests"
			}
			used[m][user] = true
			if user != "tests" && !slices.Contains(usedBy[m], user) {
				t.Errorf("%s imports %s, which the dependency table does not give to %s", s.path, imported, user)
			}
		}
	}
	for m, users := range usedBy {
		for _, user := range users {
			if !used[m][user] {
				t.Errorf("the dependency table says that %s uses %s, but it does not", user, m)
			}
		}
	}
	for _, m := range directRequirements(t) {
		if _, ok := usedBy[m]; !ok {
			t.Errorf("go.mod requires %s, which has no row in the dependency table", m)
		}
	}
}

func TestEveryPackageSaysWhatItIsFor(t *testing.T) {
	vague := []string{"util", "utils", "common", "types", "helpers", "misc", "base", "lib"}
	documented, names := map[string]bool{}, map[string]string{}
	for _, s := range sources(t) {
		names[s.pkg] = strings.TrimSuffix(s.name, "_test")
		if s.file.Doc == nil {
			continue
		}
		want := "Package " + s.name + " "
		if s.name == "main" {
			want = "Command " + path.Base(s.pkg) + " "
		}
		if !strings.HasPrefix(s.file.Doc.Text(), want) {
			t.Errorf("%s: the package comment does not begin with %q", s.path, want)
		}
		documented[s.pkg] = true
	}
	for pkg, name := range names {
		if !documented[pkg] {
			t.Errorf("package %s has no package comment: what is it for, what does it refuse, who may import it?", pkg)
		}
		if slices.Contains(vague, name) {
			t.Errorf("package %s: %q says nothing", pkg, name)
		}
	}
}

func TestFilesAreOneIdeaLong(t *testing.T) {
	for _, s := range sources(t) {
		if !s.test && s.lines > maxLines {
			t.Errorf("%s has %d lines, more than %d: it is asking to be two ideas", s.path, s.lines, maxLines)
		}
	}
}

// TestNobodySleeps: the linter says so too, but this one also runs where there is no linter.
func TestNobodySleeps(t *testing.T) {
	for _, s := range sources(t) {
		for _, at := range s.uses("time", "Sleep") {
			t.Errorf("%s: time.Sleep: wait for a condition, or for a timer together with the context", at)
		}
	}
}

// TestTreeHoldsNoLooseEnds: unfinished business lives in issues, and archives are named by the machine's own apt sources.
func TestTreeHoldsNoLooseEnds(t *testing.T) {
	unfinished := regexp.MustCompile(`\b(TO` + `DO|FIX` + `ME|XX` + `X)\b`)
	archive := regexp.MustCompile(`\b(deb|ftp|archive|security|mirror)s?\.(debian|ubuntu|fedoraproject)\.(org|com)\b`)
	walk(t, func(name string) {
		switch path.Ext(name) {
		case ".go", ".md", ".sh", ".yml", ".mod", "":
		default:
			return
		}
		if path.Base(name) == "LICENSE" {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		for i, line := range strings.Split(string(text), "\n") {
			if found := unfinished.FindString(line); found != "" {
				t.Errorf("%s:%d: %s", name, i+1, found)
			}
			if found := archive.FindString(line); found != "" {
				t.Errorf("%s:%d: names the host %s", name, i+1, found)
			}
		}
	})
}

// walk calls visit with every file of the tree, by its path from the root, except what git and make have put there.
func walk(t *testing.T, visit func(name string)) {
	t.Helper()
	err := filepath.WalkDir(root, func(full string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, full)
		if err != nil {
			return err
		}
		name = filepath.ToSlash(name)
		if d.IsDir() {
			switch name {
			case ".git", "bin", "build", ".ci/tools":
				return fs.SkipDir
			}
			if path.Base(name) == "testdata" {
				return fs.SkipDir
			}
			return nil
		}
		if d.Type().IsRegular() {
			visit(name)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// sources parses every Go file of the product. Commands below .ci are the machinery's.
func sources(t *testing.T) []*source {
	t.Helper()
	var all []*source
	walk(t, func(name string) {
		if path.Ext(name) != ".go" || strings.HasPrefix(name, ".") {
			return
		}
		text, err := os.ReadFile(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		fset := token.NewFileSet()
		file, err := parser.ParseFile(fset, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			t.Fatal(err)
		}
		s := &source{path: name, pkg: path.Dir(name), name: file.Name.Name, test: strings.HasSuffix(name, "_test.go"),
			file: file, fset: fset, lines: bytes.Count(text, []byte("\n")), imports: map[string]string{}}
		for _, i := range file.Imports {
			imported, err := strconv.Unquote(i.Path.Value)
			if err != nil {
				t.Fatal(err)
			}
			s.imports[imported] = path.Base(imported)
			if i.Name != nil {
				s.imports[imported] = i.Name.Name
			}
		}
		all = append(all, s)
	})
	if len(all) == 0 {
		t.Fatal("no sources found: is this the tree?")
	}
	return all
}

// uses lists where a file uses a name of a package: time.Sleep as "time", "Sleep".
func (s *source) uses(imported, name string) []token.Position {
	local, ok := s.imports[imported]
	if !ok {
		return nil
	}
	var found []token.Position
	ast.Inspect(s.file, func(n ast.Node) bool {
		sel, ok := n.(*ast.SelectorExpr)
		if !ok || sel.Sel.Name != name {
			return true
		}
		if x, ok := sel.X.(*ast.Ident); ok && x.Name == local {
			found = append(found, s.fset.Position(sel.Pos()))
		}
		return true
	})
	return found
}

// docTable returns the rows of the one table of a document whose headings begin with these words.
func docTable(t *testing.T, name string, headings ...string) [][]string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, name))
	if err != nil {
		t.Fatal(err)
	}
	var rows [][]string
	inside := false
	for line := range strings.SplitSeq(string(text), "\n") {
		cells, isRow := tableRow(line)
		switch {
		case !isRow:
			inside = false
		case inside && strings.Trim(cells[0], "-:") != "":
			if len(cells) != len(headings) {
				t.Fatalf("%s: this row has %d cells, want %d: %s", name, len(cells), len(headings), line)
			}
			rows = append(rows, cells)
		case !inside && len(cells) == len(headings):
			inside = true
			for i, h := range headings {
				inside = inside && strings.HasPrefix(cells[i], h)
			}
		}
	}
	if len(rows) == 0 {
		t.Fatalf("%s has no table with the headings %q", name, headings)
	}
	return rows
}

func tableRow(line string) (cells []string, ok bool) {
	line = strings.TrimSpace(line)
	if !strings.HasPrefix(line, "|") || !strings.HasSuffix(line, "|") || len(line) < 2 {
		return nil, false
	}
	for cell := range strings.SplitSeq(line[1:len(line)-1], "|") {
		cells = append(cells, strings.TrimSpace(cell))
	}
	return cells, true
}

// code returns what stands between backticks.
func code(cell string) []string {
	var found []string
	for i, part := range strings.Split(cell, "`") {
		if i%2 == 1 {
			found = append(found, part)
		}
	}
	return found
}

// directRequirements are the modules that go.mod does not call indirect.
func directRequirements(t *testing.T) []string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	line := regexp.MustCompile(`(?m)^(?:require )?\s*([a-z0-9.-]+\.[a-z]+/\S+) v\S+$`)
	var direct []string
	for _, m := range line.FindAllStringSubmatch(string(text), -1) {
		direct = append(direct, m[1])
	}
	return direct
}
