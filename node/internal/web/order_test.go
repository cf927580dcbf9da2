package web

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

var hardware = install.Inventory{Vendor: "HP", Product: "ProLiant DL380p Gen8", UUID: "4c4c4544", Disks: []install.Disk{{Path: "/dev/sda", Size: 1 << 40}}}

// tell sends the inventory as the agent of an unknown machine does.
func (h *house) tell() {
	h.t.Helper()
	h.want(h.event(install.Event{Phase: install.PhaseInventory, Text: "HP, 1 disk", Inventory: &hardware}), http.StatusOK)
}

// order asks for the first machine's order as the agent does.
func (h *house) order(have, boot string) install.Order {
	h.t.Helper()
	r := h.ask(request{path: fmt.Sprintf("/b/%s/order?have=%s&boot=%s", nonce1, have, boot)})
	o, err := install.DecodeOrder(strings.NewReader(h.want(r, http.StatusOK)))
	if err != nil {
		h.t.Fatalf("the agent would refuse the order: %v", err)
	}
	return o
}

func (h *house) wish(q install.Request) *http.Response {
	h.t.Helper()
	body, err := q.Encode()
	if err != nil {
		h.t.Fatal(err)
	}
	return h.ask(request{method: http.MethodPost, path: "/b/" + nonce1 + "/request", body: string(body)})
}

func TestUnknownMachineTellsWhatItIsOnceAndIsFree(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	if o := h.order("", "b1"); o.Do != install.DoWait || !o.Inventory {
		t.Fatalf("order %+v", o)
	}
	h.tell()
	m, before := h.machine(), len(h.ops)
	var is install.Inventory
	if err := json.Unmarshal(m.Inventory, &is); err != nil || m.State != swarm.MachineFree || is.Product != hardware.Product || m.UUID != hardware.UUID {
		t.Fatalf("machine %+v: %v", m, err)
	}
	h.tell()
	if len(h.ops) != before {
		t.Error("the same inventory was written down twice")
	}
	if o := h.order("", "b1"); o.Do != install.DoWait || o.Inventory || o.Text != "free" || len(o.Profiles) != 0 {
		t.Errorf("order %+v", o)
	}
}

func TestOrderFollowsTheStateOfTheMachine(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.tell()
	h.must(swarm.SetUnknown{Unknown: swarm.UnknownOff})
	if o := h.order("", ""); o.Do != install.DoOff {
		t.Errorf("switched off: %+v", o)
	}
	h.must(swarm.SetUnknown{Unknown: swarm.UnknownFree})
	h.must(swarm.SetConsoleInstalls{On: true})
	if o := h.order("", ""); len(o.Profiles) != 1 || o.Profiles[0] != "p" {
		t.Errorf("console installs: %+v", o)
	}
	h.must(swarm.ReserveMachine{MAC: mac1, User: "alice"})
	if o := h.order("", ""); len(o.Profiles) != 0 || !strings.Contains(o.Text, "alice") {
		t.Errorf("reserved: %+v", o)
	}
	h.must(swarm.HoldMachine{MAC: mac1, Reason: "smells"})
	if o := h.order("", ""); o.Do != install.DoWait || o.Text != "held: smells" {
		t.Errorf("held: %+v", o)
	}
	h.arm()
	armed := h.order("", "b1")
	if armed.Do != install.DoInstall {
		t.Errorf("armed: %+v", armed)
	}
	c := h.config()
	if o := h.order("", "b1"); o.Key != armed.Key {
		t.Errorf("fetching the config made a new order of %+v: %+v", armed, o)
	}
	h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseInstalled, Final: true}), http.StatusOK)
	if o := h.order("", ""); o.Do != install.DoRestart {
		t.Errorf("installed: %+v", o)
	}
	h.must(swarm.ReleaseMachine{MAC: mac1, Disk: "/dev/sda", Wipe: true, Discard: true})
	o := h.order("", "b2")
	if o.Do != install.DoRelease || o.Disk != "/dev/sda" || !o.Wipe || !o.Discard || o.Install != h.machine().Install {
		t.Errorf("releasing: %+v", o)
	}
	h.want(h.event(install.Event{Install: o.Install, Phase: install.PhaseReleased, Text: "/dev/sda wiped"}), http.StatusOK)
	if o := h.order("", "b2"); o.Do != install.DoWait || o.Text != "free" {
		t.Errorf("released: %+v", o)
	}
}

func TestWaitingMachineHearsOfItsArmingAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHouse(t)
		h.tell()
		have, begun := h.order("", "b1").Key, time.Now()
		if same := h.order(have, "b1"); same.Key != have || time.Since(begun) != orderWait {
			t.Errorf("the same order again after %v", time.Since(begun))
		}
		begun = time.Now()
		time.AfterFunc(3*time.Second, h.arm)
		if o := h.order(have, "b1"); o.Do != install.DoInstall || time.Since(begun) > 3*time.Second+orderPause {
			t.Errorf("order %+v after %v", o, time.Since(begun))
		}
	})
}

func TestMachineWhoseBootsEndThreeTimesIsHeld(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	for _, boot := range []string{"b1", "b1", "b2", "b2", "b3"} { // asked again within one boot: not another one
		if o := h.order("", boot); o.Do != install.DoInstall {
			t.Fatalf("boot %s: %+v", boot, o)
		}
	}
	h.event(install.Event{Install: h.config().Install, Phase: install.PhaseImage, Percent: 7})
	if o := h.order("", "b4"); o.Do != install.DoWait || !strings.Contains(o.Text, "held") {
		t.Errorf("fourth boot: %+v", o)
	}
	if m := h.machine(); m.State != swarm.MachineHeld || !strings.Contains(m.Reason, "3 network boots") || !strings.Contains(m.Reason, "image") {
		t.Errorf("machine is %s: %s", m.State, m.Reason)
	}
	h.want(h.ask(request{path: "/b/" + nonce1 + "/install"}), http.StatusForbidden, "held")
	h.arm()
	if o := h.order("", "b4"); o.Do != install.DoInstall {
		t.Errorf("armed again: %+v", o)
	}
}

func TestOrderIsForTheOwnerOfTheNonceOnly(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	h.want(h.ask(request{path: "/b/" + nonce1 + "/order", from: addr2}), http.StatusConflict)
	h.want(h.ask(request{path: "/b/CCCCCCCCCCCCCCCCCCCCCC/order"}), http.StatusGone, "boot from the network again")
	h.want(h.ask(request{method: http.MethodPost, path: "/b/" + nonce1 + "/request", body: `{"wish":"disk"}`, from: addr2}), http.StatusConflict)
}

func TestConsoleInstallsOnlyWhereTheSwarmAllowsIt(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.tell()
	q := install.Request{Wish: install.WishInstall, Profile: "p", Disk: "/dev/sda", Wipe: true}
	h.want(h.wish(q), http.StatusForbidden, "switched off", "offshoot machine assign "+string(mac1)+" p")
	if s := h.machine().State; s != swarm.MachineFree {
		t.Fatalf("machine is %s", s)
	}
	h.must(swarm.SetConsoleInstalls{On: true})
	h.want(h.wish(q), http.StatusOK)
	m := h.machine()
	events := h.state.View().Events(mac1)
	if m.State != swarm.MachineArmed || m.Disk != "/dev/sda" || !m.Wipe || !strings.Contains(events[len(events)-1].Text, "on its console") {
		t.Errorf("machine %+v, %+v", m, events[len(events)-1])
	}
	h.want(h.wish(q), http.StatusForbidden, "armed")
	h.want(h.wish(install.Request{Wish: install.WishOwnDisk}), http.StatusConflict, "armed")
	h.want(h.ask(request{method: http.MethodPost, path: "/b/" + nonce1 + "/request", body: `{"wish":"explode"}`}), http.StatusBadRequest, "explode")
}

func TestOwnDiskThatWasAskedForOnTheConsoleIsStartedForAWhile(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.tell()
	h.want(h.wish(install.Request{Wish: install.WishOwnDisk}), http.StatusOK)
	<-h.noted
	// A model that needs it, and what an operator said of this machine.
	if s := h.script("sanboot"); strings.Contains(s, "platform") {
		t.Errorf("script of a Gen8:\n%s", s)
	}
	h.must(swarm.SetOwnDisk{MAC: mac1, Method: "exit"})
	if d := ownDisk(h.machine()); d.Method != "exit" {
		t.Errorf("after set-boot exit: %+v", d)
	}
	h.pass(ownDiskTime)
	h.script("kernel")
}

// The agent cannot install what an installer of its own installs: the machine boots into that.
func TestWaitingMachineRestartsIntoTheInstallerOfItsProfile(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.tell()
	h.must(swarm.PutProfile{Profile: swarm.Profile{Name: "d", Driver: "debian", Release: "13", Kernel: kernel, Initrd: initrd, Binary: binary}})
	h.must(swarm.ArmMachine{MAC: mac1, Profile: "d"})
	if o := h.order("", ""); o.Do != install.DoRestart {
		t.Errorf("order %+v", o)
	}
}
