package identity

import (
	"fmt"
	"net"
	"testing"
	"time"
)

// watchman is a door with a clock of its own.
type watchman struct {
	*door
	t    *testing.T
	time time.Time
}

func newWatchman(t *testing.T) *watchman {
	w := &watchman{t: t, time: start}
	w.door = newDoor(func() time.Time { return w.time })
	return w
}

// shake begins a handshake; gone says whether it was hung up on since.
func (w *watchman) shake(from string) (leave func(), gone *bool, in bool) {
	gone = new(bool)
	leave, refusal := w.begin(from, func() { *gone = true })
	return leave, gone, refusal == ""
}

func stranger(i int) string { return fmt.Sprintf("10.1.%d.%d", i/256, i%256) }

func TestThousandsWhoHoldTheirPlaceKeepNobodyOut(t *testing.T) {
	w := newWatchman(t)
	w.proved("member")
	_, memberGone, in := w.shake("member")
	if !in {
		t.Fatal("the member is refused")
	}
	var displaced int
	var all []*bool
	for i := range 1000 { // none of them ever leaves
		_, gone, in := w.shake(stranger(i))
		if !in {
			t.Fatalf("stranger %d is refused", i)
		}
		all = append(all, gone)
	}
	for _, gone := range all {
		if *gone {
			displaced++
		}
	}
	if displaced != 1000-maxStrangers || !*all[0] || *all[999] {
		t.Errorf("%d displaced; the oldest %t, the newest %t", displaced, *all[0], *all[999])
	}
	if *memberGone {
		t.Error("strangers displaced a member")
	}
	if _, _, in := w.shake("member"); !in {
		t.Error("the member's second handshake is refused")
	}
}

// However many there are, who is let in has time for a handshake.
func TestAdmittedStrangerHasTimeForItsHandshake(t *testing.T) {
	w := newWatchman(t)
	for i := 0; ; i++ { // until the burst is used up
		if _, _, in := w.shake(stranger(i)); !in {
			break
		}
	}
	began := map[*bool]time.Time{}
	shortest := time.Hour
	for i := range 20_000 { // 4,000 a second for 5 s
		w.time = w.time.Add(250 * time.Microsecond)
		if _, gone, in := w.shake(stranger(i)); in {
			began[gone] = w.time
		}
		for gone, since := range began {
			if *gone {
				shortest = min(shortest, w.time.Sub(since))
				delete(began, gone)
			}
		}
	}
	if shortest < 350*time.Millisecond || shortest == time.Hour {
		t.Errorf("one had %s only", shortest)
	}
}

func TestOneAddressCannotTakeAllPlaces(t *testing.T) {
	w := newWatchman(t)
	var leave func()
	for range maxPerStranger {
		leave, _, _ = w.shake("a")
	}
	if _, _, in := w.shake("a"); in {
		t.Error("no limit")
	}
	if _, gone, in := w.shake("b"); !in || *gone {
		t.Error("another address pays for it")
	}
	leave()
	leave() // twice is once
	if _, _, in := w.shake("a"); !in {
		t.Error("the place is not given back")
	}
	if _, _, in := w.shake("a"); in {
		t.Error("two places are given back for one")
	}
}

func TestAddressThatKeepsFailingIsRefusedUntilItRests(t *testing.T) {
	w := newWatchman(t)
	w.proved("member")
	fail := func(from string, n int) (admitted int) {
		for range n {
			if leave, _, in := w.shake(from); in {
				admitted++
				leave()
				w.failed(from, false)
			}
		}
		return admitted
	}
	if n := fail("a", 200); n != int(failures.burst) {
		t.Errorf("%d failures allowed at once, want %v", n, failures.burst)
	}
	w.time = w.time.Add(100 * time.Second)
	if n := fail("a", 200); n != 10 {
		t.Errorf("%d failures allowed after 100 s, want 10", n)
	}
	if n := fail("member", 200); n != int(knownFailures.burst) {
		t.Errorf("a member fails %d times, want %v", n, knownFailures.burst)
	}
	w.time = w.time.Add(time.Second)
	if n := fail("member", 200); n != 5 {
		t.Errorf("a member fails %d times a second, want 5", n)
	}
}

// Two thousand sources, 5,000 connections a second: they use up what each of them has, and then there is room.
func TestNewcomerGetsInAfterAWhileOfFlood(t *testing.T) {
	for _, kind := range []string{"failing", "joining"} {
		w := newWatchman(t)
		waited, admitted := 0, false
		for i := 0; !admitted && waited < 300; i++ {
			w.time = w.time.Add(200 * time.Microsecond)
			from := stranger(i % 2000)
			if leave, _, in := w.shake(from); in {
				leave()
				if kind == "failing" {
					w.failed(from, false)
				} else if leave, refusal := w.join(from, func() {}); refusal == "" {
					leave()
				}
			}
			if i%5_000 == 4_999 { // the newcomer tries once a second
				if _, _, admitted = w.shake("newcomer"); admitted && kind == "joining" {
					_, refusal := w.join("newcomer", func() {})
					admitted = refusal == ""
				}
				waited++
			}
		}
		if !admitted {
			t.Errorf("%s: kept out for 5 minutes", kind)
		}
		t.Logf("%s: in after %d s", kind, waited)
	}
}

// Otherwise the evicted would keep a member's privileges for its floods.
func TestEvictedAddressIsAStrangersAgain(t *testing.T) {
	w := newWatchman(t)
	w.proved("b")
	w.failed("b", true)
	if w.friends.has("b") {
		t.Error("still a friend")
	}
}

func TestRefusalsAreLoudOnceAMinute(t *testing.T) {
	w := newWatchman(t)
	if !w.failed("a", true) || w.failed("a", true) {
		t.Error("not loud once")
	}
	w.time = w.time.Add(time.Minute)
	if !w.failed("a", true) {
		t.Error("silent for ever")
	}
}

func TestJoinsAreBoundedPerAddressInAllAndInNumber(t *testing.T) {
	w := newWatchman(t)
	admitted := 0
	for range 100 {
		if leave, refusal := w.join("a", func() {}); refusal == "" {
			admitted++
			leave()
		}
	}
	if admitted != int(joins.burst) {
		t.Errorf("one address joins %d times at once, want %v", admitted, joins.burst)
	}
	if _, refusal := w.join("b", func() {}); refusal != "" {
		t.Errorf("another address pays for it: %s", refusal)
	}
	w = newWatchman(t)
	admitted, gone := 0, 0
	for i := range 1000 { // who never hang up
		w.time = w.time.Add(time.Millisecond)
		if _, refusal := w.join(stranger(i), func() { gone++ }); refusal == "" {
			admitted++
		}
	}
	if want := int(allJoins.burst + allJoins.perSecond); admitted > want+1 || admitted < want-1 || gone != admitted-maxJoining {
		t.Errorf("%d joins admitted in a second, want %d; %d hung up on", admitted, want, gone)
	}
}

func TestTablesOfAddressesAreBounded(t *testing.T) {
	w := newWatchman(t)
	w.proved("member")
	for i := range 3 * maxSources {
		w.failed(fmt.Sprint(i), false)
		if i%1000 == 0 {
			w.proved("member") // it calls now and then
		}
	}
	if n := len(w.sources.at); n != maxSources || w.sources.order.Len() != n {
		t.Errorf("%d sources are kept, want %d", n, maxSources)
	}
	if !w.friends.has("member") {
		t.Error("strangers made us forget a member")
	}
	for i := range 3 * maxSources {
		w.proved(fmt.Sprint(i))
	}
	if n := len(w.friends.at); n != maxSources {
		t.Errorf("%d friends are kept, want %d", n, maxSources)
	}
}

func TestSourceIsWhatAStrangerCannotChooseFreely(t *testing.T) {
	for addr, want := range map[string]string{
		"10.0.0.1:7400": "10.0.0.1", "[::ffff:10.0.0.1]:7400": "10.0.0.1", "[2001:db8::1]:1": "2001:db8::/64",
		"[2001:db8::ffff:1]:2": "2001:db8::/64", "[fe80::1%eth0]:1": "fe80::/64", "host:1": "host", "pipe": "pipe",
	} {
		if got := sourceOf(name(addr)); got != want {
			t.Errorf("%s counts as %q, want %q", addr, got, want)
		}
	}
}

type name string

var _ net.Addr = name("")

func (n name) Network() string { return "test" }
func (n name) String() string  { return string(n) }
