package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// writeInitrd writes one compressed archive. The kernel's decoder takes windows up to 128 MiB; 8 MiB keeps its memory small
// on the machine, and the level is the one at which a build takes two seconds, not the minute that would save another 5 %.
func writeInitrd(ctx context.Context, w io.Writer, o Options, version string, files []moduleFile) error {
	modules, err := selectModules(o.ModulesDir, files)
	if err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	z, err := zstd.NewWriter(w, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		return err
	}
	a := &archive{w: z}
	for _, d := range []string{"dev", "etc", "proc", "run", "sys", "tmp", "mnt", "root"} {
		a.dir(d)
	}
	a.char("dev/console", 5, 1)
	a.char("dev/null", 1, 3)
	a.char("dev/kmsg", 1, 11)
	writeModules(a, version, modules)
	if err := writeFirmware(a, filepath.Join(o.ModulesDir, "../../firmware"), modules); err != nil {
		return errors.Join(err, z.Close())
	}
	if err := writeProgram(a, o.Binary); err != nil {
		return errors.Join(err, z.Close())
	}
	return errors.Join(a.close(), z.Close(), ctx.Err())
}

func writeProgram(a *archive, binary string) error {
	f, err := os.Open(binary)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	a.stream("init", modeProgram, st.Size(), f)
	return nil
}

// writeModules writes the drivers, and beside them modules.dep, .alias and .softdep in the form of kmod.
func writeModules(a *archive, version string, modules []module) {
	root := "lib/modules/" + version
	made := map[string]bool{".": true}
	paths := make(map[string]string, len(modules))
	for _, m := range modules {
		paths[moduleFile{path: m.path}.name()] = m.path
	}
	var dep, alias, soft strings.Builder
	a.mkdirs(root, made)
	for _, m := range modules {
		name := moduleFile{path: m.path}.name()
		full := root + "/" + m.path
		a.mkdirs(path.Dir(full), made)
		a.file(full, modeFile, m.data)
		dep.WriteString(m.path + ":")
		for _, d := range m.depends {
			if p, ok := paths[canonical(d)]; ok {
				dep.WriteString(" " + p)
			}
		}
		dep.WriteString("\n")
		for _, s := range m.aliases {
			_, _ = fmt.Fprintf(&alias, "alias %s %s\n", s, name)
		}
		if len(m.soft) > 0 {
			_, _ = fmt.Fprintf(&soft, "softdep %s pre: %s\n", name, strings.Join(m.soft, " "))
		}
	}
	a.file(root+"/modules.dep", modeFile, []byte(dep.String()))
	a.file(root+"/modules.alias", modeFile, []byte(alias.String()))
	a.file(root+"/modules.softdep", modeFile, []byte(soft.String()))
}

// writeFirmware adds the blobs that the chosen modules name, as far as the tree has them.
func writeFirmware(a *archive, dir string, modules []module) error {
	made := map[string]bool{".": true, "lib": true}
	done := make(map[string]bool)
	for _, m := range modules {
		for _, name := range m.firmware {
			for _, end := range []string{"", ".xz", ".zst"} {
				// The name comes from a module: it must stay below the directory.
				rel := path.Clean("/" + name + end)
				data, err := os.ReadFile(filepath.Join(dir, rel))
				if errors.Is(err, fs.ErrNotExist) || done[rel] {
					continue
				}
				if err != nil {
					return fmt.Errorf("firmware of %s: %w", m.path, err)
				}
				done[rel] = true
				a.mkdirs(path.Dir("lib/firmware"+rel), made)
				a.file("lib/firmware"+rel, modeFile, data)
			}
		}
	}
	return nil
}

func (a *archive) mkdirs(dir string, made map[string]bool) {
	if made[dir] {
		return
	}
	a.mkdirs(path.Dir(dir), made)
	made[dir] = true
	a.dir(dir)
}
