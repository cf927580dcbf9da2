//go:build wire

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"offshoot/e2e/story"
	"offshoot/node/status"
)

// desk is an operator at the seed, who looks after one machine.
type desk struct {
	*testing.T
	seed *story.Daemon
	mac  string
}

func (d desk) say(ctx context.Context, args ...string) string {
	d.Helper()
	out, err := d.seed.Offshoot(ctx, args...)
	if err != nil {
		d.Fatalf("offshoot %v: %v\n%s", args, err, out)
	}
	return out
}

func (d desk) refused(ctx context.Context, want string, args ...string) {
	d.Helper()
	if out, err := d.seed.Offshoot(ctx, args...); err == nil || !strings.Contains(err.Error()+out, want) {
		d.Fatalf("offshoot %v: %v\n%s; want it refused: %s", args, err, out, want)
	}
}

// machine is what `machine show` says.
func (d desk) machine(ctx context.Context) (m status.Machine) {
	d.Helper()
	if err := json.Unmarshal([]byte(d.say(ctx, "machine", "show", d.mac, "-o", "json")), &m); err != nil {
		d.Fatal(err)
	}
	return m
}

func (d desk) until(ctx context.Context, state string) status.Machine {
	d.Helper()
	for {
		m := d.machine(ctx)
		if m.State == state {
			return m
		}
		if err := lapse(ctx, 200*time.Millisecond); err != nil {
			d.Fatalf("the machine is %s %s, want %s", m.State, m.Reason, state)
		}
	}
}

// TestFreeMachineIsAssignedWokenAndReleased is the life of a machine as an operator sees it: it waits, is labelled, reserved and woken,
// installs itself without another boot, and is wiped and free again.
func TestFreeMachineIsAssignedWokenAndReleased(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	w, small := world(t)
	seed, err := w.StartSeed(ctx, "--probe", "1s", "--expand", "never", "--live-kernel", small.Kernel, "--live-modules", small.Modules)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Until(ctx, seed, "the seed serves", func(s status.Status) string {
		if len(s.Nodes) != 1 || !s.Nodes[0].Warm || len(s.Segments) != 1 || !s.Quorum {
			return "it does not"
		}
		return ""
	}); err != nil {
		t.Fatal(err)
	}
	b, err := w.NewBare("m1", small)
	if err != nil {
		t.Fatal(err)
	}
	d := desk{t, seed, b.MAC.String()}
	script, err := b.Script(ctx)
	url := story.AgentURL(script)
	if err != nil || url == "" {
		t.Fatalf("an unknown machine is not started into the agent: %v\n%s", err, script)
	}
	agent := func() (ended chan error) {
		ended = make(chan error, 1)
		c := b.Host.Command(ctx, os.Getenv("OFFSHOOT_BIN"), "agent", "--url", url, "--disk", b.Disk, "--scratch", filepath.Dir(b.Disk))
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		go func() { ended <- c.Wait() }()
		return ended
	}
	first := agent()
	if m := d.until(ctx, "free"); m.Inventory == nil || len(m.Inventory.Disks) != 1 {
		t.Errorf("inventory %+v", m.Inventory)
	}

	d.say(ctx, "machine", "label", d.mac, "rack=r1", "old=")
	d.say(ctx, "machine", "label", d.mac, "old-")
	if out := d.say(ctx, "machine", "list", "-l", "rack=r1"); !strings.Contains(out, d.mac) {
		t.Errorf("machine list -l rack=r1:\n%s", out)
	}
	if out := d.say(ctx, "machine", "list", "-l", "old"); strings.Contains(out, d.mac) {
		t.Errorf("machine list -l old:\n%s", out)
	}
	d.say(ctx, "machine", "reserve", d.mac, "--user", "alice")
	d.refused(ctx, "reserved for alice", "machine", "assign", d.mac, "default", "--user", "bob")
	d.refused(ctx, "gone", "machine", "assign", d.mac, "gone")
	if m := d.machine(ctx); m.State != "free" || m.User != "alice" || m.Labels["rack"] != "r1" {
		t.Errorf("machine %+v", m)
	}

	d.say(ctx, "machine", "wake", d.mac)
	awaitMagic(ctx, t, w, b)

	t.Log(d.say(ctx, "machine", "assign", d.mac, "default", "--user", "alice"))
	d.until(ctx, "installed")
	if err := <-first; err != nil {
		t.Errorf("the agent that had waited: %v", err)
	}
	if boots, err := b.Boots(); err != nil || !boots {
		t.Fatalf("the disk boots: %t, %v", boots, err)
	}

	t.Log(d.say(ctx, "machine", "release", d.mac))
	agent()
	if m := d.until(ctx, "free"); m.User != "" {
		t.Errorf("a released machine is still reserved for %s", m.User)
	}
	head := make([]byte, 1<<20)
	f, err := os.Open(b.Disk)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }()
	if _, err := f.ReadAt(head, 0); err != nil || !bytes.Equal(head, make([]byte, len(head))) {
		t.Errorf("the disk of a released machine is not blank: %v", err)
	}
	t.Log(d.say(ctx, "machine", "show", d.mac))
	t.Log(d.say(ctx, "swarm", "audit"))
}

// awaitMagic waits until the capture of the segment holds a magic packet for a machine.
func awaitMagic(ctx context.Context, t *testing.T, w *story.World, b *story.Bare) {
	t.Helper()
	packet := append([]byte{0x08, 0x42}, bytes.Repeat([]byte{0xff}, 6)...)
	packet = append(packet, bytes.Repeat(b.MAC, 16)...)
	for {
		data, err := os.ReadFile(w.Captures["lan0"].Path())
		if err != nil {
			t.Fatal(err)
		}
		if at := bytes.Index(data, packet); at >= 12 {
			if to := data[at-12 : at-6]; !bytes.Equal(to, packet[2:8]) {
				t.Errorf("the magic packet went to %x, not to everybody", to)
			}
			return
		}
		if err := lapse(ctx, 200*time.Millisecond); err != nil {
			t.Fatal(fmt.Errorf("no magic packet on the segment: %w", err))
		}
	}
}
