//go:build metal

package live

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cavaliergopher/cpio"
	"github.com/klauspost/compress/zstd"

	"offshoot/node/internal/image"
)

// tree returns a kernel and module tree to build from: those of the golden image.
func tree(t *testing.T) Options {
	t.Helper()
	golden := os.Getenv("OFFSHOOT_IMAGE")
	if golden == "" {
		t.Fatal("OFFSHOOT_IMAGE names no golden image: run this with make test-metal")
	}
	kernel, modules, err := image.ExtractKernel(t.Context(), golden, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return Options{Out: t.TempDir(), Binary: "/proc/self/exe", Kernel: kernel, ModulesDir: modules}
}

func TestInitramfsHoldsDriversAndTheBinary(t *testing.T) {
	o := tree(t)
	res, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	files := unpack(t, res.InitrdPath)
	self, err := os.ReadFile(o.Binary)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(files["init"], self) {
		t.Error("/init is not the binary")
	}
	base := "lib/modules/" + res.Version + "/"
	dep := string(files[base+"modules.dep"])
	for line := range strings.Lines(dep) {
		for f := range strings.FieldsSeq(strings.Replace(line, ":", " ", 1)) {
			if _, ok := files[base+f]; !ok {
				t.Errorf("modules.dep names %s, which is not there", f)
			}
		}
	}
	if !strings.Contains(dep, "virtio_net.ko:") || !strings.Contains(string(files[base+"modules.alias"]), "alias virtio:") {
		t.Error("no virtio network driver")
	}
	st, err := os.Stat(res.InitrdPath)
	if err != nil {
		t.Fatal(err)
	}
	var modules int
	for _, d := range files {
		modules += len(d)
	}
	t.Logf("initrd %d bytes, %d files, %d bytes of them unpacked besides the binary", st.Size(), len(files), modules-len(self))
}

// The tree's own modules.dep, made by depmod, is the foreign opinion on our reading of .modinfo.
func TestDependenciesAgreeWithDepmod(t *testing.T) {
	o := tree(t)
	raw, err := os.ReadFile(filepath.Join(o.ModulesDir, "modules.dep"))
	if errors.Is(err, os.ErrNotExist) {
		t.Skip("depmod never ran over the tree")
	} else if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]map[string]bool)
	for line := range strings.Lines(string(raw)) {
		name, deps, _ := strings.Cut(strings.TrimSpace(line), ":")
		set := make(map[string]bool)
		for d := range strings.FieldsSeq(deps) {
			set[moduleFile{path: d}.name()] = true
		}
		want[moduleFile{path: name}.name()] = set
	}
	files, err := listModules(o.ModulesDir)
	if err != nil {
		t.Fatal(err)
	}
	modules, err := selectModules(o.ModulesDir, files)
	if err != nil {
		t.Fatal(err)
	}
	direct := make(map[string][]string)
	for _, m := range modules {
		direct[moduleFile{path: m.path}.name()] = m.depends
	}
	var reach func(string, map[string]bool)
	reach = func(name string, into map[string]bool) {
		for _, d := range direct[name] {
			into[canonical(d)] = true
			reach(canonical(d), into)
		}
	}
	for name := range direct {
		got := make(map[string]bool)
		reach(name, got)
		for d := range want[name] {
			if !got[d] {
				t.Errorf("%s: depmod says it needs %s", name, d)
			}
		}
		if len(got) != len(want[name]) {
			t.Errorf("%s: %v, depmod says %v", name, got, want[name])
		}
	}
}

func TestSecondBuildIsTheSameFile(t *testing.T) {
	o := tree(t)
	first, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.Stat(first.InitrdPath)
	if err != nil {
		t.Fatal(err)
	}
	second, err := Build(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(second.InitrdPath)
	if err != nil {
		t.Fatal(err)
	}
	if first != second || !os.SameFile(before, after) {
		t.Fatalf("built again: %+v, then %+v", first, second)
	}
}

func unpack(t *testing.T, path string) map[string][]byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	z, err := zstd.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	defer z.Close()
	files := make(map[string][]byte)
	r := cpio.NewReader(z)
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[h.Name] = data
	}
}
