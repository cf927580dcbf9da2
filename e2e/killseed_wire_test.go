//go:build wire

package e2e

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/lab"
	"offshoot/e2e/story"
	"offshoot/node/status"
)

// moment is when the seed loses its power, in the life of m1.
type moment struct {
	name string
	// come says from the seed's status and log whether it has come.
	come func(s status.Status, log string) bool
}

var moments = []moment{
	{"address-given", func(_ status.Status, log string) bool { return strings.Contains(log, "ACK 192.168.42") }},
	{"ticket-minted", func(s status.Status, _ string) bool { return m1(s).State == "installing" }},
	{"disk-chosen", func(s status.Status, _ string) bool { return reached(s, "disk") }},
	{"image-begun", func(s status.Status, _ string) bool { return reached(s, "image") }},
	{"configuring", func(s status.Status, _ string) bool { return reached(s, "configure") }},
	{"installed", func(s status.Status, _ string) bool { return m1(s).State == "installed" }},
	{"redeemed", func(s status.Status, _ string) bool { return m1(s).Node != "" }},
	{"joined", func(s status.Status, _ string) bool { return m1Node(s).State == status.NodeAlive }},
	{"voting", func(s status.Status, _ string) bool { r := m1Node(s).Role; return r == "voter" || r == "leader" }},
	{"on-duty", func(s status.Status, _ string) bool { return slices.Contains(m1Node(s).Duties, "s1") }},
}

// order of the phases that an installation reports.
var order = []string{"agent", "inventory", "disk", "image", "configure", "installed"}

func reached(s status.Status, phase string) bool {
	return slices.Index(order, m1(s).Phase) >= slices.Index(order, phase)
}

func m1(s status.Status) status.Machine {
	for _, m := range s.Machines {
		if m.Name == "m1" {
			return m
		}
	}
	return status.Machine{}
}

func m1Node(s status.Status) status.Node {
	for _, n := range s.Nodes {
		if n.Name == "m1" {
			return n
		}
	}
	return status.Node{}
}

// TestSeedMayDieAtAnyMomentOfTheHandoff kills the seed at ten moments of m1's way from bare disk to duty. Afterwards it
// comes back, except when m1 holds the duty already, and m1 must end on duty; and at no time were there two answers to one
// DHCP request, a disk that boots before it is whole, or two nodes from one ticket.
func TestSeedMayDieAtAnyMomentOfTheHandoff(t *testing.T) {
	for _, m := range moments {
		t.Run(m.name, func(t *testing.T) {
			t.Parallel()
			w, small := world(t)
			ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
			defer cancel()
			killAt(ctx, t, w, small, m)
		})
	}
}

// world draws a lab for one scenario, with something small to install.
func world(t *testing.T) (*story.World, story.Small) {
	t.Helper()
	lab.Need(t, lab.Wire, "sfdisk", "mke2fs", "debugfs")
	binary := os.Getenv("OFFSHOOT_BIN")
	if binary == "" {
		t.Fatal("OFFSHOOT_BIN names no binary: run this with make test-wire")
	}
	small, err := story.NewSmall(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	w, err := story.NewWorld(story.Options{
		Binary: binary, Image: small.Image, Dir: workDir(t), Say: func(line string) { t.Log(line) },
		Logger: slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelDebug})),
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, small
}

// begin starts a seed and switches m1 on. Its life ends with the test.
func begin(ctx context.Context, t *testing.T, w *story.World, small story.Small) (seed *story.Daemon, bare *story.Bare, flags []string) {
	flags = []string{"--auto-approve", "--probe", "1s", "--expand", "never", "--live-kernel", small.Kernel, "--live-modules", small.Modules}
	seed, err := w.StartSeed(ctx, flags...)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Until(ctx, seed, "the seed serves", func(s status.Status) string {
		if len(s.Segments) == 0 || !s.Nodes[0].Warm {
			return "not yet"
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	if bare, err = w.NewBare("m1", small); err != nil {
		t.Fatal(err)
	}
	if out, err := seed.Offshoot(ctx, "machine", "name", bare.MAC.String(), "m1"); err != nil {
		t.Fatal(err, out)
	}
	switchOn(ctx, t, bare)
	return seed, bare, flags
}

// switchOn lets a machine live until the test ends.
func switchOn(ctx context.Context, t *testing.T, b *story.Bare) {
	living, off := context.WithCancel(ctx)
	life := make(chan error, 1)
	go func() { life <- b.Life(living) }()
	t.Cleanup(func() {
		off()
		if err := <-life; err != nil {
			t.Errorf("%s: %v", b.Host, err)
		}
	})
}

// leave ends the seed by Ctrl-C, and waits until it has left in order.
func leave(ctx context.Context, t *testing.T, seed *story.Daemon) {
	t.Helper()
	if err := seed.Interrupt(); err != nil {
		t.Fatal(err)
	}
	select {
	case <-seed.Ended():
	case <-ctx.Done():
		t.Fatal("the seed did not end")
	}
	if err := seed.Err(); err != nil {
		t.Errorf("exit code: %v", err)
	}
}

// TestSeedHandsOverAndLeavesOnCtrlC: once m1 is on duty, one Ctrl-C ends the seed in order, and m1 knows that it has left.
func TestSeedHandsOverAndLeavesOnCtrlC(t *testing.T) {
	t.Parallel()
	w, small := world(t)
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	seed, bare, _ := begin(ctx, t, w, small)
	if _, err := w.Until(ctx, seed, "m1 is on duty", onDuty); err != nil {
		t.Fatal(err)
	}
	leave(ctx, t, seed)
	if _, err := w.Until(ctx, bare, "m1 knows that the seed has left", func(s status.Status) string {
		for _, n := range s.Nodes {
			if n.Name == "seed" && n.State != status.NodeLeft {
				return "the seed is " + n.State
			}
		}
		return onDuty(s)
	}); err != nil {
		t.Fatal(err)
	}
}

// TestNodeComesBackAloneAfterALossOfPower: everything loses its power at once, the seed for ever. m1 finds nobody who would
// give it an address, and is on duty again all the same, with everything that was decided before.
func TestNodeComesBackAloneAfterALossOfPower(t *testing.T) {
	t.Parallel()
	w, small := world(t)
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	seed, bare, _ := begin(ctx, t, w, small)
	if _, err := w.Until(ctx, seed, "m1 is on duty", onDuty); err != nil {
		t.Fatal(err)
	}
	before, err := untilBare(ctx, w, bare)
	if err != nil {
		t.Fatal(err)
	}
	seed.Kill()
	if err := bare.PowerLoss(ctx); err != nil {
		t.Fatal(err)
	}
	w.Say("all power is gone")
	var after status.Status
	for after.Time.Before(before.Time.Add(time.Second)) {
		if after, err = untilBare(ctx, w, bare); err != nil {
			t.Fatal(err)
		}
	}
	if after.Swarm != before.Swarm || m1Node(after).ID != m1Node(before).ID || m1Node(after).Address != m1Node(before).Address {
		t.Errorf("before %+v, after %+v", m1Node(before), m1Node(after))
	}
	if !after.Quorum || len(after.Machines) != len(before.Machines) {
		t.Errorf("quorum %v, machines %+v", after.Quorum, after.Machines)
	}
}

func killAt(ctx context.Context, t *testing.T, w *story.World, small story.Small, m moment) {
	seed, bare, flags := begin(ctx, t, w, small)
	if err := await(ctx, seed, m); err != nil {
		t.Fatal(err)
	}
	seed.Kill()
	w.Say("seed killed: %s", m.name)
	checkDisk(t, bare, "when the seed died")
	if m.name != "on-duty" { // from then on it is not needed any more
		// Unless m1 has everything already, the seed must bring it there.
		again, err := w.StartSeed(ctx, flags...)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Until(ctx, again, "m1 is on duty", onDuty); err != nil {
			t.Fatal(err)
		}
	}
	s, err := untilBare(ctx, w, bare)
	if err != nil {
		t.Fatal(err)
	}
	nodes := 0
	for _, n := range s.Nodes {
		if n.Durable && n.State != status.NodeLeft {
			nodes++
		}
		if n.Quarantine != "" {
			t.Errorf("%s is in quarantine: %s", n.Name, n.Quarantine)
		}
	}
	if nodes != 1 {
		t.Errorf("%d nodes came from one machine: %+v", nodes, s.Nodes)
	}
	messages, err := lab.ReadDHCP(w.Captures["lan0"].Path())
	if err != nil {
		t.Fatal(err)
	}
	if len(messages) < 4 {
		t.Errorf("the capture holds %d DHCP messages: it proves nothing", len(messages))
	}
	for _, double := range lab.DoubleAnswers(messages) {
		t.Errorf("a second answer on lan0: %s", double)
	}
}

// await polls as quickly as it can: the moments are short.
func await(ctx context.Context, seed *story.Daemon, m moment) error {
	for {
		log, err := os.ReadFile(seed.Log)
		if err != nil {
			return err
		}
		s, err := seed.Status(ctx)
		if err != nil {
			return fmt.Errorf("wait for %s: %w", m.name, err)
		}
		if m.come(s, string(log)) {
			return nil
		}
		if m := m1(s); m.State == "held" {
			return errors.New("m1 is held: " + m.Reason)
		}
	}
}

func onDuty(s status.Status) string {
	n := m1Node(s)
	switch {
	case m1(s).State == "held":
		return "held: " + m1(s).Reason
	case !slices.Contains(n.Duties, "s1") || !n.Warm:
		return fmt.Sprintf("m1 is %s, warm %v, duties %v", n.State, n.Warm, n.Duties)
	case s.Leader != "m1":
		return "led by " + s.Leader
	}
	return ""
}

func untilBare(ctx context.Context, w *story.World, b *story.Bare) (status.Status, error) {
	return w.Until(ctx, b, "m1 itself says that it is on duty", onDuty)
}

// checkDisk: what boots must be whole.
func checkDisk(t *testing.T, b *story.Bare, when string) {
	boots, err := b.Boots()
	if err != nil {
		t.Fatal(err)
	}
	if !boots {
		return
	}
	whole, err := b.Whole()
	if err != nil {
		t.Fatalf("%s the disk would boot: %v", when, err)
	}
	if !whole {
		t.Errorf("%s the disk would boot, but is not whole", when)
	}
}
