package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
)

// installOnto runs Install as an ordinary process against n, and returns what the console showed.
func installOnto(ctx context.Context, t *testing.T, n *node, disk string) (string, error) {
	t.Helper()
	var console bytes.Buffer
	err := Install(ctx, Options{URL: n.URL + "/b/nonce", Console: &console, System: Process{Disk: disk, Dir: t.TempDir()}, Hold: time.Hour})
	return console.String(), err
}

func deadline(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestInstallLeavesADiskThatForeignToolsAccept(t *testing.T) {
	need(t, true)
	raw := testImage(t)
	n := newNode(t, compress(t, raw), install.FormatRawZstd, int64(len(raw)))
	disk := blankDisk(t, 256<<20)
	out, err := installOnto(deadline(t), t, n, disk)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if want := "agent inventory disk image configure installed"; n.phases() != want {
		t.Errorf("phases %q, want %q", n.phases(), want)
	}
	if strings.Contains(out, "secretword") || strings.Contains(out, "hashhash") {
		t.Errorf("the console shows a secret: %s", out)
	}
	checkInstalled(t, disk)
}

// The image ends where the disk ends: the copy of the partition table must wait as well.
func TestImageMayFillTheDiskToTheLastSector(t *testing.T) {
	need(t, true)
	raw := testImage(t)
	n := newNode(t, raw, install.FormatRaw, int64(len(raw)))
	disk := blankDisk(t, int64(len(raw)))
	if out, err := installOnto(deadline(t), t, n, disk); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkInstalled(t, disk)
}

// A killed process must not leave a mount behind: what others see is what would stay.
func TestRootIsMountedForNobodyElse(t *testing.T) {
	need(t, true)
	disk := blankDisk(t, imageSize)
	if err := os.WriteFile(disk, testImage(t), 0o600); err != nil {
		t.Fatal(err)
	}
	root := image.Root{Partition: image.Partition{Number: 1, Offset: rootOffset, Size: rootSize}, FS: "ext4"}
	var inside, others string
	err := withRoot(disk, root, t.TempDir(), func(dir string) error {
		inside = dir
		raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/mounts", os.Getppid()))
		others = string(raw)
		_, stat := os.Stat(dir + "/etc/shadow")
		return errors.Join(err, stat)
	})
	if err != nil || strings.Contains(others, inside) {
		t.Errorf("%v; the parent sees %s", err, others)
	}
	if _, err := os.Stat(inside); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("mount point is left: %v", err)
	}
}

func TestInterruptedInstallNeverBootsAndIsTakenUpAgain(t *testing.T) {
	need(t, true)
	raw := testImage(t)
	stored := compress(t, raw)
	disk := blankDisk(t, int64(len(raw)))
	for i := range 12 {
		n := newNode(t, stored, install.FormatRawZstd, int64(len(raw)))
		ctx, cancel := context.WithCancel(deadline(t))
		stop := []install.Phase{install.PhaseInventory, install.PhaseDisk, install.PhaseImage, install.PhaseConfigure}[i%4]
		n.event = func(e install.Event) int {
			if e.Phase == stop {
				time.AfterFunc(time.Duration(rand.IntN(40))*time.Millisecond, cancel)
			}
			if e.Phase == install.PhaseInstalled {
				return http.StatusServiceUnavailable // the seed is gone: nobody acknowledges
			}
			return 0
		}
		out, err := installOnto(ctx, t, n, disk)
		if !errors.Is(err, context.Canceled) {
			t.Fatalf("interrupted in %s: %v\n%s", stop, err, out)
		}
		head := readAt(t, disk, 0, 1024)
		if bytes.Equal(head[510:512], []byte{0x55, 0xaa}) || bytes.HasPrefix(head[512:], []byte("EFI PART")) {
			checkInstalled(t, disk) // it may boot only if it was through before the interruption came
			continue
		}
		if tail := readAt(t, disk, int64(len(raw))-tailSize, tailSize); bytes.Contains(tail, []byte("EFI PART")) {
			t.Fatalf("interrupted in %s: the copy of the partition table is there", stop)
		}
	}
	n := newNode(t, stored, install.FormatRawZstd, int64(len(raw)))
	if out, err := installOnto(deadline(t), t, n, disk); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkInstalled(t, disk)
}

func TestForeignDataIsNotOverwrittenUnlessArmedWithWipe(t *testing.T) {
	need(t, true)
	raw := testImage(t)
	n := newNode(t, compress(t, raw), install.FormatRawZstd, int64(len(raw)))
	disk := blankDisk(t, 256<<20)
	sh(t, "", "mke2fs", "-q", "-t", "ext4", disk)
	before := readAt(t, disk, 0, 1<<20)
	ctx, cancel := context.WithCancel(deadline(t))
	n.event = func(e install.Event) int {
		if e.Failed {
			cancel()
		}
		return 0
	}
	out, err := installOnto(ctx, t, n, disk)
	if !errors.Is(err, context.Canceled) || !strings.Contains(out, "ext2/3/4") || !strings.Contains(out, "--wipe") {
		t.Fatalf("%v\n%s", err, out)
	}
	last := n.events[len(n.events)-1]
	if !last.Final || !strings.Contains(last.Text, "disk: ") {
		t.Errorf("event %+v", last)
	}
	if !bytes.Equal(before, readAt(t, disk, 0, 1<<20)) {
		t.Fatal("the disk was written to")
	}
	n.cfg.Wipe, n.event = true, nil
	if out, err := installOnto(deadline(t), t, n, disk); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	checkInstalled(t, disk)
}

func TestFailedStepIsTriedThreeTimesThenHeldUntilArmedAgain(t *testing.T) {
	need(t, true)
	raw := testImage(t)
	n := newNode(t, raw, install.FormatRaw, int64(len(raw)))
	good := n.cfg
	n.cfg.Image.SHA256 = strings.Repeat("00", 32)
	asked := 0
	n.refuse = func() (int, string) {
		switch asked++; asked {
		case 1:
			return 0, ""
		case 2:
			return http.StatusForbidden, "machine m1 is held"
		}
		n.cfg = good
		return 0, ""
	}
	var console bytes.Buffer
	disk := blankDisk(t, 256<<20)
	err := Install(deadline(t), Options{
		URL: n.URL + "/b/nonce", Console: &console, System: Process{Disk: disk, Dir: t.TempDir()}, Hold: 10 * time.Millisecond,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, console.String())
	}
	failed := slices.DeleteFunc(slices.Clone(n.events), func(e install.Event) bool { return !e.Failed })
	if len(failed) != attempts || failed[0].Final || !failed[2].Final || !strings.Contains(failed[2].Text, "image: ") {
		t.Errorf("failures %+v", failed)
	}
	if !strings.Contains(console.String(), "machine m1 is held") {
		t.Errorf("the console does not give the reason: %s", console.String())
	}
	checkInstalled(t, disk)
}

func TestMachineIsNotRestartedBeforeTheNodeHasHeard(t *testing.T) {
	need(t, true)
	raw := testImage(t)
	n := newNode(t, raw, install.FormatRaw, int64(len(raw)))
	deaf := 2
	n.event = func(e install.Event) int {
		if e.Phase == install.PhaseInstalled && deaf > 0 {
			deaf--
			return http.StatusServiceUnavailable
		}
		return 0
	}
	if out, err := installOnto(deadline(t), t, n, blankDisk(t, 256<<20)); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if deaf != 0 || !strings.HasSuffix(n.phases(), "installed") {
		t.Errorf("deaf %d, phases %s", deaf, n.phases())
	}
}

func TestDownloadResumesWhereItBroke(t *testing.T) {
	stored := make([]byte, 1<<20)
	for i := range stored {
		stored[i] = byte(rand.IntN(256))
	}
	n := newNode(t, stored, install.FormatRaw, 0)
	breaks := 0
	n.image = func(w http.ResponseWriter, r *http.Request) bool {
		if breaks++; breaks > 3 {
			return false
		}
		var from int
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err != nil {
			t.Error(err)
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(stored)-1, len(stored)))
		w.Header().Set("Content-Length", fmt.Sprint(len(stored)-from))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(stored[from : from+100_000])
		return true
	}
	c := testClient(t, n)
	var got bytes.Buffer
	d := c.download(deadline(t), n.URL+"/image", 0, int64(len(stored)))
	if _, err := got.ReadFrom(d); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got.Bytes(), stored) {
		t.Fatal("other bytes")
	}
	random := random{c, deadline(t), n.URL + "/image", int64(len(stored))}
	p := make([]byte, 1000)
	if k, err := random.ReadAt(p, 1<<20-500); k != 500 || err == nil || !bytes.Equal(p[:500], stored[1<<20-500:]) {
		t.Errorf("read over the end: %d %v", k, err)
	}
}

func TestMissingImageIsNotAskedForAgain(t *testing.T) {
	n := newNode(t, nil, install.FormatRaw, 0)
	asked := 0
	n.image = func(w http.ResponseWriter, _ *http.Request) bool {
		asked++
		http.Error(w, "artifact is not here", http.StatusNotFound)
		return true
	}
	c := testClient(t, n)
	_, err := c.download(deadline(t), n.URL+"/image", 0, 10).Read(make([]byte, 10))
	if err == nil || !strings.Contains(err.Error(), "artifact is not here") || asked != 1 {
		t.Errorf("%v after %d requests", err, asked)
	}
}

func TestRedirectsAreRefused(t *testing.T) {
	n := newNode(t, []byte("x"), install.FormatRaw, 0)
	n.image = func(w http.ResponseWriter, r *http.Request) bool {
		http.Redirect(w, r, "http://192.0.2.1/", http.StatusFound)
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := testClient(t, n).download(ctx, n.URL+"/image", 0, 1).Read(make([]byte, 1)); err == nil {
		t.Fatal("followed")
	}
}

func testClient(t *testing.T, n *node) *client {
	t.Helper()
	c, err := newClient(n.URL+"/b/nonce", discard)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.close)
	return c
}

func readAt(t *testing.T, path string, off, n int64) []byte {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := make([]byte, n)
	if _, err := f.ReadAt(p, off); err != nil {
		t.Fatal(err)
	}
	return p
}

// crashing is a disk that loses power after some writes.
type crashing struct {
	data   []byte
	writes int // that still work
}

var errPower = errors.New("power loss")

func (c *crashing) WriteAt(p []byte, off int64) (int, error) {
	if c.writes--; c.writes < 0 {
		return 0, errPower
	}
	return copy(c.data[off:], p), nil
}

func (c *crashing) ZeroRange(off, n int64) error {
	_, err := c.WriteAt(make([]byte, n), off)
	return err
}

func (c *crashing) ReadAt(p []byte, off int64) (int, error) { return copy(p, c.data[off:]), nil }
func (c *crashing) Sync() error                             { return nil }
func (c *crashing) Size() int64                             { return int64(len(c.data)) }
func (c *crashing) Close() error                            { return nil }

var _ image.Target = (*crashing)(nil)

// Power is lost after every single write of a whole run over a disk that held another system (wiped with consent). What is
// left is the old disk untouched, or ours and interrupted, or ours and complete: never a half that boots, nor one that the
// next attempt would take for foreign.
func TestPowerLossAtAnyWriteLeavesADiskThatIsRecognised(t *testing.T) {
	const size = 20 << 20
	system := make([]byte, size)
	for i := range system {
		system[i] = byte(i>>12) | 1
	}
	clear(system[stampAt:headSize])
	copy(system[510:], "\x55\xaaEFI PART")
	copy(system[size-512:], "EFI PART")
	old := bytes.Repeat([]byte("old"), size/3+1)[:size]
	for cut := 0; ; cut++ {
		c := &crashing{data: bytes.Clone(old), writes: cut}
		err := writeAll(c, system)
		head, tail := c.data[:headSize], c.data[size-headSize:]
		want := bytes.Clone(system)
		copy(want[stampAt:], markFinished+testInstall+"\n")
		switch {
		case bytes.Equal(c.data, old), bytes.HasPrefix(head, []byte(markRunning)):
		case bytes.Equal(c.data, want):
		default:
			t.Fatalf("after %d writes: neither old, nor marked, nor complete", cut)
		}
		if cut > 0 && foreign(head, tail, testInstall) != "" {
			t.Fatalf("after %d writes the next attempt finds %s", cut, foreign(head, tail, testInstall))
		}
		if err == nil {
			return
		}
		if !errors.Is(err, errPower) {
			t.Fatal(err)
		}
	}
}

func writeAll(c *crashing, system []byte) error {
	d := &heldDisk{target: c, size: c.Size()}
	if err := d.begin(testInstall, true); err != nil {
		return err
	}
	for off := 0; off < len(system); off += 3 << 20 {
		if _, err := d.WriteAt(system[off:min(off+3<<20, len(system))], int64(off)); err != nil {
			return err
		}
	}
	back := make([]byte, len(system))
	if _, err := d.ReadAt(back, 0); err != nil || !bytes.Equal(back, system) {
		return fmt.Errorf("reads back as something else: %w", err)
	}
	return d.commit(testInstall)
}
