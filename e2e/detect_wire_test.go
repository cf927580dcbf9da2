//go:build wire

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/insomniacslk/dhcp/dhcpv4"

	"offshoot/e2e/lab"
	"offshoot/node/status"
)

// TestDetect: what an operator can know before anything is served, and that knowing it changes nothing.
func TestDetect(t *testing.T) {
	lab.Need(t, lab.Wire)
	k := newBadKit(t)
	for _, c := range []struct {
		name string
		run  func(*badWorld)
	}{
		{"ForeignServerIsNamedWithWhatItOffers", detectForeign},
		{"PortThatWasDownIsLookedAtAndPutBack", detectDown},
		{"ConfigurationStartsASeed", detectThenSeed},
		{"DryRunSaysWhatItWouldAnswerAndAnswersNothing", detectDryRun},
		{"DryRunRefusesAsASeedDoes", detectDryRunRefuses},
		{"DryRunListensOnEveryPortThatItWouldServe", detectDryRunOfSeveral},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			c.run(k.world(t))
		})
	}
}

// detect wants the port to be afterwards as it was before.
func (w *badWorld) detect(args ...string) string {
	w.t.Helper()
	before := w.port()
	cmd := w.host.Command(w.t.Context(), w.binary, append([]string{"detect", "--data-dir", w.data}, args...)...)
	var out, words bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &words
	if err := cmd.Start(); err != nil {
		w.t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		w.t.Fatalf("detect: %v: %s", err, words.String())
	}
	w.same(before)
	return out.String()
}

// same wants the port to be as it was, and nothing of offshoot to be left.
func (w *badWorld) same(before string) {
	w.t.Helper()
	if after := w.port(); after != before {
		w.t.Errorf("the port was\n%s\nand is now\n%s", before, after)
	}
	if _, err := os.Stat(w.data); !errors.Is(err, os.ErrNotExist) {
		w.t.Errorf("the data directory was made: %v", err)
	}
}

func (w *badWorld) detected(args ...string) status.DetectedPort {
	w.t.Helper()
	var d status.Detection
	out := w.detect(append(args, "-o", "json")...)
	if err := json.Unmarshal([]byte(out), &d); err != nil || len(d.Ports) != 1 || d.Ports[0].Name != "lan0" {
		w.t.Fatalf("%v: %+v in %s", err, d, out)
	}
	return d.Ports[0]
}

func detectForeign(w *badWorld) {
	lab.Need(w.t, "dnsmasq")
	// The boot program is named to PXE clients only, as many sites do it.
	w.dnsmasq(w.another("router", w.lan), "--dhcp-option=option:dns-server,192.0.2.53", "--dhcp-vendorclass=set:pxe,PXEClient", "--dhcp-boot=tag:pxe,pxelinux.0")
	capture, err := w.lan.Capture(filepath.Join(w.lab.Dir(), "lan0.pcap"))
	if err != nil {
		w.t.Fatal(err)
	}
	p := w.detected("--probe", "4s")
	if p.Verdict != status.VerdictRefuses || !strings.Contains(p.Why, "192.168.42.254") || !p.Free || len(p.Servers) != 1 {
		w.t.Fatalf("detected %+v", p)
	}
	s := p.Servers[0]
	if s.Address != "192.168.42.254" || s.BootOnly || !strings.HasPrefix(s.Offered, "192.168.42.2") || s.Network != "192.168.42.0/24" || s.Router != "192.168.42.254" ||
		strings.Join(s.DNS, " ") != "192.0.2.53" || s.Lease != 120 || !s.Boots || s.BootFile != "pxelinux.0" || s.BootServer != "192.168.42.254" {
		w.t.Errorf("the server is described as %+v", s)
	}
	all, err := lab.ReadDHCP(capture.Path())
	if err != nil {
		w.t.Fatal(err)
	}
	asked := 0
	for _, m := range all {
		if !m.Reply {
			asked++
			if m.Type != dhcpv4.MessageTypeDiscover || m.MAC.String() == w.host.MAC(w.lan).String() {
				w.t.Errorf("sent more than the probe: %s", m)
			}
		}
	}
	if asked != 4 {
		w.t.Errorf("%d DISCOVERs, want those of a seed: 4", asked)
	}
}

func detectDown(w *badWorld) {
	w.run(w.host, "ip", "link", "set", "lan0", "down")
	if p := w.detected("--probe", "1s"); p.Up || !p.Link || !p.Probed || p.Verdict != status.VerdictAsks || !strings.Contains(p.Why, "--interface lan0") {
		w.t.Errorf("detected %+v", p)
	}
	if p := w.detected("--probe", "1s", "--interface", "lan0"); p.Verdict != status.VerdictServes {
		w.t.Errorf("named, detected %+v", p)
	}
}

// The network is another one than seed's own default, so that it can only come from the file.
func detectThenSeed(w *badWorld) {
	file := filepath.Join(w.lab.Dir(), "seed.yaml")
	badWrite(w.t, file, []byte(w.detect("--probe", "1s", "--network", "192.168.77.1/24", "-o", "yaml")), 0o644)
	r := w.start(w.host, w.binary, "seed", "--config", file, "--image", w.image, "--live-kernel", w.kernel, "--live-modules", w.modules, "--ssh-key", w.sshPub)
	r.says("ready")
	if s := w.status(); len(s.Segments) != 1 || s.Segments[0].Network != "192.168.77.0/24" {
		w.t.Errorf("it serves %+v", s.Segments)
	}
}

func detectDryRun(w *badWorld) {
	lab.Need(w.t, "dhclient")
	w.run(w.host, "ip", "link", "set", "lan0", "down")
	capture, err := w.lan.Capture(filepath.Join(w.lab.Dir(), "lan0.pcap"))
	if err != nil {
		w.t.Fatal(err)
	}
	temp := filepath.Join(w.lab.Dir(), "temp")
	if err := os.Mkdir(temp, 0o700); err != nil {
		w.t.Fatal(err)
	}
	before := w.port()
	r := w.start(w.host, "env", append([]string{"TMPDIR=" + temp, w.binary}, w.seedArgs("--dry-run")...)...)
	r.says("listening")
	if during := w.port(); strings.Contains(during, "192.168.42") {
		w.t.Errorf("the port has an address, to which somebody could speak:\n%s", during)
	}
	client := w.another("client", w.lan)
	files := filepath.Join(w.lab.Dir(), "client")
	w.start(client, "dhclient", "-d", "-1", "-sf", "/bin/true", "-cf", "/dev/null", "-lf", files+".leases", "-pf", files+".pid", "lan0")
	r.says("answer    " + client.MAC(w.lan).String() + "  DISCOVER from client")
	r.says("OFFER 192.168.42.")
	r.says("(a free address of the pool)")
	// It has asked again: an answer to the first time would be in the capture by now.
	r.await("the client asks again", func() bool { return strings.Count(r.String(), "OFFER 192.168.42.") > 1 })
	r.signal(syscall.SIGINT)
	r.ends(0, "DHCP packets would have been answered")
	w.same(before)
	all, err := lab.ReadDHCP(capture.Path())
	if err != nil {
		w.t.Fatal(err)
	}
	heard := 0
	for _, m := range all {
		switch {
		case m.Reply:
			w.t.Errorf("it answered: %s", m)
		case m.MAC.String() == client.MAC(w.lan).String():
			heard++
		}
	}
	if heard < 2 {
		w.t.Errorf("the capture holds %d packets of the client: this proves nothing", heard)
	}
	if left, err := os.ReadDir(temp); err != nil || len(left) > 0 {
		w.t.Errorf("left behind: %v, %v", left, err)
	}
}

func detectDryRunRefuses(w *badWorld) {
	lab.Need(w.t, "dnsmasq")
	w.dnsmasq(w.another("router", w.lan))
	before := w.port()
	w.seed("--dry-run", "--probe", "4s").ends(3, "another DHCP server is on this segment: 192.168.42.254")
	w.same(before)
}

func detectDryRunOfSeveral(w *badWorld) {
	lab.Need(w.t, "dhclient", "dnsmasq")
	lans := w.lans()
	w.dnsmasq(w.another("router", w.lan))
	w.host = w.another("three", lans...)
	w.run(w.host, "ip", "link", "set", "lan2", "down")
	before := w.run(w.host, "ip", "-br", "-4", "addr") + w.run(w.host, "ip", "-br", "link")
	r := w.seed("--dry-run", "--interface", "lan1,lan0,lan2")
	r.says("segment   192.168.42.1/24 on lan1, mode full")
	r.says("further   lan0 is left alone: another DHCP server answers there: 192.168.42.254")
	r.says("further   10.42.0.1/24 on lan2, mode full: a segment of its own")
	r.says("listening")
	for i, offer := range []string{"OFFER 192.168.42.", "OFFER 10.42.0."} {
		client := w.another(fmt.Sprintf("client%d", i), lans[i+1])
		files := filepath.Join(w.lab.Dir(), client.String())
		w.start(client, "dhclient", "-d", "-1", "-sf", "/bin/true", "-cf", "/dev/null", "-lf", files+".leases", "-pf", files+".pid", lans[i+1].String())
		r.says("answer    " + client.MAC(lans[i+1]).String() + "  DISCOVER from client")
		r.says(offer)
	}
	r.signal(syscall.SIGINT)
	r.ends(0, "DHCP packets would have been answered")
	if after := w.run(w.host, "ip", "-br", "-4", "addr") + w.run(w.host, "ip", "-br", "link"); after != before {
		w.t.Errorf("the ports were left as\n%s, and were\n%s", after, before)
	}
}
