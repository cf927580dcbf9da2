package node

import (
	"bytes"
	"context"
	"testing"
	"testing/synctest"
	"time"

	"offshoot/node/internal/dhcp"
	"offshoot/swarm"
)

// TestOnlyWatchingABindingEndsIt: a node that has not seen for how long a binding lasts gives its address to nobody else,
// whatever its wall clock says.
func TestOnlyWatchingABindingEndsIt(t *testing.T) {
	l := founded(t)
	elapsed := 100 * time.Hour
	l.ages = newAges(func() time.Duration { return elapsed }, time.Hour)
	post := func() *leases { // of a holder that has just come
		out := newLeases(l.replica, "s1", 1)
		ctx, cancel := context.WithCancel(context.Background())
		t.Cleanup(cancel)
		go func() { _ = out.Run(ctx) }()
		return out
	}
	before := post()
	expires := time.Now().Add(-time.Minute) // a wall clock that is behind
	bind := func(by *leases, mac swarm.MAC) error {
		return by.Bind(context.Background(), dhcp.Binding{MAC: mac, Addr: addr1, Class: "os", Expires: expires})
	}
	if err := bind(before, mac1); err != nil {
		t.Fatal(err)
	}
	var snapshot bytes.Buffer
	if err := l.state.Snapshot()(&snapshot); err != nil {
		t.Fatal(err)
	}
	if err := l.Restore(&snapshot); err != nil {
		t.Fatal(err)
	}
	restored := post()
	for _, step := range []struct {
		wait time.Duration
		over bool
	}{{0, false}, {time.Hour, false}, {7 * time.Minute, true}} {
		elapsed += step.wait
		if mac, over, ok := restored.Holder(addr1); mac != mac1 || over != step.over || !ok {
			t.Fatalf("%s, %t, %t", mac, over, ok)
		}
		if step.wait == time.Hour {
			continue // an attempt would begin the watch anew
		}
		if err := bind(restored, mac2); (err == nil) != step.over {
			t.Fatalf("given to another after %v: %v", step.wait, err)
		}
	}
	if mac, over, _ := restored.Holder(addr1); mac != mac2 || over {
		t.Fatalf("%s, %t", mac, over)
	}
}

// TestOnlyItsOwnBindingsAreRenewedWithoutTheOthers: when a node sees a binding that another made, or reads its own log again
// after a restart, the binding may be much older than that.
func TestOnlyItsOwnBindingsAreRenewedWithoutTheOthers(t *testing.T) {
	l := founded(t)
	elapsed := 100 * time.Hour
	l.ages = newAges(func() time.Duration { return elapsed }, time.Hour)
	here := newLeases(l.replica, "s1", 1)
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	go func() { _ = here.Run(ctx) }()
	later := time.Now().Add(24 * time.Hour) // a wall clock that is ahead
	l.must(swarm.BindLeases{Segment: "s1", Term: 1, Leases: []swarm.Lease{{Addr: addr1, MAC: mac1, Class: "os", Expires: later}}})
	if b, ok := here.Binding(mac1); !ok || b.Left > 0 {
		t.Fatalf("%+v", b)
	}
	if err := here.Bind(ctx, dhcp.Binding{MAC: mac1, Addr: addr1, Class: "os", Expires: later}); err != nil {
		t.Fatal(err)
	}
	elapsed += 20 * time.Minute
	if b, _ := here.Binding(mac1); b.Left != 40*time.Minute {
		t.Fatalf("%+v", b)
	}
}

func TestQuarantineEndsByTheClockOnTheWall(t *testing.T) {
	l := founded(t)
	here := newLeases(l.replica, "s1", 1)
	if err := here.Quarantine(context.Background(), addr1); err != nil {
		t.Fatal(err)
	}
	if mac, over, ok := here.Holder(addr1); mac != "" || over || !ok {
		t.Fatalf("%q, %t, %t", mac, over, ok)
	}
	now := time.Now().Add(quarantineTime)
	l.now = func() time.Time { return now }
	if mac, over, ok := here.Holder(addr1); mac != "" || !over || !ok {
		t.Fatalf("%q, %t, %t", mac, over, ok)
	}
}

func TestALoneWriteWaitsForNobodyAndManyKeepApart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pace
		begun := time.Now()
		at := func(want time.Duration) {
			t.Helper()
			if p.wait(t.Context()); time.Since(begun) != want {
				t.Fatalf("began after %v, not %v", time.Since(begun), want)
			}
		}
		at(0)
		at(gatherTime)
		at(2 * gatherTime)
		p.wrote(1) // a lone lease does not hold up the next
		at(3 * gatherTime)
		p.wrote(int(gatherTime/gatherEach) + 4)
		at(4*gatherTime + 4*gatherEach)
		p.wrote(batchMost)
		at(4*gatherTime + 4*gatherEach + gatherMost)
		<-time.After(time.Second)
		at(time.Second + 4*gatherTime + 4*gatherEach + gatherMost)
	})
}
