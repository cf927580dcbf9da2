package swarm

import (
	"errors"
	"strings"
	"testing"
)

func TestArtifactThatIsNeededOrPinnedIsNotWithdrawn(t *testing.T) {
	h := founded(t)
	image, other := Artifact{Digest: "aa", Name: "image"}, Artifact{Digest: "bb", Name: "other"}
	h.must(seedID, PutArtifact{image})
	h.must(seedID, PutArtifact{other})
	err := h.ask("ann", seedID, WithdrawArtifact{Digest: "aa"}).Err()
	if err == nil || !strings.Contains(err.Error(), "needed by profile p:") {
		t.Errorf("%v", err)
	}
	h.must(seedID, PinArtifact{Digest: "bb", Pinned: true})
	h.refused(seedID, WithdrawArtifact{Digest: "bb"}, ErrConflict)
	h.must(seedID, PutArtifact{other}) // the seed was started again
	if got := h.s.View().PinnedArtifacts(); len(got) != 1 || got[0] != "bb" {
		t.Errorf("pinned: %v", got)
	}
	h.must(seedID, PinArtifact{Digest: "bb"})
	woken := h.s.Changed()
	h.must(seedID, WithdrawArtifact{Digest: "bb"})
	if !isClosed(woken) {
		t.Error("nobody woke")
	}
	if _, ok := h.s.View().Artifact("bb"); ok {
		t.Error("it is in the index still")
	}
	for _, op := range []Op{PinArtifact{Digest: "bb", Pinned: true}, WithdrawArtifact{Digest: "bb"}} {
		h.refused(seedID, op, ErrNotFound)
	}
}

func TestWhatOperatorsSayOfAnArtifactIsBounded(t *testing.T) {
	h := founded(t)
	good := Artifact{Digest: strings.Repeat("ab", 32), Name: "debian-13-amd64-linux", Verified: "signed by X: InRelease → x.deb → linux", Origin: "http://x.test/x.deb"}
	if err := h.ask("ann", seedID, PutArtifact{good}).Err(); err != nil {
		t.Fatal(err)
	}
	if got := h.s.View().Audit(); !strings.HasPrefix(got[len(got)-1].Text, "add artifact abab") || !strings.Contains(got[len(got)-1].Text, "signed by X") {
		t.Errorf("audit: %+v", got)
	}
	for name, change := range map[string]func(a *Artifact){
		"no name": func(a *Artifact) { a.Name = "" }, "a long name": func(a *Artifact) { a.Name = strings.Repeat("x", 201) }, "a path": func(a *Artifact) { a.Name = "a/b" },
		"a control character": func(a *Artifact) { a.Name = "a\x1b[2J" }, "two lines": func(a *Artifact) { a.Verified = "a\nb" },
		"long words": func(a *Artifact) { a.Verified = strings.Repeat("x", 1001) }, "another digest": func(a *Artifact) { a.Digest = "AB" },
	} {
		bad := good
		change(&bad)
		if err := h.ask("ann", seedID, PutArtifact{bad}).Err(); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestBoundOfTheStoreMakesSense(t *testing.T) {
	h := founded(t)
	h.must(seedID, SetStore{Bytes: MinStore})
	for _, n := range []int64{-1, 1, MinStore - 1} {
		h.refused(seedID, SetStore{Bytes: n}, ErrInvalid)
	}
	if s, _ := h.s.View().Settings(); s.StoreBudget != MinStore {
		t.Errorf("%d", s.StoreBudget)
	}
	h.must(seedID, SetStore{})
}
