// Package sharetest holds the rules that every share.Share keeps, as tests: run them against a new implementation before
// anything uses it.
//
// It refuses to know how bytes travel. Tests only may import it.
package sharetest

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"offshoot/swarm/share"
)

// Pair makes two shares of which fetcher knows holder as its only peer; what they need ends with the test.
type Pair func(t *testing.T) (holder, fetcher share.Share)

// Bytes is n bytes that no compression helps with and that are the same in every run.
func Bytes(n int) []byte {
	data := make([]byte, n)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(data) // never fails
	return data
}

// File writes data to a file that ends with the test.
func File(t *testing.T, data []byte) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// Run holds the shares that pair makes to the rules.
func Run(t *testing.T, pair Pair) {
	for name, test := range map[string]func(*testing.T, share.Share, share.Share){
		"PublishedIsThere":              publishedIsThere,
		"PublishingTwiceIsOne":          publishingTwiceIsOne,
		"PublisherMayChangeHisFile":     publisherMayChangeHisFile,
		"PublishRefuses":                publishRefuses,
		"FetchedIsThere":                fetchedIsThere,
		"EmptyIsAnArtifact":             emptyIsAnArtifact,
		"FetchOfWhatIsHereNeedsNobody":  fetchOfWhatIsHereNeedsNobody,
		"UnknownIsNotFound":             unknownIsNotFound,
		"WrongSizeIsRefused":            wrongSizeIsRefused,
		"OnlyDigestsAreNames":           onlyDigestsAreNames,
		"CancelledFetchLeavesNothing":   cancelledFetchLeavesNothing,
		"ManyFetchersAreServed":         manyFetchersAreServed,
		"TwoReadersDoNotDisturbAnother": twoReaders,
		"InfoHashFollowsFromTheBytes":   infoHashFollowsFromTheBytes,
		"WrongSizeOfALargeOneIsRefused": wrongSizeOfALargeOneIsRefused,
		"FetchedIsServedOn":             fetchedIsServedOn,
	} {
		t.Run(name, func(t *testing.T) {
			holder, fetcher := pair(t)
			test(t, holder, fetcher)
		})
	}
}

func publish(t *testing.T, s share.Share, data []byte) share.Artifact {
	t.Helper()
	a, err := s.Publish(t.Context(), File(t, data))
	if err != nil {
		t.Fatal(err)
	}
	if a.Digest != share.DigestOf(data) || a.Size != int64(len(data)) {
		t.Fatalf("published as %+v", a)
	}
	return a
}

func wantBytes(t *testing.T, s share.Share, a share.Artifact, want []byte) {
	t.Helper()
	if !s.Has(a.Digest) {
		t.Error("Has says no")
	}
	f, err := s.Open(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	got, err := io.ReadAll(f)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("read %d bytes, %v; want %d", len(got), err, len(want))
	}
	half := int64(len(want) / 2)
	if _, err := f.Seek(half, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if got, err = io.ReadAll(f); err != nil || !bytes.Equal(got, want[half:]) {
		t.Errorf("second half: %d bytes, %v", len(got), err)
	}
}

func wantNothing(t *testing.T, s share.Share, d share.Digest) {
	t.Helper()
	if s.Has(d) {
		t.Error("Has says yes")
	}
	if f, err := s.Open(d); !errors.Is(err, share.ErrNotFound) || f != nil {
		t.Errorf("Open: %v, %v", f, err)
	}
}

func publishedIsThere(t *testing.T, holder, fetcher share.Share) {
	data := Bytes(100_000)
	a := publish(t, holder, data)
	wantBytes(t, holder, a, data)
	wantNothing(t, fetcher, a.Digest)
}

func publishingTwiceIsOne(t *testing.T, holder, _ share.Share) {
	data := Bytes(1000)
	if a, b := publish(t, holder, data), publish(t, holder, data); a != b {
		t.Errorf("%v and %v", a, b)
	}
}

func publisherMayChangeHisFile(t *testing.T, holder, _ share.Share) {
	data := Bytes(1000)
	path := File(t, data)
	a, err := holder.Publish(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0) // in place: the same inode
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.Write(make([]byte, 1000)); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, holder, a, data)
	b, err := holder.Publish(t.Context(), path)
	if err != nil || b.Digest != share.DigestOf(make([]byte, 1000)) {
		t.Errorf("the changed file was published as %v, %v", b, err)
	}
}

func publishRefuses(t *testing.T, holder, _ share.Share) {
	if _, err := holder.Publish(t.Context(), filepath.Join(t.TempDir(), "missing")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
	if _, err := holder.Publish(t.Context(), t.TempDir()); err == nil {
		t.Error("a directory became an artifact")
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := holder.Publish(ctx, File(t, Bytes(10))); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}

func fetchedIsThere(t *testing.T, holder, fetcher share.Share) {
	data := Bytes(3_000_000)
	a := publish(t, holder, data)
	var last int64
	if err := fetcher.Fetch(t.Context(), a.Digest, a.Size, func(done int64) { last = done }); err != nil {
		t.Fatal(err)
	}
	if last != a.Size {
		t.Errorf("progress ended at %d of %d", last, a.Size)
	}
	wantBytes(t, fetcher, a, data)
	if err := fetcher.Fetch(t.Context(), a.Digest, a.Size, nil); err != nil {
		t.Errorf("again: %v", err)
	}
}

func emptyIsAnArtifact(t *testing.T, holder, fetcher share.Share) {
	a := publish(t, holder, nil)
	if err := fetcher.Fetch(t.Context(), a.Digest, 0, nil); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, fetcher, a, nil)
}

func fetchOfWhatIsHereNeedsNobody(t *testing.T, _, fetcher share.Share) {
	a := publish(t, fetcher, Bytes(1000))
	var last int64
	if err := fetcher.Fetch(t.Context(), a.Digest, a.Size, func(done int64) { last = done }); err != nil || last != a.Size {
		t.Errorf("%v, progress %d", err, last)
	}
}

func unknownIsNotFound(t *testing.T, _, fetcher share.Share) {
	d := share.DigestOf([]byte("nobody has this"))
	if err := fetcher.Fetch(t.Context(), d, 15, nil); !errors.Is(err, share.ErrNotFound) {
		t.Errorf("%v", err)
	}
	wantNothing(t, fetcher, d)
}

func wrongSizeIsRefused(t *testing.T, holder, fetcher share.Share) {
	a := publish(t, holder, Bytes(1000))
	for _, size := range []int64{-1, 0, 999, 1001} {
		if err := fetcher.Fetch(t.Context(), a.Digest, size, nil); err == nil {
			t.Errorf("fetched with size %d", size)
		}
		wantNothing(t, fetcher, a.Digest)
	}
	if err := fetcher.Fetch(t.Context(), a.Digest, a.Size, nil); err != nil {
		t.Errorf("then with the right one: %v", err)
	}
}

// infoHash is what BEP 3, written out by hand in another language, says of Bytes(3_000_000); it must never change, since the
// ledger keeps it.
const infoHash = "13e4f7e4927f105972d99cfbcb421eedf7136d2c"

func infoHashFollowsFromTheBytes(t *testing.T, holder, fetcher share.Share) {
	data := Bytes(3_000_000)
	for _, s := range []share.Share{holder, fetcher, holder} {
		if a := publish(t, s, data); a.InfoHash != infoHash {
			t.Errorf("infohash %q, want %s", a.InfoHash, infoHash)
		}
	}
	if a := publish(t, holder, data[:1<<20-1]); a.InfoHash != "" {
		t.Errorf("a small one has the infohash %q", a.InfoHash)
	}
	if a := publish(t, holder, data[:1<<20]); len(a.InfoHash) != 40 {
		t.Errorf("a mebibyte has the infohash %q", a.InfoHash)
	}
}

func wrongSizeOfALargeOneIsRefused(t *testing.T, holder, fetcher share.Share) {
	data := Bytes(3_000_000)
	a := publish(t, holder, data)
	for _, size := range []int64{a.Size - 1, a.Size + 1, 2 * a.Size} {
		if err := fetcher.Fetch(t.Context(), a.Digest, size, nil); err == nil {
			t.Errorf("fetched with size %d", size)
		}
		wantNothing(t, fetcher, a.Digest)
	}
	if err := fetcher.Fetch(t.Context(), a.Digest, a.Size, nil); err != nil {
		t.Errorf("then with the right one: %v", err)
	}
	wantBytes(t, fetcher, a, data)
}

// fetchedIsServedOn: what was fetched is an artifact like any other.
func fetchedIsServedOn(t *testing.T, holder, fetcher share.Share) {
	data := Bytes(2_000_000)
	a := publish(t, holder, data)
	if err := fetcher.Fetch(t.Context(), a.Digest, a.Size, nil); err != nil {
		t.Fatal(err)
	}
	if b := publish(t, fetcher, data); b != a {
		t.Errorf("published again as %+v, want %+v", b, a)
	}
}

func onlyDigestsAreNames(t *testing.T, holder, fetcher share.Share) {
	good := string(publish(t, holder, Bytes(1000)).Digest)
	for _, name := range []string{
		"", ".", "..", "../" + good, good[:63], good + "0", "/etc/passwd", "../../../../../../../../../../../../../../../../../../etc/passwd",
		good[:62] + "/.", "\x00" + good[1:], "G" + good[1:],
	} {
		if err := fetcher.Fetch(t.Context(), share.Digest(name), 1000, nil); err == nil {
			t.Errorf("fetched %q", name)
		}
		if holder.Has(share.Digest(name)) {
			t.Errorf("has %q", name)
		}
		if _, err := holder.Open(share.Digest(name)); err == nil {
			t.Errorf("opened %q", name)
		}
	}
}

func cancelledFetchLeavesNothing(t *testing.T, holder, fetcher share.Share) {
	a := publish(t, holder, Bytes(1000))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := fetcher.Fetch(ctx, a.Digest, a.Size, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	late, cancel := context.WithDeadline(t.Context(), time.Unix(0, 0))
	defer cancel()
	if err := fetcher.Fetch(late, a.Digest, a.Size, nil); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("late: %v", err)
	}
	wantNothing(t, fetcher, a.Digest)
}

func manyFetchersAreServed(t *testing.T, holder, fetcher share.Share) {
	data := Bytes(1_000_000)
	a := publish(t, holder, data)
	var wg sync.WaitGroup
	for range 20 {
		wg.Go(func() {
			if err := fetcher.Fetch(t.Context(), a.Digest, a.Size, func(int64) {}); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	wantBytes(t, fetcher, a, data)
}

func twoReaders(t *testing.T, holder, _ share.Share) {
	data := Bytes(1000)
	a := publish(t, holder, data)
	first, err := holder.Open(a.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = first.Close() }() // only read
	if _, err := io.CopyN(io.Discard, first, 500); err != nil {
		t.Fatal(err)
	}
	wantBytes(t, holder, a, data)
	if rest, err := io.ReadAll(first); err != nil || !bytes.Equal(rest, data[500:]) {
		t.Errorf("the first reader was moved: %d bytes, %v", len(rest), err)
	}
}
