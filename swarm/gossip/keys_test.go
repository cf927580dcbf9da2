package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"
)

var keyC = bytes.Repeat([]byte{'c'}, KeySize)

func ring(keys ...[]byte) [][]byte { return keys }

func TestSetKeysIsExactlyTheRing(t *testing.T) {
	g, err := New(options("a"))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range [][][]byte{ring(keyA, keyB), ring(keyB, keyA), ring(keyB), ring(keyC), ring(keyB, keyC, keyB, keyA), ring(keyB, keyA), ring(keyC, keyA, keyB), ring(keyC, keyB)} {
		if err := g.SetKeys(want); err != nil {
			t.Fatal(err)
		}
		got := g.keys.GetKeys()
		if !bytes.Equal(g.keys.GetPrimaryKey(), want[0]) || !sameKeys(got, want) {
			t.Errorf("ring is %s, want %s", got, want)
		}
	}
	before := slices.Clone(g.keys.GetKeys())
	for name, bad := range map[string][][]byte{
		"none": nil, "short": ring(keyA[:16]), "one short": ring(keyC, keyA[:31]), "too many": slices.Repeat(ring(keyC), maxKeys+1),
	} {
		if err := g.SetKeys(bad); err == nil {
			t.Errorf("%s: accepted", name)
		}
		if !sameKeys(g.keys.GetKeys(), before) {
			t.Errorf("%s: refused, and yet the ring changed", name)
		}
	}
}

func sameKeys(a, b [][]byte) bool {
	in := func(x, y [][]byte) bool {
		return !slices.ContainsFunc(x, func(k []byte) bool { return !slices.ContainsFunc(y, func(l []byte) bool { return bytes.Equal(k, l) }) })
	}
	return in(a, b) && in(b, a)
}

// A key that is in the old ring and in the new one is in every ring between them.
func TestSetKeysLeavesNoGap(t *testing.T) {
	g, err := New(options("a"))
	if err != nil {
		t.Fatal(err)
	}
	stop := make(chan struct{})
	var watcher sync.WaitGroup
	watcher.Go(func() {
		for {
			found := false
			for _, key := range g.keys.GetKeys() { // all of them, as memberlist does with a packet that none opens
				found = bytes.Equal(key, keyA) || found
			}
			if !found {
				t.Error("the key that stays was away")
				return
			}
			select {
			case <-stop:
				return
			default:
			}
		}
	})
	for range 2000 {
		for _, keys := range [][][]byte{ring(keyA, keyB), ring(keyB, keyA), ring(keyC, keyA), ring(keyA), ring(keyB, keyC, keyA), ring(keyB, keyA),
			ring(keyA, keyB, keyC), ring(keyA)} {
			if err := g.SetKeys(keys); err != nil {
				t.Fatal(err)
			}
		}
	}
	close(stop)
	watcher.Wait()
}

// noneDead fails the test at its end if a node ever took one of the others for dead.
func noneDead(t *testing.T, nodes ...*testNode) (stop func()) {
	t.Helper()
	done := make(chan struct{})
	var watchers sync.WaitGroup
	for _, n := range nodes {
		watchers.Go(func() {
			for {
				changed := n.Watch()
				for _, m := range n.Members() {
					if m.State != Alive && slices.ContainsFunc(nodes, func(o *testNode) bool { return o.opt.ID == m.ID }) {
						t.Errorf("node %s takes %s for %s", n.opt.ID, m.ID, m.State)
						return
					}
				}
				select {
				case <-changed:
				case <-done:
					return
				}
			}
		})
	}
	return sync.OnceFunc(func() { close(done); watchers.Wait() })
}

// Each takes each step at another time; at the worst moment two of them are one step apart in either direction.
func TestRotationOutOfStepLosesNobodyButWhoMissesIt(t *testing.T) {
	a, b, c, old := start(t, patient("a")), start(t, patient("b")), start(t, patient("c")), start(t, patient("old"))
	for _, n := range []*testNode{b, c, old} {
		n.join(a)
	}
	nodes := []*testNode{a, b, c}
	for _, n := range nodes {
		for _, o := range []string{"a", "b", "c", "old"} {
			n.sees(o, Alive, nil)
		}
	}
	stop := noneDead(t, nodes...)
	for i, step := range [][][]byte{ring(keyA, keyB), ring(keyB, keyA), ring(keyB)} {
		for j := range nodes {
			if err := nodes[(i+j)%3].SetKeys(step); err != nil { // another one first in each step
				t.Fatal(err)
			}
			for k, speaker := range nodes {
				news := fmt.Sprintf("step %d.%d.%d", i, j, k)
				speaker.says(news)
				speaker.UpdateMeta()
				for _, listener := range nodes {
					listener.sees(string(speaker.opt.ID), Alive, meta(news))
				}
			}
		}
	}
	stop()
	for _, n := range nodes {
		if err := old.Join(t.Context(), []string{n.Address().String()}); !errors.Is(err, ErrNobody) {
			t.Errorf("a node with the removed key joins: %v", err)
		}
		if err := n.Join(t.Context(), []string{old.Address().String()}); !errors.Is(err, ErrNobody) {
			t.Errorf("a node with the removed key is joined: %v", err)
		}
	}
	// Nor does it learn anything more, whatever they say now.
	passes(t, a, "a secret", b, c)
	settle := time.NewTimer(500 * time.Millisecond) // 50 rounds of news
	<-settle.C
	for _, m := range old.Members() {
		if string(m.Meta) == "a secret" {
			t.Error("the node that is out has heard it")
		}
	}
	if err := old.SetKeys(ring(keyB)); err != nil { // readmitted
		t.Fatal(err)
	}
	old.join(a)
	old.sees("a", Alive, meta("a secret"))
}
