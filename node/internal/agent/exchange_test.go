package agent

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/install"
)

// neighbourhood is an Exchange with pieces of half a mebibyte, of which it gets some.
type neighbourhood struct {
	stored  []byte
	missing map[int]bool
	resumed []bool
	closed  int
	joins   int
}

const pieceOfTest = 1 << 19

func (e *neighbourhood) join(context.Context, install.Config, Meet) (Exchange, error) {
	e.joins++
	return e, nil
}

// Fetch implements Exchange.
func (e *neighbourhood) Fetch(_ context.Context, disk Spare, resume bool, progress func(int64)) error {
	e.resumed = append(e.resumed, resume)
	for i := 0; i*pieceOfTest < len(e.stored); i++ {
		if e.missing[i] {
			continue
		}
		off := i * pieceOfTest
		if _, err := disk.WriteAt(e.stored[off:min(off+pieceOfTest, len(e.stored))], int64(off)); err != nil {
			return err
		}
		progress(int64(off))
	}
	if len(e.missing) > 0 {
		return errors.New("they have gone")
	}
	return nil
}

// Missing implements Exchange.
func (e *neighbourhood) Missing(do func(off, n int64) error) error {
	for i := range e.missing {
		off := int64(i) * pieceOfTest
		if err := do(off, min(pieceOfTest, int64(len(e.stored))-off)); err != nil {
			return err
		}
	}
	return nil
}

// Moved implements Exchange.
func (e *neighbourhood) Moved() (fetched, given int64) { return 1_000_000, 2_000_000 }

// Close implements Exchange.
func (e *neighbourhood) Close() error {
	e.closed++
	return nil
}

// exchanging is a node, a disk with room, and what the machine has around it.
func exchanging(t *testing.T) (*node, *neighbourhood, string) {
	t.Helper()
	need(t, true)
	raw := testImage(t)
	n := newNode(t, raw, install.FormatRaw, int64(len(raw)))
	n.cfg.Image.InfoHash = strings.Repeat("1a", 20)
	return n, &neighbourhood{stored: raw}, blankDisk(t, 256<<20+int64(len(raw)))
}

func installTogether(t *testing.T, n *node, e *neighbourhood, disk string) string {
	t.Helper()
	var console bytes.Buffer
	err := Install(deadline(t), Options{
		URL: n.URL + "/b/nonce", Console: &console, System: Process{Disk: disk, Dir: t.TempDir()}, Hold: 10 * time.Millisecond, Join: e.join,
	})
	if err != nil {
		t.Fatalf("%v\n%s", err, console.String())
	}
	checkInstalled(t, disk)
	return n.accountOfImage()
}

// accountOfImage is what the timeline says of where the image came from.
func (n *node) accountOfImage() string {
	for _, e := range n.events {
		if e.Phase == install.PhaseConfigure {
			return e.Text
		}
	}
	return ""
}

func TestImageComesInPiecesAndNotByHTTP(t *testing.T) {
	n, e, disk := exchanging(t)
	asked := 0
	n.image = func(http.ResponseWriter, *http.Request) bool {
		asked++
		return false
	}
	account := installTogether(t, n, e, disk)
	if want := "image: 1.0 MB in pieces, 0 B by HTTP, 2.0 MB given to others"; account != want || asked != 0 {
		t.Errorf("%q, want %q; the image was asked for %d times", account, want, asked)
	}
	_, note, _ := strings.Cut(sh(t, "", "debugfs", "-R", "cat /var/lib/offshoot/"+install.GatheredFile, fmt.Sprintf("%s?offset=%d", disk, rootOffset)), "{")
	left, err := install.DecodeGathered(strings.NewReader("{" + note)) // behind what debugfs says of itself
	if err != nil || !bytes.Equal(readAt(t, disk, left.Offset, left.Size), e.stored) {
		t.Errorf("the machine is told that the stored image lies at %+v: %v", left, err)
	}
	if e.closed == 0 || e.resumed[0] {
		t.Errorf("closed %d times, resumed %v on a blank disk", e.closed, e.resumed)
	}
}

func TestPiecesThatDoNotComeAreFilledInByHTTP(t *testing.T) {
	n, e, disk := exchanging(t)
	e.missing = map[int]bool{0: true, 3: true}
	if account := installTogether(t, n, e, disk); !strings.Contains(account, "1.0 MB by HTTP") {
		t.Error(account)
	}
}

// Every piece may match an infohash that is not this image's: then only HTTP is believed.
func TestExchangeThatBringsAnotherImageIsNotTriedAgain(t *testing.T) {
	n, e, disk := exchanging(t)
	e.stored = bytes.Clone(e.stored)
	e.stored[len(e.stored)-1] ^= 1
	onlyHTTPIsBelieved(t, n, e, disk)
}

// A decoder notices before the digest is known.
func TestExchangeThatBringsWhatCannotBeUnpackedIsNotTriedAgain(t *testing.T) {
	_, e, disk := exchanging(t)
	n := newNode(t, compress(t, e.stored), install.FormatRawZstd, int64(len(e.stored)))
	n.cfg.Image.InfoHash = strings.Repeat("1a", 20)
	e.stored = bytes.Repeat([]byte("no frame"), int(n.cfg.Image.Size)/8+1)[:n.cfg.Image.Size]
	onlyHTTPIsBelieved(t, n, e, disk)
}

func onlyHTTPIsBelieved(t *testing.T, n *node, e *neighbourhood, disk string) {
	t.Helper()
	if account := installTogether(t, n, e, disk); e.joins != 1 || !strings.Contains(account, "by HTTP") || strings.Contains(account, "pieces") {
		t.Errorf("joined %d times; %s", e.joins, account)
	}
}

func TestImageIsStreamedWhereItCannotBeGathered(t *testing.T) {
	for name, change := range map[string]func(n *node){
		"not exchanged": func(n *node) { n.cfg.Image.InfoHash = "" },
		"size unknown":  func(n *node) { n.cfg.Image.DiskSize = 0 },
		"no room":       func(n *node) { n.cfg.Image.DiskSize = 256 << 20 },
	} {
		t.Run(name, func(t *testing.T) {
			n, e, disk := exchanging(t)
			change(n)
			if account := installTogether(t, n, e, disk); e.joins != 0 || strings.Contains(account, "pieces") {
				t.Errorf("joined %d times; %s", e.joins, account)
			}
		})
	}
}

// What is gathered lies behind the image, and before what firmware reads at the end of a disk.
func TestSpareTouchesNeitherTheImageNorTheEndOfTheDisk(t *testing.T) {
	img := install.Image{Size: 10<<20 + 1, DiskSize: 64 << 20, InfoHash: "x"}
	for size, want := range map[int64]int64{
		64<<20 + 10<<20: -1, 64<<20 + 11<<20: -1, 64<<20 + 12<<20: 64 << 20, 1 << 30: 1<<30 - 12<<20,
	} {
		at, ok := (&heldDisk{size: size}).spare(img)
		if ok != (want >= 0) || ok && at != want || ok && at+img.Size > size-headSize {
			t.Errorf("disk of %d: %d, %v, want %d", size, at, ok, want)
		}
	}
}
