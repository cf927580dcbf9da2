package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"testing"

	"offshoot/node/internal/image"
	"offshoot/node/internal/install"
)

// ourDisk is a disk that offshoot installed: a GPT with an ext4 and a swap, and our mark.
func ourDisk(t *testing.T) string {
	t.Helper()
	disk := foreignDisk(t)
	stamp(t, disk)
	return disk
}

func stamp(t *testing.T, disk string) {
	t.Helper()
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.WriteAt([]byte(markFinished+testInstall+"\n"), stampAt)
	if err := errors.Join(err, f.Close()); err != nil {
		t.Fatal(err)
	}
}

const releaseDisk = 64 << 20

func foreignDisk(t *testing.T) string {
	t.Helper()
	need(t, false, "mke2fs", "mkswap", "sfdisk", "wipefs")
	disk := blankDisk(t, releaseDisk)
	sh(t, "label: gpt\nstart=4096, size=49152, type=linux\nstart=57344, size=32768, type=swap\n", "sfdisk", "-q", disk)
	sh(t, "", "mke2fs", "-q", "-t", "ext4", "-E", fmt.Sprintf("offset=%d", 4096*512), disk, "24576k")
	swap := blankDisk(t, 16<<20)
	sh(t, "", "mkswap", "-q", swap)
	sh(t, "", "dd", "if="+swap, "of="+disk, "bs=1M", fmt.Sprintf("seek=%d", 57344*512>>20), "conv=notrunc,sparse", "status=none")
	f, err := os.OpenFile(disk, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	// What wipefs would find at the end of a partition: a Linux RAID of version 0.90 and 1.0, somewhere in the last 128 KiB.
	for off, magic := range map[int64]string{(57344+32768)*512 - 65536: "\xfc\x4e\x2b\xa9", (4096+49152)*512 - 8192: "\xfc\x4e\x2b\xa9"} {
		if _, err := f.WriteAt([]byte(magic), off); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	return disk
}

// marks is what foreign tools find on the disk and where its partitions were.
func marks(t *testing.T, disk string) string {
	t.Helper()
	out := sh(t, "", "wipefs", "--noheadings", disk)
	raw, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	for name, magic := range map[string]string{"RAID": "\xfc\x4e\x2b\xa9", "GPT": "EFI PART", "swap": "SWAPSPACE2", "ours": "OFFSHOOT"} {
		if bytes.Contains(raw, []byte(magic)) {
			out += name + "\n"
		}
	}
	if raw[4096*512+1024+56] == 0x53 {
		out += "ext4\n"
	}
	return out
}

// releasing is a node that orders a release, and then to wait.
func releasing(t *testing.T, o install.Order) (*httptest.Server, *[]install.Event) {
	t.Helper()
	var events []install.Event
	done := false
	mux := http.NewServeMux()
	mux.HandleFunc("GET /b/nonce/order", func(w http.ResponseWriter, _ *http.Request) {
		order := o
		if done {
			order = install.Order{Do: install.DoRestart}
		}
		order.Install, order.Name, order.Machine = testInstall, "m1", testMAC
		_ = json.NewEncoder(w).Encode(order.Sealed())
	})
	mux.HandleFunc("POST /b/nonce/event", func(_ http.ResponseWriter, r *http.Request) {
		e, err := install.DecodeEvent(r.Body)
		if err != nil {
			t.Errorf("the agent sent a bad event: %v", err)
		}
		events = append(events, e)
		done = done || e.Phase == install.PhaseReleased || e.Final
	})
	s := httptest.NewServer(mux)
	t.Cleanup(s.Close)
	return s, &events
}

func releaseOnto(t *testing.T, o install.Order, disk string) (last install.Event) {
	t.Helper()
	o.Do = install.DoRelease
	s, events := releasing(t, o)
	var console bytes.Buffer
	if err := Install(deadline(t), Options{URL: s.URL + "/b/nonce", Console: &console, System: Process{Disk: disk, Dir: t.TempDir()}}); err != nil {
		t.Fatalf("%v\n%s", err, console.String())
	}
	return (*events)[len(*events)-1]
}

func TestReleaseLeavesNothingThatForeignToolsRecognise(t *testing.T) {
	disk := ourDisk(t)
	if found := marks(t, disk); !strings.Contains(found, "gpt") || !strings.Contains(found, "ext4") || !strings.Contains(found, "swap") {
		t.Fatalf("the test's disk bears only: %s", found)
	}
	last := releaseOnto(t, install.Order{}, disk)
	if last.Phase != install.PhaseReleased || !strings.Contains(last.Text, "wiped") {
		t.Errorf("last event %+v", last)
	}
	if found := marks(t, disk); found != "" {
		t.Errorf("the disk still bears: %s", found)
	}
}

func TestReleaseLeavesForeignDisksAloneUnlessToldToWipe(t *testing.T) {
	disk := foreignDisk(t)
	before, err := os.ReadFile(disk)
	if err != nil {
		t.Fatal(err)
	}
	last := releaseOnto(t, install.Order{}, disk)
	after, err := os.ReadFile(disk)
	if err != nil || !bytes.Equal(before, after) {
		t.Fatalf("a disk that offshoot did not install was written to: %v", err)
	}
	if !strings.Contains(last.Text, "left alone: it holds a GPT partition table") || !strings.Contains(last.Text, "--wipe") {
		t.Errorf("last event %+v", last)
	}
	releaseOnto(t, install.Order{Wipe: true}, disk)
	if found := marks(t, disk); found != "" {
		t.Errorf("the disk still bears: %s", found)
	}
}

func TestReleaseDiscardsAllBlocks(t *testing.T) {
	disk := ourDisk(t)
	last := releaseOnto(t, install.Order{Discard: true}, disk)
	raw, err := os.ReadFile(disk)
	if err != nil || !zero(raw) { // of a file, what is discarded reads as zeros
		t.Errorf("the disk is not empty: %v", err)
	}
	if !strings.Contains(last.Text, "all blocks discarded") {
		t.Errorf("last event %+v", last)
	}
}

func TestReleaseNeverTouchesRemovableDisks(t *testing.T) {
	disks := []install.Disk{{Path: "/dev/sda", Size: 1e12}, {Path: "/dev/sdb", Size: 16e9, Removable: true}, {Path: "/dev/sdc", Size: 1e12, ReadOnly: true}}
	all, err := releasable(disks, "")
	if err != nil || len(all) != 1 || all[0].Path != "/dev/sda" {
		t.Errorf("%v, %v", all, err)
	}
	if _, err := releasable(disks, "/dev/sdb"); err == nil || !strings.Contains(err.Error(), "removable") {
		t.Errorf("by its name: %v", err)
	}
	if _, err := releasable(disks, "/dev/sdx"); err == nil {
		t.Error("a disk that is not there")
	}
}

// cutDisk loses its power after some writes.
type cutDisk struct {
	*image.FileTarget
	left int
}

var errCut = errors.New("power loss")

func (d *cutDisk) spend() error {
	if d.left--; d.left < 0 {
		return errCut
	}
	return nil
}

func (d *cutDisk) WriteAt(p []byte, off int64) (int, error) {
	if err := d.spend(); err != nil {
		return 0, err
	}
	return d.FileTarget.WriteAt(p, off)
}

func (d *cutDisk) ZeroRange(off, n int64) error {
	if err := d.spend(); err != nil {
		return err
	}
	return d.FileTarget.ZeroRange(off, n)
}

// Wherever a release is cut off, the next try knows the disk for ours, and brings it to the end.
func TestPowerLossAtAnyWriteOfAReleaseIsMendedByTheNext(t *testing.T) {
	fresh, err := os.ReadFile(ourDisk(t))
	if err != nil {
		t.Fatal(err)
	}
	for writes := 0; ; writes++ {
		disk := blankDisk(t, 0)
		if err := os.WriteFile(disk, fresh, 0o600); err != nil {
			t.Fatal(err)
		}
		target, err := image.OpenTarget(disk)
		if err != nil {
			t.Fatal(err)
		}
		err = erase(&cutDisk{target, writes}, target.Size(), testInstall, func() error { return nil })
		if errors.Join(target.Close()) != nil || err != nil && !errors.Is(err, errCut) {
			t.Fatal(err)
		}
		head := make([]byte, headSize)
		f, openErr := os.Open(disk)
		if openErr != nil {
			t.Fatal(openErr)
		}
		_, readErr := f.ReadAt(head, 0)
		if err := errors.Join(readErr, f.Close()); err != nil {
			t.Fatal(err)
		}
		if err == nil {
			if writes < 6 {
				t.Errorf("all was done after %d writes", writes)
			}
			return
		}
		if !ours(head) {
			t.Fatalf("cut off at write %d, the disk does not show that it is ours", writes)
		}
		releaseOnto(t, install.Order{}, disk)
		if found := marks(t, disk); found != "" {
			t.Fatalf("cut off at write %d, and released again, the disk still bears: %s", writes, found)
		}
	}
}

// An agent that waits tells what the machine is, installs when it is armed, and does not ask the same again and again.
func TestWaitingAgentInstallsWhenItIsArmed(t *testing.T) {
	need(t, true)
	raw := testImage(t)
	n := newNode(t, raw, install.FormatRaw, int64(len(raw)))
	asked := 0
	var boots []string
	mux := http.NewServeMux()
	mux.HandleFunc("GET /b/nonce/order", func(w http.ResponseWriter, r *http.Request) {
		o := install.Order{Do: install.DoWait, Name: "m1", Machine: testMAC, Text: "free", Inventory: asked == 0}
		if asked++; asked > 2 {
			o.Do = install.DoInstall
		}
		boots = append(boots, r.URL.Query().Get("boot"))
		_ = json.NewEncoder(w).Encode(o.Sealed())
	})
	mux.Handle("/", n.Config.Handler)
	front := httptest.NewServer(mux)
	defer front.Close()
	var console bytes.Buffer
	err := Install(deadline(t), Options{URL: front.URL + "/b/nonce", Console: &console, System: Process{Disk: blankDisk(t, 256<<20), Dir: t.TempDir()}})
	if err != nil {
		t.Fatalf("%v\n%s", err, console.String())
	}
	if want := "inventory agent inventory disk image configure installed"; n.phases() != want {
		t.Errorf("phases %q, want %q", n.phases(), want)
	}
	if boots[0] == "" || boots[0] != boots[len(boots)-1] {
		t.Errorf("the boot has the names %q", boots)
	}
	if !strings.Contains(console.String(), "nothing is written to its disks: free") {
		t.Errorf("console: %s", console.String())
	}
}

func TestConsoleOfAWaitingMachine(t *testing.T) {
	var wishes []install.Request
	mux := http.NewServeMux()
	mux.HandleFunc("GET /b/nonce/order", func(w http.ResponseWriter, r *http.Request) {
		o := install.Order{Do: install.DoWait, Name: "m1", Machine: testMAC, Text: "free"}.Sealed()
		if r.URL.Query().Get("have") == o.Key { // nothing new: wait, as a node does
			<-r.Context().Done()
			return
		}
		_ = json.NewEncoder(w).Encode(o)
	})
	mux.HandleFunc("POST /b/nonce/request", func(_ http.ResponseWriter, r *http.Request) {
		q, err := install.DecodeRequest(r.Body)
		if err != nil {
			t.Error(err)
		}
		wishes = append(wishes, q)
	})
	front := httptest.NewServer(mux)
	defer front.Close()
	for line, want := range map[string]struct {
		wish install.Wish
		err  error
	}{"2": {install.WishOwnDisk, nil}, "3": {install.WishOff, ErrOff}} {
		wishes = nil
		lines := make(chan string)
		ctx, cancel := context.WithCancel(deadline(t))
		go func() { // until the menu is there, lines choose nothing
			for {
				select {
				case lines <- line:
				case <-ctx.Done():
					return
				}
			}
		}()
		err := Install(ctx, Options{URL: front.URL + "/b/nonce", Lines: lines, System: Process{Disk: blankDisk(t, 32<<20)}})
		cancel()
		if !errors.Is(err, want.err) || len(wishes) != 1 || wishes[0].Wish != want.wish {
			t.Errorf("typed %s: %v, wishes %+v", line, err, wishes)
		}
	}
}

func TestMachineWhoseNonceIsGoneBootsAnew(t *testing.T) {
	gone := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "boot again", http.StatusGone) }))
	defer gone.Close()
	if err := Install(deadline(t), Options{URL: gone.URL + "/b/nonce", System: Process{Disk: "/dev/null"}}); !errors.Is(err, ErrLost) {
		t.Errorf("got %v", err)
	}
}
