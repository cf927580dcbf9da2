package swarm

import (
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
