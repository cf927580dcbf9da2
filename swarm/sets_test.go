package swarm

import (
	"bytes"
	"strings"
	"testing"
)

func digestOf(c string) string { return strings.Repeat(c, 64) }

func TestWorkingSetIsReplacedOnlyByOneThatKnowsIt(t *testing.T) {
	h := founded(t)
	first := WorkingSet{Profile: "p", Digest: digestOf("a"), Size: 100, Files: 2, Bytes: 3000}
	h.must(seedID, PutWorkingSet{Set: first})
	other := first
	other.Digest = digestOf("b")
	h.refused(seedID, PutWorkingSet{Set: other}, ErrConflict) // made by a node that had not heard of the first
	h.refused(seedID, PutWorkingSet{Set: other, Former: digestOf("c")}, ErrConflict)
	woken := h.s.Changed()
	h.must(seedID, PutWorkingSet{Set: other, Former: first.Digest})
	if !isClosed(woken) {
		t.Error("nodes that fetch ahead were not woken")
	}
	var b bytes.Buffer
	if err := h.s.Snapshot()(&b); err != nil {
		t.Fatal(err)
	}
	restored := NewState()
	if err := restored.Restore(&b); err != nil {
		t.Fatal(err)
	}
	for _, v := range []View{h.s.View(), restored.View()} {
		if all := v.WorkingSets(); len(all) != 1 || all[0] != other {
			t.Errorf("%+v", all)
		}
	}
}

func TestWorkingSetsThatMakeNoSenseAreRefused(t *testing.T) {
	h := founded(t)
	good := WorkingSet{Profile: "p", Digest: digestOf("a"), Size: 100, Files: 2}
	h.refused(seedID, PutWorkingSet{Set: WorkingSet{Profile: "nobody", Digest: good.Digest, Size: 1, Files: 1}}, ErrNotFound)
	for name, spoil := range map[string]func(*WorkingSet){
		"no list":      func(s *WorkingSet) { s.Digest = "" },
		"not a digest": func(s *WorkingSet) { s.Digest = "../" + digestOf("a")[3:] },
		"upper case":   func(s *WorkingSet) { s.Digest = digestOf("A") },
		"empty":        func(s *WorkingSet) { s.Files = 0 },
		"endless":      func(s *WorkingSet) { s.Files = MaxSetFiles + 1 },
		"no bytes":     func(s *WorkingSet) { s.Size = 0 },
		"a long list":  func(s *WorkingSet) { s.Size = MaxSetList + 1 },
		"less than no": func(s *WorkingSet) { s.Bytes = -1 },
	} {
		t.Run(name, func(t *testing.T) {
			bad := good
			spoil(&bad)
			h.refused(seedID, PutWorkingSet{Set: bad}, ErrInvalid)
		})
	}
}
