package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
)

// driverIndex is what modules.dep, modules.alias and modules.softdep say (kmod's text forms). Read-only once made.
type driverIndex struct {
	path    map[string]string   // module name → file, below the tree
	needs   map[string][]string // module name → modules that go before, direct ones
	soft    map[string][]string // module name → names or aliases that should go before
	aliases map[string][]alias  // by what stands before the first colon of the pattern
}

type alias struct{ pattern, module string }

// readIndex reads the three files of a tree. A missing one counts as empty.
func readIndex(dir string) (*driverIndex, error) {
	x := &driverIndex{
		path: make(map[string]string), needs: make(map[string][]string), soft: make(map[string][]string), aliases: make(map[string][]alias),
	}
	for name, add := range map[string]func(string){"modules.dep": x.addDep, "modules.alias": x.addAlias, "modules.softdep": x.addSoft} {
		raw, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		for l := range bytes.Lines(raw) {
			add(strings.TrimSpace(string(l)))
		}
	}
	return x, nil
}

func (x *driverIndex) addDep(line string) {
	file, deps, ok := strings.Cut(line, ":")
	if !ok {
		return
	}
	name := moduleName(file)
	x.path[name] = file
	for d := range strings.FieldsSeq(deps) {
		x.needs[name] = append(x.needs[name], moduleName(d))
	}
}

func (x *driverIndex) addAlias(line string) {
	f := strings.Fields(line)
	if len(f) != 3 || f[0] != "alias" {
		return
	}
	bus := busOf(f[1])
	x.aliases[bus] = append(x.aliases[bus], alias{f[1], moduleName(f[2])})
}

func (x *driverIndex) addSoft(line string) {
	f := strings.Fields(line)
	if len(f) < 4 || f[0] != "softdep" || f[2] != "pre:" {
		return
	}
	for _, s := range f[3:] {
		if s == "post:" {
			return
		}
		x.soft[moduleName(f[1])] = append(x.soft[moduleName(f[1])], s)
	}
}

// moduleName is the kernel's name for a file or for the name as people write it.
func moduleName(file string) string {
	base, _, _ := strings.Cut(filepath.Base(file), ".ko")
	return strings.ReplaceAll(base, "-", "_")
}

// busOf is the part of a modalias before the first colon; "" if a pattern leaves that open.
func busOf(s string) string {
	bus, _, ok := strings.Cut(s, ":")
	if !ok || strings.ContainsAny(bus, "*?[") {
		return ""
	}
	return bus
}

// match returns the modules that claim a device, or the one that has this name.
func (x *driverIndex) match(modalias string) []string {
	if name := moduleName(modalias); x.path[name] != "" {
		return []string{name}
	}
	var out []string
	for _, bus := range []string{busOf(modalias), ""} {
		for _, a := range x.aliases[bus] {
			if glob(a.pattern, modalias) {
				out = append(out, a.module)
			}
		}
		if bus == "" {
			break
		}
	}
	return out
}

// order returns the modules to load for one, itself last, each once.
func (x *driverIndex) order(module string) []string {
	var out []string
	seen := make(map[string]bool)
	var visit func(string)
	visit = func(name string) {
		if seen[name] || x.path[name] == "" {
			return
		}
		seen[name] = true
		for _, s := range x.soft[name] {
			for _, m := range x.match(s) {
				visit(m)
			}
		}
		for _, n := range x.needs[name] {
			visit(n)
		}
		out = append(out, name)
	}
	visit(moduleName(module))
	return out
}

// glob is fnmatch(3) without flags, as kmod uses it: * ? and [a-z], and a slash is like any other character.
func glob(pattern, s string) bool {
	star, retry := -1, 0 // where the last * stood, and the place in s that it is tried from next
	p, i := 0, 0
	for i < len(s) {
		if p < len(pattern) {
			if pattern[p] == '*' {
				star, retry = p, i
				p++
				continue
			}
			if n, ok := matchOne(pattern[p:], s[i]); ok {
				p, i = p+n, i+1
				continue
			}
		}
		if star < 0 {
			return false
		}
		retry++
		p, i = star+1, retry
	}
	return strings.Trim(pattern[p:], "*") == ""
}

// matchOne matches one character and returns how much of the pattern that took.
func matchOne(pattern string, c byte) (int, bool) {
	switch pattern[0] {
	case '?':
		return 1, true
	case '[':
		end := strings.IndexByte(pattern[1:], ']') + 1
		if end <= 1 {
			return 1, c == '['
		}
		set := pattern[1:end]
		not := set[0] == '!' || set[0] == '^'
		if not {
			set = set[1:]
		}
		in := false
		for i := 0; i < len(set); i++ {
			if i+2 < len(set) && set[i+1] == '-' {
				in = in || set[i] <= c && c <= set[i+2]
				i += 2
				continue
			}
			in = in || set[i] == c
		}
		return end + 1, in != not
	}
	return 1, pattern[0] == c
}

// drivers loads modules into the running kernel, each once. For use by several goroutines.
type drivers struct {
	dir   string
	index *driverIndex
	log   *slog.Logger

	mu     sync.Mutex
	tried  map[string]bool // modules
	looked map[string]bool // modaliases
}

// newDrivers finds the modules of the running kernel. Without any, everything has to be built in.
func newDrivers(log *slog.Logger) (*drivers, error) {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return nil, fmt.Errorf("uname: %w", err)
	}
	dir := filepath.Join("/lib/modules", unix.ByteSliceToString(u.Release[:]))
	index, err := readIndex(dir)
	if err != nil {
		return nil, fmt.Errorf("read module index: %w", err)
	}
	return &drivers{dir: dir, index: index, log: log, tried: make(map[string]bool), looked: make(map[string]bool)}, nil
}

// want loads what a modalias or module name asks for.
func (d *drivers) want(modalias string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if modalias == "" || d.looked[modalias] {
		return
	}
	d.looked[modalias] = true
	for _, m := range d.index.match(modalias) {
		for _, name := range d.index.order(m) {
			d.load(name)
		}
	}
}

func (d *drivers) load(name string) {
	if d.tried[name] {
		return
	}
	d.tried[name] = true
	f, err := os.Open(filepath.Join(d.dir, d.index.path[name]))
	if err == nil {
		err = unix.FinitModule(int(f.Fd()), "", 0)
		_ = f.Close()
	}
	switch {
	case err == nil, errors.Is(err, unix.EEXIST):
		d.log.Debug("module loaded", "module", name)
	case errors.Is(err, unix.ENODEV): // its usual word when there is nothing for it to do
		d.log.Debug("module has no device", "module", name)
	default:
		d.log.Warn("module not loaded", "module", name, "error", err)
	}
}

// coldplug loads drivers for all devices that are there already.
func (d *drivers) coldplug(ctx context.Context, sys string) error {
	return filepath.WalkDir(sys, func(path string, e fs.DirEntry, err error) error {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if err != nil { // devices vanish while we walk
			return nil //nolint:nilerr // see above
		}
		if e.Name() != "modalias" || !e.Type().IsRegular() {
			return nil
		}
		if raw, err := os.ReadFile(path); err == nil {
			d.want(strings.TrimSpace(string(raw)))
		}
		return nil
	})
}
