package gossip

import (
	"bytes"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/hashicorp/memberlist"

	"offshoot/swarm"
)

func node(id string, session uint64) *memberlist.Node {
	return &memberlist.Node{Name: id, Addr: net.IPv4(10, 0, 0, 1), Port: 7401, Meta: makeMeta(session, []byte("m"))}
}

func stateOf(tb *table, id swarm.NodeID) (state State, since time.Time) {
	for _, m := range tb.list() {
		if m.ID == id {
			return m.State, m.Since
		}
	}
	return "unknown", time.Time{}
}

func TestFarewellCountsBeforeAndAfterTheEndIsNoticed(t *testing.T) {
	for _, order := range []string{"farewell first", "end first"} {
		tb := newTable("self", time.Now)
		tb.seen(node("b", 1))
		if order == "farewell first" {
			tb.farewell(farewell{"b", 1})
			tb.NotifyLeave(node("b", 1))
		} else {
			tb.NotifyLeave(node("b", 1))
			tb.farewell(farewell{"b", 1})
		}
		if got, _ := stateOf(tb, "b"); got != Left {
			t.Errorf("%s: %s, want left", order, got)
		}
	}
}

func TestFarewellOfAFormerLifeDoesNotCount(t *testing.T) {
	tb := newTable("self", time.Now)
	tb.seen(node("b", 1))
	tb.farewell(farewell{"b", 1})
	tb.seen(node("b", 2)) // back before its end was noticed
	if tb.farewell(farewell{"b", 1}) {
		t.Error("an old farewell is passed on")
	}
	tb.NotifyLeave(node("b", 2))
	if got, _ := stateOf(tb, "b"); got != Dead {
		t.Errorf("got %s, want dead", got)
	}
}

func TestSinceIsWhenTheStateBegan(t *testing.T) {
	now := time.Unix(100, 0)
	tb := newTable("self", func() time.Time { return now })
	tb.seen(node("b", 1))
	now = now.Add(time.Second)
	tb.seen(node("b", 1)) // only other meta data
	if _, since := stateOf(tb, "b"); since.Unix() != 100 {
		t.Errorf("alive since %s, want 100", since)
	}
	tb.seen(node("b", 2)) // a restart
	if _, since := stateOf(tb, "b"); since.Unix() != 101 {
		t.Errorf("alive since %s, want 101", since)
	}
}

func TestMissingAreSeedsAndTheDeadButNotTheLiving(t *testing.T) {
	tb := newTable("self", time.Now)
	for i, id := range []string{"alive", "dead", "left"} {
		n := node(id, 1)
		n.Addr = net.IPv4(10, 0, 0, byte(i+1))
		tb.seen(n)
	}
	tb.NotifyLeave(node("dead", 1))
	tb.farewell(farewell{"left", 1})
	tb.NotifyLeave(node("left", 1))
	got := tb.missing([]string{"10.0.0.1:7401", "10.0.0.9:7401", "10.0.0.8:7401"}, "10.0.0.9:7401")
	if diff := cmp.Diff([]string{"10.0.0.2:7401", "10.0.0.8:7401"}, got); diff != "" {
		t.Error(diff)
	}
}

func TestOnlyTheLongestGoneAreForgotten(t *testing.T) {
	now := time.Unix(0, 0)
	tb := newTable("self", func() time.Time { now = now.Add(time.Second); return now })
	for i := range maxGone + 5 {
		id := fmt.Sprintf("n%04d", i)
		tb.seen(node(id, 1))
		tb.NotifyLeave(node(id, 1))
	}
	list := tb.list()
	if len(list) != maxGone || list[0].ID != "n0005" {
		t.Errorf("%d remembered, the first %s; want %d from n0005", len(list), list[0].ID, maxGone)
	}
}

func TestNodeWithoutSessionIsNotListed(t *testing.T) {
	tb := newTable("self", time.Now)
	tb.seen(&memberlist.Node{Name: "x", Meta: []byte("short")})
	if n := len(tb.list()); n != 0 {
		t.Errorf("%d listed", n)
	}
}

func TestMemberlistLinesBecomeRecords(t *testing.T) {
	var out bytes.Buffer
	logger := slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelInfo}))
	l := newMemberlistLogger(logger)
	l.Printf("[ERR] memberlist: Failed to send gossip to %s: %s", "10.0.0.1:1", "no")
	l.Printf("[ERR] memberlist: Failed to send gossip to %s: %s", "10.0.0.2:1", "no") // the same again
	l.Printf("[WARN] memberlist: Refuting a dead message (from: x)")
	l.Printf("[DEBUG] memberlist: Stream connection")
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 2 || !strings.Contains(lines[0], "level=WARN") || !strings.Contains(lines[1], "level=INFO") ||
		strings.Contains(lines[0], "[ERR]") {
		t.Errorf("got %q", lines)
	}
}

func FuzzParseFarewell(f *testing.F) {
	f.Add(farewell{"0123456789abcdef", 7}.encode())
	f.Add([]byte("L"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if got, err := parseFarewell(b); err == nil && !bytes.Equal(got.encode(), b) {
			t.Errorf("%x does not survive a round trip", b)
		}
	})
}

func FuzzParseMeta(f *testing.F) {
	f.Add(makeMeta(7, []byte("x")))
	f.Fuzz(func(t *testing.T, b []byte) {
		if session, meta, err := parseMeta(b); err == nil && !bytes.Equal(makeMeta(session, meta), b) {
			t.Errorf("%x does not survive a round trip", b)
		}
	})
}
