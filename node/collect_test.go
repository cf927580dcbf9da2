package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/workset"
	"offshoot/swarm"
	"offshoot/swarm/share"
)

func TestStoreThrowsAwayWhatIsLeastDear(t *testing.T) {
	t.Parallel()
	l, p := founded(t), newPantry(t)
	l.must(swarm.PutRepo{Repo: swarm.Repo{Name: "inhouse", Upstreams: []string{p.url + "/"}}})
	h := newHousehold(t, l, p, nil)
	store, dir := h.sets.store, h.sets.store.Dir()
	const size = 1000
	keep := func(name string) string {
		t.Helper()
		a, err := store.PublishReader(t.Context(), strings.NewReader(name+strings.Repeat(" ", size-len(name))))
		if err != nil {
			t.Fatal(err)
		}
		return string(a.Digest)
	}
	old := func(digest string, hours int) {
		t.Helper()
		at := time.Now().Add(-time.Duration(hours) * time.Hour)
		if err := os.Chtimes(filepath.Join(dir, digest[:2], digest), at, at); err != nil {
			t.Fatal(err)
		}
	}
	image, pinned, former, former2, stocked := keep("image"), keep("pinned"), keep("former"), keep("former2"), keep("stocked")
	used, installing := keep("used"), keep("installing")
	l.must(swarm.PutProfile{Profile: swarm.Profile{Name: "p", Driver: "image", Image: image}})
	for _, digest := range []string{image, pinned, former, former2} {
		l.must(swarm.PutArtifact{Artifact: swarm.Artifact{Digest: digest, Size: size, Name: "x"}})
	}
	l.must(swarm.PinArtifact{Digest: pinned, Pinned: true})
	h.sets.recorder.Note("an install", workset.File{Repo: "inhouse", Path: "now.deb", Digest: installing, Size: size})
	// A working set that is here, with the metadata that it is looked up by.
	h.install(t, pantryPaths[:3]...)
	deb := string(share.DigestOf([]byte(p.files["pool/a.deb"])))
	packages := string(share.DigestOf([]byte(p.files[pantryPaths[1]])))
	if err := h.write(t.Context(), "p", workset.List{{Repo: "inhouse", Path: pantryPaths[0]}, {Repo: "inhouse", Path: "pool/a.deb", Digest: deb, Size: 14}}); err != nil {
		t.Fatal(err)
	}
	set, _ := l.state.View().WorkingSet("p")
	if got := h.pass(t.Context(), set, nil); got.Here != 2 {
		t.Fatalf("%+v", got)
	}
	for i, digest := range []string{image, pinned, former, former2, stocked, installing, deb, packages, set.Digest} {
		old(digest, 900-i)
	}
	room := share.Room{Size: 40 * size, Free: 10 * size}
	c := &collector{
		replica: l.replica, store: store, disk: func() (share.Room, error) { return room, nil }, sets: h.sets, mirror: h.repos.mirror.Load,
		stocked: func() []string { return []string{stocked} }, log: quiet(),
	}
	left := func(what string, want ...string) {
		t.Helper()
		have := map[string]bool{}
		for _, digest := range want {
			have[digest] = true
		}
		for name, digest := range map[string]string{
			"image": image, "pinned": pinned, "former": former, "former2": former2, "stocked": stocked, "used": used, "installing": installing, "deb": deb, "packages": packages, "list": set.Digest,
		} {
			if got := store.Has(share.Digest(digest)); got != have[digest] {
				t.Errorf("%s: %s is here: %v", what, name, got)
			}
		}
	}
	collect := func() {
		t.Helper()
		if err := c.makeRoom(0); err != nil {
			t.Fatal(err)
		}
	}
	kept := []string{image, pinned, stocked, installing, packages, set.Digest}
	collect()
	left("room enough", append(kept, former, former2, used, deb)...)
	room.Free = 10*size - 1
	collect()
	left("little is missing", append(kept, used, deb)...) // one, and the slack
	if got := h.sets.picture(l.state.View())[0]; got.Here != 2 || got.Problem != "" {
		t.Errorf("%+v", got)
	}
	room.Free = 0
	collect()
	left("much is missing", kept...)
	if c.short.Load() == 0 {
		t.Error("nobody is told that nothing more can be thrown away")
	}
	if got := h.sets.picture(l.state.View())[0]; got.Here != 1 || got.Problem == "" {
		t.Errorf("the working set lacks a file: %+v", got)
	}
	if err := c.fits(1); !errors.Is(err, share.ErrDiskFull) {
		t.Errorf("fetched ahead into a full store: %v", err)
	}

	// The mirror fetches again what was thrown away.
	h.install(t, "pool/a.deb")
	if err := h.sets.mirror().Prefetch(t.Context(), "inhouse", "pool/a.deb"); err != nil { // which waits until it is kept
		t.Fatal(err)
	}
	if !store.Has(share.Digest(deb)) {
		t.Error("it is not kept again")
	}
	room.Free = 40 * size
	collect()
	if err := c.fits(1); err != nil || c.short.Load() != 0 {
		t.Errorf("%v", err)
	}
	l.must(swarm.SetStore{Bytes: swarm.MinStore})
	if err := c.fits(swarm.MinStore); !errors.Is(err, share.ErrDiskFull) {
		t.Errorf("beyond the budget: %v", err)
	}
}
