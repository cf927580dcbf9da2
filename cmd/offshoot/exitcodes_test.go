package main

import (
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"offshoot/node"
	"offshoot/node/status"
)

// TestExitCodesAreThoseOfTheManual: programs that call us read docs/operations.md.
func TestExitCodesAreThoseOfTheManual(t *testing.T) {
	said, err := os.ReadFile("../../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, ok := strings.Cut(string(said), "## Exit codes\n")
	if !ok {
		t.Fatal("docs/operations.md has no section of exit codes")
	}
	section, _, _ = strings.Cut(section, "\n## ")
	manual := map[string]bool{}
	for _, row := range regexp.MustCompile(`(?m)^\| *(\d+) *\| *(\S.*?) *\|$`).FindAllStringSubmatch(section, -1) {
		if manual[row[1]] {
			t.Errorf("docs/operations.md explains exit code %s twice", row[1])
		}
		manual[row[1]] = true
	}
	codes := map[string]bool{}
	for name, value := range exitConstants(t) {
		if codes[value] {
			t.Errorf("%s: %s has two names", name, value)
		}
		codes[value] = true
	}
	got, want := slices.Sorted(maps.Keys(codes)), slices.Sorted(maps.Keys(manual))
	if len(got) == 0 || !slices.Equal(got, want) {
		t.Errorf("main.go has the exit codes %v, docs/operations.md explains %v", got, want)
	}
}

// exitConstants reads the constants exit… of main.go: name to value.
func exitConstants(t *testing.T) map[string]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "main.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	found := map[string]string{}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			if !strings.HasPrefix(name.Name, "exit") {
				continue
			}
			value, ok := spec.Values[i].(*ast.BasicLit)
			if !ok {
				t.Fatalf("%s is not a plain number", name.Name)
			}
			found[name.Name] = value.Value
		}
		return true
	})
	return found
}

// TestErrorsHaveTheExitCodeOfTheirKind: however deep they are wrapped.
func TestErrorsHaveTheExitCodeOfTheirKind(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{errors.New("anything"), exitFailure},
		{usage("--x: %w", errors.New("no")), exitUsage},
		{node.ErrNoPort, exitUsage}, {node.ErrNoChoice, exitUsage}, {node.ErrNoLink, exitUsage}, {node.ErrUnfit, exitUsage},
		{node.ErrImage, exitUsage}, {node.ErrTruncated, exitUsage}, {node.ErrNoSystem, exitUsage}, {node.ErrNoImage, exitUsage},
		{node.ErrForeignDHCP, exitRefused}, {node.ErrNetworkInUse, exitRefused}, {status.ErrUnsafe, exitRefused},
		{node.ErrUnreachable, exitUnreachable}, {errNoQuorum, exitNoQuorum},
		{node.ErrRights, exitFailure}, {node.ErrBusy, exitFailure}, {node.ErrVersion, exitFailure}, {node.ErrNoSwarm, exitFailure}, {node.ErrForbidden, exitFailure}, {errDeclined, exitFailure},
	} {
		if got := codeOf(fmt.Errorf("here: %w", fmt.Errorf("there: %w", c.err))); got != c.want {
			t.Errorf("%v: exit code %d, want %d", c.err, got, c.want)
		}
	}
}
