package web

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"

	"offshoot/node/internal/install"
	"offshoot/swarm"
)

func TestScriptFollowsTheStateOfTheMachine(t *testing.T) {
	t.Parallel()
	wait := func(words ...string) []string { return append([]string{"waits: ", "chain --replace"}, words...) }
	agent := []string{"kernel --name vmlinuz http://192.168.42.1:7480/artifact/" + kernel + "/vmlinuz"}
	for _, c := range []struct {
		state swarm.MachineState
		reach func(*house)
		want  []string
		never string
	}{
		{swarm.MachineKnown, func(*house) {}, agent, "sanboot"},
		{swarm.MachineKnown, func(h *house) { h.must(swarm.SetUnknown{Unknown: swarm.UnknownWait}) }, wait("not armed", "offshoot machine arm "+string(mac1)), "kernel"},
		{swarm.MachineKnown, func(h *house) { h.must(swarm.SetUnknown{Unknown: swarm.UnknownOff}) }, agent, "sanboot"},
		{swarm.MachineFree, func(h *house) { h.tell() }, agent, "sanboot"},
		{swarm.MachineReleasing, func(h *house) { h.must(swarm.ReleaseMachine{MAC: mac1}) }, agent, "sanboot"},
		{swarm.MachineArmed, (*house).arm, agent, "sanboot"},
		{swarm.MachineInstalling, func(h *house) { h.arm(); h.config() }, agent, "sanboot"},
		{swarm.MachineInstalled, func(h *house) {
			h.arm()
			c := h.config()
			h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseInstalled, Final: true, Percent: 100}), http.StatusOK)
		}, []string{"sanboot"}, "kernel"},
		{swarm.MachineHeld, func(h *house) { h.arm(); h.must(swarm.HoldMachine{MAC: mac1, Reason: "disk smells"}) }, wait("held: disk smells"), "kernel"},
	} {
		t.Run(string(c.state), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			c.reach(h)
			if got := h.machine().State; got != c.state {
				t.Fatalf("machine is %s", got)
			}
			if s := h.script(c.want...); strings.Contains(s, c.never) || !strings.HasPrefix(s, "#!ipxe\n") {
				t.Errorf("script for a machine that is %s:\n%s", c.state, s)
			}
			if got := h.machine().State; got != c.state {
				t.Errorf("asking for the script made the machine %s", got)
			}
		})
	}
}

func TestMachineOfAMissingProfileWaits(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	m := h.machine()
	m.State, m.Profile = swarm.MachineArmed, "gone"
	_, answer := (&Server{o: Options{View: h.state.View}}).decide(visit{machine: m, self: self})
	if !strings.HasPrefix(answer, "wait") || !strings.Contains(answer, "gone") {
		t.Errorf("answered %q", answer)
	}
}

func TestScriptIsRefusedWithoutDutyButAnInstallationGoesOn(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	h.duty = false
	h.want(h.ask(request{path: "/b/" + nonce1 + "/boot.ipxe"}), http.StatusServiceUnavailable, "duty on segment s1")
	c := h.config()
	h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseDisk, Text: "/dev/vda"}), http.StatusOK)
	if m := h.machine(); m.Phase != "disk" {
		t.Errorf("machine is in phase %q", m.Phase)
	}
	h.want(h.ask(request{path: "/artifact/" + image + "/image"}), http.StatusOK, content)
}

func TestConfigIsRefusedUnlessTheMachineIsToBeInstalled(t *testing.T) {
	t.Parallel()
	for state, reach := range map[swarm.MachineState]func(*house){
		swarm.MachineKnown:     func(*house) {},
		swarm.MachineFree:      (*house).tell,
		swarm.MachineReleasing: func(h *house) { h.must(swarm.ReleaseMachine{MAC: mac1}) },
		swarm.MachineHeld:      func(h *house) { h.arm(); h.must(swarm.HoldMachine{MAC: mac1, Reason: "smells"}) },
		swarm.MachineInstalled: func(h *house) {
			h.arm()
			c := h.config()
			h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseInstalled, Final: true}), http.StatusOK)
			h.minted = nil
		},
	} {
		t.Run(string(state), func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			reach(h)
			h.want(h.ask(request{path: "/b/" + nonce1 + "/install"}), http.StatusForbidden, string(state), "offshoot machine arm "+string(mac1))
			if len(h.minted) != 0 {
				t.Error("a ticket was minted")
			}
			if got := h.machine().State; got != state {
				t.Errorf("the machine is now %s", got)
			}
		})
	}
}

func TestConfigSaysAllThatTheMachineNeeds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	m := h.machine()
	if m.State != swarm.MachineInstalling || c.Install != m.Install || c.Machine != string(mac1) || c.Hostname != m.Name {
		t.Errorf("config %+v of machine %+v", c, m)
	}
	wantImage := install.Image{
		URL: "http://192.168.42.1:7480/artifact/" + image + "/image", SHA256: image, Size: 4711, Format: install.FormatRawZstd, DiskSize: 1 << 30,
	}
	if c.Image != wantImage {
		t.Errorf("image %+v", c.Image)
	}
	if c.Disk != "smallest" || c.Wipe || c.Binary != binary || c.RootHash == "" || len(c.SSHKeys) != 1 {
		t.Errorf("config %+v lacks what the profile says", c)
	}
	j := c.Join
	if j.Ticket != h.minted[0].Reveal() || j.Swarm != "5eed" || j.Pin == "" || j.Segment != "s1" || j.Address.String() != "192.168.42.17/24" ||
		j.Gateway != self || len(j.Endpoints) != 1 || j.Endpoints[0] != "192.168.42.1:7400" {
		t.Errorf("join %s, address %s, gateway %s, endpoints %v", j.Swarm, j.Address, j.Gateway, j.Endpoints)
	}
}

func TestOperatorsDiskAndWipeGoBeforeTheProfiles(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.must(swarm.ArmMachine{MAC: mac1, Disk: "/dev/sdb", Wipe: true})
	if c := h.config(); c.Disk != "/dev/sdb" || !c.Wipe {
		t.Errorf("disk %q, wipe %t", c.Disk, c.Wipe)
	}
}

func TestEachFetchMintsAFreshTicketAndRevokesTheOneBefore(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	first, second := h.config(), h.config()
	if first.Join.Ticket == second.Join.Ticket {
		t.Error("the same ticket twice")
	}
	if first.Install != second.Install {
		t.Error("fetching again began another installation")
	}
	if a, b := h.ticket(0).State, h.ticket(1).State; a != swarm.TicketRevoked || b != swarm.TicketFetched {
		t.Errorf("tickets are %s and %s", a, b)
	}
	if got := h.ticket(1); got.Addr != addr1 || got.Machine != mac1 || !got.Expires.Equal(h.now.Add(ticketLife)) {
		t.Errorf("ticket %+v", got)
	}
}

func TestConfigLeavesOnlyWithATicketThatIsWrittenDown(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	h.refuse = func(op swarm.Op) error {
		if _, mint := op.(swarm.MintTicket); mint {
			return errors.New("no quorum")
		}
		return nil
	}
	body := h.want(h.ask(request{path: "/b/" + nonce1 + "/install"}), http.StatusServiceUnavailable, "no quorum")
	if len(h.minted) != 1 || strings.Contains(body, h.minted[0].Reveal()) {
		t.Errorf("%d minted; answer %s", len(h.minted), body)
	}
}

func TestStrangerWhoAsksForTheConfigGetsNothingAndTheMachineIsHeld(t *testing.T) {
	t.Parallel()
	for name, ask := range map[string]func(h *house) request{
		"another address": func(*house) request { return request{path: "/b/" + nonce1 + "/install", from: addr2} },
		"borrowed address": func(h *house) request {
			h.neighbour = mac2
			return request{path: "/b/" + nonce1 + "/install"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHouse(t)
			h.arm()
			h.config()
			body := h.want(h.ask(ask(h)), http.StatusConflict)
			if len(h.minted) != 1 || strings.Contains(body, "os1.") {
				t.Errorf("%d tickets; answer %s", len(h.minted), body)
			}
			if m := h.machine(); m.State != swarm.MachineHeld || !strings.Contains(m.Reason, "somebody else") {
				t.Errorf("machine is %s: %s", m.State, m.Reason)
			}
			if s := h.ticket(0).State; s != swarm.TicketRevoked {
				t.Errorf("the ticket that was out is %s", s)
			}
			events := h.state.View().Events(mac1)
			if last := events[len(events)-1]; !last.Warn {
				t.Errorf("no alarm on the timeline: %+v", last)
			}
		})
	}
}

// Otherwise whoever knows a nonce could put any machine of the rack on hold.
func TestStrangerHoldsNoMachineThatIsNotBeingInstalled(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.want(h.ask(request{path: "/b/" + nonce1 + "/install", from: addr2}), http.StatusConflict)
	h.want(h.ask(request{path: "/b/" + nonce1 + "/boot.ipxe", from: addr2}), http.StatusConflict)
	h.want(h.ask(request{path: "/b/" + nonce1 + "/event", method: http.MethodPost, body: "{}", from: addr2}), http.StatusConflict)
	if s := h.machine().State; s != swarm.MachineKnown {
		t.Errorf("machine is %s", s)
	}
}

func TestStrangerReportsNothing(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	body := fmt.Sprintf(`{"install":%q,"phase":"installed","final":true}`, c.Install)
	h.want(h.ask(request{method: http.MethodPost, path: "/b/" + nonce1 + "/event", body: body, from: addr2}), http.StatusConflict)
	if s := h.machine().State; s != swarm.MachineInstalling {
		t.Errorf("machine is %s", s)
	}
}

func TestTicketsSecretIsNowhereButInTheConfig(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	script := h.script()
	c := h.config()
	h.want(h.ask(request{path: "/b/" + nonce1 + "/install", from: addr2}), http.StatusConflict)
	var snapshot strings.Builder
	if err := h.state.Snapshot()(&snapshot); err != nil {
		t.Fatal(err)
	}
	ops, err := json.Marshal(h.ops)
	if err != nil {
		t.Fatal(err)
	}
	_, secret, _ := strings.Cut(strings.TrimPrefix(c.Join.Ticket, "os1."), ".")
	if len(secret) < 16 {
		t.Fatalf("no secret in ticket of %d bytes", len(c.Join.Ticket))
	}
	for where, what := range map[string]string{
		"log": h.log.String(), "traces": strings.Join(h.traces, "\n"), "state": snapshot.String(), "commands": string(ops), "script": script,
		"image's address": c.Image.URL,
	} {
		if strings.Contains(what, secret) {
			t.Errorf("the secret is in the %s", where)
		}
	}
	if !strings.Contains(strings.Join(h.traces, "\n"), h.minted[0].ID()) {
		t.Error("the ticket's id should be in the traces")
	}
	for where, what := range map[string]string{"log": h.log.String(), "traces": strings.Join(h.traces, "\n")} {
		if strings.Contains(what, nonce1) {
			t.Errorf("the boot nonce is in the %s", where)
		}
	}
}

func TestUnknownNonceIsNotFound(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	for _, q := range []request{
		{path: "/b/CCCCCCCCCCCCCCCCCCCCCC/boot.ipxe"}, {path: "/b/CCCCCCCCCCCCCCCCCCCCCC/install"},
		{path: "/b/CCCCCCCCCCCCCCCCCCCCCC/event", method: http.MethodPost, body: "{}"},
	} {
		h.want(h.ask(q), http.StatusNotFound, "boot from the network again")
	}
	for _, path := range []string{"/", "/b/" + nonce1, "/b//install", "/b/" + nonce1 + "/other", "/b/" + nonce1 + "/../../etc/passwd"} {
		if r := h.ask(request{path: path}); r.StatusCode == http.StatusOK || r.StatusCode >= 500 {
			t.Errorf("%s: answered %d", path, r.StatusCode)
		}
	}
}

func TestWaitingMachineKeepsItsNonceAfterItsLeaseRanOut(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.must(swarm.SetUnknown{Unknown: swarm.UnknownWait})
	h.pass(2 * time.Hour)
	h.script("not armed")
}

func TestURLsCarryTheAddressThatWasAsked(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	other := netip.MustParseAddr("192.168.42.9") // the node that has taken over
	script := h.want(h.ask(request{path: "/b/" + nonce1 + "/boot.ipxe", at: other}), http.StatusOK,
		"offshoot.url=http://192.168.42.9:7480/b/"+nonce1+" ", "offshoot.mac="+string(mac1), "console=ttyS0 quiet")
	config := h.want(h.ask(request{path: "/b/" + nonce1 + "/install", at: other}), http.StatusOK, "192.168.42.9:7400")
	if strings.Contains(script+config, "192.168.42.1:") {
		t.Errorf("an address that was not asked:\n%s\n%s", script, config)
	}
	if u := URL(other, nonce1); u != "http://192.168.42.9:7480/b/"+nonce1+"/boot.ipxe" || len(u) >= 128 {
		t.Errorf("%s has %d bytes: DHCP's file field has 128", u, len(u))
	}
}

func TestArtifactIsServedInPartsAndTellsItsSize(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	path := "/artifact/" + image + "/image"
	r := h.ask(request{path: path})
	h.want(r, http.StatusOK, content)
	if r.Header.Get("ETag") != `"`+image+`"` || r.Header.Get("Accept-Ranges") != "bytes" {
		t.Errorf("header %v", r.Header)
	}
	r = h.ask(request{path: path, header: map[string]string{"Range": "bytes=4-6"}})
	if got := h.want(r, http.StatusPartialContent); got != "456" || r.Header.Get("Content-Range") != "bytes 4-6/10" {
		t.Errorf("got %q, %s", got, r.Header.Get("Content-Range"))
	}
	r = h.ask(request{path: path, header: map[string]string{"Range": "bytes=4-", "If-Range": `"` + image + `"`}})
	if got := h.want(r, http.StatusPartialContent); got != "456789" {
		t.Errorf("resumed with %q", got)
	}
	h.want(h.ask(request{path: path, header: map[string]string{"Range": "bytes=10-"}}), http.StatusRequestedRangeNotSatisfiable)
	r = h.ask(request{method: http.MethodHead, path: path})
	if h.want(r, http.StatusOK) != "" || r.Header.Get("Content-Length") != "10" {
		t.Errorf("HEAD answers %v", r.Header)
	}
	h.want(h.ask(request{path: "/artifact/" + kernel + "/vmlinuz"}), http.StatusNotFound, kernel)
	h.want(h.ask(request{path: "/artifact/..%2f..%2fetc/passwd"}), http.StatusNotFound)
	h.want(h.ask(request{method: http.MethodPost, path: path}), http.StatusMethodNotAllowed)
}

func TestEventThatIsNoEventIsRefused(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	for name, body := range map[string]string{
		"garbage": "\x00\xff", "empty": "", "unknown field": `{"phase":"disk","evil":1}`, "unknown phase": `{"phase":"dance"}`,
		"trailing": `{"phase":"disk"}{}`, "percent": `{"phase":"image","percent":101}`,
		"contradiction": `{"phase":"disk","failed":true}`,
		"oversize":      `{"phase":"disk","text":"` + strings.Repeat("x", install.MaxEvent) + `"}`,
	} {
		h.want(h.ask(request{method: http.MethodPost, path: "/b/" + nonce1 + "/event", body: body}), http.StatusBadRequest)
		if len(h.reports()) != 0 {
			t.Fatalf("%s was written down", name)
		}
	}
	h.want(h.event(install.Event{Install: "another", Phase: install.PhaseInstalled, Final: true}), http.StatusConflict)
	if m := h.machine(); m.State != swarm.MachineInstalling || m.Install != c.Install {
		t.Errorf("machine is %s", m.State)
	}
}

// endless gives an event that never ends.
type endless struct{ read int }

func (e *endless) Read(p []byte) (int, error) {
	e.read += len(p)
	for i := range p {
		p[i] = ' '
	}
	return len(p), nil
}

func TestEndlessEventIsNotReadToItsEnd(t *testing.T) {
	t.Parallel()
	e := &endless{}
	if _, err := install.DecodeEvent(io.Reader(e)); err == nil || e.read > 2*install.MaxEvent+64<<10 {
		t.Errorf("read %d bytes: %v", e.read, err)
	}
}

func TestEventBeforeTheConfigIsAnsweredButNotWrittenDown(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	h.want(h.event(install.Event{Phase: install.PhaseAgent}), http.StatusOK)
	if len(h.reports()) != 0 {
		t.Error("written down without an installation")
	}
}

func TestThrottleKeepsEveryPhaseAndEveryEnd(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	send := func(e install.Event) {
		e.Install = c.Install
		h.want(h.event(e), http.StatusOK)
	}
	for _, p := range []install.Phase{install.PhaseAgent, install.PhaseInventory, install.PhaseDisk, install.PhaseImage, install.PhaseConfigure} {
		send(install.Event{Phase: p})
		send(install.Event{Phase: p}) // the same again says nothing new
	}
	for range 2 { // every failure counts, also when it is the same one
		send(install.Event{Phase: install.PhaseFailed, Failed: true, Text: "disk: none"})
	}
	send(install.Event{Phase: install.PhaseDisk})
	send(install.Event{Phase: install.PhaseDisk, Inventory: &install.Inventory{UUID: "4c4c4544-0000-0000-0000-000000000000"}})
	send(install.Event{Phase: install.PhaseInstalled, Final: true, Percent: 100})
	send(install.Event{Phase: install.PhaseInstalled, Final: true, Percent: 100}) // our answer was lost
	var got []string
	for _, r := range h.reports() {
		got = append(got, r.Phase)
	}
	want := "agent inventory disk image configure failed failed disk disk installed installed"
	if strings.Join(got, " ") != want {
		t.Errorf("written down %q, want %q", got, want)
	}
	if m := h.machine(); m.State != swarm.MachineInstalled || m.UUID == "" {
		t.Errorf("machine %+v", m)
	}
}

func TestProgressIsWrittenDownEveryFewPercentAndEveryFewSeconds(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	for percent := range 101 {
		h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseImage, Percent: percent}), http.StatusOK)
	}
	if n := len(h.reports()); n != 100/progressStep+1 {
		t.Errorf("%d reports of 101 per cent", n)
	}
	for range 10 { // a slow disk: nothing moves, but it is alive
		h.pass(time.Second)
		h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseImage, Percent: 100}), http.StatusOK)
	}
	if n := len(h.reports()); n != 100/progressStep+1+2 {
		t.Errorf("%d reports after ten more seconds", n)
	}
}

func TestEventThatCouldNotBeWrittenDownCountsWhenItIsSentAgain(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	h.refuse = func(swarm.Op) error { return errors.New("no quorum") }
	e := install.Event{Install: c.Install, Phase: install.PhaseDisk, Text: "/dev/vda"}
	h.want(h.event(e), http.StatusServiceUnavailable, "no quorum")
	h.refuse = nil
	h.want(h.event(e), http.StatusOK)
	if m := h.machine(); m.Phase != "disk" {
		t.Errorf("the machine was told that its report is written down; it is in phase %q", m.Phase)
	}
}

func TestFinalFailureHoldsTheMachineWithItsWords(t *testing.T) {
	t.Parallel()
	h := newHouse(t)
	h.arm()
	c := h.config()
	fail := install.Event{Install: c.Install, Phase: install.PhaseFailed, Failed: true, Text: "attempt 1 of 3: disk: none"}
	h.want(h.event(fail), http.StatusOK)
	if s := h.machine().State; s != swarm.MachineInstalling {
		t.Fatalf("machine is %s after the first failure", s)
	}
	fail.Final, fail.Text = true, "attempt 3 of 3: disk: none"
	h.want(h.event(fail), http.StatusOK)
	if m := h.machine(); m.State != swarm.MachineHeld || m.Reason != fail.Text {
		t.Errorf("machine is %s: %s", m.State, m.Reason)
	}
	h.want(h.event(install.Event{Install: c.Install, Phase: install.PhaseInstalled, Final: true}), http.StatusConflict)
}
