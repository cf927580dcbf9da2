// Command gotest runs `go test` for one tier and says what a reader of a CI log wants to know: a line per package, the
// whole output of what failed, the reason of what was skipped, and at the very end one summary of all tiers. The raw
// events stay in build/test/<title>.json. Nothing but make runs it; it needs the standard library only.
//
//	go run .ci/gotest.go -title wire -tags wire ./...
//	go run .ci/gotest.go -summary
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
	"time"
)

const logs = "build/test"

// event is a line of `go test -json` (go doc test2json), and of `go build -json` where a package does not compile.
type event struct {
	Time       time.Time
	Action     string
	Package    string
	ImportPath string
	Test       string
	Elapsed    float64 // seconds
	Output     string
}

// tier is what has been counted so far.
type tier struct {
	title                   string
	passed, failed, skipped int
	packages                int
	broken                  []string // packages that failed
	output                  map[string][]string
	begin, end              time.Time
}

func main() {
	args := os.Args[1:]
	if len(args) == 1 && args[0] == "-summary" {
		os.Exit(summary())
	}
	title, live := "tests", false
	for len(args) > 0 {
		if args[0] == "-title" && len(args) > 1 {
			title, args = args[1], args[2:]
			continue
		}
		if args[0] == "-live" {
			live, args = true, args[1:]
			continue
		}
		break
	}
	if err := run(title, live, args); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", title, err)
		os.Exit(1)
	}
}

// run starts go test and follows its events. Interrupts reach go test by the terminal's process group.
func run(title string, live bool, args []string) error {
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return err
	}
	log, err := os.Create(filepath.Join(logs, title+".json"))
	if err != nil {
		return err
	}
	defer log.Close()
	fmt.Printf("== %s: go test %s\n", title, strings.Join(args, " "))
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	t := &tier{title: title, output: map[string][]string{}}
	if err := follow(io.TeeReader(out, log), t, live); err != nil {
		return errors.Join(err, cmd.Wait())
	}
	failed := cmd.Wait()
	fmt.Println(t.line())
	return failed
}

func follow(r io.Reader, t *tier, live bool) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) != nil {
				fmt.Print(string(line)) // go itself, not a test
			} else if said := t.take(e, live); said != "" {
				fmt.Print(said)
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// take counts an event and returns what is to be said about it, if anything.
func (t *tier) take(e event, live bool) string {
	if !e.Time.IsZero() {
		if t.begin.IsZero() {
			t.begin = e.Time
		}
		t.end = e.Time
	}
	key := e.Package + " " + e.Test
	switch e.Action {
	case "build-output":
		return e.Output
	case "output":
		if live && e.Test != "" {
			return e.Output
		}
		t.output[key] = append(t.output[key], e.Output)
		return ""
	case "pass", "fail", "skip":
	default:
		return ""
	}
	said := strings.Join(t.output[key], "")
	delete(t.output, key)
	if e.Test == "" {
		return t.packageEnded(e, said)
	}
	switch e.Action {
	case "pass":
		t.passed++
		return ""
	case "skip":
		t.skipped++
	case "fail":
		t.failed++
	}
	if live {
		return ""
	}
	return fmt.Sprintf("--- %s %s %s\n%s", strings.ToUpper(e.Action), e.Package, e.Test, said)
}

func (t *tier) packageEnded(e event, said string) string {
	switch e.Action {
	case "skip": // no test files
		return ""
	case "pass":
		t.packages++
		return fmt.Sprintf("ok    %s  %.1fs\n", e.Package, e.Elapsed)
	}
	t.packages++
	t.broken = append(t.broken, e.Package)
	return fmt.Sprintf("%sFAIL  %s  %.1fs\n", withoutVerdict(said), e.Package, e.Elapsed)
}

// withoutVerdict leaves out what go test says at the end of a failed package, which we say in our own line.
func withoutVerdict(said string) string {
	var kept strings.Builder
	for line := range strings.Lines(said) {
		if !strings.HasPrefix(line, "FAIL") {
			kept.WriteString(line)
		}
	}
	return kept.String()
}

func (t *tier) line() string {
	word := "ok  "
	if t.failed > 0 || len(t.broken) > 0 {
		word = "FAIL"
	}
	return fmt.Sprintf("%s  %-11s %4d passed, %d failed, %d skipped in %d packages, %s", word, t.title, t.passed, t.failed,
		t.skipped, t.packages, t.end.Sub(t.begin).Round(time.Second/10))
}

// summary counts again what the logs of this run hold, so that the last lines of `make test` tell the whole of it.
func summary() int {
	files, err := filepath.Glob(filepath.Join(logs, "*.json"))
	if err != nil || len(files) == 0 {
		fmt.Fprintln(os.Stderr, "no tier has run")
		return 1
	}
	var tiers []*tier
	for _, name := range files {
		f, err := os.Open(name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		t := &tier{title: strings.TrimSuffix(filepath.Base(name), ".json"), output: map[string][]string{}}
		scan := bufio.NewScanner(f)
		scan.Buffer(nil, 16<<20)
		for scan.Scan() {
			var e event
			if json.Unmarshal(scan.Bytes(), &e) == nil {
				t.take(e, false)
			}
		}
		f.Close()
		tiers = append(tiers, t)
	}
	sort.Slice(tiers, func(i, k int) bool { return tiers[i].begin.Before(tiers[k].begin) })
	all := &tier{title: "all"}
	fmt.Println("== go test summary")
	for _, t := range tiers {
		fmt.Println(t.line())
		all.passed, all.failed, all.skipped = all.passed+t.passed, all.failed+t.failed, all.skipped+t.skipped
		all.packages += t.packages
		all.broken = append(all.broken, t.broken...)
		all.end = all.end.Add(t.end.Sub(t.begin))
	}
	fmt.Println(all.line())
	if all.failed > 0 || len(all.broken) > 0 {
		return 1
	}
	return 0
}
