package image

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"
)

// skip skips a test that this host cannot run; where CI promises the tier it fails instead.
func skip(t *testing.T, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func need(t *testing.T, tools ...string) {
	t.Helper()
	for _, tool := range tools {
		if _, err := exec.LookPath(tool); err != nil {
			skip(t, err.Error())
		}
	}
}

// Places on the test disk.
const (
	testRoot = 2 * mib
	testSize = 5*mib + 512
)

// testDisk is a small, bootable looking disk with data, zeros, short runs of zeros, and an end that is no multiple of much.
// It is always the same, so that its stored forms can be kept.
func testDisk(t *testing.T) []byte {
	t.Helper()
	return bytes.Clone(theDisk())
}

var theDisk = sync.OnceValue(func() []byte {
	r := rand.NewChaCha8([32]byte{1})
	disk := make([]byte, testSize)
	_, _ = r.Read(disk[:440])
	_, _ = r.Read(disk[mib : mib+5000])
	_, _ = r.Read(disk[testRoot+mib/4:][:300_000])
	_, _ = r.Read(disk[3*mib+100:][:100])
	copy(disk[7*mib/2:], bytes.Repeat([]byte("offshoot"), 50_000))
	partition(disk, []newPartition{
		{typeBIOSBoot, "bios", mib, mib / 4}, {typeESP, "esp", mib + mib/4, mib / 4}, {typeRootX64, "root", testRoot, 2 * mib},
	})
	return disk
})

// partition writes both tables of a disk.
func partition(disk []byte, parts []newPartition) {
	h, entries := newGPT(int64(len(disk)), parts)
	last := uint64(len(disk)/sectorSize - 1)
	protectiveMBR(disk, last+1)
	copy(disk[sectorSize:], h.encode(1, last, 2, entries))
	copy(disk[2*sectorSize:], entries)
	copy(disk[(last-gptTable)*sectorSize:], entries)
	copy(disk[last*sectorSize:], h.encode(last, 1, last-gptTable, entries))
}

func packZstd(t *testing.T, p []byte, noteSize bool) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := zstd.NewWriter(&out, zstd.WithEncoderConcurrency(1))
	if err != nil {
		t.Fatal(err)
	}
	if noteSize {
		enc.ResetContentSize(&out, int64(len(p)))
	}
	_, err = enc.Write(p)
	if err := errors.Join(err, enc.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func packXZ(t *testing.T, p []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	enc, err := xz.NewWriter(&out)
	if err != nil {
		t.Fatal(err)
	}
	_, err = enc.Write(p)
	if err := errors.Join(err, enc.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

// packQCOW2 has QEMU write the disk.
func packQCOW2(t *testing.T, p []byte, args ...string) []byte {
	t.Helper()
	need(t, "qemu-img")
	dir := t.TempDir()
	raw, out := filepath.Join(dir, "d.raw"), filepath.Join(dir, "d.qcow2")
	if err := os.WriteFile(raw, p, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("qemu-img", append(append([]string{"convert", "-f", "raw", "-O", "qcow2"}, args...), raw, out)...)
	if said, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	data, err := os.ReadFile(out)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

func save(t *testing.T, name string, p []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, p, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func sum(p []byte) string { return fmt.Sprintf("%x", sha256.Sum256(p)) }

func fileSum(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}

type form struct {
	Format Format
	Data   []byte
}

// storedForms spares each test the packing, which takes longer than all else.
var storedForms struct {
	sync.Mutex
	forms map[string]form
}

// stored is the test disk in every format. Nobody changes the data.
func stored(t *testing.T, disk []byte) map[string]form {
	t.Helper()
	storedForms.Lock()
	defer storedForms.Unlock()
	if storedForms.forms == nil {
		storedForms.forms = pack(t, disk)
	}
	return storedForms.forms
}

func pack(t *testing.T, disk []byte) map[string]form {
	z := packZstd(t, disk[:3*mib+7], true)
	return map[string]form{
		"raw":             {Raw, disk},
		"zst":             {RawZstd, packZstd(t, disk, true)},
		"zst unsized":     {RawZstd, packZstd(t, disk, false)},
		"zst in frames":   {RawZstd, append(append(bytes.Clone(z), 0x50, 0x2a, 0x4d, 0x18, 2, 0, 0, 0, 'x', 'y'), packZstd(t, disk[3*mib+7:], true)...)},
		"xz":              {RawXZ, packXZ(t, disk)},
		"qcow2":           {QCOW2, packQCOW2(t, disk)},
		"qcow2 v2":        {QCOW2, packQCOW2(t, disk, "-o", "compat=0.10,cluster_size=4096")},
		"qcow2 -c":        {QCOW2, packQCOW2(t, disk, "-c")},
		"qcow2 -c zstd":   {QCOW2, packQCOW2(t, disk, "-c", "-o", "compression_type=zstd,cluster_size=2M")},
		"qcow2 of 2^9":    {QCOW2, packQCOW2(t, disk, "-o", "cluster_size=512")},
		"qcow2 allocated": {QCOW2, packQCOW2(t, disk, "-S", "0")},
	}
}

func TestInspectTellsFormatBySizeAndContent(t *testing.T) {
	disk := testDisk(t)
	for name, s := range stored(t, disk) {
		t.Run(name, func(t *testing.T) {
			info, err := Inspect(save(t, "misleading.name", s.Data))
			if err != nil {
				t.Fatal(err)
			}
			if info.Format != s.Format || info.Size != int64(len(s.Data)) || info.DiskSize != int64(len(disk)) || info.Table != "gpt" ||
				len(info.Partitions) != 3 || !info.BIOS || !info.UEFI || info.Bootable() != nil {
				t.Errorf("got %+v", info)
			}
			if p := info.Partitions[2]; p.Number != 3 || p.Offset != testRoot || p.Size != 2*mib || p.Label != "root" {
				t.Errorf("root is %+v", p)
			}
		})
	}
}

func TestInspectSeesThatAnImageWasCut(t *testing.T) {
	for name, s := range stored(t, testDisk(t)) {
		t.Run(name, func(t *testing.T) {
			end := len(s.Data) - 513
			if s.Format == QCOW2 { // the rest of the last cluster may be padding
				end = len(s.Data) - 70_000
			}
			for _, n := range []int{end, len(s.Data) * 9 / 10, len(s.Data) / 2, 1000} {
				if info, err := Inspect(save(t, "x", s.Data[:n])); !errors.Is(err, ErrTruncated) {
					t.Errorf("cut to %d of %d bytes: %+v, %v", n, len(s.Data), info, err)
				}
			}
		})
	}
}

func TestInspectSaysWhatIsNotBootable(t *testing.T) {
	disk := testDisk(t)
	for name, break_ := range map[string]func([]byte){
		"no table":  func(p []byte) { clear(p[:mib]) },
		"plain FAT": func(p []byte) { clear(p[:mib]); copy(p, "\xeb\x58\x90mkfs.fat"); p[510], p[511] = 0x55, 0xaa },
	} {
		p := bytes.Clone(disk)
		break_(p)
		info, err := Inspect(save(t, "x", p))
		if err != nil || !errors.Is(info.Bootable(), ErrNoSystem) {
			t.Errorf("%s: %+v, %v", name, info, err)
		}
	}
	if _, err := Inspect(save(t, "x", []byte("hello"))); !errors.Is(err, ErrFormat) {
		t.Errorf("text: %v", err)
	}
	if _, err := Inspect(save(t, "x", nil)); !errors.Is(err, ErrFormat) {
		t.Errorf("empty: %v", err)
	}
}

func FuzzInspect(f *testing.F) {
	f.Add([]byte("QFI\xfb\x00\x00\x00\x03"))
	f.Add([]byte{0x28, 0xb5, 0x2f, 0xfd, 0x24, 5, 0x29, 0, 0, 'h', 'e', 'l', 'l', 'o'})
	f.Add([]byte("\xfd7zXZ\x00\x00\x04"))
	small := make([]byte, 256<<10)
	partition(small, []newPartition{{typeLinux, "root", 64 << 10, 128 << 10}})
	f.Add(small)
	f.Fuzz(func(t *testing.T, p []byte) {
		if info, err := inspect(bytes.NewReader(p), int64(len(p))); err == nil && info.Format == Raw {
			_, _ = RootPartition(bytes.NewReader(p), int64(len(p)))
		}
	})
}
