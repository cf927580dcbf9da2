package ledger

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/raft"
)

var someBeat = beat{applied: 9, age: time.Second, leader: peer{"a", "a:1"}, source: peer{"b", "b:1"}}

// stream is a small feed with everything in it.
func wholeFeed() []byte {
	var snapshot bytes.Buffer
	f := newFSM(&journal{})
	f.Apply(&raft.Log{Index: 7, Data: []byte("1=x")})
	s, _ := f.capture()
	_ = s.writeTo(&snapshot)
	b := append([]byte(feedMagic), appendPart(nil, snapshot.Bytes()[:5])...)
	b = appendPart(b, snapshot.Bytes()[5:])
	b = appendEnd(b, snapshot.Len())
	b = appendCommand(b, command{prev: 7, index: 9, data: []byte("2=x")})
	return appendBeat(b, someBeat)
}

// take applies a feed to a state machine as Follow does, without a ledger around it.
func take(f *fsm, feed []byte) (frames int, err error) {
	in := newFeedDecoder(bytes.NewReader(feed))
	for {
		fr, err := in.next()
		if err != nil {
			return frames, err
		}
		frames++
		switch {
		case fr.snapshot != nil:
			err = f.restoreFed(bytes.NewReader(fr.snapshot))
		case fr.command != nil:
			err = f.applyFed(*fr.command)
		}
		if err != nil {
			return frames, err
		}
	}
}

func TestFeedSurvivesARoundTrip(t *testing.T) {
	machine := &journal{}
	f := newFSM(machine)
	frames, err := take(f, wholeFeed())
	if !errors.Is(err, io.EOF) || frames != 5 {
		t.Errorf("%d frames, %v", frames, err)
	}
	if got := machine.all(); f.applied.Load() != 9 || strings.Join(got, " ") != "1=x 2=x" {
		t.Errorf("holds %q at %d", got, f.applied.Load())
	}
	body := appendBeat(nil, someBeat)[5:]
	if b, err := decodeBeat(body); err != nil || *b != someBeat {
		t.Errorf("beat %+v, %v", b, err)
	}
}

func TestDamagedFeedIsRefused(t *testing.T) {
	head := func(kind byte, size uint32, body string) string {
		return feedMagic + string(binary.BigEndian.AppendUint32([]byte{kind}, size)) + body
	}
	whole := string(wholeFeed())
	for what, feed := range map[string]string{
		"other magic":          "OFFFEED2" + whole[8:],
		"cut off":              whole[:len(whole)-1],
		"cut in a snapshot":    feedMagic + string(appendPart(nil, []byte("x"))),
		"unknown kind":         head('X', 1, "x"),
		"empty part":           head('S', 0, ""),
		"oversized part":       head('S', partBytes+1, ""),
		"oversized command":    head('C', 16+MaxCommand+1, ""),
		"short command":        head('C', 15, strings.Repeat("x", 15)),
		"command before last":  feedMagic + string(appendCommand(nil, command{prev: 9, index: 9})),
		"end without a part":   feedMagic + string(appendEnd(nil, 0)),
		"end of another size":  feedMagic + string(appendEnd(appendPart(nil, []byte("x")), 2)),
		"beat in a snapshot":   feedMagic + string(appendBeat(appendPart(nil, []byte("x")), someBeat)),
		"beat without source":  feedMagic + string(appendBeat(nil, beat{})),
		"beat with half name":  feedMagic + string(appendBeat(nil, beat{leader: peer{"a", ""}, source: someBeat.source})),
		"beat with age alone":  feedMagic + string(appendBeat(nil, beat{age: 1, source: someBeat.source})),
		"beat with long words": head('B', 26, strings.Repeat("\x00", 16)+"\xff\xff"+strings.Repeat("x", 8)),
		"gap":                  whole + string(appendCommand(nil, command{prev: 10, index: 11, data: []byte("3=x")})),
		"garbage as snapshot":  feedMagic + string(appendEnd(appendPart(nil, []byte("garbage")), 7)),
	} {
		if _, err := take(newFSM(&journal{}), []byte(feed)); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// FuzzFeed attacks the decoder and what stands behind it: whatever arrives, indexes only grow, and a refused feed has
// left the state machine with whole commands.
func FuzzFeed(f *testing.F) {
	whole := wholeFeed()
	f.Add(whole)
	f.Add(whole[:40])
	f.Add(append(append([]byte{}, whole...), appendCommand(nil, command{prev: 12, index: 13})...))
	f.Add([]byte(feedMagic + "C\xff\xff\xff\xff"))
	f.Add(appendEnd(appendPart([]byte(feedMagic), []byte(snapshotMagic+"\x00\x00\x00\x00\x00\x00\x00\x07[]")), 18))
	f.Fuzz(func(t *testing.T, feed []byte) {
		machine := &journal{}
		state := newFSM(machine)
		if _, err := take(state, feed); err == nil {
			t.Error("a feed ended without an end")
		}
		if machine.wrong > 0 {
			t.Error("a command was applied twice or out of order")
		}
	})
}

func FuzzBeat(f *testing.F) {
	f.Add(appendBeat(nil, someBeat)[5:])
	f.Fuzz(func(t *testing.T, body []byte) {
		if len(body) < 24 || len(body) > beatBytes { // the decoder has checked that before
			return
		}
		if b, err := decodeBeat(body); err == nil && !bytes.Equal(appendBeat(nil, *b)[5:], body) {
			t.Errorf("%x does not survive a round trip", body)
		}
	})
}

func TestReaderThatDoesNotReadIsCutOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		here, there := net.Pipe() // has deadlines, and no buffer
		defer func() { _ = there.Close() }()
		w := &feedWriter{to: here, stopping: make(chan struct{}), ctx: t.Context()}
		began := time.Now()
		want(t, w.send([]byte("x")), ErrSlowReader)
		if took := time.Since(began); took != feedPatience {
			t.Errorf("cut off after %s", took)
		}
	})
}

func TestReaderThatFallsBehindIsCutOffAndComesBackBySnapshot(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	a := c.voters(1)[0]
	c.propose(a, "first=x")
	f := c.node("f", fast, false)
	r, w := io.Pipe()
	served := make(chan error, 1)
	go func() {
		served <- a.ServeFeed(t.Context(), 0, w, nil)
		_ = w.Close()
	}()
	magic := make([]byte, len(feedMagic))
	if _, err := io.ReadFull(r, magic); err != nil { // and then nothing more
		t.Fatal(err)
	}
	big := strings.Repeat("x", MaxCommand-20)
	for i := range recentBytes/MaxCommand + 3 {
		c.propose(a, fmt.Sprintf("%d=%s", i, big))
	}
	rest := io.MultiReader(bytes.NewReader(magic), r)
	followed := make(chan error, 1)
	go func() { followed <- f.Follow(t.Context(), rest) }()
	want(t, <-served, ErrSlowReader)
	want(t, <-followed, ErrFeed)
	if n := len(f.journal.all()); n == 0 || n > 5 {
		t.Errorf("slow reader holds %d", n)
	}
	c.fed(f, a)
	c.same(recentBytes/MaxCommand+4, a, f)
	if a.shared.newest != nil {
		t.Error("the snapshot for readers is kept though nobody reads it")
	}
}

func TestFeedThatFallsSilentIsLeft(t *testing.T) {
	t.Parallel()
	c := newCluster(t)
	quick := Timing{Heartbeat: 50 * time.Millisecond, Election: 50 * time.Millisecond, Lease: 50 * time.Millisecond, Commit: 10 * time.Millisecond}
	f := c.node("f", quick, false)
	r, w := io.Pipe()
	go func() { _, _ = w.Write([]byte(feedMagic)) }()
	began := time.Now()
	want(t, f.Follow(t.Context(), r), ErrFeed)
	if took := time.Since(began); took < 500*time.Millisecond || took > 5*time.Second {
		t.Errorf("left after %s", took)
	}
}

func TestReadersAtTheSameTimeShareOneSnapshot(t *testing.T) {
	machine := &journal{}
	f := newFSM(machine)
	f.Apply(&raft.Log{Index: 3, Data: []byte("1=x")})
	var s shared
	first, err := s.take(f)
	if err != nil {
		t.Fatal(err)
	}
	f.Apply(&raft.Log{Index: 5, Data: []byte("2=x")})
	if second, _ := s.take(f); second != first {
		t.Error("the second reader got a snapshot of its own")
	}
	s.giveBack(first)
	f.recent.clear() // what follows index 3 is forgotten
	third, err := s.take(f)
	if err != nil || third == first || third.index != 5 {
		t.Errorf("got %+v, %v: a snapshot that cannot be continued", third, err)
	}
	s.giveBack(first)
	if s.newest != third {
		t.Error("the end of an old snapshot dropped the new one")
	}
	s.giveBack(third)
	if s.newest != nil {
		t.Error("snapshot is kept though nobody reads it")
	}
}

func TestRecentCommandsAreBoundedAndWithoutGap(t *testing.T) {
	var r recent
	for i := range uint64(3 * recentEntries) {
		r.add(command{prev: 2 * i, index: 2*i + 2})
	}
	if len(r.commands) != recentEntries {
		t.Errorf("%d commands are kept", len(r.commands))
	}
	last := uint64(6 * recentEntries)
	if some, ok := r.after(last-4, 10); !ok || len(some) != 2 || some[1].index != last {
		t.Errorf("after all but two: %v %t", some, ok)
	}
	if some, ok := r.after(last-40, 10); !ok || len(some) != 10 || some[0].prev != last-40 {
		t.Errorf("batch: %v %t", some, ok)
	}
	for _, unknown := range []uint64{0, last - 3, last, last + 2} {
		if _, ok := r.after(unknown, 10); ok {
			t.Errorf("what follows %d is claimed to be known", unknown)
		}
	}
	r.clear()
	for i := range uint64(100) {
		r.add(command{prev: i, index: i + 1, data: make([]byte, MaxCommand)})
	}
	if r.bytes > recentBytes || len(r.commands) != recentBytes/MaxCommand {
		t.Errorf("%d commands of %d bytes are kept", len(r.commands), r.bytes)
	}
	if some, _ := r.after(99-20, 100); len(some) != 1 {
		t.Errorf("a batch of %d commands of the largest size", len(some))
	}
}

func TestOldSnapshotFromRaftIsSkippedAfterANewerFeed(t *testing.T) {
	at := func(index uint64, entries string) io.ReadCloser {
		return io.NopCloser(bytes.NewReader(append(makeHeader(index), entries...)))
	}
	machine := &journal{}
	f := newFSM(machine)
	holds := func(index uint64, want string) {
		t.Helper()
		if got := strings.Join(machine.all(), " "); got != want || f.applied.Load() != index {
			t.Fatalf("holds %q at %d, want %q at %d", got, f.applied.Load(), want, index)
		}
	}
	for i := uint64(1); i <= 4; i++ {
		if err := f.applyFed(command{prev: i - 1, index: i, data: fmt.Appendf(nil, "%d=x", i)}); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Restore(at(2, `["1=x","2=x"]`)); err != nil { // raft has begun, from its last snapshot
		t.Fatal(err)
	}
	holds(4, "1=x 2=x 3=x 4=x")
	for i := uint64(3); i <= 5; i++ {
		o := f.Apply(&raft.Log{Index: i, Data: fmt.Appendf(nil, "%d=x", i)}).(outcome)
		if o.known != (i < 5) {
			t.Errorf("command %d: %+v", i, o)
		}
	}
	holds(5, "1=x 2=x 3=x 4=x 5=x")
	if err := f.applyFed(command{prev: 3, index: 4, data: []byte("4=x")}); err != nil { // the feed is late
		t.Error(err)
	}
	want(t, f.applyFed(command{prev: 7, index: 8, data: []byte("8=x")}), errGap)
	if err := f.restoreFed(at(4, `["other"]`)); err != nil {
		t.Error(err)
	}
	holds(5, "1=x 2=x 3=x 4=x 5=x")
	// From here on raft alone has the say: if it goes back, it has its reasons.
	if err := f.Restore(at(2, `["1=x","2=x"]`)); err != nil {
		t.Fatal(err)
	}
	holds(2, "1=x 2=x")
	if f.reaches(4) || !f.reaches(2) {
		t.Error("commands that were taken back are still fed to others")
	}
	if err := f.restoreFed(at(9, "garbage")); err == nil || errors.Is(err, ErrFormat) {
		t.Errorf("garbage: %v", err)
	}
	holds(2, "1=x 2=x")
	if machine.wrong > 0 {
		t.Error("a command was applied twice or out of order")
	}
}
