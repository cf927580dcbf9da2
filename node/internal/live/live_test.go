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
)

// tree returns a kernel and module tree to build from: named by OFFSHOOT_LIVE_ROOT (a root file system), else the host's.
func tree(t *testing.T) Options {
	t.Helper()
	o := Options{Out: t.TempDir(), Binary: "/proc/self/exe"}
	if err := checkStatic(o.Binary); err != nil {
		t.Skipf("the test's own binary serves as /init: %v", err)
	}
	var err error
	if root := os.Getenv("OFFSHOOT_LIVE_ROOT"); root != "" {
		dirs, _ := filepath.Glob(filepath.Join(root, "usr/lib/modules/*"))
		if len(dirs) != 1 {
			t.Fatalf("OFFSHOOT_LIVE_ROOT=%s: want one module tree, got %v", root, dirs)
		}
		o.Kernel, o.ModulesDir, err = findKernel(root, filepath.Base(dirs[0]))
	} else {
		o.Kernel, o.ModulesDir, err = HostKernel()
	}
	if err != nil {
		t.Skipf("no kernel with modules to build from (OFFSHOOT_LIVE_ROOT names a root file system): %v", err)
	}
	return o
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

func TestKernelOfAnotherReleaseIsRefused(t *testing.T) {
	kernel := filepath.Join(t.TempDir(), "vmlinuz")
	head := make([]byte, 4096)
	copy(head[0x202:], "HdrS")
	head[0x20e], head[0x20f] = 0x00, 0x04
	copy(head[0x600:], "6.1.0-1-amd64 (me) #1\x00")
	if err := os.WriteFile(kernel, head, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := checkKernel(kernel, "6.1.0-1-amd64"); err != nil {
		t.Error(err)
	}
	if err := checkKernel(kernel, "6.1.0-2-amd64"); err == nil || !strings.Contains(err.Error(), "is release 6.1.0-1-amd64") {
		t.Errorf("got %v", err)
	}
}

func TestProgramThatNeedsALoaderIsRefused(t *testing.T) {
	if _, err := os.Stat("/bin/sh"); err != nil {
		t.Skip("needs /bin/sh")
	}
	if err := checkStatic("/bin/sh"); err == nil || !strings.Contains(err.Error(), "CGO_ENABLED=0") {
		t.Errorf("got %v", err)
	}
}

func TestTargetsAndTestDriversStayOutside(t *testing.T) {
	for path, want := range map[string]bool{
		"kernel/drivers/net/ethernet/intel/e1000/e1000.ko.xz": true,
		"kernel/drivers/nvme/host/nvme.ko":                    true,
		"kernel/drivers/nvme/target/nvmet.ko":                 false,
		"kernel/drivers/scsi/scsi_debug.ko.xz":                false,
		"kernel/drivers/gpu/drm/i915/i915.ko":                 false,
		"kernel/drivers/net/wireless/ath/ath.ko":              false,
	} {
		if isWanted(path) != want {
			t.Errorf("%s: wanted is %t", path, !want)
		}
	}
}

func FuzzKernelHeader(f *testing.F) {
	f.Add([]byte("HdrS"))
	f.Fuzz(func(_ *testing.T, raw []byte) { _, _ = bzImageRelease(raw) })
}

func FuzzModuleInfo(f *testing.F) {
	f.Add([]byte("\x7fELF"))
	f.Fuzz(func(_ *testing.T, raw []byte) {
		m := module{data: raw}
		_ = m.readInfo()
	})
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
