//go:build wire

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// TestChildSegmentInstallsThroughItsHolderWhenTheUpstreamIsGone: m1 holds lan0, where the upstream is, and m2 stands below it and has
// opened lan1. What apt and mmdebstrap fetch there comes through m1, once; with the upstream gone, the next machine on lan1 gets the same.
func TestChildSegmentInstallsThroughItsHolderWhenTheUpstreamIsGone(t *testing.T) {
	t.Parallel()
	lab.Need(t, "apt-get", "mmdebstrap", "dhclient")
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	w, small := roomyWorld(ctx, t)
	m1, m2 := parentAndChild(ctx, t, w, small)

	key, err := lab.NewPublisher(time.Now())
	if err != nil {
		t.Fatal(err)
	}
	keyring := filepath.Join(t.TempDir(), "archive.gpg")
	if err := os.WriteFile(keyring, key.Keyring, 0o644); err != nil {
		t.Fatal(err)
	}
	a := newArchive(t, key)
	a.openOn(t, w.Operator)
	addMirror(ctx, t, m2, "inhouse", "http://"+archiveAddress+"/", "--keyring", keyring)
	awaitMirrors(ctx, t, 1, []*story.Bare{m1, m2})

	installsOnLan1(ctx, t, w, "c1", keyring)
	for _, name := range a.lasting() {
		if n := a.count(name); n != 1 {
			t.Errorf("%s crossed the uplink of m1 %d times", name, n)
		}
	}
	deb := int64(len(a.files[archiveDeb]))
	if m := mirrorOf(ctx, t, m1).Repos[0]; m.FromUpstreams < deb || m.FromMirrors != 0 || len(m.Above) != 0 {
		t.Errorf("m1, at the top: %+v", m)
	}
	before := mirrorOf(ctx, t, m2).Repos[0]
	if before.FromUpstreams != 0 || before.FromMirrors < deb || len(before.Above) != 1 {
		t.Errorf("m2, below m1: %+v", before)
	}

	_ = a.server.Close()
	installsOnLan1(ctx, t, w, "c2", keyring)
	if after := mirrorOf(ctx, t, m2).Repos[0]; after.FromUpstreams != 0 || after.FromMirrors-before.FromMirrors >= deb || after.FromDisk-before.FromDisk < deb {
		t.Errorf("m2, without the upstream: %+v, before %+v", after, before)
	}
}

// parentAndChild installs m1, which takes lan0 over from the seed, and from that m2, which opens lan1. The seed has left then.
func parentAndChild(ctx context.Context, t *testing.T, w *story.World, small story.Small) (m1, m2 *story.Bare) {
	t.Helper()
	seed, _, err := w.Seeded(ctx, small, "--expand", "auto")
	if err != nil {
		t.Fatal(err)
	}
	m1 = bareAndArmed(ctx, t, w, seed, small, "m1")
	switchOn(ctx, t, m1)
	if _, err := w.Until(ctx, seed, "m1 is on duty", onDuty); err != nil {
		t.Fatal(err)
	}
	leave(ctx, t, seed)
	m2 = bareAndArmed(ctx, t, w, m1, small, "m2", w.Lan1)
	switchOn(ctx, t, m2)
	if _, err := w.Until(ctx, m2, "m2 serves lan1, and knows that m1 serves lan0", func(s status.Status) string {
		child := slices.ContainsFunc(s.Segments, func(g status.Segment) bool { return g.ID != "s1" && g.Holder == "m2" })
		if m1Node(s).State != status.NodeAlive || !slices.Contains(m1Node(s).Duties, "s1") || !child {
			return fmt.Sprintf("m1 is %s; segments %+v", m1Node(s).State, s.Segments)
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	return m1, m2
}

// lasting are the files that were asked for and never change: all but the one that is signed.
func (a *archive) lasting() []string {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := []string{archiveDeb}
	for name := range a.asked {
		if a.files[name] != nil && path.Dir(name) != lab.Suite && name != archiveDeb {
			names = append(names, name)
		}
	}
	return names
}

// installsOnLan1 lets a new machine on lan1, which knows of nothing but its lease, install hello through the node on duty there.
func installsOnLan1(ctx context.Context, t *testing.T, w *story.World, name, keyring string) {
	t.Helper()
	h, err := w.Lab.Host(name, w.Lan1)
	if err != nil {
		t.Fatal(err)
	}
	node, err := w.Lease(ctx, h, w.Lan1)
	if err != nil {
		t.Fatal(err)
	}
	from := sourceLine(node, "signed-by="+keyring)
	apt(ctx, t, h, from)
	root := filepath.Join(t.TempDir(), "root")
	if out, err := h.Run(ctx, "mmdebstrap", "--mode=root", "--variant=extract", "--include=hello", "--format=directory", "--architectures=amd64",
		"--aptopt=Acquire::http::Proxy false", "stable", root, from); err != nil {
		t.Fatalf("mmdebstrap on %s: %v\n%s", name, err, out)
	}
	hello := lab.NoisePackage("hello", helloSize)
	if data, err := os.ReadFile(root + hello.Installed()); err != nil || !bytes.Equal(data, hello.Data) {
		t.Errorf("%s has installed %d bytes, %v", name, len(data), err)
	}
}
