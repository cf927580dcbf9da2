package live

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

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
